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
STEP = 5.0
"""Price of a higher rung: models of the next one are held to be a dozen times less likely."""

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


def prices(layout: Layout, library: Library) -> np.ndarray:
    """What each term costs, ``(d L,)``: ``log N + 2 log`` of the functions it competes with.

    A function competes with those of the smallest library of its kind that holds it, so a model
    costs the same on every rung, and a library's size is paid for only by the terms that need it.
    """
    each = np.log(layout.counts.sum()) + 2 * np.log(library.crowd)
    return np.tile(each, layout.dim)


def ebic(
    layout: Layout, rss: np.ndarray, gaps: np.ndarray, price: float, floor: float = FLOOR
) -> float:
    """The criterion of one model.

    Args:
        layout: the data.
        rss: squared residuals over the noise's shape, ``(d,)``.
        gaps: squared gaps between segments, ``(d,)``.
        price: of its terms together.
        floor: smallest noise level.
    """
    seen = layout.counts > 0
    counts = layout.counts[seen]
    # Gaps in a hidden state are paid for by those that were observed.
    gaps = gaps[seen] + gaps[~seen].sum()
    v = rss[seen] / counts + floor**2 + 10 * gaps / counts
    return float((counts * np.log(v)).sum()) + 2 * layout.log_shape + price


class SubsetSearch:
    """Search over the supports of one library.

    Args:
        shooting: the problem.
        budget: stops the search when time is up.
    """

    def __init__(self, shooting: Shooting[Library], budget: Budget) -> None:
        self.shooting = shooting
        self.shooting.stop = budget.spent
        self.budget = budget
        self.visited: dict[Support, Fitted] = {}
        self.prices = prices(shooting.layout, shooting.dynamics)
        self._starts = int((~shooting.layout.linked).sum())

    @property
    def size(self) -> int:
        """Number of library functions."""
        return self.shooting.dynamics.size

    def price(self, support: Support) -> float:
        """What the terms of a model cost together.

        With few data a term that means nothing lowers ``N log rss`` by ``N / (N - k)`` on average
        instead of one, ``k`` numbers being fitted to a state's ``N``; prices rise by as much.
        Every rung of the ladder that a model climbs costs `STEP` once.
        """
        flat = np.asarray(support, dtype=int)
        dim = self.shooting.layout.dim
        each = np.bincount(flat // self.size, self.prices[flat], dim)
        fitted = np.bincount(flat // self.size, minlength=dim) + self._starts + 1
        counts = np.maximum(self.shooting.layout.counts, 1)
        free = np.maximum(counts - fitted, counts / 4)
        climbed = int(self.shooting.dynamics.level[flat % self.size].max(initial=0))
        return float((each * counts / free).sum()) + STEP * climbed

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
        return sorted(self.judge(models), key=lambda fitted: fitted.ebic)

    def climb(self, fitted: Fitted) -> Fitted:
        """Rounds of linearise, propose, verify and accept, until nothing lowers EBIC."""
        tried = {fitted.support: -np.inf}
        for _ in range(ROUNDS):
            if self.budget.over:
                break
            better = self._round(fitted, tried)
            if better is None:
                break
            fitted = self.polish(self.resolved(better))
        return fitted

    def resolved(self, fitted: Fitted) -> Fitted:
        """The fit, after the number of substeps was chosen anew for it."""
        if self.budget.over:
            return fitted
        before = self.shooting.substeps
        models = self.as_models([fitted])
        after = self.shooting.choose_substeps(models, fitted.rms[None])
        self.shooting.substeps = after
        return fitted if after == before else self.judge(models)[0]

    def polish(self, fitted: Fitted, tightness: Sequence[float] = (100.0,)) -> Fitted:
        """Weights from the model's own residuals, and a refit."""
        if self.budget.over:
            return fitted
        models = self.as_models([fitted])
        for w in tightness:
            models = self.shooting.fit(models, self.shooting.noise(models), w, 10)
        polished = self.judge(models)[0]
        return polished if polished.ebic <= fitted.ebic else fitted

    def _round(self, fitted: Fitted, tried: dict[Support, float]) -> Fitted | None:
        # A support that failed from a much worse fit deserves another try from this one.
        linear = self.linearise(fitted)
        proposals = [] if self.budget.over else self.propose(fitted.support, linear)
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
                break
        return None

    def linearise(self, fitted: Fitted) -> Linear:
        """The regression in trajectory space at a fit, segment states projected out."""
        layout = self.shooting.layout
        wide = self.as_models([fitted]).widened()
        r, jac = self.shooting.dense(wide, fitted.sigma[None], 100.0)
        n_state = layout.dim * layout.segments
        rules = self.shooting.dynamics.rules
        if rules is not None:
            jac[:, n_state:][:, ~rules.allowed.reshape(-1)] = 0.0
        q, _ = np.linalg.qr(jac[:, :n_state])
        a = jac[:, n_state:] - q @ (q.T @ jac[:, n_state:])
        a[:, vanished((a**2).sum(0), (jac[:, n_state:] ** 2).sum(0))] = 0.0
        r = r - q @ (q.T @ r)
        y = a @ wide.c[0] - r
        # In units of the noise level, floor included: what lies below the floor is no news.
        dof = max(len(r) - n_state - len(fitted.support), 1)
        active = a[:, list(fitted.support)]
        unit = active / np.maximum(np.linalg.norm(active, axis=0), 1e-300)
        condition = float(np.linalg.cond(unit)) if unit.size else 1.0
        return Linear(a.T @ a, a.T @ y, float(y @ y), max(float(r @ r) / dof, 1.0), condition)

    def propose(self, support: Support, linear: Linear) -> list[tuple[float, Support]]:
        """Supports that differ in one equation, with their linearised score, best first."""
        size = self.size
        layout = self.shooting.layout
        rules = self.shooting.dynamics.rules
        out: dict[Support, float] = {}
        for j in range(layout.dim):
            mine = j * size + (np.arange(size) if rules is None else rules.free(j))
            if not len(mine):
                continue
            place = {int(q): i for i, q in enumerate(mine)}
            others = [q for q in support if q not in place]
            gram, right, square = project_out(linear, mine, others)
            now = tuple(place[q] for q in support if q in place)
            sign = None if rules is None or not rules.sign.any() else rules.sign.reshape(-1)[mine]
            empty = rules is not None and rules.may_be_empty(j)
            for s in _neighbourhood(gram, right, square, now, len(mine), sign, empty=empty):
                rss = residual(gram, right, square, s)
                whole = tuple(sorted([*others, *(int(mine[i]) for i in s)]))
                one = self.shooting.dynamics.canonical(whole)
                if one is not None:
                    out[one] = rss / linear.variance + self.price(one)
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
        return self.judge(models)

    def as_models(self, starts: Sequence[Start] | Sequence[Fitted]) -> Models:
        """These models side by side."""
        models = Models.of(
            [s.support for s in starts], [s.c for s in starts], [s.start for s in starts], self.size
        )
        rules = self.shooting.dynamics.rules
        return models if rules is None else models.signed(rules.signs(models))

    def judge(self, models: Models) -> list[Fitted]:
        """Score every model, and remember the best fit of each support."""
        layout = self.shooting.layout
        rss, gaps = self.shooting.statistics(models)
        rss[~self.shooting.dynamics.admits(models)] = np.inf
        out = []
        for b in range(len(models)):
            support = models.support(b)
            rms = np.sqrt(layout.mean_square(rss[b]))
            value = ebic(layout, rss[b], gaps[b], self.price(support), self.shooting.floor)
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
    gram: np.ndarray,
    right: np.ndarray,
    square: float,
    now: Support,
    size: int,
    sign: np.ndarray | None = None,
    *,
    empty: bool = False,
) -> set[Support]:
    """Best subsets, backward path, and all drops, additions and swaps of ``now``.

    With known signs only those whose least squares respect them; the empty one if it may be.
    """
    subsets = best_subsets(gram, right, square, largest_size(size), sign=sign)
    sets = {tuple(sorted(s)) for _, s in subsets}
    rest = [q for q in range(size) if q not in now]
    drops = [tuple(x for x in now if x != q) for q in now]
    sets |= {s for s in drops if s}
    sets |= {tuple(sorted((*s, p))) for s in [now, *drops] for p in rest}
    if sign is not None:
        sets = {s for s in sets if (coefficients(gram, right, s) * sign[list(s)] >= 0).all()}
    return sets | {()} if empty else sets
