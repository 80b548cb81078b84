"""Where the data sit in a multiple-shooting problem: segments of a few intervals, padded alike.

Each trajectory is cut into segments of nearly equal numbers of data intervals. All segments are
integrated side by side, so short ones are padded with intervals of length zero, which leave the
state where it is. Every data point belongs to exactly one segment.

Shapes: ``M`` segments of at most ``Q`` intervals, hence ``Q + 1`` nodes; segments come last.
Units: scaled.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from odekit_sindy.data import Dataset

INTERVALS = 5
MOST_SEGMENTS = 60


@dataclass(frozen=True)
class Layout:
    """Data arranged by node and segment.

    Attributes:
        step: ``(Q, M)``, length of each interval, zero where padded.
        y: ``(Q + 1, d, M)``, data, zero where there are none.
        weight: ``(Q + 1, d, M)``, one over the noise's shape, zero where there are no data.
        inputs: ``(Q + 1, m, M)``.
        linked: ``(M,)``, whether the next segment continues this one.
        place: per trajectory ``(n, 2)``, node and segment of each row.
        low, high: ``(d,)``, the box that models are evaluated in.
        counts: ``(d,)``, data per state.
        log_shape: sum of ``log shape`` over the data.
    """

    step: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    inputs: np.ndarray
    linked: np.ndarray
    place: tuple[np.ndarray, ...]
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    log_shape: float

    @property
    def segments(self) -> int:
        """Number of segments ``M``."""
        return int(self.step.shape[1])

    @property
    def dim(self) -> int:
        """Number of states ``d``."""
        return int(self.y.shape[1])

    def mean_square(self, square: np.ndarray) -> np.ndarray:
        """Sums of squared residuals ``(..., d)`` per datum; hidden states take the others' mean."""
        out = square / np.maximum(self.counts, 1)
        hidden = self.counts == 0
        if hidden.any():
            out[..., hidden] = out[..., ~hidden].mean(-1, keepdims=True)
        return np.asarray(out)

    def starts(self, states: tuple[np.ndarray, ...]) -> np.ndarray:
        """States at the segments' first nodes, ``(d, M)``, from states at the rows."""
        out = np.zeros((self.dim, self.segments))
        for where, rows in zip(self.place, states, strict=True):
            first = where[:, 0] == 0
            out[:, where[first, 1]] = rows[first].T
        return out

    def at_rows(self, nodes: np.ndarray) -> tuple[np.ndarray, ...]:
        """Values at nodes ``(Q + 1, d, M)`` as one ``(n, d)`` array per trajectory."""
        return tuple(nodes[where[:, 0], :, where[:, 1]] for where in self.place)


def arrange(
    dataset: Dataset,
    shape: tuple[np.ndarray, ...],
    intervals: int | None = INTERVALS,
    most: int = MOST_SEGMENTS,
) -> Layout:
    """Cut the trajectories into segments.

    Args:
        dataset: scaled data.
        shape: the noise's shape per trajectory, ``(n, d)``.
        intervals: intervals per segment, raised where there would be more than ``most``
            segments; None keeps each trajectory whole.
        most: number of segments.
    """
    total = sum(len(part.t) - 1 for part in dataset.trajectories)
    wanted = None if intervals is None else max(intervals, -(-total // most))
    cuts: list[tuple[int, int, int]] = []  # trajectory, first row, last row
    for i, part in enumerate(dataset.trajectories):
        count = len(part.t) - 1
        pieces = 1 if wanted is None else max(1, round(count / wanted))
        edges = np.linspace(0, count, pieces + 1).round().astype(int)
        cuts += [(i, int(a), int(b)) for a, b in itertools.pairwise(edges)]
    return _fill(dataset, shape, cuts)


def _fill(
    dataset: Dataset, shape: tuple[np.ndarray, ...], cuts: list[tuple[int, int, int]]
) -> Layout:
    d, m, segments = dataset.dim, len(dataset.inputs), len(cuts)
    most = max(b - a for _, a, b in cuts)
    step = np.zeros((most, segments))
    y = np.zeros((most + 1, d, segments))
    weight = np.zeros((most + 1, d, segments))
    inputs = np.zeros((most + 1, m, segments))
    linked = np.zeros(segments, dtype=bool)
    place = [np.zeros((len(part.t), 2), dtype=int) for part in dataset.trajectories]
    for s, (i, a, b) in enumerate(cuts):
        part = dataset.trajectories[i]
        step[: b - a, s] = np.diff(part.t[a : b + 1])
        inputs[: b - a + 1, :, s] = part.u[a : b + 1]
        inputs[b - a + 1 :, :, s] = part.u[b]
        linked[s] = b < len(part.t) - 1
        stop = b if linked[s] else b + 1
        rows = np.arange(a, stop)
        place[i][rows] = np.stack([rows - a, np.full(len(rows), s)], axis=1)
        seen = np.isfinite(part.y[rows])
        y[rows - a, :, s] = np.where(seen, part.y[rows], 0.0)
        weight[rows - a, :, s] = np.where(seen, 1.0 / shape[i][rows], 0.0)
    low, high = dataset.range
    used = weight > 0
    return Layout(
        step=step,
        y=y,
        weight=weight,
        inputs=inputs,
        linked=linked,
        place=tuple(place),
        low=low - 4 * (high - low),
        high=high + 4 * (high - low),
        counts=used.sum((0, 2)),
        log_shape=-float(np.log(weight[used]).sum()),
    )
