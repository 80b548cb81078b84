"""The strong-stability-preserving method of third order with three stages.

Each stage is a convex combination of Euler steps, so whatever norm an Euler step does not
increase, this method does not increase either: for equations from conservation laws with shocks.
For smooth problems ``bosh3`` of the same order adapts its steps.

Source: C.-W. Shu, S. Osher, "Efficient implementation of essentially non-oscillatory
    shock-capturing schemes", Journal of Computational Physics 77(2), 1988, pp. 439-471,
    doi:10.1016/0021-9991(88)90177-5.
"""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from odekit import FlatField, Solver, Step


@final
class SSPRK3(Solver):
    """Shu and Osher's method: three evaluations a step, and one at its end for the next."""

    order = 3

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Tensor:
        """The slope at the start."""
        return field(t, y)

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Tensor) -> Step:
        """Attempt ``t`` to ``t + h``; ``state`` is the slope at ``t``, as for every method here."""
        y1 = y + h * state
        y2 = 0.75 * y + 0.25 * (y1 + h * field(t + h, y1))
        y3 = (y + 2 * (y2 + h * field(t + 0.5 * h, y2))) / 3
        end = field(t + h, y3)
        return Step(y=y3, error=None, state=end, dense=(state, end))
