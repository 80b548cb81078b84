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

import numpy as np

from odekit_sindy.data import Dataset
from odekit_sindy.growing import FLOOR, Begin, Grown, Stage, grow
from odekit_sindy.layout import INTERVALS
from odekit_sindy.neural import Network
from odekit_sindy.shooting import TRIES
from odekit_sindy.smoothing import Samples, Smoothed
from odekit_sindy.training import Damping

HIDDEN, WIDE = 16, 20
"""Hidden units for one or two states, and for more."""

NETWORKS = 4
STAGES = (Stage(2, 1.0, 2), Stage(INTERVALS, 1.0, 1), Stage(INTERVALS, 10.0, 1))
MATCHING = 40
MATCHING_DECAY = 1e-3


def smooth(
    dataset: Dataset,
    first: Smoothed,
    seed: int = 0,
    networks: int = NETWORKS,
    hidden: int | None = None,
) -> Grown[Network]:
    """Smooth data by a neural ODE.

    Args:
        dataset: scaled data.
        first: another smoother's result, which gives the slopes to begin with, the noise model
            and its level.
        seed: of the random weights; the same seed gives the same result.
        networks: how many random networks are trained.
        hidden: hidden units, 16 for one or two states and 20 for more by default.
    """
    samples = first.samples
    network = network_for(samples, hidden or (HIDDEN if dataset.dim <= 2 else WIDE))
    points = np.concatenate([samples.x, samples.u], axis=1).T
    c = network.draw(np.random.default_rng(seed), networks)
    c = match_slopes(network, c, points, samples.dx.T)
    begins = [Begin(row, first.states) for row in c]
    return grow(dataset, first, network, begins, np.maximum(first.sigma, FLOOR), STAGES)


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
    network: Network, parameters: np.ndarray, points: np.ndarray, slopes: np.ndarray
) -> np.ndarray:
    """Parameters ``(B, k)`` whose slopes fit given ones, by Levenberg-Marquardt.

    Args:
        network: the shape.
        parameters: where to begin, ``(B, k)``.
        points: ``(v, q)``.
        slopes: ``(d, q)``.
    """
    c = parameters.copy()
    prior = np.full_like(c, MATCHING_DECAY)
    damping, alive = Damping.of(len(c)), np.arange(len(c))
    cost, h, g = _match(network, c, points, slopes)
    while len(alive):
        trial = c[alive] + damping.step(alive, h[alive], g[alive], prior[alive])
        new = _match(network, trial, points, slopes)
        better = new[0] < cost[alive]
        slow = better & (cost[alive] - new[0] < 1e-3 * cost[alive])
        won = alive[better]
        c[won] = trial[better]
        cost[won], h[won], g[won] = (value[better] for value in new)
        damping.tell(alive, better)
        over = (damping.taken[alive] >= MATCHING) | (damping.failures[alive] >= TRIES)
        alive = alive[~over & ~slow]
    return c


def _match(
    network: Network, c: np.ndarray, points: np.ndarray, slopes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost ``(B,)`` with decay, curvature ``(B, k, k)`` without, gradient ``(B, k)`` with it."""
    count, k = c.shape
    f, _, own = network.tangents(c, np.broadcast_to(points, (count, *points.shape)))
    r = ((f - slopes) / network.speed[:, None]).reshape(count, -1, 1)
    jac = (own / network.speed[:, None, None]).transpose(0, 2, 1, 3).reshape(count, k, -1)
    cost = (r[:, :, 0] ** 2).sum(1) + MATCHING_DECAY * (c**2).sum(1)
    return cost, jac @ jac.transpose(0, 2, 1), (jac @ r)[:, :, 0] + MATCHING_DECAY * c
