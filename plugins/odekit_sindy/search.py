"""The decisive step: search over supports in trajectory space, judged by EBIC.

At the current fit the multiple-shooting residual is linearised in *all* library coefficients and
the segment states are projected out; what remains is a linear regression whose residuals are
those of the trajectories, not of slopes. Its best subsets and neighbours are verified by a
nonlinear refit, and the first group that lowers EBIC gives the next fit.

Shapes: ``d`` states, ``L`` functions, ``N`` data over all states; a support is a tuple of flat
    indices ``equation * L + function``.
Units: scaled; EBIC is in units of twice the log likelihood.
Source: the criterion with gamma = 1 is J. Chen, Z. Chen, "Extended Bayesian information criteria
    for model selection with large model spaces", Biometrika 95(3), 2008,
    doi:10.1093/biomet/asn034. Joint states and parameters with pruning by an information
    criterion: P. Meissner, J. Glasner, 2024, arXiv:2406.06707.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odekit_sindy.budget import Budget
from odekit_sindy.candidates import best_subsets, coefficients, largest_size, residual
from odekit_sindy.layout import Layout
from odekit_sindy.library import Library
from odekit_sindy.models import Models, Support
from odekit_sindy.shooting import FLOOR, Shooting

ROUNDS = 12
CHUNK = 8
GAIN = 1e-6
FAR = 0.3
AGAIN = 20.0
HOPELESS = 60.0
"""Linearised score above the best candidate's beyond which none is verified."""


@dataclass(frozen=True)
class Fitted:
    """One verified model.

    Attributes:
        support: flat indices, increasing.
        c: coefficients in that order.
        start: segment states ``(d, M)``.
        sigma: noise level from its residuals, ``(d,)``.
        rms: root mean square residual over the noise's shape, ``(d,)``.
        ebic: the criterion, lower is better.
    """

    support: Support
    c: np.ndarray
    start: np.ndarray
    sigma: np.ndarray
    rms: np.ndarray
    ebic: float


@dataclass(frozen=True)
class Start:
    """Where a search may begin: a support, rough coefficients, segment states."""

    support: Support
    c: np.ndarray
    start: np.ndarray


@dataclass(frozen=True)
class Linear:
    """Regression ``A c ~ y`` in trajectory space, as normal equations.

    Attributes:
        gram: ``A'A``, ``(d L, d L)``.
        right: ``A'y``, ``(d L,)``.
        square: ``y'y``.
        variance: residual variance at the current fit, per degree of freedom.
        condition: condition number of the active columns, each of unit length.
    """

    gram: np.ndarray
    right: np.ndarray
    square: float
    variance: float
    condition: float

    def residual(self, support: Support) -> float:
        """Residual sum of squares of the best coefficients on a support."""
        return residual(self.gram, self.right, self.square, support)


def is_far(fitted: Fitted) -> bool:
    """Whether some state is explained badly, so that a linearisation there is rough."""
    return bool(np.any(fitted.rms > FAR))


def penalty(layout: Layout, size: int) -> float:
    """What one term costs: ``log N + 2 log L``."""
    return float(np.log(layout.counts.sum()) + 2 * np.log(size))


def ebic(
    layout: Layout,
    size: int,
    rss: np.ndarray,
    gaps: np.ndarray,
    terms: int,
    floor: float = FLOOR,
) -> float:
    """The criterion of one model.

    Args:
        layout: the data.
        size: number of library functions.
        rss: squared residuals over the noise's shape, ``(d,)``.
        gaps: squared gaps between segments, ``(d,)``.
        terms: number of terms in all equations.
        floor: smallest noise level.
    """
    counts = layout.counts
    v = rss / counts + floor**2 + 10 * gaps / counts
    fit = float((counts * np.log(v)).sum()) + 2 * layout.log_shape
    return fit + terms * penalty(layout, size)


class SubsetSearch:
    """Search over the supports of one library.

    Args:
        shooting: the problem.
        budget: stops the search when time is up.
    """

    def __init__(self, shooting: Shooting[Library], budget: Budget) -> None:
        self.shooting = shooting
        self.budget = budget
        self.visited: dict[Support, Fitted] = {}

    @property
    def size(self) -> int:
        """Number of library functions."""
        return self.shooting.dynamics.size

    def fit_starts(self, starts: Sequence[Start]) -> list[Fitted]:
        """Fit all starts side by side from loose to tight, and sort them by EBIC."""
        models = self.as_models(starts)
        d = self.shooting.layout.dim
        sigma = np.ones((len(models), d))
        for tightness in (1.0, 10.0, 100.0):
            models = self.shooting.fit(models, sigma, tightness, 15)
        sigma = self.shooting.noise(models)
        for tightness in (10.0, 100.0):
            models = self.shooting.fit(models, sigma, tightness, 15)
        return sorted(self._judge(models), key=lambda fitted: fitted.ebic)

    def climb(self, fitted: Fitted) -> Fitted:
        """Rounds of linearise, propose, verify and accept, until nothing lowers EBIC."""
        tried = {fitted.support: -np.inf}
        for _ in range(ROUNDS):
            better = self._round(fitted, tried)
            if better is None:
                break
            fitted = self.polish(better)
            if self.budget.over:
                break
        return fitted

    def polish(self, fitted: Fitted, tightness: Sequence[float] = (100.0,)) -> Fitted:
        """Weights from the model's own residuals, and a refit."""
        models = self.as_models([fitted])
        for w in tightness:
            models = self.shooting.fit(models, self.shooting.noise(models), w, 10)
        polished = self._judge(models)[0]
        return polished if polished.ebic <= fitted.ebic else fitted

    def _round(self, fitted: Fitted, tried: dict[Support, float]) -> Fitted | None:
        # A support that failed from a much worse fit deserves another try from this one.
        linear = self.linearise(fitted)
        proposals = self.propose(fitted.support, linear)
        fresh = [
            (score, s) for score, s in proposals if s not in tried or fitted.ebic < tried[s] - AGAIN
        ]
        limit = fresh[0][0] + HOPELESS if fresh else 0.0
        fresh = [(score, s) for score, s in fresh if score < limit]
        fresh = fresh[: 8 * self.shooting.layout.dim]
        # Far from the noise the linearised scores are rough, so all are compared by their refits.
        chunk = len(fresh) if is_far(fitted) else CHUNK
        for i in range(0, len(fresh), max(chunk, 1)):
            supports = [s for _, s in fresh[i : i + chunk]]
            tried.update(dict.fromkeys(supports, fitted.ebic))
            best = min(self.verify(fitted, supports, linear), key=lambda f: f.ebic)
            if best.ebic < fitted.ebic - GAIN:
                return best
            if self.budget.over:
                return None
        return None

    def linearise(self, fitted: Fitted) -> Linear:
        """The regression in trajectory space at a fit, segment states projected out."""
        layout = self.shooting.layout
        wide = self.as_models([fitted]).widened()
        r, jac = self.shooting.dense(wide, fitted.sigma[None], 100.0)
        n_state = layout.dim * layout.segments
        q, _ = np.linalg.qr(jac[:, :n_state])
        a = jac[:, n_state:] - q @ (q.T @ jac[:, n_state:])
        a[:, vanished((a**2).sum(0), (jac[:, n_state:] ** 2).sum(0))] = 0.0
        r = r - q @ (q.T @ r)
        y = a @ wide.c[0] - r
        dof = max(int(layout.counts.sum()) - n_state - len(fitted.support), 1)
        active = a[:, list(fitted.support)]
        unit = active / np.maximum(np.linalg.norm(active, axis=0), 1e-300)
        condition = float(np.linalg.cond(unit)) if unit.size else 1.0
        return Linear(a.T @ a, a.T @ y, float(y @ y), max(float(r @ r) / dof, 1e-12), condition)

    def propose(self, support: Support, linear: Linear) -> list[tuple[float, Support]]:
        """Supports that differ in one equation, with their linearised score, best first."""
        size = self.size
        layout = self.shooting.layout
        price = penalty(layout, size)
        out: dict[Support, float] = {}
        for j in range(layout.dim):
            mine = np.arange(j * size, (j + 1) * size)
            others = [q for q in support if q // size != j]
            gram, right, square = project_out(linear, mine, others)
            now = tuple(q % size for q in support if q // size == j)
            for s in _neighbourhood(gram, right, square, now, size):
                rss = residual(gram, right, square, s)
                whole = tuple(sorted([*others, *(j * size + i for i in s)]))
                out[whole] = rss / linear.variance + price * len(whole)
        out.pop(support, None)
        return sorted((score, s) for s, score in out.items())

    def verify(self, fitted: Fitted, supports: Sequence[Support], linear: Linear) -> list[Fitted]:
        """Refit these supports by shooting, warm from the current states."""
        starts = [
            Start(s, coefficients(linear.gram, linear.right, s), fitted.start) for s in supports
        ]
        models = self.as_models(starts)
        sigma = np.repeat(fitted.sigma[None], len(models), axis=0)
        if is_far(fitted):  # loose gaps let the states leave a place where they are stuck
            models = self.shooting.fit(models, sigma, 1.0, 8)
        for tightness in (10.0, 100.0):
            models = self.shooting.fit(models, sigma, tightness, 8)
        return self._judge(models)

    def as_models(self, starts: Sequence[Start] | Sequence[Fitted]) -> Models:
        """These models side by side."""
        return Models.of(
            [s.support for s in starts], [s.c for s in starts], [s.start for s in starts], self.size
        )

    def _judge(self, models: Models) -> list[Fitted]:
        """Score every model, and remember the best fit of each support."""
        layout = self.shooting.layout
        rss, gaps = self.shooting.statistics(models)
        out = []
        for b in range(len(models)):
            support = models.support(b)
            rms = np.sqrt(rss[b] / layout.counts)
            value = ebic(layout, self.size, rss[b], gaps[b], len(support), self.shooting.floor)
            found = Fitted(
                support,
                models.values(b),
                models.start[b].copy(),
                np.sqrt(rms**2 + self.shooting.floor**2),
                rms,
                value if np.isfinite(value) else np.inf,
            )
            known = self.visited.get(support)
            if known is None or found.ebic < known.ebic:
                self.visited[support] = found
            out.append(found)
        return out


def project_out(
    linear: Linear, mine: np.ndarray, others: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Normal equations of the columns ``mine`` once the columns ``others`` are fitted freely."""
    gram, right = linear.gram[np.ix_(mine, mine)], linear.right[mine]
    if not others:
        return gram, right, linear.square
    rows = np.asarray(others, dtype=int)
    inner = linear.gram[np.ix_(rows, rows)]
    length = np.sqrt(np.maximum(np.diag(inner), 1e-300))
    inner = inner / length[:, None] / length + 1e-10 * np.eye(len(rows))
    cross = linear.gram[np.ix_(rows, mine)] / length[:, None]
    target = linear.right[rows] / length
    solved = np.linalg.solve(inner, np.column_stack([cross, target]))
    left = gram - cross.T @ solved[:, :-1]
    right = right - cross.T @ solved[:, -1]
    gone = vanished(np.diag(left), np.diag(gram))
    left[gone], left[:, gone], right[gone] = 0.0, 0.0, 0.0
    return left, right, float(linear.square - target @ solved[:, -1])


def vanished(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Columns whose squared length a projection has reduced to rounding errors."""
    return np.asarray(after <= 1e-12 * before)


def _neighbourhood(
    gram: np.ndarray, right: np.ndarray, square: float, now: Support, size: int
) -> set[Support]:
    """Best subsets, backward path, and all drops, additions and swaps of ``now``."""
    sets = {tuple(sorted(s)) for _, s in best_subsets(gram, right, square, largest_size(size))}
    rest = [q for q in range(size) if q not in now]
    drops = [tuple(x for x in now if x != q) for q in now]
    sets |= {s for s in drops if s}
    sets |= {tuple(sorted((*s, p))) for s in [now, *drops] for p in rest}
    return sets
