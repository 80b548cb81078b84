"""The lane driver: every sample has its own time, step size, memory and status.

The whole batch attempts a step together, since the field is written for the whole batch; each
lane then keeps or drops its own part by ``torch.where``. A lane that has finished or failed
waits at a harmless place. No lane meets another in a reduction, so each gets what it would get
alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from odekit._engine.clock import (
    SNAP,
    TINY,
    CountedField,
    Unmapped,
    controlled_error,
    stops_of,
)
from odekit._engine.lane_rows import LaneEmitter
from odekit.errors import Status
from odekit.problem import Accepted, Problem, Trajectory
from odekit.solution import Stats
from odekit.solver import Segment, Solver, Step
from odekit.trees import leaves_of, map_leaves


def integrate_lanes(problem: Problem) -> Trajectory:
    """Integrate ``(lanes, dim)`` with a step size per lane."""
    run = _Run(problem)
    with Unmapped(
        "cannot map over per_sample=True; make its axis part of the samples, or drop per_sample "
        "and give step_size=..."
    ):
        if problem.t.shape[1] > 1:
            run.to_end()
        return run.trajectory()


class _Verdict(NamedTuple):
    """Lanes that accept, lanes for which the attempt counts, lanes without NaN; drop it whole?"""

    accept: Tensor
    counted: Tensor
    whole: Tensor
    dropped: bool


class _Run:
    """The moving parts of one solve; everything named in the singular is ``(lanes, ...)``."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.lanes = len(problem.y0)
        self.times = problem.t.detach()
        self.start = self.t = self.times[:, 0]
        end = self.times[:, -1]
        self.sign = torch.where(end >= self.start, 1.0, -1.0).to(self.t)
        self.y, self.memory = problem.y0, problem.memory
        self.field = CountedField(problem.field)
        zeros = torch.zeros(self.lanes, dtype=torch.int64, device=self.t.device)
        self.status, self.attempts, self.accepted, self.evaluations = (
            zeros.clone() for _ in "1234"
        )
        self.moving = torch.ones_like(zeros, dtype=torch.bool)
        self.active = (end - self.start) * self.sign > 0
        self.real = self.y.dtype.to_real() if self.y.dtype.is_complex else self.y.dtype
        self.completes = type(problem.solver).complete is not Solver.complete
        self.emitter = LaneEmitter(problem, self.times, self.sign)
        self.safe: tuple[Tensor, Any] | None = None

    def clock(self, t: Tensor) -> Tensor:
        """``(lanes, 1)`` as the solver sees it, attached to the start times."""
        if self.emitter.attached:
            t = torch.where(self.moving, self.problem.t[:, 0] + (t - self.start), t)
        return t[:, None]

    def _stops(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(lanes, m)`` times at, before and after each stop, start first; ``(lanes,)`` counts."""
        controller = self.problem.controller
        if not (controller.step_times or controller.jump_times):
            ends = self.times[:, [0, -1]]
            return ends, ends, ends, torch.full_like(self.attempts, 2)
        lists = [
            stops_of(controller, a, b, self.real)
            for a, b in zip(self.start.tolist(), self.times[:, -1].tolist(), strict=True)
        ]
        longest = max(map(len, lists))
        padded = [stops + stops[-1:] * (longest - len(stops)) for stops in lists]
        table = torch.tensor(
            [[(s.at, s.before, s.after) for s in stops] for stops in padded],
            dtype=torch.float64,
            device=self.t.device,
        )
        counts = torch.tensor([len(stops) for stops in lists], device=self.t.device)
        return table[..., 0], table[..., 1], table[..., 2], counts

    def to_end(self) -> None:
        """Step until no lane is active."""
        solver, controller = self.problem.solver, self.problem.controller
        at, before, after, count = self._stops()
        index = torch.ones_like(self.attempts)
        self.t = after[:, 0]
        now, h, control = self._begin()
        floor = 1e-30 * (self.times[:, -1] - self.start).abs()
        finite = torch.ones_like(self.active)
        while bool(self.active.any()):
            self._check_lengths(h, floor, finite)
            room = before.gather(1, index[:, None])[:, 0] - self.t
            clipped = h.abs() * controller.stretch >= room.abs()
            asked = torch.where(self.active, torch.where(clipped, room, h), 0.0)
            # The length that is really taken, so that a replay of the times repeats it exactly.
            trial = torch.where(self.active & ~clipped, (self.t + h) - self.t, asked)
            now, y, memory = self._harmless(now)
            calls = self.field.calls
            step = solver.step(self.field, now, trial.to(self.real)[:, None], y, memory)
            with torch.no_grad():
                # Detached, because forward mode does not stop at no_grad.
                error = _detach(controlled_error(self.problem, step))
                decision = controller.decide(
                    solver, asked, y.detach(), step.y.detach(), error, control
                )
                accept, counted, whole, dropped = self._judge(step, decision.accept)
                self.attempts += counted
                self.accepted += accept
                self.evaluations += counted * (self.field.calls - calls)
                finite = torch.where(counted, whole | accept, finite)
                control = _where(counted, decision.state, control)
                # A step cut short says little about the next one.
                cut = h.abs() > room.abs() * SNAP
                longer = cut & accept & (decision.h.abs() < h.abs())
                h = torch.where(counted, torch.where(longer, h, decision.h), h)
                t1 = torch.where(clipped, at.gather(1, index[:, None])[:, 0], self.t + trial)
            if dropped:
                continue
            dense = self._keep(now, trial, y, step, accept, t1)
            self.memory = _where(accept, step.state, self.memory)
            self.y = torch.where(accept[:, None], step.y, self.y)
            arrived, last = accept & clipped, index + 1 >= count
            self.active = self.active & ~(arrived & last)
            moved = torch.where(arrived, after.gather(1, index[:, None])[:, 0], t1)
            self.t = torch.where(accept, moved, self.t)
            restart = arrived & ~last
            if controller.jump_times and self.emitter.attached:
                short, beyond = (x.gather(1, index[:, None]) for x in (before, after))
                held = restart & (short != beyond)[:, 0]
                self._hold(held, Segment(now, trial[:, None], y, step.y, dense), short)
            now = self.clock(self.t)
            if controller.jump_times and bool(restart.any()):
                calls = self.field.calls
                afresh = solver.init(self.field, now, self.y)
                self.memory = _where(restart, afresh, self.memory)
                self.evaluations += restart * (self.field.calls - calls)
            if self.problem.observer is not None:
                seen = Accepted(self.emitter.end, self.y, self.memory, accept, restart)
                self.problem.observer(seen)
            index = index + restart

    def _begin(self) -> tuple[Tensor, Tensor, Any]:
        """Time, first steps and controller's memory; lost lanes are failed."""
        problem, now = self.problem, self.clock(self.t)
        if self.memory is None:
            self.memory = problem.solver.init(self.field.start, now, self.y)
        with torch.no_grad():
            h, control = problem.controller.init(
                problem.solver, self.field.start, now, self.y, self.times
            )
        h, control = h.detach(), map_leaves(_detach, control)
        self.field.forget()
        self.evaluations += self.field.calls
        self.safe = (self.y.detach(), map_leaves(_detach, self.memory))
        lost = self.active & ~torch.isfinite(h)
        self._fail(lost, Status.NON_FINITE)
        return now, torch.where(lost, 0.0, h), control

    def _judge(self, step: Step, accept: Tensor) -> _Verdict:
        """Who takes the step, and for whom the attempt counts.

        All active lanes count, unless gradients are wanted and a proposal is not finite:
        `torch.where` would hide it forwards but not backwards. Then the attempt is dropped
        whole, the lanes at fault shrink their steps, and the others repeat theirs as if nothing
        had been.
        """
        good = torch.isfinite(step.y).all(-1)
        whole = good if step.error is None else good & torch.isfinite(step.error).all(-1)
        counted, dropped = self.active, False
        if step.y.requires_grad:
            for leaf in leaves_of((step.state, step.dense)):
                if isinstance(leaf, Tensor) and leaf.requires_grad:
                    whole = whole & torch.isfinite(leaf).reshape(self.lanes, -1).all(-1)
            bad = self.active & ~whole
            dropped = bool(bad.any())
            counted = bad if dropped else self.active
            # Who would have taken the step as it is will not ask for a shorter one.
            self._fail(bad & accept, Status.NON_FINITE)
            accept = accept & whole
        if step.failed is not None:
            accept = accept & ~step.failed.reshape(-1)
        return _Verdict(accept & counted, counted, whole, dropped)

    def _check_lengths(self, h: Tensor, floor: Tensor, finite: Tensor) -> None:
        short = ~(h.abs() > torch.maximum(TINY * self.t.abs(), floor)) & self.active
        self._fail(short & finite, Status.STEP_TOO_SMALL)
        self._fail(short & ~finite, Status.NON_FINITE)
        self._fail(self.active & (self.attempts >= self.problem.max_steps), Status.MAX_STEPS)

    def _fail(self, lanes: Tensor, status: Status) -> None:
        self.status = torch.where(lanes, int(status), self.status)
        self.active = self.active & ~lanes

    def _harmless(self, now: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Time, state and memory with failed lanes put back to their start, out of the graph.

        A failed lane sits where the field may be infinite; its zero cotangent times an infinite
        slope would be NaN in the gradient of every shared parameter.
        """
        failed = self.status != 0
        if self.safe is None or not torch.is_grad_enabled() or not bool(failed.any()):
            return now, self.y, self.memory
        y, memory = self.safe
        column = failed[:, None]
        return (
            torch.where(column, self.start[:, None], now),
            torch.where(column, y, self.y),
            _where(failed, memory, self.memory),
        )

    def _keep(
        self, now: Tensor, h: Tensor, y: Tensor, step: Step, accept: Tensor, t1: Tensor
    ) -> tuple[Tensor, ...]:
        dense = step.dense
        if self.completes:
            inside = self.emitter.inside(t1) & accept
            if bool(inside.any()):
                calls = self.field.calls
                wide = h.to(self.real)[:, None]
                dense = self.problem.solver.complete(self.field, now, wide, y, step)
                self.evaluations += inside * (self.field.calls - calls)
        start = now[:, 0] if self.emitter.attached else self.t
        self.emitter.add(start, h, y, step.y, dense, accept, t1)
        return dense

    def _hold(self, jump: Tensor, segment: Segment, at: Tensor) -> None:
        """The state at a jump, which does not move when the start time does."""
        held = (jump & self.moving)[:, None]
        if bool(held.any()):
            segment = segment._replace(h=torch.where(held, segment.h, 1.0))
            value = self.problem.solver.interpolate(segment, at)
            self.y = torch.where(held, value, self.y)
            self.moving = self.moving & ~held[:, 0]

    def trajectory(self) -> Trajectory:
        """What was reached."""
        t, y, dense = self.emitter.finish()
        self._check_rows(t, y)
        stats = Stats(self.attempts, self.accepted, self.attempts - self.accepted, self.evaluations)
        return Trajectory(t, y, self.status, self.t, stats, dense, self.y, self.memory)

    def _check_rows(self, t: Tensor, y: Tensor) -> None:
        """Steps without an error estimate let NaN pass; name the last good row's time."""
        good = torch.isfinite(y.detach()).all(-1)
        lost = (self.status == 0) & ~good.all(0)
        if bool(lost.any()):
            last = good.long().cumprod(0).sum(0).clamp(min=1) - 1
            reached = (t.T if t.dim() == 2 else t).detach().gather(0, last[None])[0]
            self.t = torch.where(lost, reached, self.t)
            self.status = torch.where(lost, int(Status.NON_FINITE), self.status)


def _where(mask: Tensor, new: Any, old: Any) -> Any:
    """Lane by lane selection over a pytree whose tensors lead with the lanes."""

    def select(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor) or a is b:
            return a
        return torch.where(mask.reshape(-1, *(1,) * (a.dim() - 1)), a, b)

    return map_leaves(select, new, old)


def _detach(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x
