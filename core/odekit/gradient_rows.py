"""The figures of one gradient method, and the seconds of all of them in turn.

Units: bytes, seconds; errors are relative.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from torch import Tensor

from odekit.errors import GradientWarning, OdekitError
from odekit.field_calls import counted
from odekit.gradient_reference import Question, Reference
from odekit.live_bytes import LiveBytes, synchronise
from odekit.registry import resolve
from odekit.resident import heap_bytes, resident_growth
from odekit.solve import name_of
from odekit.solver import Solver
from odekit.trees import leaves_of

Report: TypeAlias = Callable[[str, float], None]
"""``report(stage, fraction)``."""

COUNTS = (
    "peak_bytes",
    "evaluations",
    "evaluations_back",
    "saved_bytes",
    "held_bytes",
    "process_bytes",
)
"""Columns of whole numbers."""


def empty_row(label: str, note: str, *, processes: bool) -> dict[str, Any]:
    """A row without figures."""
    return {
        "method": label,
        "error": math.nan,
        "peak_bytes": None,
        "evaluations": None,
        "seconds": math.nan,
        "evaluations_back": None,
        "saved_bytes": None,
        "held_bytes": None,
        **({"process_bytes": None} if processes else {}),
        "note": note,
    }


def measure(
    question: Question,
    label: str,
    choice: Mapping[str, Any],
    truth: Reference,
    time_limit: float,
    *,
    processes: bool,
) -> dict[str, Any]:
    """All figures of one method but its seconds; a note where it fails."""
    row = empty_row(label, "", processes=processes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gradient, counts, took = _count(question, choice, time_limit)
            row |= {"error": truth.error(gradient)} | counts
            row |= _weigh(question, choice)
            if processes:
                short = question.shortened(1e-3)
                row["process_bytes"] = resident_growth(
                    lambda: question.gradient(**choice), warm=lambda: short.gradient(**choice)
                )
        except (OdekitError, RuntimeError, NotImplementedError) as error:
            row["note"] = " ".join(str(error).split())
            return row
    said = [
        " ".join(str(w.message).split())
        for w in caught
        if issubclass(w.category, GradientWarning | RuntimeWarning)
    ]
    picked = [f"took {took}"] if took != name_of(choice["gradient"]) else []
    if not math.isfinite(row["error"]):
        row["error"] = math.nan
        said.insert(0, "its gradient is not finite")
    row["note"] = "; ".join(dict.fromkeys([*picked, *said]))
    return row


def _count(
    question: Question, choice: Mapping[str, Any], time_limit: float
) -> tuple[Tensor, dict[str, int | None], str]:
    """The gradient, calls of the field forward and back, and the method that was taken."""
    solver = resolve("solver", choice.get("solver", question.options["solver"]), Solver)
    with counted(question.field, solver, time_limit) as (field, calls):
        solution = replace(question, field=field).solve(**choice)
        ahead = calls[0]
        gradient = question.pull(question.loss(solution.y))
        back: int | None = calls[0] - ahead
    if ahead == 0:  # its parts are called, not the field itself
        ahead, back = int(solution.stats.evaluations.max()), None
    return gradient, {"evaluations": ahead, "evaluations_back": back}, solution.stats.gradient


def _weigh(question: Question, choice: Mapping[str, Any]) -> dict[str, int | None]:
    """Bytes of tensors: the most at a time, and those that wait; all that waits, on the heap."""
    with LiveBytes() as memory:
        solution = question.solve(**choice)
        value = question.loss(solution.y)
        saved = memory.alive
        question.pull(value)
    del solution, value
    before = heap_bytes()
    solution = question.solve(**choice)
    value = question.loss(solution.y)
    after = heap_bytes()
    if before is None or after is None or value.device.type != "cpu":
        held = None
    else:
        held = max(after - before, saved)
    return {"peak_bytes": memory.peak, "saved_bytes": saved, "held_bytes": held}


def time_in_turn(
    question: Question,
    choices: Mapping[str, Mapping[str, Any]],
    rows: Sequence[dict[str, Any]],
    rounds: int,
    tell: Report,
) -> None:
    """Seconds of the methods that work, all of them in turn, so that drifts hit all alike."""
    spent: dict[str, list[float]] = {r["method"]: [] for r in rows if r["error"] == r["error"]}
    leaf = leaves_of(question.y0)[0]
    for i in range(rounds):
        for label, seconds in spent.items():
            tell(f"seconds of {label}", 0.5 + i / (2 * rounds))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                synchronise(leaf)
                start = time.perf_counter()
                question.gradient(**choices[label])
                synchronise(leaf)
                seconds.append(time.perf_counter() - start)
    for row in rows:
        if spent.get(row["method"]):
            row["seconds"] = statistics.median(spent[row["method"]])
