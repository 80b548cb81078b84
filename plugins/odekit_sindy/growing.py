"""Smoothing by models of trajectories: segments that grow, several starts, the best evidence.

A family that can take many shapes, a network or a whole library, is fitted by multiple shooting,
first on segments of one interval or two, which no bad start can lead astray, then on longer and
tighter ones. What is learnt of the noise comes from the residuals of the fit itself. So the
result does not depend on whether a process in time could tell signal from noise; where samples
are few per oscillation it cannot.

Shapes: ``B`` starts, ``k`` parameters, ``n`` rows of a trajectory, ``d`` states, ``q`` samples.
Units: scaled.
Source: growing the horizon to escape bad minima: H. U. Voss, J. Timmer, J. Kurths, "Nonlinear
    dynamical system identification from uncertain and indirect measurements", International
    Journal of Bifurcation and Chaos 14(6), 2004, doi:10.1142/S0218127404010345.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from odekit_sindy.budget import Stop, never
from odekit_sindy.data import Dataset
from odekit_sindy.dynamics import Dynamics
from odekit_sindy.layout import Layout, arrange
from odekit_sindy.models import Models
from odekit_sindy.noise_shape import mean_size, proportional
from odekit_sindy.shooting import Shooting
from odekit_sindy.smoothing import Samples, Smoothed
from odekit_sindy.training import FIRST_DECAY, Training

D = TypeVar("D", bound=Dynamics)
States = tuple[np.ndarray, ...]

PARTS = 6
MOST_SAMPLES = 500
FLOOR = 1e-3
FEWEST_SUBSTEPS, MOST_SUBSTEPS = 2, 16
FEWEST_FREE = 0.3
"""Share of the data that counts as free of parameters at least, in the noise's variance."""


@dataclass(frozen=True)
class Stage:
    """One fit of all that are left.

    Attributes:
        intervals: data intervals a segment.
        tightness: weight of the gaps against the data.
        survivors: how many models go on, by evidence.
    """

    intervals: int
    tightness: float
    survivors: int


@dataclass(frozen=True)
class Begin:
    """Where the fit of one model begins: parameters ``(k,)`` and states at the rows ``(n, d)``."""

    c: np.ndarray
    states: States


@dataclass(frozen=True)
class Grown(Generic[D]):
    """A fitted family.

    Attributes:
        smoothed: states, slopes, noise level and shape from the best model.
        dynamics: the family.
        c: parameters of the best model, ``(k,)``.
        evidence: its log evidence, up to a constant of the data and their segments.
        determined: number of parameters that the data determine.
        decay: strength of the prior.
    """

    smoothed: Smoothed
    dynamics: D
    c: np.ndarray
    evidence: float
    determined: float
    decay: float


def grow(
    dataset: Dataset,
    first: Smoothed,
    dynamics: D,
    begins: Sequence[Begin],
    sigma: np.ndarray,
    stages: Sequence[Stage],
    units: np.ndarray | None = None,
    stop: Stop = never,
) -> Grown[D]:
    """Fit a family to trajectories from several starts, and keep the best.

    Args:
        dataset: scaled data.
        first: another smoother's result; its noise model is kept, its noise level is not.
        dynamics: the family.
        begins: one or more starts; the states of the first give the noise's shape.
        sigma: noise level to begin with, ``(d,)``.
        stages: one or more, in order.
        units: expected sizes of the parameters, ``(k,)``.
        stop: asked before each step; once it says true, no further stage is begun.
    """
    k = len(begins[0].c)
    c, states = np.stack([b.c for b in begins]), [b.states for b in begins]
    shape = noise_shape(dataset, first, states[0])
    level = np.tile(sigma, (len(begins), 1))
    decay = np.full(len(begins), FIRST_DECAY)
    for stage in stages:
        shooting = Shooting(arrange(dataset, shape, stage.intervals), dynamics, stop=stop)
        start = np.stack([shooting.layout.starts(s) for s in states])
        flat = np.tile(np.arange(k), (len(c), 1))
        models = Models(flat, np.ones_like(flat, dtype=bool), c, start, k // dataset.dim)
        shooting.substeps = _substeps(shooting, models, level)
        training = Training(shooting, models, level, units, decay)
        training.run(stage.tightness)
        keep = training.order[: stage.survivors]
        final = training.models.pick(keep)
        nodes, _ = shooting.integrate(final)
        states = [shooting.layout.at_rows(nodes[:, b]) for b in range(len(keep))]
        c, decay, level = final.c, training.decay[keep], _noise(training)[keep]
        if stop():
            break
    shape = noise_shape(dataset, first, states[0])
    samples = along(dataset, shooting, final.pick([0]))
    smoothed = replace(first, shape=shape, sigma=level[0], states=states[0], samples=samples)
    best = keep[0]
    return Grown(
        smoothed,
        dynamics,
        c[0],
        float(training.evidence[best]),
        float(training.determined[best]),
        float(decay[0]),
    )


def along(dataset: Dataset, shooting: Shooting[D], models: Models) -> Samples:
    """States and slopes of a single model along its segments, thinned evenly."""
    fine = refined(shooting.layout, PARTS)
    substeps = -(-shooting.substeps // PARTS)
    nodes, _ = Shooting(fine, shooting.dynamics, substeps).integrate(models)
    x = nodes[:, 0]
    slope = shooting.dynamics.bind(models, False)
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for part, place in zip(dataset.trajectories, shooting.layout.place, strict=True):
        for s in np.unique(place[:, 1]):
            begin = part.t[np.flatnonzero(place[:, 1] == s)[0]]
            count = int((fine.step[:, s] > 0).sum())
            t = begin + np.concatenate([[0.0], np.cumsum(fine.step[:count, s])])
            # The end of a linked segment is the start of the next.
            rows = slice(0, count + (not fine.linked[s]))
            point = np.concatenate([x[rows, :, s], fine.inputs[rows, :, s]], axis=1)
            dx = slope(point.T[None], None)[0][0].T
            for column, value in zip(
                columns, (t[rows], x[rows, :, s], dx, fine.inputs[rows, :, s]), strict=True
            ):
                column.append(value)
    t, x, dx, u = (np.concatenate(column) for column in columns)
    keep = np.linspace(0, len(t) - 1, min(MOST_SAMPLES, len(t))).round().astype(int)
    return Samples(t[keep], x[keep], dx[keep], u[keep])


def refined(layout: Layout, parts: int) -> Layout:
    """The same segments with every interval cut into equal parts, and without data."""
    count = len(layout.step)
    at = np.arange(count * parts + 1) / parts
    low = np.minimum(at.astype(int), count - 1)
    share = (at - low)[:, None, None]
    empty = np.zeros((len(at), layout.dim, layout.segments))
    return replace(
        layout,
        step=np.repeat(layout.step / parts, parts, axis=0),
        inputs=(1 - share) * layout.inputs[low] + share * layout.inputs[low + 1],
        y=empty,
        weight=empty,
    )


def _substeps(shooting: Shooting[D], models: Models, sigma: np.ndarray) -> int:
    """What half of the models need, within bounds."""
    counts = [shooting.choose_substeps(models.pick([b]), s) for b, s in enumerate(sigma)]
    return int(np.clip(np.median(counts), FEWEST_SUBSTEPS, MOST_SUBSTEPS))


def _noise(training: Training[D]) -> np.ndarray:
    """Noise level from the residuals of each model and the parameters it spent, ``(B, d)``."""
    counts = training.shooting.layout.counts
    seen = counts > 0
    rss, _ = training.shooting.statistics(training.models)
    spent = training.determined[:, None] / seen.sum()
    free = np.maximum(counts - spent, FEWEST_FREE * counts)
    square = rss / np.where(seen, free, 1.0)
    # A state without data has the others' noise, which is the unit of its gaps.
    square[:, ~seen] = square[:, seen].mean(1, keepdims=True)
    return np.asarray(np.sqrt(square + FLOOR**2))


def noise_shape(dataset: Dataset, first: Smoothed, states: States) -> States:
    """The noise's shape about these states, of unit mean square per state, ``(n, d)``."""
    if first.kind == "additive":
        return first.shape
    largest = np.maximum(*map(np.abs, dataset.range))
    shape = [proportional(x, largest) for x in states]
    size = mean_size(np.concatenate(shape), np.isfinite(dataset.stacked))
    size = np.where(dataset.counts > 0, size, 1.0)
    return tuple(h / size for h in shape)
