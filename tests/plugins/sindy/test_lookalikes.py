"""Look-alikes are fitted: they end up among the alternatives, or they are the answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import odekit
from odekit import Equations, TimeSeries
from odekit.formulas import parse
from odekit_sindy import lookalikes
from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.layout import arrange
from odekit_sindy.probes import probes


def observed(field, end, y0, seed=0, noise=0.05, unit=1.0):
    t = np.linspace(0, end, 75)
    y = solve_ivp(field, (0, end), y0, t_eval=t, rtol=1e-9, atol=1e-11).y.T
    y = y + noise * y.std(0) * np.random.default_rng(seed).standard_normal(y.shape)
    return TimeSeries(t, unit * y, names=["x", "y"][: y.shape[1]])


def gompertz(t, x):
    return [0.5 * x[0] * np.log(10 / x[0])]


@pytest.fixture(scope="module")
def growth():
    return odekit.discover(observed(gompertz, 12, (0.3,), seed=1))


def test_a_form_that_does_better_is_the_answer_and_never_certain(growth):
    """No polynomial is Gompertz's law; with the logarithm two terms are enough."""
    plain, bent = sorted(growth.terms, key=lambda term: len(term.term))
    assert plain.term == "x"
    assert bent.term.startswith("x*log(")
    rate = float(bent.term.removeprefix("x*log(").split("*")[0])
    assert bent.value == pytest.approx(-0.5, abs=3 * bent.stderr)
    ceiling = np.exp(-plain.value / bent.value) / rate
    assert ceiling == pytest.approx(10, rel=0.05)
    assert not growth.confident
    assert any("come from" in text or "No library has x*log(" in text for text in growth.warnings)


def test_what_was_tried_is_no_longer_a_guess(growth):
    named = {item["function"] for item in growth.diagnostics["lookalikes"]}
    assert "x times a logarithm of x" not in named
    assert growth.diagnostics["ladder"][-1]["library"].endswith(")")  # with its formulas


def test_the_answer_survives_its_file_and_another_unit(growth, tmp_path):
    growth.save(tmp_path / "growth.json")
    assert Equations.load(tmp_path / "growth.json").terms == growth.terms
    larger = odekit.discover(observed(gompertz, 12, (0.3,), seed=1, unit=1e4))
    value, twin = (
        next(term.value for term in each.terms if "log" in term.term) for each in (growth, larger)
    )
    assert twin == pytest.approx(value, rel=1e-2)


def test_a_look_alike_that_is_not_better_has_its_weight_among_the_alternatives():
    """A root of the state: a straight line fits as well, and so do other bends."""
    series = observed(lambda t, x: [1 - np.sqrt(abs(x[0]))], 10, (4.0,))
    equations = odekit.discover(series)
    forms = {
        (term.term.split("(")[0], alternative.weight)
        for alternative in equations.alternatives
        for term in alternative.equations.terms
        if "(" in term.term
    }
    assert {name for name, _ in forms} >= {"exp", "log"}
    assert all(0 < weight < equations.diagnostics["weight"] for _, weight in forms)
    total = equations.diagnostics["weight"] + sum(a.weight for a in equations.alternatives)
    assert total == pytest.approx(1.0, abs=1e-6)


def test_products_that_a_larger_library_has_are_tried(monkeypatch, observe):
    """A product of degree three offered to a search of degree two is fitted and weighed."""
    examine = lookalikes.examine

    def eager(*args, **options):
        found = examine(*args, **options)
        near = [
            lookalikes.replace(f, change=-1.0)
            for f in found.alike
            if (f.probe, f.replaced) == ("x0*x1**2", ("x0*x1",))
        ]
        return lookalikes.replace(found, alike=tuple(near))

    monkeypatch.setattr(lookalikes, "examine", eager)
    visited = []
    judge = lookalikes.SubsetSearch.judge

    def watched(self, models):
        visited.extend((self.shooting.dynamics, fit) for fit in judge(self, models))
        return judge(self, models)

    monkeypatch.setattr(lookalikes.SubsetSearch, "judge", watched)
    equations = odekit.discover(observe("lotka_volterra", 0.05), degree=2)
    cubic = [fit for library, fit in visited if library.degree == 3]
    assert len(cubic) >= 2
    assert all(np.isfinite(fit.ebic) for fit in cubic)
    assert {term.term for term in equations.terms} == {"x0", "x1", "x0*x1"}
    assert equations.diagnostics["lookalikes"] == []


def test_formulas_are_the_probes_up_to_a_factor_and_their_scale_to_three_digits():
    t = np.linspace(0, 6, 50)
    units = np.array([20.0, 0.3])
    x = np.column_stack([np.sin(t), 1.5 + np.cos(t)])
    data = Dataset((Trajectory(t, x, np.zeros((50, 0))),), ("x", "y"))
    layout = arrange(data, (np.ones_like(x),))
    nodes = layout.y
    tried = [p for p in probes(layout, nodes, ["x", "y"], [[], []], [], units) if p.formula]
    assert {p.kind for p in tried} == {"term", "form"}
    import sympy

    points = x[5:45].T
    for probe in tried:
        call = sympy.lambdify(sympy.symbols("x y"), parse(probe.formula, ["x", "y"]), "numpy")
        value = np.broadcast_to(call(*(points * units[:, None])), points.shape[1])
        own = probe.values(points)
        factor = value @ own / (own @ own)
        assert np.abs(value - factor * own).max() < 0.03 * np.abs(value).max(), probe.formula
