"""Fractions as terms of `Equations`: numbers written into denominators, and a table of them.

A term of `Equations` is a number times a formula, so the coefficients of a denominator become
part of the formula, ``x/(1 + 3.404*x)``; its constant is always one. They are rounded to a
thousandth of their standard error. Their values and intervals stand in
``Equations.diagnostics["denominators"]``.

Units: those of the caller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from odekit import Term
from odekit.intervals import half_width
from odekit_sindy.library import Library

DIGITS = 6
"""Significant digits where no standard error is known."""

FINE = 3


def with_numbers(
    library: Library,
    flat: Sequence[int],
    terms: Sequence[Term],
    names: tuple[str, ...],
    inputs: tuple[str, ...],
) -> list[Term]:
    """The terms as they are written down: denominators are in the formulas, not in the list.

    Args:
        library: of the model.
        flat: flat indices of all coefficients.
        terms: one per coefficient.
        names: of the states.
        inputs: names of the inputs.
    """
    numbers = [short(term.value, term.stderr) for term in terms]
    texts = library.labels(flat, names, inputs, numbers)
    below = library.is_below(flat)
    return [
        term._replace(term=text)
        for term, text, hidden in zip(terms, texts, below, strict=True)
        if not hidden
    ]


def denominators(
    library: Library,
    flat: Sequence[int],
    terms: Sequence[Term],
    names: tuple[str, ...],
    inputs: tuple[str, ...],
    degrees_of_freedom: float | None,
) -> list[dict[str, object]]:
    """One row per coefficient in a denominator: ``equation term value stderr low high``.

    Args:
        library: of the model.
        flat: flat indices of all coefficients.
        terms: one per coefficient.
        names: of the states.
        inputs: names of the inputs.
        degrees_of_freedom: of the residuals.
    """
    texts = library.terms(names, inputs)
    return [
        row(term.equation, texts[q % library.size], term.value, term.stderr, degrees_of_freedom)
        for q, term, below in zip(flat, terms, library.is_below(flat), strict=True)
        if below
    ]


def row(
    equation: str,
    term: str,
    value: float,
    stderr: float | None,
    degrees_of_freedom: float | None,
) -> dict[str, object]:
    """One number of a denominator with its 95 % interval, if its error is known."""
    out: dict[str, object] = {"equation": equation, "term": term, "value": value, "stderr": stderr}
    if stderr is not None:
        width = half_width(degrees_of_freedom) * stderr
        out |= {"low": value - width, "high": value + width}
    return out


def short(value: float, stderr: float | None) -> str:
    """The number with as many digits as its standard error is worth, and three more."""
    if stderr is None:
        return f"{value:.{DIGITS}g}"
    if not (stderr > 0 and value != 0 and math.isfinite(stderr)):
        return repr(value)
    digits = math.ceil(math.log10(abs(value) / stderr)) + FINE
    return f"{value:.{min(max(digits, FINE), 17)}g}"
