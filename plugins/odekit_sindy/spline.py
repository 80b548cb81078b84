"""The smoother for long series: a penalised cubic spline in time for one state.

The smoothing parameter is chosen by generalised cross-validation and shared by all trajectories,
each of which has its own curve; values may be missing and times irregular. Time and memory grow
in proportion to the number of points, so thousands of points take a fraction of a second. For a
hundred points prefer the Gaussian process of `gaussian_process`: cross-validation of few points
now and then takes noise for signal, and its slopes are the rougher ones.

Shapes: ``n`` observed times of one trajectory, ``q`` query times, ``p`` smoothing parameters.
Units: those of the caller; internally time is counted in mean steps.
Source: C. H. Reinsch, "Smoothing by spline functions", Numerische Mathematik 10, 1967,
    doi:10.1007/BF02162161; P. Craven, G. Wahba, "Smoothing noisy data with spline functions",
    Numerische Mathematik 31, 1979, doi:10.1007/BF01404567; the trace in linear time is
    M. F. Hutchinson, F. R. de Hoog, "Smoothing noisy data with spline functions", Numerische
    Mathematik 47, 1985, doi:10.1007/BF01389878.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import cho_solve_banded, cholesky_banded

from odekit_sindy.gaussian_process import Series

PER_DECADE = 4
SMALLEST = 1e-6
"""Smoothing parameter, with time in mean steps, at which a curve passes through its points."""

ROUNDING = 1e-28
"""Squared residual, relative to the variance of the values, that counts as none."""


@dataclass(frozen=True)
class SmoothingSpline:
    """Fitted curves, one per trajectory.

    Attributes:
        series: what they were fitted to.
        values: smoothed values at the observed times, ``(n,)`` per trajectory.
        mean: of all observed values, for trajectories that have none.
        penalty: the smoothing parameter, with time in mean steps.
        freedom: effective number of numbers that were fitted.
        sigma: noise level in the caller's unit, where ``shape`` is one.
        evidence: log density of the observed values in the caller's units, each predicted from
            all others.
    """

    series: tuple[Series, ...]
    values: tuple[np.ndarray, ...]
    mean: float
    penalty: float
    freedom: float
    sigma: float
    evidence: float

    def predict(self, index: int, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and slope of trajectory ``index`` at ``query (q,)``, each ``(q,)``.

        Before the first and after the last observed value the curve is a straight line.
        """
        t, g = self.series[index].t, self.values[index]
        if len(t) < 2:
            return np.full(len(query), g[0] if len(t) else self.mean), np.zeros(len(query))
        curve = CubicSpline(t, g, bc_type="natural")
        inside = np.clip(query, t[0], t[-1])
        slope = np.asarray(curve(inside, 1))
        return np.asarray(curve(inside)) + slope * (query - inside), slope


@dataclass(frozen=True)
class _Bands:
    """Reinsch's equations ``(R + p Q'HHQ) m = Q'y`` of one trajectory, ``m (n - 2,)``.

    Matrices are banded, row ``k`` holding the ``k``-th subdiagonal; ``H`` is the noise's shape.

    Attributes:
        second: ``Q``, the second differences: three weights per row of ``Q'``, ``(3, n - 2)``.
        stiff: ``R``, ``(3, n - 2)``.
        noise: ``Q'HHQ``, ``(3, n - 2)``.
        right: ``Q'y``, ``(n - 2,)``.
        shape: ``H``, ``(n,)``.
    """

    second: np.ndarray
    stiff: np.ndarray
    noise: np.ndarray
    right: np.ndarray
    shape: np.ndarray

    @classmethod
    def of(cls, t: np.ndarray, y: np.ndarray, shape: np.ndarray) -> _Bands:
        """The equations of observed values, all ``(n,)``."""
        step = np.diff(t)
        before, after = 1 / step[:-1], 1 / step[1:]
        second = np.stack([before, -before - after, after])
        size = len(t) - 2
        stiff, noise = np.zeros((3, size)), np.zeros((3, size))
        stiff[0] = (step[:-1] + step[1:]) / 3
        stiff[1, :-1] = step[1:-1] / 6
        h = shape**2
        local = np.stack([h[:-2], h[1:-1], h[2:]])
        noise[0] = (second**2 * local).sum(0)
        noise[1, :-1] = (second[1:, :-1] * second[:2, 1:] * local[1:, :-1]).sum(0)
        noise[2, :-2] = second[2, :-2] * second[0, 2:] * local[2, :-2]
        right = second[0] * y[:-2] + second[1] * y[1:-1] + second[2] * y[2:]
        return cls(second, stiff, noise, right, shape)

    def residual(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Values less curve ``(n,)``, and the Cholesky factor of the equations, banded."""
        factor = cholesky_banded(self.stiff + penalty * self.noise, lower=True)
        m = penalty * cho_solve_banded((factor, True), self.right)
        out = np.zeros(len(m) + 2)
        for k in range(3):
            out[k : k + len(m)] += self.second[k] * m
        return out * self.shape**2, factor

    def spare(self, penalties: np.ndarray, factors: Sequence[np.ndarray]) -> np.ndarray:
        """Degrees of freedom that each of the ``p`` parameters leaves, ``(p,)``."""
        own, near, far = (self.noise[k] @ band for k, band in enumerate(inverse_bands(factors)))
        return np.asarray(penalties * (own + 2 * near + 2 * far))

    def room(self, penalty: float, factor: np.ndarray) -> np.ndarray:
        """One less the weight of each value in its own smoothed value, ``(n,)``."""
        own, near, far = inverse_bands([factor])[:, :, 0]
        w, size = self.second, len(self.right)
        out = np.zeros(size + 2)
        for k in range(3):
            out[k : k + size] += w[k] ** 2 * own
        for k in (1, 2):
            out[k : k + size - 1] += 2 * w[k, :-1] * w[k - 1, 1:] * near[:-1]
        out[2:-2] += 2 * w[2, :-2] * w[0, 2:] * far[:-2]
        return np.asarray(out * penalty * self.shape**2)


def inverse_bands(factors: Sequence[np.ndarray]) -> np.ndarray:
    """The three bands of the inverse of ``p`` matrices ``(m, m)``, ``(3, m, p)``.

    They follow from the bands of the Cholesky factors ``(3, m)`` alone, from the last row upwards.
    """
    stack = np.stack(factors, axis=-1)
    inverse = 1 / stack[0] ** 2
    one, two = stack[1] / stack[0], stack[2] / stack[0]
    out = np.zeros_like(stack)
    first = second = cross = np.zeros(stack.shape[2])
    for i in range(stack.shape[1] - 1, -1, -1):
        far = -one[i] * cross - two[i] * second
        near = -one[i] * first - two[i] * cross
        own = inverse[i] - one[i] * near - two[i] * far
        out[0, i], out[1, i], out[2, i] = own, near, far
        first, second, cross = own, first, near
    return out


def fit(series: Sequence[Series]) -> SmoothingSpline:
    """Fit one curve per trajectory, all with the smoothing parameter that predicts best."""
    y = np.concatenate([part.y for part in series])
    mean, variance = float(y.mean()), float(y.var())
    steps = np.concatenate([np.diff(part.t) for part in series])
    unit = float(steps.mean()) if len(steps) else 1.0
    bands = {
        i: _Bands.of(part.t / unit, part.y, part.shape)
        for i, part in enumerate(series)
        if len(part.t) > 2
    }
    values = [part.y for part in series]
    if not bands:
        return SmoothingSpline(
            tuple(series), tuple(values), mean, SMALLEST, float(len(y)), 0.0, 0.0
        )
    longest = max(len(band.right) for band in bands.values())
    decades = np.log10(longest) * 4 + 2 - np.log10(SMALLEST)
    penalties = np.logspace(0, decades, round(PER_DECADE * decades) + 1) * SMALLEST
    square, spare = np.zeros(len(penalties)), np.zeros(len(penalties))
    for i, band in bands.items():
        pairs = [band.residual(float(p)) for p in penalties]
        square += [float(((e / series[i].shape) ** 2).sum()) for e, _ in pairs]
        spare += band.spare(penalties, [factor for _, factor in pairs])
    square = square + ROUNDING * variance * len(y)
    best = int(np.argmin(square / spare**2))
    penalty = float(penalties[best])
    sigma = float(np.sqrt(square[best] / spare[best]))
    evidence = 0.0
    for i, band in bands.items():
        error, factor = band.residual(penalty)
        values[i] = series[i].y - error
        # Weights make some values steer the curve much more than others: no average will do.
        evidence += _density(error / series[i].shape, band.room(penalty, factor), sigma)
        evidence -= float(np.log(series[i].shape).sum())
    freedom = len(y) - float(spare[best])
    return SmoothingSpline(tuple(series), tuple(values), mean, penalty, freedom, sigma, evidence)


def _density(error: np.ndarray, room: np.ndarray, sigma: float) -> float:
    """Log density of values, each predicted from the others by the curve without it.

    Args:
        error: values less curve over the noise's shape, ``(n,)``.
        room: see `_Bands.room`, ``(n,)``.
        sigma: noise level.
    """
    variance = sigma**2 / np.maximum(room, 1e-12)
    apart = error / np.maximum(room, 1e-12)
    return float(-0.5 * (np.log(2 * np.pi * variance) + apart**2 / variance).sum())
