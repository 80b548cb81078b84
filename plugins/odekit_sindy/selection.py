"""PySINDy optimizers that choose the size of a model without a threshold in the data's units.

`BestSubset` finds the best support of every size and takes the one beyond which a further term
no longer pays: each has to halve the squared residual at least, and to do better than chance for
the number of independent observations. `Normalised` lets one of PySINDy's own optimizers work on
columns and slopes of unit size, so that a threshold means a share of the slope.

Both work on averages along trajectories, see `averaging`. PySINDy is imported here, and only
here, at module level: import this module when it is needed.

Shapes: ``x (n, L)`` library values, ``y (n, d)`` slopes, ``coef_ (d, L)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np
from pysindy.optimizers import SR3, SSR, STLSQ
from pysindy.optimizers.base import BaseOptimizer

from odekit_sindy.averaging import Averaging
from odekit_sindy.candidates import best_by_size, coefficients

HALF = float(np.log(2.0))
NUMERICAL = 1e-11
"""Squared residual, relative to the squared slopes, that counts as none."""


@final
class BestSubset(BaseOptimizer):  # type: ignore[misc]
    """The best support of each equation, its size chosen by what each further term gains.

    Args:
        averaging: rows to averages.
        most: largest number of terms per equation.
    """

    def __init__(self, averaging: Averaging, most: int = 10) -> None:
        super().__init__(unbias=False)
        self.averaging = averaging
        self.most = most

    def _reduce(self, x: np.ndarray, y: np.ndarray) -> None:
        a, b = _averaged(self.averaging, x), _averaged(self.averaging, y)
        self.coef_ = np.zeros((b.shape[1], a.shape[1]))
        for j in range(b.shape[1]):
            support = choose(a, b[:, j], self.averaging.independent, self.most)
            if support:
                gram, right = a.T @ a, a.T @ b[:, j]
                self.coef_[j, list(support)] = coefficients(gram, right, support)


@final
class Normalised(BaseOptimizer):  # type: ignore[misc]
    """Another optimizer on averages, with columns and slopes of root mean square one.

    Args:
        make: the optimizer that selects, made for the columns it will see, ``(windows, L)``.
        averaging: rows to averages.
    """

    def __init__(self, make: Callable[[np.ndarray], Any], averaging: Averaging) -> None:
        super().__init__(unbias=False)
        self.make = make
        self.averaging = averaging

    def _reduce(self, x: np.ndarray, y: np.ndarray) -> None:
        a, b = _averaged(self.averaging, x), _averaged(self.averaging, y)
        columns, slopes = _size(a), _size(b)
        inner = self.make(a / columns)
        inner.fit(a / columns, b / slopes)
        self.coef_ = np.asarray(inner.coef_) * slopes[:, None] / columns


def named(name: str, threshold: float, averaging: Averaging) -> Any:
    """The optimizer of this name; ``threshold`` is a share of the slope's size."""
    if name == "best_subset":
        return BestSubset(averaging)

    def make(a: np.ndarray) -> Any:
        if name == "stlsq":
            return STLSQ(threshold=threshold, alpha=1e-8)
        if name == "sr3":
            weight = SR3.calculate_l0_weight(threshold, 1.0)
            return SR3(reg_weight_lam=weight, regularizer="L0", max_iter=10_000, tol=1e-8)
        # SSR charges kappa times the condition number for a term, in squared residuals.
        return SSR(alpha=1e-8, kappa=len(a) * threshold**2 / float(np.linalg.cond(a)))

    return Normalised(make, averaging)


def choose(a: np.ndarray, y: np.ndarray, independent: float, most: int) -> tuple[int, ...]:
    """The support whose next term no longer pays.

    Args:
        a: ``(windows, L)``.
        y: ``(windows,)``.
        independent: number of independent observations among the windows.
        most: largest size.
    """
    yy = float(y @ y)
    if yy <= 0:
        return ()
    gram, right = a.T @ a, a.T @ y
    chance = (np.log(max(independent, 2.0)) + 2 * np.log(a.shape[1])) / max(independent, 1.0)
    price = max(HALF, float(chance))
    best = 0.0
    chosen: tuple[int, ...] = ()
    for k, support in best_by_size(a, y, most).items():
        rss = yy - coefficients(gram, right, support) @ right[list(support)]
        score = float(np.log(max(rss / yy, NUMERICAL))) + k * price
        if score < best:
            best, chosen = score, support
    return chosen


def _averaged(averaging: Averaging, values: np.ndarray) -> np.ndarray:
    return np.asarray(averaging.matrix @ np.asarray(values, dtype=np.float64))


def _size(values: np.ndarray) -> np.ndarray:
    size = np.sqrt((values**2).mean(0))
    return np.where(size > 0, size, 1.0)
