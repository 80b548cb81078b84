"""Reversible Heun: second order, one evaluation a step, and every step can be taken back exactly.

Beside the state ``y`` runs a second one, ``v``, at which alone the field is evaluated:
``v1 = 2 y - v + h f(t, v)`` and ``y1 = y + h (f(t, v) + f(t + h, v1)) / 2``. A step of ``-h``
from the end gives back the start, up to rounding.

It is the cheapest reversible step there is, and the least stable one: on ``y' = a y`` it is stable
only for ``h a`` on the imaginary axis between ``-i`` and ``i``, so in a long solve of a system
that loses energy ``v`` drifts away from ``y``. There, and wherever accuracy is wanted, take
``reversible`` around a method of higher order.

Shapes: those of `odekit.Solver`; the memory is ``(v, f(t, v))``, both like the state.
Units: ``v`` is a state, its slope state per time.
Source: P. Kidger, J. Foster, X. Li, T. Lyons, "Efficient and Accurate Gradients for Neural SDEs",
    NeurIPS 2021, arXiv:2105.13493, algorithms 1 and 2, without noise.
"""

from __future__ import annotations

from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from odekit import FlatField, Solver, Step, Trait

Beside: TypeAlias = tuple[Tensor, Tensor]
"""The second state and the slope there."""


@final
class ReversibleHeun(Solver):
    """Reversible Heun: two coupled states, one evaluation a step.

    The error estimate is the distance of ``y1`` from an Euler step, as in Heun's own pair.
    """

    order = 2
    traits = Trait.REVERSIBLE | Trait.ERROR_ESTIMATE

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Beside:
        """Both states begin as one; one evaluation."""
        return y, field(t, y)

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Beside) -> Step:
        """Attempt ``t`` to ``t + h``; one evaluation."""
        _, before = state
        y1, (v1, after) = _advance(field, t + h, h, y, state)
        with torch.no_grad():  # step control is never differentiated
            error = h / 2 * (after - before)
        return Step(y1, error, (v1, after), (before, after))

    def reverse(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Beside
    ) -> tuple[Tensor, Beside]:
        """The same step with ``-h``, from the end to ``t``; one evaluation."""
        return _advance(field, t, -h, y, state)


def _advance(
    field: FlatField, end: Tensor, h: Any, y: Tensor, state: Beside
) -> tuple[Tensor, Beside]:
    """Both states after a step of ``h`` that ends at ``end``."""
    v, slope = state
    v1 = 2 * y - v + h * slope
    after = field(end, v1)
    return y + h / 2 * (slope + after), (v1, after)
