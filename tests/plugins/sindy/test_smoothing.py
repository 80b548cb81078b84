"""Noise models: the right one is chosen, and log densities are comparable."""

from __future__ import annotations

import numpy as np
import pytest

from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.gaussian_process import Series, fit
from odekit_sindy.smoothing import smooth


def dataset(kind, noise=0.15, seed=0, n=70):
    generator = np.random.default_rng(seed)
    t = np.linspace(0, 12, n)
    x = np.stack([np.exp(1.2 * np.sin(t)), np.exp(np.cos(t + 1))], axis=1)
    e = noise * generator.standard_normal(x.shape)
    y = {"additive": x + e * x.std(0), "log-normal": x * np.exp(e)}[kind]
    y = np.abs(y) + 1e-3
    return x, Dataset((Trajectory(t, y, np.zeros((n, 0))),), ("a", "b"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "noise", "chosen"),
    [("additive", 0.1, {"additive"}), ("log-normal", 0.2, {"log-normal", "multiplicative"})],
)
def test_the_noise_model_of_the_data_is_chosen(kind, noise, chosen, seed):
    _, data = dataset(kind, noise, seed)
    models, evidence = smooth(data)
    assert models[0].kind in chosen
    assert set(evidence) == {"additive", "multiplicative", "log-normal"}
    assert {m.kind for m in models} == set(evidence)


def test_the_log_density_of_log_normal_data_includes_the_jacobian():
    _, data = dataset("log-normal", seed=1)
    (model,), evidence = smooth(data, "log-normal")
    (part,) = data.trajectories
    processes = [fit([Series(part.t, np.log(y), np.ones(len(y)))]) for y in part.y.T]
    expected = sum(p.evidence for p in processes) - np.log(part.y).sum()
    assert evidence["log-normal"] == pytest.approx(expected)
    np.testing.assert_allclose(
        model.sigma / np.sqrt((model.states[0] ** 2).mean(0)), 0.15, rtol=0.4
    )


def test_shapes_have_unit_mean_square_where_there_are_data():
    _, data = dataset("log-normal", seed=2)
    part = data.trajectories[0]
    y = part.y.copy()
    y[::3, 0] = np.nan
    data = Dataset((Trajectory(part.t, y, part.u),), data.names)
    for kind in ("additive", "multiplicative", "log-normal"):
        (model,), _ = smooth(data, kind)
        seen = np.isfinite(y)
        size = [np.mean(model.shape[0][seen[:, j], j] ** 2) for j in range(2)]
        np.testing.assert_allclose(size, 1.0, rtol=1e-9)


def test_the_smoother_denoises_and_knows_the_slope():
    x, data = dataset("log-normal", 0.05, seed=3)
    models, _ = smooth(data)
    clean = np.sqrt(np.mean((models[0].states[0] - x) ** 2))
    noisy = np.sqrt(np.mean((data.trajectories[0].y - x) ** 2))
    assert clean < 0.6 * noisy
    samples = models[0].samples
    slope = 1.2 * np.cos(samples.t) * np.exp(1.2 * np.sin(samples.t))
    inner = slice(10, -10)
    error = np.sqrt(np.mean((samples.dx[inner, 0] - slope[inner]) ** 2))
    assert error < 0.15 * slope.std()


def test_data_with_a_zero_are_never_log_normal():
    _, data = dataset("additive")
    part = data.trajectories[0]
    y = part.y.copy()
    y[0, 0] = 0.0
    _, evidence = smooth(Dataset((Trajectory(part.t, y, part.u),), data.names))
    assert "log-normal" not in evidence
