"""What a step-size controller is: it accepts or rejects an attempt and proposes the next step.

Decisions carry no gradient. A controller is immutable; what it remembers between steps travels
in ``state``. With a shared step size ``h`` is a signed Python float and ``accept`` a bool; with
a step size per sample ``h`` and ``accept`` are tensors ``(lanes,)``, so that no lane sees
another.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from odekit.solver import FlatField, Solver, Trait


class Decision(NamedTuple):
    """What the controller made of an attempt.

    Attributes:
        accept: bool, or ``(lanes,)`` of bool.
        h: the next signed step to try, float or ``(lanes,)``.
        state: the controller's memory, a pytree whose tensors lead with the lanes.
    """

    accept: Any
    h: Any
    state: Any


class StepController(ABC):
    """Decide about steps, without gradients.

    Attributes:
        step_times: times that a step must end on.
        jump_times: the same, and the field jumps there, so the solver starts afresh.
        stretch: how many times as long a step may become where that ends it on a stop or on the
            end. Only rounding, unless the controller looks at errors and would reject too much.
        solver_needs: traits without which the controller cannot work.
    """

    step_times: tuple[float, ...] = ()
    jump_times: tuple[float, ...] = ()
    stretch: float = 1 + 1e-9
    solver_needs: ClassVar[Trait] = Trait.NONE

    def with_tolerances(self, rtol: Any, atol: Any) -> Self:
        """A copy that takes these tolerances where it was given none of its own."""
        return self

    @abstractmethod
    def init(
        self, solver: Solver, field: FlatField, t: Tensor, y: Tensor, span: Tensor
    ) -> tuple[Any, Any]:
        """The first signed step and the memory.

        Args:
            solver: the solver that will take the steps.
            field: may be called; each call counts.
            t: start time, 0-d or ``(lanes, 1)``.
            y: start state.
            span: all output times, ``(n,)`` or ``(lanes, n)``.

        Returns:
            ``(h, state)``, with ``h`` a float, or ``(lanes,)`` where ``t`` is ``(lanes, 1)``.
        """

    @abstractmethod
    def decide(
        self, solver: Solver, h: Any, y0: Tensor, y1: Tensor, error: Tensor | None, state: Any
    ) -> Decision:
        """Judge the attempt of length ``h`` from ``y0`` to ``y1``."""


def error_norm(error: Tensor, y0: Tensor, y1: Tensor, rtol: Any, atol: Any, *, lanes: bool) -> Any:
    """Root mean square of ``error / (atol + rtol max(|y0|, |y1|))``.

    A value of one is exactly at tolerance. A float, at the price of one transfer from the
    device; with ``lanes`` a tensor ``(lanes,)`` over the last axis and no transfer.
    Source: E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I",
    2nd ed., 1993, section II.4, doi:10.1007/978-3-540-78862-1.
    """
    scale = torch.maximum(y0.abs(), y1.abs())
    if isinstance(rtol, Tensor) or isinstance(atol, Tensor):
        scale = atol + rtol * scale
    else:
        scale = scale.mul_(rtol).add_(atol)
    if lanes:
        scaled = torch.linalg.vector_norm(error / scale, dim=-1)
        return scaled.to(torch.float64) / math.sqrt(error.shape[-1])
    return torch.linalg.vector_norm(error / scale).item() / math.sqrt(error.numel())
