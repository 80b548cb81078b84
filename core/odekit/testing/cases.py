"""Initial value problems with closed forms, on which solvers are measured.

Several starts are solved at once, so that no lucky cancellation on one of them hides or flatters
an error.

Shapes: states are ``(starts, d)``; ``t`` is 0-d or broadcasts like ``(starts, 1)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odekit.field import SeparableField, VectorField
from odekit.solver import FlatField

DOUBLE = torch.float64


@dataclass(frozen=True)
class Case:
    """A field with its solutions.

    Attributes:
        field: time and state to slope.
        exact: the state ``(starts, d)`` at a time.
        span: start and end.
    """

    field: FlatField
    exact: Callable[[float], Tensor]
    span: tuple[float, float]

    def reversed(self) -> Case:
        """The same solutions run through backwards."""
        return Case(self.field, self.exact, (self.span[1], self.span[0]))


def autonomous() -> Case:
    """Five points on circles that turn the faster the wider they are: ``z' = i |z|^2 z``.

    Planar, nonlinear and without damping, so that errors add up and none is forgotten.
    """
    radius = torch.tensor([0.6, 0.9, 1.1, 1.3, 1.5], dtype=DOUBLE)
    angle = torch.tensor([0.1, 1.4, 2.6, 4.0, 5.3], dtype=DOUBLE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return turn(y) * y.square().sum(-1, keepdim=True)

    def exact(t: float) -> Tensor:
        phase = angle + radius.square() * t
        return torch.stack([radius * phase.cos(), radius * phase.sin()], -1)

    return Case(field, exact, (0.0, 1.5))


def time_dependent() -> Case:
    """``y' = 2 y cos(t + phase)`` with five phases: wrong nodes show here and nowhere else."""
    phase = torch.tensor([[0.0], [0.7], [1.9], [3.1], [4.4]], dtype=DOUBLE)
    start = torch.tensor([[1.0], [-0.6], [1.4], [0.8], [-1.1]], dtype=DOUBLE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return 2 * y * (t + phase).cos()

    def exact(t: float) -> Tensor:
        return start * (2 * (t + phase).sin() - 2 * (0.2 + phase).sin()).exp()

    return Case(field, exact, (0.2, 2.2))


class Ermakov:
    """``q'' = 1 / q^3``, for solvers that ask for a `SeparableField`."""

    def velocity(self, p: Tensor) -> Tensor:
        """``q' = p``."""
        return p

    def force(self, q: Tensor) -> Tensor:
        """``p' = 1 / q^3``."""
        return q**-3

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Both halves, coordinates then momenta."""
        q, p = y.chunk(2, -1)
        return torch.cat([self.velocity(p), self.force(q)], -1)


def separable() -> Case:
    """Five solutions of `Ermakov`: ``q^2`` is a parabola in time."""
    q0 = torch.tensor([0.8, 1.0, 1.3, 0.9, 1.6], dtype=DOUBLE)
    p0 = torch.tensor([0.3, -0.5, 0.1, 0.9, -0.2], dtype=DOUBLE)
    curvature = p0.square() + q0**-2

    def exact(t: float) -> Tensor:
        q = (q0.square() + 2 * q0 * p0 * t + curvature * t * t).sqrt()
        return torch.stack([q, (q0 * p0 + curvature * t) / q], -1)

    return Case(Ermakov(), exact, (0.0, 3.0))


def autonomous_for(field_type: type) -> Case | None:
    """The autonomous case that a solver of this protocol can take, or None."""
    if field_type is SeparableField:
        return separable()
    return autonomous() if _plain(field_type) else None


def time_dependent_for(field_type: type) -> Case | None:
    """The time-dependent case that a solver of this protocol can take, or None."""
    return time_dependent() if _plain(field_type) else None


def _plain(field_type: type) -> bool:
    return field_type is VectorField


def turn(y: Tensor) -> Tensor:
    """``(x, y)`` to ``(-y, x)``."""
    return torch.stack([-y[..., 1], y[..., 0]], -1)


class HenonHeiles:
    """Two coupled nonlinear oscillators, ``(q1, q2, p1, p2)``: what symplectic maps are tested on.

    Source: M. Henon, C. Heiles, "The applicability of the third integral of motion", The
        Astronomical Journal 69, 1964, pp. 73-79, doi:10.1086/109234.
    """

    def velocity(self, p: Tensor) -> Tensor:
        """``q' = p``."""
        return p

    def force(self, q: Tensor) -> Tensor:
        """``p'`` of the potential ``(x^2 + y^2) / 2 + x^2 y - y^3 / 3``."""
        x, y = q[..., 0], q[..., 1]
        return torch.stack([-x - 2 * x * y, -y - x * x + y * y], -1)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Both halves, coordinates then momenta."""
        q, p = y.chunk(2, -1)
        return torch.cat([self.velocity(p), self.force(q)], -1)
