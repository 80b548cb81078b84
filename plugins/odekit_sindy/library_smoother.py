"""The smoother ``"library"``: all polynomials of low degree at once, fitted to the trajectories.

Where the field is near a polynomial this needs fewer samples than any other smoother, some five
per oscillation and one per spike: a few dozen coefficients, not hundreds, bridge the gaps. The
coefficients are dense and mean nothing by themselves; they give states, slopes and the noise's
level to a search over subsets. Far from polynomials prefer ``"node"``.

Shapes: ``L`` functions, ``d`` states, ``n`` rows of a trajectory, ``q`` samples.
Units: scaled.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

from odekit_sindy.budget import Stop, never
from odekit_sindy.candidates import ridge
from odekit_sindy.data import Dataset
from odekit_sindy.growing import Begin, Grown, Stage, grow
from odekit_sindy.layout import INTERVALS
from odekit_sindy.library import Library
from odekit_sindy.smoothing import Samples, Smoothed, queries

MOST_COLUMNS = 150
STAGES = (Stage(1, 1.0, 3), Stage(2, 1.0, 3), Stage(INTERVALS, 1.0, 3), Stage(INTERVALS, 10.0, 1))
FIRST_NOISE = 0.2
"""Noise level of the first stage, relative to a state's standard deviation."""

RIDGE = 1e-3


def library_for(dataset: Dataset) -> Library:
    """Cubic polynomials in one or two variables, quadratic in more, linear in very many."""
    variables = dataset.dim + len(dataset.inputs)
    degree = 3 if variables <= 2 else 2
    library = Library(dataset.dim, degree, inputs=len(dataset.inputs))
    if library.size * dataset.dim > MOST_COLUMNS:
        return Library(dataset.dim, 1, inputs=len(dataset.inputs))
    return library


def smooth(dataset: Dataset, first: Smoothed, stop: Stop = never) -> Grown[Library]:
    """Smooth data by the flow of a whole library.

    Args:
        dataset: scaled data.
        first: result of the Gaussian process; its slopes give one start, those of interpolating
            splines two more.
        stop: asked before each step; once it says true, what was learnt so far is the result.
    """
    library = library_for(dataset)
    sources = [interpolated(dataset, spline) for spline in (CubicSpline, PchipInterpolator)]
    units = _units(sources[1][0], library)
    sources.append((first.samples, first.states))
    begins = [_begin(samples, states, library) for samples, states in sources]
    sigma = np.full(dataset.dim, FIRST_NOISE)
    return grow(dataset, first, library, begins, sigma, STAGES, units, stop)


def _units(samples: Samples, library: Library) -> np.ndarray:
    """Coefficients that make a term as large as the slopes, ``(d L,)``."""
    theta = library.evaluate(np.concatenate([samples.x, samples.u], axis=1).T)
    size = np.sqrt((theta**2).mean(1))
    speed = np.sqrt((samples.dx**2).mean(0))
    return np.asarray((np.maximum(speed, 1e-12)[:, None] / np.maximum(size, 1e-12)).reshape(-1))


def _begin(samples: Samples, states: tuple[np.ndarray, ...], library: Library) -> Begin:
    """Ridge regression of slopes on the library."""
    a = library.evaluate(np.concatenate([samples.x, samples.u], axis=1).T).T
    return Begin(ridge(a, samples.dx, RIDGE).T.reshape(-1), states)


def interpolated(
    dataset: Dataset, spline: type[CubicSpline] | type[PchipInterpolator]
) -> tuple[Samples, tuple[np.ndarray, ...]]:
    """States and slopes of splines through the observed values, missing cells bridged.

    A state that a trajectory shows fewer than two times is held constant there.
    """
    states, columns = [], []
    for part, query in zip(dataset.trajectories, queries(dataset), strict=True):
        rows, x, dx = (np.zeros((n, dataset.dim)) for n in (len(part.t), len(query), len(query)))
        for j in range(dataset.dim):
            seen = np.isfinite(part.y[:, j])
            if seen.sum() < 2:
                level = part.y[seen, j] if seen.any() else dataset.stacked[:, j]
                rows[:, j] = x[:, j] = np.nanmean(level)
                continue
            curve = spline(part.t[seen], part.y[seen, j])
            low, high = part.t[seen][[0, -1]]
            inside = (query >= low) & (query <= high)
            rows[:, j] = curve(np.clip(part.t, low, high))
            x[:, j] = curve(np.clip(query, low, high))
            dx[:, j] = np.where(inside, curve(np.clip(query, low, high), 1), 0.0)
        u = [np.interp(query, part.t, part.u[:, i]) for i in range(part.u.shape[1])]
        inputs = np.stack(u, axis=1) if u else np.zeros((len(query), 0))
        states.append(rows)
        columns.append((query, x, dx, inputs))
    return Samples(*(np.concatenate(c) for c in zip(*columns, strict=True))), tuple(states)
