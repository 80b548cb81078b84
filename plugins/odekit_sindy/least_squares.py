"""Small nonlinear least squares, many side by side: for problems that need no integration.

For one problem ``scipy.optimize.least_squares`` is the better choice.

Shapes: ``B`` problems, ``c`` unknowns, ``r`` residuals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Residual: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Numbers ``(B, c)`` to residuals ``(B, r)`` and their Jacobian ``(B, r, c)``."""


def minimise(
    residual: Residual, theta: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt from several starts side by side.

    Args:
        residual: what to make small.
        theta: starts, ``(B, c)``.
        iterations: at most.

    Returns:
        The minimisers ``(B, c)`` and their sums of squares ``(B,)``.
    """
    theta = theta.copy()
    c = theta.shape[1]
    r, jac = residual(theta)
    cost = (r**2).sum(1)
    if not c:
        return theta, cost
    lam = np.full(len(theta), 1e-2)
    at = np.arange(c)
    for _ in range(iterations):
        h = jac.transpose(0, 2, 1) @ jac
        g = (jac.transpose(0, 2, 1) @ r[:, :, None])[:, :, 0]
        own = h[:, at, at].copy()
        h[:, at, at] += lam[:, None] * own + 1e-12 * own.mean(1, keepdims=True) + 1e-30
        step = np.nan_to_num(-np.linalg.solve(h, g[:, :, None])[:, :, 0])
        trial = theta + step
        new, slope = residual(trial)
        value = (new**2).sum(1)
        better = value < cost
        gain = np.where(better, 1 - value / np.maximum(cost, 1e-300), 0.0)
        theta[better], r[better], jac[better] = trial[better], new[better], slope[better]
        cost = np.where(better, value, cost)
        lam = np.where(better, np.maximum(lam / 5, 1e-9), np.minimum(lam * 6, 1e9))
        if np.all((gain < 1e-5) & (better | (lam > 1e6))):
            break
    return theta, cost
