"""Positions observed, velocities not: second-order systems, searched in both.

Where ``q' = v`` is known, the velocities need no data: their first guess is the slope of the
smoothed positions, every segment's start has its own, and what is compared with data is positions
alone. Only for such pairs; other hidden states have coordinates of their own choice, and no
search can name terms in those.

Shapes: ``d`` states are observed, ``D`` are integrated, the velocities last; ``chain`` leads from
    the place of a position to that of its velocity.
Units: `widened` takes and gives scaled ones, `search` the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from odekit_sindy import pipeline
from odekit_sindy.budget import Budget
from odekit_sindy.candidates import best_by_size
from odekit_sindy.data import Dataset, Scales, Trajectory, first_scales, scaled
from odekit_sindy.flows import LONGEST, attempt_network
from odekit_sindy.found import Found
from odekit_sindy.knowledge import Knowledge
from odekit_sindy.known_libraries import informed
from odekit_sindy.ladder import ladder
from odekit_sindy.library import Library
from odekit_sindy.rational import Rational
from odekit_sindy.rules import Rules
from odekit_sindy.shooting import FLOOR
from odekit_sindy.smoothing import Samples, Smoothed, queries, smooth
from odekit_sindy.starts import Paths, Slope

Chain = Mapping[int, int]


def with_velocities(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The same data with a column without values for every velocity.

    Args:
        dataset: positions.
        names: of all states, positions first.
    """
    more = len(names) - dataset.dim
    parts = tuple(
        Trajectory(part.t, np.column_stack([part.y, np.full((len(part.t), more), np.nan)]), part.u)
        for part in dataset.trajectories
    )
    return replace(dataset, trajectories=parts, names=tuple(names))


def search(
    dataset: Dataset,
    chain: Chain,
    names: Sequence[str],
    budget: Budget,
    *,
    library: str = "auto",
    degree: int | None = None,
    noise: str = "auto",
    smoother: str = "auto",
    slope: Slope | None = None,
    further: Sequence[Samples] = (),
    knowledge: Knowledge | None = None,
    paths: Paths = best_by_size,
    network: bool = False,
    seed: int = 0,
) -> tuple[Found, Dataset]:
    """The search of `pipeline.run` with the velocities as states.

    Args:
        dataset: positions, ``(n, d)``.
        chain: which state is the derivative of which position.
        names: of all ``D`` states.
        budget: time limit and listener.
        library: see `odekit_sindy.ladder.ladder`.
        degree: see `odekit_sindy.ladder.ladder`.
        noise: see `odekit_sindy.smoothing.smooth`.
        smoother: see `odekit_sindy.smoothing.smooth`.
        slope: a trained field of all states.
        further: more samples of all states.
        knowledge: about all states, that the positions' equations are the velocities among it.
        paths: where the starts' supports come from.
        network: whether a neural ODE of positions and velocities gives further starts.
        seed: of its random weights.

    Returns:
        The outcome, and the data with the velocities' columns.
    """
    first = first_scales(dataset)
    plain = scaled(dataset, first)
    models, evidence = smooth(
        plain,
        noise,
        lambda share: budget.tell("smoothing", share),
        smoother,
        budget.beyond(pipeline.CURVES_SHARE),
    )
    smoothed, speed = widened(plain, models[0], chain)
    order = _positions(chain)
    size = (speed * first.state / first.time)[order]
    scales = Scales(np.concatenate([first.state, size]), first.input, first.time)
    whole = with_velocities(dataset, names)
    x = np.concatenate(smoothed.states) * scales.state
    spans = np.stack([x.min(0), x.max(0)], axis=1)
    plain_ones = ladder(len(names), len(dataset.drives), scales.state, library, degree, spans)
    if knowledge is None:
        libraries = [_ruled(each, chain) for each in plain_ones]
    else:
        inputs = np.concatenate([part.u for part in dataset.trajectories])
        points = np.concatenate([x, inputs], axis=1).T
        units = np.concatenate([scales.state, scales.input])
        libraries, notes = informed(plain_ones, knowledge, points, units)
        whole = replace(whole, notes=(*whole.notes, *notes))
    if network and dataset.rows <= LONGEST:
        moved = {
            position: (velocity, float(speed[position])) for position, velocity in chain.items()
        }
        stop = budget.beyond(pipeline.FLOWS_SHARE)
        node = attempt_network(scaled(whole, scales), smoothed, seed, stop, moved)
        further = [*further, *([] if node is None else [_in_full(node.samples, scales)])]

    def under(curve: Smoothed, several: Sequence[Library]) -> Found:
        wide, _ = widened(plain, curve, chain, speed)
        return pipeline.climb(
            whole, scales, wide, evidence, several, budget, FLOOR, slope, paths, further
        )

    found = pipeline.settled(under(models[0], libraries), models, libraries, under, budget)
    budget.tell("search: other starts", 0.0)
    return pipeline.restarted(found, budget), whole


def _positions(chain: Chain) -> list[int]:
    """Places of the positions in the order of their velocities."""
    return sorted(chain, key=lambda position: chain[position])


def _in_full(samples: Samples, scales: Scales) -> Samples:
    """Samples in the caller's units."""
    return Samples(
        samples.t * scales.time,
        samples.x * scales.state,
        samples.dx * scales.state / scales.time,
        samples.u * scales.input,
    )


def _ruled(library: Library, chain: Chain) -> Library:
    if isinstance(library, Rational):
        return Rational.of(_ruled(library.plain, chain))
    return replace(library, rules=kinematic(library, chain))


def kinematic(library: Library, chain: Chain) -> Rules:
    """Rules by which each position's equation is its velocity, in the caller's units."""
    shape = (library.dim, library.size)
    allowed, offset = np.ones(shape, dtype=bool), np.zeros(shape)
    for position, velocity in chain.items():
        unit = tuple(int(i == velocity) for i in range(library.dim + library.inputs))
        allowed[position] = False
        offset[position, library.place[unit]] = 1.0
    return Rules(allowed, np.zeros(shape, bool), offset, np.zeros(shape, int))


def widened(
    dataset: Dataset, smoothed: Smoothed, chain: Chain, speed: np.ndarray | None = None
) -> tuple[Smoothed, np.ndarray]:
    """Smoothed positions with their slopes as further states.

    Args:
        dataset: positions, scaled.
        smoothed: of these.
        chain: which state is the derivative of which position.
        speed: units of the velocities, ``(d,)``; their standard deviations by default.

    Returns:
        Positions and velocities, and the units of these ``(d,)``.
    """
    order = _positions(chain)
    samples = smoothed.samples
    if speed is None:
        speed = samples.dx.std(0)
        speed = np.where(speed > 0, speed, 1.0)
    velocity = samples.dx / speed
    states, accelerations, at = [], [], 0
    for part, rows, query in zip(
        dataset.trajectories, smoothed.states, queries(dataset), strict=True
    ):
        here = velocity[at : at + len(query)]
        at += len(query)
        columns = [np.interp(part.t, query, here[:, i]) for i in order]
        states.append(np.column_stack([rows, *columns]))
        accelerations.append(np.gradient(here, query, axis=0))
    slopes = np.concatenate(accelerations)
    both = Samples(
        samples.t,
        np.concatenate([samples.x, velocity[:, order]], axis=1),
        np.concatenate([samples.dx, slopes[:, order]], axis=1),
        samples.u,
    )
    ones = [np.ones((len(h), len(order))) for h in smoothed.shape]
    return (
        replace(
            smoothed,
            shape=tuple(
                np.concatenate(pair, axis=1) for pair in zip(smoothed.shape, ones, strict=True)
            ),
            sigma=np.concatenate([smoothed.sigma, np.full(len(order), smoothed.sigma.mean())]),
            states=tuple(states),
            samples=both,
            smoother=f"{smoothed.smoother}, velocities from its slopes",
        ),
        speed,
    )
