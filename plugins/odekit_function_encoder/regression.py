"""Coefficients from data: linear rows, and the Gaussian posterior that they give.

The change over an interval is linear in the coefficients,
``y(b) - y(a) = integral of mean dt + sum_k c_k integral of g_k dt``, with the integrals taken along
the smoothed path (`integral_rows`) or along the solved intervals, linearised (`solved_rows`).

Shapes: ``R`` rows, ``K`` coefficients.
Units: rows are slopes in units of the slopes' scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from odekit import ProblemError, TimeSeries
from odekit_function_encoder.paths import Path

if TYPE_CHECKING:
    from odekit_function_encoder.encoder import FunctionEncoder

_SUBSTEPS = 4


class Rows(NamedTuple):
    """``matrix (R, K)`` times coefficients should give ``target (R,)``; ``weight (R,)``."""

    matrix: Tensor
    target: Tensor
    weight: Tensor


def integral_rows(encoder: FunctionEncoder, paths: Sequence[Path]) -> Rows:
    """One row per interval and state, integrals by quadrature along the smoothed path."""
    nodes = torch.cat([path.nodes for path in paths])
    count, points, dim = nodes.shape
    mean, basis = encoder.parts(nodes.reshape(-1, dim))
    mean = mean.reshape(count, points, dim).mean(1)
    basis = basis.reshape(-1, count, points, dim).mean(2)
    slope = torch.cat([path.y.diff(dim=0) / path.h[:, None] for path in paths])
    return _rows(encoder, basis, slope - mean, _weight(paths))


def slope_rows(encoder: FunctionEncoder, series: Sequence[TimeSeries], slopes: Any) -> Rows:
    """One row per datum and state, from measured slopes; rows with NaN are left out.

    Raises:
        ProblemError: slopes that do not fit to the series.
    """
    tables = list(slopes) if isinstance(slopes, list | tuple) else [slopes]
    if len(tables) != len(series):
        raise ProblemError(f"slopes must be one table per series: {len(series)}, got {len(tables)}")
    states, values = [], []
    for one, table in zip(series, tables, strict=True):
        slope = torch.as_tensor(table, dtype=torch.float64)
        if slope.shape != one.y.shape:
            raise ProblemError(
                f"slopes must have the shape of the states, {tuple(one.y.shape)}, got "
                f"{tuple(slope.shape)}"
            )
        kept = ~(one.y.isnan().any(-1) | slope.isnan().any(-1))
        states.append(one.y.double()[kept])
        values.append(slope[kept])
    y, slope = torch.cat(states), torch.cat(values)
    if not len(y):
        raise ProblemError("no row has all states and all slopes: nothing can be adapted")
    mean, basis = encoder.parts(y)
    return _rows(encoder, basis, slope - mean, torch.ones(len(y), dtype=y.dtype))


def solved_rows(encoder: FunctionEncoder, paths: Sequence[Path], coefficients: Tensor) -> Rows:
    """One row per interval and state, linearised around the solve with ``coefficients``."""
    start, goal = torch.cat([p.y[:-1] for p in paths]), torch.cat([p.y[1:] for p in paths])
    h = torch.cat([path.h for path in paths])
    end, change = _sensitive(encoder, start, h, coefficients)
    # target: what the coefficients must give, so that the linearised solve meets the data
    gap = (goal - end + torch.einsum("nkd,k->nd", change, coefficients)) / h[:, None]
    return _rows(encoder, change.transpose(0, 1) / h[:, None], gap, _weight(paths))


def _sensitive(
    encoder: FunctionEncoder, y: Tensor, h: Tensor, coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    """Ends ``(n, d)`` of the intervals and their derivatives ``(n, K, d)``, by RK4."""
    dt = (h / _SUBSTEPS)[:, None]
    z = y.new_zeros(len(y), encoder.count, encoder.dim)
    for _ in range(_SUBSTEPS):
        ky: list[Tensor] = []
        kz: list[Tensor] = []
        for node in (0.0, 0.5, 0.5, 1.0):
            at = (y + node * dt * ky[-1], z + node * dt[..., None] * kz[-1]) if ky else (y, z)
            value, basis, jacobian = encoder.linearised(at[0], coefficients)
            ky.append(value)
            kz.append(torch.baddbmm(basis.transpose(0, 1), at[1], jacobian))
        y = y + dt / 6 * (ky[0] + 2 * ky[1] + 2 * ky[2] + ky[3])
        z = z + dt[..., None] / 6 * (kz[0] + 2 * kz[1] + 2 * kz[2] + kz[3])
    return y, z


def _weight(paths: Sequence[Path]) -> Tensor:
    """An interval counts by its length, relative to its own series, ``(n,)``."""
    return torch.cat([(path.h / path.h.mean()).sqrt() for path in paths])


def _rows(encoder: FunctionEncoder, basis: Tensor, target: Tensor, weight: Tensor) -> Rows:
    """``(K, n, d)``, ``(n, d)`` and ``(n,)`` as rows, in units of the slopes' scale."""
    rate = encoder.fields.rate.double()
    matrix = (basis / rate).permute(1, 2, 0).reshape(-1, len(basis))
    return Rows(matrix, (target / rate).reshape(-1), weight[:, None].expand_as(target).reshape(-1))


def posterior(
    rows: Rows, prior: Tensor, spread: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Mean ``(K,)``, covariance ``(K, K)`` and misfit of the coefficients.

    The noise of the rows is estimated too, and never taken to be less than in training.
    """
    good = rows.target.isfinite() & rows.matrix.isfinite().all(-1)
    matrix, target = (rows.matrix * rows.weight[:, None])[good], (rows.target * rows.weight)[good]
    precision = torch.linalg.inv(spread)
    variance = noise.square()
    for _ in range(5):
        system = matrix.T @ matrix / variance + precision
        mean = torch.linalg.solve(system, matrix.T @ target / variance + precision @ prior)
        residual = matrix @ mean - target
        taken = float(torch.trace(torch.linalg.solve(system, matrix.T @ matrix / variance)))
        free = max(len(target) - taken, 0.25 * len(target))
        variance = torch.maximum(residual.square().sum() / free, noise.square())
    covariance = torch.linalg.inv(matrix.T @ matrix / variance + precision)
    return mean, (covariance + covariance.T) / 2, float(residual.square().mean().sqrt())
