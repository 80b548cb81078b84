"""What the engine is asked, and what it answers.

A `Problem` is already resolved and checked: one flat field, one state tensor, objects instead of
names. Gradient methods make variations of it with ``dataclasses.replace``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

from odekit.controller import StepController
from odekit.errors import SolveError, Status
from odekit.solution import DenseOutput, Stats
from odekit.solver import FlatField, Solver


class Accepted(NamedTuple):
    """One accepted step, as an observer sees it: where the next step starts.

    Attributes:
        t: the time that the step is recorded to end at, a float, or ``(lanes,)``.
        y: the state there.
        memory: the solver's memory there.
        lanes: ``(lanes,)`` of bool, who took the step; None with a shared step size.
        jump: whether the field jumps there, so that the solver starts afresh.
    """

    t: Any
    y: Tensor
    memory: Any
    lanes: Tensor | None = None
    jump: Any = False


Observer: TypeAlias = Callable[[Accepted], None]


@dataclass(frozen=True)
class Problem:
    """An initial value problem, ready to be integrated.

    Attributes:
        field: time and state to slope; ``t`` 0-d or ``(lanes, 1)``.
        y0: the start; any shape with a shared step size, ``(lanes, dim)`` per sample.
        t: output times, monotone in either direction, float64; ``(n,)``, or ``(lanes, n)``.
        solver: takes the steps.
        controller: decides about them.
        rtol: relative tolerance, a float or a tensor that broadcasts against the state.
        atol: absolute tolerance, likewise.
        per_sample: every lane has its own step size.
        params: tensors beside ``y0`` and ``t`` that gradients must reach.
        memory: the solver's memory at the start, where this goes on from an earlier solve; None
            to begin afresh.
        observer: told of every accepted step.
        max_steps: attempts allowed per lane.
        save: rows at the output times, or at every accepted step.
        dense: keep what `DenseOutput` needs.
        controlled: only this many leading entries of the last axis count as error; None for all.
    """

    field: FlatField
    y0: Tensor
    t: Tensor
    solver: Solver
    controller: StepController
    rtol: Any = 1e-6
    atol: Any = 1e-8
    per_sample: bool = False
    params: tuple[Tensor, ...] = ()
    memory: Any = None
    observer: Observer | None = None
    max_steps: int = 10_000
    save: Literal["times", "steps"] = "times"
    dense: bool = False
    controlled: int | None = None


@dataclass(frozen=True)
class Trajectory:
    """What came out of a `Problem`.

    Attributes:
        t: the times of the rows: ``problem.t``, or those of the accepted steps.
        y: ``(n, *y0.shape)``; rows that were not reached are NaN.
        status: ``(lanes,)``, integers of `Status`.
        reached: ``(lanes,)``, float64, the time up to which the solve is good.
        stats: counts per lane.
        dense: dense output, when asked for.
        last: the state where the solve ended, like ``y0``.
        memory: the solver's memory there, with which another solve goes on from ``last``.
    """

    t: Tensor
    y: Tensor
    status: Tensor
    reached: Tensor
    stats: Stats
    dense: DenseOutput | None = None
    last: Tensor | None = None
    memory: Any = None

    def failure(self, what: str = "the solve") -> SolveError | None:
        """The exception that describes the first lane that failed, or None."""
        failed = self.status.nonzero()[:, 0].tolist()
        if not failed:
            return None
        lane = failed[0]
        status = Status(int(self.status[lane]))
        where = f"t = {float(self.reached[lane]):.9g}"
        if len(self.status) > 1:
            where += f" in lane {lane}"
        more = f" ({len(failed)} of {len(self.status)} lanes failed)" if len(failed) > 1 else ""
        return SolveError(f"{what}: {status.meaning} at {where}{more}; {status.advice}", status)

    def checked(self, what: str) -> Trajectory:
        """The trajectory itself, if every lane reached the end.

        Raises:
            SolveError: a lane did not.
        """
        error = self.failure(what)
        if error is not None:
            raise error
        return self


Integrate: TypeAlias = Callable[[Problem], Trajectory]
