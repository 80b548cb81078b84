"""What ``odekit discover`` remembers of each file of a batch, so that ``--resume`` can trust it.

Every finished file has a folder with its report and ``record.json``: what was found in one line,
a fingerprint of everything that it came from, and digests of the files beside it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

from odekit.errors import ProblemError

RECORD = "record.json"
VERSION = 2

BENEATH = ("torch", "numpy", "scipy", "sympy", "pysindy", "scikit-learn", "matplotlib")
"""Packages whose versions may change what is found or drawn."""

Mark: TypeAlias = dict[str, Any]
"""A fingerprint: the digests ``data`` and ``code``, and the ``options``."""

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
        redone: what had changed since an earlier run finished it, if that was why it was redone.
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
    redone: str = ""

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


def fingerprint(path: Path, options: Mapping[str, Any]) -> Mark:
    """What a file's result comes from: its content, the options, and the code.

    Raises:
        ProblemError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ProblemError(f"path: cannot read {str(path)!r}: {error.strerror or error}") from None
    plain = json.loads(json.dumps(dict(options)))
    return {"data": _digest(content), "options": plain, "code": code_digest()}


@functools.cache
def code_digest() -> str:
    """A digest of the source of odekit and of every plugin, and of the versions beneath them.

    The version of a package alone does not tell whether somebody works on its source.
    """
    points = entry_points(group="odekit")
    packages = sorted({"odekit", *(point.module.partition(".")[0] for point in points)})
    whole = hashlib.sha256()
    for name in packages:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        top = Path(spec.origin).parent
        parts = top.rglob("*.py") if spec.submodule_search_locations else [Path(spec.origin)]
        for path in sorted(parts):
            whole.update(f"{name}/{path.relative_to(top).as_posix()}\0".encode())
            whole.update(path.read_bytes())
    for name in BENEATH:
        whole.update(f"{name} {version(name)}\0".encode())
    return whole.hexdigest()


def record_text(row: Row, mark: Mark, files: Mapping[str, bytes]) -> str:
    """The content of ``record.json`` for files that stand beside it."""
    digests = {name: _digest(content) for name, content in sorted(files.items())}
    content = {"version": VERSION, "fingerprint": mark, "row": asdict(row), "files": digests}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def recall(folder: Path, row: Row, mark: Mark) -> Row | str:
    """The row of an earlier run, if everything that it came from is the same and it is whole.

    Args:
        folder: where the files are.
        row: the file in question.
        mark: its `fingerprint` now.

    Returns:
        The row, or what has changed since, in a few words: empty where there is no record.
    """
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            return "its record is of another version"
        if changed := _changed(content["fingerprint"], mark):
            return changed
        for name, digest in content["files"].items():
            if not (folder / name).exists():
                return f"{name} is gone"
            if _digest((folder / name).read_bytes()) != digest:
                return f"{name} has been changed"
        kept = Row(**content["row"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its record cannot be read"  # whatever is wrong with it, the file is done again
    return replace(kept, file=row.file, name=row.name, resumed=True, redone="")


def _changed(before: Mark, now: Mark) -> str:
    """What differs between two fingerprints, in a few words."""
    if before["data"] != now["data"]:
        return "its data have changed"
    if before["options"] != now["options"]:
        old, new = before["options"], now["options"]
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return f"other options: {', '.join(sorted(names))}"
    return "" if before["code"] == now["code"] else "the code of odekit or of a plugin has changed"


def redone(rows: Sequence[Row]) -> list[str]:
    """A sentence for every reason for which files are done again."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.redone:
            reasons.setdefault(row.redone, []).append(row.file)
    return [
        f"{files[0] if len(files) == 1 else f'{len(files)} files, {files[0]} for one,'} "
        f"done again: {reason}"
        for reason, files in reasons.items()
    ]


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
