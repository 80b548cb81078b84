"""The file format of `Equations`; alternatives are such objects again. See `odekit.saved`."""

from __future__ import annotations

import os
from typing import Any

from odekit.equations import Alternative, Equations, Term
from odekit.saved import EQUATIONS, LATER, fields, read_content, rows, write_content

ENTRIES = (
    "names", "terms", "inputs", "time", "covariance", "score", "confident", "warnings",
    "diagnostics", "alternatives",
)  # fmt: skip


def write(equations: Equations, path: str | os.PathLike[str]) -> None:
    """Write equations, the whole file or none.

    Raises:
        ProblemError: the diagnostics hold something that JSON cannot, or no file can be written.
    """
    write_content(path, EQUATIONS, _pack(equations))


def read(path: str | os.PathLike[str]) -> Equations:
    """Read equations.

    Raises:
        ProblemError: no such file, or one that holds no equations, and why.
    """
    return read_content(path, EQUATIONS, _unpack)


def _pack(equations: Equations) -> dict[str, Any]:
    return {
        **{name: getattr(equations, name) for name in (*ENTRIES, *LATER)},
        "terms": [term._asdict() for term in equations.terms],
        "alternatives": [
            {"weight": a.weight, "score": a.score, "equations": _pack(a.equations)}
            for a in equations.alternatives
        ],
    }


def _unpack(content: dict[str, Any], what: str = "the file") -> Equations:
    found = fields(content, ENTRIES, what, LATER)
    found["terms"] = [Term(**row) for row in rows(found["terms"], Term._fields, "term")]
    found["alternatives"] = [
        Alternative(_unpack(row["equations"], f"alternative {i}"), row["weight"], row["score"])
        for i, row in enumerate(rows(found["alternatives"], Alternative._fields, "alternative"))
    ]
    return Equations(found.pop("names"), found.pop("terms"), **found)
