"""Held-out trajectories: who is held out, what is fitted to them, and that the rest is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

import odekit
from odekit import ProblemError, TimeSeries
from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.holdout import _divided, choose, left_out_in_turn, predict
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.shooting import Shooting
from odekit_sindy.short_prediction import Learned, predict_short

RATE = -0.7


@pytest.mark.parametrize(
    ("holdout", "chosen"),
    [
        (None, ()),
        ("auto", ()),
        (1, (1,)),
        (-1, (3,)),
        ([2, 0], (0, 2)),
        (np.int64(2), (2,)),
        ((1, -3), (1,)),
    ],
)
def test_who_is_kept_out(holdout, chosen):
    assert choose(holdout, 4, 0) == chosen


def test_a_fraction_is_drawn_with_the_seed():
    draws = {choose(0.25, 8, seed) for seed in range(20)}
    assert all(len(draw) == 2 for draw in draws)
    assert len(draws) > 5
    assert choose(0.25, 8, 3) == choose(0.25, 8, 3)
    assert len(choose(0.01, 3, 0)) == 1
    assert len(choose(0.99, 3, 0)) == 2


@pytest.mark.parametrize(
    ("holdout", "count", "message"),
    [
        (1.5, 3, "between 0 and 1"),
        ("some", 3, "None, 'auto', an index"),
        (True, 3, "None, 'auto', an index"),
        ([], 3, "None, 'auto', an index"),
        ([0.5], 3, "None, 'auto', an index"),
        (3, 3, "write 0 to 2"),
        ([0, 1, -1], 3, "keeps out all 3"),
        (0, 1, "needs two trajectories"),
        (0.5, 1, "needs two trajectories"),
    ],
)
def test_what_cannot_be_held_out(holdout, count, message):
    with pytest.raises(ProblemError, match=message):
        choose(holdout, count, 0)


def decays(starts, rates, noise=0.03):
    """Trajectories of ``x' = rate x``, and the shooting problem of all of them."""
    generator = np.random.default_rng(0)
    t = np.linspace(0, 3, 25)
    parts = []
    for start, rate in zip(starts, rates, strict=True):
        y = start * np.exp(rate * t) + noise * generator.standard_normal(25)
        parts.append(Trajectory(t, y[:, None], np.zeros((25, 0))))
    data = Dataset(tuple(parts), ("x",))
    shape = [np.ones((25, 1)) for _ in parts]
    return data, shape, Shooting(arrange(data, tuple(shape)), Library(1, 1), 4)


def fitted(t, y, rate=None):
    """Least squares of start, and of the rate unless it is given, over several trajectories."""

    def errors(p):
        r = p[0] if rate is None else rate
        starts = p[1:] if rate is None else p
        return np.concatenate([s * np.exp(r * t) - row for s, row in zip(starts, y, strict=True)])

    first = [row[0] for row in y]
    return least_squares(errors, first if rate is not None else [-0.5, *first]).x


def test_each_trajectory_is_predicted_by_a_fit_to_the_others():
    data, shape, shooting = decays((3.0, 2.0, 4.0), (RATE, RATE, 1.3 * RATE))
    states = [part.y for part in data.trajectories]
    found = left_out_in_turn(shooting, (1,), np.array([RATE]), states, data, shape)
    t, y = data.trajectories[0].t, [part.y[:, 0] for part in data.trajectories]
    for i in range(3):
        rate = fitted(t, [row for k, row in enumerate(y) if k != i])[0]
        (start,) = fitted(t, [y[i]], rate)
        error = ((start * np.exp(rate * t) - y[i]) ** 2).sum()
        expected = 1 - error / ((y[i] - y[i].mean()) ** 2).sum()
        assert found.r2[i] == pytest.approx(expected, abs=2e-4)
    assert found.r2[2] < min(found.r2[:2])


def test_only_the_start_is_fitted_to_what_is_held_out():
    data, shape, shooting = decays((3.0,), (RATE,), noise=0.0)
    wrong = predict(shooting, (1,), np.array([0.5 * RATE]), [data.trajectories[0].y], data, shape)
    t, y = data.trajectories[0].t, data.trajectories[0].y[:, 0]
    weights = np.exp(0.5 * RATE * t)
    best = weights @ y / (weights @ weights) * weights
    expected = 1 - ((best - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert wrong[0, 0] == pytest.approx(expected, abs=1e-3)
    assert wrong[0, 2] == pytest.approx(np.sqrt(((best - y) ** 2).mean()), rel=1e-2)


def lotka_volterra(start, seed, noise=0.03):
    t = np.linspace(0, 8, 70)
    x = solve_ivp(
        lambda s, x: [1.5 * x[0] - x[0] * x[1], -3 * x[1] + x[0] * x[1]],
        (0, 8),
        start,
        t_eval=t,
        rtol=1e-10,
        atol=1e-12,
    ).y.T
    x += noise * x.std(0) * np.random.default_rng(seed).standard_normal(x.shape)
    return TimeSeries(t, x, names=["prey", "hunter"])


@pytest.fixture(scope="module")
def pair():
    return [lotka_volterra((5, 2), 0), lotka_volterra((2, 1), 1)]


def test_two_trajectories_predict_each_other(pair):
    equations = odekit.discover(pair, degree=2)
    held = equations.diagnostics["holdout"]
    assert held["how"] == "left out in turn"
    assert held["trajectories"] == [0, 1]
    assert min(held["r2"]) > 0.99
    assert set(held["states"]) == {"prey", "hunter"}
    assert "holdout" not in odekit.discover(pair[0], degree=2).diagnostics
    assert "holdout" not in odekit.discover(pair, degree=2, holdout=None).diagnostics


def test_what_is_kept_out_takes_no_part(pair):
    broken = TimeSeries(pair[1].t, pair[1].y.flip(0), names=pair[1].names)  # time runs backwards
    alone = odekit.discover(pair[0], degree=2)
    kept = odekit.discover([pair[0], broken], degree=2, holdout=1)
    assert kept.terms == alone.terms
    assert kept.diagnostics["trajectories"] == 1
    assert kept.diagnostics["holdout"]["how"] == "kept out"
    assert kept.score[0] == alone.score[0]
    assert kept.score[1] == kept.diagnostics["holdout"]["r2"][0] < 0.5
    assert alone.confident
    assert not kept.confident
    assert any("does not predict trajectory 1" in sentence for sentence in kept.warnings)


def test_scores_stay_in_the_order_of_the_trajectories(pair):
    equations = odekit.discover(pair, degree=2, holdout=0)
    assert equations.score[0] == equations.diagnostics["holdout"]["r2"][0]
    assert min(equations.score) > 0.98


def test_missing_cells_and_noise_in_proportion_are_no_obstacle(pair):
    y = pair[1].y.clone()
    y[::4, 0] = float("nan")
    y[3] = float("nan")
    gappy = TimeSeries(pair[1].t, y, names=pair[1].names)
    equations = odekit.discover([pair[0], gappy], degree=2, holdout=1, noise="multiplicative")
    assert equations.score[1] > 0.98
    assert bool(torch.tensor(equations.score).isfinite().all())


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_few_values_are_predicted_from_a_start_that_is_known_so_far(pair, rows):
    """Fewer values than a search needs, far apart; the true start lies within its error bars."""
    at = np.linspace(0, 40, rows).astype(int)
    few = TimeSeries(pair[1].t[at], pair[1].y[at], names=pair[1].names)
    equations = odekit.discover([pair[0], few], degree=2, holdout=1)
    held = equations.diagnostics["holdout"]
    assert equations.score[1] == held["r2"][0] > 0.98
    (known,) = held["starts"]
    assert known["trajectory"] == 1
    for name, truth in (("prey", 2.0), ("hunter", 1.0)):
        assert abs(known["start"][name] - truth) < 3 * known["stderr"][name] < 0.5
    assert equations.confident
    wrong = TimeSeries(few.t, few.y.flip(0) * 1.5, names=few.names)
    equations = odekit.discover([pair[0], wrong], degree=2, holdout=1)
    assert not equations.confident
    assert any("does not predict trajectory 1" in sentence for sentence in equations.warnings)


def test_a_state_that_is_seen_once_has_a_start_all_the_same(pair):
    y = pair[1].y[:6].clone()
    y[:5, 1] = float("nan")
    few = TimeSeries(pair[1].t[:6], y, names=pair[1].names)
    equations = odekit.discover([pair[0], few], degree=2, holdout=1)
    ((_, start, stderr),) = (one.values() for one in equations.diagnostics["holdout"]["starts"])
    assert abs(start["hunter"] - 1.0) < 3 * stderr["hunter"]
    assert start["hunter"] != y[5, 1]


def short_decay(y, t, level, spread=1.0, covariance=0.0):
    _, _, shooting = decays((3.0, 2.0), (RATE, RATE))
    part = Dataset((Trajectory(t, y[:, None], np.zeros((len(t), 0))),), ("x",))
    learned = Learned(
        np.array([1.0]), np.array([spread]), np.array([level]), np.array([[covariance]])
    )
    shape = np.ones((len(t), 1))
    return predict_short(shooting, (1,), np.array([RATE]), part, shape, learned, [y[:1]])


def test_the_start_of_a_few_values_is_that_of_weighted_least_squares():
    """For a linear system all of it is known in closed form."""
    t, level, spread = np.array([0.0, 0.7, 2.0]), 0.3, 0.8
    y = 2.5 * np.exp(RATE * t) + level * np.random.default_rng(0).standard_normal(3)
    found = short_decay(y, t, level, spread)
    slope = np.exp(RATE * t) / level
    precision = slope @ slope + spread**-2
    assert found.start[0] == pytest.approx((slope @ y / level + spread**-2) / precision, rel=1e-5)
    assert found.stderr[0] == pytest.approx(precision**-0.5, rel=1e-5)
    assert found.spent == pytest.approx((slope @ slope) / precision / 3, rel=1e-5)
    np.testing.assert_allclose(found.states[:, 0], found.start[0] * np.exp(RATE * t), rtol=1e-5)


def test_errors_of_coefficients_are_errors_of_the_start():
    t = np.array([0.0, 0.7, 2.0])
    y = 2.5 * np.exp(RATE * t)
    sure, unsure = (short_decay(y, t, 0.01, covariance=v) for v in (0.0, 0.02**2))
    # How the best start moves with the rate, from the normal equation of the start.
    e = np.exp(RATE * t)
    drift = -(e @ (2.5 * t * e)) / (e @ e)
    expected = np.hypot(sure.stderr[0], 0.02 * drift)
    assert unsure.stderr[0] == pytest.approx(expected, rel=1e-3)
    assert unsure.start[0] == sure.start[0]


def test_long_gaps_are_integrated_as_finely_as_the_others():
    part = Trajectory(np.array([0.0, 1.0, 7.0]), np.ones((3, 1)), np.array([[0.0], [1.0], [4.0]]))
    finer = _divided(part, 2.0)
    np.testing.assert_allclose(finer.t, [0, 1, 3, 5, 7])
    np.testing.assert_allclose(finer.u[:, 0], [0, 1, 2, 3, 4])
    assert np.isnan(finer.y[2:4]).all()
    assert np.isfinite(finer.y[[0, 1, 4]]).all()
    assert len(_divided(part, 6.0).t) == 3
