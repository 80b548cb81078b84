"""Products of waves: values, derivatives, units, prices, and systems that have them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import sympy
from scipy.integrate import solve_ivp

import odekit
from odekit import ProblemError, TimeSeries
from odekit.formulas import parse
from odekit_sindy import pipeline
from odekit_sindy.budget import Budget
from odekit_sindy.customs import Customs, key_of
from odekit_sindy.data import gather
from odekit_sindy.ladder import ladder
from odekit_sindy.library import Library
from odekit_sindy.models import Models
from odekit_sindy.rational import Rational
from odekit_sindy.wave_products import WaveProduct

SCALE = np.array([2.0, 0.5, 1.3])
NAMES = ("x", "y", "z")


def library(dim=2, inputs=0, degree=3):
    scale = SCALE[:dim]
    return Library(dim, degree, trig=True, inputs=inputs, scale=scale, products=True)


def points(rows, count=7, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, count))


@pytest.mark.parametrize(("dim", "inputs"), [(1, 0), (2, 0), (2, 1), (3, 0)])
def test_values_are_those_of_the_text(dim, inputs):
    lib = library(dim, inputs)
    names, drives = NAMES[:dim], ("u",) * inputs
    raw = points(dim + inputs)
    texts = lib.terms(names, drives)
    assert len(set(texts)) == len(set(lib.keys)) == lib.size
    scale, drive = SCALE[:dim], np.full(inputs, 10.0)
    theta = lib.evaluate(raw / np.concatenate([scale, drive])[:, None])
    theta /= lib.unscaling(scale, drive)[:, None]
    symbols = sympy.symbols((*names, *drives))
    for text, row in zip(texts, theta, strict=True):
        expression = parse(text, (*names, *drives))
        expected = sympy.lambdify(symbols, expression, "numpy")(*raw) * np.ones(raw.shape[1])
        np.testing.assert_allclose(row, expected, rtol=1e-12)
        assert lib.keys[texts.index(text)] == key_of(expression, names, (*names, *drives))


def test_the_functions():
    texts = library(1).terms(("a",))[6:]
    assert texts == ["sin(a)**2", "sin(a)*cos(a)", "a*sin(a)", "a*cos(a)"]
    waves = replace(library(), products=False)
    added = set(library().terms(("x", "y"))) - set(waves.terms(("x", "y")))
    of_two = {f"{a}(x)*{b}(y)" for a in ("sin", "cos") for b in ("sin", "cos")}
    assert len(added) == library().size - waves.size == 16
    assert of_two < added
    assert not any("cos(x)**2" in text for text in added)


@pytest.mark.parametrize(("dim", "inputs"), [(1, 0), (2, 1), (3, 0)])
def test_derivatives_are_finite_differences(dim, inputs):
    lib = library(dim, inputs)
    at = points(dim + inputs, seed=1)
    for j in range(dim):
        step = 1e-5 * np.eye(dim + inputs)[j][:, None]
        numeric = (lib.evaluate(at + step) - lib.evaluate(at - step)) / 2e-5
        exact = np.einsum("kl,km->lm", lib.derivative[j], lib.evaluate_all(at))
        np.testing.assert_allclose(exact, numeric, rtol=1e-7, atol=1e-7)


def test_the_functions_are_independent():
    theta = library(2).evaluate(3 * points(2, 400, seed=2))
    theta /= np.linalg.norm(theta, axis=1)[:, None]
    assert np.linalg.svd(theta, compute_uv=False)[-1] > 1e-4
    assert np.linalg.matrix_rank(theta) == 30


def test_tangents_of_models_with_products():
    lib = library()
    texts = lib.terms(("x", "y"))
    support = (
        texts.index("sin(x)*cos(y)"),
        lib.size + texts.index("sin(x)**2"),
        lib.size + texts.index("y*cos(x)"),
    )
    models = Models.of([support], [np.array([0.7, -1.1, 0.4])], [np.zeros((2, 1))], lib.size)
    x = points(2, 5, seed=3)[None]

    def slope(x):
        return lib.bind(models, False)(x, None)[0]

    z = np.zeros((1, 2, 2 + len(support), 5))
    z[:, np.arange(2), np.arange(2)] = 1.0
    f, dz = lib.bind(models, True)(x, z)
    a, b = x[0] * SCALE[:2, None]
    np.testing.assert_allclose(f[0, 0], 0.7 * np.sin(a) * np.cos(b))
    second = -1.1 * np.sin(a) ** 2 + 0.4 * x[0, 1] * np.cos(a)
    np.testing.assert_allclose(f[0, 1], second)
    for j in range(2):
        step = 1e-6 * np.eye(2)[j][:, None]
        numeric = (slope(x + step) - slope(x - step)) / 2e-6
        np.testing.assert_allclose(dz[:, :, j], numeric, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(dz[0, 0, 2], np.sin(a) * np.cos(b))
    np.testing.assert_allclose(dz[0, 1, 4], x[0, 1] * np.cos(a))


def test_models_of_waves_keep_their_place_and_their_price():
    more = library()
    waves = replace(more, products=False)
    support = (1, 10, 13, waves.size + 12)  # x, sin(x), cos(y), and sin(y) in the second equation
    assert more.embed(support, waves) == (1, 10, 13, more.size + 12)
    assert waves.embed(more.embed(support, waves), more) == support
    product = more.place[WaveProduct(("sin", 0), ("cos", 1))]
    assert waves.embed((product,), more) == ()
    np.testing.assert_array_equal(more.crowd[: waves.size], waves.crowd)
    np.testing.assert_array_equal(more.level[: waves.size], waves.level)
    assert set(more.crowd[waves.size :]) == {30.0}
    assert set(more.level[waves.size :]) == {waves.level.max() + 1}
    assert [more.conversion(i, i, waves) for i in range(waves.size)] == [1.0] * waves.size


def test_a_formula_of_the_user_costs_the_same_with_products_and_without():
    values = points(2, 30, seed=4)
    formula = parse("sin(2*x)/(1 + y**2)", ("x", "y"))
    customs = Customs([formula], ("x", "y"), np.ones(2), 2, 0, values)
    more = replace(library(), customs=customs)
    waves = replace(more, products=False)
    assert more.keys[-1] == waves.keys[-1]
    for one in (more, waves):
        assert (one.crowd[-1], one.level[-1]) == (waves.size, 0)
    assert more.crowd[more.place[WaveProduct(("sin", 0), ("cos", 1))]] == more.size


def test_a_library_is_told_from_its_like():
    more = library()
    assert more == library()
    assert hash(more) == hash(library())
    assert more != replace(more, products=False)
    assert more.name == "polynomials up to degree 3, sine and cosine, and their products"
    fractions = Rational.of(more)
    assert fractions.terms(("x", "y"))[: more.size] == more.terms(("x", "y"))
    with pytest.raises(ProblemError, match="products are made of the library's own waves"):
        Library(2, 3, products=True)


def test_products_stand_between_exponentials_and_fractions_up_to_two_states():
    for dim in (1, 2):
        ranges = np.array([[0.0, 2.0]] * dim)
        rungs = ladder(dim, 0, np.ones(dim), ranges=ranges)[3:]
        assert [r.products for r in rungs] == [False, False, True, False]
        assert bool(rungs[1].exponentials)
        assert isinstance(rungs[3], Rational)
        for options in (("polynomial",), ("trig",), ("rational",), ("auto", 3)):
            assert not any(r.products for r in ladder(dim, 0, np.ones(dim), *options))
    assert not any(r.products for r in ladder(3, 0, np.ones(3)))


def measured(right, starts, noise, units=(1.0, 1.0)):
    """Half of 150 points of each trajectory, multiplied by noise."""
    out = []
    t = np.linspace(0, 10, 150)
    for i, start in enumerate(starts):
        x = solve_ivp(right, (0, 10), start, t_eval=t, rtol=1e-10, atol=1e-12).y.T
        generator = np.random.default_rng([0, i])
        kept = np.sort(generator.permutation(150)[:75])
        y = x[kept] * (1 + noise * generator.standard_normal((75, x.shape[1])))
        out.append(TimeSeries(t[kept], y * np.array(units), names=["x0", "x1"]))
    return out


def benchmark(number):
    """Right-hand side of a system of ODEBench with its own parameters, and its starts."""
    system = odekit.create("system", f"odebench_{number}")
    right = system.sympy()
    slope = sympy.lambdify(sympy.symbols(list(right)), list(right.values()), "numpy")
    return (lambda t, x: slope(*x)), system.starts


def rounded(equations, digits=1):
    return {(term.equation, term.term): round(term.value, digits) for term in equations.terms}


def rungs_of(equations):
    return [rung["library"] for rung in equations.diagnostics["ladder"]]


def test_bead_on_a_rotating_hoop():
    slope, starts = benchmark(34)
    equations = odekit.discover(measured(slope, starts, 0.01))
    assert rounded(equations, 2) == {
        ("x0", "x1"): 1.0,
        ("x1", "sin(x0)"): -0.93,
        ("x1", "sin(x0)*cos(x0)"): 1.0,
    }
    assert equations.diagnostics["library"].endswith("products")


def test_pendulum_with_nonlinear_damping_in_two_units_of_its_speed():
    # From the benchmark's own starts the angle is too small to tell its cosine from a parabola.
    slope, _ = benchmark(36)
    starts = [(2.9, 0.6), (-1.5, 5.0)]
    equations = odekit.discover(measured(slope, starts, 0.01))
    assert rounded(equations, 2) == {
        ("x0", "x1"): 1.0,
        ("x1", "sin(x0)"): -1.0,
        ("x1", "x1"): -1.0,
        ("x1", "x1*cos(x0)"): -0.07,
    }
    assert equations.confident
    other = odekit.discover(measured(slope, starts, 0.01, units=(1.0, 0.25)))
    size = {("x0", "x1"): 4.0, ("x1", "sin(x0)"): 0.25}
    expected = {
        (term.equation, term.term): term.value * size.get((term.equation, term.term), 1.0)
        for term in equations.terms
    }
    assert rounded(other, 12) == pytest.approx(expected, rel=1e-4)


def test_pendulum_keeps_to_its_sine():
    series = measured(lambda t, x: [x[1], -4 * np.sin(x[0]) - 0.3 * x[1]], [(2.7, 0.0)], 0.05)
    equations = odekit.discover(series)
    assert rounded(equations) == {
        ("x0", "x1"): 1.0,
        ("x1", "x1"): -0.3,
        ("x1", "sin(x0)"): pytest.approx(-4.0, abs=0.11),
    }


def test_polynomials_stay_polynomials_and_never_get_there(observe, structure_of):
    equations = odekit.discover(observe("lotka_volterra", 0.05, seed=3))
    terms = {("x0", "x0"), ("x0", "x0*x1"), ("x1", "x1"), ("x1", "x0*x1")}
    assert structure_of(equations) == terms
    assert not any("sine" in name for name in rungs_of(equations))


def test_just_short_of_the_noise_waves_are_tried_and_their_products_are_not(observe):
    libraries = rungs_of(odekit.discover(observe("van_der_pol", 0.05)))
    assert any("sine" in name for name in libraries)
    assert not any("products" in name for name in libraries)


@pytest.mark.parametrize(("chosen", "first"), [(6, 4), (5, 4), (4, 3), (0, 0)])
def test_under_another_noise_model_the_climb_begins_below_and_never_at_products(
    monkeypatch, observe, chosen, first
):
    data = gather([observe("damped", 0.05)])
    rungs = ladder(2, 0, data.std, ranges=np.array([[0.0, 2.0]] * 2))
    climbed = []

    def climb(dataset, scales, smoothed, evidence, libraries, *options):
        climbed.append(libraries)
        best = SimpleNamespace(ebic=0.0)
        rung = SimpleNamespace(library=rungs[chosen], best=best)
        return SimpleNamespace(rungs=[rung], chosen=0, best=best, at_noise=True)

    monkeypatch.setattr(pipeline, "climb", climb)
    monkeypatch.setattr(pipeline, "better_noise", lambda found, models: models[-1])
    monkeypatch.setattr(pipeline, "restarted", lambda found, budget: found)
    pipeline.run(data, rungs, Budget(60.0))
    names = [[library.name for library in libraries] for libraries in climbed]
    assert names[0] == [library.name for library in rungs]
    assert names[1] == [rungs[first].name, *names[0][max(chosen, 1) :]]


def test_a_state_that_leaps_over_periods_gets_no_products():
    slope, starts = benchmark(34)
    equations = odekit.discover(measured(slope, starts[:1], 0.05, units=(40.0, 40.0)))
    assert not any("sine" in name for name in rungs_of(equations))
    assert rungs_of(equations)
