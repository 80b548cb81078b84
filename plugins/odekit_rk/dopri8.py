"""Dormand-Prince 8(5,3), Hairer and Wanner's DOP853: for tolerances below about 1e-9.

Twelve evaluations a step, and few steps; for rough answers ``tsit5`` is cheaper. Dense output of
seventh order takes three more evaluations, on the steps that are looked into and on no other.

The error of a step combines a fifth-order estimate with a third-order one. DOP853 does so with
the norms of the two, ``E5^2 / sqrt(E5^2 + (0.1 E3)^2)``; here each entry of the state is combined
by itself, ``e5 |e5| / sqrt(e5^2 + (0.1 e3)^2)``, and the controller takes the norm. This shrinks
with the same power of the step, 8, does not depend on the units of any entry, and keeps the
samples of a batch apart. For one entry it is DOP853's norm; for several it is at least that,
since ``a^2 / (a + b)`` is convex, so that steps are never longer than DOP853's on the same
evidence.

Source: E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd
    ed., 1993, sections II.5 and II.10, doi:10.1007/978-3-540-78862-1; the method goes back to
    P. J. Prince and J. R. Dormand, "High order embedded Runge-Kutta formulae", Journal of
    Computational and Applied Mathematics 7(1), 1981, pp. 67-75,
    doi:10.1016/0771-050X(81)90010-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from odekit import ButcherTableau, FlatField, Step, Trait
from odekit_rk import dop853
from odekit_rk.explicit import ExplicitRungeKutta, evaluate_stages, scaled_sum


@final
class Dopri8(ExplicitRungeKutta):
    """Dormand-Prince 8(5,3): thirteen stages, twelve evaluations per accepted step."""

    order = 8
    dense_order = 7
    traits = Trait.ERROR_ESTIMATE | Trait.FSAL | Trait.ONE_STEP
    tableau = ButcherTableau(
        order=8,
        c=dop853.NODES[:13],
        a=dop853.STAGES[:13],
        b=(*dop853.WEIGHTS, 0),
    )
    extended: ClassVar[ButcherTableau] = ButcherTableau(
        order=8,
        c=dop853.NODES,
        a=dop853.STAGES,
        b=(*dop853.WEIGHTS, 0, 0, 0, 0),
        dense=dop853.expand_powers(dop853.blend_slopes()),
        dense_order=7,
    )
    kept = tuple(stage for stage in dop853.USED if stage < 13)
    blend = dop853.blend_slopes()
    basis = ("x", "1 - x", "x", "1 - x", "x", "1 - x", "x")

    def estimate(self, h: Any, k: Sequence[Tensor]) -> Tensor:
        """The two estimates combined entry by entry; zero where the fifth-order one is."""
        fifth = scaled_sum(h, dop853.FIFTH, k)
        third = scaled_sum(h, dop853.THIRD, k)
        size = fifth.abs()
        both = torch.hypot(size, 0.1 * third.abs())
        return fifth * (size / both.clamp(min=torch.finfo(both.dtype).tiny))

    def complete(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, step: Step
    ) -> tuple[Tensor, ...]:
        """The slopes that the step kept and those of stages 14 to 16; three evaluations."""
        # Stages 2 to 5 have no weight here; any slope may stand in for them.
        kept = dict(zip(self.kept, step.dense, strict=True))
        k = [kept.get(stage, step.dense[0]) for stage in range(13)]
        k, _, _ = evaluate_stages(self.extended, field, t, h, y, k)
        return tuple(k[stage] for stage in dop853.USED)
