"""The kernel of every explicit Runge-Kutta method; a method is this and its numbers.

The slope at the start of a step is the solver's memory, so neither a rejection nor the next
step repeats it: methods whose last stage is the next step's first (FSAL) get it for nothing,
the others evaluate it at the end of the step, where the next one would have evaluated it anyway.

Shapes: those of `odekit.Solver`; every stage slope is like the state.
Units: slopes are state per time, the error estimate is a state.
Source: E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd
    ed., 1993, sections II.1 to II.6, doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from odekit import (
    ButcherTableau,
    FlatField,
    Segment,
    Solver,
    Step,
    Trait,
    advance,
    weighted_sum,
)


class ExplicitRungeKutta(Solver):
    """Any explicit method with a tableau. A subclass gives ``order`` and ``tableau``."""

    tableau: ClassVar[ButcherTableau]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tableau = cls.__dict__.get("tableau")
        if tableau is not None:
            cls.traits = Trait.NONE
            if tableau.e:
                cls.traits |= Trait.ERROR_ESTIMATE
            if tableau.fsal:
                cls.traits |= Trait.FSAL
            if tableau.dense:
                cls.dense_order = tableau.dense_order

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Tensor:
        """The slope at the start; one evaluation."""
        return field(t, y)

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Tensor) -> Step:
        """Attempt ``t`` to ``t + h``; as many evaluations as there are stages, less one if FSAL.

        Never raises: a field that returns NaN gives a NaN proposal.
        """
        tableau = self.tableau
        k = [state]
        y1 = y
        for node, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
            y1 = advance(y, h, row, k)
            k.append(field(t + node * h, y1))
        if not tableau.fsal:
            y1 = advance(y, h, tableau.b, k)
        error = None
        if tableau.e:
            with torch.no_grad():  # step control is never differentiated
                error = h * weighted_sum(tableau.e, k)
        last = k[-1] if tableau.fsal else field(t + h, y1)
        return Step(y1, error, last, tuple(k) if tableau.dense else (state, last))

    def interpolate(self, segment: Segment, t: Tensor) -> Tensor:
        """The method's own dense output, or the cubic Hermite where it has none."""
        if not self.tableau.dense:
            return super().interpolate(segment, t)
        y0 = segment.y0
        real = y0.dtype.to_real() if y0.dtype.is_complex else y0.dtype
        x = ((t - segment.t) / segment.h).to(real)
        total = torch.zeros_like(y0)
        for powers, k in zip(self.tableau.dense, segment.dense, strict=True):
            if any(powers):
                total = total + horner(powers, x) * k
        return y0 + segment.h.to(real) * total


def horner(powers: tuple[float, ...], x: Tensor) -> Tensor:
    """``sum_j powers[j] x^(j+1)``, elementwise."""
    value = torch.full_like(x, powers[-1])
    for p in reversed(powers[:-1]):
        value = value * x + p
    return value * x
