"""What the user knows, through the whole pipeline: irregular times, 5 % noise, the truth known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import odekit
from odekit import DiscoveryError, ProblemError, TimeSeries

LOTKA_VOLTERRA = {("x0", "x0"), ("x0", "x0*x1"), ("x1", "x1"), ("x1", "x0*x1")}


def measured(field, end, start, names, *, u=None, first=0.0, n=80, seed=0, scale=1.0):
    """A series at random times from ``first`` on, with 5 % noise, in units of ``scale``."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(first, first + end, n))
    t[0] = first
    y = solve_ivp(field, (first, first + end), start, t_eval=t, rtol=1e-9, atol=1e-11).y.T
    y += 0.05 * y.std(0) * rng.standard_normal(y.shape)
    drive = {} if u is None else {"u": u(t), "input_names": ["u"]}
    return TimeSeries(t, scale * y, names=names, **drive)


def values(equations):
    return {(term.equation, term.term): term.value for term in equations.terms}


@pytest.fixture(scope="module")
def toda():
    """A mass on an exponential spring."""
    return lambda **options: measured(
        lambda t, x: [x[1], np.exp(-x[0]) - 1], 15, (2.0, 0.5), ["x", "v"], n=120, **options
    )


@pytest.fixture(scope="module")
def prey_and_hunters():
    return measured(
        lambda t, x: [1.5 * x[0] - x[0] * x[1], -3 * x[1] + x[0] * x[1]], 10, (5, 2), ["x0", "x1"]
    )


@pytest.fixture(scope="module")
def plain_lotka_volterra(prey_and_hunters):
    return odekit.discover(prey_and_hunters)


def test_a_known_equation_is_exactly_that_and_sharpens_the_other(observe, structure_of):
    series = observe("damped", 0.05, seed=1, names=["x", "v"])
    free, informed = odekit.discover(series), odekit.discover(series, known={"x": "v"})
    found = {term.equation: [] for term in informed.terms}
    for term in informed.terms:
        found[term.equation].append(term)
    (given,) = found["x"]
    assert given[1:] == ("v", 1.0, None, None)
    assert structure_of(informed) == {("x", "v"), ("v", "x"), ("v", "v")}
    for term, truth in zip(found["v"], (-4.5, -0.43), strict=True):
        assert abs(term.value - truth) < 3 * term.stderr
    spread = {(t.equation, t.term): t.stderr for t in free.terms}
    assert found["v"][0].stderr < spread["v", "x"]
    assert informed.diagnostics["given"] == [{"equation": "x", "term": "v"}]
    assert informed.diagnostics["knowledge"] == {"known": {"x": "v"}}
    assert informed.covariance.shape == (3, 3)
    assert not informed.covariance[0].any()
    assert informed.diagnostics["ebic"] < free.diagnostics["ebic"]  # one coefficient less
    for alternative in informed.alternatives:
        rights = [term for term in alternative.equations.terms if term.equation == "x"]
        assert [(term.term, term.value) for term in rights] == [("v", 1.0)]


def test_a_wrong_known_equation_is_held_and_doubted(observe):
    series = observe("damped", 0.05, seed=1, names=["x", "v"])
    equations = odekit.discover(series, known={"x": "-v"}, degree=2)
    assert values(equations)["x", "v"] == -1.0
    assert [term.term for term in equations.terms if term.equation == "x"] == ["v"]
    assert not equations.confident


def test_everything_known_leaves_nothing_to_fit(prey_and_hunters):
    truth = {"x0": "1.5*x0 - x0*x1", "x1": "-3*x1 + x0*x1"}
    equations = odekit.discover(prey_and_hunters, known=truth)
    assert set(values(equations)) == LOTKA_VOLTERRA
    assert all(term.stderr is None for term in equations.terms)
    assert equations.confident
    assert equations.score[0] > 0.98
    assert not equations.alternatives


def test_a_known_term_keeps_its_value_and_the_rest_is_found():
    series = measured(lambda t, v: [-9.81 - 0.4 * v[0] * abs(v[0])], 3, (5.0,), ["v"])
    equations = odekit.discover(
        series,
        known_terms={"v": "-9.81"},
        terms=["v*abs(v)"],
        units={"v": "m/s", "t": "s"},
    )
    assert values(equations) == {
        ("v", "1"): -9.81,
        ("v", "v*Abs(v)"): pytest.approx(-0.4, abs=0.02),
    }
    assert equations.confident
    assert equations.diagnostics["units"] == {
        "variables": {"v": "m/s", "t": "s"},
        "coefficients": ["m/s^2", "1/m"],
    }


def test_a_forbidden_term_is_in_no_model(prey_and_hunters):
    equations = odekit.discover(prey_and_hunters, forbidden=["x0*x1 in x1"], degree=2)
    everything = [equations, *(a.equations for a in equations.alternatives)]
    assert all(("x1", "x0*x1") not in values(each) for each in everything)
    assert ("x0", "x0*x1") in values(equations)


def test_a_forced_term_stays_in_every_model(prey_and_hunters):
    equations = odekit.discover(prey_and_hunters, forced=["x0 in x1"])
    assert set(values(equations)) == LOTKA_VOLTERRA | {("x1", "x0")}
    (forced,) = [term for term in equations.terms if term[:2] == ("x1", "x0")]
    assert abs(forced.value) < 3 * forced.stderr
    assert forced.inclusion == pytest.approx(1.0)
    for alternative in equations.alternatives:
        assert ("x1", "x0") in values(alternative.equations)


def test_a_sign_that_holds_changes_nothing_and_one_that_does_not_is_kept(
    prey_and_hunters, plain_lotka_volterra
):
    right = odekit.discover(prey_and_hunters, constraints=["c[x1, x1] < 0", "c[x0, x0*x1] < 0"])
    for key, value in values(plain_lotka_volterra).items():
        assert values(right)[key] == pytest.approx(value, rel=1e-6)
    wrong = odekit.discover(prey_and_hunters, constraints=["c[x1, x1] > 0"], degree=2)
    for each in [wrong, *(a.equations for a in wrong.alternatives)]:
        assert values(each).get(("x1", "x1"), 0.0) >= 0
    assert wrong.diagnostics["ebic"] > right.diagnostics["ebic"] + 10


def test_a_forced_term_against_its_sign_is_held_at_zero_and_doubted(prey_and_hunters):
    equations = odekit.discover(
        prey_and_hunters,
        forced=["x1 in x1"],
        constraints=["c[x1, x1] > 0"],
        degree=2,
    )
    assert values(equations)["x1", "x1"] == 0.0
    assert not equations.confident
    assert any("against its sign" in warning for warning in equations.warnings)


def test_a_shared_coefficient_is_one_number(prey_and_hunters, plain_lotka_volterra):
    equations = odekit.discover(prey_and_hunters, constraints=["c[x0, x0*x1] == -c[x1, x0*x1]"])
    found = values(equations)
    assert set(found) == LOTKA_VOLTERRA
    assert found["x0", "x0*x1"] == pytest.approx(-found["x1", "x0*x1"], rel=1e-12)
    assert found["x1", "x0*x1"] == pytest.approx(1.0, rel=0.02)
    keys = list(found)
    one, other = keys.index(("x0", "x0*x1")), keys.index(("x1", "x0*x1"))
    variance = equations.covariance[one, one]
    assert equations.covariance[one, other] == pytest.approx(-variance)
    assert equations.terms[one].stderr == pytest.approx(equations.terms[other].stderr)
    plain = {(t.equation, t.term): t.stderr for t in plain_lotka_volterra.terms}
    assert equations.terms[one].stderr < plain["x0", "x0*x1"]
    assert equations.diagnostics["ebic"] < plain_lotka_volterra.diagnostics["ebic"] - 5
    assert equations.confident


def test_a_fixed_value_is_kept(prey_and_hunters):
    equations = odekit.discover(prey_and_hunters, constraints=["c[x0, x0] == 1.5"])
    assert values(equations)["x0", "x0"] == 1.5
    assert set(values(equations)) == LOTKA_VOLTERRA


def test_time_enters_through_formulas_as_it_stands_in_the_series():
    series = measured(lambda t, x: [-0.5 * x[0] + 2 * np.sin(2 * t)], 15, (1.0,), ["x"], first=3.0)
    equations = odekit.discover(series, terms=["sin(2*t)", "cos(2*t)"])
    assert values(equations) == {
        ("x", "x"): pytest.approx(-0.5, abs=0.03),
        ("x", "sin(2*t)"): pytest.approx(2.0, abs=0.05),
    }
    assert equations.inputs == ()
    assert equations.time == "t"
    assert equations.confident
    solution = equations.simulate(series.y[0], series.t)
    assert float((solution.y - series.y).std() / series.y.std()) < 0.1


def test_formulas_with_inputs_are_offered():
    def drive(t):
        return np.cos(1.3 * t)

    series = measured(
        lambda t, x: [-0.7 * x[0] + 2 * x[0] * drive(t) + 0.5], 15, (1.0,), ["x"], u=drive, n=120
    )
    equations = odekit.discover(series, terms=["x*u"])
    found = values(equations)
    assert {key: round(value, 1) for key, value in found.items()} == {
        ("x", "1"): 0.5,
        ("x", "x"): -0.7,
        ("x", "u*x"): 2.0,
    }
    assert equations.diagnostics["library"] == "polynomials up to degree 1, u*x"


def test_a_saturation_is_found_where_it_is_offered():
    def field(t, s):
        return [0.6 - 1.5 * s[0] / (0.3 + s[0])]

    series = [
        measured(field, 10, (start,), ["s"], seed=seed) for seed, start in enumerate((3.0, 0.02))
    ]
    equations = odekit.discover(series, terms=[("s", "s/(0.3 + s)")])
    assert values(equations) == {
        ("s", "1"): pytest.approx(0.6, abs=0.04),
        ("s", "s/(s + 0.3)"): pytest.approx(-1.5, abs=0.06),
    }
    assert equations.confident


@pytest.fixture(scope="module")
def plain_toda(toda):
    return odekit.discover(toda(), terms=["exp(-x)"], degree=2)


@pytest.mark.parametrize("scale", [1e6, 1e-4])
def test_formulas_do_not_care_for_the_scale_of_a_state(toda, plain_toda, scale):
    scaled = odekit.discover(toda(scale=scale), terms=[f"exp(-x/{scale!r})"], degree=2)
    factor = {"v": 1.0, "1": scale}
    for a, b in zip(plain_toda.terms, scaled.terms, strict=True):
        assert a.equation == b.equation
        assert b.value == pytest.approx(a.value * factor.get(a.term, scale), rel=1e-5)
    assert scaled.diagnostics["ebic"] == pytest.approx(plain_toda.diagnostics["ebic"], rel=1e-6)


def test_exponentials_are_a_library_of_their_own(toda):
    equations = odekit.discover(toda(), library="exp", known={"x": "v"})
    assert values(equations) == {
        ("x", "v"): 1.0,
        ("v", "1"): pytest.approx(-1.0, abs=0.03),
        ("v", "exp(-x)"): pytest.approx(1.0, abs=0.04),
    }
    assert equations.confident


def test_exponentials_follow_waves_where_polynomials_fail():
    starts = ((2.0, 0.5), (-0.5, 1.5), (3.5, 0.0))
    series = [
        measured(
            lambda t, x: [x[1], 2 * np.exp(-x[0]) - 1.3 - 0.3 * x[1]],
            12,
            start,
            ["x", "v"],
            seed=seed,
        )
        for seed, start in enumerate(starts)
    ]
    equations = odekit.discover(series, known={"x": "v"})
    assert {key: round(value, 1) for key, value in values(equations).items()} == {
        ("x", "v"): 1.0,
        ("v", "1"): -1.3,
        ("v", "v"): -0.3,
        ("v", "exp(-x)"): 2.0,
    }
    names = [rung["library"] for rung in equations.diagnostics["ladder"]]
    assert names[-1] == "polynomials up to degree 3, exponentials"


def test_claims_that_rule_nothing_out_change_nothing(prey_and_hunters, plain_lotka_volterra):
    nothing = odekit.discover(prey_and_hunters, known={}, forbidden=[], terms=(), units=None)
    assert nothing.terms == plain_lotka_volterra.terms
    assert nothing.diagnostics["ebic"] == plain_lotka_volterra.diagnostics["ebic"]
    units = odekit.discover(prey_and_hunters, units={"t": "s"})
    ebic = plain_lotka_volterra.diagnostics["ebic"]
    assert units.diagnostics["ebic"] == pytest.approx(ebic, rel=1e-7)
    assert set(values(units)) == set(values(plain_lotka_volterra))


def test_units_of_coefficients_are_shown(observe, prey_and_hunters):
    equations = odekit.discover(prey_and_hunters, units={"x0": "hare", "x1": "lynx", "t": "yr"})
    assert equations.diagnostics["units"]["coefficients"] == [
        "1/yr",
        "1/(lynx*yr)",
        "1/yr",
        "1/(hare*yr)",
    ]
    partial = odekit.discover(observe("logistic", 0.02), units={"t": "s"})
    assert partial.diagnostics["units"]["coefficients"] == [None, None]


def test_what_has_no_effect_is_noted(observe):
    equations = odekit.discover(observe("logistic", 0.05), forbidden=["x0**7"], degree=2)
    (note,) = [warning for warning in equations.warnings if "x0**7" in warning]
    assert note.startswith("Note: ")
    assert equations.confident


def test_the_result_survives_a_file(tmp_path, toda):
    equations = odekit.discover(
        toda(), known={"x": "v"}, terms=["exp(-x/0.9999999999999999)"], units={"x": "1"}, degree=1
    )
    equations.save(tmp_path / "m.json")
    again = odekit.Equations.load(tmp_path / "m.json")
    assert again.terms == equations.terms
    assert again.diagnostics == json.loads(json.dumps(equations.diagnostics))
    assert again.sympy() == equations.sympy()


def positions(series):
    return TimeSeries(series.t, series.y[:, :1], names=["x"])


def test_velocities_need_not_be_observed():
    series = measured(
        lambda t, x: [x[1], -x[0] + 1.2 * (1 - x[0] ** 2) * x[1]], 20, (2.2, 0), ["x", "v"], n=120
    )
    equations = odekit.discover(
        positions(series), hidden=["v"], known={"x": "v"}, units={"x": "m", "v": "m/s", "t": "s"}
    )
    assert equations.names == ("x", "v")
    assert values(equations) == {
        ("x", "v"): 1.0,
        ("v", "x"): pytest.approx(-1.0, abs=0.05),
        ("v", "v"): pytest.approx(1.2, abs=0.15),
        ("v", "x**2*v"): pytest.approx(-1.2, abs=0.15),
    }
    assert equations.confident
    assert equations.diagnostics["hidden"] == ["v"]
    assert equations.diagnostics["units"]["coefficients"][-1] == "1/(m^2*s)"
    # The velocity's unit is its own: range and equations agree with the truth, never observed.
    low, high = equations.diagnostics["range"]["v"]
    assert low == pytest.approx(float(series.y[:, 1].min()), abs=0.5)
    assert high == pytest.approx(float(series.y[:, 1].max()), abs=0.5)


def test_unobserved_velocities_of_a_driven_system():
    series = measured(
        lambda t, x: [x[1], -x[0] - 0.3 * x[1] + 1.5 * np.cos(1.7 * t)],
        20,
        (1.2, 0.0),
        ["x", "v"],
        n=120,
        first=2.0,
    )
    equations = odekit.discover(
        positions(series),
        hidden="v",
        known={"x": "v"},
        terms=["cos(1.7*t) in v"],
        constraints=["c[v, v] < 0"],
    )
    assert values(equations) == {
        ("x", "v"): 1.0,
        ("v", "x"): pytest.approx(-1.0, abs=0.03),
        ("v", "v"): pytest.approx(-0.3, abs=0.03),
        ("v", "cos(1.7*t)"): pytest.approx(1.5, abs=0.05),
    }


def test_hidden_states_must_be_derivatives(toda):
    series = toda()
    with pytest.raises(ProblemError, match="hidden: nothing says what 'w' is"):
        odekit.discover(series, hidden=["w"], known={"x": "v"})
    with pytest.raises(ProblemError, match="hidden: nothing says what 'w' is"):
        odekit.discover(series, hidden=["w"], known={"x": "2*w"})
    with pytest.raises(ProblemError, match="hidden: 'v' is in the series"):
        odekit.discover(series, hidden=["v"], known={"x": "v"})
    with pytest.raises(ProblemError, match="leave smoother= and holdout= out"):
        odekit.discover(series, hidden=["w"], holdout=0)


def test_claims_about_other_states_are_refused(prey_and_hunters):
    with pytest.raises(ProblemError, match="known: there is no state 'y'"):
        odekit.discover(prey_and_hunters, known={"y": "x0"})
    with pytest.raises(ProblemError, match=r"terms: .*did you mean 'x1'"):
        odekit.discover(prey_and_hunters, terms=["sin(x11)"])
    with pytest.raises((ProblemError, DiscoveryError), match="no finite value"):
        odekit.discover(prey_and_hunters, terms=["log(-x0)"])
