"""What a newcomer may hand to `odekit.refine`: an answer, or one line that says what to write."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
import torch

import odekit
from odekit import DiscoveryError, ProblemError, TimeSeries
from odekit_sindy.first_guess import linear_parameters

T = np.linspace(0, 3, 40)
X, K, Q = sympy.symbols("x k q")
Y = 2 * np.exp(-0.7 * T)
DECAY = {"x": "-k*x"}


def series(t=T, y=Y):
    return TimeSeries(t, y, names=["x"])


def noisy(level, y=Y):
    return series(y=y + level * np.random.default_rng(0).standard_normal(len(T)))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (-K * X, {}, "got Mul; sympy expressions need the name of their state"),
        ([-K * X], {}, "got list; sympy expressions need the name of their state"),
        (sympy.Eq(X, -K * X), {}, "got Equality"),
        ("-k*x", {}, "is no equation: write it as"),
        ("x' = -2x", {}, "write the product 2*x with its star"),
        ({"x'": "-k*x"}, {}, "write 'x'"),
        ({}, {}, "model has no formula"),
        (None, {}, "got NoneType"),
        (lambda t, x: -x, {}, "got function"),
        ({X: sympy.I * X}, {}, "is not a finite real number"),
        ({X: sympy.oo * X}, {}, "is not a finite real number"),
        ({X: sympy.Piecewise((-K * X, X > 1), (0, True))}, {}, "is not a known function"),
        ({"x": "-k*x + q - q"}, {}, "model: q cancels out of the formulas"),
        ({"x": "-k*log(x - 10)"}, {}, "x' = -k*log(x - 10) has no real value at the data"),
        (DECAY, {"start": [1.0]}, "start must be a mapping, such as {'k': 1.0}"),
        (DECAY, {"start": {"k": np.nan}}, "start: k must be a finite number"),
        (DECAY, {"bounds": [(0, 1)]}, "bounds must be a mapping"),
        (DECAY, {"bounds": {"k": ("a", 1)}}, "bounds: k needs numbers"),
        (DECAY, {"fix": 3}, "fix must be names, such as ['k']"),
        (DECAY, {"positive": True}, "positive must be names"),
    ],
)
def test_one_clear_line(model, options, words):
    with pytest.raises(ProblemError) as refused:
        odekit.refine(model, series(), **options)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_data_that_say_nothing():
    with pytest.raises(DiscoveryError, match="'x' has 2 observed values, at least 8"):
        odekit.refine(DECAY, series(T[:2], Y[:2]))
    with pytest.raises(DiscoveryError, match="'x' is constant"):
        odekit.refine(DECAY, series(y=np.ones(40)))
    with pytest.raises(ProblemError, match="series must be a TimeSeries"):
        odekit.refine(DECAY, Y)


def test_symbols_of_sympy_name_parameters():
    refined = odekit.refine({X: -K * X}, series(), start={K: 1.0}, positive=[K], bounds={K: (0, 9)})
    assert refined.values["k"] == pytest.approx(0.7, rel=1e-5)
    held = odekit.refine({X: -K * X + Q}, series(), fix={Q: 0.0})
    assert held.values["q"] == 0.0


def test_missing_cells_and_single_precision():
    y = torch.tensor(Y, dtype=torch.float32)
    y[3] = torch.nan
    refined = odekit.refine(DECAY, series(torch.tensor(T, dtype=torch.float32), y))
    assert refined.values["k"] == pytest.approx(0.7, rel=1e-4)
    assert isinstance(refined.values["k"], float)


@pytest.mark.parametrize(("time", "state"), [(1e8, 1e12), (1e-9, 1e-12)])
def test_units_of_any_size(time, state):
    refined = odekit.refine(DECAY, series(T * time, Y * state))
    assert refined.values["k"] == pytest.approx(0.7 / time, rel=1e-4)
    assert refined.confident


@pytest.mark.parametrize(("shift", "level"), [(0.0, 0.0), (1e6, 0.0), (0.0, 0.02)])
def test_data_far_from_zero(shift, level):
    far = noisy(level, 1e5 + Y)
    refined = odekit.refine({"x": "-k*(x - c)"}, series(T + shift, far.y[:, 0]))
    table = refined.parameters
    for name, value in (("k", 0.7), ("c", 1e5)):
        error = max(3 * table.loc[name, "stderr"], 1e-5 * value)
        assert abs(refined.values[name] - value) < error
    assert refined.confident or not level, refined.warnings
    assert "c = 1e+05" not in str(refined)  # it is known to nine digits


def test_either_factor_of_a_product_can_be_solved_for():
    rights = [sympy.sympify("-k*(x - c)"), sympy.sympify("a*x")]
    assert linear_parameters(rights, ["k", "c", "a"]) == [0, 2]
    assert linear_parameters(rights, ["k", "c", "a"], backwards=True) == [1, 2]


def test_a_parameter_that_does_not_matter_has_no_error():
    refined = odekit.refine({"x": "-k*x + q*x*(x - abs(x))"}, noisy(0.01, Y + 1))
    table = refined.parameters
    assert np.isnan(table.loc["q", "stderr"])
    assert table.loc["k", "stderr"] > 0
    assert any("Nothing in these data depends on q" in s for s in refined.warnings)
    assert not any("condition number" in sentence for sentence in refined.warnings)
    assert not refined.confident


def test_parameters_that_matter_only_together_have_no_errors_of_their_own():
    refined = odekit.refine({"x": "-k*q*x + c*0.001"}, noisy(0.01), fix={"c": 0.0})
    assert refined.values["k"] * refined.values["q"] == pytest.approx(0.7, rel=0.02)
    assert refined.parameters.loc[["k", "q"], "stderr"].isna().all()
    assert np.isnan(refined.covariance[:2, :2]).all()
    assert any("barely tell k and q apart" in sentence for sentence in refined.warnings)
    assert not refined.confident


def test_an_earlier_fit_is_begun_where_it_ended(tmp_path):
    first = odekit.refine({"x": "-k*x + q"}, noisy(0.01), fix={"q": 0.01})
    again = odekit.refine(first, noisy(0.01))
    assert again.values == pytest.approx(first.values, rel=1e-6)
    assert again.parameters.loc["q", "held"]
    freed = odekit.refine(first.formulas, noisy(0.01), start=first.values)
    assert not freed.parameters["held"].any()
    path = tmp_path / "m.json"
    again.save(path)
    assert odekit.Refined.load(path).values == again.values
