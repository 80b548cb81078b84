"""Which trajectories can say anything: those that are too short or constant are left out by name.

A trajectory at rest to the last digit, or of two rows, has nothing to tell about structure, and
one such file among many should not end the work.

Units: the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from odekit import Equations, TimeSeries

SHORTEST = 3
"""Rows with observed states below which a trajectory is left out."""

FEWEST_ROWS = 2
"""Rows below which not even a prediction can be compared with a trajectory."""


@dataclass(frozen=True)
class Usable:
    """The trajectories to work with.

    Attributes:
        series: those that are used.
        kept: their places among all.
        count: number of all trajectories.
        notes: what was left out, and why.
    """

    series: tuple[TimeSeries, ...]
    kept: tuple[int, ...]
    count: int
    notes: tuple[str, ...]

    def holdout(self, holdout: Any) -> Any:
        """The same choice of trajectories to predict, counted among those that are used.

        Those that were left out are not predicted; None if nothing else was asked for.
        """
        if not self.notes or holdout is None or isinstance(holdout, str | float):
            return holdout
        wanted = list(holdout) if hasattr(holdout, "__len__") else [holdout]
        place = {index: i for i, index in enumerate(self.kept)}
        places = []
        for index in map(int, wanted):
            inside = -self.count <= index < self.count
            index = index % self.count if inside else index
            if index in place or not inside:
                places.append(place.get(index, index))
        return places or None

    def restore(self, equations: Equations) -> Equations:
        """Count trajectories as the caller does: a score of NaN for each that was left out."""
        if not self.notes:
            return equations
        scores = np.full(self.count, np.nan)
        scores[list(self.kept)] = equations.score
        equations.score = scores.tolist()
        held = equations.diagnostics.get("holdout")
        if held:
            held["trajectories"] = [self.kept[i] for i in held["trajectories"]]
        equations.diagnostics["left_out"] = [i for i in range(self.count) if i not in self.kept]
        equations.warnings += [f"Note: {note}." for note in self.notes]
        return equations


def usable(
    series: Iterable[TimeSeries], predicted: Sequence[int] = (), names: Sequence[str] | None = None
) -> Usable:
    """Sort out what says nothing; all trajectories are kept where none would be left.

    Anything that is no series is kept too, for `odekit_sindy.data.gather` to complain about.

    Args:
        series: all trajectories.
        predicted: those that will be predicted; two rows are enough, with more values than the
            states that have to be fitted to them.
        names: the states to model, if they are some of those there are.
    """
    series = tuple(series)
    kept, notes = [], []
    for i, item in enumerate(series):
        if not hasattr(item, "y"):
            kept.append(i)
            continue
        y = _columns(item, names)
        rows, values = int(np.isfinite(y).any(axis=1).sum()), int(np.isfinite(y).sum())
        if i in predicted and (rows < FEWEST_ROWS or values <= y.shape[1]):
            notes.append(
                f"series[{i}] was to be predicted, but its {values} observed values go into its "
                "start and leave nothing to compare with, so it was left out"
            )
        elif i not in predicted and rows < SHORTEST:
            notes.append(f"series[{i}] has {rows} rows with observed states and was left out")
        elif _constant(y):
            notes.append(f"series[{i}] is constant and was left out")
        else:
            kept.append(i)
    if not kept:
        return Usable(series, tuple(range(len(series))), len(series), ())
    return Usable(tuple(series[i] for i in kept), tuple(kept), len(series), tuple(notes))


def _columns(item: TimeSeries, names: Sequence[str] | None) -> np.ndarray:
    """The states that matter, ``(n, d)``."""
    y = np.asarray(item.y, dtype=np.float64)
    wanted = [names] if isinstance(names, str) else list(names or ())
    there = [list(item.names).index(name) for name in wanted if name in item.names]
    return y[:, there] if there else y


def _constant(y: np.ndarray) -> bool:
    """Whether every state stays where it is, ``(n, d)``."""
    seen = y[:, np.isfinite(y).any(axis=0)]
    size = np.nanmax(np.abs(seen), axis=0)
    return bool(np.all(np.nanmax(seen, axis=0) - np.nanmin(seen, axis=0) <= 1e-12 * size))
