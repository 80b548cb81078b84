"""The lean driver: one lane, a Python loop, and one transfer from the device a step.

Step sizes are Python floats, so a step is made of fused multiply-adds that leave nothing on the
tape, and a rejected attempt is dropped whole.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from odekit._engine.clock import (
    SNAP,
    TINY,
    CountedField,
    Stop,
    Unmapped,
    controlled_error,
    is_hidden,
    repeat,
    stops_of,
)
from odekit._engine.emit import Emitter
from odekit.errors import Status
from odekit.problem import Accepted, Problem, Trajectory
from odekit.solution import Stats
from odekit.solver import Segment, Solver, Step


def integrate_lean(problem: Problem) -> Trajectory:
    """Integrate with one step size for the whole state."""
    run = _Run(problem, watch=False)
    run.to_end()
    trajectory = run.trajectory()
    if run.status is Status.SUCCESS and not _is_finite(trajectory.y):
        return _diagnosed(problem, trajectory)
    return trajectory


def _is_finite(y: Tensor) -> bool:
    """Whether all of it is finite; taken for granted under ``vmap``, where none can be asked."""
    try:
        return bool(torch.isfinite(y).all())
    except RuntimeError as error:
        if is_hidden(error):
            return True
        raise


def _diagnosed(problem: Problem, trajectory: Trajectory) -> Trajectory:
    """A trajectory that is not finite, with the place where that began.

    A controller without an error estimate lets such steps pass, and asking at each of them
    would cost a transfer; so the solve is repeated, watched, only when it went wrong.
    """
    with torch.no_grad():
        run = _Run(replace(problem, dense=False, observer=None), watch=True)
        run.to_end()
        seen = run.trajectory()
    good = int(torch.isfinite(seen.y).reshape(len(seen.y), -1).all(-1).sum())
    y = torch.cat([trajectory.y[:good], seen.y[good:]])
    return replace(trajectory, t=seen.t, y=y, status=seen.status, reached=seen.reached)


def _doubtful(step: Step) -> tuple[Tensor, ...]:
    """What tells of an attempt that was rejected whether it was finite."""
    parts = (step.y,) if step.error is None else (step.y, step.error)
    return tuple([part.detach() for part in parts])


READS = Unmapped(
    "cannot map over steps that adapt to the values; give step_size=..., or drop vmap and solve "
    "the whole batch with per_sample=True"
)
"""Around all that reads values of the state."""


class _Run:
    """The moving parts of one solve."""

    def __init__(self, problem: Problem, *, watch: bool) -> None:
        self.problem, self.watch = problem, watch
        self.times: list[float] = problem.t.detach().tolist()
        self.start = self.t = self.times[0]
        self.y, self.memory = problem.y0, problem.memory
        self.field = CountedField(problem.field)
        self.emitter = Emitter(problem, self.times)
        self.attempts = self.accepted = 0
        self.status = Status.SUCCESS
        self.completes = type(problem.solver).complete is not Solver.complete

    def clock(self, t: float) -> Tensor:
        """``t`` as the 0-d tensor that the field will see, attached to the start time."""
        if self.emitter.moves(t):
            return self.problem.t[0] + (t - self.start)
        return torch.full((), t, dtype=torch.float64, device=self.y.device)

    def to_end(self) -> None:
        """Step until the end, or until ``status`` says why not."""
        problem, solver, controller = self.problem, self.problem.solver, self.problem.controller
        if len(self.times) == 1:
            return
        real = self.y.dtype.to_real() if self.y.dtype.is_complex else self.y.dtype
        first, *others = stops_of(controller, self.start, self.times[-1], real)
        self.t = first.after
        now = self.clock(self.t)
        if self.memory is None:
            self.memory = solver.init(self.field.start, now, self.y)
        with torch.no_grad(), READS:
            h, control = controller.init(solver, self.field.start, now, self.y, problem.t.detach())
        self.field.forget()
        stops = iter(others)
        stop = next(stops)
        floor = 1e-30 * abs(self.times[-1] - self.start)
        started, rejected = math.isfinite(h), tuple[Tensor, ...]()
        off, whole = torch.no_grad(), problem.controlled is None
        while True:
            if not math.isfinite(h) or abs(h) <= max(TINY * abs(self.t), floor):
                finite = started and all(map(_is_finite, rejected))
                self.status = Status.STEP_TOO_SMALL if finite else Status.NON_FINITE
                return
            if self.attempts == problem.max_steps:
                self.status = Status.MAX_STEPS
                return
            room = stop.before - self.t
            clipped = abs(h) * controller.stretch >= abs(room)
            asked = room if clipped else h
            # The length that is really taken, so that a replay of the times repeats it exactly.
            trial = room if clipped else (self.t + h) - self.t
            step = solver.step(self.field, now, trial, self.y, self.memory)
            self.attempts += 1
            error = step.error if whole else controlled_error(problem, step)
            with off, READS:
                decision = controller.decide(solver, asked, self.y, step.y, error, control)
                passes = self._passes(step, decision.accept)
            control = decision.state
            if not passes:
                if self.status is not Status.SUCCESS:
                    return
                h, rejected = decision.h, _doubtful(step)
                continue
            rejected = ()
            y0 = self.y
            dense = self._keep(now, trial, stop.at if clipped else self.t + trial, step)
            self.memory = step.state
            # A step cut short says little about the next one.
            h = max(decision.h, h, key=abs) if abs(h) > abs(room) * SNAP else decision.h
            if not clipped:
                now = self.clock(self.t)
                self._tell(jump=False)
                continue
            if stop.at == self.times[-1]:
                self._tell(jump=False)
                return
            if stop.jump and self.emitter.moves(stop.before):
                length = torch.full_like(now.detach(), trial)
                self.y = self._hold(Segment(now, length, y0, self.y, dense), stop)
            self.t = stop.after
            now = self.clock(self.t)
            if stop.jump:
                self.memory = solver.init(self.field, now, self.y)
            self._tell(jump=stop.jump)
            stop = next(stops)

    def _tell(self, *, jump: bool) -> None:
        if self.problem.observer is not None:
            knot = self.emitter.knots[-1]
            self.problem.observer(Accepted(knot, self.y, self.memory, jump=jump))

    def _passes(self, step: Step, accept: bool) -> bool:
        if step.failed is not None and bool(step.failed.any()):
            if accept and step.error is None:
                self.status = Status.STEP_FAILED
            return False
        if accept and self.watch and not bool(torch.isfinite(step.y).all()):
            self.status = Status.NON_FINITE
            return False
        return bool(accept)

    def _hold(self, segment: Segment, stop: Stop) -> Tensor:
        """The state at the jump, which does not move when the start time does."""
        self.emitter.still = stop.after
        return self.problem.solver.interpolate(
            segment, torch.full_like(segment.t.detach(), stop.before)
        )

    def _keep(self, now: Tensor, h: float, t1: float, step: Step) -> tuple[Tensor, ...]:
        dense = step.dense
        if self.completes and self.emitter.wants_inside(t1):
            dense = self.problem.solver.complete(self.field, now, h, self.y, step)
        self.emitter.add(self.t, h, t1, self.y, step.y, dense)
        self.accepted += 1
        self.t, self.y = t1, step.y
        return dense

    def trajectory(self) -> Trajectory:
        """What was reached."""
        device = self.y.device
        t, y, dense = self.emitter.finish()
        rejected = self.attempts - self.accepted
        counts = (self.attempts, self.accepted, rejected, self.field.calls)
        attempts, accepted, rejects, calls = (repeat([count], device) for count in counts)
        return Trajectory(
            t=t,
            y=y,
            status=repeat([int(self.status)], device),
            reached=torch.tensor([self.t], dtype=torch.float64, device=device),
            stats=Stats(attempts, accepted, rejects, calls),
            dense=dense,
            last=self.y,
            memory=self.memory,
        )
