"""When the steps of a solve were taken, and which rows of the solution lie in them.

Shapes: those of `Footsteps`; per sample every lane counts its own steps.
Units: times in the caller's unit of time.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from odekit import Problem
from odekit_gradients.footsteps import Footsteps

Index: TypeAlias = tuple[Tensor, ...]
"""Rows, and with steps per sample their lanes, so that ``y[index]`` are their values."""


class Piece(NamedTuple):
    """One step of every lane, with times as the solver takes them.

    Attributes:
        t: where it begins, 0-d or ``(lanes, 1)``.
        h: its signed length, a float or ``(lanes, 1)``.
        active: ``(lanes,)``, who takes it; None if all do.
        moving: whether it is shifted with the start time.
        held: whether it ends where the field jumps, which is not shifted.
        end: where it ends.
    """

    t: Tensor
    h: Any
    active: Tensor | None
    moving: Tensor
    held: Tensor
    end: Tensor


class Timetable:
    """Steps by their number.

    Args:
        problem: what was solved.
        steps: the steps taken.
        wants_t: whether times ask for gradients.

    Attributes:
        holds: for every step, whether it holds some lane still at a jump.
    """

    def __init__(self, problem: Problem, steps: Footsteps, *, wants_t: bool) -> None:
        self.problem, self.steps, self.wants_t = problem, steps, wants_t
        self.shared = not problem.per_sample
        self.real = problem.y0.real.dtype
        self.t = problem.t.detach()
        self._set_clock()

    def __len__(self) -> int:
        """How many steps there are, of the lane with the most of them."""
        return self.steps.knots.shape[1] - 1

    def _set_clock(self) -> None:
        """Where the steps really begin and end: at a jump a little beside it, as in the solve."""
        knots = self.steps.knots
        self.taken = knots.diff(dim=-1) != 0
        jumps = torch.tensor(
            self.problem.controller.jump_times, dtype=knots.dtype, device=knots.device
        )
        self.jump = torch.isin(knots, jumps) & bool(len(jumps))
        length = knots.diff(dim=-1)
        gap = 4 * torch.finfo(self.real).eps * knots.abs().amax(-1, keepdim=True)
        gap = torch.minimum(gap, length.abs() / 4) * torch.sign(length)
        begin = torch.where(self.jump[:, :-1], knots[:, :-1] + gap, knots[:, :-1])
        self.end = torch.where(self.jump[:, 1:], knots[:, 1:] - gap, knots[:, 1:])
        self.begin, self.length = begin, self.end - begin
        # A step is shifted with the start time, until the first jump behind the start.
        behind = self.jump[:, 1:].long().cumsum(-1)
        self.moving = (behind - self.jump[:, 1:].long()) == 0
        self.held = self.jump[:, 1:] & self.moving & self.taken
        self.holds: list[bool] = (self.held.any(0) & self.wants_t).tolist()
        if self.shared:
            self.floats = array("d", begin[0].tolist()), array("d", self.length[0].tolist())
        self.uneven = bool((~self.taken).any())

    def piece(self, i: int) -> Piece:
        """Step number ``i``."""
        if self.shared:
            begins, lengths = self.floats
            now, h = (
                torch.full((), begins[i], dtype=torch.float64, device=self.t.device),
                lengths[i],
            )
            return Piece(now, h, None, self.moving[0, i], self.held[0, i], self.end[0, i])
        active = self.taken[:, i] if self.uneven else None
        return Piece(
            self.begin[:, i, None],
            self.length[:, i, None].to(self.real),
            active,
            self.moving[:, i, None],
            self.held[:, i, None],
            self.end[:, i, None],
        )

    def sort_rows(self, count: int) -> tuple[dict[int, Index], dict[int, Index]]:
        """Rows that are the end of a step, and rows inside one, by the number of the step.

        The start is the end of step -1. Where times ask for gradients all others are inside.

        Args:
            count: how many rows there are.
        """
        knots = self.steps.knots
        if self.problem.save == "steps":
            row = torch.arange(count, device=knots.device).expand(len(knots), -1)
            step = torch.minimum(row, self.taken.sum(1, keepdim=True)) - 1
            direct = torch.ones_like(step, dtype=torch.bool)
        else:
            times = self.t[None] if self.shared else self.t
            sign = torch.where(times[:, -1:] < times[:, :1], -1.0, 1.0)
            place = torch.searchsorted((knots * sign).contiguous(), (times * sign).contiguous())
            inside = place < knots.shape[1]
            hit = knots.gather(1, place.clamp(max=knots.shape[1] - 1)) == times
            direct = (hit & ~torch.full_like(hit, self.wants_t)) | (place == 0)
            step = torch.where(inside, place - 1, knots.shape[1])  # beyond: never looked up
        return self._by_step(step, direct), self._by_step(step, ~direct)

    def _by_step(self, step: Tensor, wanted: Tensor) -> dict[int, Index]:
        """``(lanes, n)`` of steps to the rows, and lanes, of each step."""
        lane, row = wanted.nonzero(as_tuple=True)
        of = step[lane, row]
        order = torch.argsort(of, stable=True)
        lane, row, of = lane[order], row[order], of[order]
        numbers, counts = torch.unique_consecutive(of, return_counts=True)
        rows, lanes = (torch.split(x, counts.tolist()) for x in (row, lane))
        pairs = ((r,) if self.shared else (r, n) for r, n in zip(rows, lanes, strict=True))
        return dict(zip(numbers.tolist(), pairs, strict=True))
