"""What ``odekit discover`` remembers of each file of a batch, so that ``--resume`` can trust it.

Every finished file has a folder with its report and ``record.json``: what was found in one line,
a fingerprint of everything that it came from, and digests of the files beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from odekit.errors import ProblemError

RECORD = "record.json"
VERSION = 1

Status = Literal["done", "failed", "not done"]


@dataclass(frozen=True)
class Row:
    """One file of a batch, in one line.

    Attributes:
        file: its path as it was given.
        name: its folder in the output.
        status: whether there are equations.
        text: the equations, one a line.
        equations: from each state to its derivative in sympy's syntax, numbers to the last digit.
        confident: whether the data settle the structure.
        complete: False if the time limit ended the search, so that another run may differ.
        r2: of the simulation from one fitted start; None where it is not finite.
        points: rows of data.
        seconds: of the search.
        error: why it failed, one line.
        resumed: whether an earlier run had finished it.
    """

    file: str
    name: str
    status: Status = "not done"
    text: str = ""
    equations: Mapping[str, str] | None = None
    confident: bool = False
    complete: bool = True
    r2: float | None = None
    points: int | None = None
    seconds: float | None = None
    error: str = ""
    resumed: bool = False

    @property
    def verdict(self) -> str:
        """How it ended, in a few words."""
        if self.status != "done":
            return f"failed: {self.error}" if self.status == "failed" else "not done"
        settled = "settled" if self.confident else "not settled"
        return settled if self.complete else f"{settled}, time limit reached"

    @property
    def report(self) -> str:
        """Its report, from the folder of the batch; empty if there is none."""
        return f"{self.name}/report.html" if self.status == "done" else ""


def fingerprint(path: Path, options: Mapping[str, Any]) -> str:
    """A digest of a file's content, the options, and this version of the package.

    Raises:
        ProblemError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ProblemError(f"path: cannot read {str(path)!r}: {error.strerror or error}") from None
    source = {
        "content": _digest(content),
        "options": dict(options),
        "odekit": version("odekit"),
        "record": VERSION,
    }
    return _digest(json.dumps(source, sort_keys=True).encode())


def record_text(row: Row, mark: str, files: Mapping[str, bytes]) -> str:
    """The content of ``record.json`` for files that stand beside it."""
    digests = {name: _digest(content) for name, content in sorted(files.items())}
    content = {"version": VERSION, "fingerprint": mark, "row": asdict(row), "files": digests}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def recall(folder: Path, row: Row, mark: str) -> Row | None:
    """The row of an earlier run, if it is of the same data and options and all files are whole.

    Args:
        folder: where the files are.
        row: the file in question.
        mark: its `fingerprint` now.
    """
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if content["version"] != VERSION or content["fingerprint"] != mark:
            return None
        for name, digest in content["files"].items():
            if _digest((folder / name).read_bytes()) != digest:
                return None
        kept = Row(**content["row"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever is wrong with it, the file is done again
    return replace(kept, file=row.file, name=row.name, resumed=True)


def forget(folder: Path) -> None:
    """Remove the files of an earlier run, which no longer belong to the data; leave others."""
    try:
        names = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in (RECORD, *names):
        if Path(name).name == name:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def folder_names(files: Sequence[Path], taken: Sequence[str]) -> list[str]:
    """A folder for each file: its stem where that is unique, else with the folders above it.

    Args:
        files: the files.
        taken: names that are in use.

    Raises:
        ProblemError: a file is given twice.

    Example:
        >>> folder_names([Path("a/x.csv"), Path("b/x.csv"), Path("y.csv"), Path("y.txt")], [])
        ['a-x', 'b-x', 'y.csv', 'y.txt']
    """
    places = [path.absolute() for path in files]
    twice = next((files[i] for i, place in enumerate(places) if place in places[:i]), None)
    if twice is not None:
        raise ProblemError(f"path: {str(twice)!r} is given twice: each file is a system of its own")
    names = [place.stem for place in places]
    deepest = max((len(place.parts) for place in places), default=1)
    for depth, whole in itertools.product(range(deepest), (False, True)):
        seen = [name.casefold() for name in names]
        for i, place in enumerate(places):
            if seen.count(seen[i]) > 1:
                above = place.parts[max(len(place.parts) - 1 - depth, 1) : -1]
                names[i] = "-".join((*above, place.name if whole else place.stem))
    return _distinct(names, taken)


def _distinct(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The names, with numbers where they are in use; file systems may ignore case."""
    used = {name.casefold() for name in taken}
    out = []
    for name in names:
        number, chosen = 1, name
        while chosen.casefold() in used:
            number += 1
            chosen = f"{name}-{number}"
        used.add(chosen.casefold())
        out.append(chosen)
    return out


def finite(value: float | None) -> float | None:
    """The number, None for NaN and infinity, which JSON does not know."""
    return value if value is not None and math.isfinite(value) else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
