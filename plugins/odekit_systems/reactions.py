"""Chemical reactions: oscillating, saturating, and one that is stiff."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from odekit_systems.system import Parameter, System


@final
class Brusselator(System):
    """An autocatalytic reaction that oscillates for ``b > 1 + a^2``.

    Source: I. Prigogine, R. Lefever, "Symmetry breaking instabilities in dissipative systems.
    II", The Journal of Chemical Physics 48(4), 1968, doi:10.1063/1.1668896.

    Args:
        a: feed of x.
        b: feed of the reaction from x to y.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "a - (b + 1)*x + x^2*y",
        "y": "b*x - x^2*y",
    }
    positive = ("a", "b")
    start = (0.7, 1.5)
    others = ((2.1, 1.3),)
    span = (0.0, 20.0)

    def __init__(self, *, a: Parameter = 1.0, b: Parameter = 3.0) -> None:
        super().__init__(a=a, b=b)


@final
class Selkov(System):
    """Glycolysis in two variables, x for ADP and y for the sugar phosphate.

    Source: E. E. Sel'kov, "Self-oscillations in glycolysis. 1. A simple kinetic model", European
    Journal of Biochemistry 4(1), 1968, doi:10.1111/j.1432-1033.1968.tb00175.x, in the form of
    S. H. Strogatz, "Nonlinear Dynamics and Chaos", 2nd ed., 2018, section 7.3,
    doi:10.1201/9780429492563.

    Args:
        a: rate of the reaction without catalysis.
        b: feed of y.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "-x + a*y + x^2*y",
        "y": "b - a*y - x^2*y",
    }
    positive = ("a", "b")
    start = (0.7, 1.4)
    others = ((1.2, 0.8),)
    span = (0.0, 30.0)

    def __init__(self, *, a: Parameter = 0.08, b: Parameter = 0.6) -> None:
        super().__init__(a=a, b=b)


@final
class MichaelisMenten(System):
    """A substrate that is fed and broken down by an enzyme.

    Source: L. Michaelis, M. L. Menten, "Die Kinetik der Invertinwirkung", Biochemische
    Zeitschrift 49, 1913; translated in K. A. Johnson, R. S. Goody, "The original Michaelis
    constant", Biochemistry 50(39), 2011, doi:10.1021/bi201284u. The constant feed is added here.

    Args:
        feed: substrate that flows in.
        rate: the fastest the enzyme can work.
        constant: the substrate at half that rate.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "s": "feed - rate*s/(constant + s)",
    }
    positive = ("rate", "constant")
    start = (2.5,)
    others = ((0.05,),)
    span = (0.0, 8.0)

    def __init__(
        self, *, feed: Parameter = 0.6, rate: Parameter = 1.5, constant: Parameter = 0.3
    ) -> None:
        super().__init__(feed=feed, rate=rate, constant=constant)


@final
class Robertson(System):
    """Three reactions at rates that differ by nine powers of ten: the standard stiff problem.

    Explicit solvers need very many steps. ``x + y + z`` is constant.

    Source: H. H. Robertson, "The solution of a set of reaction rate equations", in J. Walsh
    (editor), "Numerical Analysis: An Introduction", 1966, pp. 178-182; E. Hairer, G. Wanner,
    "Solving Ordinary Differential Equations II", 2nd ed., 1996, section IV.1,
    doi:10.1007/978-3-642-05221-7.

    Args:
        k1: slow reaction.
        k2: very fast reaction.
        k3: fast reaction.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "-k1*x + k3*y*z",
        "y": "k1*x - k2*y^2 - k3*y*z",
        "z": "k2*y^2",
    }
    positive = ("k1", "k2", "k3")
    start = (1.0, 0.0, 0.0)
    others = ((0.6, 0.0, 0.4),)
    span = (0.0, 40.0)
    method = "LSODA"

    def __init__(
        self, *, k1: Parameter = 0.04, k2: Parameter = 30000000.0, k3: Parameter = 10000.0
    ) -> None:
        super().__init__(k1=k1, k2=k2, k3=k3)
