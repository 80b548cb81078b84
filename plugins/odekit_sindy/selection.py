"""PySINDy optimizers that choose the size of a model without a threshold in the data's units.

`BestSubset` finds the best support of every size and takes the one beyond which a further term
no longer pays: each has to halve the squared residual at least, and to do better than chance for
the number of independent observations. `Normalised` lets one of PySINDy's own optimizers work on
columns and slopes of unit size, so that a threshold means a share of the slope.

Both work on averages along trajectories, see `averaging`.

`supports_of` makes any optimizer a source of candidate supports for the search of `pipeline`,
which then decides by trajectories. Best subsets are the better source wherever they can be
enumerated; greedy and thresholding optimizers are there for comparison.

PySINDy is imported here, and only here, at module level: import this module when it is needed.

Shapes: ``x (n, L)`` library values, ``y (n, d)`` slopes, ``coef_ (d, L)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, final

import numpy as np
from pysindy.optimizers import FROLS, SR3, SSR, STLSQ
from pysindy.optimizers.base import BaseOptimizer

from odekit_sindy.averaging import Averaging
from odekit_sindy.candidates import Support, best_by_size, coefficients, residual

HALF = float(np.log(2.0))
NUMERICAL = 1e-11
"""Squared residual, relative to the squared slopes, that counts as none."""

THRESHOLDS = np.logspace(-3, 0, 25)
"""Thresholds that are tried one after another, as shares of the slope's size."""


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


def supports_of(
    optimizer: Any, most: int = 10
) -> Callable[[np.ndarray, np.ndarray], dict[int, Support]]:
    """The supports that an optimizer visits, as candidates: the best of each size.

    The optimizer sees columns and slopes of root mean square one, and is run along `THRESHOLDS`
    where it has a threshold; of those that go step by step, every step counts.

    Args:
        optimizer: ``"stlsq"``, ``"sr3"``, ``"ssr"``, ``"frols"``, or an optimizer of PySINDy,
            whose other settings are kept.
        most: largest size.

    Returns:
        A function of library values ``(q, L)`` and slopes ``(q,)``.
    """

    def path(a: np.ndarray, y: np.ndarray) -> dict[int, Support]:
        unit, slope = a / _size(a), y / float(_size(y))
        gram, right, square = unit.T @ unit, unit.T @ slope, float(slope @ slope)
        best: dict[int, tuple[float, Support]] = {}
        for support in sorted(set(_visited(optimizer, unit, slope))):
            k = len(support)
            if not 0 < k <= most:
                continue
            rss = residual(gram, right, square, support)
            if k not in best or rss < best[k][0]:
                best[k] = (rss, support)
        # An optimizer that drops everything still has to say where the search begins.
        return {k: best[k][1] for k in sorted(best)} or best_by_size(unit, slope, 1)

    return path


def _visited(optimizer: Any, a: np.ndarray, y: np.ndarray) -> Iterator[Support]:
    for each in _configured(optimizer, a.shape[1]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a path of thresholds goes too far by intention
            each.fit(a, y[:, None])
        for coef in (each.coef_, *getattr(each, "history_", ())):
            row = np.asarray(coef)
            if row.size == a.shape[1]:
                yield tuple(int(i) for i in np.flatnonzero(row))


def _configured(optimizer: Any, columns: int) -> list[Any]:
    """Unfitted copies of an optimizer, one for each threshold."""
    from sklearn.base import clone

    if optimizer == "ssr":
        return [SSR(alpha=1e-8, max_iter=columns)]
    if optimizer == "frols":
        return [FROLS(alpha=1e-8)]
    if isinstance(optimizer, str):
        first = {"stlsq": STLSQ(alpha=1e-8), "sr3": SR3(max_iter=1000, tol=1e-8)}
        optimizer = first[optimizer]
    for key in optimizer.get_params():
        name = key.split("__")[-1]
        if name == "threshold":
            return [_with(optimizer, key, float(v)) for v in THRESHOLDS]
        if name == "reg_weight_lam":
            return [_with(optimizer, key, SR3.calculate_l0_weight(v, 1.0)) for v in THRESHOLDS]
    return [clone(optimizer)]


def _with(optimizer: Any, key: str, value: float) -> Any:
    """An unfitted copy with another setting."""
    from sklearn.base import clone

    copy = clone(optimizer)
    copy.set_params(**{key: float(value)})
    return copy
