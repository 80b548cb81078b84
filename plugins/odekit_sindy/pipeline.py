"""The stages in order: scale, smooth, climb the ladder of libraries, settle the noise model.

Each stage is a module of its own and can be used alone: `data`, `smoothing`, `flows`, `starts`,
`elimination`, `shooting`, `search`, `climbing`, `noise_choice`. Here they are joined: the ladder is
climbed under the noise model of the best evidence, once more under another if the residuals speak
for it, and restarted while no model comes near the noise.

Units: everything in scaled units, unless said otherwise; `Found.scales` leads back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from odekit_sindy.budget import Budget, Stop
from odekit_sindy.candidates import best_by_size
from odekit_sindy.climbing import TIGHTER, Climb, Material
from odekit_sindy.data import Dataset, Scales, first_scales, scaled
from odekit_sindy.flows import smooth_by_flow
from odekit_sindy.found import RESTART, Found, choose
from odekit_sindy.library import Library
from odekit_sindy.noise_choice import better_noise
from odekit_sindy.shooting import FLOOR
from odekit_sindy.smoothing import Samples, Smoothed, follow, smooth
from odekit_sindy.starts import Paths, Slope, characteristic_time, in_units, of_field

RESTARTS = 2
SUSPICIOUS = 0.15
"""Noise, relative to a state's standard deviation, from which a process may take signal for it."""

CURVES_SHARE, FLOWS_SHARE = 0.3, 0.5
"""Of the time, what may be gone when the smoothers of each kind end, so that a search follows."""


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
        scaled(dataset, scales),
        noise,
        lambda share: budget.tell("smoothing", share),
        smoother,
        budget.beyond(CURVES_SHARE),
    )
    options = (budget, floor, slope, paths, further, flows, seed)

    def under(smoothed: Smoothed, several: Sequence[Library]) -> Found:
        return climb(dataset, scales, smoothed, evidence, several, *options)

    found = settled(under(models[0], libraries), models, libraries, under, budget)
    budget.tell("search: other starts", 0.0)
    return restarted(found, budget)


def settled(
    found: Found,
    models: Sequence[Smoothed],
    libraries: Sequence[Library],
    under: Callable[[Smoothed, Sequence[Library]], Found],
    budget: Budget,
) -> Found:
    """The outcome under the noise model that the residuals speak for, searched again for it.

    Args:
        found: the outcome under the first noise model.
        models: the data smoothed under each noise model that is allowed.
        libraries: the ladder.
        under: searches some of the libraries under a noise model.
        budget: time limit.
    """
    other = better_noise(found, models) if len(models) > 1 and not budget.over else None
    if other is None:
        return found
    name = found.rungs[found.chosen].library.name
    place = [library.name for library in libraries].index(name)
    # One rung lower than before, but not from products of waves, which hide all else.
    lower = [library for library in libraries[:place] if not library.products]
    again = under(other, [*lower[-1:], *libraries[place:]])
    return again if again.at_noise and again.best.ebic < found.best.ebic else found


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
    rough = scaled(dataset, scales)
    smoothed, others = smooth_by_flow(rough, smoothed, flows, seed, budget.beyond(FLOWS_SHARE))
    unit = characteristic_time(smoothed.samples)
    scales = replace(scales, time=scales.time * unit)
    smoothed, *others = (_slower(one, unit) for one in (smoothed, *others))
    samples = smoothed.samples
    sources = [samples] if slope is None else [samples, of_field(slope, samples, scales)]
    sources += [in_units(part, scales) for part in further]
    data = scaled(dataset, scales)
    material = Material(
        data, [smoothed, *_closer(data, smoothed, budget.spent)], sources, others, floor
    )
    rungs = Climb(material, [library.at(scales) for library in libraries], budget, paths).run()
    return Found(data, scales, smoothed, evidence, rungs, choose(rungs), floor)


def restarted(found: Found, budget: Budget) -> Found:
    """Climb from other starts, rung after rung, while no model comes near the noise."""
    rungs = list(found.rungs)
    for i, rung in enumerate(rungs):
        for other in rung.others[:RESTARTS]:
            if rungs[choose(rungs)].reaches(found.noise, RESTART) or budget.over:
                break
            search = rung.search
            again = search.climb(search.polish(search.resolved(other), TIGHTER))
            if again.ebic < rungs[i].best.ebic:
                rungs[i] = replace(rungs[i], best=again)
    return replace(found, rungs=tuple(rungs), chosen=choose(rungs))


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


def _closer(data: Dataset, smoothed: Smoothed, stop: Stop) -> list[Smoothed]:
    """The data smoothed less, where the smoother takes much of what it sees for noise."""
    if smoothed.smoother != "gp" or np.all(smoothed.sigma < SUSPICIOUS) or stop():
        return []
    return [follow(data, smoothed, SUSPICIOUS, stop)]


def _slower(smoothed: Smoothed, unit: float) -> Smoothed:
    samples = smoothed.samples
    return replace(smoothed, samples=replace(samples, t=samples.t / unit, dx=samples.dx * unit))
