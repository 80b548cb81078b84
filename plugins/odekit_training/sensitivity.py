"""Segments integrated by RK4, with the exact Jacobian of the numbers computed.

A step of RK4 is linear in small changes of its start and of its four slopes, so the Jacobian of a
whole segment is a product of ``D x D`` matrices. Run backwards from every node, that product says
how each slope ever computed acts on the node, and one vector-Jacobian product of the field per
segment turns this into the Jacobian with respect to the parameters.

Shapes: ``M`` segments, ``L`` intervals of ``s`` substeps, ``n = L s`` steps, states ``(M, D)``.
Source: the discrete adjoint of a Runge-Kutta method, W. W. Hager, "Runge-Kutta methods in optimal
    control and the transformed adjoint system", Numerische Mathematik 87, 2000, pp. 247-282,
    doi:10.1007/s002110000178.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import vjp, vmap

Slope: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``slope(w, t, y)``: ``(P,)``, ``(k,)``, ``(k, D)`` to ``(k, D)``."""

_MEMORY = 4_000_000  # numbers that one batch of Jacobians may hold at a time


@dataclass(frozen=True)
class Rollout:
    """What a forward pass leaves behind.

    Attributes:
        nodes: ``(M, L + 1, D)``, states at the nodes.
        t: ``(n, 4, M)``, times of the slopes computed.
        y: ``(n, 4, M, D)``, their states, clipped.
        inside: ``(n, 4, M, D)``, 1 where the clip did nothing.
        h: ``(n, M)``, steps.
    """

    nodes: Tensor
    t: Tensor
    y: Tensor
    inside: Tensor
    h: Tensor


@torch.no_grad()
def roll(
    slope: Slope, w: Tensor, times: Tensor, start: Tensor, substeps: int, box: tuple[Tensor, Tensor]
) -> Rollout:
    """Integrate every segment from ``start (M, D)`` over ``times (M, L + 1)``.

    Inside the field states are clipped to ``box``, so that a wrong model stays finite.
    """
    low, high = box
    h = (times.diff(dim=1) / substeps).repeat_interleave(substeps, dim=1).T
    begin = times[:, :-1].repeat_interleave(substeps, dim=1).T
    ramp = torch.arange(substeps, dtype=times.dtype).repeat(times.shape[1] - 1)[:, None]
    t = begin + ramp * h
    y, nodes, stages, insides = start, [start], [], []
    for i in range(len(h)):
        dt = h[i, :, None]
        at = y
        k: list[Tensor] = []
        for node in (0.0, 0.5, 0.5, 1.0):
            at = y + node * dt * k[-1] if k else y
            clipped = at.clamp(low, high)
            stages.append(clipped)
            insides.append(clipped == at)
            k.append(slope(w, t[i] + node * h[i], clipped))
        y = y + dt / 6 * (k[0] + 2 * k[1] + 2 * k[2] + k[3])
        if (i + 1) % substeps == 0:
            nodes.append(y)
    lead = (len(h), 4)
    c = torch.tensor([0.0, 0.5, 0.5, 1.0], dtype=t.dtype)[:, None]
    return Rollout(
        nodes=torch.stack(nodes, dim=1),
        t=t[:, None] + c * h[:, None],
        y=torch.stack(stages).reshape(*lead, *start.shape),
        inside=torch.stack(insides).reshape(*lead, *start.shape).to(start.dtype),
        h=h,
    )


def differentiate(slope: Slope, w: Tensor, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Jacobians of the nodes after the first.

    Returns:
        ``(M, L, D, D)`` with respect to the start, ``(M, L, D, P)`` with respect to ``w``.
    """
    steps, _, count, dim = rollout.y.shape
    length = rollout.nodes.shape[1] - 1
    rows = length * dim
    group = max(1, _MEMORY // (rows * max(len(w), 4 * steps * max(dim, 16))))
    by_start, by_w = [], []
    for begin in range(0, count, group):
        part = slice(begin, begin + group)
        t, y = rollout.t[:, :, part], rollout.y[:, :, part]
        local = _state_jacobian(slope, w, t, y) * rollout.inside[:, :, part, None, :]
        ahead, pulls = _pull_back(local, rollout.h[:, part], length)
        by_start.append(ahead)
        found = _parameter_jacobian(slope, w, t, y, pulls)
        by_w.append(found.reshape(len(found), length, dim, len(w)))
    return torch.cat(by_start), torch.cat(by_w)


def _state_jacobian(slope: Slope, w: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """``(n, 4, M, D, D)``: one reverse pass per state, all points at once."""
    points = y.reshape(-1, y.shape[-1])
    pull = vjp(lambda z: slope(w, t.reshape(-1), z), points)[1]
    basis = torch.eye(y.shape[-1], dtype=y.dtype)[:, None].expand(-1, len(points), -1)
    (rows,) = vmap(pull)(basis)
    return rows.transpose(0, 1).reshape(*y.shape, y.shape[-1])  # type: ignore[no-any-return]


def _pull_back(local: Tensor, h: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cotangents of every node, pulled back to the start and to every slope.

    Args:
        local: ``(n, 4, M, D, D)``, Jacobians of the field.
        h: ``(n, M)``.
        length: number of nodes.

    Returns:
        ``(M, L, D, D)`` and ``(M, L D, 4 n, D)``, the weight of each slope in each node.
    """
    steps, _, count, dim, _ = local.shape
    substeps = steps // length
    eye = torch.eye(dim, dtype=local.dtype)
    a = local.new_zeros(count, length, dim, dim)
    pulls = local.new_zeros(count, length, dim, steps, 4, dim)
    for i in range(steps - 1, -1, -1):
        if (i + 1) % substeps == 0:
            a[:, (i + 1) // substeps - 1] = eye
        live = slice(i // substeps, None)  # nodes that lie ahead of this step
        dt = h[i, :, None, None, None]
        f1, f2, f3, f4 = local[i].unsqueeze(2)
        b = a[:, live]
        c4 = dt / 6 * b
        c3 = dt / 3 * b + dt * (c4 @ f4)
        c2 = dt / 3 * b + dt / 2 * (c3 @ f3)
        c1 = dt / 6 * b + dt / 2 * (c2 @ f2)
        a[:, live] = b + c1 @ f1 + c2 @ f2 + c3 @ f3 + c4 @ f4
        pulls[:, live, :, i] = torch.stack([c1, c2, c3, c4], dim=3)
    return a, pulls.reshape(count, length * dim, steps * 4, dim)


def _parameter_jacobian(slope: Slope, w: Tensor, t: Tensor, y: Tensor, pulls: Tensor) -> Tensor:
    """``(M, L D, P)``: the slopes' cotangents pulled back to the parameters."""
    times = t.reshape(-1, t.shape[-1]).T
    states = y.reshape(-1, *y.shape[-2:]).transpose(0, 1)

    def one(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        pull = vjp(lambda w: slope(w, t, y), w)[1]
        (found,) = vmap(pull)(rows)
        return found  # type: ignore[no-any-return]

    return vmap(one)(times, states, pulls)
