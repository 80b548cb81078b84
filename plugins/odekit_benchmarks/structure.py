"""Whether equations are the true ones, by what their terms contribute.

A term contributes the size of its coefficient times the root mean square of its function over
the clean points of the training trajectories. It counts when that is at least a thousandth of
the largest contribution to its equation; true terms count from 1e-9 on. Equations are *exact*
when in every equation the terms that count are the true ones. Terms are compared in the normal
form of `odekit_benchmarks.normal_form`, so the way in which equations are written does not matter.

Where an equation is a fraction ``N/D`` its terms are those of both: one of ``N`` contributes what
it does to ``N/D``, and one of ``D`` the change of ``N/D`` with its coefficient, times that.

Shapes: points are ``(n, d)``.
Units: coefficients in those of the system.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from odekit_benchmarks.normal_form import normal_form

if TYPE_CHECKING:
    from odekit import Equations

COUNTS = 1e-3
"""Share of the largest contribution from which a found term counts."""

TRUE_COUNTS = 1e-9
"""The same for a true term."""

DEGREE = 3
"""Highest total degree of the polynomials that count as representable."""

Terms = dict[tuple[str, Any], float]
"""From the state and the function, a sympy expression, to the coefficient; in equations with a
denominator a `Piece` stands for the function."""


@final
@dataclass(frozen=True)
class Piece:
    """A function in a fraction's numerator, or ``below`` it in the denominator."""

    function: Any
    below: bool

    def __str__(self) -> str:
        return f"{self.function} in the {'denominator' if self.below else 'numerator'}"


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
    """Right-hand sides in normal form as coefficients of functions; zeros left out.

    Args:
        right: from each state to the sympy expression of its derivative.
    """
    found: Terms = {}
    for name, expression in right.items():
        form = normal_form(expression)
        if form.is_sum:
            found |= {(name, function): value for function, value in form.above.items()}
            continue
        for below, part in ((False, form.above), (True, form.below)):
            found |= {(name, Piece(function, below)): value for function, value in part.items()}
    return found


def representable(terms: Terms, states: Sequence[str]) -> tuple[bool, bool]:
    """Whether terms are polynomials up to degree 3, and whether those, waves and their products.

    Returns:
        The two answers; a wave is sine or cosine of one state, and products are those of two
        waves and of a state and a wave.
    """
    import sympy

    symbols = [sympy.Symbol(name) for name in states]
    waves = [wave(symbol) for symbol in symbols for wave in (sympy.sin, sympy.cos)]
    offered = {*waves, *(factor * wave for factor in (*waves, *symbols) for wave in waves)}

    def monomial(function: Any) -> bool:
        return bool(
            not isinstance(function, Piece)
            and function.free_symbols <= set(symbols)
            and function.is_polynomial(*symbols)
            and sympy.Poly(function, *symbols).total_degree() <= DEGREE
        )

    functions = [function for _, function in terms]
    polynomial = all(monomial(function) for function in functions)
    return polynomial, polynomial or all(f in offered or monomial(f) for f in functions)


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
    values = _Values(states, times, points)
    fractions = {
        name: [
            sum(
                value * values.of(piece.function)
                for (equation, piece), value in terms.items()
                if equation == name and piece.below is below
            )
            for below in (False, True)
        ]
        for name in {name for name, function in terms if isinstance(function, Piece)}
    }
    out: Terms = {}
    with np.errstate(all="ignore"):
        for key, value in terms.items():
            name, function = key
            if isinstance(function, Piece):
                above, below = fractions[name]
                steep = above / below**2 if function.below else 1 / below
                out[key] = abs(value) * _size(values.of(function.function) * steep)
            else:
                out[key] = abs(value) * _size(values.of(function))
    return out


@final
class _Values:
    """Values of functions at points, each computed once."""

    def __init__(self, states: Sequence[str], times: np.ndarray, points: np.ndarray) -> None:
        import sympy

        self.symbols = [sympy.Symbol(name) for name in ("t", *states)]
        self.columns = (times, *points.T)
        self.known: dict[Any, np.ndarray] = {}

    def of(self, function: Any) -> np.ndarray:
        """Values ``(n,)`` of a sympy expression."""
        import sympy

        if function not in self.known:
            with np.errstate(all="ignore"):
                values = sympy.lambdify(self.symbols, function, modules="numpy")(*self.columns)
            self.known[function] = np.broadcast_to(
                np.asarray(values, dtype=np.float64), self.columns[0].shape
            )
        return self.known[function]


def _size(values: np.ndarray) -> float:
    """Root mean square; infinite where a value is not finite."""
    size = float(np.sqrt(np.mean(np.square(values))))
    return size if math.isfinite(size) else math.inf


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
    from odekit.formulas import parse

    known = [*equations.names, equations.time, *equations.inputs]
    inside = count = 0
    for row in equations.coefficients.itertuples():
        form = normal_form(parse(str(row.term), known))
        if not form.is_sum or len(form.above) != 1:
            continue
        [(function, factor)] = form.above.items()
        value = true.get((str(row.equation), function))
        low, high = float(row.low) * factor, float(row.high) * factor
        if value is not None and math.isfinite(low):
            inside += min(low, high) <= value <= max(low, high)
            count += 1
    return inside, count
