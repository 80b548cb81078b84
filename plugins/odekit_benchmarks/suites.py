"""Which systems a benchmark of discovery runs, and what it observes of each.

A suite is a list of cases. ``shown`` are fifteen textbook systems, sampled until their dynamics
show, with additive noise; ``odebench`` are the 63 systems of ODEBench as that benchmark observes
them, with multiplicative noise. Every other named system becomes a case with the protocol of
``shown``, 150 points of its span, its default parameters and its first two starts.

Source of ``odebench``: S. d'Ascoli, S. Becker, A. Mathis, P. Schwaller, N. Kilbertus, "ODEFormer:
    Symbolic Regression of Dynamical Systems with Transformers", 2023, arXiv:2310.05573.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import odekit
from odekit import ProblemError, UnknownNameError

SUITES = ("shown", "odebench")
POINTS = 150
Start = tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """One system of a suite and how it is observed.

    Attributes:
        name: name of the system in the registry.
        options: its parameters, where they are not the default ones.
        points: equidistant times of the span before any are dropped.
        starts: the one to train on and, where there is one, the other.
        noise: ``"additive"`` or ``"multiplicative"``.
        seed: what the generator's seed is counted from, see `odekit_benchmarks.protocol`.
        rtol: relative tolerance of the truth.
        atol: absolute tolerance of the truth.
    """

    name: str
    options: tuple[tuple[str, float], ...] = ()
    points: int = POINTS
    starts: tuple[Start, ...] = ()
    noise: str = "additive"
    seed: int = 0
    rtol: float = 1e-10
    atol: float = 1e-12

    def system(self) -> Any:
        """The system, built with its options."""
        return odekit.create("system", self.name, **dict(self.options))


SHOWN = (
    Case("logistic", (("rate", 0.8), ("capacity", 0.8 / 0.1067)), starts=((0.3,), (12.0,))),
    Case("allee", starts=((1.35,), (6.0,))),
    Case("damped_oscillator", starts=((1.2, 0.4), (-0.5, 2.0))),
    Case("lotka_volterra", starts=((5.0, 2.0), (2.0, 3.0))),
    Case("van_der_pol", (("mu", 1.2),), starts=((2.2, 0.0), (0.3, 3.0))),
    Case("fitzhugh_nagumo", (("cubic", 0.333333),), starts=((-1.0, 1.0), (1.5, -0.5))),
    Case("damped_pendulum", (("gravity", 2.0),), starts=((2.5, 0.0), (-1.5, 1.0))),
    Case("lorenz", (("beta", 2.6666667),), 400, ((-8.0, 8.0, 27.0), (5.0, 10.0, 15.0))),
    Case("rossler", (), 400, ((2.3, 1.1, 0.8), (-0.1, 4.1, -2.1))),
    Case("sir", starts=((0.98, 0.02), (0.8, 0.1))),
    Case("selkov", starts=((0.7, 1.4), (1.2, 0.8))),
    Case("duffing", starts=((-1.8, -1.8), (2.0, 0.5))),
    Case("spiral", starts=((2.0, 0.0), (0.0, 1.5))),
    Case("brusselator", starts=((0.7, 1.5), (2.1, 1.3))),
    Case("may_leonard", (), 200, ((0.6, 0.1, 0.05), (0.1, 0.5, 0.3))),
)
"""Textbook systems, with the parameters and starts that the figures in the literature of this
package are about; spans are those of the systems."""


def cases(names: Sequence[str]) -> list[Case]:
    """The cases of suites and systems, in the order given, none twice.

    Args:
        names: ``"shown"``, ``"odebench"``, or names of systems. A system of the suite ``shown``
            is taken as it is there.

    Raises:
        ProblemError: a name that is neither a suite nor a system, or no name.
    """
    found: dict[str, Case] = {}
    for name in names:
        for case in _named(name):
            found.setdefault(case.name, case)
    if not found:
        raise ProblemError("suite: there is no system: write shown, odebench or names of systems")
    return list(found.values())


def _named(name: str) -> list[Case]:
    if name == "shown":
        return list(SHOWN)
    if name == "odebench":
        numbers = [_number(entry.name) for entry in odekit.components("system")]
        return [_odebench(number) for number in sorted(n for n in numbers if n is not None)]
    shown = {case.name: case for case in SHOWN}
    number = _number(name)
    if name in shown:
        return [shown[name]]
    return [_single(name) if number is None else _odebench(number)]


def _number(name: str) -> int | None:
    match = re.fullmatch(r"odebench_(\d+)", name)
    return int(match[1]) if match else None


def _odebench(number: int) -> Case:
    plain = _single(f"odebench_{number}")
    return Case(
        plain.name,
        starts=plain.starts,
        noise="multiplicative",
        seed=1000 * number,
        rtol=1e-9,
        atol=1e-11,
    )


def _single(name: str) -> Case:
    try:
        system = odekit.create("system", name)
    except UnknownNameError as error:
        raise ProblemError(f"{error}; the suites are {' and '.join(SUITES)}") from None
    starts = getattr(system, "starts", (tuple(system.y0.tolist()),))
    return Case(name, starts=tuple(tuple(map(float, start)) for start in starts[:2]))
