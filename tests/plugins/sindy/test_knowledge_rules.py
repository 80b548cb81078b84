"""Libraries with formulas and rules, against sympy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from odekit import ProblemError, TimeSeries
from odekit.formulas import parse
from odekit_sindy.candidates import best_subsets
from odekit_sindy.claims import Claims
from odekit_sindy.claims_reader import read_claims
from odekit_sindy.customs import Customs, compiled, products, text_of
from odekit_sindy.data import Scales, gather
from odekit_sindy.known_libraries import informed, observed
from odekit_sindy.ladder import exponentials, ladder
from odekit_sindy.least_squares import damped_step
from odekit_sindy.library import Library
from odekit_sindy.models import Models
from odekit_sindy.rules import signed_step

NAMES = ("x0", "x1", "u", "t")
FORMULAS = [
    "sin(2*t)",
    "x0/(1 + x0^2)",
    "exp(-x1/3)*x0",
    "abs(x0)*x1",
    "u*x1",
    "t*x0^3",
    "x0 - x1",
    "sqrt(1 + x1^2)",
    "x0^2*x1^2",
]
SCALE = np.array([3.0, 0.2, 5.0, 10.0])


def library(degree=2, texts=FORMULAS, **options):
    points = np.random.default_rng(0).standard_normal((4, 50)) * SCALE[:, None]
    customs = Customs([parse(text, NAMES) for text in texts], NAMES, SCALE, 2, 1, points)
    return Library(2, degree, inputs=1, scale=SCALE[:2], customs=customs, **options)


@pytest.mark.parametrize("exponents", [(), ((0, -2.0, 3.0), (1, -1.0, 1.0))])
def test_values_and_derivatives_of_formulas_are_sympys(exponents):
    lib = library(exponentials=exponents)
    points = np.random.default_rng(1).standard_normal((4, 7))
    raw = points * SCALE[:, None]
    theta = lib.evaluate_all(points)
    np.testing.assert_array_equal(lib.evaluate(points), theta[: lib.size])
    factor = lib.unscaling(SCALE[:2], SCALE[2:])
    symbols = sympy.symbols(NAMES, real=True)
    for i, text in enumerate(lib.terms(("x0", "x1"), ("u",))):
        expression = sympy.sympify(text, locals=dict(zip(NAMES, symbols, strict=True)))
        values = sympy.lambdify(symbols, expression, "numpy")(*raw) * np.ones(7)
        np.testing.assert_allclose(theta[i], factor[i] * values, rtol=1e-10, atol=1e-12)
        for j in range(2):
            slope = sympy.lambdify(symbols, expression.diff(symbols[j]), "numpy")(*raw)
            found = lib.derivative[j, :, i] @ theta
            expected = factor[i] * SCALE[j] * slope * np.ones(7)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


def test_names_of_states_do_not_meet_those_of_common_subexpressions():
    formulas = [parse(text, NAMES) for text in ("x0/(1 + x0)", "x0/(1 + x0)^2 + x1", "x1")]
    points = np.random.default_rng(2).uniform(0.5, 1.5, (4, 5))
    x0, x1 = points[:2]
    values = compiled(formulas, NAMES)(points)
    np.testing.assert_allclose(values, [x0 / (1 + x0), x0 / (1 + x0) ** 2 + x1, x1])


def test_a_formula_beyond_its_domain_is_zero_and_a_pole_is_cut_off():
    points = np.array([[-1.0, 0.0, 2.0]])
    log, pole = compiled([parse("log(x)", ["x"]), parse("1/x", ["x"])], ["x"])(points)
    np.testing.assert_allclose(log, [0.0, -1e30, np.log(2.0)])
    np.testing.assert_allclose(pole, [-1.0, 1e30, 0.5])


def test_numbers_survive_as_text():
    expression = parse("exp(-0.1234567890123456*x)/3.0000000000000004", ["x"])
    assert parse(text_of(expression), ["x"]) == expression


def test_products_of_a_sum():
    found = products(parse("2*pi*x*(1 + y) - 0.5", ["x", "y"]))
    x, y = sympy.symbols("x y")
    assert {product: pytest.approx(value) for value, product in found} == {
        x: 2 * np.pi,
        x * y: 2 * np.pi,
        sympy.Integer(1): -0.5,
    }


def test_one_function_in_two_libraries_keeps_its_value():
    small, large = library(1), library(2, texts=["u*t", "exp(-x1/3)*x0"])
    q = small.place["custom", small.customs.texts[2]]
    (p,) = large.embed((q,), small)
    points = np.random.default_rng(3).standard_normal((4, 6))
    there, here = small.evaluate(points)[q], large.evaluate(points)[p]
    np.testing.assert_allclose(there, here * large.conversion(p, q, small))


def series(names=("x", "v")):
    t = np.linspace(0.0, 5.0, 40)
    return TimeSeries(t, np.c_[np.sin(t), 100 * np.cos(t)], names=list(names))


def rungs(degree=2, **options):
    data = gather(series())
    knowledge = read_claims(Claims.of(**options), data.names, data.inputs, data.time)
    if knowledge.timed:
        data = gather(series(), clock=True)
    libraries = ladder(2, 0, data.std, degree=degree)
    return informed(libraries, knowledge, *observed(data))


def test_known_parts_are_there_and_nowhere_searched():
    (first, second), notes = rungs(
        known={"x": "v"}, known_terms={"v": "-4*x*v"}, forbidden=["v in v"]
    )
    assert not notes
    for lib in (first, second):
        rules = lib.rules
        place = lib.place[1, 1]
        assert not rules.allowed[0].any()
        assert rules.offset[0, lib.place[0, 1]] == 1.0
        assert rules.offset[1, place] == -4.0
        assert not rules.allowed[1, place]
        assert not rules.allowed[1, lib.place[0, 1]]
        assert rules.allowed[1, lib.place[1, 0]]
    assert first.size == 4  # x v was added for the known part alone
    assert first.choices == 2
    assert first.name == "polynomials up to degree 1"


def test_complete_adds_followers_and_given_values():
    (lib,), _ = rungs(1, constraints=["c[x, v] == -3*c[v, x]", "c[v, v] == -2"])
    c = np.zeros((1, 2, 3))
    lead = (0, lib.place[0, 1])
    c[(0, *lead)] = 6.0
    full = lib.rules.complete(c)[0]
    assert full[lead] == 6.0
    assert full[1, lib.place[1, 0]] == -2.0
    assert full[1, lib.place[0, 1]] == -2.0
    assert np.count_nonzero(full) == 3
    flat, matrix, given = lib.written((lead[0] * 3 + lead[1],))
    assert flat == (2, 4, 5)
    np.testing.assert_allclose(matrix[:, 0], [1, -1 / 3, 0])
    np.testing.assert_allclose(given, [0, 0, -2])


def test_rules_in_other_units_are_the_same_rules():
    (lib,), _ = rungs(1, known_terms={"x": "5*v"}, constraints=["c[x, x] == -3*c[v, v]"])
    scales = Scales(np.array([2.0, 7.0]), np.zeros(0), 0.5)
    scaled = lib.at(scales)
    x = np.random.default_rng(4).standard_normal((2, 9))
    c = np.zeros((1, 2, 3))
    c[0, 0, 1] = 1.3
    factor = lib.unscaling(scales.state, scales.input) * scales.state[:, None] / scales.time
    slopes = scaled.rules.complete(c)[0] @ lib.evaluate(x) * scales.state[:, None] / scales.time
    raw = lib.rules.complete(c * factor)[0] @ lib.evaluate(x * scales.state[:, None])
    np.testing.assert_allclose(slopes, raw)


def test_tangents_of_shared_coefficients_and_formulas_are_finite_differences():
    data = gather(series(), clock=True)
    options = {
        "constraints": ["c[x, v] == -3*c[v, x]", "c[x, 1] == 2*c[v, sin(t)*x]"],
        "known_terms": {"v": "0.1*x*v*t"},
        "terms": ["sin(t)*x", "x/(1 + x^2) in x"],
    }
    knowledge = read_claims(Claims.of(**options), data.names, (), "t")
    (lib,), _ = informed(ladder(2, 0, data.std, degree=1), knowledge, *observed(data))
    lib = lib.at(Scales(data.std, np.array([3.0]), 0.7))
    support = tuple(int(q) for q in np.flatnonzero(lib.rules.allowed.reshape(-1)))
    rng = np.random.default_rng(5)
    c, x = rng.standard_normal(len(support)), rng.standard_normal((1, 3, 4))
    start = np.zeros((2, 4))

    def slope(c, x):
        models = Models.of([support], [c], [start], lib.size)
        return lib.bind(models, False)(x, None)[0]

    k = len(support)
    z = np.zeros((1, 2, 2 + k, 4))
    z[:, np.arange(2), np.arange(2)] = 1.0
    models = Models.of([support], [c], [start], lib.size)
    f, dz = lib.bind(models, True)(x, z)
    np.testing.assert_allclose(f, slope(c, x))
    for i in range(2 + k):
        dc, dx = np.zeros(k), np.zeros_like(x)
        if i < 2:
            dx[:, i] = 1e-6
        else:
            dc[i - 2] = 1e-6
        numeric = (slope(c + dc, x + dx) - slope(c - dc, x - dx)) / 2e-6
        np.testing.assert_allclose(dz[:, :, i], numeric, rtol=1e-6, atol=1e-6)


def test_waves_of_states_with_units_are_left_out():
    data = gather(series())

    def names(**units):
        knowledge = read_claims(Claims.of(units=units), data.names, (), "t")
        found, _ = informed(ladder(2, 0, data.std), knowledge, *observed(data))
        return found

    assert not any(lib.trig for lib in names(x="m", v="m/s"))
    only_x, products = [lib for lib in names(v="m/s") if lib.trig]
    for lib in (only_x, products):
        allowed = lib.rules.allowed[0]
        assert allowed[lib.place["sin", 0]]
        assert not allowed[lib.place["sin", 1]]
    left = [text for text, free in zip(products.terms(("x", "v")), allowed, strict=True) if free]
    assert [text for text in left if "(" in text] == [
        *("sin(x)", "cos(x)", "sin(x)**2", "sin(x)*cos(x)"),
        *("x*sin(x)", "x*cos(x)", "v*sin(x)", "v*cos(x)"),
    ]
    assert sum(lib.trig for lib in names(x="1", v="1")) == 2
    knowledge = read_claims(Claims.of(units={"x": "m", "v": "m"}), data.names, (), "t")
    with pytest.raises(ProblemError, match="every state has a unit"):
        informed(ladder(2, 0, data.std, "trig"), knowledge, *observed(data))


def test_what_is_said_about_a_product_of_waves_is_said_about_the_librarys_own():
    data = gather(series())
    knowledge = read_claims(
        Claims.of(
            forbidden=["cos(x)*sin(x) in v"],
            known_terms={"v": "-2*v*cos(x)"},
            terms=["x*sin(v)", "sin(v)^2"],
        ),
        data.names,
        (),
        "t",
    )
    found, notes = informed(ladder(2, 0, data.std), knowledge, *observed(data))
    assert not notes
    *_, waves, products, _ = found
    assert waves.customs.texts == ["v*cos(x)", "x*sin(v)", "sin(v)**2"]
    assert products.customs is None
    texts = products.terms(("x", "v"))
    assert not products.rules.allowed[1, texts.index("sin(x)*cos(x)")]
    assert products.rules.allowed[0, texts.index("sin(x)*cos(x)")]
    assert products.rules.offset[1, texts.index("v*cos(x)")] == -2.0
    # The same function in both, whatever its coefficient is multiplied by.
    points = np.random.default_rng(8).standard_normal((2, 6))
    for q in range(waves.size - waves.customs.size, waves.size):
        (p,) = products.embed((q,), waves)
        there, here = waves.evaluate(points)[q], products.evaluate(points)[p]
        np.testing.assert_allclose(there, here * products.conversion(p, q, waves))
    np.testing.assert_allclose(*(slope_of(lib, ("v*cos(x)",), points) for lib in (waves, products)))


def slope_of(library, texts, points):
    """Derivatives of the functions with these texts, in units of their own size."""
    at = [library.terms(("x", "v")).index(text) for text in texts]
    theta = library.evaluate_all(points)
    slope = np.einsum("jkl,km->jlm", library.derivative[:, :, at], theta)
    return slope / library.evaluate(points)[at]


def test_claims_without_effect_are_noted():
    _, notes = rungs(2, forbidden=["x**5 in v"], constraints=["c[x, sin(x)] > 0"])
    assert [note.split(" is in none")[0] for note in notes] == ["sin(x)", "x**5"]


def test_formulas_must_have_values_on_the_data():
    with pytest.raises(ProblemError, match=r"log\(x\) has no finite value at \d+ % of the data"):
        rungs(terms=["log(x)"])


def test_exponentials_only_where_they_are_neither_flat_nor_spikes():
    ranges = np.array([[0.0, 0.3], [-1.0, 2.0], [0.0, 60.0], [1000.0, 1002.0]])
    assert exponentials(ranges) == ((1, -1.0, 2.0),)
    auto = ladder(4, 0, np.ones(4), ranges=ranges)
    names = [lib.name for lib in auto if lib.exponentials]
    assert names == ["polynomials up to degree 3, exponentials"]
    plain = ladder(4, 0, np.ones(4), degree=2, ranges=ranges)
    assert not any(lib.exponentials for lib in plain)
    with pytest.raises(ProblemError, match="library='exp': no state varies"):
        ladder(4, 0, np.ones(4), "exp", ranges=ranges[[0, 2]])


def test_best_subsets_with_signs_are_the_best_that_respect_them():
    rng = np.random.default_rng(6)
    a = rng.standard_normal((60, 5))
    y = a @ np.array([1.0, -2.0, 0.5, 0.0, 0.0]) + 0.3 * rng.standard_normal(60)
    sign = np.array([0, 1, 0, 0, -1])
    gram, g = a.T @ a, a.T @ y
    found = best_subsets(gram, g, float(y @ y), 3, top=1, sign=sign)
    for rss, support in found:
        columns = a[:, list(support)]
        c, *_ = np.linalg.lstsq(columns, y, rcond=None)
        assert np.all(c * sign[list(support)] >= 0)
        assert rss == pytest.approx(float(((y - columns @ c) ** 2).sum()), rel=1e-6)
    assert all(1 not in support for _, support in found)  # its least squares are negative


@pytest.mark.parametrize("seed", range(5))
def test_a_signed_step_solves_the_bounded_problem(seed):
    rng = np.random.default_rng(seed)
    a, y = rng.standard_normal((30, 5)), rng.standard_normal(30)
    a[:, 4] += 0.9 * a[:, 3]
    sign = np.array([[1, -1, 0, 1]])
    models = Models.of([(0, 1, 2, 3)], [np.zeros(4)], [np.zeros((1, 1))], 4).signed(sign)
    point = np.zeros(5)
    for _ in range(20):
        r = a @ point - y
        step = signed_step(damped_step, models, (a.T @ a)[None], (a.T @ r)[None], np.zeros(1))
        point = point + step[0]
        models = models.moved(step, np.array([-9.0]), np.array([9.0]))
    gradient = a.T @ (a @ point - y)
    assert np.all(sign[0] * point[1:] >= 0)
    held = (point[1:] == 0) & (sign[0] != 0)
    np.testing.assert_allclose(gradient[1:][~held], 0, atol=1e-8)
    assert np.all(gradient[1:][held] * sign[0][held] >= 0)  # Karush-Kuhn-Tucker
