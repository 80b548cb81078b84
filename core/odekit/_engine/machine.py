"""A problem's solver, controller and field as one function in C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odekit._engine.c_code import TYPES, Array, Parts, Stage, source
from odekit._engine.c_library import build
from odekit._engine.clock import CountedField
from odekit._engine.scalars import Unsupported, Value
from odekit._engine.tracing import Given, Outside, Wanted, make_stage
from odekit.controller import StepController
from odekit.problem import Problem
from odekit.solver import Segment, Solver, Step
from odekit.trees import flatten, unflatten

SMALL = 16
"""Entries of a state of one axis up to which that axis is written out, not looped over."""


@dataclass(frozen=True)
class Frame:
    """How a problem is laid out in the code.

    Attributes:
        form: ``"lanes"``, each solved by itself, or ``"batch"``, samples that share their steps.
        lanes: how many there are.
        count: samples in a batch; 1 where the state is written out.
        width: entries of one lane or sample.
    """

    form: str
    lanes: int
    count: int
    width: int

    def apart(self, x: Tensor) -> Tensor:
        """A copy as the code has it: a batch with the samples along the last axis."""
        if self.form == "lanes":
            return x.reshape(self.lanes, -1).clone(memory_format=torch.contiguous_format)
        return x.reshape(self.count, -1).T.clone(memory_format=torch.contiguous_format)

    def together(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The way back."""
        return (x if self.form == "lanes" else x.reshape(-1, self.count).T).reshape(tuple(shape))


def frames_of(problem: Problem) -> list[Frame]:
    """Layouts to try, the best first."""
    y = problem.y0
    if problem.per_sample:
        return [Frame("lanes", len(y), 1, y.shape[1])]
    whole = Frame("lanes", 1, 1, y.numel())
    if y.dim() == 0 or len(y) == 1:
        return [whole]
    batch = Frame("batch", 1, len(y), y.numel() // len(y))
    if y.dim() == 1:
        return [whole, batch] if len(y) <= SMALL else [batch, whole]
    return [batch, whole]


def save_of(problem: Problem) -> str:
    """Whether rows are at given times, at all steps, or only at the end."""
    if problem.save == "steps" or problem.dense:
        return "steps"
    return "last" if problem.t.shape[-1] == 2 else "times"


class Machine:
    """The code for one problem: its field, solver, controller and shapes.

    Attributes:
        places: of each tensor from outside, whether it is in the caller's ``args`` or in what
            the solve is made of, and its number there.

    Args:
        problem: what is to be solved; its field may not have been called with other shapes.
        controller: without tolerances, or with its own.
        frame: how the problem is laid out.
        memory: what the solver remembers at the start.
        control: what the controller remembers then, as lanes have it.

    Raises:
        Unsupported: the field, the solver or the controller cannot be written this way.
        NoCompiler: there is none.
    """

    def __init__(
        self,
        problem: Problem,
        controller: StepController,
        frame: Frame,
        memory: Any,
        control: Any,
    ) -> None:
        if problem.y0.dtype not in (torch.float32, torch.float64):
            raise Unsupported(f"the state is {problem.y0.dtype}")
        if problem.y0.device.type != "cpu":
            raise Unsupported(f"the state is on {problem.y0.device}")
        if problem.controlled is not None:
            raise Unsupported("only a part of the state is controlled")
        self.frame, self.problem = frame, problem
        self.real, self.shape = problem.y0.dtype, tuple(problem.y0.shape)
        self.save, self.lean = save_of(problem), type(problem.solver).complete is Solver.complete
        self.inside = self.save == "times" or (self.save == "steps" and problem.dense)
        self.step_calls = self.complete_calls = 0
        self.outside, self.places = Outside(), list[tuple[bool, int]]()
        memories, self.memory_spec = flatten(memory)
        controls, self.control_spec = flatten(control)
        self.memory_shapes = [tuple(x.shape) for x in memories]
        self.control_shapes = [tuple(x.shape) for x in controls]
        looped = frame.form == "batch"
        state = Array("y", self.real, frame.width, looped)
        self.state, self.trial = state, replace(state, name="z")
        self.error: Array | None = None
        self.memory = [self._array(f"m{i}", x) for i, x in enumerate(memories)]
        self.control = [
            Array(f"c{i}", x.dtype, x.numel() // frame.lanes, looped=False)
            for i, x in enumerate(controls)
        ]
        self.tolerances = [
            self._tolerance(name, x) for name, x in (("rtol", problem.rtol), ("atol", problem.atol))
        ]
        self.brought: list[Array] = []
        self.dense: list[Array] = []
        stages = {"step": self._step(memories)}
        stages["decide"] = self._decide(controller, controls)
        if self.inside:
            self.dense = self.brought
            if not self.lean:
                stages["complete"] = self._complete()
            if self.save == "times":
                stages["interpolate"] = self._interpolate()
        parts = Parts(
            form=frame.form,
            real=self.real,
            width=frame.width,
            state=self.state,
            trial=self.trial,
            error=self.error,
            memory=self.memory,
            fresh=[replace(x, name="n" + x.name) for x in self.memory],
            control=self.control,
            next_control=[replace(x, name="n" + x.name) for x in self.control],
            brought=self.brought,
            dense=self.dense,
            tolerances=self.tolerances,
            outside=[(self.outside.name_of(x), x.dtype) for x in self.outside.tensors],
            stages=stages,
        )
        self.parts, self.source = parts, source(parts, self.save)
        self.function = build(self.source)
        del self.problem  # and with it the tensors of the first call

    # Arrays.

    def _array(self, name: str, x: Tensor) -> Array:
        """An array for what a solver remembers or brings."""
        frame = self.frame
        if x.dtype not in TYPES:
            raise Unsupported(f"the solver remembers {x.dtype}")
        if frame.form == "batch" and x.dim() and x.shape[0] == frame.count:
            return Array(name, x.dtype, x.numel() // frame.count, looped=True)
        return Array(name, x.dtype, x.numel() // frame.lanes, looped=False)

    def _tolerance(self, name: str, x: Any) -> Array:
        if not isinstance(x, Tensor) or x.dim() == 0:
            return Array(name, self.real, 1, looped=False)
        if self.frame.form == "batch":
            return Array(name, self.real, 1, looped=True)
        return Array(name, self.real, self.frame.width, looped=False)

    # Examples for tracing.

    @property
    def _axis(self) -> int | None:
        """The axis of samples or lanes in a state."""
        return 0 if self._length > 1 else None

    @property
    def _length(self) -> int:
        return self.frame.count if self.frame.form == "batch" else self.frame.lanes

    @property
    def _count(self) -> str | None:
        return "COUNT" if self.frame.form == "batch" else None

    def _clock(self, text: str, *, real: bool = False) -> Given:
        """A time or a length as the solver sees it."""
        dtype = self.real if real else torch.float64
        if not self.problem.per_sample:
            return Given(torch.zeros((), dtype=dtype), text)
        return Given(torch.zeros(self.frame.lanes, 1, dtype=dtype), text, self._axis)

    def _states(self, *arrays: Array) -> list[Given]:
        return [Given(self.problem.y0.detach().to(a.dtype), a, self._axis) for a in arrays]

    def _memories(self, arrays: Sequence[Array], leaves: Sequence[Tensor]) -> list[Given]:
        return [
            Given(x.detach(), a, self._axis if a.looped or self.frame.form == "lanes" else None)
            for a, x in zip(arrays, leaves, strict=True)
        ]

    @staticmethod
    def _all(array: Array) -> Wanted:
        places = [array.at(i) for i in range(array.places)]
        return Wanted(places, array.dtype, array.looped)

    # Stages.

    def _step(self, memories: list[Tensor]) -> Stage:
        problem, spec = self.problem, self.memory_spec
        field, brings_error = CountedField(problem.field), False

        def step(t: Tensor, h: Tensor, y: Tensor, *memory: Tensor) -> list[Tensor]:
            nonlocal brings_error
            field.calls = 0
            made: Step = problem.solver.step(field, t, h, y, unflatten(list(memory), spec))
            self.step_calls = field.calls
            leaves, found = flatten(made.state)
            if found != spec:
                raise Unsupported("the solver remembers something else after a step")
            if made.failed is not None:
                raise Unsupported("the solver may fail to make a step")
            brings_error = made.error is not None
            error = [made.error] if made.error is not None else []
            return [made.y, *error, *leaves, *(made.dense if self.inside else ())]

        def wanted(values: list[Value]) -> list[Wanted]:
            places = [self._all(self.trial)]
            if brings_error:
                self.error = replace(self.trial, name="e")
                places.append(self._all(self.error))
            places += [self._all(replace(x, name="n" + x.name)) for x in self.memory]
            rest = values[len(places) :]
            self.brought = [
                replace(self.trial, name=f"k{i}", dtype=x.dtype) for i, x in enumerate(rest)
            ]
            return [*places, *map(self._all, self.brought)]

        length = f"({TYPES[self.real]})length"
        given = [self._clock("t"), self._clock(length, real=True), *self._states(self.state)]
        given += self._memories(self.memory, memories)
        return self._stage(step, given, wanted)

    def _stage(self, function: Any, given: list[Given], wanted: Any) -> Stage:
        return make_stage(
            function, given, wanted, self.outside, length=self._length, count=self._count
        )

    def _decide(self, controller: StepController, controls: list[Tensor]) -> Stage:
        """The controller, which always sees lanes; a state that is shared is a single one."""
        frame, spec, solver = self.frame, self.control_spec, self.problem.solver
        batch, errors = frame.form == "batch", self.error is not None
        wide = frame.count * frame.width
        loop = (1 if batch else 0) if (wide if batch else frame.lanes) > 1 else None

        def flat(array: Array) -> Given:
            shape = (frame.lanes, wide if batch else frame.width)
            seen = replace(array, places=1) if batch else array
            return Given(torch.ones(shape, dtype=self.real), seen, loop)

        def decide(h: Tensor, rtol: Tensor, atol: Tensor, *rest: Tensor) -> list[Tensor]:
            y0, y1, *leaves = rest
            error = leaves.pop(0) if errors else None
            bound = controller.with_tolerances(rtol, atol)
            made = bound.decide(solver, h, y0, y1, error, unflatten(list(leaves), spec))
            after, found = flatten(made.state)
            if found != spec:
                raise Unsupported("the controller remembers something else after a step")
            return [made.accept, made.h, *after]

        def wanted(_: list[Value]) -> list[Wanted]:
            fresh = [self._all(replace(x, name="n" + x.name)) for x in self.control]
            return [
                Wanted(["accept"], torch.bool, looped=False),
                Wanted(["next"], torch.float64, looped=False),
                *fresh,
            ]

        lane_axis = 0 if not batch and frame.lanes > 1 else None
        given = [Given(torch.ones(frame.lanes, dtype=torch.float64), "asked", lane_axis)]
        for array in self.tolerances:
            if array.looped:
                given.append(Given(torch.ones(1, wide, dtype=self.real), array, loop))
            elif array.places == 1:
                given.append(Given(torch.ones((), dtype=self.real), array))
            else:
                given.append(Given(torch.ones(array.places, dtype=self.real), array))
        given += [flat(self.state), flat(self.trial)]
        given += [flat(self.error)] if self.error is not None else []
        given += [
            Given(x.detach(), array, lane_axis)
            for x, array in zip(controls, self.control, strict=True)
        ]
        return make_stage(
            decide,
            given,
            wanted,
            self.outside,
            length=wide if batch else frame.lanes,
            count=f"({frame.width} * COUNT)" if batch else None,
        )

    def _complete(self) -> Stage:
        problem, spec, brought = self.problem, self.memory_spec, list(self.brought)
        field, error = CountedField(problem.field), self.error
        fresh = [replace(x, name="n" + x.name) for x in self.memory]
        count = len(fresh)

        def complete(t: Tensor, h: Tensor, y0: Tensor, y1: Tensor, *rest: Tensor) -> list[Tensor]:
            field.calls = 0
            estimate, leaves = (rest[0], rest[1:]) if error is not None else (None, rest)
            memory = unflatten(list(leaves[:count]), spec)
            step = Step(y1, estimate, memory, tuple(leaves[count:]))
            found = problem.solver.complete(field, t, h, y0, step)
            self.complete_calls = field.calls
            return list(found)

        def wanted(values: list[Value]) -> list[Wanted]:
            self.dense = [
                replace(self.trial, name=f"q{i}", dtype=x.dtype) for i, x in enumerate(values)
            ]
            return list(map(self._all, self.dense))

        given = [self._clock("t"), self._clock(f"({TYPES[self.real]})length", real=True)]
        given += self._states(self.state, self.trial, *([error] if error is not None else []))
        leaves = [
            torch.zeros(shape, dtype=a.dtype)
            for shape, a in zip(self.memory_shapes, self.memory, strict=True)
        ]
        given += [*self._memories(fresh, leaves), *self._states(*brought)]
        return self._stage(complete, given, wanted)

    def _interpolate(self) -> Stage:
        problem, frame = self.problem, self.frame

        def value(
            t: Tensor, h: Tensor, query: Tensor, y0: Tensor, y1: Tensor, *dense: Tensor
        ) -> list[Tensor]:
            segment = Segment(t, h, y0, y1, dense)
            return [problem.solver.interpolate(segment, query)]

        def wanted(_: list[Value]) -> list[Wanted]:
            batch = frame.form == "batch"
            places = [f"target[b * {frame.width} + {c}]" for c in range(frame.width)]
            if not batch:
                places = [f"target[{c}]" for c in range(frame.width)]
            return [Wanted(places, self.real, looped=batch)]

        given = [self._clock("t"), self._clock("length"), self._clock("query")]
        given += self._states(self.state, self.trial, *self.dense)
        return self._stage(value, given, wanted)
