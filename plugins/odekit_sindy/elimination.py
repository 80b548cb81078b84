"""Starts from above: the whole library fitted to short segments, then thinned term by term.

Where samples are few, slopes of a smoother are poor, and so are all supports chosen by them. Over
one or two intervals, though, even a rough model stays near the data, so that the coefficients of
*all* functions can be fitted at once by multiple shooting, with no slope in between. Terms that
the trajectories do not need are then eliminated, with refits on the way, since the linearisation
at a crowded model is rough. The fit of the whole library also says how well any of its models can
do, which no smoother knows.

Shapes: ``d`` states, ``L`` functions; supports hold flat indices ``equation * L + function``.
Units: scaled.
Source: joint fits of states and coefficients with pruning by an information criterion:
    P. Meissner, J. Glasner, 2024, arXiv:2406.06707.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odekit_sindy.budget import Budget
from odekit_sindy.candidates import coefficients, normalised, ridge
from odekit_sindy.data import Dataset
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.models import Support
from odekit_sindy.search import Fitted, Linear, Start, SubsetSearch
from odekit_sindy.shooting import Shooting
from odekit_sindy.smoothing import Smoothed

INTERVALS = (2, 1, 3)
RIDGES = (1e-2, 1e-1)
LOOSE = (0.3, 1.0, 3.0, 10.0, 30.0)
NOISE = (0.02, 0.1)
"""Noise levels, relative to a state's standard deviation, that the first fits may assume."""

MOST_SEGMENTS = 160
DATA_PER_TERM = 2.0
ROUNDS = 8
THINNED = 2


@dataclass(frozen=True)
class Whole:
    """A fit of all functions, in a search of its own.

    Attributes:
        search: over the library, with short segments.
        fitted: the fit.
    """

    search: SubsetSearch
    fitted: Fitted

    @property
    def fit(self) -> float:
        """The criterion without the price of the terms."""
        return unpriced(self.search, self.fitted)

    @property
    def noise(self) -> np.ndarray:
        """Noise level per state ``(d,)``, corrected for the number of terms."""
        layout = self.search.shooting.layout
        counts = np.maximum(layout.counts, 1)
        free = counts - self.search.size - np.sum(~layout.linked)
        inflation = counts / np.maximum(free, 0.25 * counts)
        return np.asarray(self.fitted.rms * np.sqrt(inflation))


def unpriced(search: SubsetSearch, fitted: Fitted) -> float:
    """The criterion of a fit without the price of its terms."""
    return fitted.ebic - search.price(fitted.support)


def wholes(
    dataset: Dataset,
    smoothings: Sequence[Smoothed],
    library: Library,
    budget: Budget,
    floor: float,
) -> list[Whole]:
    """Fits of the whole library from several starts and segment lengths, best first.

    Args:
        dataset: scaled data.
        smoothings: smoothed data, for first states and slopes; the first gives the noise's shape,
            and there is a second only where the first is in doubt.
        library: candidate functions.
        budget: time limit.
        floor: smallest noise level.

    Returns:
        One fit per segment length; none where the data are too few for the library.
    """
    if dataset.counts.sum() < DATA_PER_TERM * library.size * dataset.dim:
        return []
    out: list[Whole] = []
    # Well sampled data leave little to chance: one length of segments is enough.
    for intervals in INTERVALS if len(smoothings) > 1 else INTERVALS[:1]:
        layout = arrange(dataset, smoothings[0].shape, intervals, MOST_SEGMENTS)
        if any(layout.segments == whole.search.shooting.layout.segments for whole in out):
            continue
        if budget.over:
            break
        search = SubsetSearch(Shooting(layout, library, floor=floor), budget)
        out.append(Whole(search, _fit_all(search, smoothings)))
    return sorted(out, key=lambda whole: whole.fit)


def wanting(search: SubsetSearch, best: Fitted, whole: Whole) -> bool:
    """Whether a whole library explains more than chance lets it, compared with a sparse model."""
    extra = max(len(whole.fitted.support) - len(best.support), 1)
    chance = extra + 2 * np.sqrt(2 * extra) + float(whole.search.prices.min())
    return bool(unpriced(search, best) - whole.fit > chance)


def hopeless(smaller: Whole, larger: Sequence[Whole]) -> bool:
    """Whether no model of a library can be the answer: the next one wins with all of its terms.

    Args:
        smaller: a fit of the library.
        larger: fits of the next library, best first; may be empty.
    """
    if not larger:
        return False
    dim = smaller.search.shooting.layout.dim
    return smaller.fit + dim * float(smaller.search.prices.min()) > larger[0].fitted.ebic


def eliminated(found: Sequence[Whole], search: SubsetSearch) -> list[Start]:
    """What is left of the best fits after elimination, as starts of a search.

    Args:
        found: from `wholes`.
        search: over the same library, usually with longer segments.
    """
    out: list[tuple[float, Start]] = []
    for whole in found[:THINNED]:
        if out and search.budget.over:
            break
        thinned = _thin(whole.search, whole.fitted)
        nodes, _ = whole.search.shooting.integrate(whole.search.as_models([thinned]))
        states = whole.search.shooting.layout.at_rows(nodes[:, 0])
        start = search.shooting.layout.starts(states)
        out.append((thinned.ebic, Start(thinned.support, thinned.c, start)))
    out.sort(key=lambda item: item[0])
    return [start for _, start in out]


def _fit_all(search: SubsetSearch, smoothings: Sequence[Smoothed]) -> Fitted:
    """The best fit of all functions, from ridge regressions on the smoothers' slopes."""
    shooting = search.shooting
    library, layout = shooting.dynamics, shooting.layout
    rules = library.rules
    allowed = np.ones(layout.dim * library.size) if rules is None else rules.allowed.reshape(-1)
    support = tuple(int(q) for q in np.flatnonzero(allowed))
    values, starts, sigma = [], [], []
    for smoothed in smoothings:
        samples = smoothed.samples
        a = library.evaluate(np.concatenate([samples.x, samples.u], axis=1).T).T
        for share in RIDGES:
            c = ridge(a, samples.dx, share)
            values.append(c.T.reshape(-1)[list(support)])
            starts.append(Start(support, values[-1], layout.starts(smoothed.states)))
            sigma.append(np.clip(smoothed.sigma, *NOISE))
    models = search.as_models(starts)
    noise = np.stack(sigma)
    for tightness in LOOSE:
        models = shooting.fit(models, noise, tightness, 15, 1e-3)
        noise = np.clip(shooting.noise(models), NOISE[0], 1.0)
    return min(search.judge(models), key=lambda fitted: fitted.ebic)


def _thin(search: SubsetSearch, fitted: Fitted) -> Fitted:
    """Eliminate terms in steps, with a refit after each."""
    best = fitted
    for _ in range(ROUNDS):
        if search.budget.over:
            break
        linear = search.linearise(fitted)
        support = elimination(linear, fitted.support, _costs(search))
        if len(support) == len(fitted.support):
            break
        c = coefficients(linear.gram, linear.right, support)
        models = search.as_models([Start(support, c, fitted.start)])
        for tightness in (10.0, 100.0):
            models = search.shooting.fit(models, fitted.sigma[None], tightness, 10)
        fitted = search.judge(models)[0]
        if fitted.ebic < best.ebic:
            best = fitted
    return best


def _costs(search: SubsetSearch) -> np.ndarray:
    """Price of each term; nothing is gained by giving up a forced one."""
    rules = search.shooting.dynamics.rules
    return (
        search.prices if rules is None else np.where(rules.forced.reshape(-1), -1e9, search.prices)
    )


def elimination(linear: Linear, support: Support, prices: np.ndarray) -> Support:
    """Half of the way down the path of backward elimination to its best support.

    Args:
        linear: the regression in trajectory space.
        support: where to begin.
        prices: of each term, ``(d L,)``.
    """
    rows = np.asarray(support, dtype=int)
    unit, right, _ = normalised(linear.gram[np.ix_(rows, rows)], linear.right[rows])
    inverse = np.linalg.pinv(unit + 1e-10 * np.eye(len(rows)), hermitian=True)
    c = inverse @ right
    active, scores, order, cost = list(range(len(rows))), [], [], 0.0
    while len(active) > 1:
        with np.errstate(over="ignore"):  # infinite is dear enough
            increase = c**2 / np.maximum(np.diag(inverse), 1e-300) / linear.variance
        net = increase - prices[rows[active]]
        worst = int(np.argmin(net))
        cost += float(net[worst])
        order.append(active.pop(worst))
        scores.append(cost)
        column = inverse[:, worst] / inverse[worst, worst]
        keep = np.arange(len(c)) != worst
        c = (c - column * c[worst])[keep]
        inverse = (inverse - np.outer(column, inverse[worst]))[np.ix_(keep, keep)]
    if not scores or min(scores) >= 0:
        return support
    down = int(np.argmin(scores)) + 1
    down = down if down <= 3 else -(-down // 2)
    gone = {int(rows[i]) for i in order[:down]}
    return tuple(q for q in support if q not in gone)
