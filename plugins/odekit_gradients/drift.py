"""Whether a state that was recovered backwards is still the solution.

The two differ by the errors of both solves, a few tolerances, times what the way back makes of
them. On a system that forgets where it came from that is a large factor, and the adjoint is then
integrated along a path that the solution never took.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit import Problem, StepController, Trait

FAR = 1000.0
"""Tolerances between the two, beyond which a gradient is doubtful."""

APART = 0.05
"""The same as a part of the state itself, where the tolerance is loose or there is none."""


def is_far(
    problem: Problem, back: StepController, found: Tensor, stored: Tensor, late: Tensor
) -> bool:
    """Whether ``found`` has left ``stored``, in any lane.

    Args:
        problem: the forward problem.
        back: controller of the backward solve, with its tolerances.
        found: the state recovered at an output time.
        stored: the solution there.
        late: the solution where the way back to there began; the larger of the two counts, since
            a solution that starts at zero was not found any more precisely there.
    """
    distance, size = (found - stored).abs(), torch.maximum(stored.abs(), late.abs())
    allowed = torch.zeros_like(size)
    if Trait.ERROR_ESTIMATE in back.solver_needs:
        forward = problem.controller.with_tolerances(problem.rtol, problem.atol)
        for control in (forward, back):
            # A controller that was given tolerances of its own says so in these attributes.
            rtol = _first(getattr(control, "rtol", problem.rtol), size)
            atol = _first(getattr(control, "atol", problem.atol), size)
            allowed = torch.maximum(allowed, atol + rtol * size)
    lanes = len(stored) if problem.per_sample else 1
    d, s, e = (x.reshape(lanes, -1).norm(dim=1) for x in (distance, size, allowed))
    limit = torch.maximum(APART * s, 10 * e)
    if bool(e.any()):
        limit = torch.minimum(limit, FAR * e)
    return bool((d > limit).any())


def _first(tolerance: Any, like: Tensor) -> Any:
    """The part of a tolerance that belongs to the state."""
    if isinstance(tolerance, Tensor) and tolerance.numel() > like.numel():
        return tolerance[: like.numel()].reshape(like.shape)
    return tolerance
