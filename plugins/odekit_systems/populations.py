"""Populations: predator and prey, competition, and growth with limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from odekit_systems.system import Parameter, System


@final
class LotkaVolterra(System):
    """Predator and prey: closed orbits around an equilibrium.

    ``delta x - gamma log x + beta y - alpha log y``, with prey x and predator y, is constant.

    Source: A. J. Lotka, "Undamped oscillations derived from the law of mass action", Journal of
    the American Chemical Society 42(8), 1920, doi:10.1021/ja01453a010; V. Volterra, "Fluctuations
    in the abundance of a species considered mathematically", Nature 118, 1926,
    doi:10.1038/118558a0.

    Args:
        alpha: birth rate of the prey.
        beta: prey lost per predator.
        gamma: death rate of the predators.
        delta: predators born per prey.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "prey": "alpha*prey - beta*prey*predator",
        "predator": "-gamma*predator + delta*prey*predator",
    }
    positive = ("alpha", "beta", "gamma", "delta")
    start = (5.0, 2.0)
    others = ((2.0, 3.0),)
    span = (0.0, 10.0)

    def __init__(
        self,
        *,
        alpha: Parameter = 1.5,
        beta: Parameter = 1.0,
        gamma: Parameter = 3.0,
        delta: Parameter = 1.0,
    ) -> None:
        super().__init__(alpha=alpha, beta=beta, gamma=gamma, delta=delta)


@final
class Logistic(System):
    """Growth up to a capacity; ``x(t) = K / (1 + (K / x(0) - 1) exp(-r t))``.

    Source: P.-F. Verhulst, "Notice sur la loi que la population suit dans son accroissement",
    Correspondance mathematique et physique 10, 1838, pp. 113-121.

    Args:
        rate: growth rate r of a small population.
        capacity: the population K that can live.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "rate*x*(1 - x/capacity)",
    }
    positive = ("rate", "capacity")
    start = (0.3,)
    others = ((12.0,),)
    span = (0.0, 10.0)

    def __init__(self, *, rate: Parameter = 0.8, capacity: Parameter = 7.5) -> None:
        super().__init__(rate=rate, capacity=capacity)


@final
class Allee(System):
    """Growth that needs a crowd: below a threshold the population dies out.

    Source: W. C. Allee, "Animal Aggregations", 1931, for the effect; the cubic form as in
    F. Courchamp, T. Clutton-Brock, B. Grenfell, "Inverse density dependence and the Allee
    effect", Trends in Ecology and Evolution 14(10), 1999, doi:10.1016/S0169-5347(99)01683-3.

    Args:
        rate: death rate of a very small population.
        threshold: the population below which it dies out.
        capacity: the population that can live.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "rate*x*(x/threshold - 1)*(1 - x/capacity)",
    }
    positive = ("rate", "threshold", "capacity")
    start = (1.35,)
    others = ((6.0,),)
    span = (0.0, 10.0)

    def __init__(
        self, *, rate: Parameter = 0.5, threshold: Parameter = 1.0, capacity: Parameter = 5.0
    ) -> None:
        super().__init__(rate=rate, threshold=threshold, capacity=capacity)


@final
class MayLeonard(System):
    """Three species that beat each other in a cycle; lingers ever longer near each of them.

    Source: R. M. May, W. J. Leonard, "Nonlinear aspects of competition between three species",
    SIAM Journal on Applied Mathematics 29(2), 1975, doi:10.1137/0129022.

    Args:
        alpha: pressure of the next species of the cycle.
        beta: pressure of the one after it.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "x*(1 - x - alpha*y - beta*z)",
        "y": "y*(1 - beta*x - y - alpha*z)",
        "z": "z*(1 - alpha*x - beta*y - z)",
    }
    positive = ("alpha", "beta")
    start = (0.6, 0.1, 0.05)
    others = ((0.1, 0.5, 0.3),)
    span = (0.0, 40.0)

    def __init__(self, *, alpha: Parameter = 0.8, beta: Parameter = 1.3) -> None:
        super().__init__(alpha=alpha, beta=beta)


@final
class SIR(System):
    """An epidemic, in fractions of the population: susceptible s and infected i.

    The rest, ``1 - s - i``, has recovered and does not act back, so it is left out.

    Source: W. O. Kermack, A. G. McKendrick, "A contribution to the mathematical theory of
    epidemics", Proceedings of the Royal Society A 115(772), 1927, doi:10.1098/rspa.1927.0118.

    Args:
        beta: infections per contact and time.
        gamma: rate of recovery.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "s": "-beta*s*i",
        "i": "beta*s*i - gamma*i",
    }
    positive = ("beta", "gamma")
    start = (0.98, 0.02)
    others = ((0.8, 0.1),)
    span = (0.0, 25.0)

    def __init__(self, *, beta: Parameter = 0.9, gamma: Parameter = 0.3) -> None:
        super().__init__(beta=beta, gamma=gamma)
