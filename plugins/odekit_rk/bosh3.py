"""Bogacki-Shampine 3(2): a third-order pair with an error estimate for free.

Cheap per step and forgiving of rough fields; below a tolerance of about 1e-5 a fifth-order pair
such as ``tsit5`` needs fewer evaluations.

Source: P. Bogacki and L. F. Shampine, "A 3(2) pair of Runge-Kutta formulas", Applied
    Mathematics Letters 2(4), 1989, pp. 321-325, doi:10.1016/0893-9659(89)90079-7.
"""

from __future__ import annotations

from typing import final

from odekit import ButcherTableau
from odekit_rk.explicit import ExplicitRungeKutta


@final
class Bosh3(ExplicitRungeKutta):
    """Bogacki-Shampine 3(2): four stages, three evaluations per accepted step."""

    order = 3
    tableau = ButcherTableau(
        order=3,
        c=(0, 1 / 2, 3 / 4, 1),
        a=(
            (),
            (1 / 2,),
            (0, 3 / 4),
            (2 / 9, 1 / 3, 4 / 9),
        ),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        e=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),  # b minus the second-order 7/24, 1/4, 1/3, 1/8
    )
