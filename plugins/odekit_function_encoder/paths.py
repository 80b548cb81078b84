"""Smooth paths through observed points, and quadrature nodes along them.

Shapes: ``n`` rows, ``n - 1`` intervals, two Gauss-Legendre nodes in each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from odekit import ProblemError, TimeSeries


@dataclass(frozen=True)
class Path:
    """One trajectory, smoothed.

    Attributes:
        t: ``(n,)``.
        y: ``(n, d)``, the path at the data times; no gaps.
        nodes: ``(n - 1, 2, d)``, the path at the quadrature nodes of every interval.
    """

    t: Tensor
    y: Tensor
    nodes: Tensor

    @property
    def h(self) -> Tensor:
        """``(n - 1,)``, lengths of the intervals."""
        return self.t.diff()


def trace(series: TimeSeries) -> Path:
    """The path of one series; NaN are filled.

    Raises:
        ProblemError: a state with fewer than two values.
    """
    t, y = series.t.cpu().numpy(), series.y.double().cpu().numpy()
    h = np.diff(t)
    offsets = 0.5 + np.array([-0.5, 0.5]) / np.sqrt(3.0)
    inner = (t[:-1, None] + h[:, None] * offsets).reshape(-1)
    rows, nodes = np.empty_like(y), np.empty((len(inner), y.shape[1]))
    for j in range(y.shape[1]):
        there = ~np.isnan(y[:, j])
        if there.sum() < 2:
            raise ProblemError(f"state {series.names[j]!r} has fewer than two values in a series")
        rows[:, j], nodes[:, j] = _column(t[there], y[there, j], t, inner)
    shape = (len(h), 2, y.shape[1])
    return Path(series.t.cpu(), torch.from_numpy(rows), torch.from_numpy(nodes.reshape(shape)))


def _column(x: np.ndarray, y: np.ndarray, *at: np.ndarray) -> list[np.ndarray]:
    """A smoothing spline, or with fewer than five values a lower spline through them."""
    from scipy.interpolate import make_interp_spline, make_smoothing_spline

    if len(x) < 5 or y.std() == 0.0:
        curve = make_interp_spline(x, y, k=min(3, len(x) - 1))
    else:
        unit = (x - x[0]) / (x[-1] - x[0]) * len(x)
        try:
            fitted = make_smoothing_spline(unit, y / y.std())(unit) * y.std()
        except (ValueError, np.linalg.LinAlgError):  # times too uneven for its banded system
            fitted = y
        curve = make_interp_spline(x, fitted, k=3)
    return [curve(points) for points in at]
