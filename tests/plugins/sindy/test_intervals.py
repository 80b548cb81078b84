"""Intervals of 95 % cover the truth in 90 to 98 of 100 cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

import odekit

TRUTH = {
    "lotka_volterra": {
        ("x0", "x0"): 1.5,
        ("x0", "x0*x1"): -1.0,
        ("x1", "x1"): -3.0,
        ("x1", "x0*x1"): 1.0,
    },
    "damped": {("x0", "x1"): 1.0, ("x1", "x0"): -4.5, ("x1", "x1"): -0.43},
    "logistic": {("x0", "x0"): 0.8, ("x0", "x0**2"): -0.1067},
    "sir": {("x0", "x0*x1"): -0.9, ("x1", "x1"): -0.3, ("x1", "x0*x1"): 0.9},
    "van_der_pol": {
        ("x0", "x1"): 1.0,
        ("x1", "x0"): -1.0,
        ("x1", "x1"): 1.2,
        ("x1", "x0**2*x1"): -1.2,
    },
}


def z_scores(observe, name, seeds):
    """Errors over standard errors of all coefficients, where the structure is right."""
    out = []
    for seed in seeds:
        equations = odekit.discover(observe(name, 0.05, seed))
        found = {(t.equation, t.term): t for t in equations.terms}
        if found.keys() == TRUTH[name].keys():
            out += [(found[k].value - v) / found[k].stderr for k, v in TRUTH[name].items()]
    return out


def test_intervals_are_neither_narrow_nor_wide(observe):
    z = np.array([v for name in ("damped", "logistic") for v in z_scores(observe, name, range(12))])
    assert len(z) >= 50
    assert 0.86 <= np.mean(np.abs(z) < 1.96) <= 1.0
    assert 0.75 < np.sqrt(np.mean(z**2)) < 1.3


def test_discovery_passes_on_what_the_residuals_leave(observe):
    series = observe("damped", 0.05, 0)
    equations = odekit.discover(series)
    values, numbers = series.y.numel(), len(equations.terms) + 2
    assert equations.degrees_of_freedom == (values - numbers) / 2
    row = equations.coefficients.iloc[0]
    width = student.ppf(0.975, equations.degrees_of_freedom) * row["stderr"]
    assert row["high"] - row["value"] == pytest.approx(width)


@pytest.mark.slow
def test_coverage(observe):
    z = np.array([v for name in TRUTH for v in z_scores(observe, name, range(20))])
    assert len(z) > 250
    assert 0.90 <= np.mean(np.abs(z) < 1.96) <= 0.98
