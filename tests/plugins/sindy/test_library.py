"""Libraries against sympy: values, derivatives, units."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from odekit_sindy.ladder import ladder
from odekit_sindy.library import Library

NAMES = ("x", "y")
LIBRARIES = [
    Library(2, 1),
    Library(2, 3),
    Library(2, 2, inputs=1),
    Library(2, 3, trig=True, scale=np.array([2.0, 0.5])),
]


def reference(library, scale=(1.0, 1.0)):
    """The functions by sympy, for states in units of ``scale``."""
    inputs = tuple(f"u{i}" for i in range(library.inputs))
    x, y, *u = sympy.symbols((*NAMES, *inputs))
    texts = library.terms(NAMES, inputs)
    swap = {x: scale[0] * x, y: scale[1] * y}
    out = []
    for text in texts:
        expression = sympy.sympify(text)
        waves = expression.has(sympy.sin) or expression.has(sympy.cos)
        out.append(expression.subs(swap, simultaneous=True) if waves else expression)
    return (x, y, *u), out


@pytest.mark.parametrize("library", LIBRARIES)
def test_values_and_derivatives_are_sympys(library):
    scale = (1.0, 1.0) if library.scale is None else tuple(library.scale)
    symbols, expressions = reference(library, scale)
    points = np.random.default_rng(0).standard_normal((len(symbols), 9))
    theta = library.evaluate(points)
    for i, expression in enumerate(expressions):
        values = sympy.lambdify(symbols, expression, "numpy")(*points)
        np.testing.assert_allclose(theta[i], values * np.ones(9), rtol=1e-12)
        for j in range(2):
            slope = sympy.lambdify(symbols, expression.diff(symbols[j]), "numpy")(*points)
            found = library.derivative[j, :, i] @ theta
            np.testing.assert_allclose(found, slope * np.ones(9), rtol=1e-12, atol=1e-12)


def test_sizes_and_order():
    assert [Library(2, p).size for p in (1, 2, 3)] == [3, 6, 10]
    assert Library(3, 3).size == 20
    assert Library(2, 2).terms(NAMES) == ["1", "x", "y", "x**2", "x*y", "y**2"]
    assert Library(1, 1, trig=True).terms(("a",)) == ["1", "a", "sin(a)", "cos(a)"]


def test_evaluate_keeps_leading_axes():
    points = np.random.default_rng(1).standard_normal((3, 2, 5))
    theta = Library(2, 3).evaluate(points)
    assert theta.shape == (3, 10, 5)
    np.testing.assert_array_equal(theta[1], Library(2, 3).evaluate(points[1]))


def test_unscaling_gives_functions_of_the_callers_variables():
    library = Library(2, 3, trig=True, inputs=1, scale=np.array([4.0, 0.25]))
    state, inputs = np.array([4.0, 0.25]), np.array([10.0])
    raw = np.random.default_rng(2).standard_normal((3, 6))
    scaled = raw / np.concatenate([state, inputs])[:, None]
    plain = Library(2, 3, trig=True, inputs=1)
    factor = library.unscaling(state, inputs)
    np.testing.assert_allclose(
        factor[:, None] * plain.evaluate(raw), library.evaluate(scaled), rtol=1e-12
    )


def test_supports_move_between_libraries_and_lose_what_is_missing():
    small, large = Library(2, 1), Library(2, 3)
    support = (1, 2, 3 + 2)  # x, y in the first equation, y in the second
    assert large.embed(support, small) == (1, 2, 10 + 2)
    assert small.embed((0, 3, 10 + 1), large) == (0, 3 + 1)


def test_the_ladder_climbs_and_stops_where_it_is_told():
    scale = np.ones(2)
    names = [library.name for library in ladder(2, 0, scale)]
    assert names == [
        "polynomials up to degree 1",
        "polynomials up to degree 2",
        "polynomials up to degree 3",
        "polynomials up to degree 3, sine and cosine",
        "polynomials up to degree 3, sine and cosine, and their products",
        "polynomials up to degree 3, fractions",
    ]
    assert [library.degree for library in ladder(2, 0, scale, "polynomial", 2)] == [1, 2]
    (only,) = ladder(2, 0, scale, "trig", 1)
    assert (only.degree, only.trig) == (1, True)
