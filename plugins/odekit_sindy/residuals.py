"""Residuals under test: their level against the noise, their memory, and errors of simulations.

Shapes: ``n`` rows of a trajectory, ``d`` states; ``shape`` is the noise's, ``(n, d)`` each.
Units: scaled.
Source: the test over several lags is G. M. Ljung, G. E. P. Box, "On a measure of lack of fit in
    time series models", Biometrika 65(2), 1978, doi:10.1093/biomet/65.2.297.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2
from scipy.stats import f as variance_ratio

from odekit_sindy.data import Dataset

EXCESS = 1.3
"""Ratio of residuals to noise that is no news however well the noise is known."""

RARE = 1e-3
LAGS = 8


def limits(
    dataset: Dataset,
    smoothed: Sequence[np.ndarray],
    shape: Sequence[np.ndarray],
    sigma: np.ndarray,
) -> np.ndarray:
    """Ratio of residuals to the smoother's noise beyond which chance does not explain it, ``(d,)``.

    The smoother knows the noise only as well as its degrees of freedom allow: few and fast rows
    leave it a handful. They are read off its own residuals, whose squares sum to the variance times
    the degrees of freedom; the limit is that of the variance-ratio test, at least `EXCESS`.

    Args:
        dataset: scaled data.
        smoothed: the smoother's states at the rows, ``(n, d)`` per trajectory.
        shape: the noise's shape, ``(n, d)`` per trajectory.
        sigma: the smoother's noise level, ``(d,)``.
    """
    out = np.full(dataset.dim, EXCESS)
    for j in range(dataset.dim):
        square = sum(float(e @ e) for e in residuals_of(dataset, smoothed, shape, j))
        degrees = max(square / max(float(sigma[j]) ** 2, 1e-300), 1.0)
        chance = variance_ratio.isf(RARE, int(dataset.counts[j]), degrees)
        out[j] = max(EXCESS, float(np.sqrt(chance)))
    return out


def residuals_of(
    dataset: Dataset, states: Sequence[np.ndarray], shape: Sequence[np.ndarray], j: int
) -> list[np.ndarray]:
    """Residuals of state ``j`` over the noise's shape, where observed, one array a trajectory."""
    out = []
    for part, x, h in zip(dataset.trajectories, states, shape, strict=True):
        seen = np.isfinite(part.y[:, j])
        out.append(((part.y[:, j] - x[:, j]) / h[:, j])[seen])
    return out


def memory(
    dataset: Dataset, states: Sequence[np.ndarray], shape: Sequence[np.ndarray]
) -> np.ndarray:
    """z-score of the lag-one correlation of residuals ``(d,)``, standard normal if white."""
    out = np.zeros(dataset.dim)
    for j in range(dataset.dim):
        found = _correlations(residuals_of(dataset, states, shape, j), 1)
        if found:
            out[j] = found[0][0] * np.sqrt(found[0][1])
    return out


def whiteness(
    dataset: Dataset, states: Sequence[np.ndarray], shape: Sequence[np.ndarray]
) -> np.ndarray:
    """Probability of the correlations over up to `LAGS` lags, were the residuals white, ``(d,)``.

    Negative correlations from one row to the next count as well; a fit that follows the noise
    makes them, and more than chance of them says that it follows too closely.
    """
    out = np.ones(dataset.dim)
    for j in range(dataset.dim):
        parts = residuals_of(dataset, states, shape, j)
        lags = min(LAGS, max(len(e) for e in parts) // 5)
        found = _correlations(parts, lags)
        if found:
            n = sum(len(e) for e in parts)
            total = n * (n + 2) * sum(rho**2 / pairs for rho, pairs in found)
            out[j] = float(chi2.sf(total, len(found)))
    return out


def _correlations(parts: Sequence[np.ndarray], lags: int) -> list[tuple[float, int]]:
    """Correlation and number of pairs for lags from one on, over all trajectories together."""
    square = float(sum(e @ e for e in parts))
    out = []
    for lag in range(1, lags + 1):
        pairs = sum(max(len(e) - lag, 0) for e in parts)
        if pairs > 0 and square > 0:
            product = sum(float(e[lag:] @ e[:-lag]) for e in parts if len(e) > lag)
            out.append((product / square, pairs))
    return out


def r2(dataset: Dataset, simulated: Sequence[np.ndarray]) -> list[float]:
    """R2 per trajectory over all states, each state in units of its standard deviation."""
    out = []
    for part, x in zip(dataset.trajectories, simulated, strict=True):
        error = np.nansum((part.y - x) ** 2)
        seen = np.maximum(np.isfinite(part.y).sum(0), 1)
        around = np.nansum((part.y - np.nansum(part.y, axis=0) / seen) ** 2)
        out.append(float(1 - error / around) if around > 0 else 0.0)
    return out


def excess(
    dataset: Dataset,
    simulated: Sequence[np.ndarray],
    shape: Sequence[np.ndarray],
    level: np.ndarray,
) -> list[float]:
    """Error of the simulation over the noise ``level (d,)``, per trajectory, the worst state's."""
    out = []
    for part, x, h in zip(dataset.trajectories, simulated, shape, strict=True):
        seen = np.isfinite(part.y)
        error = np.where(seen, (part.y - x) / h, 0.0)
        mean = (error**2).sum(0) / np.maximum(seen.sum(0), 1)
        out.append(float(np.sqrt(mean / level**2).max()))
    return out
