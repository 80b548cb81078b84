"""The smoother: a Gaussian process in time for one state, noise level included.

Squared-exponential covariance, fitted by maximum evidence with analytic gradients; several
trajectories share one set of hyper-parameters. Good for smooth states seen at least some five
times per oscillation; spikes between two samples are lost.

Shapes: ``n`` observed times of one trajectory, ``q`` query times.
Units: those of the caller; internally the values are centred per trajectory and divided by
    their common standard deviation.
Source: C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", MIT
    Press 2006, chapters 2 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack
from scipy.optimize import minimize

from odekit_sindy.budget import Stop, never

WINDOW, OVERLAP, PIECES = 300, 30, 4
JITTER = 1e-9


@dataclass(frozen=True)
class Series:
    """Observed values of one state in one trajectory.

    Attributes:
        t: ``(n,)``, increasing.
        y: ``(n,)``, finite.
        shape: ``(n,)``, the noise's standard deviation relative to the fitted level.
    """

    t: np.ndarray
    y: np.ndarray
    shape: np.ndarray


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process.

    Attributes:
        series: what it was fitted to.
        mean: of each trajectory.
        std: unit of the values.
        length: correlation time.
        amplitude: standard deviation of the signal, in units of ``std``.
        noise: standard deviation of the noise where ``shape`` is one, in units of ``std``.
        evidence: log density of the observed values in the caller's units.
    """

    series: tuple[Series, ...]
    mean: tuple[float, ...]
    std: float
    length: float
    amplitude: float
    noise: float
    evidence: float

    @property
    def sigma(self) -> float:
        """Noise level in the caller's unit."""
        return self.noise * self.std

    def predict(self, index: int, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and slope of trajectory ``index`` at ``query (q,)``, each ``(q,)``."""
        part = self.series[index]
        x, dx = np.full(len(query), self.mean[index]), np.zeros(len(query))
        for rows, low, high in _windows(part.t):
            t = part.t[rows]
            inside = (query >= low) & (query < high)
            if not inside.any():
                continue
            z = (part.y[rows] - self.mean[index]) / self.std
            lag = t[:, None] - t
            k = self.amplitude**2 * np.exp(-(lag**2) / (2 * self.length**2))
            k[np.diag_indices(len(t))] += (
                self.noise * part.shape[rows]
            ) ** 2 + JITTER * self.amplitude**2
            weights = cho_solve(cho_factor(k, lower=True), z)
            lag = query[inside, None] - t
            k = self.amplitude**2 * np.exp(-(lag**2) / (2 * self.length**2))
            x[inside] = self.std * (k @ weights) + self.mean[index]
            dx[inside] = self.std * ((-lag / self.length**2 * k) @ weights)
        return x, dx


def fit(series: Sequence[Series], most: float = 1.0, stop: Stop = never) -> GaussianProcess:
    """Fit correlation time, amplitude and noise by maximum evidence, from four starts.

    Long trajectories are cut into windows; the hyper-parameters come from a few of them.

    Args:
        series: one trajectory or several.
        most: highest noise, in units of the values' standard deviation.
        stop: asked before each step; once it says true, the best so far is the result.
    """
    pooled = float(np.concatenate([part.y for part in series]).mean())
    mean = tuple(float(part.y.mean()) if len(part.y) else pooled for part in series)
    centred = np.concatenate([part.y - m for part, m in zip(series, mean, strict=True)])
    std = float(np.sqrt((centred**2).mean()))
    std = std if std > 0 else 1.0
    blocks = _blocks(series, mean, std)
    steps = np.concatenate([np.diff(part.t) for part in series])
    step = float(np.median(steps)) if len(steps) else 1.0
    span = max(float(np.ptp(part.t)) for part in series if len(part.t))
    bounds = [
        (np.log(0.7 * step), np.log(max(2 * span, 1.4 * step))),
        (np.log(0.1), np.log(30.0)),
        (np.log(1e-5), np.log(most)),
    ]

    def halt(intermediate_result: object) -> None:
        if stop():
            raise StopIteration  # how SciPy is told that the point reached has to do

    best = None
    for length in (span / 20, span / 6):
        for noise in (0.02, 0.15):
            start = np.log([max(length, 2 * step), 1.0, noise])
            start = np.clip(start, [b[0] for b in bounds], [b[1] for b in bounds])
            if best is not None and stop():
                break
            found = minimize(
                negative_evidence,
                start,
                args=(blocks,),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": 60},
                callback=halt,
            )
            if best is None or found.fun < best.fun:
                best = found
    assert best is not None
    length, amplitude, noise = (float(v) for v in np.exp(best.x))
    count = sum(len(b.t) for b in blocks)
    total = sum(len(part.t) for part in series)
    log_density = -float(best.fun) * total / count - total * (np.log(std) + 0.5 * np.log(2 * np.pi))
    return GaussianProcess(tuple(series), mean, std, length, amplitude, noise, log_density)


def negative_evidence(theta: np.ndarray, blocks: Sequence[Series]) -> tuple[float, np.ndarray]:
    """Negative log evidence, without its constant, and its gradient.

    Args:
        theta: logarithms of correlation time, amplitude and noise.
        blocks: standardised values, independent of each other.
    """
    length, amplitude, noise = np.exp(theta)
    value, gradient = 0.0, np.zeros(3)
    for block in blocks:
        n = len(block.t)
        square = (block.t[:, None] - block.t) ** 2 / length**2
        signal = amplitude**2 * np.exp(-0.5 * square)
        own = (noise * block.shape) ** 2
        k = signal.copy()
        k[np.diag_indices(n)] += own + JITTER * amplitude**2
        chol, info = lapack.dpotrf(k, lower=1)
        if info:
            return 1e10, np.zeros(3)
        inverse, _ = lapack.dpotri(chol, lower=1)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        weights = inverse @ block.y
        value += 0.5 * block.y @ weights + np.log(np.diag(chol)).sum()
        core = inverse - np.outer(weights, weights)
        gradient[0] += 0.5 * np.sum(core * signal * square)
        gradient[1] += np.sum(core * signal) + JITTER * amplitude**2 * np.trace(core)
        gradient[2] += np.diag(core) @ own
    return value, gradient


def _blocks(series: Sequence[Series], mean: Sequence[float], std: float) -> list[Series]:
    blocks = []
    for part, m in zip(series, mean, strict=True):
        rows = [r for r, _, _ in _windows(part.t)]
        keep = rows if len(rows) <= PIECES else [rows[i] for i in _spread(len(rows))]
        blocks += [Series(part.t[r], (part.y[r] - m) / std, part.shape[r]) for r in keep]
    if sum(len(b.t) for b in blocks) > 2 * PIECES * WINDOW:
        stride = sum(len(b.t) for b in blocks) // (PIECES * WINDOW)
        blocks = blocks[::stride]
    return blocks


def _spread(count: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, PIECES)})


def _windows(t: np.ndarray) -> list[tuple[slice, float, float]]:
    """Rows of each window and the half-open span of times that it answers for."""
    n = len(t)
    if n == 0:
        return []
    if n <= WINDOW + 2 * OVERLAP:
        return [(slice(0, n), -np.inf, np.inf)]
    count = -(-n // WINDOW)
    edges = np.linspace(0, n, count + 1).astype(int)
    out = []
    for i in range(count):
        low = -np.inf if i == 0 else float(t[edges[i]])
        high = np.inf if i == count - 1 else float(t[edges[i + 1]])
        rows = slice(max(edges[i] - OVERLAP, 0), min(edges[i + 1] + OVERLAP, n))
        out.append((rows, low, high))
    return out
