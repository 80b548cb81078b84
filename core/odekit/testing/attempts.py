"""Single steps for the checks: the fields they are tried on, and the step with its dense output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit.field import VectorField
from odekit.solver import Segment, Solver, Step, Trait
from odekit.testing.cases import DOUBLE
from odekit.testing.conformance import NotApplicable


def unrestricted(solver: Any) -> Solver:
    """The solver itself, if it takes any field."""
    if type(solver).field_type is not VectorField:
        raise NotApplicable(f"asks for a {type(solver).field_type.__name__}")
    return solver  # type: ignore[no-any-return]


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a state's real part."""
    return dtype.to_real() if dtype.is_complex else dtype


def rounding(solver: Solver) -> float:
    """How equal two computations of one step must be; iterations stop at a tolerance."""
    return 1e-8 if Trait.IMPLICIT in solver.traits else 1e-12


def elementwise(t: Tensor, y: Tensor) -> Tensor:
    """A field whose entries do not meet; analytic, so complex states make sense."""
    return y * (t.to(real_dtype(y.dtype)).cos() - 0.3 * y)


def coupled(t: Tensor, y: Tensor) -> Tensor:
    """A nonlinear field on ``(..., 2)`` that depends on time."""
    x, v = y[..., :1], y[..., 1:]
    return torch.cat([v, (1 - x * x) * v - x + 0.5 * t.cos()], -1)


def four_lanes() -> tuple[Tensor, Tensor, Tensor]:
    """Times ``(4, 1)``, lengths ``(4, 1)`` and states ``(4, 2)``."""
    t = torch.tensor([[0.0], [0.7], [1.9], [-0.4]], dtype=DOUBLE)
    h = torch.tensor([[0.1], [0.03], [0.17], [0.06]], dtype=DOUBLE)
    y = torch.tensor([[0.4, 0.9], [-1.1, 0.2], [0.7, -0.6], [1.5, 0.3]], dtype=DOUBLE)
    return t, h, y


def attempt(solver: Solver, field: Any, t: Tensor, h: Any, y: Tensor) -> tuple[Step, Tensor]:
    """A step with its own memory, and dense output at a third of it."""
    step = solver.step(field, t, h, y, solver.init(field, t, y))
    dense = solver.complete(field, t, h, y, step)
    length = h.to(DOUBLE) if isinstance(h, Tensor) else torch.tensor(h, dtype=DOUBLE)
    inside = solver.interpolate(Segment(t, length, y, step.y, dense), t + length / 3)
    return step, inside
