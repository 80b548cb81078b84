"""One set of rules: the same equations on the same data are judged alike, found or given."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import odekit
from odekit import TimeSeries


def doubts(result):
    return [sentence for sentence in result.warnings if not sentence.startswith("Note: ")]


FIT = ("variance of", "residuals of", "seems to depend on", "departs from", "hardly moves")
"""What the doubts about a fit have in them; those about rivals say what a search has met."""


def of_the_fit(result):
    """Doubts about the fit, without their numbers."""
    found = [sentence for sentence in doubts(result) if any(word in sentence for word in FIT)]
    return {re.sub(r"[-+.e0-9]+", "", sentence) for sentence in found}


def as_formulas(equations):
    """The same equations with letters for their coefficients."""
    rows = {name: ["0"] for name in equations.names}
    for i, term in enumerate(equations.terms):
        rows[term.equation].append(f"k{i}*{term.term}")
    return {name: " + ".join(row) for name, row in rows.items()}


def walk():
    e = np.random.default_rng(100).standard_normal((75, 1)).cumsum(axis=0)
    return TimeSeries(np.arange(75.0), e)


def noisy(field, end, start, kept, seed=0):
    t = np.linspace(0, end, 75)
    x = solve_ivp(field, (0, end), start, t_eval=t, rtol=1e-9, atol=1e-11).y.T[:, kept]
    rows = np.random.default_rng(seed).standard_normal(x.shape)
    return TimeSeries(t, x + 0.05 * x.std(0) * rows)


def feed():
    """Grows by a feed that nobody recorded and that runs out."""
    return noisy(lambda t, x: [-x[0] + x[1], -0.3 * x[1]], 12, (0, 1), [0])


def epidemic():
    """Those who carry the disease already are not recorded."""

    def slope(t, x):
        return [-1.2 * x[0] * x[2], 1.2 * x[0] * x[2] - 0.5 * x[1], 0.5 * x[1] - 0.3 * x[2]]

    return noisy(slope, 40, (0.97, 0.02, 0.01), [0, 2])


@pytest.mark.parametrize("name", ["lotka_volterra", "van_der_pol"])
def test_a_good_case_is_believed_both_ways(observe, name):
    series = observe(name, 0.05)
    found = odekit.discover(series)
    assert found.confident, found.warnings
    for given in (found, as_formulas(found)):
        refined = odekit.refine(given, series)
        assert refined.confident, refined.warnings
        assert refined.diagnostics["fits"]


@pytest.mark.parametrize("make", [walk, feed, epidemic])
def test_a_bad_case_is_doubted_for_the_same_reasons(make):
    series = make()
    found = odekit.discover(series, degree=2)
    assert not found.confident
    refined = odekit.refine(found, series)
    assert not refined.confident
    assert of_the_fit(refined) == of_the_fit(found)
    assert refined.diagnostics["fits"] == found.diagnostics["fits"]
    given = odekit.refine(as_formulas(found), series)
    assert not given.confident
    assert len(doubts(given)) == len(doubts(refined))


def test_a_term_that_is_missing_is_named(observe):
    refined = odekit.refine({"x0": "x1", "x1": "-k*x0 - c*x1"}, observe("van_der_pol", 0.05))
    assert not refined.confident
    assert any("x1' seems to depend on x0**2*x1 besides" in s for s in doubts(refined))
    assert any("the model lacks a term" in sentence for sentence in doubts(refined))


def test_a_term_that_is_not_needed_is_named(observe):
    series = observe("damped", 0.05)
    refined = odekit.refine({"x0": "x1", "x1": "-k*x0 - c*x1 + q*x0^2"}, series)
    assert [s for s in doubts(refined) if "Not clear of zero" in s] == [
        "Not clear of zero within its standard error: q."
    ]


def test_each_of_several_trajectories_is_predicted_by_the_others(observe):
    good = [observe("damped", 0.05, seed=i, y0=(1 + i, 0.4)) for i in range(3)]
    model = {"x0": "x1", "x1": "-k*x0 - c*x1"}
    assert odekit.refine(model, good).confident
    t = np.linspace(0, 10, 75)
    other = solve_ivp(
        lambda t, x: [x[1], -9 * x[0] - 0.1 * x[1]], (0, 10), (1.5, 0.4), t_eval=t, rtol=1e-9
    ).y.T
    refined = odekit.refine(model, [*good, TimeSeries(t, other)])
    assert not refined.confident
    assert any(
        "does not predict" in sentence or "departs" in sentence for sentence in doubts(refined)
    )
