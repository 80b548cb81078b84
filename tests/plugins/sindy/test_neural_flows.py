"""Smoothers that follow trajectories where samples are few per oscillation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from odekit import DataWarning
from odekit_sindy import flows, library_smoother, neural_smoother
from odekit_sindy.data import Dataset, Trajectory, first_scales, scaled
from odekit_sindy.smoothing import smooth


def lorenz(t, x):
    return [10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]


def coarse(noise, seed=1, n=150, proportional=False):
    """Half of 150 points of [0, 10] at random: some five per oscillation, gaps of half a one."""
    generator = np.random.default_rng(seed)
    t = np.linspace(0, 10, n)
    t = t[np.sort(generator.permutation(n)[: n // 2])]
    solved = solve_ivp(
        lorenz, (0, 10), (2.3, 8.1, 12.4), t_eval=t, rtol=1e-9, atol=1e-11, method="LSODA"
    )
    clean = solved.y.T
    size = np.abs(clean) if proportional else clean.std(0)
    y = clean + noise * size * generator.standard_normal(clean.shape)
    data = Dataset((Trajectory(t - t[0], y, np.zeros((len(t), 0))),), ("x", "y", "z"))
    scales = first_scales(data)
    return scaled(data, scales), clean / scales.state, scales


def error(states, truth):
    return np.sqrt(((states[0] - truth) ** 2).mean(0))


@pytest.mark.parametrize("proportional", [False, True])
def test_a_library_bridges_gaps_that_a_process_takes_for_noise(proportional):
    data, truth, scales = coarse(0.02, proportional=proportional)
    kind = "multiplicative" if proportional else "additive"
    curve = smooth(data, kind)[0][0]
    trusted, others = flows.smooth_by_flow(data, curve, ("library",))
    assert error(trusted.states, truth).max() < 0.5 * error(curve.states, truth).max()
    if proportional:
        assert error(curve.states, truth).max() > 0.3
    assert trusted.smoother == "library"
    assert others == []
    assert error(trusted.states, truth).max() < 0.03
    assert trusted.sigma.max() < 0.08
    x = trusted.samples.x * scales.state
    slopes = np.array([lorenz(0, row) for row in x]) / scales.state * scales.time
    assert (np.abs(trusted.samples.dx - slopes).mean(0) < 0.06 * slopes.std(0)).all()
    if proportional:
        size = np.sqrt((trusted.shape[0] ** 2).mean(0))
        np.testing.assert_allclose(size, 1.0)
        far, near = np.abs(truth[:, 0]).argmax(), np.abs(truth[:, 0]).argmin()
        assert trusted.shape[0][far, 0] > 5 * trusted.shape[0][near, 0]


def test_where_the_process_does_well_it_stays():
    t = np.linspace(0, 12, 80)
    generator = np.random.default_rng(2)
    y = np.stack([np.sin(t), np.cos(t)], axis=1) + 0.05 * generator.standard_normal((80, 2))
    data = Dataset((Trajectory(t, y, np.zeros((80, 0))),), ("x", "v"))
    curve = smooth(data, "additive")[0][0]
    trusted, others = flows.smooth_by_flow(data, curve, ("library",))
    assert trusted is curve
    assert others == []


def test_noise_without_dynamics_stays_noise():
    t = np.linspace(0, 10, 60)
    y = np.random.default_rng(3).standard_normal((60, 2))
    data = Dataset((Trajectory(t, y, np.zeros((60, 0))),), ("x", "y"))
    curve = smooth(data, "additive")[0][0]
    trusted, _ = flows.smooth_by_flow(data, replace(curve, sigma=np.ones(2)), ("library",))
    assert trusted.smoother == "gp"


def test_splines_pass_through_the_data_and_bridge_missing_cells():
    data, _, _ = coarse(0.0)
    y = data.trajectories[0].y.copy()
    y[5, 1] = y[0, 2] = np.nan
    gaps = replace(data, trajectories=(replace(data.trajectories[0], y=y),))
    from scipy.interpolate import CubicSpline

    _, states = library_smoother.interpolated(gaps, CubicSpline)
    seen = np.isfinite(y)
    np.testing.assert_allclose(states[0][seen], y[seen], atol=1e-9)
    assert states[0][0, 2] == pytest.approx(y[1, 2])  # held, not extrapolated
    assert np.isfinite(states[0]).all()


def test_a_network_that_fails_is_left_out_with_a_warning(monkeypatch):
    data, _, _ = coarse(0.02)
    curve = smooth(data, "additive")[0][0]

    def fail(*_, **__):
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr(neural_smoother, "smooth", fail)
    with pytest.warns(DataWarning, match="goes on without it"):
        trusted, others = flows.smooth_by_flow(data, curve, ("node",))
    assert trusted is curve
    assert others == []


def test_states_never_observed_are_left_to_the_curve():
    data, _, _ = coarse(0.02)
    curve = smooth(data, "additive")[0][0]
    y = data.trajectories[0].y.copy()
    y[:, 1] = np.nan
    hidden = replace(data, trajectories=(replace(data.trajectories[0], y=y),))
    assert flows.smooth_by_flow(hidden, curve, flows.FLOWS) == (curve, [])
