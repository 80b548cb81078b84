"""Mechanics without friction: systems with an energy that stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from odekit_systems.system import Parameter, System


@final
class Kepler(System):
    """A planet around a fixed sun; the default start has eccentricity 0.6 and period 2 pi.

    ``(vx^2 + vy^2) / 2 - mu / r`` and ``x vy - y vx`` are constant.

    Source: E. Hairer, C. Lubich, G. Wanner, "Geometric Numerical Integration", 2nd ed., 2006,
    section I.2, doi:10.1007/3-540-30666-8.

    Args:
        mu: gravitational constant times the mass of the sun.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "vx",
        "y": "vy",
        "vx": "-mu*x/sqrt(x^2 + y^2)^3",
        "vy": "-mu*y/sqrt(x^2 + y^2)^3",
    }
    positive = ("mu",)
    start = (0.4, 0.0, 0.0, 2.0)
    others = ((0.6, 0.0, 0.0, 1.5),)
    span = (0.0, 20.0)

    def __init__(self, *, mu: Parameter = 1.0) -> None:
        super().__init__(mu=mu)


@final
class HenonHeiles(System):
    """A star in the plane of a galaxy: regular at low energy, chaotic near 1/6.

    ``(px^2 + py^2 + x^2 + y^2) / 2 + coupling (x^2 y - y^3 / 3)`` is constant.

    Source: M. Henon, C. Heiles, "The applicability of the third integral of motion: some
    numerical experiments", The Astronomical Journal 69, 1964, doi:10.1086/109234.

    Args:
        coupling: strength of the cubic terms.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "px",
        "y": "py",
        "px": "-x - 2*coupling*x*y",
        "py": "-y - coupling*(x^2 - y^2)",
    }
    start = (0.0, 0.1, 0.45, 0.1)
    others = ((0.0, -0.15, 0.3, 0.2),)
    span = (0.0, 50.0)

    def __init__(self, *, coupling: Parameter = 1.0) -> None:
        super().__init__(coupling=coupling)
