"""Solving equations from a start, inputs interpolated, a failure told as a status.

Shapes: start ``(d,)`` or ``(..., d)``, times ``(n,)``, inputs ``(n, m)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from odekit.errors import ProblemError

if TYPE_CHECKING:
    from odekit.solution import Solution
    from odekit.symbolic_field import SymbolicField


def simulate(
    field: SymbolicField,
    y0: Any,
    t: Any,
    u: Any = None,
    *,
    solver: Any,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Solution:
    """Solve a field of named states without raising for what happens on the way.

    Args:
        field: the right-hand side.
        y0: start, ``(d,)`` or ``(..., d)``; lists become float64.
        t: output times, ``(n,)``, monotone.
        u: inputs at ``t``, ``(n, m)``, interpolated linearly, or a function of time.
        solver: name or instance.
        rtol: relative tolerance.
        atol: absolute tolerance, in the unit of the states.
        max_steps: attempts allowed.

    Raises:
        ProblemError: ``y0`` or ``u`` does not fit to the field.
    """
    from odekit.solve import solve
    from odekit.symbolic_field import TermField

    start = y0.detach() if isinstance(y0, Tensor) else torch.as_tensor(np.array(y0, float))
    times = torch.as_tensor(t, dtype=torch.float64, device=start.device).detach()
    if start.dim() == 0 or start.shape[-1] != len(field.names):
        raise ProblemError(
            f"y0 must have {len(field.names)} components ({', '.join(field.names)}), got shape "
            f"{tuple(start.shape)}"
        )
    field = field.to(start.device)
    drive = _drive(field.inputs, times, u, start)

    right = field.fixed(start.dtype) if isinstance(field, TermField) else field

    def slope(s: Tensor, y: Tensor) -> Tensor:
        return right(s, y, drive)

    with torch.no_grad():
        return solve(
            slope,
            start,
            times,
            solver=solver,
            rtol=rtol,
            atol=atol,
            max_steps=max_steps,
            throw=False,
        )


def _drive(inputs: Sequence[str], t: Tensor, u: Any, y0: Tensor) -> Any:
    if u is None and inputs:
        raise ProblemError(
            f"u: the equations have the inputs {', '.join(inputs)}: give u of shape "
            f"({len(t)}, {len(inputs)}), or a function of time"
        )
    if u is None or callable(u):
        return u
    values = torch.as_tensor(u, dtype=y0.dtype, device=y0.device)
    values = values[:, None] if values.dim() == 1 else values
    if values.shape != (len(t), len(inputs)) or not bool(values.isfinite().all()):
        raise ProblemError(
            f"u must be finite and of shape ({len(t)}, {len(inputs)}), a row for each "
            f"time, got shape {tuple(values.shape)}"
        )
    return _interpolant(t, values)


def _interpolant(t: Tensor, values: Tensor) -> Callable[[Tensor], Tensor]:
    """The straight lines through ``(t, values)``: ``(...)`` to ``(..., m)``; ends go on."""
    order = torch.argsort(t)
    knots, rows = t[order], values[order]

    def at(s: Tensor) -> Tensor:
        i = torch.searchsorted(knots, s.detach().contiguous()).clamp(1, len(knots) - 1)
        share = ((s - knots[i - 1]) / (knots[i] - knots[i - 1])).to(rows.dtype)[..., None]
        return rows[i - 1] + share * (rows[i] - rows[i - 1])

    return at
