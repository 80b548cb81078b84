"""Replay: the accepted steps of an earlier solve, once more and without decisions.

For gradients that recompute a solve, and for comparing two methods on the same steps.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from odekit import Decision, FlatField, ProblemError, Solution, Solver, StepController
from odekit_control.fixed import advance_schedule, make_schedule


@final
class Replay(StepController):
    """Take exactly these steps.

    Args:
        times: the ends of the steps, start included: ``(S + 1,)`` with a shared step size,
            ``(lanes, S + 1)`` per sample, where lanes with fewer steps repeat their end.
        jump_times: those of them at which the field jumps.

    Raises:
        ProblemError: fewer than two times, or not monotone.
    """

    def __init__(self, times: Any, jump_times: tuple[float, ...] = ()) -> None:
        times = torch.as_tensor(times, dtype=torch.float64).detach()
        steps = times.diff(dim=-1)
        if times.dim() not in (1, 2) or steps.shape[-1] == 0:
            raise ProblemError(
                f"times must be (S + 1,) or (lanes, S + 1) with S >= 1, got {tuple(times.shape)}"
            )
        if not (bool((steps >= 0).all()) or bool((steps <= 0).all())):
            raise ProblemError("times must be monotone: the ends of accepted steps in order")
        self.times, self.jump_times = times, tuple(jump_times)

    @classmethod
    def of(cls, solution: Solution) -> Replay:
        """The steps of a solution that was made with ``save="steps"``."""
        return cls(solution.t)

    def init(
        self, solver: Solver, field: FlatField, t: Tensor, y: Tensor, span: Tensor
    ) -> tuple[Any, Any]:
        """The first step and the schedule of the others.

        Raises:
            ProblemError: the steps are for another number of lanes, or do not cover the span.
        """
        times = self.times.to(span.device)
        if times.dim() != span.dim() or (times.dim() == 2 and len(times) != len(span)):
            raise ProblemError(
                f"replay holds steps of shape {tuple(times.shape)}, which does not fit "
                f"{'one lane' if span.dim() == 1 else f'{len(span)} lanes'}"
            )
        reach = 1e-9 * (span[..., -1] - span[..., 0]).abs()
        off = torch.maximum(
            (times[..., 0] - span[..., 0]).abs(), (times[..., -1] - span[..., -1]).abs()
        )
        if bool((off > reach).any()):
            raise ProblemError(
                f"replay covers {float(times.min()):.9g} to {float(times.max()):.9g}, but t runs "
                f"from {float(span.min()):.9g} to {float(span.max()):.9g}"
            )
        return make_schedule(times.diff(dim=-1))

    def decide(
        self, solver: Solver, h: Any, y0: Tensor, y1: Tensor, error: Tensor | None, state: Any
    ) -> Decision:
        """Accept, and go on with the next step."""
        return advance_schedule(h, state)
