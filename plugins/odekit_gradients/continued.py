"""A controller that goes on from one solve to the next with the step that it had planned.

A backward solve stops at every output time, where the adjoint jumps. The jump asks for a new
slope, but says nothing about the length of the steps, so to begin with a careful first step each
time would be work thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor

from odekit import Decision, FlatField, Solver, StepController, Trait
from odekit.trees import map_leaves

SNAP = 1 + 1e-9
"""Steps whose lengths differ by less than this are the same."""


class _Plan(NamedTuple):
    """The step that comes next and the memory of the controller."""

    h: Any
    state: Any


@final
class Continued(StepController):
    """One controller for a row of solves, run one after the other.

    It remembers, so it serves one backward pass and is thrown away. Controllers that look at no
    error begin afresh in every solve, since theirs is a schedule.

    Args:
        inner: decides about the steps; its tolerances are bound.
        jump_times: times at which the field jumps, beside those of ``inner``.
    """

    def __init__(self, inner: StepController, jump_times: Iterable[float] = ()) -> None:
        self.inner = inner
        self.step_times, self.stretch = inner.step_times, inner.stretch
        self.jump_times = tuple(sorted({*inner.jump_times, *jump_times}))
        self.plan: _Plan | None = None

    def with_tolerances(self, rtol: Any, atol: Any) -> Self:
        """Itself: the tolerances have been bound."""
        return self

    def init(
        self, solver: Solver, field: FlatField, t: Tensor, y: Tensor, span: Tensor
    ) -> tuple[Any, Any]:
        """The step planned at the end of the solve before; the inner controller's in the first."""
        if self.plan is None or Trait.ERROR_ESTIMATE not in self.inner.solver_needs:
            plan = _Plan(*self.inner.init(solver, field, t, y, span))
        else:
            plan = self.plan
            reach = span[..., -1] - span[..., 0]
            if not isinstance(plan.h, Tensor):
                plan = plan._replace(h=math.copysign(plan.h, float(reach)))
            elif bool(((plan.h == 0) & (reach != 0)).any()):  # a lane that joins only now
                fresh = _Plan(*self.inner.init(solver, field, t, y, span))
                plan = _choose(plan.h == 0, fresh, plan)
        return plan.h, plan

    def decide(
        self, solver: Solver, h: Any, y0: Tensor, y1: Tensor, error: Tensor | None, state: Any
    ) -> Decision:
        """What the inner controller says; a step cut short does not shorten the plan."""
        decision = self.inner.decide(solver, h, y0, y1, error, state.state)
        if isinstance(h, Tensor):
            cut = (state.h.abs() > h.abs() * SNAP) & decision.accept
            longer = cut & (decision.h.abs() < state.h.abs())
            plan = _Plan(torch.where(longer, state.h, decision.h), decision.state)
            self.plan = _choose(h == 0, state, plan)  # lanes that wait keep theirs
        else:
            cut = abs(state.h) > abs(h) * SNAP and decision.accept
            planned = max(decision.h, state.h, key=abs) if cut else decision.h
            self.plan = _Plan(planned, decision.state)
        return Decision(decision.accept, decision.h, self.plan)


def _choose(mask: Tensor, new: _Plan, old: _Plan) -> _Plan:
    def select(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor) or a is b:
            return a
        return torch.where(mask.reshape(-1, *(1,) * (a.dim() - 1)), a, b)

    chosen: _Plan = map_leaves(select, new, old)
    return chosen
