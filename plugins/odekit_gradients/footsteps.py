"""The steps that a solve took, seen while they are taken, for those who go back over them.

Only the times at which steps end are kept, a number a step and lane, and the states at the end.
Where the field jumps the solver's memory is made afresh, which no step can take back, so there
two states are kept as well: that before the step which ends at the jump, and that after it.

Shapes: ``lanes`` is 1 with a shared step size. Per sample each lane counts its own steps; lanes
    with fewer of them repeat their end.
Units: times in the caller's unit of time.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from odekit import Accepted, Problem
from odekit.trees import map_leaves

BLOCK = 256
"""Rows of times per sample that are put together, so that no small tensors pile up."""


class Anchor(NamedTuple):
    """A state that is known where a step starts.

    Attributes:
        lanes: ``(lanes,)`` of bool, for whom it is; None for a shared step size.
        y: the state.
        memory: the solver's memory, None where it is made afresh from the state.
    """

    lanes: Tensor | None
    y: Tensor
    memory: Any


@dataclass(frozen=True)
class Footsteps:
    """All steps of a solve.

    Attributes:
        knots: ``(lanes, S + 1)``, the recorded ends of the steps, start included.
        y: the state at the last knot.
        memory: the solver's memory there.
        anchors: known states, by the number of the step that starts there.
    """

    knots: Tensor
    y: Tensor
    memory: Any
    anchors: dict[int, list[Anchor]]

    def packed(self) -> Any:
        """Everything as a pytree."""
        anchors = {place: [tuple(a) for a in found] for place, found in self.anchors.items()}
        return self.knots, self.y, self.memory, anchors

    @classmethod
    def unpacked(cls, packed: Any) -> Footsteps:
        """What was packed."""
        knots, y, memory, anchors = packed
        known = {place: [Anchor(*a) for a in found] for place, found in anchors.items()}
        return cls(knots, y, memory, known)


class Watch:
    """An observer that keeps what `Footsteps` holds.

    Args:
        problem: what is solved.
        goal: ``(lanes,)``, the time beyond which steps are not of interest; None for all steps.
    """

    def __init__(self, problem: Problem, goal: Tensor | None = None) -> None:
        self.problem, self.goal = problem, goal
        self.shared = not problem.per_sample
        t = problem.t.detach()
        self.start = t[:1] if self.shared else t[:, 0]
        self.sign = -1.0 if bool((t[..., -1] < t[..., 0]).any()) else 1.0
        self.jumps = bool(problem.controller.jump_times)
        self.ends = array("d")
        self.now, self.fresh, self.blocks = self.start, [self.start], list[Tensor]()
        self.taken = torch.zeros_like(self.start, dtype=torch.int64)
        self.y, self.memory = problem.y0.detach(), problem.memory
        if goal is not None and self.memory is None:  # of those who never get as far as a step
            begin = self.start[0] if self.shared else self.start[:, None]
            self.memory = problem.solver.init(problem.field, begin, self.y)
        self.before: tuple[Tensor, Any] | None = None
        self.anchors: dict[int, list[Anchor]] = {}

    def __call__(self, seen: Accepted) -> None:
        """Take note of a step."""
        if seen.lanes is None:
            self._note_shared(seen)
        else:
            self._note_lanes(seen, seen.lanes)

    def _note_shared(self, seen: Accepted) -> None:
        if bool(self._is_there()):
            return
        self.ends.append(seen.t)
        self.now = torch.full_like(self.start, seen.t) if self.goal is not None else self.now
        if self.jumps:
            if seen.jump:
                place = len(self.ends)
                if self.before is not None:
                    self._anchor(place - 1, Anchor(None, *self.before))
                self._anchor(place, Anchor(None, seen.y, None))
            self.before = (seen.y, seen.memory)
        self.y, self.memory = seen.y, seen.memory

    def _note_lanes(self, seen: Accepted, taken: Tensor) -> None:
        if self.goal is not None:
            taken = taken & ~self._is_there()
        self.now = torch.where(taken, seen.t, self.now)
        self.fresh.append(self.now)
        if len(self.fresh) == BLOCK:
            self.blocks.append(torch.stack(self.fresh))
            self.fresh = []
        if self.jumps:
            jump = seen.jump & taken
            for place in sorted(set(self.taken[jump].tolist())):
                lanes = jump & (self.taken == place)
                if self.before is not None:
                    self._anchor(place, Anchor(lanes, *self.before))
                self._anchor(place + 1, Anchor(lanes, seen.y, None))
            self.taken = self.taken + taken
            self.before = (seen.y, seen.memory)
        if self.goal is None:
            self.y, self.memory = seen.y, seen.memory
        else:
            self.y = choose(taken, seen.y, self.y)
            self.memory = choose(taken, seen.memory, self.memory)

    def _is_there(self) -> Any:
        return self.goal is not None and (self.now - self.goal) * self.sign >= 0

    def _anchor(self, place: int, anchor: Anchor) -> None:
        """Known states come first, those made afresh after them, so that these prevail."""
        found = self.anchors.setdefault(place, [])
        found.insert(len(found) if anchor.memory is None else 0, anchor)

    def footsteps(self) -> Footsteps:
        """What was seen."""
        if self.shared:
            ends = torch.frombuffer(self.ends, dtype=torch.float64) if self.ends else self.start[:0]
            knots = torch.cat([self.start, ends.to(self.start.device)])[None]
        else:
            parts = [*self.blocks, *([torch.stack(self.fresh)] if self.fresh else [])]
            knots = _ranked(torch.cat(parts))
        return Footsteps(knots, self.y, self.memory, self.anchors)


def choose(mask: Tensor, new: Any, old: Any) -> Any:
    """Lane by lane, the new or the old of two pytrees whose tensors lead with the lanes."""

    def select(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor) or a is b:
            return a
        return torch.where(mask.reshape(-1, *(1,) * (a.dim() - 1)), a, b)

    return map_leaves(select, new, old)


def _ranked(times: Tensor) -> Tensor:
    """``(attempts + 1, lanes)`` with repetitions to ``(lanes, S + 1)`` with those at the end."""
    kept = times[1:] != times[:-1]
    count = kept.sum(0)
    rank = torch.arange(1, int(count.max()) + 1 if len(kept) else 1, device=times.device)
    wanted = torch.minimum(rank[:, None], count)
    index = torch.searchsorted(kept.long().cumsum(0).T.contiguous(), wanted.T.contiguous()).T
    ends = times[1:].gather(0, index.clamp(max=max(len(kept) - 1, 0))) if len(rank) else times[:0]
    ends = torch.where(count > 0, ends, times[0])
    return torch.cat([times[:1], ends]).T.contiguous()
