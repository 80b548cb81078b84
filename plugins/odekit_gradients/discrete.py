"""The discrete adjoint: the exact gradient of the steps taken, from the states between them.

A step is taken without a graph and leaves behind the state, the solver's memory and the time from
which it started. On the way back it is taken once more, with a graph that lives for this one step
only, and the cotangents of what it gave are pulled back to what it was given. The numbers are
those of ``unrolled``, for any solver, second and higher derivatives included; error estimates and
step-size control are not differentiated.

Memory grows with the number of steps, but by a state and the solver's memory each, where
``unrolled`` keeps everything that the field computed on its way. The price is that the field is
evaluated twice as often. Where its intermediate values fit in memory ``unrolled`` is faster;
where not even the states do, take ``checkpointed``. The field must give the same slope when it is
asked again: no dropout.

Shapes: those of `odekit.Solver`.
Units: cotangents are loss per what they belong to.
Source: a reverse sweep over stored states, A. Griewank and A. Walther, "Evaluating Derivatives",
    2nd ed., 2008, chapter 4, doi:10.1137/1.9780898717761; that it is again a Runge-Kutta scheme
    for the adjoint equation, W. W. Hager, "Runge-Kutta methods in optimal control and the
    transformed adjoint system", Numerische Mathematik 87, 2000, pp. 247-282,
    doi:10.1007/s002110000178.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from odekit import (
    FlatField,
    GradientMethod,
    Integrate,
    Problem,
    Segment,
    Solver,
    Step,
    Trait,
    Trajectory,
)
from odekit.trees import flatten, unflatten
from odekit_gradients.reach import Look, look_behind
from odekit_gradients.recomputed import recompute
from odekit_gradients.transforms import refuse_transforms
from odekit_gradients.watched import watched


@final
class Discrete(GradientMethod):
    """Store the states between steps; take each step again to differentiate it."""

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """Solve with one node of the graph for each step.

        Raises:
            IncompatibleError: inside a transform of ``torch.func``.
        """
        refuse_transforms("discrete")
        if not torch.is_grad_enabled():
            return integrate(problem)
        look = look_behind(problem)
        if not any(x.requires_grad for x in (problem.y0, problem.t, *look.params)):
            return integrate(problem)

        def recall(problem: Problem) -> Trajectory:
            return integrate(replace(problem, solver=_Recalled(problem, look)))

        trajectory = watched(problem, recall, "discrete")
        if trajectory.dense is None:
            return trajectory
        # Whoever interpolates later has no use for the parameters.
        return replace(trajectory, dense=replace(trajectory.dense, solver=problem.solver))


_INPUT = object()
"""The place of a leaf that is an input, since any leaf may be None."""


@final
class _Recalled(Solver):
    """Another solver, whose steps are nodes of the graph that keep only what they start from."""

    order = 1  # of the class; an instance has that of its solver

    def __init__(self, problem: Problem, look: Look) -> None:
        solver = problem.solver
        self.solver, self.start = solver, problem.y0
        self.params, self.shared, self.witness = look
        self.versions = [x._version for x in self.params]
        self.order = solver.order  # type: ignore[misc]
        self.error_order = solver.error_order  # type: ignore[misc]
        self.dense_order = solver.dense_order  # type: ignore[misc]
        self.traits = solver.traits & ~Trait.REVERSIBLE  # type: ignore[misc]

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Any:
        return self.solver.init(field, t, y)

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
        if not torch.is_grad_enabled():
            return self.solver.step(field, t, h, y, state)
        leaves, structure = _open(state)
        memory = [x for x in leaves if _is_smooth(x)]
        taken = _Taken(self, field, h, leaves, structure)
        taken.is_first = y is self.start
        return taken.attach([t, y, *memory])

    def complete(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, step: Step
    ) -> tuple[Tensor, ...]:
        return self.solver.complete(field, t, h, y, step)

    def interpolate(self, segment: Segment, t: Tensor) -> Tensor:
        return self.solver.interpolate(segment, t)


@final
class _Taken:
    """One step as a function of time, state and memory.

    Its outputs are the tensors that the step brought and through which gradients flow, each of
    them once and none of the inputs.
    """

    def __init__(
        self, solver: _Recalled, field: FlatField, h: Any, leaves: list[Any], structure: Any
    ) -> None:
        self.solver, self.field, self.h, self.params = solver, field, h, solver.params
        self.shared, self.structure = solver.shared, structure
        # Counters and the like are no inputs; they are what they were.
        self.fixed = [_INPUT if _is_smooth(x) else x for x in leaves]
        self.picked: list[int] | None = None
        self.count = 0
        self.brought: _Brought | None = None
        self.is_first = False

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Take the step, and the first time look at what it brings."""
        t, y, *memory = inputs
        with self.solver.witness.ambient.restored():
            step = self.solver.solver.step(self.field, t, self.h, y, self._state(memory))
        leaves, structure = _open(step.state)
        values = [step.y, *step.dense, *leaves]
        if self.picked is None:
            self.brought = _Brought(step, values, structure, inputs)
            self.picked, self.count = self.brought.picked, len(values)
        return [values[i] for i in self.picked]

    def _state(self, memory: Sequence[Tensor]) -> Any:
        parts = iter(memory)
        leaves = [next(parts) if x is _INPUT else x for x in self.fixed]
        return _close(leaves, self.structure)

    def pull(
        self, inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> list[Tensor | None] | None:
        """By the solver's own derivative of a step, if it has one."""
        if self.picked is None:
            return None
        t, y, *memory = inputs
        given: list[Tensor | None] = [None] * self.count
        for i, cotangent in zip(self.picked, cotangents, strict=True):
            given[i] = cotangent
        with self.solver.witness.ambient.restored():
            found = self.solver.solver.pull_back(
                self.field, t, self.h, y, self._state(memory), given
            )
        if found is None:
            return None
        by_param = {id(x): gradient for x, gradient in found.params}
        params = [by_param.pop(id(x), None) for x in self.params]
        if by_param:  # of something that nobody has found: autograd will not pass it by
            return None
        state = [x for x, fixed in zip(found.state, self.fixed, strict=True) if fixed is _INPUT]
        return [found.t, found.y, *state, *params]

    def attach(self, inputs: Sequence[Tensor]) -> Step:
        """The step, attached to its inputs and to the parameters."""
        outputs = recompute(self, inputs)
        brought, self.brought = self.brought, None  # the node must not hold what it brought
        if brought is None:
            raise RuntimeError("a step was attached that had not been taken")
        return brought.assemble(inputs, outputs)

    def check(self) -> None:
        """Raises:
        RuntimeError: a parameter was changed in place since the solve, or the field is another.
        """  # noqa: D205 - nothing to say beyond the error
        if self.is_first:
            self.solver.witness.check()
        if [x._version for x in self.params] != self.solver.versions:
            raise RuntimeError(
                "a parameter was changed in place between the solve and its backward pass, which "
                "takes the steps again; call backward before the optimiser's step"
            )


@final
class _Brought:
    """What a step brought, and which of its tensors are outputs, inputs, or neither."""

    def __init__(
        self, step: Step, values: list[Any], structure: Any, inputs: Sequence[Tensor]
    ) -> None:
        self.step, self.values, self.structure = step, values, structure
        self.picked: list[int] = []
        self.places: list[int | None] = []
        known = {id(x): ~i for i, x in enumerate(inputs)}
        for i, x in enumerate(values):
            if not _is_smooth(x):
                self.places.append(None)
                continue
            if id(x) not in known:
                known[id(x)] = len(self.picked)
                self.picked.append(i)
            self.places.append(known[id(x)])

    def assemble(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Step:
        """The step with the outputs of the node in it."""
        y, *values = (
            x if place is None else outputs[place] if place >= 0 else inputs[~place]
            for x, place in zip(self.values, self.places, strict=True)
        )
        count = len(self.step.dense)
        state = _close(values[count:], self.structure)
        return Step(y, self.step.error, state, tuple(values[:count]), self.step.failed)


def _is_smooth(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def _open(tree: Any) -> tuple[list[Any], Any]:
    """The leaves of a memory and its structure, None for a tensor alone."""
    return ([tree], None) if isinstance(tree, Tensor) else flatten(tree)


def _close(leaves: list[Any], structure: Any) -> Any:
    return leaves[0] if structure is None else unflatten(leaves, structure)
