"""Oscillators: springs, pendulums, and some that drive themselves.

Each second-order equation is written with a position and its velocity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from odekit_systems.system import Parameter, System


@final
class Harmonic(System):
    """A spring without friction: ``x(t) = x(0) cos(omega t) + v(0) / omega sin(omega t)``.

    Source: S. H. Strogatz, "Nonlinear Dynamics and Chaos", 2nd ed., 2018, section 5.1,
    doi:10.1201/9780429492563.

    Args:
        omega: angular frequency.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "v",
        "v": "-omega^2*x",
    }
    positive = ("omega",)
    start = (1.0, 0.0)
    others = ((-0.4, 0.9),)
    span = (0.0, 10.0)

    def __init__(self, *, omega: Parameter = 1.0) -> None:
        super().__init__(omega=omega)


@final
class DampedOscillator(System):
    """A spring with friction, per unit of mass.

    Source: S. H. Strogatz, "Nonlinear Dynamics and Chaos", 2nd ed., 2018, section 5.1,
    doi:10.1201/9780429492563.

    Args:
        stiffness: force per length.
        damping: force per velocity.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "v",
        "v": "-stiffness*x - damping*v",
    }
    positive = ("stiffness",)
    start = (1.2, 0.4)
    others = ((-0.5, 2.0),)
    span = (0.0, 10.0)

    def __init__(self, *, stiffness: Parameter = 4.5, damping: Parameter = 0.43) -> None:
        super().__init__(stiffness=stiffness, damping=damping)


@final
class Pendulum(System):
    """A pendulum without friction, at any angle; angles in radians.

    ``omega^2 / 2 - gravity / length cos(theta)`` is constant.

    Source: S. H. Strogatz, "Nonlinear Dynamics and Chaos", 2nd ed., 2018, section 6.7,
    doi:10.1201/9780429492563.

    Args:
        gravity: acceleration of free fall.
        length: from the pivot to the mass.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "theta": "omega",
        "omega": "-gravity/length*sin(theta)",
    }
    positive = ("gravity", "length")
    start = (2.0, 0.0)
    others = ((-1.0, 1.5),)
    span = (0.0, 10.0)

    def __init__(self, *, gravity: Parameter = 9.81, length: Parameter = 1.0) -> None:
        super().__init__(gravity=gravity, length=length)


@final
class DampedPendulum(System):
    """A pendulum with linear friction, at any angle; angles in radians.

    Source: S. H. Strogatz, "Nonlinear Dynamics and Chaos", 2nd ed., 2018, section 6.7,
    doi:10.1201/9780429492563.

    Args:
        gravity: acceleration of free fall.
        length: from the pivot to the mass.
        damping: rate at which friction takes velocity.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "theta": "omega",
        "omega": "-gravity/length*sin(theta) - damping*omega",
    }
    positive = ("gravity", "length")
    start = (2.5, 0.0)
    others = ((-1.5, 1.0),)
    span = (0.0, 15.0)

    def __init__(
        self, *, gravity: Parameter = 9.81, length: Parameter = 1.0, damping: Parameter = 0.25
    ) -> None:
        super().__init__(gravity=gravity, length=length, damping=damping)


@final
class Duffing(System):
    """A spring that hardens with the cube of the displacement, damped and perhaps driven.

    With the default ``alpha < 0`` there are two wells. Chaos: ``delta=0.3, amplitude=0.5,
    omega=1.2``.

    Source: G. Duffing, "Erzwungene Schwingungen bei veraenderlicher Eigenfrequenz und ihre
    technische Bedeutung", 1918; I. Kovacic, M. J. Brennan (editors), "The Duffing Equation",
    2011, doi:10.1002/9780470977859.

    Args:
        delta: damping.
        alpha: linear stiffness.
        beta: cubic stiffness.
        amplitude: of the driving force.
        omega: angular frequency of the driving force.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "v",
        "v": "amplitude*cos(omega*t) - delta*v - alpha*x - beta*x^3",
    }
    start = (-1.8, -1.8)
    others = ((2.0, 0.5),)
    span = (0.0, 20.0)

    def __init__(
        self,
        *,
        delta: Parameter = 0.18,
        alpha: Parameter = -1.0,
        beta: Parameter = 1.0,
        amplitude: Parameter = 0.0,
        omega: Parameter = 1.2,
    ) -> None:
        super().__init__(delta=delta, alpha=alpha, beta=beta, amplitude=amplitude, omega=omega)


@final
class VanDerPol(System):
    """An oscillator with negative friction at small amplitude; stiff for large ``mu``.

    Source: B. van der Pol, "On relaxation-oscillations", Philosophical Magazine 2(11), 1926,
    doi:10.1080/14786442608564127.

    Args:
        mu: strength of the friction.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "v",
        "v": "mu*(1 - x^2)*v - x",
    }
    start = (2.0, 0.0)
    others = ((0.3, 3.0),)
    span = (0.0, 20.0)

    def __init__(self, *, mu: Parameter = 1.0) -> None:
        super().__init__(mu=mu)


@final
class FitzHughNagumo(System):
    """A nerve cell in two variables: spikes of the voltage v and a slow recovery w.

    Source: R. FitzHugh, "Impulses and physiological states in theoretical models of nerve
    membrane", Biophysical Journal 1(6), 1961, doi:10.1016/S0006-3495(61)86902-6; J. Nagumo,
    S. Arimoto, S. Yoshizawa, "An active pulse transmission line simulating nerve axon",
    Proceedings of the IRE 50(10), 1962, doi:10.1109/JRPROC.1962.288235.

    Args:
        current: current into the cell.
        a: where the recovery rests.
        b: leak of the recovery.
        epsilon: how slow the recovery is.
        cubic: strength of the cubic that limits a spike.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "v": "v - cubic*v^3 - w + current",
        "w": "epsilon*(v + a - b*w)",
    }
    positive = ("epsilon",)
    start = (-1.0, 1.0)
    others = ((1.5, -0.5),)
    span = (0.0, 80.0)

    def __init__(
        self,
        *,
        current: Parameter = 0.5,
        a: Parameter = 0.7,
        b: Parameter = 0.8,
        epsilon: Parameter = 0.08,
        cubic: Parameter = 1 / 3,
    ) -> None:
        super().__init__(current=current, a=a, b=b, epsilon=epsilon, cubic=cubic)


@final
class Spiral(System):
    """The cubic spiral ``y' = A y^3`` with ``A = [[-damping, rotation], [-rotation, -damping]]``.

    Source: S. L. Brunton, J. L. Proctor, J. N. Kutz, "Discovering governing equations from data
    by sparse identification of nonlinear dynamical systems", PNAS 113(15), 2016,
    doi:10.1073/pnas.1517384113; a test problem of neural ODEs since R. T. Q. Chen et al.,
    "Neural Ordinary Differential Equations", 2018, arXiv:1806.07366.

    Args:
        damping: how fast it spirals in.
        rotation: how fast it turns.
    """

    formulas: ClassVar[Mapping[str, str]] = {
        "x": "-damping*x^3 + rotation*y^3",
        "y": "-rotation*x^3 - damping*y^3",
    }
    start = (2.0, 0.0)
    others = ((0.0, 1.5),)
    span = (0.0, 20.0)

    def __init__(self, *, damping: Parameter = 0.1, rotation: Parameter = 2.0) -> None:
        super().__init__(damping=damping, rotation=rotation)
