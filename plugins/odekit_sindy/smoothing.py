"""Noise model and first smoother: which noise explains the data best, and the smoothed states.

Three models are compared by the evidence of one curve per state: *additive* noise of one size,
*multiplicative* noise in proportion to the state, and *log-normal* noise, a curve in the
logarithm for positive data. The Jacobian of the logarithm is included, so the three log densities
are of the same observed numbers and can be compared. Additive noise is kept unless another model
is better by more than `MARGIN`. The curves come from one of `CURVES`: a Gaussian process, or a
spline for long series.

Shapes: ``n`` rows of a trajectory, ``d`` states, ``q`` samples over all trajectories.
Units: scaled. ``shape`` is the noise's standard deviation over ``sigma``, of unit mean square
    per state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from odekit_sindy import gaussian_process, spline
from odekit_sindy.budget import Stop, never
from odekit_sindy.data import Dataset
from odekit_sindy.gaussian_process import Series
from odekit_sindy.noise_shape import mean_size, proportional

MODELS = ("additive", "multiplicative", "log-normal")
MARGIN = 3.0
CLEAN = 1e-4
"""Noise, relative to a state's standard deviation, below which data count as clean."""

QUERIES = 300

LONG = 2000
"""Rows beyond which a spline is the smoother unless another is asked for."""


class Curve(Protocol):
    """One state of all trajectories, smoothed."""

    @property
    def sigma(self) -> float:
        """Noise level where the noise's shape is one."""

    @property
    def evidence(self) -> float:
        """Log density of the observed values."""

    def predict(self, index: int, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and slope of trajectory ``index`` at ``query (q,)``, each ``(q,)``."""


Fit = Callable[[Sequence[Series]], Curve]

CURVES: Mapping[str, Fit] = {"gp": gaussian_process.fit, "spline": spline.fit}
"""Smoothers by name: one state of all trajectories to a `Curve`."""


@dataclass(frozen=True)
class Samples:
    """States and slopes along the trajectories.

    Attributes:
        t: times from the start of each trajectory, ``(q,)``.
        x: states, ``(q, d)``.
        dx: slopes, ``(q, d)``.
        u: inputs, ``(q, m)``.
    """

    t: np.ndarray
    x: np.ndarray
    dx: np.ndarray
    u: np.ndarray


@dataclass(frozen=True)
class Smoothed:
    """Smoothed data under one noise model.

    Attributes:
        kind: the noise model.
        shape: per trajectory ``(n, d)``.
        sigma: noise level per state ``(d,)``.
        states: smoothed states at the rows of each trajectory, ``(n, d)``.
        samples: states and slopes at query times.
        evidence: log density of the data under this model.
        smoother: name of the curves, one of `CURVES`.
    """

    kind: str
    shape: tuple[np.ndarray, ...]
    sigma: np.ndarray
    states: tuple[np.ndarray, ...]
    samples: Samples
    evidence: float
    smoother: str = "gp"


def smooth(
    dataset: Dataset,
    noise: str = "auto",
    report: Callable[[float], None] | None = None,
    smoother: str = "auto",
    stop: Stop = never,
) -> tuple[list[Smoothed], dict[str, float]]:
    """Smooth the data under the noise model that explains them best.

    Args:
        dataset: scaled data.
        noise: one of `MODELS`, or ``"auto"``.
        report: called with the fraction that is done.
        smoother: one of `CURVES`, or ``"auto"``: a Gaussian process up to `LONG` rows.
        stop: asked before each step; once it says true, models that nobody asked for by name
            are left out.

    Returns:
        The smoothed data under every model that was fitted, the chosen one first, and the log
        evidence of each.
    """
    found: dict[str, Smoothed] = {}
    report = report or (lambda _: None)
    if smoother == "auto":
        smoother = "spline" if dataset.rows > LONG else "gp"
    # A spline takes a tenth of a second at most, so nobody need stop it.
    fit = partial(gaussian_process.fit, stop=stop) if smoother == "gp" else CURVES[smoother]
    if noise in ("auto", "additive", "multiplicative"):
        found["additive"] = _additive(dataset, smoother, fit)
        report(0.4)
    if noise == "multiplicative" or (noise == "auto" and not stop()):
        found["multiplicative"] = _multiplicative(dataset, found["additive"], smoother, fit)
        report(0.7)
    positive = bool(np.nanmin(dataset.stacked) > 0)
    if noise == "log-normal" or (noise == "auto" and positive and not stop()):
        found["log-normal"] = _log_normal(dataset, smoother, fit)
    report(1.0)
    evidence = {kind: model.evidence for kind, model in found.items()}
    if noise != "auto":
        return [found[noise]], evidence
    best = max(found.values(), key=lambda model: model.evidence)
    additive = found["additive"]
    better = best.evidence > additive.evidence + MARGIN
    # Data without noise have no noise model; what differs then is rounding.
    clean = bool(np.all(additive.sigma < CLEAN))
    chosen = best if better and not clean else additive
    return [chosen, *(model for model in found.values() if model is not chosen)], evidence


def follow(dataset: Dataset, smoothed: Smoothed, most: float, stop: Stop = never) -> Smoothed:
    """Smooth again, but take at most ``most`` standard deviations of a state for noise.

    Samples that are few per oscillation look like noise to a smoother. Noise model and levels
    stay as they are.

    Args:
        dataset: scaled data.
        smoothed: the data smoothed freely.
        most: highest noise level.
        stop: asked before each step; once it says true, the best so far is the result.
    """
    log = smoothed.kind == "log-normal"
    shape = _flat(dataset) if log else list(smoothed.shape)
    curves = _curves(dataset, shape, log, partial(gaussian_process.fit, most=most, stop=stop))
    states, samples = _evaluate(dataset, curves, log)
    return replace(smoothed, states=states, samples=samples)


def queries(dataset: Dataset, total: int = QUERIES) -> list[np.ndarray]:
    """Equidistant query times per trajectory, about ``total`` in all, shared out by rows."""
    out = []
    for part in dataset.trajectories:
        count = max(20, round(total * len(part.t) / dataset.rows))
        out.append(np.linspace(part.t[0], part.t[-1], count))
    return out


def _curves(dataset: Dataset, shape: list[np.ndarray], log: bool, fit: Fit) -> list[Curve]:
    out = []
    for j in range(dataset.dim):
        series = []
        for part, h in zip(dataset.trajectories, shape, strict=True):
            seen = np.isfinite(part.y[:, j])
            y = part.y[seen, j]
            series.append(Series(part.t[seen], np.log(y) if log else y, h[seen, j]))
        out.append(fit(series))
    return out


def _evaluate(
    dataset: Dataset, curves: list[Curve], log: bool
) -> tuple[tuple[np.ndarray, ...], Samples]:
    states, xs, slopes, inputs, times = [], [], [], [], []
    for i, (part, query) in enumerate(zip(dataset.trajectories, queries(dataset), strict=True)):
        at_rows = [curve.predict(i, part.t)[0] for curve in curves]
        pairs = [curve.predict(i, query) for curve in curves]
        x = np.stack([p[0] for p in pairs], axis=1)
        dx = np.stack([p[1] for p in pairs], axis=1)
        rows = np.stack(at_rows, axis=1)
        if log:
            x, rows = np.exp(x), np.exp(rows)
            dx = x * dx
        states.append(rows)
        xs.append(x)
        slopes.append(dx)
        columns = [np.interp(query, part.t, part.u[:, k]) for k in range(part.u.shape[1])]
        inputs.append(np.stack(columns, axis=1) if columns else np.zeros((len(query), 0)))
        times.append(query)
    samples = Samples(*map(np.concatenate, (times, xs, slopes, inputs)))
    return tuple(states), samples


def _flat(dataset: Dataset) -> list[np.ndarray]:
    return [np.ones_like(part.y) for part in dataset.trajectories]


def _additive(dataset: Dataset, smoother: str, fit: Fit) -> Smoothed:
    shape = _flat(dataset)
    curves = _curves(dataset, shape, log=False, fit=fit)
    states, samples = _evaluate(dataset, curves, log=False)
    sigma = np.array([curve.sigma for curve in curves])
    evidence = sum(curve.evidence for curve in curves)
    return Smoothed("additive", tuple(shape), sigma, states, samples, evidence, smoother)


def _multiplicative(dataset: Dataset, additive: Smoothed, smoother: str, fit: Fit) -> Smoothed:
    largest = np.abs(np.concatenate(additive.states)).max(0)
    level = [proportional(x, largest) for x in additive.states]
    size = _size(dataset, level)
    shape = [h / size for h in level]
    curves = _curves(dataset, shape, log=False, fit=fit)
    states, samples = _evaluate(dataset, curves, log=False)
    sigma = np.array([curve.sigma for curve in curves])
    evidence = sum(curve.evidence for curve in curves)
    return Smoothed("multiplicative", tuple(shape), sigma, states, samples, evidence, smoother)


def _log_normal(dataset: Dataset, smoother: str, fit: Fit) -> Smoothed:
    curves = _curves(dataset, _flat(dataset), log=True, fit=fit)
    states, samples = _evaluate(dataset, curves, log=True)
    size = _size(dataset, states)
    shape = [x / size for x in states]
    sigma = np.array([curve.sigma for curve in curves]) * size
    # The density of y from that of log y: the Jacobian of the logarithm is 1 / y.
    jacobian = -float(np.nansum(np.log(dataset.stacked)))
    evidence = sum(curve.evidence for curve in curves) + jacobian
    return Smoothed("log-normal", tuple(shape), sigma, states, samples, evidence, smoother)


def _size(dataset: Dataset, shape: Sequence[np.ndarray]) -> np.ndarray:
    return mean_size(np.concatenate(list(shape)), np.isfinite(dataset.stacked))
