"""What is saved as JSON, and read back: one object a file, with every number to the last digit.

A file is one object with ``format``, ``version`` and the arguments of what it holds. Python writes
each double as the shortest text that reads back to it, and numbers that JSON does not know as
``{"number": "nan"}``. A wrong file is refused in one line that names it and what is missing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar, final

import numpy as np

from odekit.differences import listed
from odekit.errors import ProblemError
from odekit.files import read_text, write_text

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: under ``format`` in the file.
        version: under ``version``.
        holds: what it holds, in words.
        loader: what reads it.
    """

    name: str
    version: int
    holds: str
    loader: str


EQUATIONS = Format("odekit.equations", 1, "equations", "odekit.Equations")
REFINED = Format("odekit.refined", 1, "refined formulas", "odekit.Refined")
FORMATS = {one.name: one for one in (EQUATIONS, REFINED)}

LATER: Mapping[str, Any] = {"degrees_of_freedom": None}
"""Entries of both that older files lack, and what stands for them there."""


def write_content(path: str | os.PathLike[str], form: Format, content: Mapping[str, Any]) -> None:
    """Write a file, all of it or nothing.

    Raises:
        ProblemError: the content holds something that JSON cannot, or no file can be written.
    """
    whole = {"format": form.name, "version": form.version, **content}
    try:
        text = json.dumps(_encoded(whole), indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ProblemError(
            f"diagnostics: {error}: keep to numbers, texts, lists and dicts"
        ) from None
    write_text(path, text + "\n")


def read_content(
    path: str | os.PathLike[str], form: Format, unpack: Callable[[dict[str, Any]], T]
) -> T:
    """Read a file.

    Args:
        path: of the file.
        form: what it has to hold.
        unpack: from the content to the object; see `fields` for what it may expect.

    Raises:
        ProblemError: no such file, or one that does not hold it, and why.
    """
    text = read_text(path)
    try:
        content = _decoded(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"path: {str(path)!r} is not JSON: {error}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != form.name:
        other = FORMATS.get(found) if isinstance(found, str) else None
        advice = (
            f"name a file that {form.loader}.save wrote"
            if other is None
            else f"it has {other.holds}, which {other.loader}.load reads"
        )
        raise ProblemError(f"path: {str(path)!r} holds no {form.holds}: {advice}")
    if content.get("version") != form.version:
        raise ProblemError(
            f"path: {str(path)!r} has version {content.get('version')!r} of the format, this "
            f"program reads {form.version}: install a newer odekit"
        )
    try:
        return unpack(content)
    except ProblemError as error:
        reason = str(error)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise ProblemError(f"path: {str(path)!r} is damaged: {reason}") from None


def fields(
    content: Any,
    names: Iterable[str],
    what: str = "the file",
    later: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The entries of these names of an object, all of which have to be there.

    Args:
        content: what was read.
        names: of the entries.
        what: the object in words, for messages.
        later: further entries, with what stands for them in files that lack them.

    Raises:
        ProblemError: no object, or an entry is missing, and which.
    """
    if not isinstance(content, dict):
        raise ProblemError(f"{what} must be an object, got {str(content)[:40]!r}")
    lacking = [name for name in names if name not in content]
    if lacking:
        raise ProblemError(f"{what} lacks {listed(map(repr, lacking))}: save it again")
    found = {name: content[name] for name in names}
    return found | {name: content.get(name, other) for name, other in later.items()}


def rows(content: Any, names: Iterable[str], what: str) -> list[dict[str, Any]]:
    """The `fields` of each object in a list.

    Raises:
        ProblemError: no list, or an entry of one of its objects is missing, and which.
    """
    if not isinstance(content, list):
        raise ProblemError(f"{what}s must be a list, got {str(content)[:40]!r}")
    wanted = tuple(names)
    return [fields(row, wanted, f"{what} {i}") for i, row in enumerate(content)]


def _encoded(value: Any) -> Any:
    """What JSON can hold: arrays as lists, numpy numbers as Python's, NaN and infinity by name."""
    if isinstance(value, dict):
        return {str(key): _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _encoded(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    return value


def _decoded(value: Any) -> Any:
    """What `_encoded` was given, with lists for arrays and tuples."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["number"] and value["number"] in ("nan", "inf", "-inf"):
        return float(value["number"])
    return {key: _decoded(item) for key, item in value.items()}
