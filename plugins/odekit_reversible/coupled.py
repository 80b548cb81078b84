"""Any explicit one-step method made algebraically reversible, with its order kept.

With ``P(t, h, x)`` the increment of the method's step from ``x``, two states take turns:

    ``y1 = l y + (1 - l) z + P(t, h, z)``        ``z1 = z - P(t + h, -h, y1)``

and the same increments in the other order give them back:

    ``z = z1 + P(t + h, -h, y1)``        ``y = (y1 - (1 - l) z - P(t, h, z)) / l``

so that a solve can be run back to its start with nothing stored on the way. ``z`` begins as ``y``
and stays within the error of the method of it.

The price is two steps of the method for one, and two ways in which ``y`` and ``z`` can part. Going
back magnifies what separates them by ``1 / l`` a step, and rounding by whatever the system itself
forgets on its way forward: a coupling ``l`` near one keeps the first small (0.999 makes it ``e`` in
1,000 steps and 22,000 in 10,000). Going forward the two stay together on ``y' = -a y`` only for
steps up to ``-ln(l) / a``, so a system that loses energy wants a coupling well below one: 0.9 for
a few hundred steps. Adaptive steps keep to such lengths by themselves, and may become many. Where
nothing needs to be taken back use the method itself.

With a method of odd order errors shrink even faster than its order while there are fewer than
about ``1 / (1 - l)`` steps, and the order itself shows beyond.

Shapes: those of `odekit.Solver`; the memory is ``z``, like the state.
Units: the coupling is a pure number.
Source: S. McCallum, J. Foster, "Efficient, Accurate and Stable Gradients for Neural ODEs", 2024,
    arXiv:2410.11648, definition 3.1. Error estimate and dense output are not part of the paper:
    the estimate is the largest, entry by entry, of those of the two increments and of their sum,
    which is what makes ``y`` and ``z`` part; dense output is the method's own, of the step from
    ``z``, moved by what separates ``y`` from it.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from odekit import (
    FlatField,
    IncompatibleError,
    ProblemError,
    Segment,
    Solver,
    Step,
    Trait,
    VectorField,
    create,
)


@final
class Reversible(Solver):
    """Two coupled runs of another solver, which can be taken back step by step.

    Args:
        solver: name or instance of an explicit one-step method; its order is kept.
        coupling: ``l`` above, between zero and one.

    Raises:
        IncompatibleError: the solver is implicit, stochastic, keeps a memory of earlier steps,
            or asks for more of the field than its slope.
        ProblemError: the coupling is out of range.
    """

    # Of the class, those around the default; an instance has those of its solver.
    order = 5
    traits = Trait.REVERSIBLE | Trait.ERROR_ESTIMATE

    def __init__(self, solver: str | Solver = "tsit5", coupling: float = 0.999) -> None:
        inner = create("solver", solver) if isinstance(solver, str) else solver
        _check(inner)
        if isinstance(coupling, bool) or not 0 < float(coupling) <= 1:
            raise ProblemError(
                f"coupling must be above 0 and at most 1, got {coupling!r}; 0.99 to 0.9999 is usual"
            )
        self.solver, self.coupling = inner, float(coupling)
        self.order = inner.order  # type: ignore[misc]
        self.error_order = inner.error_order  # type: ignore[misc]
        self.dense_order = inner.dense_order  # type: ignore[misc]
        self.traits = Trait.REVERSIBLE | (inner.traits & Trait.ERROR_ESTIMATE)  # type: ignore[misc]

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Tensor:
        """The second state, which begins as the first; no evaluation."""
        return y

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Tensor) -> Step:
        """Attempt ``t`` to ``t + h``; twice the evaluations of the method's first step."""
        z = state
        ahead = self._leap(field, t, h, z)
        y1 = self._couple(y, z) + (ahead.y - z)
        back = self._leap(field, t + h, -h, y1)
        z1 = z - (back.y - y1)
        error = None
        if ahead.error is not None and back.error is not None:
            with torch.no_grad():  # step control is never differentiated
                parting = (ahead.y - z) + (back.y - y1)
                error = torch.maximum(ahead.error.abs(), back.error.abs())
                error = torch.maximum(error, parting.abs()).to(y1.dtype)
        failed = ahead.failed
        if failed is not None and back.failed is not None:
            failed = failed | back.failed
        return Step(y1, error, z1, (z, *ahead.dense), failed)

    def reverse(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both states before the step to ``t + h``; as many evaluations as the step."""
        z = state + (self._leap(field, t + h, -h, y).y - y)
        rest = y - (1 - self.coupling) * z - (self._leap(field, t, h, z).y - z)
        return rest / self.coupling, z

    def complete(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, step: Step
    ) -> tuple[Tensor, ...]:
        """What the method's own dense output needs, and ``z`` before it."""
        z, *dense = step.dense
        if type(self.solver).complete is Solver.complete:
            return step.dense
        end = step.y + (z - self._couple(y, z))
        inner = Step(end, None, None, tuple(dense))
        return (z, *self.solver.complete(field, t, h, z, inner))

    def interpolate(self, segment: Segment, t: Tensor) -> Tensor:
        """The method's dense output from ``z``, plus the distance of ``y``, which shrinks by ``l``.

        That distance is of the order of the method's error, so that taking it as linear costs
        no order.
        """
        z, *dense = segment.dense
        apart = segment.y0 - z
        end = segment.y1 - self.coupling * apart
        inner = self.solver.interpolate(Segment(segment.t, segment.h, z, end, tuple(dense)), t)
        x = (t - segment.t) / segment.h
        x = x.to(apart.real.dtype)
        return inner + (1 - (1 - self.coupling) * x) * apart

    def _couple(self, y: Tensor, z: Tensor) -> Tensor:
        return self.coupling * y + (1 - self.coupling) * z

    def _leap(self, field: FlatField, t: Tensor, h: Any, x: Tensor) -> Step:
        """One step of the method from ``x``, with a memory of its own."""
        return self.solver.step(field, t, h, x, self.solver.init(field, t, x))


def _check(solver: Any) -> None:
    if not isinstance(solver, Solver):
        raise IncompatibleError(
            f"solver must be a name or an odekit.Solver, got {type(solver).__name__}"
        )
    name = type(solver).__name__
    if type(solver).field_type is not VectorField:
        raise IncompatibleError(
            f"{name} asks for a {type(solver).field_type.__name__}, which the field of a "
            "reversible solve need not be; wrap an explicit Runge-Kutta method such as 'tsit5'"
        )
    unfit = solver.traits & (Trait.IMPLICIT | Trait.STOCHASTIC)
    if unfit or Trait.ONE_STEP not in solver.traits:
        why = f"is {unfit}" if unfit else "keeps a memory of earlier steps"
        raise IncompatibleError(
            f"only explicit one-step methods can be made reversible, and {name} {why}; wrap an "
            "explicit Runge-Kutta method such as 'tsit5'"
        )
