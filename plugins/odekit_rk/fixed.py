"""Methods without an error estimate: euler, rk4 and the 3/8 rule.

They take the steps they are told to, which makes them right for convergence studies and for a
fixed budget of evaluations. For a given accuracy ``tsit5`` or ``dopri8`` are cheaper.

Source: W. Kutta, "Beitrag zur näherungsweisen Integration totaler Differentialgleichungen",
    Zeitschrift für Mathematik und Physik 46, 1901, pp. 435-453.
"""

from __future__ import annotations

from typing import final

from odekit import ButcherTableau
from odekit_rk.explicit import ExplicitRungeKutta


@final
class Euler(ExplicitRungeKutta):
    """Euler's method: one evaluation a step, first order."""

    order = 1
    tableau = ButcherTableau(order=1, c=(0,), a=((),), b=(1,))


@final
class RK4(ExplicitRungeKutta):
    """The classical fourth-order method: four evaluations a step."""

    order = 4
    tableau = ButcherTableau(
        order=4,
        c=(0, 1 / 2, 1 / 2, 1),
        a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    )


@final
class RK38(ExplicitRungeKutta):
    """Kutta's 3/8 rule: fourth order, a smaller error constant than the classical method."""

    order = 4
    tableau = ButcherTableau(
        order=4,
        c=(0, 1 / 3, 2 / 3, 1),
        a=((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)),
        b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    )
