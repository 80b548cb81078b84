"""Integrals along two dense outputs at once: where to look, and with which weight.

Steps of the backward solve follow the adjoint, steps of the forward solve the state, and the
integrand of a parameter gradient holds both. Where the adjoint is calmer than the state, as in
``y' = p cos(w t)`` where it does not move at all, a backward step may be longer than what the
state allows to see; such a step is cut at the ends of the forward steps.

Shapes: knots are ``(steps + 1,)``, or ``(steps + 1, lanes)`` per sample, where lanes with fewer
    steps repeat knots; nodes and weights are ``(k,)`` or ``(k, lanes)``.
Units: weights are times.
Source: P. J. Davis, P. Rabinowitz, "Methods of Numerical Integration", 2nd ed., 1984, section
    2.7 (Gauss-Legendre rules).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


def count_nodes(order: int) -> int:
    """Nodes per piece with which the rule's error shrinks at least like that of the solver."""
    return max(1, (order + 1) // 2)


def place_nodes(late_to_early: Tensor, along: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Nodes inside the steps of a backward solve, and weights for the integral forwards.

    Args:
        late_to_early: knots of a backward solve, in its order.
        along: knots of the forward solve, in its order and without repetitions other than at
            the end.
        count: nodes per piece.

    Returns:
        ``(nodes, weights)``; a lane that has nothing left to add waits at a node with weight
        zero. Integrals of polynomials of degree ``2 count - 1`` on each piece are exact.
    """
    shape = late_to_early.shape
    back = late_to_early.flip(0).reshape(shape[0], -1)
    forward = along.reshape(len(along), -1)
    sign = 1.0 if bool((forward[-1] >= forward[0]).all()) else -1.0
    edges = sign * _cut(sign * back, sign * forward)
    x, w = _rule(count, edges.device)
    width = edges.diff(dim=0)
    nodes = edges[:-1, None] + width[:, None] * x[:, None]
    weights = width[:, None] * w[:, None]
    used = (width != 0).any(1)
    lanes = shape[1:]
    return nodes[used].reshape(-1, *lanes), weights[used].reshape(-1, *lanes)


def compact(knots: Tensor) -> Tensor:
    """Knots with the repetitions of each lane moved to its end; ``(m,)`` or ``(m, lanes)``."""
    fresh = torch.ones_like(knots, dtype=torch.bool)
    fresh[1:] = knots.diff(dim=0) != 0
    if bool(fresh.all()):
        return knots
    place = fresh.long().cumsum(0) - 1
    packed = knots[-1:].expand_as(knots).clone()
    # Knots are in order, so a repetition writes the value that is there already.
    packed.scatter_(0, place, knots)
    return packed[: int(fresh.sum(0).max())]


def _cut(back: Tensor, forward: Tensor) -> Tensor:
    """Ends of pieces, ``(m, lanes)`` ascending: those of ``back``, and of ``forward`` if needed.

    Pieces without a length are last in every lane.
    """
    first, last = back[:1], back[-1:]
    low = int((forward <= first).sum(0).min()) - 1
    high = len(forward) - int((forward >= last).sum(0).min()) + 1
    near = forward[max(low, 0) : max(high, 0)]
    if len(near) < 3:  # nothing inside
        return compact(back)
    gap = near.diff(dim=0)
    gap = torch.where(gap > 0, gap, torch.inf)
    knot, touched = near[1:-1], torch.minimum(gap[:-1], gap[1:])
    step = torch.searchsorted(back.T.contiguous(), knot.T.contiguous()).T - 1
    step = step.clamp(0, len(back) - 2)
    length = back.diff(dim=0)
    inside = (knot > first) & (knot < last)
    shortest = torch.full_like(length, torch.inf).scatter_reduce(
        0, step, torch.where(inside, touched, torch.inf), "amin"
    )
    wanted = inside & (length.gather(0, step) > shortest.gather(0, step))
    return compact(torch.cat([back, torch.where(wanted, knot, last)]).sort(0).values)


@functools.cache
def _rule(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights on the unit interval, ``(count,)`` each."""
    x, w = np.polynomial.legendre.leggauss(count)
    unit = np.stack([(x + 1) / 2, w / 2])
    nodes, weights = torch.as_tensor(unit, dtype=torch.float64, device=device)
    return nodes, weights
