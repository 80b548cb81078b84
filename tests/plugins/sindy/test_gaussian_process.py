"""The smoother against the textbook formula, SciPy's normal density and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from odekit_sindy.gaussian_process import JITTER, Series, fit, negative_evidence


def series(n=40, noise=0.05, seed=0, shape=None):
    generator = np.random.default_rng(seed)
    t = np.sort(generator.uniform(0, 10, n))
    h = np.ones(n) if shape is None else shape(t)
    y = 3 + 2 * np.sin(t) + 2 * noise * h * generator.standard_normal(n)
    return Series(t, y, h)


def kernel(t, s, length, amplitude):
    return amplitude**2 * np.exp(-((t[:, None] - s) ** 2) / (2 * length**2))


def test_negative_evidence_is_scipys_log_density():
    blocks = [series(20, seed=1), series(13, seed=2, shape=lambda t: 1 + 0.1 * t)]
    length, amplitude, noise = 1.3, 0.8, 0.2
    expected = 0.0
    for block in blocks:
        k = kernel(block.t, block.t, length, amplitude)
        k += np.diag((noise * block.shape) ** 2 + JITTER * amplitude**2)
        density = multivariate_normal.logpdf(block.y, np.zeros(len(block.t)), k)
        expected -= density + 0.5 * len(block.t) * np.log(2 * np.pi)
    value, _ = negative_evidence(np.log([length, amplitude, noise]), blocks)
    assert value == pytest.approx(expected, rel=1e-10)


def test_gradient_is_the_slope_of_the_evidence():
    blocks = [series(15, seed=3, shape=lambda t: 1 + 0.1 * t)]
    theta = np.log([1.1, 0.9, 0.3])
    _, gradient = negative_evidence(theta, blocks)
    numeric = approx_fprime(theta, lambda p: negative_evidence(p, blocks)[0], 1e-7)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4)


def test_prediction_is_the_textbook_formula_and_its_slope():
    data = series()
    process = fit([data])
    query = np.linspace(0.5, 9.5, 31)
    z = (data.y - process.mean[0]) / process.std
    k = kernel(data.t, data.t, process.length, process.amplitude)
    k += np.diag((process.noise * data.shape) ** 2 + JITTER * process.amplitude**2)
    expected = kernel(query, data.t, process.length, process.amplitude) @ np.linalg.solve(k, z)
    x, dx = process.predict(0, query)
    np.testing.assert_allclose(x, process.std * expected + process.mean[0], rtol=1e-8)
    high, low = (process.predict(0, query + e)[0] for e in (1e-5, -1e-5))
    np.testing.assert_allclose(dx, (high - low) / 2e-5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
def test_noise_level_is_found(noise):
    levels = [fit([series(80, noise, seed)]).sigma for seed in range(5)]
    assert np.median(levels) == pytest.approx(2 * noise, rel=0.25)


def test_several_trajectories_share_one_fit_but_not_their_mean():
    one, two = series(seed=4), series(seed=5)
    two = Series(two.t, two.y + 100, two.shape)
    process = fit([one, two])
    for i, data in enumerate((one, two)):
        x, _ = process.predict(i, data.t)
        assert np.sqrt(np.mean((x - data.y) ** 2)) < 0.3


def test_evidence_is_a_density_in_the_callers_unit():
    data = series()
    thousand = Series(data.t, 1000 * data.y, data.shape)
    expected = fit([data]).evidence - len(data.t) * np.log(1000)
    assert fit([thousand]).evidence == pytest.approx(expected, abs=1e-3)


def test_long_series_are_smoothed_in_windows_without_seams():
    data = series(500, 0.05, seed=6)
    process = fit([data])
    query = np.linspace(0.2, 9.8, 400)
    x, dx = process.predict(0, query)
    assert np.abs(x - (3 + 2 * np.sin(query))).max() < 0.15
    assert np.abs(dx - 2 * np.cos(query)).max() < 0.6


def test_a_trajectory_without_values_is_predicted_by_the_mean():
    data = series()
    empty = Series(np.zeros(0), np.zeros(0), np.zeros(0))
    x, dx = fit([data, empty]).predict(1, np.array([0.0, 1.0]))
    np.testing.assert_allclose(x, data.y.mean())
    np.testing.assert_array_equal(dx, 0.0)
