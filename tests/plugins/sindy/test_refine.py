"""`odekit.refine`: parameters of any model, against the truth behind the data."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
import torch
from scipy.integrate import solve_ivp

import odekit
from odekit import DiscoveryError, Equations, ProblemError, Refined, Term

MENTEN = {"s": "-vmax*s/(km + s)"}
VOLTERRA = {"x": "a*x - b*x*y", "y": "-c*y + d*x*y"}


def watched(field, span, y0, n, noise, seed, names, **options):
    """Irregular observations with additive noise, a share of each state's standard deviation."""
    generator = np.random.default_rng(seed)
    t = np.sort(generator.uniform(*span, n))
    t[0] = span[0]
    x = solve_ivp(field, span, y0, t_eval=t, rtol=1e-10, atol=1e-12).y.T
    y = x + noise * x.std(0) * generator.standard_normal(x.shape)
    return odekit.TimeSeries(t, y, names=names, **options)


def enzyme(noise, seed=0, n=40):
    return watched(lambda t, s: -1.5 * s / (0.3 + s), (0, 2.5), [2.0], n, noise, seed, ["s"])


def predators(noise, seed=0, n=75, **options):
    def field(t, x):
        return [1.5 * x[0] - x[0] * x[1], -3 * x[1] + x[0] * x[1]]

    return watched(field, (0, 10), (5, 2), n, noise, seed, ["x", "y"], **options)


def agrees(refined, truth, errors=3.0, relative=None):
    """Whether all parameters are within some standard errors, or a share, of the truth."""
    table = refined.parameters
    for name, value in truth.items():
        row = table.loc[name]
        near = errors * row["stderr"] if relative is None else relative * abs(value)
        assert abs(row["value"] - value) <= near, (name, row["value"], row["stderr"])
        assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_michaelis_menten(noise):
    refined = odekit.refine(MENTEN, enzyme(noise))
    assert isinstance(refined, Refined)
    truth = {"vmax": 1.5, "km": 0.3}
    agrees(refined, truth, relative=1e-3) if noise == 0 else agrees(refined, truth)
    assert refined.confident, refined.warnings
    assert refined.score[0] > 0.99


def test_intervals_cover_the_truth():
    z = []
    for seed in range(30):
        table = odekit.refine(MENTEN, enzyme(0.05, seed)).parameters
        z += list((table["value"] - [1.5, 0.3]) / table["stderr"])
    assert 0.86 <= np.mean(np.abs(z) < 1.96) <= 1.0
    assert 0.7 < np.std(z) < 1.3


def test_intervals_cover_the_truth_with_few_data():
    """Eight values of each of four states, whose noise levels are all estimated."""
    rates, names = np.array([0.7, 1.0, 1.3, 1.6]), ["a", "b", "c", "d"]
    t = np.linspace(0, 2, 8)
    x = 2 * np.exp(-np.outer(t, rates))
    formulas = {name: f"-k{name}*{name}" for name in names}
    inside, normal = [], []
    for seed in range(20):
        y = x + 0.05 * np.random.default_rng(seed).standard_normal(x.shape)
        series = odekit.TimeSeries(t, y, names=names)
        refined = odekit.refine(formulas, series, noise="additive")
        assert refined.degrees_of_freedom == 8 - 2
        table = refined.parameters
        inside += list((table["low"] <= rates) & (rates <= table["high"]))
        normal += list(np.abs(table["value"] - rates) < 1.96 * table["stderr"])
    assert np.mean(normal) < 0.93
    assert 0.93 < np.mean(inside) < 0.98


def test_parameters_that_were_not_fitted_leave_degrees_of_freedom():
    free = odekit.refine(MENTEN, enzyme(0.05)).degrees_of_freedom
    held = odekit.refine(MENTEN, enzyme(0.05), fix={"km": 0.3}).degrees_of_freedom
    bound = odekit.refine(MENTEN, enzyme(0.05), bounds={"km": (0.6, 1.0)}).degrees_of_freedom
    assert (free, held, bound) == (40 - 3, 40 - 2, 40 - 2)


def test_lotka_volterra_from_a_bad_start_and_from_none():
    series = predators(0.05, 2)
    truth = {"a": 1.5, "b": 1.0, "c": 3.0, "d": 1.0}
    lost = odekit.refine(VOLTERRA, series, start={"a": 0.1, "b": 20.0, "c": 0.2, "d": 5.0})
    drawn = odekit.refine(VOLTERRA, series)
    agrees(drawn, truth)
    np.testing.assert_allclose(list(lost.values.values()), list(drawn.values.values()), rtol=1e-3)


def test_the_same_answer_every_time():
    series = enzyme(0.05)
    one, two = (odekit.refine(MENTEN, series) for _ in range(2))
    assert one.values == two.values
    np.testing.assert_array_equal(one.covariance, two.covariance)


def test_pendulum_of_unknown_length():
    def field(t, x):
        return [x[1], -9.81 / 0.7 * np.sin(x[0])]

    series = watched(field, (0, 6), (2.5, 0), 80, 0.05, 3, ["angle", "speed"])
    model = {"angle": "speed", "speed": "-g/l*sin(angle)"}
    refined = odekit.refine(model, series, fix={"g": 9.81})
    agrees(refined, {"l": 0.7})
    assert refined.parameters.loc["g"].tolist() == [9.81, 0.0, 9.81, 9.81, True]
    np.testing.assert_array_equal(refined.covariance[0], 0.0)
    named = odekit.refine(model, series, start={"g": 9.81}, fix=["g"])
    assert named.values == refined.values
    # Gravity and length occur as a quotient only.
    both = odekit.refine(model, series, positive=["g", "l"])
    assert not both.confident
    assert any("barely tell g and l apart" in sentence for sentence in both.warnings)
    assert both.values["g"] / both.values["l"] == pytest.approx(9.81 / 0.7, rel=0.03)


def test_epidemic_with_two_trajectories():
    def field(t, x):
        return [-0.9 * x[0] * x[1], 0.9 * x[0] * x[1] - 0.3 * x[1]]

    series = [
        watched(field, (0, 25), (0.98, 0.02), 40, 0.03, 5, ["S", "I"]),
        watched(field, (10, 30), (0.6, 0.1), 30, 0.03, 6, ["S", "I"]),
    ]
    refined = odekit.refine(["S' = -beta*S*I", "I' = beta*S*I - gamma*I"], series)
    agrees(refined, {"beta": 0.9, "gamma": 0.3})
    assert refined.starts.shape == (2, 2)
    np.testing.assert_allclose(refined.starts, [(0.98, 0.02), (0.6, 0.1)], atol=0.01)
    assert len(refined.score) == 2


def grazers(factor=(1.0, 1.0), slower=1.0):
    def field(t, x):
        eaten = x[0] * x[1] / (1 + 0.8 * x[0])
        return [x[0] * (1 - x[0] / 3) - 1.2 * eaten, 0.7 * eaten - 0.4 * x[1]]

    series = watched(field, (0, 30), (1.0, 0.5), 120, 0.03, 7, ["n", "p"])
    return odekit.TimeSeries(series.t * slower, series.y.numpy() * factor, names=["n", "p"])


def test_rational_model_and_units_that_differ_by_orders_of_magnitude():
    model = {"n": "r*n*(1 - n/K) - a*n*p/(1 + h*n)", "p": "b*n*p/(1 + h*n) - m*p"}
    truth = {"r": 1.0, "K": 3.0, "a": 1.2, "h": 0.8, "b": 0.7, "m": 0.4}
    refined = odekit.refine(model, grazers())
    agrees(refined, truth)
    scaled = odekit.refine(model, grazers((1e6, 1e-3), 1e3))
    unit = {"r": 1e-3, "K": 1e6, "a": 1.0, "h": 1e-6, "b": 1e-9, "m": 1e-3}
    for name, value in refined.values.items():
        assert scaled.values[name] == pytest.approx(value * unit[name], rel=1e-3)
        errors = scaled.parameters.loc[name, "stderr"], refined.parameters.loc[name, "stderr"]
        assert errors[0] == pytest.approx(errors[1] * unit[name], rel=1e-2)


def test_a_state_that_was_not_observed():
    def field(t, x):
        return [x[1], -4 * x[0] - 0.4 * x[1]]

    both = watched(field, (0, 8), (1.0, 0.5), 80, 0.03, 8, ["x", "v"])
    series = odekit.TimeSeries(both.t, both.y[:, :1], names=["x"])
    refined = odekit.refine({"x": "v", "v": "-k*x - c*v"}, series)
    agrees(refined, {"k": 4.0, "c": 0.4})
    assert refined.diagnostics["hidden"] == ["v"]
    assert refined.starts[0, 1] == pytest.approx(0.5, abs=0.1)


def test_a_predator_that_nobody_counted():
    series = predators(0.03, 1)
    prey = odekit.TimeSeries(series.t, series.y[:, :1], names=["x"])
    model = {"x": "a*x - x*y", "y": "-c*y + d*x*y"}
    agrees(odekit.refine(model, prey), {"a": 1.5, "c": 3.0, "d": 1.0})


@pytest.mark.parametrize("seed", [0, 3])
def test_noise_beyond_the_domain_of_a_logarithm(seed):
    def field(t, x):
        return 0.7 * x * np.log(5 / x)

    series = watched(field, (0, 8), [0.1], 40, 0.05, seed, ["x"])
    assert float(series.y.min()) < 0
    agrees(odekit.refine({"x": "r*x*log(K/x)"}, series), {"r": 0.7, "K": 5.0})


def test_time_in_the_formula():
    def field(t, x):
        return [x[1], -2 * x[0] - 0.3 * x[1] + 1.1 * np.cos(1.7 * t)]

    series = watched(field, (3, 23), (1.0, 0.0), 120, 0.05, 8, ["x", "v"], time_name="year")
    model = {"x": "v", "v": "-k*x - c*v + F*cos(w*year)"}
    refined = odekit.refine(model, series)
    agrees(refined, {"k": 2.0, "c": 0.3, "F": 1.1, "w": 1.7})
    assert refined.time == "year"
    again = refined.simulate(refined.starts[0], series.t).y
    assert float((again - series.y).abs().max()) < 0.3


def test_inputs():
    t = np.linspace(0, 10, 101)
    u = np.where(t < 4, 1.0, 0.2)
    truth = solve_ivp(
        lambda s, x: -0.8 * x + 2.0 * np.interp(s, t, u) / (1 + x),
        (0, 10), [0.0], t_eval=t, rtol=1e-9, atol=1e-10, max_step=0.05,
    ).y.T  # fmt: skip
    noise = 0.02 * np.random.default_rng(0).standard_normal(truth.shape)
    series = odekit.TimeSeries(
        t, truth + noise, np.stack([t * 0, u], 1), ["x"], input_names=["idle", "drug"]
    )
    refined = odekit.refine({"x": "-k*x + g*drug/(1 + x)"}, series)
    agrees(refined, {"k": 0.8, "g": 2.0})
    assert refined.inputs == ("drug",)


def test_chaos():
    def field(t, x):
        return [10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]

    series = watched(field, (0, 8), (-8, 7, 27), 200, 0.05, 9, ["x", "y", "z"])
    model = {"x": "s*(y - x)", "y": "x*(r - z) - y", "z": "x*y - b*z"}
    refined = odekit.refine(model, series, start={"s": 1.0, "r": 5.0, "b": 1.0})
    agrees(refined, {"s": 10.0, "r": 28.0, "b": 8 / 3})


def test_bounds_hold_and_are_named():
    refined = odekit.refine(MENTEN, enzyme(0.02), bounds={"km": (0.4, 2.0), "vmax": (None, 9.0)})
    assert refined.values["km"] == pytest.approx(0.4, rel=1e-3)
    assert any("At a bound" in sentence and "km" in sentence for sentence in refined.warnings)
    assert np.isnan(refined.parameters.loc["km", "stderr"])
    assert refined.parameters.loc["vmax", "stderr"] > 0
    assert not refined.confident
    # A bound that is not reached changes nothing.
    free = odekit.refine(MENTEN, enzyme(0.02))
    wide = odekit.refine(MENTEN, enzyme(0.02), positive=["km", "vmax"])
    np.testing.assert_allclose(list(wide.values.values()), list(free.values.values()), rtol=1e-3)
    np.testing.assert_allclose(wide.covariance, free.covariance, rtol=0.02)


def test_a_wrong_model_is_no_confident_answer():
    refined = odekit.refine({"x": "a*x", "y": "-c*y + d*x"}, predators(0.02))
    assert not refined.confident
    assert any("is left unexplained" in sentence for sentence in refined.warnings)


def test_multiplicative_noise_is_noticed():
    clean = predators(0.0, 3, n=120)
    generator = np.random.default_rng(4)
    y = clean.y.numpy() * (1 + 0.1 * generator.standard_normal(clean.y.shape))
    refined = odekit.refine(VOLTERRA, odekit.TimeSeries(clean.t, y, names=["x", "y"]))
    assert refined.diagnostics["noise"] != "additive"
    agrees(refined, {"a": 1.5, "b": 1.0, "c": 3.0, "d": 1.0})


def test_missing_cells_and_rows_and_single_precision():
    series = predators(0.03, 4, n=100)
    y = series.y.clone()
    y[torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = torch.nan
    y[10:14] = torch.nan
    refined = odekit.refine(VOLTERRA, odekit.TimeSeries(series.t, y.float(), names=["x", "y"]))
    agrees(refined, {"a": 1.5, "b": 1.0, "c": 3.0, "d": 1.0})
    assert refined.diagnostics["values"] == int(y.isfinite().sum())
    assert refined.starts.dtype == np.float64


def test_sympy_expressions_with_assumptions_and_constants():
    s, km, vmax = sympy.symbols("s km vmax", positive=True)
    refined = odekit.refine({s: -vmax * s / (km + s)}, enzyme(0.02))
    text = odekit.refine(MENTEN, enzyme(0.02))
    assert refined.values == pytest.approx(text.values, rel=1e-6)
    assert refined.sympy(values=False)["s"] == text.sympy(values=False)["s"]


def test_a_parameter_may_be_called_e():
    renamed = odekit.refine({"s": "-e*s/(km + s)"}, enzyme(0.02))
    assert renamed.values["e"] == pytest.approx(1.5, rel=0.1)
    t = np.linspace(0, 2, 30)
    series = odekit.TimeSeries(t, np.exp(-np.exp(-t)), names=["x"])
    assert odekit.refine({"x": "k*x*e^(-t)"}, series).values == {"k": pytest.approx(1.0, rel=1e-4)}


def test_nothing_to_fit_but_the_starts():
    refined = odekit.refine({"s": "-1.5*s/(0.3 + s)"}, enzyme(0.02))
    assert refined.values == {}
    assert refined.starts[0, 0] == pytest.approx(2.0, abs=0.03)
    assert refined.confident, refined.warnings


def test_equations_keep_their_terms():
    rough = Equations(
        ["x", "y"],
        [("x", "x", 1.0), ("x", "x*y", -0.5), ("y", "y", -2.0), ("y", "x*y", 2.0)],
    )
    refined = odekit.refine(rough, predators(0.03, 5))
    assert isinstance(refined, Equations)
    assert [term[:2] for term in refined.terms] == [term[:2] for term in rough.terms]
    for term, value in zip(refined.terms, (1.5, -1.0, -3.0, 1.0), strict=True):
        assert abs(term.value - value) < 3 * term.stderr
    assert refined.confident, refined.warnings
    assert refined.score[0] > 0.98
    np.testing.assert_allclose(
        np.sqrt(np.diag(refined.covariance)), [term.stderr for term in refined.terms]
    )
    held = odekit.refine(rough, predators(0.03, 5), fix={("x", "y*x"): -1.0})
    assert held.terms[1] == Term("x", "x*y", -1.0, 0.0)
    stay = odekit.refine(rough, predators(0.03, 5), fix=[("x", "x*y")])
    assert stay.terms[1].value == -0.5
    assert not stay.confident


def test_agrees_with_the_refit_of_discovery(observe):
    series = observe("damped", 0.03)
    found = odekit.discover(series)
    again = odekit.refine(found, series)
    for one, two in zip(found.terms, again.terms, strict=True):
        assert two.value == pytest.approx(one.value, abs=0.05 * one.stderr)
        assert two.stderr == pytest.approx(one.stderr, rel=0.05)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({"z": "-k*z"}, {}, "none of its states (z) is in the series, which has hare, lynx"),
        ({"hair": "-k*hair", "lynx": "0"}, {}, "did you mean 'hare'?"),
        ({"hare": "a*hare - b*lynx"}, {}, "the series has lynx, but the model has no equation"),
        ({"hare": "exec(hare)", "lynx": "0"}, {}, "is not a known function"),
        ({"hare": "a*(hare", "lynx": "0"}, {}, "cannot be read"),
        ({"hare": "alpha*hare"}, {"start": {"alpa": 1.0}}, "start: there is no 'alpa': did you"),
        ({"hare": "alpha*hare"}, {"fix": ["beta"]}, "fix: there is no 'beta'"),
        ({"hare": "alpha*hare"}, {"fix": ["alpha"]}, "to be held, but at what?"),
        ({"hare": "alpha*hare"}, {"positive": ["hare"]}, "positive: there is no 'hare'"),
        ({"hare": "alpha*hare"}, {"bounds": {"alpha": (2, 1)}}, "no room between 2 and 1"),
        ({"hare": "alpha*hare"}, {"bounds": {"alpha": 2}}, "needs a lowest and a highest value"),
        ({"hare": "a*hare"}, {"start": {"a": -1}, "positive": ["a"]}, "outside of its bounds"),
        ({"hare": "a*hare"}, {"start": {"a": "many"}}, "must be a finite number"),
        ({"hare": "e*hare*e^(-hare)"}, {}, "write exp(...) for the exponential"),
        (3.0, {}, "model must be odekit.Equations, odekit.Refined or formulas"),
        ({"hare": [1]}, {}, "a formula must be text, a number or a sympy expression"),
    ],
)  # fmt: skip
def test_refuses(model, options, message):
    t = np.linspace(0, 1, 20)
    series = odekit.TimeSeries(t, np.stack([np.exp(t), np.cos(t)], 1), names=["hare", "lynx"])
    with pytest.raises(ProblemError) as refused:
        odekit.refine(model, series, **options)
    assert message in str(refused.value)


def test_refuses_more_numbers_than_values():
    t = np.linspace(0, 1, 9)
    series = odekit.TimeSeries(t, np.exp(t), names=["x"])
    powers = " + ".join(f"c{i}*x^{i}" for i in range(9))
    with pytest.raises(DiscoveryError, match="9 observed values cannot settle 10 numbers"):
        odekit.refine({"x": powers}, series)


def test_a_pair_that_is_no_term():
    rough = Equations(["x", "y"], [("x", "x", 1.0), ("y", "y", -2.0)])
    with pytest.raises(ProblemError, match=r"fix: there is no .* there are x in x', y in y'"):
        odekit.refine(rough, predators(0.03), fix=[("x", "y")])
    with pytest.raises(ProblemError, match="'alpha' names no coefficient: write a pair"):
        odekit.refine(rough, predators(0.03), start={"alpha": 1.0})


def test_time_limit_is_told():
    refined = odekit.refine(VOLTERRA, predators(0.05), time_limit=1e-6)
    assert any("raise time_limit" in sentence for sentence in refined.warnings)
    assert not refined.confident
    assert not refined.diagnostics["complete"]


def test_options_of_a_search_are_refused():
    series = odekit.TimeSeries(np.linspace(0, 3, 40), np.exp(-np.linspace(0, 3, 40)), names=["x"])
    with pytest.raises(odekit.IncompatibleError, match="does not take library="):
        odekit.refine({"x": "-k*x"}, series, library="polynomial")
