"""The file format of `Equations`: JSON, with every number to the last digit.

A file is one object with ``format``, ``version`` and the arguments of `Equations`; alternatives
are such objects again. Python writes each double as the shortest text that reads back to it, and
numbers that JSON does not know as ``{"number": "nan"}``.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np

from odekit.equations import Alternative, Equations, Term
from odekit.errors import ProblemError
from odekit.files import read_text, write_text

FORMAT = "odekit.equations"
VERSION = 1


def write(equations: Equations, path: str | os.PathLike[str]) -> None:
    """Write equations, the whole file or none.

    Raises:
        ProblemError: the diagnostics hold something that JSON cannot, or no file can be written.
    """
    content = {"format": FORMAT, "version": VERSION, **_pack(equations)}
    try:
        text = json.dumps(encode(content), indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ProblemError(
            f"diagnostics: {error}: keep to numbers, texts, lists and dicts"
        ) from None
    write_text(path, text + "\n")


def read(path: str | os.PathLike[str]) -> Equations:
    """Read equations.

    Raises:
        ProblemError: no such file, or one that holds no equations, and why.
    """
    text = read_text(path)
    try:
        content = decode(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"path: {str(path)!r} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ProblemError(
            f"path: {str(path)!r} holds no equations: name a file that equations.save wrote"
        )
    if content.get("version") != VERSION:
        raise ProblemError(
            f"path: {str(path)!r} has version {content.get('version')!r} of the format, this "
            f"program reads {VERSION}: install a newer odekit"
        )
    try:
        return _unpack(content)
    except ProblemError as error:
        raise ProblemError(f"path: {str(path)!r} is damaged: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ProblemError(f"path: {str(path)!r} is damaged ({reason}): save it again") from None


def _pack(equations: Equations) -> dict[str, Any]:
    covariance = equations.covariance
    return {
        "names": list(equations.names),
        "inputs": list(equations.inputs),
        "time": equations.time,
        "terms": [term._asdict() for term in equations.terms],
        "covariance": None if covariance is None else covariance.tolist(),
        "score": equations.score,
        "confident": equations.confident,
        "warnings": equations.warnings,
        "diagnostics": equations.diagnostics,
        "alternatives": [
            {"weight": a.weight, "score": a.score, "equations": _pack(a.equations)}
            for a in equations.alternatives
        ],
    }


def _unpack(content: dict[str, Any]) -> Equations:
    return Equations(
        content["names"],
        [Term(**term) for term in content["terms"]],
        inputs=content["inputs"],
        time=content["time"],
        covariance=content["covariance"],
        score=content["score"],
        confident=content["confident"],
        warnings=content["warnings"],
        diagnostics=content["diagnostics"],
        alternatives=[
            Alternative(_unpack(a["equations"]), a["weight"], a["score"])
            for a in content["alternatives"]
        ],
    )


def encode(value: Any) -> Any:
    """What JSON can hold: arrays as lists, numpy numbers as Python's, NaN and infinity by name."""
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return encode(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    return value


def decode(value: Any) -> Any:
    """What `encode` was given, with lists for arrays and tuples."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["number"] and value["number"] in ("nan", "inf", "-inf"):
        return float(value["number"])
    return {key: decode(item) for key, item in value.items()}
