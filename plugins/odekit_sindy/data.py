"""Observed trajectories as plain float64 arrays, checked once, and their scaling.

States are divided by their standard deviation *without* a shift, since a shift would turn one
monomial into several. Every threshold of the pipeline applies in scaled units; coefficients
return to the caller's units exactly, term by term, at the very end.

Shapes: ``n`` rows of one trajectory, ``d`` states, ``m`` inputs.
Units: `gather` keeps the caller's; `scaled` has states of standard deviation one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from odekit.errors import DiscoveryError, ProblemError

if TYPE_CHECKING:
    from odekit import TimeSeries

FEWEST = 8
"""Observed values of each state below which nothing can be said."""

SPREAD = 3.0
"""Standard deviations from zero that a state without data is taken to reach."""

MOST_ROWS = 4000
"""Rows, over all trajectories, above which they are thinned evenly."""


@dataclass(frozen=True)
class Trajectory:
    """One trajectory: ``t (n,)`` from zero, ``y (n, d)`` with NaN where missing, ``u (n, m)``."""

    t: np.ndarray
    y: np.ndarray
    u: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Trajectories of one system.

    Attributes:
        trajectories: at least one, each with two rows or more.
        names: the states' names.
        inputs: the inputs' names.
        notes: what was changed on the way in, in words.
        time: the name of time.
    """

    trajectories: tuple[Trajectory, ...]
    names: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    time: str = "t"

    @property
    def dim(self) -> int:
        """Number of states."""
        return len(self.names)

    @property
    def drives(self) -> tuple[str, ...]:
        """The inputs without time, which is one of them where formulas need it."""
        return tuple(name for name in self.inputs if name != self.time)

    @property
    def rows(self) -> int:
        """Rows of all trajectories together."""
        return sum(len(part.t) for part in self.trajectories)

    @cached_property
    def stacked(self) -> np.ndarray:
        """All states in one array, ``(rows, d)``."""
        return np.concatenate([part.y for part in self.trajectories])

    @cached_property
    def counts(self) -> np.ndarray:
        """Observed values of each state, ``(d,)``."""
        return np.asarray(np.isfinite(self.stacked).sum(0))

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviation of each state over everything observed, ``(d,)``."""
        return np.asarray(np.nanstd(self.stacked, axis=0))

    @property
    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest observed value of each state, ``(d,)`` both.

        A state that was never observed spans `SPREAD` on both sides of zero, since its unit is
        its standard deviation.
        """
        low, high = np.full(self.dim, -SPREAD), np.full(self.dim, SPREAD)
        seen = self.counts > 0
        low[seen] = np.nanmin(self.stacked[:, seen], axis=0)
        high[seen] = np.nanmax(self.stacked[:, seen], axis=0)
        return low, high


@dataclass(frozen=True)
class Scales:
    """Units of the scaled problem, one per state, per input, and one of time."""

    state: np.ndarray
    input: np.ndarray
    time: float = 1.0


def gather(
    series: Any, names: Sequence[str] | None = None, *, clock: bool = False, learn: bool = True
) -> Dataset:
    """Check observed data and turn them into arrays.

    Args:
        series: one `TimeSeries` or several with the same states.
        names: the states to model; by default all.
        clock: make time the last input, as it stands in the series.
        learn: whether they have to suffice for a search; those to predict may be few.

    Raises:
        ProblemError: not time series, different states, or a name that does not exist.
        DiscoveryError: too little data, or a state without information.
    """
    several = [series] if hasattr(series, "t") and hasattr(series, "y") else list(series)
    if not several:
        raise ProblemError("series is empty: give one TimeSeries or a list of them")
    for item in several:
        if not (hasattr(item, "t") and hasattr(item, "y") and hasattr(item, "names")):
            raise ProblemError(
                f"series must be a TimeSeries or a list of them, got {type(item).__name__}: "
                "write odekit.TimeSeries(t, y)"
            )
    _check_same(several)
    first = several[0]
    columns, chosen = _chosen(tuple(first.names), names)
    parts = [
        _trajectory(item, columns, i, len(several), clock=clock) for i, item in enumerate(several)
    ]
    _check_distinct(parts)
    inputs = tuple(first.input_names) if first.u is not None else ()
    inputs += (first.time_name,) if clock else ()
    dataset = Dataset(tuple(parts), chosen, inputs, time=first.time_name)
    if learn:
        _check_content(dataset)
    return _thinned(dataset)


def _check_distinct(parts: Sequence[Trajectory]) -> None:
    """Data given twice would count as independent evidence, and halve every variance."""
    for i, one in enumerate(parts):
        for k, other in enumerate(parts[:i]):
            same = len(one.t) == len(other.t) and np.array_equal(one.t, other.t)
            if same and np.array_equal(one.y, other.y, equal_nan=True):
                raise ProblemError(
                    f"series[{i}] repeats series[{k}] point for point: each trajectory counts as "
                    "independent data, so give it once"
                )


def _check_same(several: Sequence[TimeSeries]) -> None:
    first = several[0]
    for i, other in enumerate(several[1:], start=1):
        if tuple(other.names) != tuple(first.names):
            raise ProblemError(
                f"all series must have the same states: series[0] has {list(first.names)}, "
                f"series[{i}] has {list(other.names)}"
            )
        if (other.u is None) != (first.u is None) or tuple(other.input_names) != tuple(
            first.input_names
        ):
            raise ProblemError(
                f"all series must have the same inputs: series[{i}] differs from series[0]"
            )


def _chosen(
    available: tuple[str, ...], names: Sequence[str] | None
) -> tuple[list[int], tuple[str, ...]]:
    """Columns and names of the states to model: some of those there are, or new names for all."""
    if names is None:
        return list(range(len(available))), available
    chosen = (names,) if isinstance(names, str) else tuple(str(name) for name in names)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ProblemError(f"names must be different states, at least one, got {list(chosen)}")
    if len(chosen) == len(available) and not set(chosen) & set(available):
        return list(range(len(available))), chosen
    for name in chosen:
        if name not in available:
            close = difflib.get_close_matches(name, available, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ProblemError(f"names has {name!r}: {hint}the states are {list(available)}")
    return [available.index(name) for name in chosen], chosen


def _trajectory(
    item: TimeSeries, columns: list[int], index: int, count: int, *, clock: bool = False
) -> Trajectory:
    t = _array(item.t)
    y = _array(item.y)[:, columns]
    u = _array(item.u) if item.u is not None else np.zeros((len(t), 0))
    u = np.column_stack([u, t]) if clock else u
    seen = np.isfinite(y).any(axis=1)
    which = f"series[{index}]" if count > 1 else "series"
    if seen.sum() < 2:
        raise DiscoveryError(
            f"{which} has {int(seen.sum())} row(s) with observed states: a trajectory needs two or "
            "more; give longer series or leave this one out"
        )
    if not np.isfinite(u).all():
        raise DiscoveryError(
            f"{which} has missing values in its inputs: fill them in, or leave those rows out"
        )
    rows = _needed(t, u, seen)
    return Trajectory(t[rows] - t[rows][0], y[rows], u[rows])


def _needed(t: np.ndarray, u: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Rows to keep: those with observed states, and those that tell how the inputs went between.

    Inputs are followed along straight lines from row to row, so a row without states may go only
    if all inputs lie on the lines between the rows that stay.
    """
    first, last = np.flatnonzero(seen)[[0, -1]]
    inside = np.zeros(len(t), dtype=bool)
    inside[first : last + 1] = True
    for column in u.T:
        line = np.interp(t, t[seen], column[seen])
        if np.any(np.abs(column - line)[inside] > 1e-6 * np.ptp(column)):
            return inside
    return seen


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _check_content(dataset: Dataset) -> None:
    for j, name in enumerate(dataset.names):
        count = int(dataset.counts[j])
        if count == 0:
            raise DiscoveryError(f"state {name!r} has no observed value: leave it out with names=")
        if count < FEWEST:
            raise DiscoveryError(
                f"state {name!r} has {count} observed values, at least {FEWEST} are needed to say "
                "anything: give a longer series, or several"
            )
        values = dataset.stacked[:, j]
        if dataset.std[j] <= 1e-12 * np.nanmax(np.abs(values)) or dataset.std[j] == 0:
            raise DiscoveryError(
                f"state {name!r} is constant ({np.nanmean(values):.6g}): it has no dynamics to "
                "find; leave it out with names="
            )


def _thinned(dataset: Dataset) -> Dataset:
    if dataset.rows <= MOST_ROWS:
        return dataset
    seen = [np.isfinite(part.y).any(axis=1) for part in dataset.trajectories]
    stride = -(-sum(int(rows.sum()) for rows in seen) // MOST_ROWS)
    parts = tuple(
        Trajectory(part.t[rows][::stride], part.y[rows][::stride], part.u[rows][::stride])
        if rows.sum() > 2 * stride
        else part
        for part, rows in zip(dataset.trajectories, seen, strict=True)
    )
    note = f"one row in {stride} of those with observed states was used"
    if dataset.inputs:
        note += ", and inputs between them along straight lines"
    return replace(dataset, trajectories=parts, notes=(*dataset.notes, note))


def scaled(dataset: Dataset, scales: Scales) -> Dataset:
    """The same data in units of ``scales``."""
    parts = tuple(
        Trajectory(part.t / scales.time, part.y / scales.state, part.u / scales.input)
        for part in dataset.trajectories
    )
    return replace(dataset, trajectories=parts)


def first_scales(dataset: Dataset) -> Scales:
    """States and inputs by their standard deviation; time by the mean step, until more is known."""
    u = np.concatenate([part.u for part in dataset.trajectories])
    size = np.sqrt((u**2).mean(0))
    steps = np.concatenate([np.diff(part.t) for part in dataset.trajectories])
    return Scales(dataset.std, np.where(size > 0, size, 1.0), float(steps.mean()))
