"""Fixed steps: no error estimate is asked for and none is looked at.

For convergence studies, for solvers without an error estimate, and where every solve must cost
the same. For an accurate answer at an unknown cost take ``integral`` or ``pi``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from odekit import Decision, FlatField, ProblemError, Solver, StepController


class _Memory(NamedTuple):
    h: Any


@final
class Fixed(StepController):
    """Steps of one length; the last one before a stop is cut to fit.

    Args:
        step_size: length of a step, in the unit of time; positive, the direction comes from
            the output times. None for one step from each output time to the next.
        step_times: times that a step must end on.
        jump_times: the same, where the field jumps.

    Raises:
        ProblemError: ``step_size`` is not a positive number.
    """

    def __init__(
        self,
        step_size: float | None = None,
        step_times: tuple[float, ...] = (),
        jump_times: tuple[float, ...] = (),
    ) -> None:
        if step_size is not None and not 0 < float(step_size) < math.inf:
            raise ProblemError(f"step_size must be positive and finite, got {step_size!r}")
        self.step_size = None if step_size is None else float(step_size)
        self.step_times, self.jump_times = tuple(step_times), tuple(jump_times)

    def init(
        self, solver: Solver, field: FlatField, t: Tensor, y: Tensor, span: Tensor
    ) -> tuple[Any, Any]:
        """The signed step, and the lengths still to come when they follow the output times."""
        if self.step_size is None:
            return make_schedule(self._ends(span).diff(dim=-1))
        if t.dim() == 0:
            h: Any = math.copysign(self.step_size, float(span[-1] - span[0]))
        else:
            h = torch.copysign(
                torch.full_like(span[:, 0], self.step_size), span[:, -1] - span[:, 0]
            )
        return h, _Memory(h)

    def _ends(self, span: Tensor) -> Tensor:
        """Output times and the times that a step must end on, in order; padded with the end."""
        extra = (*self.step_times, *self.jump_times)
        if not extra:
            return span
        times = torch.tensor(extra, dtype=span.dtype, device=span.device)
        low = torch.minimum(span[..., :1], span[..., -1:])
        high = torch.maximum(span[..., :1], span[..., -1:])
        inside = (times >= low) & (times <= high)
        merged = torch.cat([span, torch.where(inside, times, span[..., -1:])], -1)
        falling = bool((span[..., -1] < span[..., 0]).all())
        ordered = merged.sort(dim=-1, descending=falling).values
        # A time that is there twice would be a step of no length: it moves to the end.
        fresh = torch.ones_like(ordered, dtype=torch.bool)
        fresh[..., 1:] = ordered.diff(dim=-1) != 0
        ordered = torch.where(fresh, ordered, span[..., -1:])
        return ordered.sort(dim=-1, descending=falling).values

    def decide(
        self, solver: Solver, h: Any, y0: Tensor, y1: Tensor, error: Tensor | None, state: Any
    ) -> Decision:
        """Accept, and go on with the same length, or with the next one of the schedule."""
        if isinstance(state, _Memory):
            accept = torch.ones_like(h, dtype=torch.bool) if isinstance(h, Tensor) else True
            return Decision(accept, state.h, state)
        return advance_schedule(h, state)


class Schedule(NamedTuple):
    """Step lengths known in advance and the place in them."""

    steps: Any
    place: Any


def make_schedule(steps: Tensor) -> tuple[Any, Schedule]:
    """``(S,)`` to a float and a schedule of floats; ``(lanes, S)`` to ``(lanes,)`` and tensors."""
    if steps.dim() == 1:
        lengths = tuple(steps.tolist())
        return lengths[0], Schedule(lengths, 0)
    return steps[:, 0], Schedule(steps, torch.zeros_like(steps[:, 0], dtype=torch.int64))


def advance_schedule(h: Any, schedule: Schedule) -> Decision:
    """Accept, and look up the length that follows."""
    steps, place = schedule
    if not isinstance(h, Tensor):
        following = min(place + 1, len(steps) - 1)
        return Decision(True, steps[following], Schedule(steps, following))
    following = (place + 1).clamp(max=steps.shape[1] - 1)
    ahead = steps.gather(1, following[:, None])[:, 0]
    return Decision(torch.ones_like(h, dtype=torch.bool), ahead, Schedule(steps, following))
