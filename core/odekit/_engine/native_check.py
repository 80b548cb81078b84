"""Machine code beside the solver, controller and field that it was made of.

Before code is used, some of its steps are taken again, one by one, by what it stands for, at the
start and further on. Steps, what lies inside of them, and the length of the next one are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from odekit._engine.clock import SNAP
from odekit._engine.machine import Machine
from odekit._engine.native import Run
from odekit._engine.scalars import Mismatch
from odekit.controller import Decision, StepController
from odekit.problem import Problem
from odekit.solver import Segment, Step
from odekit.trees import map_leaves, unflatten

ROUNDING = 1e4
"""Units in the last place by which two ways to take a step may differ."""

PATIENCE = 64
"""Attempts after which nothing can be said."""


def check_machine(
    machine: Machine, problem: Problem, controller: StepController, swap: Sequence[Tensor]
) -> None:
    """Compare single steps with those of the solver itself.

    Args:
        machine: the code.
        problem: one that it was made for.
        controller: with tolerances.
        swap: the tensors that the code reads.

    Raises:
        Mismatch: they differ by more than rounding.
    """
    problem = replace(problem, max_steps=1 << 30)
    run = Run(machine, problem, controller, swap)
    if machine.save == "times":
        problem = replace(problem, t=_looked_into(run))
        run = Run(machine, problem, controller, swap)
    run.start.stops = run.start.stops[:2]
    for skip in (0, 16):
        if skip:
            run.to_end(skip)
        for _ in range(PATIENCE):
            if not run.is_going or _compare_attempt(run, problem, controller):
                break


def _looked_into(run: Run) -> Tensor:
    """The output times, and one more for each lane that lies in its first step."""
    t, lanes = run.times, run.times.shape[0]
    room = 0.5 * (t[:, 1] - t[:, 0])
    h = 0.1 * torch.where(run.h.abs() < room.abs(), run.h, room)
    inside = t[:, 0] + torch.where(torch.isfinite(h) & (h != 0), h, room)
    whole = torch.cat([t[:, :1], inside[:, None], t[:, 1:]], 1)
    return whole if run.problem.per_sample or lanes > 1 else whole[0]


class _Before(NamedTuple):
    """What an attempt starts from."""

    t: Tensor
    h: Tensor
    room: Tensor
    y: Tensor
    memory: Any
    control: Any
    counts: Tensor
    stretch: float

    @property
    def clipped(self) -> Tensor:
        """Lanes whose step is cut to end where it has to."""
        return self.h.abs() * self.stretch >= self.room.abs()

    @property
    def asked(self) -> Tensor:
        """What the controller believes the length to be."""
        return torch.where(self.clipped, self.room, self.h)

    @property
    def length(self) -> Tensor:
        """What it is."""
        return torch.where(self.clipped, self.room, (self.t + self.h) - self.t)


def _before(run: Run) -> _Before:
    t, control = run.t.clone(), unflatten([x.clone() for x in run.control], run.control_spec)
    y = run.frame.together(run.y, run.problem.y0.shape).clone()
    room = run.start.edges[:, 0] - t
    memory = map_leaves(torch.clone, run.memory_tree())
    return _Before(
        t, run.h.clone(), room, y, memory, control, run.counts.clone(), run.controller.stretch
    )


def _compare_attempt(run: Run, problem: Problem, controller: StepController) -> bool:
    """Whether some lane took the step, which is then as it should be."""
    before = _before(run)
    run.to_end(1)
    with torch.no_grad():
        step = _taken(before, problem)
        _compare_decision(run, before, step, problem, controller)
        took = run.counts[:, 1] > before.counts[:, 1]
        if not bool(took.any()):
            return False
        found = run.frame.together(run.y, problem.y0.shape)
        limit = _limit(before.y, step.y, len(took))
        _compare(step.y, found, took, limit, before, "a step")
        _compare_inside(run, before, step, took, limit)
    return True


def _taken(before: _Before, problem: Problem) -> Step:
    now, size = _clocks(before, problem)
    return problem.solver.step(problem.field, now, size, before.y, before.memory)


def _clocks(before: _Before, problem: Problem) -> tuple[Tensor, Any]:
    if problem.per_sample:
        return before.t[:, None], before.length.to(problem.y0.dtype)[:, None]
    return before.t[0], float(before.length)


def _limit(y0: Tensor, y1: Tensor, lanes: int) -> Tensor:
    """``(lanes,)``, by how much rounding may set two results apart."""
    info = torch.finfo(y0.dtype)
    scale = torch.maximum(y0.abs(), y1.abs()).reshape(lanes, -1).amax(1)
    return ROUNDING * info.eps * scale + info.tiny


def _compare(
    want: Tensor, found: Tensor, lanes: Tensor, limit: Tensor, before: _Before, what: str
) -> None:
    count = len(lanes)
    want, found = want.reshape(count, -1), found.reshape(count, -1)
    gap = (want - found).abs().amax(1)
    lost = ~torch.isfinite(want).all(1) & ~torch.isfinite(found).all(1)
    wrong = lanes & ~(gap <= limit) & ~lost
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0, 0])
        raise Mismatch(
            f"{what} from t = {float(before.t[i]):.6g} leads {float(gap[i]):.3g} away from where "
            "the solver leads"
        )


def _compare_inside(run: Run, before: _Before, step: Step, took: Tensor, limit: Tensor) -> None:
    """What lies inside of the step, where that is recorded."""
    problem, machine = run.problem, run.machine
    rows = before.counts[:, 3]
    fresh = took & (run.counts[:, 3] > rows)
    recorded = machine.save == "steps" and problem.dense
    if not (recorded or (machine.save == "times" and bool(fresh.any()))):
        return
    now, size = _clocks(before, problem)
    dense = problem.solver.complete(problem.field, now, size, before.y, step)
    if recorded:
        for want, kept in zip(dense, run.record[-1][3:], strict=True):
            scale = _limit(want, want, len(took))
            _compare(want, kept[-1], took, scale, before, "the inside of a step")
        return
    row = rows.clamp(max=run.times.shape[1] - 1)
    query = run.times.gather(1, row[:, None])
    width = before.length[:, None] if problem.per_sample else before.length[0]
    segment = Segment(now, width, before.y, step.y, dense)
    want = problem.solver.interpolate(segment, query if problem.per_sample else query[0, 0])
    found = run.out[row, torch.arange(len(row))] if problem.per_sample else run.out[row[0]]
    ends = before.clipped & (query[:, 0] == run.start.edges[:, 1])
    _compare(want, found, fresh & ~ends, 10 * limit, before, "the inside of a step")


def _compare_decision(
    run: Run, before: _Before, step: Step, problem: Problem, controller: StepController
) -> None:
    """Whether the step was to be taken, and the length of the next one."""
    took = run.counts[:, 1] > before.counts[:, 1]
    counted = run.counts[:, 0] > before.counts[:, 0]
    noise = _limit(before.y, step.y, len(took))
    low, high = (_decision(before, step, sign * noise, problem, controller) for sign in (-1.0, 1.0))
    lengths = torch.stack([low.h, high.h]).abs()
    slack = 1e-3 if problem.y0.dtype is torch.float32 else 1e-6
    # A step cut short says little about the next one, which is not shortened for it.
    cut = took & (before.h.abs() > before.room.abs() * SNAP)
    kept = torch.where(cut, before.h.abs(), 0.0)
    fits = run.h.abs() >= torch.maximum(lengths.amin(0), kept) * (1 - slack)
    fits &= run.h.abs() <= torch.maximum(lengths.amax(0), kept) * (1 + slack)
    right = (low.accept | ~took) & (took | ~high.accept) & fits
    wrong = counted & ~right & torch.isfinite(lengths).all(0)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0, 0])
        raise Mismatch(f"the step from t = {float(before.t[i]):.6g} is judged otherwise")


def _decision(
    before: _Before, step: Step, noise: Tensor, problem: Problem, controller: StepController
) -> Decision:
    """The controller's, as tensors ``(lanes,)``, for an error that is larger by ``noise``."""
    error, solver, lanes = step.error, problem.solver, len(noise)
    if error is not None:
        size = error.abs().reshape(lanes, -1) + noise[:, None]
        error = size.clamp(min=0).to(error).reshape(error.shape)
    if problem.per_sample:
        return controller.decide(solver, before.asked, before.y, step.y, error, before.control)
    control = map_leaves(lambda x: x.item(), before.control)
    made = controller.decide(solver, float(before.asked), before.y, step.y, error, control)
    return Decision(torch.tensor([made.accept]), torch.tensor([made.h]).double(), None)
