"""From timings to the lines of a table, and the table on the screen.

A line holds raw numbers, the same that go into the JSON; ratios are those of medians.

Units: seconds, and bytes of memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from odekit.cli.output import console, table
from odekit_benchmarks.speed_problems import Case
from odekit_benchmarks.speed_timing import Reading, Timing, middle, quartiles

Line = dict[str, Any]

BASES = ("torchdiffeq", "torchdiffeq adjoint", "torchode dopri5")
"""Methods that others are compared with, where they were measured."""


def bases(case: Case) -> tuple[str, ...]:
    """Those that make sense for one problem."""
    second = "torchode dopri5" if case.per_sample else "torchdiffeq adjoint"
    return ("torchdiffeq", second) if case.per_sample or case.target is not None else BASES[:1]


def lines(case: Case, timings: Sequence[Timing], reference: Tensor) -> list[Line]:
    """A line for each method, the floors last.

    Args:
        case: the problem.
        timings: what was measured.
        reference: what `odekit_benchmarks.speed_problems.Case.reference` gave.
    """
    floors = {timing.method.name: timing for timing in timings if timing.reading is None}
    methods = [timing for timing in timings if timing.reading is not None]
    known = {timing.method.name: timing for timing in methods}
    compared = {name: known[name] for name in bases(case) if name in known}
    made = [_line(case, timing, compared, floors, reference) for timing in methods]
    counts = [t.reading.evaluations for t in (*compared.values(), *methods) if t.reading]
    calls = next((count for count in counts if count), None)
    if calls is not None:
        made += [floor_line(timing, calls, compared) for timing in floors.values()]
    return made


def _line(
    case: Case,
    timing: Timing,
    compared: Mapping[str, Timing],
    floors: Mapping[str, Timing],
    reference: Tensor,
) -> Line:
    reading = timing.reading or Reading(reference)
    floor = floors.get(timing.method.floor)
    bound = (
        None if floor is None or not reading.evaluations else reading.evaluations * middle(floor)
    )
    return {
        **timing_line(timing, compared),
        "floor": timing.method.floor,
        "floor_ratio": None if bound is None else middle(timing) / bound,
        "evaluations": reading.evaluations,
        "accepted": reading.accepted,
        "rejected": reading.rejected,
        **errors(case, reading.value, reference),
        "tier": reading.tier,
    }


def timing_line(timing: Timing, compared: Mapping[str, Timing]) -> Line:
    """The part of a line that the clock gives."""
    low, high = quartiles(timing)
    return {
        "method": timing.method.name,
        "package": timing.method.package,
        "compiled": timing.method.compiled,
        "median": middle(timing),
        "low": low,
        "high": high,
        "first": timing.first,
        "seconds": timing.seconds,
        "faster_than": {name: middle(base) / middle(timing) for name, base in compared.items()},
    }


def floor_line(timing: Timing, calls: int, compared: Mapping[str, Timing]) -> Line:
    """The line of a floor: ``calls`` evaluations, each as long as was measured."""
    low, high = quartiles(timing)
    one = middle(timing)
    return {
        "method": f"floor {timing.method.name}",
        "package": "floor",
        "compiled": timing.method.compiled,
        "median": calls * one,
        "low": calls * low,
        "high": calls * high,
        "first": timing.first,
        "seconds": [calls * s for s in timing.seconds],
        "evaluation": one,
        "faster_than": {name: middle(base) / (calls * one) for name, base in compared.items()},
        "evaluations": calls,
    }


def errors(case: Case, value: Tensor, reference: Tensor) -> dict[str, float]:
    """Largest and root mean square error of the states; of a gradient the relative 2-norm."""
    found = value.detach().to("cpu").double()
    truth = reference.detach().to("cpu").double()
    difference = found - truth
    if case.target is not None:
        return {"error": float(difference.norm() / truth.norm())}
    return {
        "error": float(difference.abs().max()),
        "error_rms": float(difference.square().mean().sqrt()),
    }


def show(problem: Mapping[str, Any]) -> None:
    """Print the table of one problem with its notes."""
    screen = console()
    where = "" if problem["device"] == "cpu" else f", on {problem['device'].upper()}"
    screen.print(f"{problem['name']}: {problem['title']}{where}", markup=False, style="bold")
    columns = _columns(problem["lines"])
    listing = table(
        *columns, numeric=tuple(name for name in columns if name not in ("method", "tier"))
    )
    listing.columns[0].no_wrap = True
    below = False
    for line in problem["lines"]:
        if line["package"] == "floor" and not below:
            listing.add_section()
            below = True
        listing.add_row(*(cell(line) for cell in columns.values()))
    screen.print(listing)
    for note in problem["notes"]:
        screen.print(f"note: {note}", markup=False)
    screen.print()


def _columns(found: Sequence[Line]) -> dict[str, Any]:
    """Headings and what stands under each; columns that would be empty are left out."""
    compared = dict.fromkeys(name for line in found for name in line["faster_than"])
    memory = dict.fromkeys(steps for line in found for steps in line.get("memory", {}))
    short = {"torchdiffeq adjoint": "adjoint", "torchode dopri5": "torchode"}
    columns: dict[str, Any] = {
        "method": lambda line: line["method"],
        "ms": lambda line: number(line["median"], 1e3),
        "quartiles": lambda line: f"{number(line['low'], 1e3)}-{number(line['high'], 1e3)}",
    }
    if memory:  # there is room for one of them
        compared = dict.fromkeys(list(compared)[:1])
    for name in compared:
        columns[f"x {short.get(name, name)}"] = lambda line, name=name: number(
            line["faster_than"].get(name)
        )
    if not memory:
        columns["x floor"] = lambda line: number(line.get("floor_ratio"))
    for steps in memory:
        columns[f"MB {int(steps):,}"] = lambda line, steps=steps: number(
            line.get("memory", {}).get(steps), 1e-6
        )
    if any(line.get("evaluations") for line in found):
        columns["NFE"] = lambda line: _count(line.get("evaluations"))
    if any(line.get("accepted") is not None for line in found):
        columns["steps"] = _steps
    columns["error"] = lambda line: _error(line.get("error"))
    if any("inexact" in line for line in found):
        columns["off exact"] = lambda line: _error(line.get("inexact"))
    columns["first s"] = lambda line: number(line["first"])
    if any(line.get("tier") for line in found):
        columns["tier"] = lambda line: line.get("tier", "")
    return columns


def number(value: float | None, factor: float = 1.0) -> str:
    """Three digits, a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    value *= factor
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _steps(line: Line) -> str:
    if line.get("accepted") is None:
        return "–"
    return f"{line['accepted']}+{line['rejected']}"


def _error(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.1e}"
