"""Fractions: derivatives, canonical forms, the search for them, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch
from scipy.integrate import solve_ivp

import odekit
from odekit.differences import form
from odekit.formulas import parse
from odekit.report import models
from odekit_sindy.budget import Budget
from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.ladder import ladder
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.models import Models
from odekit_sindy.rational import CLEAR, GUARD, Rational, reciprocal
from odekit_sindy.rational_search import exchanged, look, promised
from odekit_sindy.rules import Rules
from odekit_sindy.search import Start, SubsetSearch
from odekit_sindy.shooting import Shooting


def michaelis_menten(t, x):
    return [0.6 - 1.5 * x[0] / (0.3 + x[0])]


def toggle(t, x):
    return [2 / (1 + x[1] ** 2) - x[0], 3 / (1 + x[0] ** 2) - x[1]]


def observed(field, start, end, noise, seed=0, n=150):
    """Half of ``n`` equidistant points, drawn at random, with additive noise."""
    t = np.linspace(0, end, n)
    clean = solve_ivp(field, (0, end), start, t_eval=t, rtol=1e-10, atol=1e-12).y.T
    generator = np.random.default_rng(seed)
    kept = np.sort(generator.permutation(n)[: n // 2])
    rows = generator.standard_normal((len(kept), clean.shape[1]))
    return odekit.TimeSeries(t[kept], clean[kept] + noise * clean.std(0) * rows)


def texts(library, support, names=("x", "y")):
    return library.labels(support, names)


def chosen(library, *texts_by_equation):
    """A support from pairs of lists: plain functions, numerators and denominators."""
    names = ("x", "y")[: library.dim]
    pairs = zip(library.kind, library.terms(names), strict=True)
    place = {(int(kind), text): i for i, (kind, text) in enumerate(pairs)}
    out = []
    for j, kinds in enumerate(texts_by_equation):
        for kind, functions in enumerate(kinds):
            out += [j * library.size + place[kind, text] for text in functions]
    return tuple(sorted(out))


@pytest.fixture
def two():
    """A model of two fractions, another of one, in a library with waves beside them."""
    library = Rational.of(Library(2, 3, trig=True, scale=np.array([1.0, 0.7])))
    supports = [
        chosen(
            library,
            (["x", "sin(y)"], ["1", "x*y"], ["x", "y**2"]),
            (["y", "x**2*y"], ["x**2"], ["y"]),
        ),
        chosen(library, (["x"], [], []), (["1"], ["y"], ["x**2"])),
    ]
    generator = np.random.default_rng(0)
    values = [generator.uniform(0.3, 1.5, len(s)) for s in supports]
    start = generator.uniform(0.2, 1.5, (2, 2, 5))
    return library, Models.of(supports, values, list(start), library.size)


def test_slopes_are_those_of_the_formulas(two):
    library, models = two
    points = np.random.default_rng(1).uniform(0.2, 2, (2, 2, 7))
    found, nothing = library.bind(models, False)(points, None)
    assert nothing is None
    x, y = points[0]
    (a, b, c, d, e, f), (g, h, i, k) = models.values(0)[:6], models.values(0)[6:]
    np.testing.assert_allclose(
        found[0, 0], a * x + b * np.sin(0.7 * y) + (c + d * x * y) / (1 + e * x + f * y**2)
    )
    np.testing.assert_allclose(found[0, 1], g * y + h * x**2 * y + i * x**2 / (1 + k * y))
    x, y = points[1]
    m, n, o, p = models.values(1)
    np.testing.assert_allclose(found[1], [m * x, n + o * y / (1 + p * x**2)])


def test_tangents_agree_with_central_differences(two):
    library, models = two
    point = np.random.default_rng(2).uniform(0.2, 2, (2, 2, 4))
    count, d = len(models), 2
    k, m = models.c.shape[1], point.shape[-1]
    z = np.zeros((count, d, d + k, m))
    z[:, range(d), range(d)] = 1.0
    _, tangent = library.bind(models, True)(point, z)
    h = 1e-6

    def slopes(at, c):
        moved = Models(models.flat, models.used, c, models.start, models.size)
        return library.bind(moved, False)(at, None)[0]

    for j in range(d):
        step = np.zeros_like(point)
        step[:, j] = h
        numeric = (slopes(point + step, models.c) - slopes(point - step, models.c)) / (2 * h)
        np.testing.assert_allclose(tangent[:, :, j], numeric, rtol=1e-7, atol=1e-8)
    for i in range(k):
        step = np.zeros_like(models.c)
        step[:, i] = h
        numeric = (slopes(point, models.c + step) - slopes(point, models.c - step)) / (2 * h)
        np.testing.assert_allclose(tangent[:, :, d + i], numeric, rtol=1e-7, atol=1e-8)


def test_the_reciprocal_goes_on_smoothly_past_a_pole():
    values = np.array([2.0, GUARD, 0.5 * GUARD, -3.0])
    inverse, slope = reciprocal(values)
    assert inverse[:2] == pytest.approx(1 / values[:2])
    h = 1e-6
    for value, rate in zip(values, slope, strict=True):
        around, _ = reciprocal(np.array([value - h, value + h]))
        assert (around[1] - around[0]) / (2 * h) == pytest.approx(rate, rel=1e-3)
    assert (np.diff(inverse[::-1]) < 0).all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((["1"], ["1"], ["x"]), ["1", "x/(1 + c*x)"]),
        (([], ["1", "x"], ["x"]), ["1", "x/(1 + c*x)"]),
        ((["1"], ["1", "x"], ["x"]), ["1", "x/(1 + c*x)"]),
        (([], ["1"], ["x"]), ["1/(1 + c*x)"]),
        ((["1"], ["1"], ["x", "x**2"]), ["1", "1/(1 + c*x + c*x**2)"]),
        (
            (["1"], ["1", "x"], ["x", "x**2"]),
            ["1", "x/(1 + c*x + c*x**2)", "x**2/(1 + c*x + c*x**2)"],
        ),
        ((["x"], ["x"], ["x**2"]), ["x", "x/(1 + c*x**2)"]),
    ],
)  # fmt: skip
def test_one_of_all_forms_of_a_fraction_is_canonical(given, expected):
    library = Rational.of(Library(1, 3))
    found = library.canonical(chosen(library, given))
    below = library.is_below(found)
    shown = [
        t for t, hidden in zip(texts(library, found, ("x",)), below, strict=True) if not hidden
    ]
    assert shown == expected


@pytest.mark.parametrize("given", [([], [], ["x"]), (["x"], [], ["x"]), (["x"], ["x"], [])])
def test_half_a_fraction_is_none(given):
    library = Rational.of(Library(1, 2))
    assert library.canonical(chosen(library, given)) is None


def test_equations_without_a_fraction_stay_as_they_are():
    library = Rational.of(Library(2, 2))
    support = chosen(library, (["x", "x*y"], [], []), (["y"], ["x*y"], ["x"]))
    assert library.canonical(support) == support


def test_models_with_a_pole_among_the_data_are_not_admitted():
    library = Rational.of(Library(1, 2))
    support = chosen(library, (["1"], ["x"], ["x"]))
    start = np.array([[0.5, 1.0]])
    values = [np.array([1.0, 1.0, e]) for e in (2.0, -0.5, -1 + 0.5 * CLEAR, -3.0)]
    models = Models.of([support] * 4, values, [start] * 4, library.size)
    np.testing.assert_array_equal(library.admits(models), [True, True, False, False])


def test_shares_are_contributions_to_the_equation():
    library = Rational.of(Library(1, 2))
    support = chosen(library, (["1"], ["x"], ["x"]))
    x = np.linspace(0.5, 2, 9)[None]
    c = np.array([0.6, -5.0, 3.0])
    fraction = -5 * x[0] / (1 + 3 * x[0])
    expected = [0.6, np.sqrt((fraction**2).mean()), np.sqrt(((fraction * 3 * x[0]) ** 2).mean())]
    np.testing.assert_allclose(library.shares(support, c, x), expected)


def test_a_denominator_stays_as_long_as_it_has_a_numerator():
    library = Rational.of(Library(1, 2))
    support = chosen(library, (["1"], ["x"], ["x"]))
    assert library.completed(support, [0, 1]) == [0, 1, 2]
    assert library.completed(support, [0, 2]) == [0]


def test_what_is_known_of_an_equation_holds_for_its_fraction():
    plain = ladder(2, 0, np.ones(2), "polynomial")[1]
    allowed = np.ones((2, plain.size), dtype=bool)
    allowed[0] = False
    allowed[1, plain.place[1, 1]] = False
    empty = np.zeros((2, plain.size))
    ruled = replace(plain, rules=Rules(allowed, empty > 0, empty, empty.astype(int), {}))
    library = Rational.of(ruled)
    assert not library.rules.allowed[0].any()
    assert not library.rules.allowed[1, library.place["above", str((1, 1))]]
    assert library.rules.allowed[1, library.place["above", str((1, 0))]]
    assert library.rules.allowed[1, library.kind == 2].all()


def shooting_on(field, starts, end, library, n=40):
    generator = np.random.default_rng(0)
    parts = []
    for start in starts:
        t = np.linspace(0, end, n)
        y = solve_ivp(field, (0, end), start, t_eval=t, rtol=1e-11, atol=1e-12).y.T
        y = y + 2e-3 * generator.standard_normal(y.shape)
        parts.append(Trajectory(t, y, np.zeros((n, 0))))
    data = Dataset(tuple(parts), ("x", "y")[: library.dim])
    shape = tuple(np.ones_like(part.y) for part in parts)
    shooting = Shooting(arrange(data, shape), library)
    return shooting, shooting.layout.starts(tuple(part.y for part in parts))


def test_the_search_exchanges_one_equation_after_the_other():
    library = Rational.of(Library(2, 2))
    shooting, start = shooting_on(toggle, [(0.1, 2.5), (2.5, 0.3)], 6, library)
    search = SubsetSearch(shooting, Budget(1e9, None))
    support = chosen(library, (["1", "x", "y"], [], []), (["1", "x", "y"], [], []))
    first = search.fit_starts([Start(support, np.zeros(6), start)])[0]
    view = look(search, first)
    assert promised(search, first, view, 2.0) > 50
    assert promised(search, first, view, 1e6) == 0
    best = exchanged(search, first, view)
    truth = chosen(library, (["x"], ["1"], ["y**2"]), (["y"], ["1"], ["x**2"]))
    assert best.support == truth
    np.testing.assert_allclose(best.c, [-1, 2, 1, -1, 3, 1], rtol=0.02)


def test_michaelis_menten_without_noise():
    equations = odekit.discover(observed(michaelis_menten, [2.5], 8, 0.0))
    x = sympy.Symbol("x0")
    numerator, denominator = sympy.fraction(sympy.together(equations.sympy()["x0"]))
    lead = sympy.Poly(denominator, x).all_coeffs()
    assert len(lead) == 2
    np.testing.assert_allclose(float(lead[0] / lead[1]), 1 / 0.3, rtol=1e-3)
    top = [float(c / lead[1]) for c in sympy.Poly(numerator, x).all_coeffs()]
    np.testing.assert_allclose(top, [0.6 / 0.3 - 5, 0.6], rtol=1e-3)
    assert equations.confident
    assert equations.diagnostics["library"].endswith("fractions")


@pytest.fixture(scope="module")
def noisy():
    return odekit.discover(observed(michaelis_menten, [2.5], 8, 0.01, seed=2))


def test_michaelis_menten_at_one_per_cent(noisy):
    assert [t.equation for t in noisy.terms] == ["x0", "x0"]
    assert noisy.terms[0].term == "1"
    assert noisy.terms[1].term.startswith("x0/(1 + 3.")
    assert noisy.terms[0].value == pytest.approx(0.6, rel=0.03)
    assert noisy.terms[1].value == pytest.approx(-5, rel=0.05)
    (below,) = noisy.diagnostics["denominators"]
    assert below["equation"], below["term"] == ("x0", "x0")
    assert below["value"] == pytest.approx(1 / 0.3, rel=0.05)
    assert below["low"] < 1 / 0.3 < below["high"]
    assert noisy.covariance.shape == (2, 2)
    for i, (term, truth) in enumerate(zip(noisy.terms, (0.6, -5), strict=True)):
        assert abs(term.value - truth) < 3 * term.stderr
        assert term.stderr == pytest.approx(np.sqrt(noisy.covariance[i, i]))
        assert 0 < term.inclusion <= 1


def test_a_fraction_works_wherever_equations_do(noisy, tmp_path):
    (below,) = noisy.diagnostics["denominators"]
    a, b, e = noisy.terms[0].value, noisy.terms[1].value, below["value"]
    x = 1.7
    expected = a + b * x / (1 + e * x)
    assert noisy.function()(0.0, [x])[0] == pytest.approx(expected, rel=1e-4)
    slope = noisy.field()(torch.tensor(0.0), torch.tensor([x], dtype=torch.float64))
    assert slope.tolist()[0] == pytest.approx(expected, rel=1e-4)
    times = np.linspace(0, 8, 9)
    exact = solve_ivp(michaelis_menten, (0, 8), [2.5], t_eval=times, rtol=1e-10).y.T
    np.testing.assert_allclose(noisy.simulate([2.5], times).y.numpy(), exact, atol=0.03)
    noisy.save(tmp_path / "equations.json")
    again = odekit.Equations.load(tmp_path / "equations.json")
    assert again.terms == noisy.terms
    assert again.diagnostics["denominators"] == noisy.diagnostics["denominators"]
    assert r"\frac" in noisy.latex()
    assert len(str(noisy)) < 50
    np.testing.assert_allclose(
        noisy.to_pysindy().predict(np.array([[x]]))[0, 0], expected, rtol=1e-4
    )


def test_terms_of_all_structures_within_reach_can_be_read(noisy):
    rows = noisy.diagnostics["inclusion"]
    own = {(term.equation, term.term): term.inclusion for term in noisy.terms}
    for row in rows:
        assert parse(row["term"], ["x0"]).free_symbols <= {sympy.Symbol("x0")}
    for pair, share in own.items():
        assert [r["inclusion"] for r in rows if (r["equation"], r["term"]) == pair] == [share]
    words = [row.difference for row in models.rows(noisy, 9)]
    assert any("/(1 + c*x0)" in text or "more in x0'" in text for text in words)
    assert not any("/(1 + 3" in text for text in words)
    missing = {(equation, form(term)) for equation, term, _ in models.further_terms(noisy)}
    assert ("x0", "x0/(1 + c*x0)") not in missing


def test_numbers_in_denominators_are_no_part_of_the_form():
    assert form("x*y/(1 - 1e-05*x + 2.5*y**2)") == "x*y/(1 + c*x + c*y**2)"
    assert form("2*x") == "2*x"


def test_one_noisy_decay_is_not_taken_for_a_polynomial_with_confidence():
    equations = odekit.discover(observed(michaelis_menten, [2.5], 8, 0.05))
    rational = equations.diagnostics["library"].endswith("fractions")
    assert rational or not equations.confident


def test_several_noisy_trajectories_settle_the_form():
    starts = ([2.5], [0.05], [1.2], [0.6])
    data = [observed(michaelis_menten, x, 8, 0.05, seed=i) for i, x in enumerate(starts)]
    equations = odekit.discover(data, library="rational", holdout=None)
    assert [term.term.split("/")[0] for term in equations.terms] == ["1", "x0"]
    (below,) = equations.diagnostics["denominators"]
    assert below["low"] < 1 / 0.3 < below["high"]
    for term, truth in zip(equations.terms, (0.6, -5), strict=True):
        assert abs(term.value - truth) < 3 * term.stderr


def test_a_toggle_switch_of_two_hill_functions():
    starts = ([0.1, 2.5], [2.5, 0.3], [0.2, 0.1])
    data = [observed(toggle, start, 8, 0.02, seed=i, n=80) for i, start in enumerate(starts)]
    equations = odekit.discover(data, library="rational", holdout=None)
    found = {
        term.equation: {
            t.term.split("/")[0]: t.value for t in equations.terms if t.equation == term.equation
        }
        for term in equations.terms
    }
    assert found.keys() == {"x0", "x1"}
    assert found["x0"] == pytest.approx({"x0": -1, "1": 2}, rel=0.1)
    assert found["x1"] == pytest.approx({"x1": -1, "1": 3}, rel=0.1)
    below = {row["equation"]: row for row in equations.diagnostics["denominators"]}
    assert {name: row["term"] for name, row in below.items()} == {"x0": "x1**2", "x1": "x0**2"}
    for row in below.values():
        assert row["value"] == pytest.approx(1, rel=0.15)
        assert abs(row["value"] - 1) < 3 * row["stderr"]


@pytest.mark.parametrize("name", ["lotka_volterra", "van_der_pol"])
def test_polynomial_systems_stay_polynomial(observe, structure_of, name):
    expected = {
        "lotka_volterra": {("x0", "x0"), ("x0", "x0*x1"), ("x1", "x1"), ("x1", "x0*x1")},
        "van_der_pol": {("x0", "x1"), ("x1", "x0"), ("x1", "x1"), ("x1", "x0**2*x1")},
    }[name]
    equations = odekit.discover(observe(name, 0.05), library="rational")
    assert structure_of(equations) == expected
    assert "denominators" not in equations.diagnostics
