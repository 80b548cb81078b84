"""What both drivers share: where steps must end, what counts as error, and the counted field."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from odekit.controller import StepController
from odekit.errors import IncompatibleError
from odekit.problem import Problem
from odekit.solver import FlatField, Step

SNAP = 1 + 1e-9
"""Steps whose lengths differ by less than a billionth are the same."""

TINY = 4 * torch.finfo(torch.float64).eps
"""Steps shorter than this part of the time itself cannot be represented."""


@dataclass(frozen=True)
class Stop:
    """A time that a step must end on.

    Attributes:
        at: the time as it will be recorded.
        before: where the step ends; short of ``at`` when the field jumps there.
        after: where the next step starts.
    """

    at: float
    before: float
    after: float

    @property
    def jump(self) -> bool:
        """Whether the solver must start afresh."""
        return self.before != self.after


def stops_of(
    controller: StepController, start: float, end: float, dtype: torch.dtype
) -> list[Stop]:
    """The start, the stops after it and the end, in the order in which they are met.

    At a jump the field is evaluated on either side of it and never on it, at the ends of the
    span as well. The gap is a few units in the last place of the field's own precision, so it
    costs no accuracy, and less than half the way to the next stop.
    """
    sign = 1.0 if end >= start else -1.0
    gap = 4 * torch.finfo(dtype).eps * max(abs(start), abs(end))
    jumps = {float(t) for t in controller.jump_times}
    inner = jumps | {float(t) for t in controller.step_times}
    inside = sorted(t for t in inner if 0 < (t - start) * sign < (end - start) * sign)
    times = [start, *(inside if sign > 0 else reversed(inside)), end]
    room = [min(gap, abs(b - a) / 4) * sign for a, b in itertools.pairwise(times)]
    sides = zip(times, [0.0, *room], [*room, 0.0], strict=True)
    return [Stop(t, t - b, t + a) if t in jumps else Stop(t, t, t) for t, b, a in sides]


class CountedField:
    """The field with a count of its calls.

    The controller's first guess needs the slope at the start, which most solvers have just
    evaluated; the last call is remembered so that the same question costs nothing twice.
    """

    def __init__(self, field: FlatField) -> None:
        self.field = field
        self.time_dtype = getattr(field, "time_dtype", None)
        self.calls = 0
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.field(t, y)

    def start(self, t: Tensor, y: Tensor) -> Tensor:
        """A call that is answered from memory when it repeats the one before."""
        if self._last is not None and self._last[0] is t and self._last[1] is y:
            return self._last[2]
        slope = self(t, y)
        self._last = (t, y, slope)
        return slope

    def forget(self) -> None:
        """Drop the remembered call, so that nothing is kept alive."""
        self._last = None


def is_differentiated(x: Tensor) -> bool:
    """Whether derivatives by ``x`` are wanted, in reverse or in forward mode."""
    if x.requires_grad and torch.is_grad_enabled():
        return True
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


@final
class Unmapped:
    """A place where values are read, which ``torch.func.vmap`` cannot map over.

    Within ``with``, its complaint becomes one that says what to do instead.

    Args:
        advice: goes on from the word ``torch.func.vmap``.

    Raises:
        IncompatibleError: on leaving, where a value could not be read.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def __enter__(self) -> None:
        """Nothing to prepare; one of these serves every step."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Replace the complaint of ``vmap``; let everything else through."""
        if isinstance(error, RuntimeError) and is_hidden(error):
            raise IncompatibleError(f"torch.func.vmap {self.advice}") from error


def is_hidden(error: RuntimeError) -> bool:
    """Whether a value could not be read because ``torch.func.vmap`` maps over it."""
    return str(error).startswith("vmap: ")


def repeat(values: Sequence[int], device: torch.device) -> Tensor:
    """Counts of the one lane as tensors ``(1,)``."""
    return torch.tensor(values, dtype=torch.int64, device=device)


def controlled_error(problem: Problem, step: Step) -> Tensor | None:
    """The error that the controller sees.

    Entries that are not controlled are zero and the others larger by as much as makes the root
    mean square over all entries that over the controlled ones.
    """
    count = problem.controlled
    if count is None or step.error is None:
        return step.error
    error = torch.zeros_like(step.error)
    error[..., :count] = step.error[..., :count] * math.sqrt(step.error.shape[-1] / count)
    return error
