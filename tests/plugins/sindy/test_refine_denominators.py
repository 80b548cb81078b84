"""`odekit.refine` of equations with fractions: the numbers in denominators are parameters too."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import t as student

import odekit
from odekit import Equations, ProblemError, TimeSeries
from odekit.formulas import parse
from odekit_sindy.denominators import Denominators


def enzyme(noise, seed=0, n=40):
    generator = np.random.default_rng(seed)
    t = np.linspace(0, 2.5, n)
    s = solve_ivp(
        lambda t, s: -1.5 * s / (0.3 + s), (0, 2.5), [2.0], t_eval=t, rtol=1e-10, atol=1e-12
    ).y[0]
    return TimeSeries(t, s + noise * s.std() * generator.standard_normal(n), names=["s"])


@pytest.mark.parametrize(
    "text",
    [
        "x/(1 + 3.404*x)",
        "x/(0.3 + x)",
        "x*y/(1 - 0.5*x**2 + 2*y)**2",
        "1/(1 + x/(2 + y))",
        "exp(-x)/(2 + 3*x)",
        "x/(x - 1)",
        "sin(x/(1 + y))",
    ],
)
def test_numbers_are_taken_out_and_put_back(text):
    found = Denominators("c")
    expression = parse(text, "xy")
    opened = found.opened("term", "x", expression)
    values = {number.name: number.value for number in found.numbers}
    assert values
    assert opened.subs(values).subs({"x": 0.7, "y": 1.3}) == pytest.approx(
        float(expression.subs({"x": 0.7, "y": 1.3}))
    )
    shown = {name: f"{value:g}" for name, value in values.items()}
    again = parse(found.refilled("term", text, shown), "xy")
    assert float(again.subs({"x": 0.7, "y": 1.3})) == pytest.approx(
        float(expression.subs({"x": 0.7, "y": 1.3}))
    )


def test_one_number_of_each_denominator_stays_and_terms_of_an_equation_share():
    found = Denominators("c")
    for i, text in enumerate(["x/(1 + 2*x)", "y/(1 + 2*x)", "x/(0.3 + x)", "x/(3*y)"]):
        found.opened(str(i), "x", parse(text, "xy"))
    found.opened("other", "y", parse("x/(1 + 2*x)", "xy"))
    numbers = [(n.equation, n.term, n.value) for n in found.numbers]
    assert numbers == [("x", "x", 2.0), ("x", "1", 0.3), ("y", "x", 2.0)]
    assert ("y", "x in the denominator") in found.labels()
    assert ("x", "1 in the denominator 0.3 + x") in found.labels()


@pytest.mark.parametrize(
    ("term", "begin", "truth"),
    [("s/(1 + 2*s)", -3.0, (-5.0, 10 / 3)), ("s/(0.5 + s)", -1.0, (-1.5, 0.3))],
)
def test_michaelis_menten_from_rough_numbers(term, begin, truth):
    refined = odekit.refine(Equations(["s"], [("s", term, begin)]), enzyme(0.02))
    (row,) = refined.diagnostics["denominators"]
    found = refined.terms[0]
    for value, error, true in (
        (found.value, found.stderr, truth[0]),
        (row["value"], row["stderr"], truth[1]),
    ):
        assert 0 < error < 0.2 * abs(true)
        assert abs(value - true) < 3 * error
    assert refined.degrees_of_freedom == 40 - 3
    assert row["high"] - row["low"] == pytest.approx(2 * student.ppf(0.975, 37) * row["stderr"])
    # The formula says what the table says, to a thousandth of the error.
    slope = float(refined.sympy()["s"].subs({"s": 1.0}))
    below = (1 + row["value"]) if truth[1] > 1 else (row["value"] + 1)
    assert slope == pytest.approx(found.value / below, abs=1e-2 * found.stderr)
    assert refined.score[0] > 0.99


def test_errors_are_those_of_the_formula_with_parameters():
    series = enzyme(0.03, seed=2)
    terms = odekit.refine(Equations(["s"], [("s", "s/(0.5 + s)", -1.0)]), series)
    formula = odekit.refine({"s": "-vmax*s/(km + s)"}, series)
    table = formula.parameters
    assert terms.terms[0].value == pytest.approx(-table.loc["vmax", "value"], rel=1e-4)
    assert terms.terms[0].stderr == pytest.approx(table.loc["vmax", "stderr"], rel=1e-2)
    row = terms.diagnostics["denominators"][0]
    assert row["value"] == pytest.approx(table.loc["km", "value"], rel=1e-4)
    assert row["stderr"] == pytest.approx(table.loc["km", "stderr"], rel=1e-2)


def test_intervals_of_the_denominator_cover_the_truth():
    z = []
    for seed in range(20):
        refined = odekit.refine(Equations(["s"], [("s", "s/(0.5 + s)", -1.0)]), enzyme(0.05, seed))
        row = refined.diagnostics["denominators"][0]
        z.append((row["value"] - 0.3) / row["stderr"])
    assert np.mean(np.abs(z) < 1.96) >= 0.8
    assert 0.6 < np.std(z) < 1.5


def test_a_number_in_a_denominator_can_be_held_bounded_and_started():
    rough = Equations(["s"], [("s", "s/(0.3 + s)", -1.0)])
    key = ("s", "1 in the denominator")
    held = odekit.refine(rough, enzyme(0.02), fix=[key])
    row = held.diagnostics["denominators"][0]
    assert (row["value"], row["stderr"]) == (0.3, 0.0)
    assert held.terms[0].term == "s/(0.3 + s)"
    bounded = odekit.refine(rough, enzyme(0.02), bounds={key: (0.5, 2.0)})
    row = bounded.diagnostics["denominators"][0]
    assert row["value"] == pytest.approx(0.5, rel=1e-3)
    assert row["stderr"] is None
    assert any("At a bound" in sentence for sentence in bounded.warnings)
    with pytest.raises(ProblemError, match="1 in the denominator in s'"):
        odekit.refine(rough, enzyme(0.02), fix=[("s", "s**2")])


def test_what_discovery_found_is_fitted_again_with_its_denominators(tmp_path):
    series = odekit.create("system", "michaelis_menten").series(n=150, noise=0.0, drop=0.5)
    found = odekit.discover(series, library="rational", degree=1)
    again = odekit.refine(found, series)
    assert [term.equation for term in again.terms] == [term.equation for term in found.terms]
    before, after = (e.diagnostics["denominators"] for e in (found, again))
    assert [row["term"] for row in after] == [row["term"] for row in before]
    for one, two in zip(before, after, strict=True):
        assert two["value"] == pytest.approx(one["value"], abs=one["stderr"] + 1e-3 * one["value"])
    assert min(again.score) > 1 - 1e-4
    path = tmp_path / "m.json"
    again.save(path)
    assert Equations.load(path).diagnostics["denominators"] == after
