"""The stages in order: scale, smooth, climb the ladder of libraries, settle the noise model.

Each stage is a module of its own and can be used alone: `data`, `smoothing`, `candidates`,
`elimination`, `shooting`, `search`. Here they are joined: every rung of the ladder is searched
from several starts, from below by slopes and from above by elimination; a rung that cannot hold
the answer is passed over, and the ladder ends at the first rung that fits to the noise, unless a
look at the next library promises more.

Units: everything in scaled units; `Found.scales` leads back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from odekit_sindy.budget import Budget
from odekit_sindy.candidates import Support, best_by_size, choose_size, coefficients, time_blocks
from odekit_sindy.data import Dataset, Scales, first_scales, scaled
from odekit_sindy.elimination import Whole, eliminated, hopeless, wanting, wholes
from odekit_sindy.flows import smooth_by_flow
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.models import Models
from odekit_sindy.rational import Rational
from odekit_sindy.rational_search import exchanged, look, promised
from odekit_sindy.search import AGAIN, Fitted, Start, SubsetSearch
from odekit_sindy.shooting import FLOOR, Shooting
from odekit_sindy.smoothing import MARGIN, Samples, Smoothed, follow, smooth

Slope = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A field in numpy: times ``(q,)`` and states ``(q, d)`` to slopes ``(q, d)``."""

Paths = Callable[[np.ndarray, np.ndarray], dict[int, Support]]
"""Library values ``(q, L)`` and slopes ``(q,)`` to one candidate support of each size."""

AT_NOISE = 1.1
RESTART = 1.3
PROMISE = 2.0
AGREE = 1e-2
RESTARTS = 2
SIZES = (2, 3, 6)
MOST_STARTS = 5
MOST_COLUMNS = 400
MOST_WHOLE = 66
SUSPICIOUS = 0.15


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
    smoother: str = "auto",
    paths: Paths = best_by_size,
    further: Sequence[Samples] = (),
    flows: Sequence[str] = ("library",),
    seed: int = 0,
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
        smoother: one of `odekit_sindy.smoothing.CURVES`, or ``"auto"``.
        paths: where the starts' supports come from.
        further: more samples for starts, in the caller's units.
        flows: smoothers that follow trajectories, some of `odekit_sindy.flows.FLOWS`.
        seed: of their random numbers.
    """
    if not waves_resolved(dataset):
        libraries = [lib for i, lib in enumerate(libraries) if i == 0 or not lib.trig]
    scales = first_scales(dataset)
    models, evidence = smooth(
        scaled(dataset, scales), noise, lambda share: budget.tell("smoothing", share), smoother
    )
    options = (budget, floor, slope, paths, further, flows, seed)
    found = climb(dataset, scales, models[0], evidence, libraries, *options)
    if noise == "auto" and not budget.over:
        other = _better_noise(found, models)
        if other is not None:
            name = found.rungs[found.chosen].library.name
            place = [library.name for library in libraries].index(name)
            rest = libraries[max(place - 1, 0) :]
            again = climb(dataset, scales, other, evidence, rest, *options)
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
    paths: Paths = best_by_size,
    further: Sequence[Samples] = (),
    flows: Sequence[str] = (),
    seed: int = 0,
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
        paths: where the starts' supports come from.
        further: more samples for starts, in the caller's units.
        flows: smoothers that follow trajectories.
        seed: of their random numbers.
    """
    smoothed, others = smooth_by_flow(scaled(dataset, scales), smoothed, flows, seed)
    unit = characteristic_time(smoothed.samples)
    scales = replace(scales, time=scales.time * unit)
    libraries = [library.at(scales) for library in libraries]
    smoothed, *others = (_slower(one, unit) for one in (smoothed, *others))
    samples = smoothed.samples
    sources = [samples] if slope is None else [samples, _of_field(slope, samples, scales)]
    sources += [_in_units(part, scales) for part in further]
    data = scaled(dataset, scales)
    layout = arrange(data, smoothed.shape)
    noise = np.maximum(smoothed.sigma, floor)
    smoothings = [smoothed, *_closer(data, smoothed)]

    @cache
    def whole(i: int) -> list[Whole]:
        library = libraries[i]
        if isinstance(library, Rational) or library.size * dataset.dim > MOST_WHOLE:
            return []
        return wholes(data, smoothings, library, budget, floor)

    rungs: list[Rung] = []
    ended: Library | None = None
    for i, library in enumerate(libraries):
        if rungs and (budget.over or library.size * dataset.dim > MOST_COLUMNS):
            break
        budget.tell(f"search: {library.name}", i / len(libraries))
        if isinstance(library, Rational) and rungs:
            plain = start_models(samples, library, layout.starts(smoothed.states), paths)
            # Products of waves bend to almost anything, so what fits with them proves little.
            below = [rung for rung in rungs if not rung.library.products] or rungs
            rungs += _with_fraction(below, noise, library, plain)
            continue
        # Exponentials that are not needed say nothing about products of waves, which lack them.
        if ended is not None and not (library.products and ended.exponentials):
            continue
        found = whole(i)
        if found:
            noise = np.maximum(np.minimum(noise, found[0].noise), floor)
        if i + 1 < len(libraries) and found and hopeless(found[0], whole(i + 1)):
            continue
        if rungs and not _worth_a_look(rungs, noise, found, library):
            ended = library  # except for fractions, of which sums of functions know nothing
            continue
        search = SubsetSearch(Shooting(layout, library, floor=floor), budget)
        first = layout.starts(smoothed.states)
        starts = [
            start for source in sources for start in start_models(source, library, first, paths)
        ]
        for flow in others:
            starts += start_models(flow.samples, library, layout.starts(flow.states), paths)
        if rungs:
            starts.append(_carried(rungs[choose(rungs)], library))
        rung = first_climb(search, starts)
        if isinstance(library, Rational):
            rung = replace(rung, best=exchanged(search, rung.best, look(search, rung.best)))
        if found and wanting(search, rung.best, found[0]):
            rung = second_climb(rung, eliminated(found, search))
        rungs.append(rung)
    return Found(data, scales, smoothed, evidence, tuple(rungs), choose(rungs), floor)


def _worth_a_look(
    rungs: Sequence[Rung], noise: np.ndarray, found: Sequence[Whole], library: Library
) -> bool:
    """Whether another library may do better: the best is off the noise, or chance would do less.

    Args:
        rungs: what was found so far.
        noise: noise level of each state.
        found: fits of the larger library with all of its terms, best first; may be empty.
        library: the next library.
    """
    best = rungs[choose(rungs)]
    if not best.reaches(noise, AT_NOISE):
        return True
    if any(wanting(best.search, best.best, w) for w in found[:1]):
        return True
    return promising(best, library, rungs)


def _with_fraction(
    rungs: Sequence[Rung], noise: np.ndarray, library: Rational, starts: Sequence[Start]
) -> list[Rung]:
    """The rung of fractions, searched from a model without; none if nothing is to be expected.

    Args:
        rungs: what was found so far.
        noise: noise level of each state.
        library: plain functions and a fraction per equation.
        starts: for the case that no rung has a best model of plain functions alone.
    """
    best = rungs[choose(rungs)]
    before = best.search.shooting
    shooting: Shooting[Library] = Shooting(before.layout, library, before.substeps, before.floor)
    search = SubsetSearch(shooting, best.search.budget)
    plain = [r for r in rungs if len(_carried(r, library).support) == len(r.best.support)]
    if plain:
        carried = _carried(plain[choose(plain)], library)
        first = search.judge(search.as_models([carried]))[0]
    else:
        first = search.polish(search.resolved(search.fit_starts(starts)[0]), (10.0, 100.0))
    view = look(search, first)
    if best.reaches(noise, AT_NOISE):
        gain = promised(search, first, view, PROMISE)
        # The linearised score of a fraction is rough, so it may fall somewhat short of the best.
        if gain <= PROMISE or first.ebic - gain > best.best.ebic + AGAIN:
            return []
    return [Rung(search, exchanged(search, first, view))]


def _closer(data: Dataset, smoothed: Smoothed) -> list[Smoothed]:
    """The data smoothed less, where the smoother takes much of what it sees for noise."""
    if smoothed.smoother != "gp" or np.all(smoothed.sigma < SUSPICIOUS):
        return []
    return [follow(data, smoothed, SUSPICIOUS)]


def second_climb(rung: Rung, starts: Sequence[Start]) -> Rung:
    """Climb once more, from other starts, and keep the better model."""
    search = rung.search
    fitted = search.fit_starts(starts)
    again = search.climb(search.polish(search.resolved(fitted[0]), (10.0, 100.0)))
    return rung if rung.best.ebic <= again.ebic else replace(rung, best=again)


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
    """The rung whose best model has the lowest EBIC; the lower one of two that agree."""
    values = [rung.best.ebic for rung in rungs]
    return next(i for i, value in enumerate(values) if value <= min(values) + AGREE)


def first_climb(search: SubsetSearch, starts: Sequence[Start]) -> Rung:
    """Fit all starts, set the substeps, and climb from the best."""
    fitted = search.fit_starts(starts)
    best = search.climb(search.polish(search.resolved(fitted[0]), (10.0, 100.0)))
    return Rung(search, best, tuple(fitted[1:]))


def restarted(found: Found, budget: Budget) -> Found:
    """Climb from other starts, rung after rung, while no model comes near the noise."""
    rungs = list(found.rungs)
    for i, rung in enumerate(rungs):
        for other in rung.others[:RESTARTS]:
            if rungs[choose(rungs)].reaches(found.noise, RESTART) or budget.over:
                break
            search = rung.search
            again = search.climb(search.polish(search.resolved(other), (10.0, 100.0)))
            if again.ebic < rungs[i].best.ebic:
                rungs[i] = replace(rungs[i], best=again)
    return replace(found, rungs=tuple(rungs), chosen=choose(rungs))


def _of_field(slope: Slope, samples: Samples, scales: Scales) -> Samples:
    dx = slope(samples.t * scales.time, samples.x * scales.state)
    return replace(samples, dx=dx * scales.time / scales.state)


def _slower(smoothed: Smoothed, unit: float) -> Smoothed:
    samples = smoothed.samples
    return replace(smoothed, samples=replace(samples, t=samples.t / unit, dx=samples.dx * unit))


def _in_units(samples: Samples, scales: Scales) -> Samples:
    return Samples(
        samples.t / scales.time,
        samples.x / scales.state,
        samples.dx * scales.time / scales.state,
        samples.u / scales.input,
    )


def characteristic_time(samples: Samples) -> float:
    """Median of ``|x| / |x'|`` over all states and samples."""
    slope = np.abs(samples.dx)
    ratio = np.abs(samples.x)[slope > 0] / slope[slope > 0]
    value = float(np.median(ratio)) if ratio.size else 1.0
    return value if np.isfinite(value) and value > 0 else 1.0


def start_models(
    samples: Samples, library: Library, start: np.ndarray, paths: Paths = best_by_size
) -> list[Start]:
    """Supports from least squares of slopes on the library: size by cross-validation, and fixed.

    Args:
        samples: states and slopes.
        library: candidate functions.
        start: segment states ``(d, M)``.
        paths: candidate supports of each size.
    """
    if isinstance(library, Rational):
        plain = start_models(samples, library.plain, start, paths)
        return [replace(s, support=library.embed(s.support, library.plain)) for s in plain]
    a = library.evaluate(np.concatenate([samples.x, samples.u], axis=1).T).T
    blocks = time_blocks(len(samples.x))
    rules = library.rules
    if rules is None:
        found = [paths(a, y) for y in samples.dx.T]
        cv = [choose_size(a, y, p, blocks) for p, y in zip(found, samples.dx.T, strict=True)]
    else:
        found = rules.paths(a, samples.dx, paths)
        cv = rules.sizes(a, samples.dx, found, blocks)
    out: dict[Support, Start] = {}
    for sizes in [cv, *([k] * len(found) for k in SIZES)]:
        support: list[int] = []
        values: list[float] = []
        for j, (path, k) in enumerate(zip(found, sizes, strict=True)):
            chosen = path[_nearest(path, k)]
            y = samples.dx[:, j]
            support += [j * library.size + i for i in chosen]
            if rules is None:
                values += list(coefficients(a.T @ a, a.T @ y, chosen))
        if rules is not None:
            whole, c = rules.start(a, samples.dx, support)
            support, values = list(whole), list(c)
        out.setdefault(tuple(support), Start(tuple(support), np.array(values), start))
    return list(out.values())[:MOST_STARTS]


def _nearest(path: dict[int, Support], size: int) -> int:
    return min(path, key=lambda k: abs(k - size))


def _carried(rung: Rung, library: Library) -> Start:
    """The best model of an earlier rung as a start in another library, as far as it has it."""
    values: dict[int, float] = {}
    for q, value in zip(rung.best.support, rung.best.c, strict=True):
        for p in library.embed((q,), rung.library):
            values[p] = value * library.conversion(p, q, rung.library)
    support = tuple(sorted(values))
    return Start(support, np.array([values[q] for q in support]), rung.best.start)


def promising(rung: Rung, library: Library, rungs: Sequence[Rung] = ()) -> bool:
    """Whether the linearised problem of another library promises a much better model.

    Args:
        rung: with the best model so far.
        library: a larger one, or one that lacks functions of that model; then the problem is
            linearised at the last model of which it has all.
        rungs: earlier ones.
    """
    before = rung.best.ebic
    if len(_carried(rung, library).support) < len(rung.best.support):
        nested = [r for r in rungs if len(_carried(r, library).support) == len(r.best.support)]
        if not nested:
            return False
        rung = nested[-1]
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
    gain = now + search.price(fitted.support) - proposals[0][0]
    gain += before - rung.best.ebic
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
    if np.all(best.rms < found.floor):
        return None  # there is no noise to speak of
    nodes, _ = rung.search.shooting.integrate(
        Models.of([best.support], [best.c], [best.start], rung.library.size)
    )
    states = np.concatenate(layout.at_rows(nodes[:, 0]))
    y = found.dataset.stacked
    seen = np.isfinite(y)
    size = np.sqrt(states**2 + (0.03 * np.abs(states).max(0)) ** 2)
    likely = {
        "additive": _log_likelihood(y - states, 1.0, seen),
        "multiplicative": _log_likelihood(y - states, size, seen),
    }
    if bool((y[seen] > 0).all() and (states[seen] > 0).all()):
        logs = np.log(np.where(seen, y, 1.0)), np.log(np.where(seen, states, 1.0))
        likely["log-normal"] = _log_likelihood(logs[0] - logs[1], 1.0, seen) - logs[0].sum()
    kinds = {model.kind: model for model in models}
    kind = max((k for k in likely if k in kinds), key=likely.__getitem__)
    now = likely.get(found.smoothed.kind, -np.inf)
    return kinds[kind] if likely[kind] > now + MARGIN else None


def _log_likelihood(error: np.ndarray, shape: np.ndarray | float, seen: np.ndarray) -> float:
    h = np.broadcast_to(shape, error.shape)
    square = np.where(seen, (error / h) ** 2, 0.0).sum(0)
    count = seen.sum(0)
    level = np.sqrt(square / count + FLOOR**2)
    return float(-(count * np.log(level)).sum() - np.log(h[seen]).sum())
