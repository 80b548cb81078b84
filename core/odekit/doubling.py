"""Step doubling: an error estimate for solvers that have none.

One step of the full length is compared with two of half the length. It costs three times the
evaluations of the method itself, so it is what ``solve`` falls back on when a solver without an
error estimate is given no ``step_size``; a method with an embedded pair is cheaper by far. The
numbers are the method's own, without local extrapolation, so the error of a whole solve is the
tolerance times a power of the number of steps: some 10 to 60 times the tolerance for rk4.

Shapes: those of the wrapped solver.
Units: the error is a state.
Source: E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd ed.,
    1993, section II.4, equation (4.4), doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from odekit.solver import FlatField, Segment, Solver, Step, Trait


@final
class StepDoubling(Solver):
    """Two half steps of another solver, with their distance from one whole step as the error.

    Args:
        solver: the solver to wrap; its order is kept.
    """

    order = 1  # of the class; an instance has that of its solver

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.order = solver.order  # type: ignore[misc]
        self.error_order = solver.order + 1  # type: ignore[misc]
        self.dense_order = solver.dense_order  # type: ignore[misc]
        # What holds of steps of one length need not hold of steps that adapt.
        kept = solver.traits & (Trait.FSAL | Trait.IMPLICIT | Trait.ONE_STEP)
        self.traits = kept | Trait.ERROR_ESTIMATE  # type: ignore[misc]

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Any:
        """The memory of the wrapped solver."""
        return self.solver.init(field, t, y)

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
        """Attempt ``t`` to ``t + h`` in two halves, and once whole, without gradients."""
        first = self.solver.step(field, t, h / 2, y, state)
        second = self.solver.step(field, t + h / 2, h / 2, first.y, first.state)
        with torch.no_grad():
            whole = self.solver.step(field, t, h, y, state)
            error = (second.y - whole.y) / (2**self.order - 1)
        failed = second.failed
        if first.failed is not None and failed is not None:
            failed = first.failed | failed
        return Step(second.y, error, second.state, (first.y, *first.dense, *second.dense), failed)

    def interpolate(self, segment: Segment, t: Tensor) -> Tensor:
        """Each half by the wrapped solver's own dense output."""
        middle, *rest = segment.dense
        count = len(rest) // 2
        half = segment.h / 2
        first = Segment(segment.t, half, segment.y0, middle, tuple(rest[:count]))
        second = Segment(segment.t + half, half, middle, segment.y1, tuple(rest[count:]))
        late = (t - segment.t) / segment.h > 0.5
        return torch.where(
            late, self.solver.interpolate(second, t), self.solver.interpolate(first, t)
        )
