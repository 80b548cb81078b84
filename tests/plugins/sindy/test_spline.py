"""The smoothing spline: SciPy's curve, the exact trace, and the noise that was put in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import make_smoothing_spline

from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.gaussian_process import Series
from odekit_sindy.smoothing import CURVES, smooth
from odekit_sindy.spline import fit


def noisy(n, noise=0.1, seed=0, start=0.0):
    generator = np.random.default_rng(seed)
    t = np.sort(generator.uniform(0, n / 8, n))
    return t, np.sin(t + start) + noise * generator.standard_normal(n)


def test_the_curve_is_that_of_scipy_for_the_same_penalty():
    t, y = noisy(60)
    shape = np.linspace(0.5, 1.5, 60)
    found = fit([Series(t, y, shape)])
    unit = np.diff(t).mean()
    query = np.linspace(t[0], t[-1], 333)
    curve = make_smoothing_spline(t / unit, y, w=shape**-2, lam=found.penalty)
    x, dx = found.predict(0, query)
    np.testing.assert_allclose(x, curve(query / unit), atol=1e-9)
    np.testing.assert_allclose(dx, curve.derivative()(query / unit) / unit, atol=1e-8)


def test_the_freedom_is_the_trace_of_the_smoother_and_sigma_its_residual():
    t, y = noisy(40)
    shape = np.linspace(1.5, 0.5, 40)
    found = fit([Series(t, y, shape)])
    unit = np.diff(t).mean()
    columns = [
        make_smoothing_spline(t / unit, e, w=shape**-2, lam=found.penalty)(t / unit)
        for e in np.eye(40)
    ]
    hat = np.stack(columns, axis=1)
    assert found.freedom == pytest.approx(np.trace(hat), rel=1e-8)
    residual = (y - hat @ y) / shape
    sigma = np.sqrt(residual @ residual / (40 - np.trace(hat)))
    assert found.sigma == pytest.approx(sigma, rel=1e-8)


def test_the_penalty_predicts_left_out_points_best():
    t, y = noisy(80, 0.2)
    found = fit([Series(t, y, np.ones(80))])
    unit = np.diff(t).mean()

    def score(penalty):
        hat = np.stack(
            [make_smoothing_spline(t / unit, e, lam=penalty)(t / unit) for e in np.eye(80)], axis=1
        )
        return ((y - hat @ y) ** 2).sum() / (80 - np.trace(hat)) ** 2

    best = score(found.penalty)
    assert all(best < score(found.penalty * factor) for factor in (0.01, 0.2, 5.0, 100.0))


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4])
def test_noise_level_and_states_of_a_long_series(noise):
    t, y = noisy(3000, noise, seed=4)
    found = fit([Series(t, y, np.ones(3000))])
    assert found.sigma == pytest.approx(noise, rel=0.06)
    x, dx = found.predict(0, t)
    assert np.sqrt(np.mean((x - np.sin(t)) ** 2)) < 0.4 * noise
    assert np.sqrt(np.mean((dx[20:-20] - np.cos(t)[20:-20]) ** 2)) < 1.5 * noise


def test_trajectories_share_the_penalty_and_short_ones_are_lines():
    t, y = noisy(100)
    one = Series(t, y, np.ones(100))
    two = Series(t[:2], y[:2], np.ones(2))
    single = Series(t[:1], y[:1], np.ones(1))
    none = Series(t[:0], y[:0], np.ones(0))
    found = fit([one, two, single, none])
    np.testing.assert_allclose(found.predict(0, t)[0], fit([one]).predict(0, t)[0], atol=0.02)
    x, dx = found.predict(1, np.array([t[0], t[1], t[1] + 1.0]))
    rise = (y[1] - y[0]) / (t[1] - t[0])
    np.testing.assert_allclose(x, [y[0], y[1], y[1] + rise])
    np.testing.assert_allclose(dx, rise)
    assert found.predict(2, t)[0] == pytest.approx(np.full(100, y[0]))
    assert np.isfinite(found.predict(3, t)[0]).all()


def test_beyond_the_data_the_curve_is_straight():
    t, y = noisy(50)
    found = fit([Series(t, y, np.ones(50))])
    x, dx = found.predict(0, t[-1] + np.array([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(np.diff(x), dx[0])
    assert (dx == dx[0]).all()


def test_data_without_noise_are_left_as_they_are():
    t = np.linspace(0, 10, 120)
    found = fit([Series(t, np.sin(t), np.ones(120))])
    assert found.sigma < 1e-5
    np.testing.assert_allclose(found.predict(0, t)[0], np.sin(t), atol=1e-5)


def test_units_of_time_and_value_do_not_matter():
    t, y = noisy(90)
    one = fit([Series(t, y, np.ones(90))])
    two = fit([Series(1e3 * t, 1e-6 * y, np.ones(90))])
    assert two.penalty == one.penalty
    assert two.sigma == pytest.approx(1e-6 * one.sigma)
    assert two.evidence - one.evidence == pytest.approx(90 * np.log(1e6))


@pytest.mark.parametrize("seed", range(3))
def test_log_normal_noise_is_told_from_additive_noise(seed):
    generator = np.random.default_rng(seed)
    t = np.linspace(0, 40, 300)
    x = np.exp(1.2 * np.sin(t))[:, None]
    e = generator.standard_normal(x.shape)
    for y, kinds in (
        (x * np.exp(0.2 * e), {"log-normal", "multiplicative"}),
        (x + 0.05 * e, {"additive"}),
    ):
        part = Trajectory(t, y, np.zeros((300, 0)))
        models, _ = smooth(Dataset((part,), ("x",)), smoother="spline")
        assert models[0].kind in kinds
        assert models[0].smoother == "spline"


def test_long_series_are_smoothed_by_splines_unless_asked_otherwise():
    t, y = noisy(2100, 0.1)
    data = Dataset((Trajectory(t, y[:, None], np.zeros((2100, 0))),), ("x",))
    few = Dataset((Trajectory(t[:200], y[:200, None], np.zeros((200, 0))),), ("x",))
    assert smooth(data, "additive")[0][0].smoother == "spline"
    assert smooth(few, "additive")[0][0].smoother == "gp"
    assert set(CURVES) >= {"gp", "spline"}


def test_the_evidence_is_the_density_of_points_left_out():
    t, y = noisy(30, 0.2)
    shape = np.linspace(0.6, 1.4, 30)
    found = fit([Series(t, y, shape)])
    unit = np.diff(t).mean()
    expected = 0.0
    for i in range(30):
        rest = np.arange(30) != i
        curve = make_smoothing_spline(
            t[rest] / unit, y[rest], w=shape[rest] ** -2, lam=found.penalty
        )
        without = float(curve(t[i] / unit)) if 0 < i < 29 else None
        if without is None:
            slope = curve.derivative()
            end = t[rest][0 if i == 0 else -1] / unit
            without = float(curve(end) + slope(end) * (t[i] / unit - end))
        unit_vector = make_smoothing_spline(t / unit, np.eye(30)[i], w=shape**-2, lam=found.penalty)
        variance = (found.sigma * shape[i]) ** 2 / (1 - float(unit_vector(t[i] / unit)))
        expected -= 0.5 * (np.log(2 * np.pi * variance) + (y[i] - without) ** 2 / variance)
    assert found.evidence == pytest.approx(expected, rel=1e-6)
