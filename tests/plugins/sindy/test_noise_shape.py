"""Noise that grows with the state: its floor, its unit, and that all stages mean the same by it."""

from __future__ import annotations

import numpy as np
import pytest

from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.growing import noise_shape
from odekit_sindy.noise_shape import FLAT, mean_size, proportional
from odekit_sindy.smoothing import smooth


def test_far_from_zero_it_is_the_state_and_at_zero_the_floor():
    x = np.array([[100.0, -1.0], [0.0, 0.0], [-50.0, 0.5]])
    found = proportional(x)
    np.testing.assert_allclose(found[1], [FLAT * 100, FLAT])
    np.testing.assert_allclose(found[[0, 2]], np.abs(x[[0, 2]]), rtol=2 * FLAT**2)
    np.testing.assert_allclose(proportional(x * 1e6), found * 1e6)
    np.testing.assert_allclose(proportional(x[2:], np.array([100.0, 1.0])), found[2:])


def test_mean_size_counts_what_was_seen():
    shape = np.array([[3.0, 1.0], [4.0, 7.0]])
    seen = np.array([[True, True], [True, False]])
    np.testing.assert_allclose(mean_size(shape, seen), [np.sqrt(12.5), 1.0])


def test_smoother_and_flows_have_one_shape():
    t = np.linspace(0, 6, 60)
    x = np.exp(0.5 * t)[:, None]
    y = x * (1 + 0.1 * np.random.default_rng(0).standard_normal(x.shape))
    data = Dataset((Trajectory(t, y, np.zeros((60, 0))),), ("x",))
    found = {m.kind: m for m in smooth(data, "multiplicative")[0]}["multiplicative"]
    assert mean_size(found.shape[0], np.isfinite(y))[0] == pytest.approx(1.0)
    again = noise_shape(data, found, (x,))
    assert again[0][:, 0] == pytest.approx(
        proportional(x, np.abs(y).max(0))[:, 0]
        / mean_size(proportional(x, np.abs(y).max(0)), np.isfinite(y))[0]
    )
    # Both are the state itself, as far as the curve is.
    np.testing.assert_allclose(again[0] / found.shape[0], 1.0, rtol=0.15)
