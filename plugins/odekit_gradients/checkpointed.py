"""Checkpointing: the exact gradient of the numbers computed, in as little memory as one likes.

The solve is run without a graph and keeps some of its states. On the way back each stretch
between two of them is taken once more, by the same steps, and differentiated as ``unrolled``
does. One more solve without a graph buys memory that grows with the square root of the number of
steps. Where even that is too much, a stretch is divided again, and its first parts are computed
more than once, in the order that wastes least.

The fastest method is ``unrolled`` where its memory suffices; ``discrete`` keeps every state and
lies between the two.

Shapes: those of `odekit.Problem`.
Units: memory in bytes.
Source: A. Griewank, "Achieving logarithmic growth of temporal and spatial complexity in reverse
    automatic differentiation", Optimization Methods and Software 1, 1992, pp. 35-54,
    doi:10.1080/10556789208805505; for ODE networks T. Zhuang et al., "Adaptive Checkpoint Adjoint
    Method for Gradient Estimation in Neural ODE", ICML 2020, arXiv:2006.02493.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from odekit import (
    Accepted,
    GradientMethod,
    IncompatibleError,
    Integrate,
    Problem,
    ProblemError,
    Trait,
    Trajectory,
)
from odekit_gradients.backward import refuse_forward_mode
from odekit_gradients.checkpoints import Recorder, split, tape_bytes
from odekit_gradients.reach import look_behind, pull_back
from odekit_gradients.retrace import Path, State
from odekit_gradients.unchanged import Witness
from odekit_gradients.vigil import Vigil, places_in

FEW = 16
"""Stored states below which nobody asks how many there may be."""

SMALL = 2**20
"""Bytes of graph that are no burden: stretches grow up to that before memory is counted."""

PARTS = 3
"""Into so many a stretch is divided: all but the last third of the solve is taken once more."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@final
class Checkpointed(GradientMethod):
    """Keep few states, take the steps between them again.

    Args:
        checkpoints: at most so many stored states at a time. None for about the square root of
            the number of steps: as many as need the least memory together with the steps that
            are taken again in one go, where no more than two thirds of the solve are repeated
            for it.
        memory_budget: bytes, or a string such as ``"200MB"``: stored states and the graph of the
            steps taken again stay below it. Parameters, the rows of the solution and the times
            of the steps come on top.

    Raises:
        ProblemError: both are given, or one is not positive, or the budget cannot be read.
    """

    def __init__(
        self, checkpoints: int | None = None, memory_budget: int | str | None = None
    ) -> None:
        if checkpoints is not None and memory_budget is not None:
            raise ProblemError("give checkpoints or memory_budget, not both")
        if checkpoints is not None and checkpoints < 1:
            raise ProblemError(f"checkpoints must be at least 1, got {checkpoints}")
        self.checkpoints = checkpoints
        self.memory_budget = None if memory_budget is None else read_bytes(memory_budget)

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """Solve without a graph, then attach one node that takes the steps again when asked.

        Raises:
            IncompatibleError: dense output where gradients are wanted.
            ProblemError: the memory budget is too small for a single step.
        """
        refuse_forward_mode(problem, "checkpointed")
        if not torch.is_grad_enabled():
            return integrate(problem)
        params, shared, witness = look_behind(problem)
        problem = replace(problem, params=params)
        wanted = (problem.y0, problem.t, *problem.params)
        attach = any(x.requires_grad for x in wanted)
        if attach and problem.dense:
            raise IncompatibleError(
                "gradient='checkpointed' keeps few of the steps, so solution(t) would carry no "
                "gradient; use gradient='unrolled', add the times to t, or leave out dense=True"
            )
        if problem.t.shape[-1] == 1:
            return integrate(problem)
        if not attach:
            with torch.no_grad():
                return integrate(problem)
        room = _Room(problem, self.checkpoints, self.memory_budget)
        recorder = Recorder(
            problem.y0.detach(),
            problem.t.detach()[..., 0],
            room.is_full,
            with_memory=Trait.ONE_STEP not in problem.solver.traits,
        )
        detached = replace(
            problem, y0=problem.y0.detach(), t=problem.t.detach(), params=(), observer=recorder
        )
        with torch.no_grad():
            trajectory = integrate(detached)
        path = Path.of(problem, integrate, recorder.knots(), trajectory, recorder.mould)
        leaf = room.leaf(recorder.every)
        plan = _Plan(path, recorder.every, room.slots, leaf, shared, witness)
        used = recorder.blocks[: math.ceil(recorder.count / recorder.block)]
        stored = [part for block in used for part in block]
        width = len(stored) // max(len(used), 1)
        y = _Retrace.apply(  # type: ignore[no-untyped-call]
            plan,
            (len(stored), width),
            trajectory.y,
            problem.t,
            problem.y0,
            *stored,
            *problem.params,
        )
        return replace(trajectory, y=y, last=None, memory=None)


def read_bytes(budget: int | str) -> int:
    """``"200MB"`` or a number of bytes, as bytes.

    Raises:
        ProblemError: it is neither, or not positive.
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([kKmMgG]?[bB]?)\s*", str(budget))
    try:
        unit = match[2].upper() if match else "?"
        size = float(match[1]) * _UNITS[unit if unit in _UNITS else unit + "B"] if match else 0.0
    except (KeyError, ValueError):
        size = 0.0
    if size < 1:
        raise ProblemError(
            f"memory_budget must be a number of bytes or a text like '200MB', got {budget!r}"
        )
    return int(size)


class _Room:
    """How many states may be stored, and how many steps may be on a graph at a time."""

    def __init__(self, problem: Problem, checkpoints: int | None, budget: int | None) -> None:
        self.problem, self.budget, self.slots = problem, budget, checkpoints
        self._bytes: tuple[int, int] | None = None

    def _measured(self) -> tuple[int, int]:
        """Bytes of a stored state, and of a step's graph; measured once, on one step."""
        if self._bytes is None:
            one_step = Trait.ONE_STEP in self.problem.solver.traits
            self._bytes = state, graph = tape_bytes(self.problem, with_memory=not one_step)
            if self.budget is not None:
                if self.budget < state + graph:
                    raise ProblemError(
                        f"memory_budget of {self.budget} bytes is too small: a stored state takes "
                        f"{state} and the graph of one step {graph}"
                    )
                self.slots = max(1, min(self.budget // 2, self.budget - graph) // state)
        return self._bytes

    def is_full(self, stored: int, every: int) -> bool:
        """Whether every other state is to be dropped.

        Half of the states against twice the steps between them, of which a part is on a graph at
        a time: that needs less memory while the states take more than the graph of these steps.
        """
        if self.budget is None and stored < FEW:
            return self.slots is not None and stored > self.slots
        state, graph = self._measured()
        if self.slots is not None and stored > self.slots:
            return True
        return stored >= FEW and (2 * every * graph <= SMALL or stored * state > every * graph)

    def leaf(self, every: int) -> int:
        """How many steps are taken again in one go."""
        if self.slots is not None:
            state, graph = self._measured()
            return max(1, min(every, self.slots * state // graph))
        if every == 1:
            return 1
        _, graph = self._measured()
        return every if every * graph <= SMALL else math.ceil(every / PARTS)


@dataclass(frozen=True)
class _Plan:
    """The path, and how it is divided.

    Attributes:
        path: the steps.
        every: a state is stored after each so many of them.
        slots: at most so many states at a time; None for no limit.
        leaf: steps on a graph at a time.
        shared: whether calls of the field have part of a graph in common.
        witness: of the field as it was.
    """

    path: Path
    every: int
    slots: int | None
    leaf: int
    shared: bool
    witness: Witness


class _Retrace(torch.autograd.Function):
    """Forward: hand ``y`` over untouched. Backward: the steps again, from the last to the first."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: _Plan,
        stored: tuple[int, int],
        y: Tensor,
        t: Tensor,
        y0: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        ctx.plan, ctx.stored = plan, stored
        ctx.save_for_backward(t, y0, *rest)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        t, y0, *rest = ctx.saved_tensors
        count, width = ctx.stored
        stored = [rest[i : i + width] for i in range(0, count, max(width, 1))]
        sources = (t, y0, *plan.path.problem.params)
        plan.witness.check()
        with plan.witness.ambient.restored():
            if torch.is_grad_enabled():  # create_graph=True: the answer needs a graph of its own
                rows, _ = plan.path.go(plan.path.start(y0), 0, plan.path.steps, t)
                found = pull_back(rows.values, sources, grad_y[rows.places], create_graph=True)
                found[1] = found[1] + grad_y[0]
            else:
                found = _Sweep(plan, t, y0, stored, grad_y).run()
        grad_t, grad_y0, *grads = found
        return None, None, None, grad_t, grad_y0, *(None,) * count, *grads


class _Sweep:
    """One backward pass."""

    def __init__(
        self, plan: _Plan, t: Tensor, y0: Tensor, stored: list[list[Tensor]], grad_y: Tensor
    ) -> None:
        self.plan, self.path = plan, plan.path
        self.t, self.y0, self.stored, self.grad_y = t, y0, stored, grad_y
        self.params = plan.path.problem.params
        self.grads = [torch.zeros_like(x) for x in (t, *self.params)]
        self.cotangent: list[Tensor] | None = None
        self.vigil = Vigil.of(self.path.problem, "checkpointed")
        self.places = set(places_in(self.path.steps)) if self.vigil is not None else set()

    def run(self) -> list[Tensor]:
        """Gradients of times, start and parameters."""
        path, every = self.path, self.plan.every
        if self.vigil is not None:
            self.vigil.open(path.times(len(self.grad_y)), self.grad_y)
        begins = range(0, path.steps, every)
        for place in reversed(range(len(begins))):
            first, last = begins[place], min(begins[place] + every, path.steps)
            if place == 0:
                state = path.start(self.y0.detach())
            else:
                block, slot = divmod(place - 1, len(self.stored[0][0]))
                parts = [part[slot] for part in self.stored[block]]
                state = path.state(parts, first, self.y0.detach())
            free = None if self.plan.slots is None else self.plan.slots - place
            self._reverse(state, first, last, free)
        if self.vigil is not None:
            self.vigil.close()
        start = self.grad_y[0] if self.cotangent is None else self.cotangent[0] + self.grad_y[0]
        return [self.grads[0], start, *self.grads[1:]]

    def _reverse(self, state: State, first: int, last: int, free: int | None) -> None:
        """Pull the cotangent at the end of the stretch back to its start."""
        leaf = self.plan.leaf
        if free is None:
            self._reverse_all(state, range(first, last, leaf), last)
            return
        while last - first > leaf:
            blocks = math.ceil((last - first) / leaf)
            middle = first + (split(blocks, free) if free else blocks - 1) * leaf
            there = self._advance(state, first, middle)
            self._reverse(there, middle, last, free - 1 if free else free)
            del there
            last = middle
        self._leaf(state, first, last)

    def _reverse_all(self, state: State, begins: range, last: int) -> None:
        """The same where states are not counted: each part of the stretch is reached once."""
        states = [state]
        for first, middle in itertools.pairwise(begins):
            states.append(self._advance(states[-1], first, middle))
        for first in reversed(begins):
            self._leaf(states.pop(), first, last)
            last = first

    def _advance(self, state: State, first: int, last: int) -> State:
        with torch.no_grad():
            return self.path.go(state, first, last, self.t.detach(), rows=False)[1]

    def _leaf(self, state: State, first: int, last: int) -> None:
        """Take the steps again on a graph, and add up what comes back through them."""
        with torch.enable_grad():
            begin = state.attached()
            t = self.t.detach().requires_grad_(self.t.requires_grad)
            inside = not self.places.isdisjoint(range(first + 1, last))
            watch = partial(self._watch, iter(range(first + 1, last))) if inside else None
            rows, end = self.path.go(begin, first, last, t, observer=watch)
        cotangent = self.cotangent or [torch.zeros_like(x) for x in end.parts]
        found = pull_back(
            [rows.values, *end.parts],
            (t, *begin.parts, *self.params),
            [self.grad_y[rows.places], *cotangent],
            retain=self.plan.shared,
        )
        count = len(begin.parts)
        self.cotangent = found[1 : 1 + count]
        for total, part in zip(self.grads, [found[0], *found[1 + count :]], strict=True):
            total += part
        if self.vigil is not None and first in self.places:
            self.vigil.look(*self.path.step(first), begin.y.detach(), self.cotangent[0])

    def _watch(self, numbers: Iterator[int], seen: Accepted) -> None:
        """Have a look at the state after a step, when its cotangent is known."""
        number = next(numbers, None)  # the end belongs to the stretch behind it
        if self.vigil is None or number is None:
            return
        if number in self.places and seen.y.requires_grad:
            look = partial(self.vigil.look, *self.path.step(number), seen.y.detach())
            seen.y.register_hook(look)  # type: ignore[no-untyped-call]
