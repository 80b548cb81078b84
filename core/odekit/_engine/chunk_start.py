"""Where a solve in chunks begins, and whether it can be one.

Everything is worked out on the device, in the form that lanes have: a shared step size makes the
whole state one lane, though solver and field still see it in its own shape.
"""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from odekit._engine.clock import CountedField
from odekit._engine.scalars import Unsupported
from odekit.errors import ProblemError, Status
from odekit.problem import Problem
from odekit.solver import Solver
from odekit.trees import flatten


def check_scope(problem: Problem) -> None:
    """Whether a problem can be solved in chunks, as far as it says so itself.

    Raises:
        Unsupported: not, and why.
    """
    controller, y0 = problem.controller, problem.y0
    if problem.dense:
        raise Unsupported("dense=True keeps every step")
    if problem.save == "steps":
        raise Unsupported("save='steps' keeps every step")
    if problem.observer is not None:
        raise Unsupported("every step is watched")
    if controller.step_times or controller.jump_times:
        raise Unsupported("the controller has times to stop at")
    if type(problem.solver).complete is not Solver.complete:
        raise Unsupported("the solver's dense output takes evaluations of its own")
    # They broadcast against the state as it is, not against one lane of it.
    own = [getattr(controller, name, None) for name in ("rtol", "atol")]
    wide = any(isinstance(x, Tensor) and x.dim() for x in own)
    if wide and not problem.per_sample and y0.dim() != 1:
        raise Unsupported("the controller has tolerances per entry; give them to solve instead")


class Buffers(NamedTuple):
    """All that a chunk reads: first what it changes, then what it does not.

    ``(lanes,)`` each but the state, the leaves of both memories, the output times, ``(lanes, n)``
    and signed, ``max_steps``, 0-d, and the tolerances.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    status: Tensor
    attempts: Tensor
    accepted: Tensor
    active: Tensor
    finite: Tensor
    rows: Tensor
    memory: list[Any]
    control: list[Any]
    end: Tensor
    floor: Tensor
    ahead: Tensor
    max_steps: Tensor
    tolerances: list[Any]

    def tensors(self) -> list[Tensor]:
        """Those of them that are tensors, in order."""
        return [x for x in flatten(tuple(self))[0] if isinstance(x, Tensor)]


@final
class Beginning:
    """Where a solve begins, worked out step by step.

    Args:
        problem: what is to be solved.
    """

    def __init__(self, problem: Problem) -> None:
        y, solver = problem.y0.detach(), problem.solver
        self.times = problem.t.detach() if problem.per_sample else problem.t.detach()[None]
        self.tolerances = [_flat_tolerance(x, problem) for x in (problem.rtol, problem.atol)]
        controller = problem.controller.with_tolerances(*self.tolerances)
        field = CountedField(problem.field)
        start, end = self.times[:, 0], self.times[:, -1]
        clock = start[:, None]
        now, memory, state = clock if problem.per_sample else start[0], problem.memory, y
        if memory is None:
            memory = solver.init(field.start, now, y)
        first: Any = field.start
        if not problem.per_sample:
            state = y.reshape(1, -1)

            def first(t: Tensor, x: Tensor) -> Tensor:
                if t is clock and x is state:
                    return field.start(now, y).reshape(1, -1)
                return field(t.reshape(()), x.reshape(y.shape)).reshape(1, -1)

        try:
            h, control = controller.init(solver, first, clock, state, self.times)
        except ProblemError as error:  # one that holds steps of a solve with shared steps
            raise Unsupported(f"the controller has no form for lanes: {error}") from error
        self.calls = field.calls
        self.sign = torch.where(end >= start, 1.0, -1.0).to(start)
        leaves, self.memory_spec = flatten(memory)
        controls, self.control_spec = flatten(control)
        for leaf in (*leaves, *controls):
            if not (leaf is None or isinstance(leaf, Tensor)):
                raise Unsupported(f"a memory holds {type(leaf).__name__} and not only tensors")
        lost = ~torch.isfinite(h)
        zeros = torch.zeros_like(start, dtype=torch.int64)
        ahead = self.times * self.sign[:, None]
        self.buffers = Buffers(
            t=start,
            h=torch.where(lost, 0.0, h).to(start),
            y=y,
            status=torch.where(lost, int(Status.NON_FINITE), zeros),
            attempts=zeros,
            accepted=zeros,
            active=~lost,
            finite=torch.ones_like(lost),
            rows=zeros + 1,
            memory=leaves,
            control=controls,
            end=end,
            floor=1e-30 * (end - start).abs(),
            ahead=ahead.contiguous(),
            max_steps=torch.full_like(zeros[0], problem.max_steps),
            tolerances=self.tolerances,
        )

    def like(self) -> tuple[Any, ...]:
        """What another solve must share to use the same buffers."""
        seen = [
            (x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x
            for x in flatten(tuple(self.buffers))[0]
        ]
        return (*seen, str(self.memory_spec), str(self.control_spec))


def _flat_tolerance(x: Any, problem: Problem) -> Any:
    """A tolerance that broadcasts against the state as the controller of lanes sees it."""
    if not isinstance(x, Tensor) or problem.per_sample:
        return x
    return x.detach().expand(problem.y0.shape).reshape(-1)
