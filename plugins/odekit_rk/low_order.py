"""Second-order methods with Euler's formula as their error estimate.

Cheap per step and expensive per digit: for a tolerance below about 1e-3 ``bosh3`` or ``tsit5``
need fewer evaluations.

Source: K. Heun, "Neue Methoden zur approximativen Integration der Differentialgleichungen einer
    unabhängigen Veränderlichen", Zeitschrift für Mathematik und Physik 45, 1900, pp. 23-38;
    A. Ralston, "Runge-Kutta methods with minimum error bounds", Mathematics of Computation 16,
    1962, pp. 431-437, doi:10.1090/S0025-5718-1962-0150954-0.
"""

from __future__ import annotations

from typing import final

from odekit import ButcherTableau
from odekit_rk.explicit import ExplicitRungeKutta


@final
class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule."""

    order = 2
    tableau = ButcherTableau(order=2, c=(0, 1 / 2), a=((), (1 / 2,)), b=(0, 1), e=(-1, 1))


@final
class Heun(ExplicitRungeKutta):
    """Heun's method, the explicit trapezoidal rule."""

    order = 2
    tableau = ButcherTableau(order=2, c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2), e=(-1 / 2, 1 / 2))


@final
class Ralston(ExplicitRungeKutta):
    """Ralston's method: the second-order method with the smallest error bound."""

    order = 2
    tableau = ButcherTableau(
        order=2, c=(0, 2 / 3), a=((), (2 / 3,)), b=(1 / 4, 3 / 4), e=(-3 / 4, 3 / 4)
    )
