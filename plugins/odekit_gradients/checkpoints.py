"""What a recomputed solve needs: where the accepted steps ended, and some of the states there.

The number of steps is not known beforehand, so states are kept at every first, then every
second, then every fourth step, ...: whenever there are too many, every other one is dropped.

Shapes: with a shared step size knots are ``(S + 1,)`` and a stored state is like ``y``; per
    sample knots are ``(lanes, S + 1)``, a lane that has finished repeats its end, and a stored
    state holds every lane after the same number of its own steps.
Source: Q. Wang, P. Moin, G. Iaccarino, "Minimal Repetition Dynamic Checkpointing Algorithm for
    Unsteady Adjoint Calculation", SIAM Journal on Scientific Computing 31, 2009, pp. 2549-2567,
    doi:10.1137/080727890, for checkpointing without knowing the number of steps.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from odekit import Accepted, Problem
from odekit.trees import Structure, flatten, leaves_of, unflatten
from odekit_gradients.tape import Gauge

BLOCK = 2**16
"""Bytes that are allocated together, so that small states do not cost an allocation each."""

_HOLE = object()

Full = Callable[[int, int], bool]
"""``(stored, every)``: whether so many states, one for so many steps, are too many."""


@final
@dataclass(frozen=True)
class Mould:
    """A solver's memory without its tensors, to be filled again.

    Attributes:
        structure: of the pytree.
        rest: its leaves, with holes in the places of tensors; the others stay as they are.
    """

    structure: Structure
    rest: tuple[Any, ...]

    @classmethod
    def of(cls, memory: Any) -> tuple[list[Tensor], Mould]:
        """The tensors, and what they were taken out of."""
        leaves, structure = flatten(memory)
        rest = tuple(_HOLE if isinstance(x, Tensor) else x for x in leaves)
        return [x for x in leaves if isinstance(x, Tensor)], cls(structure, rest)

    def filled(self, tensors: Iterable[Tensor]) -> Any:
        """A memory with these tensors."""
        left = iter(tensors)
        return unflatten([next(left) if x is _HOLE else x for x in self.rest], self.structure)


@final
class Recorder:
    """An observer that keeps times, and some states.

    Args:
        start: the state at the start; per sample its leading axis is the lane.
        t: the start time, 0-d or ``(lanes,)``.
        with_memory: keep the solver's memory beside the state.
        full: decides when every other state is dropped.

    Attributes:
        every: a state is kept after each so many steps.
        count: how many there are.
        blocks: the states and the solver's memory, ``block`` of them together.
    """

    def __init__(self, start: Tensor, t: Tensor, full: Full, *, with_memory: bool) -> None:
        self.full, self.with_memory = full, with_memory
        self.lanes = len(t) if t.dim() else None
        self.every, self.count = 1, 0
        self.blocks: list[list[Tensor]] = []
        self.block = 1
        self.start = t
        self.ends = array("d", [float(t)] if self.lanes is None else [])
        self.attempts: list[Tensor] = []
        self.taken: list[Tensor] = []
        self.mould: Mould | None = None
        self.rank = torch.zeros_like(t, dtype=torch.int64)

    def __call__(self, step: Accepted) -> None:
        """Note the step, and the state where it ended if its turn has come."""
        if step.lanes is None:
            taken = len(self.ends)
            self.ends.append(step.t)
            if taken % self.every == 0:
                self._store(taken // self.every - 1, self._parts(step), None)
        else:
            self.attempts.append(step.t)
            self.taken.append(step.lanes)
            self.rank = self.rank + step.lanes
            due = step.lanes & (self.rank % self.every == 0)
            for slot in sorted(set((self.rank[due] // self.every - 1).tolist())):
                here = due & (self.rank == (slot + 1) * self.every)
                self._store(slot, self._parts(step), here)
        while self.full(self.count, self.every):
            self._thin()

    def _parts(self, step: Accepted) -> list[Tensor]:
        if not self.with_memory:
            return [step.y]
        tensors, self.mould = Mould.of(step.memory)
        return [step.y, *tensors]

    def _store(self, slot: int, parts: list[Tensor], lanes: Tensor | None) -> None:
        if slot >= self.block * len(self.blocks):
            size = sum(part.numel() * part.element_size() for part in parts)
            self.block = max(1, BLOCK // max(size, 1))
            self.blocks.append([part.new_empty((self.block, *part.shape)) for part in parts])
        for place, part in zip(self.stored(slot), parts, strict=True):
            if lanes is None or slot >= self.count:
                place.copy_(part)
            else:
                wide = lanes.reshape(-1, *(1,) * (part.dim() - 1))
                place.copy_(torch.where(wide, part, place))
        self.count = max(self.count, slot + 1)

    def stored(self, slot: int) -> list[Tensor]:
        """The state of this number, and the solver's memory if that is kept."""
        return [block[slot % self.block] for block in self.blocks[slot // self.block]]

    def _thin(self) -> None:
        """Keep the states after 2, 4, 6, ... times ``every`` steps, where they are."""
        self.every, self.count = 2 * self.every, self.count // 2
        for slot in range(self.count):
            for place, part in zip(self.stored(slot), self.stored(2 * slot + 1), strict=True):
                place.copy_(part)

    def knots(self) -> Tensor:
        """Where steps began and ended: ``(S + 1,)``, or ``(lanes, S + 1)``."""
        if self.lanes is None:
            return torch.frombuffer(self.ends, dtype=torch.float64).to(self.start.device)
        if not self.attempts:
            return self.start[:, None]
        times, taken = torch.stack(self.attempts, 1), torch.stack(self.taken, 1)
        # The taken attempts first, in order; the rest of the row repeats the last of them.
        order = torch.sort(~taken, dim=1, stable=True).indices
        steps = torch.arange(taken.shape[1], device=times.device)
        last = (taken.sum(1, keepdim=True) - 1).clamp(min=0)
        ends = times.gather(1, order).gather(1, torch.minimum(steps[None], last))
        ends = torch.where(taken.any(1, keepdim=True), ends, self.start[:, None])
        return torch.cat([self.start[:, None], ends[:, : int(taken.sum(1).max())]], 1)


def split(blocks: int, slots: int) -> int:
    """How many of ``blocks`` to advance before the next state is stored, with ``slots`` left.

    With ``s`` states beside the first and at most ``r`` repetitions ``binom(s + 1 + r, r)``
    blocks can be reversed. Of the splits that keep to the fewest repetitions the cheapest lies
    where one of the two parts is as long as ``r`` or ``r - 1`` of them allow.

    Source: A. Griewank, A. Walther, "Algorithm 799: revolve", ACM Transactions on Mathematical
        Software 26, 2000, pp. 19-45, doi:10.1145/347837.347846.
    """
    r = _repetitions(blocks, slots)
    behind = math.comb(slots + r, r), math.comb(slots + r - 1, r - 1)
    ahead = math.comb(slots + r, r - 1), math.comb(slots + r - 1, max(r - 2, 0))
    places = {blocks - behind[0], blocks - behind[1], *ahead}
    inside = {min(max(place, 1), blocks - 1) for place in places}
    return min(inside, key=lambda m: m + cost(blocks - m, slots - 1) + cost(m, slots))


def cost(blocks: int, slots: int) -> int:
    """How many blocks are advanced in all to reverse ``blocks``, with the best splits."""
    r = _repetitions(blocks, slots)
    return r * blocks - math.comb(slots + 1 + r, r - 1) if r else 0


def _repetitions(blocks: int, slots: int) -> int:
    r = 0
    while math.comb(slots + 1 + r, r) < blocks:
        r += 1
    return r


def tape_bytes(problem: Problem, *, with_memory: bool) -> tuple[int, int]:
    """Bytes of one stored state, and about as many as one step leaves on the graph.

    Found by taking a step and looking at its graph, parameters left out. Hooks on saved tensors
    would do as well, were it not for fields that call ``torch.func.grad``, which refuses them.
    """
    y = problem.y0.detach().requires_grad_()
    begin, end = problem.t.detach()[..., 0], problem.t.detach()[..., -1]
    t = begin[:, None] if begin.dim() else begin
    h: Any = (end - begin) * 1e-3
    h = h.to(y.real.dtype)[:, None] if begin.dim() else float(h)
    gauge = Gauge(problem.params)
    with torch.enable_grad():
        memory = problem.solver.init(problem.field, t, y)
        gauge.added(_tensors(memory))
        step = problem.solver.step(problem.field, t, h, y, memory)
    graph = gauge.added([step.y, *step.dense, *_tensors(step.state)])
    kept = _tensors(memory) if with_memory else []
    state = sum(x.numel() * x.element_size() for x in (y, *kept))
    return state, graph


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in leaves_of(tree) if isinstance(x, Tensor)]
