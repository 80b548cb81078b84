"""The whole pipeline: known systems, real data, units, order, missing values, and bad data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import odekit
from odekit import DiscoveryError, ProblemError, TimeSeries
from odekit_sindy.discovery import Discovery

LYNX_HARE = Path(__file__).parents[3] / "examples" / "data" / "lynx_hare.csv"
LOTKA_VOLTERRA = {("x0", "x0"), ("x0", "x0*x1"), ("x1", "x1"), ("x1", "x0*x1")}


@pytest.fixture(scope="module")
def lynx_hare():
    return odekit.discover(TimeSeries.read(LYNX_HARE))


def values(equations):
    return {(term.equation, term.term): term.value for term in equations.terms}


def test_lotka_volterra_with_half_of_the_points_and_noise(observe, structure_of):
    equations = odekit.discover(observe("lotka_volterra", 0.05))
    assert structure_of(equations) == LOTKA_VOLTERRA
    found = values(equations)
    truth = {("x0", "x0"): 1.5, ("x0", "x0*x1"): -1, ("x1", "x1"): -3, ("x1", "x0*x1"): 1}
    for key, value in truth.items():
        assert found[key] == pytest.approx(value, rel=0.03)
    assert equations.confident
    assert equations.score[0] > 0.98
    assert equations.diagnostics["noise"] == "additive"
    for name in ("x0", "x1"):
        assert equations.diagnostics["rms_over_sigma"][name] == pytest.approx(1, abs=0.3)


def test_lynx_and_hare_are_lotka_volterra(lynx_hare, structure_of):
    assert structure_of(lynx_hare) == {
        ("hare", "hare"),
        ("hare", "hare*lynx"),
        ("lynx", "lynx"),
        ("lynx", "hare*lynx"),
    }
    found = values(lynx_hare)
    # B. Carpenter, "Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan", 2018,
    # posterior means 0.55, 0.028, 0.80, 0.024 with standard deviations 0.065, 0.004, 0.09, 0.004.
    assert found["hare", "hare"] == pytest.approx(0.55, abs=0.13)
    assert found["hare", "hare*lynx"] == pytest.approx(-0.028, abs=0.008)
    assert found["lynx", "lynx"] == pytest.approx(-0.80, abs=0.18)
    assert found["lynx", "hare*lynx"] == pytest.approx(0.024, abs=0.008)
    for term in lynx_hare.terms:
        assert 0.05 < term.stderr / abs(term.value) < 0.25
        assert 0 < term.inclusion <= 1


def test_lynx_and_hare_noise_is_log_normal_and_rivals_are_shown(lynx_hare):
    assert lynx_hare.diagnostics["noise"] == "log-normal"
    evidence = lynx_hare.diagnostics["noise_evidence"]
    assert evidence["log-normal"] > evidence["additive"] + 3
    assert lynx_hare.alternatives
    weights = [a.weight for a in lynx_hare.alternatives]
    assert weights == sorted(weights, reverse=True)
    total = sum(weights) + lynx_hare.diagnostics["weight"]
    assert 0.5 < total <= 1 + 1e-9
    first = lynx_hare.alternatives[0]
    ratio = np.exp(-0.5 * (first.score - lynx_hare.diagnostics["ebic"]))
    assert first.weight / lynx_hare.diagnostics["weight"] == pytest.approx(ratio)
    assert not lynx_hare.confident  # x y^2 in place of x y is as good, and the data are few
    assert lynx_hare.warnings


def test_standard_errors_are_the_covariance(lynx_hare):
    diagonal = np.sqrt(np.diag(lynx_hare.covariance))
    np.testing.assert_allclose([term.stderr for term in lynx_hare.terms], diagonal)


def test_the_result_survives_a_file(lynx_hare, tmp_path, structure_of):
    lynx_hare.save(tmp_path / "m.json")
    again = odekit.Equations.load(tmp_path / "m.json")
    assert again.terms == lynx_hare.terms
    assert again.diagnostics == lynx_hare.diagnostics
    assert structure_of(again.alternatives[0].equations) == structure_of(
        lynx_hare.alternatives[0].equations
    )


def test_twice_the_same(observe):
    series = observe("lotka_volterra", 0.05, seed=3)
    one, two = (odekit.discover(series) for _ in range(2))
    assert one.terms == two.terms
    assert one.diagnostics == two.diagnostics


@pytest.mark.parametrize("units", [(1e6, 1e-3, 1.0), (1e-3, 1e6, 1e3)])
def test_units_change_nothing_but_the_numbers(observe, structure_of, units):
    series = observe("lotka_volterra", 0.05)
    sx, sy, st = units
    twin = TimeSeries(series.t * st, series.y.numpy() * np.array([sx, sy]))
    plain, scaled = odekit.discover(series), odekit.discover(twin)
    assert structure_of(plain) == structure_of(scaled)
    factor = {
        ("x0", "x0"): 1 / st,
        ("x0", "x0*x1"): 1 / (st * sy),
        ("x1", "x1"): 1 / st,
        ("x1", "x0*x1"): 1 / (st * sx),
    }
    for a, b in zip(plain.terms, scaled.terms, strict=True):
        assert b.value == pytest.approx(a.value * factor[a.equation, a.term], rel=1e-3)
        assert b.stderr == pytest.approx(a.stderr * factor[a.equation, a.term], rel=1e-2)


def test_the_order_of_trajectories_does_not_matter(observe, structure_of):
    parts = [
        observe("lotka_volterra", 0.05, seed=i, n=60 + 20 * i, y0=y0)
        for i, y0 in enumerate([(5, 2), (2, 3), (1, 1)])
    ]
    one, two = odekit.discover(parts), odekit.discover(parts[::-1])
    assert structure_of(one) == structure_of(two) == LOTKA_VOLTERRA
    for a, b in zip(one.terms, two.terms, strict=True):
        assert b.value == pytest.approx(a.value, rel=1e-3)
    np.testing.assert_allclose(one.score, two.score[::-1], atol=1e-3)
    assert len(one.score) == 3


def test_missing_values_are_no_obstacle(observe, structure_of):
    series = observe("lotka_volterra", 0.03, drop=0.3)
    y = series.y.clone()
    y[np.random.default_rng(0).random(y.shape) < 0.3] = float("nan")
    equations = odekit.discover(TimeSeries(series.t, y))
    assert structure_of(equations) == LOTKA_VOLTERRA
    assert equations.diagnostics["values"] == int(y.isfinite().sum())


def test_a_state_can_be_missing_from_one_trajectory(observe, structure_of):
    one, two = observe("lotka_volterra", 0.03), observe("lotka_volterra", 0.03, 1, y0=(2, 3))
    y = two.y.clone()
    y[5:, 1] = float("nan")
    equations = odekit.discover([one, TimeSeries(two.t, y)])
    assert structure_of(equations) == LOTKA_VOLTERRA


def test_inputs_enter_the_equations():
    t = np.linspace(0, 20, 120)
    u = np.sin(1.3 * t) + 0.5 * np.cos(3.1 * t)
    drive = lambda s: np.interp(s, t, u)  # noqa: E731
    x = solve_ivp(
        lambda s, x: [-0.7 * x[0] + 2 * drive(s)],
        (0, 20),
        [1.0],
        t_eval=t,
        rtol=1e-9,
        atol=1e-11,
        max_step=0.02,
    ).y.T
    x += 0.02 * x.std() * np.random.default_rng(0).standard_normal(x.shape)
    equations = odekit.discover(TimeSeries(t, x, u, names=["v"], input_names=["force"]))
    assert values(equations) == {
        ("v", "v"): pytest.approx(-0.7, rel=0.05),
        ("v", "force"): pytest.approx(2.0, rel=0.05),
    }
    assert equations.inputs == ("force",)


def test_names_select_or_rename(observe):
    series = observe("lotka_volterra", 0.05)
    renamed = odekit.discover(series, names=["prey", "hunter"], degree=2)
    assert renamed.names == ("prey", "hunter")
    single = odekit.discover(observe("logistic", 0.02), names=["x0"])
    assert values(single).keys() == {("x0", "x0"), ("x0", "x0**2")}
    with pytest.raises(ProblemError, match="did you mean 'x1'"):
        odekit.discover(series, names=["x0", "x11"])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["white", "walk"])
def test_noise_is_never_confident(kind, seed):
    rows = np.random.default_rng(seed).standard_normal(60)
    y = rows.cumsum() if kind == "walk" else rows
    equations = odekit.discover(TimeSeries(np.arange(60.0), y), time_limit=4.0)
    assert not equations.confident
    assert equations.warnings
    assert np.isfinite(equations.score).all()


def test_a_missing_function_is_noticed():
    t = np.linspace(0, 12, 100)
    y = np.abs(np.sin(t)) + 0.01 * np.random.default_rng(0).standard_normal(100)
    equations = odekit.discover(TimeSeries(t, y), time_limit=10.0)
    assert not equations.confident


def sine(n):
    return np.sin(np.arange(float(n)))


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (lambda: TimeSeries([0.0, 1, 2], [[1.0], [2], [1.5]]), "3 observed values, at least 8"),
        (lambda: TimeSeries(np.arange(7.0), sine(7)), "7 observed values"),
        (
            lambda: TimeSeries(
                np.arange(20.0), np.c_[sine(20), np.full(20, 3.0)], names=["a", "b"]
            ),
            "state 'b' is constant .*names=",
        ),
        (
            lambda: TimeSeries(np.arange(4.0), [np.nan, 1, np.nan, np.nan]),
            r"series has 1 row",
        ),
        (
            lambda: TimeSeries(np.arange(20.0), sine(20), np.r_[np.nan, sine(19)]),
            "missing values in its inputs",
        ),
    ],
)
def test_data_that_say_nothing_get_one_clear_line(series, message):
    with pytest.raises(DiscoveryError, match=message) as caught:
        odekit.discover(series())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"library": "polinomial"}, "did you mean 'polynomial'"),
        ({"smoother": "kalman"}, "write one of auto, gp"),
        ({"noise": "lognormal"}, "did you mean 'log-normal'"),
        ({"degree": 0}, "degree must be an integer from 1 to 6"),
        ({"time_limit": 0}, "time_limit must be positive"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ProblemError, match=message):
        Discovery(**options)


def test_series_must_fit_together():
    t = np.arange(20.0)
    with pytest.raises(ProblemError, match="got int"):
        odekit.discover([1, 2])
    with pytest.raises(ProblemError, match="empty"):
        odekit.discover([])
    with pytest.raises(ProblemError, match=r"series\[0\] has \['a'\], series\[1\] has \['b'\]"):
        odekit.discover([TimeSeries(t, sine(20), names=[n]) for n in "ab"])


def test_progress_is_told_and_ends(observe):
    seen = []
    odekit.discover(observe("logistic", 0.05), progress=lambda *news: seen.append(news))
    assert seen[-1] == ("done", 1.0)
    assert any(stage.startswith("search") for stage, _ in seen)
    assert all(0 <= fraction <= 1 for _, fraction in seen)


def test_a_short_time_limit_still_answers_and_says_so(observe):
    equations = odekit.discover(observe("van_der_pol", 0.05), time_limit=0.2)
    assert not equations.confident
    assert any("time_limit" in warning for warning in equations.warnings)


def test_the_equations_can_be_solved_again(lynx_hare):
    series = TimeSeries.read(LYNX_HARE)
    solution = lynx_hare.simulate(series.y[0], series.t)
    assert solution.success
    scatter = (solution.y - series.y).square().sum(0)
    assert bool((scatter < (series.y - series.y.mean(0)).square().sum(0)).all())


def test_a_field_and_its_solution_give_its_equations(structure_of):
    def field(t, y):
        x, v = y.unbind(-1)
        return torch.stack([1.5 * x - x * v, -3 * v + x * v], dim=-1)

    start = torch.tensor([5.0, 2.0], dtype=torch.float64)
    solution = odekit.solve(field, start, torch.linspace(0, 10, 120, dtype=torch.float64))
    equations = odekit.postprocess(field, solution, "discovery")
    assert structure_of(equations) == LOTKA_VOLTERRA
    assert values(equations)["x1", "x1"] == pytest.approx(-3, rel=1e-3)


def test_data_given_twice_are_not_twice_the_evidence():
    series = TimeSeries.read(LYNX_HARE)
    with pytest.raises(ProblemError, match=r"series\[1\] repeats series\[0\] point for point"):
        odekit.discover([series, series])
