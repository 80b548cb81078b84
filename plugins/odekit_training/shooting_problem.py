"""The least-squares problem of multiple shooting: residuals, Jacobian and scales.

Unknowns are the parameters ``w (P,)`` and the start state of every segment ``s (M, D)``, in units
of the state's own scale. Residuals are the data, each in units of its noise, and the gaps: between
a segment's end and the next one's start, and between a trajectory's start and what the field's
``lift`` makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from odekit_training.flat_field import FlatField
from odekit_training.segments import Segments
from odekit_training.sensitivity import Rollout, differentiate, roll


@dataclass
class ShootingProblem:
    """What is minimised, for given weights.

    Attributes:
        flat: the field.
        segments: layout and data.
        unit: ``(D,)``, scale of the integrated states.
        box: states that the field is asked about, ``(D,)`` each.
        noise: ``(d,)``, standard deviation of the data's noise.
        gap: ``(D,)``, what counts as one unit of a gap.
        continuity: weight of the gaps.
        substeps: RK4 steps per data interval.
    """

    flat: FlatField
    segments: Segments
    unit: Tensor
    box: tuple[Tensor, Tensor]
    noise: Tensor
    gap: Tensor
    continuity: float = 1.0
    substeps: int = 2

    def rollout(self, w: Tensor, s: Tensor, substeps: int | None = None) -> Rollout:
        """Integrate every segment."""
        return roll(
            self.flat.slope,
            w,
            self.segments.t,
            s * self.unit,
            substeps or self.substeps,
            self.box,
        )

    @torch.no_grad()
    def errors(self, w: Tensor, rollout: Rollout) -> Tensor:
        """``(M, L + 1, d)``: model less data in the user's units, NaN where there is none."""
        y = self.segments.y
        return self.flat.project(w, rollout.nodes.flatten(0, 1)).reshape(y.shape) - y

    @torch.no_grad()
    def residual(self, w: Tensor, rollout: Rollout) -> Tensor:
        """``(R,)``: data, then gaps between segments, then gaps to the lift."""
        errors = (self.errors(w, rollout) / self.noise)[self._there]
        start, end = rollout.nodes[:, 0], rollout.nodes[:, -1]
        before = self.segments.before
        parts = [errors, ((end[before] - start[before + 1]) * self._weight).reshape(-1)]
        if self.flat.lifts:
            first = start[self.segments.first]
            lifted = self.flat.lift(w, self.flat.project(w, first))
            parts.append(((first - lifted) * self._weight).reshape(-1))
        return torch.cat(parts).nan_to_num(1e6, 1e6, -1e6).clamp(-1e6, 1e6)

    @property
    def _there(self) -> Tensor:
        return ~self.segments.y.isnan()

    @property
    def _weight(self) -> Tensor:
        return self.continuity / self.gap

    @torch.no_grad()
    def jacobian(self, w: Tensor, rollout: Rollout) -> Tensor:
        """``(R, P + M D)``, rows in the order of `residual`."""
        by_start, by_w = differentiate(self.flat.slope, w, rollout)
        count, length, dim = rollout.nodes.shape[0], *by_start.shape[1:3]
        by_start = by_start * self.unit
        start = torch.diag(self.unit).expand(count, 1, dim, dim)
        by_start = torch.cat([start, by_start], dim=1)
        by_w = torch.cat([by_w.new_zeros(count, 1, dim, len(w)), by_w], dim=1)
        blocks = [self._data_rows(w, rollout.nodes, by_start, by_w)]
        before = self.segments.before
        if len(before):
            blocks.append(
                self._gap_rows(
                    by_w[before, length],
                    {0: (before, by_start[before, length]), 1: (before + 1, -start[before, 0])},
                    count,
                )
            )
        if self.flat.lifts:
            blocks.append(self._lift_rows(w, rollout.nodes[:, 0], count))
        return torch.cat(blocks).nan_to_num(0.0, 0.0, 0.0)

    def _data_rows(self, w: Tensor, nodes: Tensor, by_start: Tensor, by_w: Tensor) -> Tensor:
        count, points, dim = nodes.shape
        if self.flat.projects:
            flat = nodes.reshape(-1, dim)
            by_y, direct = _jacobians(self.flat.project, w, flat)
            by_y = by_y.reshape(count, points, -1, dim)
            by_start, by_w = by_y @ by_start, by_y @ by_w
            if direct is not None:
                by_w = by_w + direct.reshape(count, points, -1, len(w))
        there = self._there
        scale = (1 / self.noise).expand_as(there)[there][:, None]
        owner = torch.arange(count)[:, None, None].expand_as(there)[there]
        states = _spread(by_start[there], owner, count)
        return torch.cat([by_w[there], states], dim=1) * scale

    def _gap_rows(self, by_w: Tensor, states: dict[Any, Any], count: int) -> Tensor:
        dim = by_w.shape[1]
        total = torch.zeros(len(by_w) * dim, count * dim, dtype=by_w.dtype)
        for owner, block in states.values():
            total += _spread(block.reshape(-1, dim), owner.repeat_interleave(dim), count)
        rows = torch.cat([by_w.reshape(-1, by_w.shape[-1]), total], dim=1)
        return rows * self._weight.repeat(len(by_w))[:, None]

    def _lift_rows(self, w: Tensor, start: Tensor, count: int) -> Tensor:
        first = self.segments.first

        def lifted(w: Tensor, y: Tensor) -> Tensor:
            return self.flat.lift(w, self.flat.project(w, y))

        by_y, direct = _jacobians(lifted, w, start[first])
        eye = torch.eye(start.shape[1], dtype=start.dtype)
        if direct is None:
            direct = start.new_zeros(len(first), start.shape[1], len(w))
        return self._gap_rows(-direct, {0: (first, (eye - by_y) * self.unit)}, count)


def _spread(block: Tensor, owner: Tensor, count: int) -> Tensor:
    """Rows ``(r, D)`` put into the columns of their segment: ``(r, M D)``."""
    rows, dim = block.shape
    wide = block.new_zeros(rows, count, dim)
    wide[torch.arange(rows), owner] = block
    return wide.reshape(rows, count * dim)


def _jacobians(function: Any, w: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """``(k, a, D)`` and ``(k, a, P)`` of ``function(w, (k, D)) -> (k, a)``; None where zero."""

    def one(w: Tensor, y: Tensor) -> Tensor:
        return function(w, y[None])[0]  # type: ignore[no-any-return]

    by_y = vmap(jacrev(one, argnums=1), in_dims=(None, 0))(w, y)
    with torch.enable_grad():
        probe = w.detach().requires_grad_()
        value = function(probe, y).sum()
        depends = value.requires_grad and (
            torch.autograd.grad(value, probe, allow_unused=True)[0] is not None
        )
    if not depends:
        return by_y, None
    return by_y, vmap(jacrev(one, argnums=0), in_dims=(None, 0))(w, y)
