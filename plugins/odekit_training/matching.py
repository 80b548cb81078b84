"""A first fit without any solve: the field's slopes against those of smoothed data.

Cheap and good enough as a start; on its own it inherits the smoother's bias, which is why shooting
follows.

Source: J. M. Varah, "A spline least squares method for numerical parameter estimation in
    differential equations", SIAM J. Sci. Stat. Comput. 3(1), 1982, doi:10.1137/0903003.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp, vmap

from odekit.training import GuessingField
from odekit_training.flat_field import FlatField
from odekit_training.least_squares import Decay, Linearised
from odekit_training.observations import Observations, smooth_columns

_POINTS = 300


def integrated_states(flat: FlatField, data: Observations) -> tuple[Tensor, bool]:
    """Integrated states at all rows, ``(N, D)``, and whether they follow from the data."""
    smooth = torch.cat([one.smooth for one in data.trajectories])
    if isinstance(flat.field, GuessingField):
        slope = torch.cat([one.slope for one in data.trajectories])
        return flat.field.guess(smooth, slope), True
    return flat.lift(flat.vector(), smooth), not flat.lifts


def match_slopes(flat: FlatField, w: Tensor, data: Observations, table: Tensor) -> Tensor:
    """Levenberg-Marquardt on slope residuals, from ``w (P,)`` to better parameters ``(P,)``.

    Args:
        flat: the field.
        w: where to start.
        data: the observations.
        table: ``(N, D)``, integrated states at all rows.
    """
    pieces, times, offset = [], [], 0
    for one in data.trajectories:
        rows = table[offset : offset + len(one.t)]
        pieces.append(smooth_columns(one.t, rows)[1])
        times.append(one.t)
        offset += len(one.t)
    slopes, t = torch.cat(pieces), torch.cat(times)
    kept = torch.linspace(0, len(t) - 1, min(len(t), _POINTS)).round().long()
    t, y, slopes = t[kept], table[kept], slopes[kept]
    unit = slopes.square().mean(0).sqrt()
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))

    def residual(w: Tensor) -> Tensor:
        return ((flat.slope(w, t, y) - slopes) / unit).nan_to_num(1e6).reshape(-1)

    def jacobian(w: Tensor) -> Tensor:
        def one(t: Tensor, y: Tensor) -> Tensor:
            pull = vjp(lambda w: flat.slope(w, t[None], y[None])[0] / unit, w)[1]
            (rows,) = vmap(pull)(torch.eye(len(unit), dtype=y.dtype))
            return rows  # type: ignore[no-any-return]

        return vmap(one)(t, y).flatten(0, 1)

    return _minimise(residual, jacobian, w, Decay(flat.shapes, scale=2e-2))


def _minimise(
    residual: Callable[[Tensor], Tensor],
    jacobian: Callable[[Tensor], Tensor],
    w: Tensor,
    decay: Decay,
) -> Tensor:
    damping, found = 1e-2, residual(w)
    cost = 0.5 * float(found @ found) + decay.cost(w)
    for _ in range(30):
        linear = Linearised(jacobian(w), found, decay.sizes)
        before = cost
        for _ in range(6):
            trial = w + linear.step(w, decay, damping)
            found = residual(trial)
            cost = 0.5 * float(found @ found) + decay.cost(trial)
            if cost < before:
                break
            damping *= 6
        else:
            return w
        w, damping = trial, max(damping / 5, 1e-8)
        if before - cost < 3e-3 * before:
            break
    return w
