"""The smoother ``"node"``: a neural ODE fitted to the trajectories.

A network with one hidden layer is matched to the slopes of another smoother, then trained by
multiple shooting on segments that grow, with weight decay set by evidence; several random
networks are tried and the best evidence is kept. States and slopes are usually half as wrong as
those of the Gaussian process. The price is a smooth bias: its slopes satisfy an equation of
their own, so the size of a model must never be decided by how well it fits them. On monotone
data, or with fewer than some eight rows per state, the Gaussian process is no worse.

Shapes: ``B`` networks, ``k`` parameters, ``d`` states, ``v = d + m`` variables, ``q`` samples.
Units: scaled.
Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural ordinary differential
    equations", NeurIPS 2018, arXiv:1806.07366, for the model; its training here is
    Gauss-Newton, which suits a hundred parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from odekit_sindy.budget import Stop, never
from odekit_sindy.data import Dataset
from odekit_sindy.dynamics import Dynamics
from odekit_sindy.growing import FLOOR, Begin, Grown, Stage, grow
from odekit_sindy.kinematics import Kinematic
from odekit_sindy.layout import INTERVALS
from odekit_sindy.least_squares import WARY, Normal, Trial, damped_step, descend
from odekit_sindy.neural import Network
from odekit_sindy.smoothing import Samples, Smoothed

HIDDEN, WIDE = 16, 20
"""Hidden units for one or two states, and for more."""

NETWORKS = 4
STAGES = (Stage(2, 1.0, 2), Stage(INTERVALS, 1.0, 1), Stage(INTERVALS, 10.0, 1))
MATCHING = 40
MATCHED = 1e-3
MATCHING_DECAY = 1e-3


def smooth(
    dataset: Dataset,
    first: Smoothed,
    seed: int = 0,
    networks: int = NETWORKS,
    hidden: int | None = None,
    stop: Stop = never,
    moved: Mapping[int, tuple[int, float]] | None = None,
) -> Grown[Dynamics]:
    """Smooth data by a neural ODE.

    Args:
        dataset: scaled data.
        first: another smoother's result, which gives the slopes to begin with, the noise model
            and its level.
        seed: of the random weights; the same seed gives the same result.
        networks: how many random networks are trained.
        hidden: hidden units, 16 for one or two states and 20 for more by default.
        stop: asked before each step; once it says true, what was learnt so far is the result.
        moved: states of which the slope is known, see `odekit_sindy.kinematics.Kinematic`.
    """
    samples = first.samples
    network = network_for(samples, hidden or (HIDDEN if dataset.dim <= 2 else WIDE))
    points = np.concatenate([samples.x, samples.u], axis=1).T
    c = network.draw(np.random.default_rng(seed), networks)
    c = match_slopes(network, c, points, samples.dx.T, stop)
    begins = [Begin(row, first.states) for row in c]
    dynamics = Kinematic(network, moved) if moved else network
    sigma = np.maximum(first.sigma, FLOOR)
    return grow(dataset, first, dynamics, begins, sigma, STAGES, stop=stop)


def network_for(samples: Samples, hidden: int) -> Network:
    """A network in the units of these samples."""
    variables = np.concatenate([samples.x, samples.u], axis=1)
    width, speed = variables.std(0), samples.dx.std(0)
    return Network(
        variables.mean(0),
        np.where(width > 0, width, 1.0),
        np.where(speed > 0, speed, 1.0),
        hidden,
    )


def match_slopes(
    network: Network,
    parameters: np.ndarray,
    points: np.ndarray,
    slopes: np.ndarray,
    stop: Stop = never,
) -> np.ndarray:
    """Parameters ``(B, k)`` whose slopes fit given ones, by Levenberg-Marquardt.

    Args:
        network: the shape.
        parameters: where to begin, ``(B, k)``.
        points: ``(v, q)``.
        slopes: ``(d, q)``.
        stop: asked before each step.
    """
    c = parameters.copy()
    prior = np.full_like(c, MATCHING_DECAY)
    now = _match(network, c, points, slopes)

    def attempt(rows: np.ndarray, lam: np.ndarray) -> Trial:
        trial = c[rows] + damped_step(now.h[rows], now.g[rows], lam, prior[rows])
        new = _match(network, trial, points, slopes)

        def keep(better: np.ndarray, _: np.ndarray) -> None:
            c[rows[better]] = trial[better]
            now.put(rows, new, better)

        return Trial(now.cost[rows], new.cost, keep)

    descend(attempt, len(c), MATCHING, MATCHED, WARY, stop=stop)
    return c


def _match(network: Network, c: np.ndarray, points: np.ndarray, slopes: np.ndarray) -> Normal:
    """Cost with decay, curvature without, gradient with it."""
    count, k = c.shape
    f, _, own = network.tangents(c, np.broadcast_to(points, (count, *points.shape)))
    r = ((f - slopes) / network.speed[:, None]).reshape(count, -1, 1)
    jac = (own / network.speed[:, None, None]).transpose(0, 2, 1, 3).reshape(count, k, -1)
    cost = (r[:, :, 0] ** 2).sum(1) + MATCHING_DECAY * (c**2).sum(1)
    return Normal(cost, jac @ jac.transpose(0, 2, 1), (jac @ r)[:, :, 0] + MATCHING_DECAY * c)
