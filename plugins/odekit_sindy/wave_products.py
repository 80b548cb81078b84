"""Products of two waves, and of a state and a wave: ``sin(x)*cos(y)``, ``x*sin(y)``.

Mechanical systems are full of them: a bead on a rotating hoop has ``sin(x)*cos(x)``, coupled
rotors have ``sin(x - y) = sin(x)*cos(y) - cos(x)*sin(y)``. There is no ``cos(x)**2``, which is
``1 - sin(x)**2``; so with the constant, the waves and the states themselves these functions are
linearly independent and closed under differentiation.

Prefer the waves alone, `odekit_sindy.library.Library.trig`, where these are enough: ``d`` states
have ``4 d**2`` products and only ``2 d`` waves.

Shapes: ``d`` states. Units: an argument of a wave has none; a product has that of its state.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, final

Factor: TypeAlias = tuple[int, ...] | tuple[str, int]
"""Exponents of a state alone, or ``("sin", state)``, ``("cos", state)``."""

WAVES = ("sin", "cos")


@final
class WaveProduct(NamedTuple):
    """Identity of a product across libraries; ``second`` is a wave."""

    first: Factor
    second: Factor


def wave_products(dim: int, inputs: int) -> list[WaveProduct]:
    """The ``4 dim**2`` products for ``dim`` states: of two waves, then of a state and a wave."""
    waves: list[Factor] = [(name, j) for j in range(dim) for name in WAVES]
    pairs = itertools.combinations_with_replacement(waves, 2)
    out = [WaveProduct(a, b) for a, b in pairs if a != b or a[0] == "sin"]
    states = [tuple(int(k == i) for k in range(dim + inputs)) for i in range(dim)]
    return out + [WaveProduct(x, wave) for x in states for wave in waves]


def multiplied(a: Factor, wave: Factor, constant: Factor) -> dict[Factor | WaveProduct, float]:
    """A factor of a product, or one, times a wave as a combination of members.

    Args:
        a: the first factor.
        wave: a sine or cosine.
        constant: the exponents of one.
    """
    if a == constant:
        return {wave: 1.0}
    if a == wave and a[0] == "cos":
        return {constant: 1.0, WaveProduct(("sin", a[1]), ("sin", a[1])): -1.0}
    return {ordered(a, wave): 1.0}


def ordered(a: Factor, b: Factor) -> WaveProduct:
    """The product of two factors: a state first, then waves by state, the sine first."""
    first, second = sorted((a, b), key=_rank)
    return WaveProduct(first, second)


def _rank(factor: Factor) -> tuple[int, int]:
    name, state = factor[0], int(factor[-1])
    return (state, WAVES.index(name)) if isinstance(name, str) else (-1, 0)


def product_of(powers: Mapping[Any, Any], states: Sequence[str], inputs: int) -> WaveProduct | None:
    """The product that a sympy expression is, or None if it is none of these.

    Args:
        powers: exponents of its factors.
        states: names of the states.
        inputs: number of inputs.
    """
    factors: list[Factor] = []
    for base, exponent in powers.items():
        factor = _factor(base, states, inputs)
        if factor is None or exponent not in (1, 2):
            return None
        factors += [factor] * int(exponent)
    if len(factors) != 2:
        return None
    product = ordered(factors[0], factors[1])
    a, b = product
    if not isinstance(b[0], str) or (a == b and a[0] == "cos"):
        return None
    return product


def _factor(base: Any, states: Sequence[str], inputs: int) -> Factor | None:
    name = base.func.__name__
    if name in WAVES and base.args[0].is_Symbol and str(base.args[0]) in states:
        return name, list(states).index(str(base.args[0]))
    if base.is_Symbol and str(base) in states:
        return tuple(int(name == str(base)) for name in states) + (0,) * inputs
    return None
