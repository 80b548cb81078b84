"""Steps that are known in advance, so that nobody has to ask the device how far it has got.

A controller that looks at nothing but its own memory takes the same steps whatever the field
says. The recurrence of times is run in Python floats, which are those of the device to the last
bit, while the device takes the steps.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NoReturn, final

import torch

from odekit._engine.clock import SNAP, TINY
from odekit._engine.scalars import Mismatch
from odekit.controller import StepController
from odekit.problem import Problem
from odekit.solver import Trait


class _LookedAtError(Exception):
    """A controller looks at what is not known in advance."""


@final
class _Unknown:
    """Stands for what only the solve will tell."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _LookedAtError(name)

    def __call__(self, *_: Any) -> NoReturn:
        raise _LookedAtError


@final
class Timetable:
    """The attempts of a solve with steps that are known in advance.

    Args:
        problem: its times are read, which waits for the device once.
        controller: of the problem.
    """

    def __init__(self, problem: Problem, controller: StepController) -> None:
        times = problem.t.detach().cpu()
        if times.dim() == 2:
            if not bool((times == times[0]).all()):
                raise _LookedAtError("the times of each lane")
            times = times[0]
        self.times: list[float] = times.tolist()
        self.solver, self.controller = problem.solver, controller
        self.max_steps = problem.max_steps
        self.unknown: Any = _Unknown()
        field: Any = self.unknown
        self.h, self.control = controller.init(self.solver, field, times[0], field, times)
        if not (isinstance(self.h, float) and math.isfinite(self.h)):
            raise _LookedAtError("the first step")
        self._decide(self.h, self.control)

    def _decide(self, h: float, control: Any) -> Any:
        y: Any = self.unknown
        decision = self.controller.decide(self.solver, h, y, y, y, control)
        if not (isinstance(decision.accept, bool) and isinstance(decision.h, float)):
            raise _LookedAtError("the step")
        return decision

    def chunks(self, size: int) -> Iterator[int]:
        """How many rows each chunk of so many attempts brings, until no lane goes on.

        Raises:
            Mismatch: the controller looks at a later step after all.
        """
        rows = 1
        knots = self._knots()
        sign = 1.0 if self.times[-1] >= self.times[0] else -1.0
        ahead = [x * sign for x in self.times]
        going = True
        while going:
            fresh, t = rows, None
            for _ in range(size):
                t = next(knots, None)
                if t is None:
                    going = False
                    break
                rows = max(rows, bisect_right(ahead, t * sign))
            going = going and t != self.times[-1]
            yield rows - fresh

    def _knots(self) -> Iterator[float]:
        """The time after each attempt."""
        t, end = self.times[0], self.times[-1]
        h, control, attempts = self.h, self.control, 0
        floor = 1e-30 * abs(end - t)
        while attempts < self.max_steps and abs(h) > max(TINY * abs(t), floor):
            room = end - t
            clipped = abs(h) * self.controller.stretch >= abs(room)
            trial = room if clipped else (t + h) - t
            try:
                decision = self._decide(room if clipped else h, control)
            except Exception as error:
                raise Mismatch("the controller's steps are not those foreseen") from error
            attempts, control = attempts + 1, decision.state
            cut = decision.accept and abs(h) > abs(room) * SNAP
            h = h if cut and abs(decision.h) < abs(h) else decision.h
            if decision.accept:
                t = end if clipped else t + trial
            yield t
            if decision.accept and clipped:
                return


def foresee(problem: Problem, controller: StepController) -> Timetable | None:
    """The timetable of a solve, or None where the steps follow from what the solve meets."""
    if Trait.ERROR_ESTIMATE in controller.solver_needs:
        return None
    try:
        with torch.no_grad():
            return Timetable(problem, controller)
    except Exception:  # whatever a controller does with what it is not told
        return None
