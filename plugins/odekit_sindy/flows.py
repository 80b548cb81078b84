"""Smoothers that follow trajectories, by name, and when to trust them above a curve in time.

A curve in time knows nothing of what drives it: a spike or a swing between few samples looks like
noise to it, and the search then stops at a model that explains nothing. A family of right-hand
sides fitted to the trajectories tells the two apart. These smoothers give the search further
starts; where they find far less noise than the curve did, they take its place.

Units: scaled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from odekit.errors import DataWarning
from odekit_sindy import library_smoother, neural_smoother
from odekit_sindy.budget import Stop, never
from odekit_sindy.data import Dataset
from odekit_sindy.smoothing import Smoothed

FLOWS = ("library", "node")
LESS = 0.7
"""Share of the curve's noise in some state below which the curve took signal for noise."""

MOST_NOISE = 0.5
"""Noise of a state, relative to its standard deviation, above which a flow found nothing."""

LONGEST = 2000
"""Rows beyond which curves have all they need and flows would be slow."""


def smooth_by_flow(
    dataset: Dataset,
    curve: Smoothed,
    names: Sequence[str],
    seed: int = 0,
    stop: Stop = never,
) -> tuple[Smoothed, list[Smoothed]]:
    """Smooth by trajectories, beside a curve.

    Args:
        dataset: scaled data.
        curve: the curve's result.
        names: some of `FLOWS`.
        seed: of the networks' random weights.
        stop: asked before each step; a flow that it cuts short is left out.

    Returns:
        The result to rely on, and every other that may give starts. A flow that fails is left
        out, a network's with a `DataWarning`; data of many rows, or with a state that was never
        observed, are left to the curve.
    """
    if dataset.rows > LONGEST or np.any(dataset.counts == 0):
        return curve, []
    trusted, others = curve, []
    if "library" in names and not stop():
        library = _attempt(
            "library", lambda: library_smoother.smooth(dataset, curve, stop).smoothed
        )
        if library is not None and _finds_more(library, curve) and not stop():
            trusted = library
    if "node" in names and not stop():
        node = attempt_network(dataset, trusted, seed, stop)
        if node is not None:
            others.append(node)
    return trusted, others


def attempt_network(
    dataset: Dataset,
    first: Smoothed,
    seed: int,
    stop: Stop = never,
    moved: Mapping[int, tuple[int, float]] | None = None,
) -> Smoothed | None:
    """What a neural ODE makes of the data, see `odekit_sindy.neural_smoother.smooth`.

    Returns:
        None where it was cut short, or failed, with a `DataWarning`.
    """

    def fit() -> Smoothed:
        return neural_smoother.smooth(dataset, first, seed, stop=stop, moved=moved).smoothed

    node = _attempt("node", fit)
    if stop():
        return None
    if node is None:
        warnings.warn(
            "the neural ODE could not be fitted to these data; the search goes on without it",
            DataWarning,
            stacklevel=2,
        )
    return node


def _finds_more(flow: Smoothed, curve: Smoothed) -> bool:
    """Whether a flow explains what the curve took for noise."""
    return bool(np.any(flow.sigma < LESS * curve.sigma) and np.all(flow.sigma < MOST_NOISE))


def _attempt(name: str, fit: Callable[[], Smoothed]) -> Smoothed | None:
    """The result of a fit under its name, or None where it failed or is not finite."""
    try:
        smoothed = fit()
    except np.linalg.LinAlgError:
        return None
    parts = (*smoothed.states, smoothed.samples.x, smoothed.samples.dx, smoothed.sigma)
    if not all(np.isfinite(part).all() for part in parts):
        return None
    return replace(smoothed, smoother=name)
