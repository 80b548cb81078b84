"""Chaotic flows in three dimensions.

Solutions part from each other exponentially, so two correct solvers agree only for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from odekit_systems.system import Parameter, System


@final
class Lorenz(System):
    """Convection in three modes: the butterfly.

    Source: E. N. Lorenz, "Deterministic nonperiodic flow", Journal of the Atmospheric Sciences
    20(2), 1963, doi:10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2.

    Args:
        sigma: Prandtl number.
        rho: Rayleigh number over its critical value.
        beta: geometric factor.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "sigma*(y - x)",
        "y": "x*(rho - z) - y",
        "z": "x*y - beta*z",
    }
    start = (-8.0, 8.0, 27.0)
    others = ((5.0, 10.0, 15.0),)
    span = (0.0, 8.0)

    def __init__(
        self, *, sigma: Parameter = 10.0, rho: Parameter = 28.0, beta: Parameter = 8 / 3
    ) -> None:
        super().__init__(sigma=sigma, rho=rho, beta=beta)


@final
class Rossler(System):
    """The simplest continuous chaos: one product, one folded band.

    Source: O. E. Roessler, "An equation for continuous chaos", Physics Letters A 57(5), 1976,
    doi:10.1016/0375-9601(76)90101-8.

    Args:
        a: growth of the spiral.
        b: feed of z.
        c: where the band folds.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "-y - z",
        "y": "x + a*y",
        "z": "b + z*(x - c)",
    }
    start = (2.3, 1.1, 0.8)
    others = ((-0.1, 4.1, -2.1),)
    span = (0.0, 40.0)

    def __init__(self, *, a: Parameter = 0.2, b: Parameter = 0.2, c: Parameter = 5.7) -> None:
        super().__init__(a=a, b=b, c=c)


@final
class Chen(System):
    """A relative of the Lorenz system with another kind of attractor.

    Source: G. Chen, T. Ueta, "Yet another chaotic attractor", International Journal of
    Bifurcation and Chaos 9(7), 1999, doi:10.1142/S0218127499001024.

    Args:
        a: rate at which x follows y.
        b: decay of z.
        c: growth of y.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "a*(y - x)",
        "y": "(c - a)*x - x*z + c*y",
        "z": "x*y - b*z",
    }
    start = (-3.0, 2.0, 20.0)
    others = ((5.0, 8.0, 15.0),)
    span = (0.0, 4.0)

    def __init__(self, *, a: Parameter = 35.0, b: Parameter = 3.0, c: Parameter = 28.0) -> None:
        super().__init__(a=a, b=b, c=c)
