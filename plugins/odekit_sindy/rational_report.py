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
from odekit_sindy.library import Library

DIGITS = 6
"""Significant digits where no standard error is known."""

FINE = 3
INTERVAL = 1.96


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
) -> list[dict[str, object]]:
    """One row per coefficient in a denominator: ``equation term value stderr low high``."""
    texts = library.terms(names, inputs)
    out: list[dict[str, object]] = []
    for q, term, below in zip(flat, terms, library.is_below(flat), strict=True):
        if not below:
            continue
        row: dict[str, object] = {
            "equation": term.equation,
            "term": texts[q % library.size],
            "value": term.value,
            "stderr": term.stderr,
        }
        if term.stderr is not None:
            row["low"] = term.value - INTERVAL * term.stderr
            row["high"] = term.value + INTERVAL * term.stderr
        out.append(row)
    return out


def short(value: float, stderr: float | None) -> str:
    """The number with as many digits as its standard error is worth, and three more."""
    if stderr is None:
        return f"{value:.{DIGITS}g}"
    if not (stderr > 0 and value != 0 and math.isfinite(stderr)):
        return repr(value)
    digits = math.ceil(math.log10(abs(value) / stderr)) + FINE
    return f"{value:.{min(max(digits, FINE), 17)}g}"
