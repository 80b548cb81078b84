"""Where the equations were seen to hold: the range of states, and trajectories predicted.

Outside of the range the equations are a guess, however well they fit inside; a simulation that
leaves it by more than its width is said to.

Units: those of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from odekit.differences import listed
from odekit.report.notation import number

if TYPE_CHECKING:
    from odekit.equations import Equations

DIGITS = 3


def ranges(equations: Equations) -> dict[str, tuple[float, float]]:
    """Smallest and largest value seen of each state and input, as the diagnostics say."""
    known = equations.diagnostics.get("range")
    if not isinstance(known, dict):
        return {}
    return {
        str(name): (float(ends[0]), float(ends[1]))
        for name, ends in known.items()
        if isinstance(ends, list | tuple) and len(ends) == 2
    }


def range_text(ends: tuple[float, float]) -> str:
    """``"0.2 to 7.1"``."""
    return f"{number(ends[0], DIGITS)} to {number(ends[1], DIGITS)}"


def range_sentence(equations: Equations) -> str:
    """Where the equations were seen to hold, in one sentence; empty where that is not known."""
    known = ranges(equations)
    if not known:
        return ""
    parts = [f"{name} from {range_text(ends)}" for name, ends in known.items()]
    return f"Seen for {listed(parts)}; beyond that the equations are a guess."


def departures(equations: Equations, y: Any, label: str) -> list[str]:
    """A sentence for each state of a simulation that leaves its range by more than its width.

    Args:
        equations: with the range in their diagnostics; without it nothing is said.
        y: states of the simulation, ``(n, d)``, in the order of ``equations.names``.
        label: what to call the simulation.
    """
    values = np.asarray(y, dtype=np.float64).reshape(-1, len(equations.names))
    known = ranges(equations)
    out = []
    for j, name in enumerate(equations.names):
        column = values[np.isfinite(values[:, j]), j]
        if name not in known or not len(column):
            continue
        low, high = known[name]
        width = high - low
        if column.min() < low - width or column.max() > high + width:
            out.append(
                f"The simulation of {label} takes {name} to "
                f"{range_text((float(column.min()), float(column.max())))}, far outside of "
                f"{range_text((low, high))}, where it was seen."
            )
    return out


def held_out(equations: Equations) -> tuple[str, dict[int, dict[str, float]]]:
    """How trajectories were predicted, and R2 by trajectory and state; empty where none was."""
    known = equations.diagnostics.get("holdout")
    if not isinstance(known, dict) or not known.keys() >= {"how", "trajectories", "states"}:
        return "", {}
    states = known["states"]
    found = {
        int(index): {name: _number(states[name][i]) for name in equations.names if name in states}
        for i, index in enumerate(known["trajectories"])
    }
    return str(known["how"]), found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def held_out_sentence(how: str) -> str:
    """What was fitted and what predicted, in one sentence."""
    if how == "kept out":
        return (
            "Held-out R² is that of trajectories which took no part in the search; only their "
            "start is fitted to them."
        )
    return (
        "Held-out R² is the prediction of a trajectory by coefficients fitted to the others; only "
        "its start is fitted to it."
    )


def worst(predicted: dict[int, dict[str, float]], labels: Sequence[str]) -> str:
    """``"0.93 (run2)"``: the state that is predicted worst, for one line."""
    least = min(
        ((value, index) for index, row in predicted.items() for value in row.values()),
        default=(float("nan"), -1),
    )
    name = labels[least[1]] if 0 <= least[1] < len(labels) else str(least[1])
    return f"{least[0]:.3f} ({name})"
