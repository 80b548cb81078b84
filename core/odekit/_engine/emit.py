"""From accepted steps to rows: the lean driver's output, interpolated in batches."""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odekit._engine.clock import is_differentiated
from odekit.problem import Problem
from odekit.solution import DenseOutput, align, pick
from odekit.solver import Segment

BATCH = 256
"""Steps kept before their rows are interpolated, so that memory does not grow with the solve."""

BYTES = 1 << 22
"""The same in bytes, so that it does not grow with the state; few steps of a large one wait."""


_Taken = tuple[float, float, Tensor, Tensor, tuple[Tensor, ...]]
"""Of a step: start, length, the states at its ends, and what dense output needs."""


def bytes_of(*parts: Tensor) -> int:
    """What the entries of all of them take."""
    return sum(x.numel() * x.element_size() for x in parts)


def stack(parts: Sequence[Tensor]) -> Tensor:
    """Along a new leading axis; a single tensor is not copied."""
    return parts[0][None] if len(parts) == 1 else torch.stack(tuple(parts))


class Emitter:
    """Collect accepted steps of one lane and turn them into rows.

    A row at the end of a step is the step's own value. Rows inside steps are interpolated many
    at a time. When the output times ask for gradients every row is interpolated, because the
    slope in time comes from the interpolant.
    """

    def __init__(self, problem: Problem, times: list[float]) -> None:
        self.problem, self.times = problem, times
        self.sign = 1.0 if times[-1] >= times[0] else -1.0
        self.attached = is_differentiated(problem.t)
        self.still = self.sign * math.inf
        self.next = 1
        self.blocks: list[Tensor] = [problem.y0[None]]
        self.keeps = problem.dense or problem.save == "steps"
        self.knots = array("d", times[:1])  # the last alone, where nobody asks for the others
        self.steps: list[_Taken] = []
        self.rows: list[tuple[int, int]] = []
        self.bytes, self.width = 0, bytes_of(problem.y0)

    def moves(self, t: float) -> bool:
        """Whether a step from ``t`` is shifted with the start; from the first jump on, none is."""
        return self.attached and (t - self.still) * self.sign < 0

    def wants_inside(self, t1: float) -> bool:
        """Whether a step that ends at ``t1`` will be interpolated."""
        if self.problem.dense or self.attached:
            return True
        if self.problem.save == "steps" or self.next == len(self.times):
            return False
        return (self.times[self.next] - t1) * self.sign < 0

    def add(
        self, t: float, h: float, t1: float, y0: Tensor, y1: Tensor, dense: tuple[Tensor, ...]
    ) -> None:
        """Take an accepted step from ``t`` with length ``h``, recorded as ending at ``t1``."""
        if self.keeps:
            self.knots.append(t1)
        else:
            self.knots[0] = t1
        if self.problem.save == "steps":
            self.blocks.append(y1[None])
            if self.problem.dense:
                self.steps.append((t, h, y0, y1, dense))
            return
        first = self.next
        while self.next < len(self.times) and (self.times[self.next] - t1) * self.sign <= 0:
            self.next += 1
        last = self.next
        direct = last > first and self.times[last - 1] == t1 and not self.attached
        inside = range(first, last - 1 if direct else last)
        if inside or self.problem.dense:
            self.rows += [(row, len(self.steps)) for row in inside]
            self.steps.append((t, h, y0, y1, dense))
            self.bytes += self.width * (2 + len(dense))
        if direct:
            self.flush()
            self.blocks.append(y1[None])
        elif self.problem.dense:
            return
        elif len(self.steps) >= BATCH or self.bytes >= BYTES:
            self.flush()

    def flush(self) -> None:
        """Interpolate the rows that are waiting."""
        if self.rows:
            problem = self.problem
            rows, index = (list(column) for column in zip(*self.rows, strict=True))
            lowest = min(index)
            kept = self.steps[lowest:]
            t = problem.t[torch.tensor(rows, device=problem.t.device)]
            where = torch.tensor([i - lowest for i in index], device=problem.t.device)
            width = bytes_of(kept[0][2]) * (2 + len(kept[0][4]))
            size = max(BYTES // max(width, 1), 1)
            take = self.picker(kept)
            for now, place in zip(torch.split(t, size), torch.split(where, size), strict=True):
                picked = take(place)
                self.blocks.append(problem.solver.interpolate(picked, align(now, picked.y0)))
            self.rows = []
        if not self.problem.dense:
            self.steps, self.bytes = [], 0

    def picker(self, steps: list[_Taken]) -> Callable[[Tensor], Segment]:
        """From places ``(k,)`` among the steps to these steps, as `pick` gives them.

        Parts of one shape, as nearly all are, go through it together: three operations forwards
        and backwards in place of two a part.
        """
        parts = [x for _, _, y0, y1, dense in steps for x in (y0, y1, *dense)]
        alike = all(x.shape == parts[0].shape and x.dtype == parts[0].dtype for x in parts)
        if len(steps) == 1 or not alike:
            return functools.partial(pick, self.stacked(steps))
        table = torch.stack(parts).reshape(len(steps), len(parts) // len(steps), *parts[0].shape)
        t, h = self._times_of(steps)

        def take(place: Tensor) -> Segment:
            y0, y1, *dense = table.index_select(0, place).unbind(1)
            begin, length = (align(x.index_select(0, place), y0) for x in (t, h))
            return Segment(begin, length, y0, y1, tuple(dense))

        return take

    def stacked(self, steps: list[_Taken]) -> Segment:
        """Steps along a leading axis; their times depend on the start time."""
        t, h = self._times_of(steps)
        y0, y1 = stack([s[2] for s in steps]), stack([s[3] for s in steps])
        dense = tuple(map(stack, zip(*(s[4] for s in steps), strict=True)))
        return Segment(t, h, y0, y1, dense)

    def _times_of(self, steps: list[_Taken]) -> tuple[Tensor, Tensor]:
        problem = self.problem
        options = {"dtype": torch.float64, "device": problem.t.device}
        if self.attached:
            moving = torch.tensor([float(self.moves(s[0])) for s in steps], **options)  # type: ignore[arg-type]
            t = torch.tensor([s[0] for s in steps], **options)  # type: ignore[arg-type]
            t = t + moving * (problem.t[0] - self.times[0])
        else:
            t = torch.tensor([s[0] for s in steps], **options)  # type: ignore[arg-type]
        return t, torch.tensor([s[1] for s in steps], **options)  # type: ignore[arg-type]

    def finish(self) -> tuple[Tensor, Tensor, DenseOutput | None]:
        """Times, rows and dense output; rows that were not reached are NaN."""
        problem = self.problem
        self.flush()
        if problem.save == "steps":
            t = self._times()
        else:
            t = problem.t
            missing = len(self.times) - sum(map(len, self.blocks))
            if missing:
                self.blocks.append(problem.y0.new_full((missing, *problem.y0.shape), torch.nan))
        y = torch.cat(self.blocks) if len(self.blocks) > 1 else self.blocks[0]
        if not problem.dense or not self.steps:
            return t, y, None
        return t, y, DenseOutput(problem.solver, self._times(), self.stacked(self.steps))

    def _times(self) -> Tensor:
        knots = torch.frombuffer(self.knots, dtype=torch.float64)
        return knots.clone().to(self.problem.t.device)
