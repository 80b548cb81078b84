"""Whether equations are the true ones, by what their terms contribute.

A term contributes the size of its coefficient times the root mean square of its function over
the clean points of the training trajectories. It counts when that is at least a thousandth of
the largest contribution to its equation; true terms count from 1e-9 on. Equations are *exact*
when in every equation the terms that count are the true ones. Terms are compared after
multiplying out, so the form in which equations are written does not matter.

Shapes: points are ``(n, d)``.
Units: coefficients in those of the system.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from odekit import Equations

COUNTS = 1e-3
"""Share of the largest contribution from which a found term counts."""

TRUE_COUNTS = 1e-9
"""The same for a true term."""

DEGREE = 3
"""Highest total degree of the polynomials that count as representable."""

Terms = dict[tuple[str, Any], float]
"""From the state and the function, a sympy expression, to the coefficient."""


@dataclass(frozen=True)
class Comparison:
    """Found equations beside the true ones.

    Attributes:
        exact: whether the structure is the true one.
        missing: true terms that do not count in what was found, as ``"x: x*y"``.
        extra: found terms that count and are not true.
        error: 2-norm of the difference of all coefficients over that of the true ones.
    """

    exact: bool
    missing: list[str]
    extra: list[str]
    error: float


def decompose(right: Mapping[str, Any]) -> Terms:
    """Right-hand sides, multiplied out, as coefficients of functions; zeros left out.

    Args:
        right: from each state to the sympy expression of its derivative.
    """
    import sympy

    found: Terms = {}
    for name, expression in right.items():
        for function, value in sympy.expand(expression).as_coefficients_dict().items():
            if float(value):
                found[name, function] = float(value)
    return found


def representable(terms: Terms, states: Sequence[str]) -> tuple[bool, bool]:
    """Whether terms are polynomials up to degree 3, and whether those and single waves.

    Returns:
        The two answers; a wave is sine or cosine of one state.
    """
    import sympy

    symbols = [sympy.Symbol(name) for name in states]
    waves = {wave(symbol) for symbol in symbols for wave in (sympy.sin, sympy.cos)}

    def monomial(function: Any) -> bool:
        return bool(
            function.free_symbols <= set(symbols)
            and function.is_polynomial(*symbols)
            and sympy.Poly(function, *symbols).total_degree() <= DEGREE
        )

    functions = [function for _, function in terms]
    polynomial = all(monomial(function) for function in functions)
    return polynomial, polynomial or all(f in waves or monomial(f) for f in functions)


def contributions(
    terms: Terms, states: Sequence[str], times: np.ndarray, points: np.ndarray
) -> Terms:
    """What each term contributes, in the unit of its derivative.

    Args:
        terms: coefficients of functions.
        states: their names, in the order of the columns of ``points``.
        times: ``(n,)``.
        points: ``(n, d)``.
    """
    import sympy

    symbols = [sympy.Symbol(name) for name in ("t", *states)]
    sizes: dict[Any, float] = {}
    for _, function in terms:
        if function not in sizes:
            with np.errstate(all="ignore"):
                values = sympy.lambdify(symbols, function, modules="numpy")(times, *points.T)
                size = float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=np.float64)))))
            sizes[function] = size if math.isfinite(size) else math.inf
    return {key: abs(value) * sizes[key[1]] for key, value in terms.items()}


def counted(sizes: Terms, share: float) -> set[tuple[str, Any]]:
    """The terms of at least this share of the largest contribution to their equation."""
    largest: dict[str, float] = {}
    for (name, _), size in sizes.items():
        largest[name] = max(largest.get(name, 0.0), size)
    return {key for key, size in sizes.items() if size >= share * largest[key[0]]}


def compare(
    true: Terms, found: Terms, states: Sequence[str], times: np.ndarray, points: np.ndarray
) -> Comparison:
    """Found terms beside true ones, on the clean points of the training trajectories.

    Args:
        true: the system's.
        found: the method's.
        states: the names, in the order of the columns of ``points``.
        times: ``(n,)``.
        points: ``(n, d)``.
    """
    wanted = counted(contributions(true, states, times, points), TRUE_COUNTS)
    seen = counted(contributions(found, states, times, points), COUNTS)
    # A set has another order in every process, on which a plain sum's last digit would depend.
    wrong = math.fsum((true.get(key, 0.0) - found.get(key, 0.0)) ** 2 for key in {*true, *found})
    size = math.fsum(value**2 for value in true.values())
    return Comparison(
        exact=wanted == seen,
        missing=_listed(wanted - seen),
        extra=_listed(seen - wanted),
        error=math.sqrt(wrong / size) if size else math.inf,
    )


def _listed(keys: set[tuple[str, Any]]) -> list[str]:
    return sorted(f"{name}: {function}" for name, function in keys)


def covered(true: Terms, equations: Equations) -> tuple[int, int]:
    """How many 95 % intervals of true terms hold the true coefficient, and how many there are.

    Terms without a standard error have no interval.
    """
    import sympy

    from odekit.formulas import parse

    known = [*equations.names, equations.time, *equations.inputs]
    inside = count = 0
    for row in equations.coefficients.itertuples():
        function = sympy.expand(parse(str(row.term), known))
        factor, function = function.as_coeff_Mul()
        value = true.get((str(row.equation), function))
        low, high = float(row.low) * float(factor), float(row.high) * float(factor)
        if value is not None and math.isfinite(low):
            inside += min(low, high) <= value <= max(low, high)
            count += 1
    return inside, count
