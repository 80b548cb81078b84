"""The normal form of right-hand sides: waves, fractions, and what is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from odekit_benchmarks.normal_form import normal_form

X, Y = sympy.symbols("x y")
sin, cos, exp, ONE = sympy.sin, sympy.cos, sympy.exp, sympy.S.One


@pytest.mark.parametrize(
    ("expression", "above", "below"),
    [
        (sympy.S.Zero, {}, {ONE: 1}),
        ((X - 1.0) ** 2 - X * (X - 2), {ONE: 1}, {ONE: 1}),
        (sin(X - Y), {sin(X) * cos(Y): 1, cos(X) * sin(Y): -1}, {ONE: 1}),
        (cos(2.0 * X), {ONE: 1, sin(X) ** 2: -2}, {ONE: 1}),
        (cos(X) ** 3, {cos(X): 1, cos(X) * sin(X) ** 2: -1}, {ONE: 1}),
        (sympy.cot(Y) * Y, {Y * cos(Y) / sin(Y): 1}, {ONE: 1}),
        (sin(20 * X), {sin(20 * X): 1}, {ONE: 1}),
        (sin(0.5 * X), {sin(0.5 * X): 1}, {ONE: 1}),
        (X**1.5 * sympy.Abs(Y), {X**1.5 * sympy.Abs(Y): 1}, {ONE: 1}),
        (Y / X - X, {Y / X: 1, X: -1}, {ONE: 1}),
        (X / (4 + 2 * X), {X: 0.25}, {ONE: 1, X: 0.5}),
        (1 / (X**2 + 2 * Y), {ONE: 0.5}, {Y: 1, X**2: 0.5}),
        ((X**2 - 1.21) / (X - 1.1), {X: 1, ONE: 1.1}, {ONE: 1}),
        (0.3 * (X + 7.1) / (Y * (0.1 * X + 0.71)), {1 / Y: 3}, {ONE: 1}),
        (exp(0.5 * X) ** 2 / (1 + exp(X)), {exp(X): 1}, {ONE: 1, exp(X): 1}),
        (1 - 1 / (1 + X**2), {X**2: 1}, {ONE: 1, X**2: 1}),
        (1 / (1 + exp(2 * X - 1)), {ONE: 1}, {ONE: 1, exp(2 * X): np.exp(-1)}),
        (1 / (1 + exp(-X)), {exp(X): 1}, {ONE: 1, exp(X): 1}),
        (exp(-X) + exp(X), {exp(-X): 1, exp(X): 1}, {ONE: 1}),
    ],
)
def test_forms(expression, above, below):
    form = normal_form(expression)
    assert form.above == pytest.approx(above)
    assert form.below == pytest.approx(below)
    assert form.is_sum is (below == {ONE: 1})


@pytest.mark.parametrize(
    "expression",
    [
        0.3 * sin(2 * X + 3 * Y - 0.4) * X - cos(X) ** 4,
        (X - 0.3 * Y) ** 3 / (1.7 + X**2 * Y**2) - Y / (0.2 + Y**2),
        sympy.tan(X) / (1 + sin(X) ** 2) + sympy.sqrt(Y) * exp(-0.7 * X * Y),
    ],
)
def test_values_stay(expression):
    form = normal_form(expression)
    rewritten = sum(c * f for f, c in form.above.items()) / sum(
        c * f for f, c in form.below.items()
    )
    points = np.random.default_rng(0).uniform(0.1, 3.0, (2, 50))
    was, now = (sympy.lambdify((X, Y), e, "numpy")(*points) for e in (expression, rewritten))
    np.testing.assert_allclose(now, was, rtol=1e-9)
