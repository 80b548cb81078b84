"""Solves as machine code, for fields that are arithmetic on the entries of each sample.

Solver, controller and field are traced once, written as C and compiled; then a solve is one call.
What cannot be written that way raises `Unsupported`, and another tier takes over.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odekit._engine.c_library import NoCompiler
from odekit._engine.clock import CountedField, Stop, stops_of
from odekit._engine.machine import Frame, Machine, frames_of, save_of
from odekit._engine.scalars import Unsupported
from odekit.controller import StepController
from odekit.errors import Status
from odekit.problem import Problem, Trajectory
from odekit.solution import DenseOutput, Stats
from odekit.solver import Segment
from odekit.trees import flatten, map_leaves, unflatten

BUDGET = 1 << 22
"""Numbers that steps are taken for in one call, after which an interrupt is noticed."""

RECORD = 1 << 22
"""Bytes of steps that are recorded before they are handed over."""


class Start:
    """Where a solve begins: time, state, first step and memories, worked out step by step.

    Args:
        problem: what is to be solved.
        controller: of the problem, with tolerances.
    """

    def __init__(self, problem: Problem, controller: StepController) -> None:
        self.field = CountedField(problem.field)
        lanes = len(problem.y0) if problem.per_sample else 1
        t = problem.t if problem.per_sample else problem.t[None]
        stepped = controller.step_times or controller.jump_times
        if problem.per_sample and save_of(problem) == "steps":
            raise Unsupported("each sample would record steps of its own")
        if stepped and problem.per_sample:
            raise Unsupported("each sample would stop at times of its own")
        if problem.per_sample and save_of(problem) == "steps":
            raise Unsupported("each sample would keep steps of its own")
        if stepped:
            begin, end = float(t[0, 0]), float(t[0, -1])
            self.stops = stops_of(controller, begin, end, problem.y0.dtype)
        else:
            self.stops = [Stop(0.0, 0.0, 0.0)] * 2
        self.first = t[:, 0] if not stepped else t.new_tensor([self.stops[0].after])
        before = self.stops[1].before if stepped else t[:, -1]
        self.edges = torch.stack([t[:, -1], t[:, -1]], 1).contiguous()
        self.edges[:, 0] = before
        self.t, self.lanes = t, lanes
        now = self.first[:, None] if problem.per_sample else self.first[0]
        solver, y = problem.solver, problem.y0
        self.memory = problem.memory
        if self.memory is None:
            self.memory = solver.init(self.field.start, now, y)
        times = t if problem.per_sample else t[0]
        h, control = controller.init(solver, self.field.start, now, y, times)
        if not problem.per_sample:  # numbers, where lanes have tensors with one for each
            h = torch.tensor([h], dtype=torch.float64)
            control = map_leaves(_as_lane, control)
        self.h, self.control = h.to(torch.float64), map_leaves(_as_tensor, control)


def _as_lane(x: Any) -> Any:
    if x.__class__ in (bool, int, float):
        return torch.tensor([x], dtype=torch.float64 if x.__class__ is float else None)
    raise Unsupported("the controller remembers something that is no number")


def _as_tensor(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x
    raise Unsupported("the controller remembers something that is no tensor")


def find_machine(problem: Problem, controller: StepController) -> Machine:
    """The code for a problem, in the first layout that works.

    Raises:
        Unsupported: none does; the reason is that of the first.
        NoCompiler: there is none.
    """
    start = Start(problem, controller.with_tolerances(problem.rtol, problem.atol))
    first: Unsupported | None = None
    for frame in frames_of(problem):
        try:
            return Machine(problem, controller, frame, start.memory, start.control)
        except Unsupported as error:
            first = first or error
        except NoCompiler:
            raise
        except Exception as error:  # whatever else a graph may hold
            first = first or Unsupported(f"it cannot be read: {type(error).__name__}: {error}")
    raise first or Unsupported("it has no layout")


def run_machine(
    machine: Machine, problem: Problem, controller: StepController, *, swap: Sequence[Tensor]
) -> Trajectory | None:
    """Solve; None where the result is not finite, so that another tier says where that began.

    Args:
        machine: the code.
        problem: of the shapes that it was made for.
        controller: with tolerances.
        swap: tensors that take the place of those of the first call.

    Raises:
        Unsupported: the solver or the controller begins otherwise than at the first call.
    """
    run = Run(machine, problem, controller, swap)
    run.to_end()
    return run.trajectory()


class Run:
    """One solve."""

    def __init__(
        self,
        machine: Machine,
        problem: Problem,
        controller: StepController,
        swap: Sequence[Tensor],
    ) -> None:
        self.machine, self.problem, self.controller = machine, problem, controller
        frame = self.frame = machine.frame
        self.start = start = Start(problem, controller)
        self.t, self.h = start.first.clone(), start.h.clone()
        self.counts = torch.zeros(start.lanes, 8, dtype=torch.int64)
        self.counts[:, 3:6] = torch.tensor([1, -1, 1])
        ends, begins = start.t[:, -1], start.t[:, 0]
        sign = torch.where(ends >= begins, 1.0, -1.0)
        limits = torch.stack([sign.double(), 1e-30 * (ends - begins).abs()], 1)
        self.limits = torch.cat([limits.flatten(), limits.new_tensor([controller.stretch])])
        lost = ~torch.isfinite(self.h) & (ends != begins)
        self.counts[:, 5] = (~lost).long()
        self.counts[ends == begins, 4] = 0
        self.times, self.y = start.t.contiguous(), frame.apart(problem.y0)
        self.memory = self._memories(start.memory)
        controls, spec = flatten(start.control)
        shapes = [tuple(x.shape) for x in controls]
        self.control_spec = spec
        if spec != machine.control_spec or shapes != machine.control_shapes:
            raise Unsupported("the controller remembers something else than before")
        self.control = [x.contiguous().clone() for x in controls]
        self.tolerances = [
            _tolerance(x, array, frame, problem)
            for x, array in zip((problem.rtol, problem.atol), machine.tolerances, strict=True)
        ]
        self.outside = machine.outside.read(swap)
        self.spare = [
            torch.empty(a.places * (frame.count if a.looped else 1), dtype=a.dtype)
            for a in (machine.parts.spare if frame.form == "batch" else [])
        ]
        rows, size = self.times.shape[1], problem.y0.numel() * problem.y0.element_size()
        self.capacity = rows
        if machine.save == "steps":
            self.capacity = max(1, min(4096, problem.max_steps, RECORD // max(size, 1)))
        held = {"times": rows, "steps": self.capacity, "last": 1}[machine.save]
        self.out = problem.y0.new_full((held, *problem.y0.shape), math.nan)
        marked = self.capacity if machine.save == "steps" else 1
        self.ends, self.lengths = (torch.empty(marked, dtype=torch.float64) for _ in "12")
        recorded = machine.save == "steps" and problem.dense
        self.keeps = [
            torch.empty((self.capacity, *problem.y0.shape), dtype=a.dtype)
            for a in (machine.dense if recorded else [])
        ]
        self.record: list[tuple[Tensor, ...]] = []

    def _memories(self, memory: Any) -> list[Tensor]:
        leaves, spec = flatten(memory)
        shapes = [tuple(x.shape) for x in leaves]
        if spec != self.machine.memory_spec or shapes != self.machine.memory_shapes:
            raise Unsupported("the solver remembers something else than before")
        return [
            self.frame.apart(x) if a.looped or self.frame.form == "lanes" else x.clone()
            for x, a in zip(leaves, self.machine.memory, strict=True)
        ]

    def to_end(self, attempts: int | None = None) -> None:
        """Solve from stop to stop; or only so many attempts."""
        if self.times.shape[1] == 1:
            self.counts[:, 4] = 0
            return
        stops = self.start.stops[1:]
        for i, stop in enumerate(stops):
            if len(stops) > 1:
                self.start.edges = torch.tensor([[stop.before, stop.at]], dtype=torch.float64)
            self._to_stop(attempts)
            if bool((self.counts[:, 4] != 0).any()) or i == len(stops) - 1:
                return
            self._pass(stop)

    def _pass(self, stop: Stop) -> None:
        """Go on behind a stop."""
        self.t = torch.tensor([stop.after], dtype=torch.float64)
        self.counts[:, 4] = -1
        if stop.jump:
            y = self.frame.together(self.y, self.problem.y0.shape)
            fresh = self.problem.solver.init(self.start.field, self.t[0], y)
            self.memory = self._memories(fresh)

    def _to_stop(self, attempts: int | None) -> None:
        machine, frame = self.machine, self.frame
        budget = max(BUDGET // self.y.numel(), 1) if attempts is None else attempts
        numbers = torch.tensor(
            [
                budget,
                self.problem.max_steps,
                self.times.shape[1],
                frame.lanes,
                self.capacity if machine.save == "steps" else 1 << 62,
                int(bool(self.keeps)),
                frame.count,
            ],
            dtype=torch.int64,
        )
        tensors = [self.t, self.h, self.counts, self.t, self.times, self.start.edges]
        tensors += [self.out, self.ends, self.lengths, self.y, *self.memory, *self.control]
        tensors += [*self.tolerances, *self.outside, *self.spare, *self.keeps]
        table = (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
        arguments = (
            table,
            ctypes.c_void_p(numbers.data_ptr()),
            ctypes.c_void_p(self.limits.data_ptr()),
        )
        while True:
            machine.function(*arguments)
            if machine.save == "steps":
                self._harvest()
            if attempts is not None or not self.is_going:
                return

    def _harvest(self) -> None:
        """Take the steps that were recorded."""
        count = int(self.counts[0, 6])
        if count:
            taken = (self.ends, self.lengths, self.out, *self.keeps)
            self.record.append(tuple(x[:count].clone() for x in taken))

    @property
    def is_going(self) -> bool:
        """Whether some lane has not come to an end."""
        return bool((self.counts[:, 4] == -1).any())

    def memory_tree(self) -> Any:
        """What the solver remembers, as it knows it."""
        machine, frame = self.machine, self.frame
        leaves = [
            frame.together(x, shape) if a.looped or frame.form == "lanes" else x
            for x, shape, a in zip(self.memory, machine.memory_shapes, machine.memory, strict=True)
        ]
        return unflatten(leaves, machine.memory_spec)

    def evaluations(self) -> Tensor:
        """Calls of the field, per lane."""
        attempts, completed = self.counts[:, 0], self.counts[:, 2]
        steps = attempts * self.machine.step_calls + completed * self.machine.complete_calls
        return steps + self.start.field.calls

    def trajectory(self) -> Trajectory | None:
        """What was reached."""
        problem, counts = self.problem, self.counts
        shape = problem.y0.shape
        last = self.frame.together(self.y, shape)
        status = counts[:, 4].clone()
        good = torch.isfinite(last).reshape(len(status), -1).all(1)
        if self.machine.save == "times":
            good = good & torch.isfinite(self.out[1:]).reshape(
                -1, len(status), self.frame.width * self.frame.count
            ).all(2).all(0)
        if bool(((status == 0) & ~good).any()) or bool((status == Status.NON_FINITE).any()):
            return None
        attempts, accepted = counts[:, 0].clone(), counts[:, 1].clone()
        stats = Stats(attempts, accepted, attempts - accepted, self.evaluations())
        t, y, dense = self._rows(last, bool((status == 0).all()))
        memory = self.memory_tree()
        return Trajectory(t, y, status, self.t.clone(), stats, dense, last, memory)

    def _rows(self, last: Tensor, done: bool) -> tuple[Tensor, Tensor, DenseOutput | None]:
        problem, save = self.problem, self.machine.save
        if save == "times":
            self.out[0] = problem.y0
            return problem.t, self.out, None
        if save == "last":
            rows = last[None]
            if not done:
                reached = (self.counts[:, 4] == 0).reshape(-1, *(1,) * (last.dim() - 1))
                rows = torch.where(reached, last, math.nan)[None]
            return problem.t, torch.cat([problem.y0[None], rows]), None
        ends, lengths, states, *kept = (
            [torch.cat(x) for x in zip(*self.record, strict=True)]
            if self.record
            else [self.ends[:0], self.lengths[:0], self.out[:0], *(x[:0] for x in self.keeps)]
        )
        knots = torch.cat([self.start.t[0, :1], ends])
        states = torch.cat([problem.y0[None], states])
        dense = None
        if problem.dense and len(ends):
            begins = torch.cat([self.start.first, ends[:-1]])
            segment = Segment(begins, lengths, states[:-1], states[1:], tuple(kept))
            dense = DenseOutput(problem.solver, knots, segment)
        if problem.save == "steps":
            return knots, states, dense
        return problem.t, _at_times(problem, knots, states, dense), dense


def _at_times(problem: Problem, knots: Tensor, states: Tensor, dense: DenseOutput | None) -> Tensor:
    """Rows at given times from all steps; those that were not reached are NaN."""
    t = problem.t
    y = problem.y0.new_full((len(t), *problem.y0.shape), math.nan)
    y[0] = problem.y0
    sign = 1.0 if float(t[-1]) >= float(t[0]) else -1.0
    reached = (t * sign <= knots[-1] * sign).clone()
    reached[0] = False
    if dense is not None and bool(reached.any()):
        y[reached] = dense(t[reached])
    hit = torch.searchsorted(knots * sign, t * sign).clamp(max=len(knots) - 1)
    exact = (knots[hit] == t) & reached
    y[exact] = states[hit[exact]]
    return y


def _tolerance(x: Any, array: Any, frame: Frame, problem: Problem) -> Tensor:
    """A tolerance as the code reads it."""
    smallest = torch.finfo(problem.y0.dtype).tiny
    if not isinstance(x, Tensor):
        x = x or (smallest if array.name == "atol" else x)
        return torch.full((1,), float(x), dtype=problem.y0.dtype)
    given: Tensor = x.detach().to(problem.y0.dtype)
    if given.dim() == 0:
        return given.reshape(1).clone()
    if array.looped:
        return frame.apart(given.expand(problem.y0.shape)).reshape(-1)
    shape = problem.y0.shape[1:] if problem.per_sample else problem.y0.shape
    return given.expand(shape).reshape(-1).clone()
