"""Prediction of a trajectory with a handful of values: its start is known only so far.

With thousands of values the start costs nothing; with five of two states, it takes nearly half of
what there is. So the start has a prior, the states seen along the trajectories learned from, and
the noise level is theirs, not one read off so few residuals. What the start's fit takes out of the
residuals is counted and given back: their level is per value that was left free. Errors of the
coefficients move the start too, and its standard error knows of them.

For anything longer `odekit_sindy.holdout.predict` is better, which cuts it into segments: a single
one is lost where trajectories part quickly.

Shapes: ``n`` rows, ``d`` states, ``N`` observed values, ``B`` guesses.
Units: scaled.
Source: maximum of the posterior with the Gauss-Newton covariance, and the trace of the projection
    as the numbers spent: T. Hastie, R. Tibshirani, J. Friedman, "The Elements of Statistical
    Learning", 2nd ed. 2009, section 7.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from odekit_sindy.data import FEWEST, Dataset
from odekit_sindy.layout import arrange
from odekit_sindy.least_squares import minimise
from odekit_sindy.models import Models, Support
from odekit_sindy.shooting import Shooting

STEPS = 50


@final
@dataclass(frozen=True)
class Learned:
    """What the trajectories learned from say about another one.

    Attributes:
        centre: mean of each state, ``(d,)``.
        spread: standard deviation of each state, ``(d,)``.
        level: noise level of each state, ``(d,)``.
        covariance: of the coefficients, ``(k, k)``.
    """

    centre: np.ndarray
    spread: np.ndarray
    level: np.ndarray
    covariance: np.ndarray


@final
@dataclass(frozen=True)
class Prediction:
    """A trajectory simulated from a fitted start.

    Attributes:
        states: at its rows, ``(n, d)``.
        spent: share of the values that the fit of the start took, 0 to 1.
        start: state at the first row, ``(d,)``.
        stderr: standard error of each, ``(d,)``.
    """

    states: np.ndarray
    spent: float
    start: np.ndarray
    stderr: np.ndarray


def is_short(y: np.ndarray) -> bool:
    """Whether a trajectory ``(n, d)`` has fewer values than a search would need."""
    return bool(np.isfinite(y).sum() < FEWEST * y.shape[1])


def predict_short(
    shooting: Shooting[Any],
    support: Support,
    c: np.ndarray,
    dataset: Dataset,
    shape: np.ndarray,
    learned: Learned,
    guesses: Sequence[np.ndarray],
) -> Prediction:
    """Fit the start of a single trajectory, coefficients held fixed.

    Args:
        shooting: the problem of the others, for the family, the substeps and the box.
        support: flat indices of the structure.
        c: its coefficients.
        dataset: the trajectory.
        shape: the noise's shape, ``(n, d)``.
        learned: the prior of the start, the noise level, and how well the coefficients are known.
        guesses: first states to begin the fit from, each ``(d,)``.
    """
    layout = arrange(dataset, (shape,), intervals=None)
    layout = replace(layout, low=shooting.layout.low, high=shooting.layout.high)
    substeps = min(2 * shooting.substeps, 32)
    single = Shooting(layout, shooting.dynamics, substeps, shooting.floor)
    node, state, _ = np.nonzero(layout.weight)
    weight = layout.weight[node, state, 0] / learned.level[state]
    prior = np.diag(1 / learned.spread)

    def models(theta: np.ndarray) -> Models:
        count = len(theta)
        start = np.clip(theta, layout.low, layout.high)[:, :, None]
        return Models.of([support] * count, [c] * count, list(start), shooting.dynamics.size)

    def compared(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nodes, z = single.integrate(models(theta), sensitivities=True)
        assert z is not None
        r = (nodes[node, :, state, 0] - layout.y[node, state, 0, None]) * weight[:, None]
        return r, z[node, :, state, :, 0] * weight[:, None, None]

    def residual(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r, jac = compared(theta)
        away = (theta - learned.centre) / learned.spread
        slope = np.broadcast_to(prior, (len(theta), *prior.shape))
        return (
            np.concatenate([r.T, away], axis=1),
            np.concatenate([jac[:, :, : dataset.dim].transpose(1, 0, 2), slope], axis=1),
        )

    found, cost = minimise(residual, np.stack(list(guesses)), STEPS)
    best = found[int(np.argmin(cost))][None]
    jac = compared(best)[1][:, 0]
    own, others = jac[:, : dataset.dim], jac[:, dataset.dim :]
    covariance = np.linalg.inv(own.T @ own + prior**2)
    spent = float(np.einsum("ni,ij,nj->", own, covariance, own)) / len(node)
    drift = covariance @ own.T @ others
    covariance = covariance + drift @ learned.covariance @ drift.T
    nodes, _ = single.integrate(models(best))
    return Prediction(layout.at_rows(nodes[:, 0])[0], spent, best[0], np.sqrt(np.diag(covariance)))
