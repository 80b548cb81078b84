"""The stages in order: scale, smooth, climb the ladder of libraries, settle the noise model.

Each stage is a module of its own and can be used alone: `data`, `smoothing`, `candidates`,
`shooting`, `search`. Here they are joined: every rung of the ladder is searched from several
starts; the ladder ends at the first rung that fits to the noise, unless a look at the next
library promises more.

Units: everything in scaled units; `Found.scales` leads back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from odekit_sindy.budget import Budget
from odekit_sindy.candidates import Support, best_by_size, choose_size, coefficients, time_blocks
from odekit_sindy.data import Dataset, Scales, first_scales, scaled
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.models import Models
from odekit_sindy.search import Fitted, Start, SubsetSearch, penalty
from odekit_sindy.shooting import FLOOR, Shooting
from odekit_sindy.smoothing import MARGIN, Samples, Smoothed, smooth

Slope = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A field in numpy: times ``(q,)`` and states ``(q, d)`` to slopes ``(q, d)``."""

AT_NOISE = 1.1
RESTART = 1.3
PROMISE = 2.0
REPLACE = 5.0
RESTARTS = 2
SIZES = (2, 3, 6)
MOST_STARTS = 5
MOST_COLUMNS = 400


@dataclass(frozen=True)
class Rung:
    """What one library gave.

    Attributes:
        search: the search, with all models visited.
        best: the best of them.
        others: fitted starts from which nobody climbed yet, best first.
    """

    search: SubsetSearch
    best: Fitted
    others: tuple[Fitted, ...] = ()

    @property
    def library(self) -> Library:
        """The rung's library."""
        return self.search.shooting.dynamics

    def reaches(self, noise: np.ndarray, factor: float) -> bool:
        """Whether the residuals of every state are within ``factor`` of the noise ``(d,)``."""
        return bool(np.all(self.best.rms < factor * noise))


@dataclass(frozen=True)
class Found:
    """The outcome of the search, in scaled units.

    Attributes:
        dataset: scaled data.
        scales: the units.
        smoothed: the smoother's output under the noise model that was kept.
        evidence: log evidence per noise model.
        rungs: every library searched under that noise model, in order.
        chosen: the rung whose best model is the answer.
        floor: smallest noise level.
    """

    dataset: Dataset
    scales: Scales
    smoothed: Smoothed
    evidence: dict[str, float]
    rungs: tuple[Rung, ...]
    chosen: int
    floor: float

    @property
    def best(self) -> Fitted:
        """The answer."""
        return self.rungs[self.chosen].best

    @property
    def noise(self) -> np.ndarray:
        """Noise level of each state ``(d,)`` that a right model reaches."""
        return np.asarray(np.maximum(self.smoothed.sigma, self.floor))

    @property
    def at_noise(self) -> bool:
        """Whether the answer comes near the noise."""
        return self.rungs[self.chosen].reaches(self.noise, RESTART)


def run(
    dataset: Dataset,
    libraries: Sequence[Library],
    budget: Budget,
    noise: str = "auto",
    floor: float = FLOOR,
    slope: Slope | None = None,
) -> Found:
    """Search for equations behind checked data.

    Args:
        dataset: from `gather`, in the caller's units.
        libraries: the ladder, smallest first, for states scaled by their standard deviation.
        budget: time limit and listener.
        noise: ``"auto"`` or one of the noise models.
        floor: smallest noise level relative to a state's standard deviation.
        slope: a trained field in the caller's units, whose slopes along the smoothed states
            give further starts.
    """
    scales = first_scales(dataset)
    models, evidence = smooth(
        scaled(dataset, scales), noise, lambda share: budget.tell("smoothing", share)
    )
    found = climb(dataset, scales, models[0], evidence, libraries, budget, floor, slope)
    if noise == "auto" and not budget.over:
        other = _better_noise(found, models)
        if other is not None:
            rest = libraries[max(found.chosen - 1, 0) :]
            again = climb(dataset, scales, other, evidence, rest, budget, floor, slope)
            if again.at_noise and again.best.ebic < found.best.ebic:
                found = again
    budget.tell("search: other starts", 0.0)
    return restarted(found, budget)


def climb(
    dataset: Dataset,
    scales: Scales,
    smoothed: Smoothed,
    evidence: dict[str, float],
    libraries: Sequence[Library],
    budget: Budget,
    floor: float = FLOOR,
    slope: Slope | None = None,
) -> Found:
    """Search rung after rung under one noise model.

    Args:
        dataset: data in the caller's units.
        scales: the units in which ``smoothed`` is.
        smoothed: smoothed data.
        evidence: log evidence per noise model, handed on.
        libraries: the ladder.
        budget: time limit and listener.
        floor: smallest noise level.
        slope: a trained field in the caller's units.
    """
    unit = characteristic_time(smoothed.samples)
    scales = replace(scales, time=scales.time * unit)
    samples = replace(smoothed.samples, t=smoothed.samples.t / unit, dx=smoothed.samples.dx * unit)
    smoothed = replace(smoothed, samples=samples)
    sources = [samples] if slope is None else [samples, _of_field(slope, samples, scales)]
    data = scaled(dataset, scales)
    layout = arrange(data, smoothed.shape)
    noise = np.maximum(smoothed.sigma, floor)
    rungs: list[Rung] = []
    for i, library in enumerate(libraries):
        if rungs and (budget.over or library.size * dataset.dim > MOST_COLUMNS):
            break
        if library.trig and rungs and not waves_resolved(dataset):
            break
        budget.tell(f"search: {library.name}", i / len(libraries))
        search = SubsetSearch(Shooting(layout, library, floor=floor), budget)
        first = layout.starts(smoothed.states)
        starts = [start for source in sources for start in start_models(source, library, first)]
        if rungs:
            starts.append(_carried(rungs[choose(rungs)], library))
        rungs.append(first_climb(search, starts))
        best = rungs[choose(rungs)]
        if best.reaches(noise, AT_NOISE):
            following = libraries[i + 1] if i + 1 < len(libraries) else None
            if following is None or not promising(best, following):
                break
    return Found(data, scales, smoothed, evidence, tuple(rungs), choose(rungs), floor)


def waves_resolved(dataset: Dataset) -> bool:
    """Whether every state mostly moves by less than half a period of its sine between rows.

    Where it does not, sine and cosine of the state are as free as random numbers.
    """
    for j in range(dataset.dim):
        moves = [
            np.abs(np.diff(part.y[np.isfinite(part.y[:, j]), j])) for part in dataset.trajectories
        ]
        if np.median(np.concatenate(moves)) > np.pi / 2:
            return False
    return True


def choose(rungs: Sequence[Rung]) -> int:
    """The answer's rung: a later one replaces an earlier one only if EBIC falls by `REPLACE`."""
    chosen = 0
    for i, rung in enumerate(rungs):
        if rung.best.ebic < rungs[chosen].best.ebic - REPLACE:
            chosen = i
    return chosen


def first_climb(search: SubsetSearch, starts: Sequence[Start]) -> Rung:
    """Fit all starts, set the substeps, and climb from the best."""
    shooting = search.shooting
    fitted = search.fit_starts(starts)
    first = search.as_models(fitted[:1])
    shooting.substeps = shooting.choose_substeps(first, fitted[0].rms[None])
    best = search.climb(search.polish(fitted[0], (10.0, 100.0)))
    return Rung(search, best, tuple(fitted[1:]))


def restarted(found: Found, budget: Budget) -> Found:
    """Climb from other starts, rung after rung, while no model comes near the noise."""
    rungs = list(found.rungs)
    for i, rung in enumerate(rungs):
        for other in rung.others[:RESTARTS]:
            if rungs[choose(rungs)].reaches(found.noise, RESTART) or budget.over:
                break
            again = rung.search.climb(rung.search.polish(other, (10.0, 100.0)))
            if again.ebic < rungs[i].best.ebic:
                rungs[i] = replace(rungs[i], best=again)
    return replace(found, rungs=tuple(rungs), chosen=choose(rungs))


def _of_field(slope: Slope, samples: Samples, scales: Scales) -> Samples:
    dx = slope(samples.t * scales.time, samples.x * scales.state)
    return replace(samples, dx=dx * scales.time / scales.state)


def characteristic_time(samples: Samples) -> float:
    """Median of ``|x| / |x'|`` over all states and samples."""
    slope = np.abs(samples.dx)
    ratio = np.abs(samples.x)[slope > 0] / slope[slope > 0]
    value = float(np.median(ratio)) if ratio.size else 1.0
    return value if np.isfinite(value) and value > 0 else 1.0


def start_models(samples: Samples, library: Library, start: np.ndarray) -> list[Start]:
    """Supports from least squares of slopes on the library: size by cross-validation, and fixed.

    Args:
        samples: states and slopes.
        library: candidate functions.
        start: segment states ``(d, M)``.
    """
    a = library.evaluate(np.concatenate([samples.x, samples.u], axis=1).T).T
    blocks = time_blocks(len(samples.x))
    paths = [best_by_size(a, y) for y in samples.dx.T]
    cv = [choose_size(a, y, p, blocks) for p, y in zip(paths, samples.dx.T, strict=True)]
    out: dict[Support, Start] = {}
    for sizes in [cv, *([k] * len(paths) for k in SIZES)]:
        support: list[int] = []
        values: list[float] = []
        for j, (path, k) in enumerate(zip(paths, sizes, strict=True)):
            chosen = path[_nearest(path, k)]
            y = samples.dx[:, j]
            support += [j * library.size + i for i in chosen]
            values += list(coefficients(a.T @ a, a.T @ y, chosen))
        out.setdefault(tuple(support), Start(tuple(support), np.array(values), start))
    return list(out.values())[:MOST_STARTS]


def _nearest(path: dict[int, Support], size: int) -> int:
    return min(path, key=lambda k: abs(k - size))


def _carried(rung: Rung, library: Library) -> Start:
    """The best model of an earlier rung as a start in a larger library."""
    support = library.embed(rung.best.support, rung.library)
    order = [library.embed((q,), rung.library)[0] for q in rung.best.support]
    values = dict(zip(order, rung.best.c, strict=True))
    return Start(support, np.array([values[q] for q in support]), rung.best.start)


def promising(rung: Rung, library: Library) -> bool:
    """Whether the linearised problem of a larger library promises a much better model."""
    shooting = rung.search.shooting
    wider = Shooting(shooting.layout, library, shooting.substeps, shooting.floor)
    start = _carried(rung, library)
    fitted = replace(rung.best, support=start.support, c=start.c)
    search = SubsetSearch(wider, rung.search.budget)
    linear = search.linearise(fitted)
    proposals = search.propose(fitted.support, linear)
    if not proposals:
        return False
    now = linear.residual(fitted.support) / linear.variance
    price = penalty(shooting.layout, rung.library.size)
    gain = now + price * len(fitted.support) - proposals[0][0]
    return bool(gain > PROMISE)


def _better_noise(found: Found, models: Sequence[Smoothed]) -> Smoothed | None:
    """Another noise model, if the residuals of the best model speak for it.

    The evidence of the smoother mixes how well each model describes the noise with how well its
    process describes the signal; residuals about a fitted model know the noise alone, provided
    that the model fits. So the other noise model is kept only if a model reaches its noise level.
    """
    rung = found.rungs[found.chosen]
    layout = rung.search.shooting.layout
    best = rung.best
    nodes, _ = rung.search.shooting.integrate(
        Models.of([best.support], [best.c], [best.start], rung.library.size)
    )
    states = np.concatenate(layout.at_rows(nodes[:, 0]))
    y = found.dataset.stacked
    seen = np.isfinite(y)
    size = np.sqrt(states**2 + (0.03 * np.abs(states).max(0)) ** 2)
    additive, proportional = (_log_likelihood(y - states, h, seen) for h in (1.0, size))
    now_additive = found.smoothed.kind == "additive"
    if now_additive and proportional > additive + MARGIN:
        others = [m for m in models if m.kind != "additive"]
        return max(others, key=lambda m: m.evidence, default=None)
    if not now_additive and additive > proportional + MARGIN:
        return next((m for m in models if m.kind == "additive"), None)
    return None


def _log_likelihood(error: np.ndarray, shape: np.ndarray | float, seen: np.ndarray) -> float:
    h = np.broadcast_to(shape, error.shape)
    square = np.where(seen, (error / h) ** 2, 0.0).sum(0)
    count = seen.sum(0)
    level = np.sqrt(square / count + FLOOR**2)
    return float(-(count * np.log(level)).sum() - np.log(h[seen]).sum())
