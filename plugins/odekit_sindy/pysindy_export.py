"""Equations as a fitted model of PySINDy, with our terms and our numbers.

Nothing is fitted: library and optimizer are given their results. Where all terms are monomials
the library is PySINDy's polynomial one and the model pickles; otherwise it is a custom library of
exactly our terms.

PySINDy is imported here at module level: import this module when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pysindy

from odekit import DiscoveryError, Equations
from odekit.formulas import parse

MOST_FEATURES = 400
"""Monomials beyond which a custom library of the terms alone is the smaller one."""


def export(equations: Equations) -> Any:
    """A fitted ``pysindy.SINDy``.

    Raises:
        DiscoveryError: a term with time in it, or no term at all.
    """
    import sympy

    variables = (*equations.names, *equations.inputs)
    symbols = [sympy.Symbol(name) for name in variables]
    expressions = [parse(term.term, (*variables, equations.time)) for term in equations.terms]
    clock = sympy.Symbol(equations.time)
    for term, expression in zip(equations.terms, expressions, strict=True):
        if expression.has(clock):
            raise DiscoveryError(
                f"PySINDy has no time in its libraries, and {term.equation}' has the term "
                f"{term.term}: give what depends on time as an input"
            )
    if not expressions:
        raise DiscoveryError("PySINDy has no model without terms, and these equations have none")
    library, columns, factors = _polynomial(expressions, symbols) or _custom(
        expressions, symbols, equations.terms
    )
    rows = np.ones((2, len(variables)))
    library.fit([pysindy.AxesArray(rows, {"ax_sample": 0, "ax_coord": 1})])
    coef = np.zeros((len(equations.names), library.n_output_features_))
    for term, column, factor in zip(equations.terms, columns, factors, strict=True):
        coef[equations.names.index(term.equation), column] += term.value * factor
    return _model(library, coef, equations)


def _model(library: Any, coef: np.ndarray, equations: Equations) -> Any:
    optimizer = pysindy.STLSQ(threshold=np.finfo(float).tiny)
    optimizer.coef_ = coef
    optimizer.ind_ = coef != 0
    optimizer.intercept_ = 0.0
    optimizer.n_features_in_ = coef.shape[1]
    optimizer.history_ = [coef]
    model = pysindy.SINDy(feature_library=library, optimizer=optimizer)
    model.n_control_features_ = len(equations.inputs)
    model.feature_names = [*equations.names, *equations.inputs]
    model.n_features_in_ = library.n_features_in_
    model.n_output_features_ = library.n_output_features_
    return model


Placed = tuple[Any, list[int], list[float]]
"""A library, and column and factor of each term."""


def _polynomial(expressions: Sequence[Any], symbols: Sequence[Any]) -> Placed | None:
    """The polynomial library, or None where a term is no monomial or the library would be huge."""
    import math

    powers, factors = [], []
    for expression in expressions:
        factor, rest = expression.as_coeff_Mul()
        powers_of = rest.as_powers_dict()
        exponents = tuple(powers_of.get(symbol, 0) for symbol in symbols)
        whole = all(getattr(e, "is_Integer", isinstance(e, int)) and e >= 0 for e in exponents)
        product = math.prod(
            (s ** int(e) for s, e in zip(symbols, exponents, strict=True)), start=1
        ) if whole else None  # fmt: skip
        if product is None or product != rest:
            return None
        powers.append(tuple(int(e) for e in exponents))
        factors.append(float(factor))
    degree = max(1, *(sum(row) for row in powers))
    if math.comb(len(symbols) + degree, degree) > MOST_FEATURES:
        return None
    library = pysindy.PolynomialLibrary(degree=degree)
    library.fit([pysindy.AxesArray(np.ones((2, len(symbols))), {"ax_sample": 0, "ax_coord": 1})])
    known = {tuple(int(e) for e in row): i for i, row in enumerate(library.powers_)}
    return library, [known[row] for row in powers], factors


def _custom(expressions: Sequence[Any], symbols: Sequence[Any], terms: Sequence[Any]) -> Placed:
    """A library of these terms alone, equal ones once."""
    import sympy

    places: dict[Any, int] = {}
    texts: list[str] = []
    for expression, term in zip(expressions, terms, strict=True):
        if expression not in places:
            places[expression] = len(places)
            texts.append(term.term)
    functions = [sympy.lambdify(symbols, expression, modules="numpy") for expression in places]
    library = pysindy.CustomLibrary(functions, [_named(text) for text in texts])
    # PySINDy 2 keeps its argument as ``functions``, and scikit-learn, to show or to copy the
    # model's parameters, looks for it under the name that the argument has.
    library.library_functions = library.functions
    return library, [places[expression] for expression in expressions], [1.0] * len(expressions)


def _named(text: str) -> Callable[..., str]:
    """What the library asks for: a function of the variables' names to the term's."""

    def name(*_: str) -> str:
        return text

    return name
