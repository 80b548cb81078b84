"""Rows to a table: one line for each method and noise level, over all systems and seeds.

A fit that failed is a structure that is not exact, a simulation without success, and, since a
method without equations has no coefficients, a coefficient error of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from odekit_benchmarks.fits import Row

Line = dict[str, Any]


def tally(rows: Sequence[Row]) -> list[Line]:
    """The table, by noise level and then in the order in which methods come in ``rows``.

    ``exact`` is the mean over seeds of the number of exact structures among the
    ``representable`` systems, and ``exact_low``, ``exact_high`` are the least and the greatest;
    ``polynomial_exact`` and ``polynomial`` are the same of polynomial systems, ``other_exact`` and
    ``other`` of those that are not representable, such as fractions. ``error`` is the
    median coefficient error of representable systems. ``rec`` and ``gen`` are percentages of all
    simulations, ``coverage`` of all intervals of exact structures. ``confident`` counts fits
    with that verdict, ``confident_wrong`` those of them that are not exact.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    levels = sorted({row["noise"] for row in rows})
    return [
        _line(method, level, picked)
        for level in levels
        for method in methods
        if (picked := [r for r in rows if r["method"] == method and r["noise"] == level])
    ]


def _line(method: str, level: float, rows: Sequence[Row]) -> Line:
    offered = [row for row in rows if row["representable"]]
    sure = [row for row in rows if row["confident"]]
    structures = [row for row in rows if row["exact"]]
    intervals = sum(row["intervals"] for row in structures)
    seconds = [row["seconds"] for row in rows]
    return {
        "method": method,
        "noise": level,
        "fits": len(rows),
        "systems": len({row["system"] for row in rows}),
        "seeds": len({row["seed"] for row in rows}),
        **_exact(rows, "representable", "exact"),
        **_exact(rows, "polynomial", "polynomial_exact"),
        **_exact(
            [{**row, "other": not row["representable"]} for row in rows], "other", "other_exact"
        ),
        "error": _finite(np.median([_error(row) for row in offered])) if offered else None,
        "rec": _share([row["rec"] for row in rows]),
        "gen": _share([row["gen"] for row in rows if row["gen"] is not None]),
        "coverage": 100 * sum(r["covered"] for r in structures) / intervals if intervals else None,
        "intervals": intervals,
        "confident": len(sure) if any(row["confident"] is not None for row in rows) else None,
        "confident_wrong": _wrong(rows, sure),
        "failures": sum(row["failure"] is not None for row in rows),
        "seconds": float(np.median(seconds)),
        "seconds_90": float(np.quantile(seconds, 0.9)),
    }


def _exact(rows: Sequence[Row], kind: str, name: str) -> Line:
    """Exact structures among the systems of a kind, counted for each seed."""
    seeds = sorted({row["seed"] for row in rows})
    counts = [sum(r["exact"] and r[kind] for r in rows if r["seed"] == seed) for seed in seeds]
    return {
        kind: len({row["system"] for row in rows if row[kind]}),
        name: float(np.mean(counts)),
        f"{name}_low": min(counts),
        f"{name}_high": max(counts),
    }


def _error(row: Row) -> float:
    if row["failure"] is not None:
        return 1.0
    return math.inf if row["error"] is None else float(row["error"])


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _share(answers: Sequence[bool]) -> float | None:
    return 100 * sum(answers) / len(answers) if answers else None


def _wrong(rows: Sequence[Row], sure: Sequence[Row]) -> int | None:
    if all(row["confident"] is None for row in rows):
        return None
    return sum(not row["exact"] for row in sure)


COLUMNS: tuple[tuple[str, Callable[[Line], str]], ...] = (
    ("noise", lambda line: f"{100 * line['noise']:g} %"),
    ("method", lambda line: str(line["method"])),
    ("exact", lambda line: _counts(line, "exact", "representable")),
    ("polynomial", lambda line: _counts(line, "polynomial_exact", "polynomial")),
    ("other", lambda line: _counts(line, "other_exact", "other")),
    ("coef. error", lambda line: _number(line["error"], ".3g")),
    ("rec", lambda line: _number(line["rec"], ".0f", " %")),
    ("gen", lambda line: _number(line["gen"], ".0f", " %")),
    ("covered", lambda line: _number(line["coverage"], ".1f", " %")),
    ("sure", lambda line: _number(line["confident"], "d")),
    ("wrong", lambda line: _number(line["confident_wrong"], "d")),
    ("failed", lambda line: _number(line["failures"] or None, "d")),
    ("CPU s", lambda line: _number(line["seconds"], ".2f")),
    ("90 %", lambda line: _number(line["seconds_90"], ".2f")),
)
"""Headings and cells of the table on the screen."""


def _counts(line: Line, name: str, total: str) -> str:
    if not line[total]:
        return "–"
    text = f"{line[name]:.3g}/{line[total]}"
    low, high = line[f"{name}_low"], line[f"{name}_high"]
    return text if line["seeds"] == 1 else f"{text} ({low}-{high})"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"
