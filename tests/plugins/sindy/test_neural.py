"""The neural ODE as a smoother: derivatives, training under evidence, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from odekit_sindy import neural_smoother
from odekit_sindy.data import Dataset, Trajectory, first_scales, scaled
from odekit_sindy.growing import refined
from odekit_sindy.layout import arrange
from odekit_sindy.models import Models
from odekit_sindy.neural import Network
from odekit_sindy.shooting import Shooting
from odekit_sindy.smoothing import smooth
from odekit_sindy.training import Training, marginal


@pytest.fixture
def network():
    generator = np.random.default_rng(3)
    centre, width = generator.standard_normal(3), generator.uniform(0.5, 2, 3)
    return Network(centre, width, generator.uniform(1, 3, 2), hidden=5)  # two states, one input


def lotka_volterra(t, x):
    return [1.5 * x[0] - x[0] * x[1], -3 * x[1] + x[0] * x[1]]


def problem(noise=0.0, sizes=(21,), seed=0, missing=0.0):
    """Lotka-Volterra in units of its spread, and the true states at the rows."""
    generator = np.random.default_rng(seed)
    parts, truth = [], []
    for i, n in enumerate(sizes):
        t = np.sort(generator.uniform(0, 8, n))
        t -= t[0]
        solved = solve_ivp(lotka_volterra, (0, 8), (5 - i, 2 + i), t_eval=t, rtol=1e-10, atol=1e-12)
        clean = solved.y.T
        y = clean + noise * clean.std(0) * generator.standard_normal(clean.shape)
        y[generator.random(y.shape) < missing] = np.nan
        parts.append(Trajectory(t, y, np.zeros((n, 0))))
        truth.append(clean)
    data = Dataset(tuple(parts), ("x", "y"))
    scales = first_scales(data)
    return scaled(data, scales), [x / scales.state for x in truth]


def error(states, truth):
    found, true = np.concatenate(states), np.concatenate(truth)
    return np.sqrt(((found - true) ** 2).mean())


def test_derivatives_equal_central_differences(network):
    generator = np.random.default_rng(0)
    c, points = network.draw(generator, 3), generator.standard_normal((3, 3, 4))
    f, by_state, by_parameter = network.tangents(c, points)
    np.testing.assert_array_equal(f, network.slopes(c, points))
    step = 1e-6
    for j in range(2):
        move = step * np.eye(3)[j][:, None]
        right = network.slopes(c, points + move) - network.slopes(c, points - move)
        np.testing.assert_allclose(by_state[:, :, j], right / (2 * step), atol=1e-7)
    for q in range(network.size):
        move = step * np.eye(network.size)[q]
        right = network.slopes(c + move, points) - network.slopes(c - move, points)
        np.testing.assert_allclose(by_parameter[:, :, q], right / (2 * step), atol=1e-7)


def test_gradient_of_the_shooting_problem_equals_central_differences(network):
    generator = np.random.default_rng(1)
    t = np.sort(generator.uniform(0, 3, 14))
    y, u = generator.standard_normal((14, 2)), generator.standard_normal((14, 1))
    y[3, 1] = np.nan
    data = Dataset((Trajectory(t - t[0], y, u),), ("x", "y"), ("u",))
    shooting = Shooting(arrange(data, (np.ones((14, 2)),), 4), network, substeps=2)
    segments = shooting.layout.segments
    models = network.models(network.draw(generator, 1), generator.standard_normal((1, 2, segments)))
    sigma = np.array([[0.5, 0.7]])
    gradient = shooting.normal(models, sigma, 3.0).g[0]
    box = np.full(2, 1e9)
    for q in range(len(gradient)):
        step = 1e-6 * np.eye(len(gradient))[[q]]
        up, down = (
            shooting.normal(models.moved(s, -box, box), sigma, 3.0).cost[0] for s in (step, -step)
        )
        # The cost is the sum of squares, twice the function whose gradient this is.
        assert gradient[q] == pytest.approx((up - down) / 4e-6, rel=1e-6, abs=1e-5)


def test_matching_slopes_reaches_a_stationary_point():
    generator = np.random.default_rng(4)
    points = generator.uniform(-2, 2, (1, 200))
    slopes = np.sin(2 * points)
    network = Network(np.zeros(1), np.ones(1), np.ones(1), hidden=8)
    c = neural_smoother.match_slopes(network, network.draw(generator, 3), points, slopes)
    fitted = network.slopes(c, np.broadcast_to(points, (3, 1, 200)))
    assert np.sqrt(((fitted - slopes) ** 2).mean((1, 2))).max() < 0.1


def test_marginal_curvature_is_the_schur_complement():
    generator = np.random.default_rng(5)
    jac = generator.standard_normal((30, 7))
    h, units = jac.T @ jac, np.array([1.0, 2.0, 0.5])
    values, volume = marginal(h, 4, units)
    free = np.linalg.inv(np.linalg.inv(h)[4:, 4:]) * units[:, None] * units
    np.testing.assert_allclose(values, np.linalg.eigvalsh(free), rtol=1e-6)
    assert volume == pytest.approx(np.linalg.slogdet(h[:4, :4])[1], rel=1e-6)


def test_evidence_of_a_linear_problem_is_the_density_of_the_data():
    """One state that does not move: x' = c, known start weight; all Gaussian, so exact."""
    generator = np.random.default_rng(6)
    t = np.linspace(0, 1, 9)
    y = (0.3 + 0.8 * t + 0.05 * generator.standard_normal(9))[:, None]
    data = Dataset((Trajectory(t, y, np.zeros((9, 0))),), ("x",))

    class Drift:
        def bind(self, models, sensitivities):
            def slope(x, z):
                f = np.broadcast_to(models.c[:, :, None], x.shape)
                if z is None:
                    return f, None
                dz = np.zeros_like(z)
                dz[:, 0, 1] = 1.0
                return f, dz

            return slope

    shooting = Shooting(arrange(data, (np.ones((9, 1)),), None), Drift(), substeps=1)
    sigma, start = np.array([[0.05]]), np.full((1, 1, 1), 0.3)
    flat = np.zeros((1, 1), dtype=int)
    models = Models(flat, np.ones((1, 1), dtype=bool), np.array([[0.5]]), start, 1)
    found = []
    for alpha in (0.1, 1.0):
        training = Training(shooting, models, sigma, decay=alpha)
        training.run(1.0, iterations=3)  # fewer than it takes to set the decay anew
        found.append(training.evidence[0])
    # Marginal over a flat start: the density of y with the covariance of slope and noise, up to
    # a constant that does not depend on the decay.
    truth = []
    for alpha in (0.1, 1.0):
        cov = 0.05**2 * np.eye(9) + np.outer(t, t) / alpha + 1e8
        truth.append(-0.5 * (y[:, 0] @ np.linalg.solve(cov, y[:, 0]) + np.linalg.slogdet(cov)[1]))
    assert found[1] - found[0] == pytest.approx(truth[1] - truth[0], abs=1e-3)


def test_evidence_smooths_noisier_data_more():
    strength, determined = [], []
    for noise in (0.01, 0.3):
        data, _ = problem(noise, sizes=(60,))
        grown = neural_smoother.smooth(data, smooth(data, "additive")[0][0], networks=2)
        # The decay is relative to residuals in units of the noise; this is relative to the data.
        strength.append(grown.decay * (grown.smoothed.sigma**2).mean())
        determined.append(grown.determined)
    assert strength[1] > 20 * strength[0]
    assert determined[1] < 0.7 * determined[0]


def test_states_and_slopes_are_nearer_the_truth_than_the_process():
    ratios = []
    for seed in range(2):
        data, truth = problem(0.05, sizes=(75,), seed=seed)
        first = smooth(data, "additive")[0][0]
        grown = neural_smoother.smooth(data, first)
        ratios.append(error(grown.smoothed.states, truth) / error(first.states, truth))
        np.testing.assert_allclose(grown.smoothed.sigma, 0.05, rtol=0.35)
    assert max(ratios) < 0.8


def test_the_same_seed_gives_the_same_result_and_another_another():
    data, _ = problem(0.05, sizes=(30,))
    first = smooth(data, "additive")[0][0]
    once, again, other = (neural_smoother.smooth(data, first, s, 1).smoothed for s in (1, 1, 2))
    np.testing.assert_array_equal(once.samples.dx, again.samples.dx)
    assert np.abs(once.samples.dx - other.samples.dx).max() > 1e-6


def test_two_trajectories_with_missing_cells():
    data, truth = problem(0.02, sizes=(45, 30), missing=0.15)
    first = smooth(data, "additive")[0][0]
    smoothed = neural_smoother.smooth(data, first, networks=2).smoothed
    assert [x.shape for x in smoothed.states] == [(45, 2), (30, 2)]
    assert error(smoothed.states, truth) < 0.05  # also where cells are missing
    assert len(smoothed.samples.t) <= 500
    assert (np.diff(smoothed.samples.t) < 0).sum() == 1  # one jump back, to the second start


def test_samples_are_the_slopes_of_the_states_they_sit_on():
    data, _ = problem(0.0, sizes=(60,))
    smoothed = neural_smoother.smooth(data, smooth(data, "additive")[0][0], networks=2).smoothed
    t, x, dx = smoothed.samples.t, smoothed.samples.x, smoothed.samples.dx
    assert np.all(np.diff(t) > 0)
    middle = np.diff(x, axis=0) / np.diff(t)[:, None]
    mean = 0.5 * (dx[1:] + dx[:-1])
    assert np.median(np.abs(middle - mean)) < 0.02 * dx.std()


def test_inputs_are_columns_of_the_network(observe):
    generator = np.random.default_rng(8)
    t = np.linspace(0, 12, 90)
    u = np.sin(1.7 * t) + 0.5 * np.sin(0.6 * t + 1)
    solved = solve_ivp(
        lambda s, x: -x + 2 * np.interp(s, t, u), (0, 12), [0.5], t_eval=t, rtol=1e-9, max_step=0.1
    )
    y = solved.y.T + 0.03 * generator.standard_normal((90, 1))
    data = Dataset((Trajectory(t, y, u[:, None]),), ("x",), ("u",))
    first = smooth(data, "additive")[0][0]
    grown = neural_smoother.smooth(data, first, networks=2)
    samples = grown.smoothed.samples
    truth = -samples.x + 2 * samples.u
    np.testing.assert_allclose(samples.u[:, 0], np.interp(samples.t, t, u), atol=1e-9)
    assert np.sqrt(((samples.dx - truth) ** 2).mean()) < 0.1 * truth.std()


def test_refining_keeps_times_and_interpolates_inputs():
    t = np.array([0.0, 1.0, 1.5, 3.0])
    u = np.array([[0.0], [2.0], [2.0], [-1.0]])
    data = Dataset((Trajectory(t, np.ones((4, 1)), u),), ("x",), ("u",))
    fine = refined(arrange(data, (np.ones((4, 1)),), None), 2)
    np.testing.assert_allclose(fine.step[:, 0], [0.5, 0.5, 0.25, 0.25, 0.75, 0.75])
    np.testing.assert_allclose(fine.inputs[:, 0, 0], [0, 1, 2, 2, 2, 0.5, -1])
    assert fine.weight.max() == 0


def test_a_discovery_with_the_neural_smoother(observe, structure_of):
    import odekit

    equations = odekit.discover(observe("lotka_volterra", 0.05), smoother="node", seed=3)
    assert structure_of(equations) == {
        ("x0", "x0"), ("x0", "x0*x1"), ("x1", "x1"), ("x1", "x0*x1"),
    }  # fmt: skip
