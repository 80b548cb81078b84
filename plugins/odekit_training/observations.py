"""Observed series made ready for a trainer: clean rows, scales, smoothed states and slopes.

The smoother is a cubic spline chosen by generalised cross-validation. It only supplies starting
values and a first idea of the noise; what is fitted is always the data.

Shapes: trajectory ``i`` has ``t (n_i,)`` and ``y (n_i, d)`` with NaN where a value is missing.
Units: the caller's; all tensors are float64.
Source: P. Craven, G. Wahba, "Smoothing noisy data with spline functions", Numerische Mathematik
    31, 1979, pp. 377-403, doi:10.1007/BF01404567, as computed by SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odekit import ProblemError, TimeSeries
from odekit.training import check_series


@dataclass(frozen=True)
class Trajectory:
    """One series: its rows, and a smooth curve through them.

    Attributes:
        t: ``(n,)``.
        y: ``(n, d)``; NaN means missing.
        smooth: ``(n, d)``, the spline at the data times.
        slope: ``(n, d)``, its derivative.
    """

    t: Tensor
    y: Tensor
    smooth: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Observations:
    """All series of one system.

    Attributes:
        trajectories: one per series.
        center: ``(d,)``, mean of the states.
        scale: ``(d,)``, their standard deviation, never zero.
        rate: ``(d,)``, standard deviation of the slopes, never zero.
        noise: ``(d,)``, first estimate of the noise's standard deviation.
        span: first and last time of all.
    """

    trajectories: list[Trajectory]
    center: Tensor
    scale: Tensor
    rate: Tensor
    noise: Tensor
    span: tuple[float, float]

    @property
    def dim(self) -> int:
        """The number of states."""
        return len(self.scale)


def observe(series: Sequence[TimeSeries]) -> Observations:
    """Check the series and take their measures.

    Raises:
        ProblemError: nothing to learn from, and why.
    """
    several = check_series(series)
    rows = [_rows(one, place) for place, one in enumerate(several)]
    y = torch.cat([y for _, y in rows])
    count = (~y.isnan()).sum(0)
    if bool((count < 2).any()):
        name = several[0].names[int(count.argmin())]
        raise ProblemError(f"state {name!r} has fewer than two values: nothing can be learned")
    center = y.nanmean(0)
    scale = (y - center).square().nanmean(0).sqrt()
    scale = torch.where(scale > 1e-12 * center.abs(), scale, center.abs().clamp(min=1e-12))
    trajectories, spare = [], []
    for t, table in rows:
        smooth, slope, excess = smooth_columns(t, table)
        trajectories.append(Trajectory(t, table, smooth, slope))
        spare.append(excess)
    span = (min(float(t[0]) for t, _ in rows), max(float(t[-1]) for t, _ in rows))
    slopes = torch.cat([one.slope for one in trajectories])
    rate = slopes.square().mean(0).sqrt()
    slowest = scale / (span[1] - span[0])
    noise = torch.stack(spare).square().nanmean(0).sqrt().nan_to_num(0.0)
    return Observations(trajectories, center, scale, rate.maximum(slowest), noise, span)


def _rows(series: TimeSeries, place: int) -> tuple[Tensor, Tensor]:
    """Times and values in float64, without the rows that hold no value at all."""
    t, y = series.t.double().cpu(), series.y.double().cpu()
    kept = ~y.isnan().all(-1)
    if int(kept.sum()) < 2:
        raise ProblemError(
            f"series {place} has {int(kept.sum())} rows with a value: at least two are needed"
        )
    return t[kept], y[kept]


def smooth_columns(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, slopes ``(n, d)`` and noise ``(d,)`` of a smooth curve through each column.

    A column with fewer than five values is joined by lines; a column without any is zero. The
    noise of a column too short to tell is NaN.
    """
    x, table = t.numpy(), y.numpy()
    values, slopes = np.zeros_like(table), np.zeros_like(table)
    noise = np.full(table.shape[1], np.nan)
    for j in range(table.shape[1]):
        there = ~np.isnan(table[:, j])
        if there.sum() >= 5:
            curve, noise[j] = _spline(x[there], table[there, j])
            values[:, j], slopes[:, j] = curve(x), curve.derivative()(x)
        elif there.any():
            values[:, j] = np.interp(x, x[there], table[there, j])
            slopes[:, j] = np.gradient(values[:, j], x)
    return torch.from_numpy(values), torch.from_numpy(slopes), torch.from_numpy(noise)


def _spline(x: Any, y: Any) -> tuple[Any, float]:
    """The smoothing spline of one column and its noise."""
    from scipy.interpolate import make_interp_spline, make_smoothing_spline

    spread = y.std()
    if spread == 0.0:
        return make_interp_spline(x, y, k=3), 0.0
    span = x[-1] - x[0]
    unit = (x - x[0]) / span * len(x)
    try:
        smooth = make_smoothing_spline(unit, y / spread)
        fitted = smooth(unit) * spread
    except (ValueError, np.linalg.LinAlgError):  # times too uneven for its banded system
        fitted = y
    curve = make_interp_spline(x, fitted, k=3)
    return curve, float(np.sqrt(np.mean((fitted - y) ** 2)))
