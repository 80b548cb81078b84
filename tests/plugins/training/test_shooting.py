"""Multiple shooting: exact Jacobians, known answers, hard data, the same numbers again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import odekit
from odekit_training.flat_field import FlatField
from odekit_training.least_squares import Decay, Linearised
from odekit_training.observations import observe
from odekit_training.segments import cut
from odekit_training.shooting_problem import ShootingProblem

DOUBLE = torch.float64
A = np.array([[-0.2, 1.5], [-1.0, -0.1]])


def linear_series(n=25, noise=0.0, seed=0, y0=(1.0, 0.5), end=5.0, scale=1.0):
    """Irregular times on a linear system, from the matrix exponential."""
    generator = np.random.default_rng(seed)
    t = np.concatenate([[0.0], np.sort(generator.uniform(0, end, n - 1))])
    y = np.stack([expm(A * s) @ y0 for s in t])
    return odekit.TimeSeries(t, scale * (y + noise * generator.standard_normal(y.shape)))


class Pair(torch.nn.Module):
    """Lotka-Volterra, written for one state at a time on request."""

    def __init__(self, single):
        super().__init__()
        self.rates = torch.nn.Parameter(torch.tensor([0.8, 0.3, 0.5, 0.2], dtype=DOUBLE))
        self.single = single

    def forward(self, t, y):
        a, b, c, d = self.rates
        if self.single:
            x, z = y
            return torch.stack([a * x - b * x * z, d * x * z - c * z])
        x, z = y[..., 0], y[..., 1]
        return torch.stack([a * x - b * x * z, d * x * z - c * z], dim=-1)


def problem_of(field, series, length=3, continuity=3.0):
    data = observe(series)
    flat = FlatField(field)
    flat.check(data.trajectories[0].t[:5], data.trajectories[0].smooth[:5])
    segments = cut(data.trajectories, length)
    w = flat.vector()
    with torch.no_grad():
        table = flat.lift(w, torch.cat([one.smooth for one in data.trajectories]))
    unit = torch.linspace(0.5, 1.5, table.shape[1], dtype=DOUBLE)
    box = (torch.full_like(unit, -50.0), torch.full_like(unit, 50.0))
    problem = ShootingProblem(
        flat, segments, unit, box, 0.1 * data.scale, 0.2 * unit, continuity, substeps=2
    )
    generator = torch.Generator().manual_seed(0)
    s = table[segments.start] / unit
    return problem, w, s + 0.1 * torch.randn(s.shape, generator=generator, dtype=DOUBLE)


@pytest.mark.parametrize("case", ["mlp", "augmented", "second_order", "hamiltonian", "one_state"])
def test_the_jacobian_of_every_residual_matches_finite_differences(case):
    options = {"dtype": "float64", "width": 6}
    field = {
        "mlp": lambda: odekit.create("field", "mlp", dim=2, time=True, **options),
        "augmented": lambda: odekit.create("field", "augmented", dim=2, lift="learned", **options),
        "second_order": lambda: odekit.create(
            "field", "second_order", dim=2, velocity="learned", **options
        ),
        "hamiltonian": lambda: odekit.create("field", "hamiltonian", dim=1, **options),
        "one_state": lambda: Pair(single=True),
    }[case]()
    first = linear_series(11)
    y = first.y.clone()
    y[4, 0] = torch.nan
    series = [odekit.TimeSeries(first.t, y), linear_series(6, seed=1)]
    problem, w, s = problem_of(field, series)
    rollout = problem.rollout(w, s)
    jacobian = problem.jacobian(w, rollout)
    residual = problem.residual(w, rollout)
    assert jacobian.shape == (len(residual), len(w) + s.numel())
    unknowns = torch.cat([w, s.reshape(-1)])

    def at(x):
        w, s = x[:field_size], x[field_size:].reshape(problem.segments.t.shape[0], -1)
        return problem.residual(w, problem.rollout(w, s))

    field_size = len(w)
    for i in range(0, len(unknowns), max(1, len(unknowns) // 25)):
        step = torch.zeros_like(unknowns)
        step[i] = 1e-6
        expected = (at(unknowns + step) - at(unknowns - step)) / 2e-6
        torch.testing.assert_close(jacobian[:, i], expected, rtol=1e-5, atol=1e-5)


def test_segments_use_every_datum_once_and_never_bridge_trajectories():
    data = observe([linear_series(12), linear_series(4, seed=1)])
    segments = cut(data.trajectories, 5)
    assert int((~segments.y.isnan()).all(-1).sum()) == 16
    assert segments.first.tolist() == [0, 2]
    assert segments.before.tolist() == [0]
    assert segments.start.tolist() == [0, 5, 12]


def test_the_dual_step_equals_the_primal_step():
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(7, 14, generator=generator, dtype=DOUBLE)
    residual = torch.randn(7, generator=generator, dtype=DOUBLE)
    w = torch.randn(12, generator=generator, dtype=DOUBLE)
    decay = Decay([torch.Size([4, 2]), torch.Size([4])])
    linear = Linearised(jacobian, residual, decay.sizes)
    assert linear.dual
    pull = torch.cat([decay.spread(), torch.zeros(2, dtype=DOUBLE)])
    matrix = jacobian.T @ jacobian + (0.1 * linear.diagonal + pull).diag()
    gradient = jacobian.T @ residual
    gradient[:12] += pull[:12] * w
    expected = -torch.linalg.solve(matrix, gradient)
    torch.testing.assert_close(linear.step(w, decay, 0.1), expected)
    effective = linear.effective(decay)
    full = jacobian.T @ jacobian + (torch.cat([pull[:12], 1e-6 * linear.diagonal[12:]])).diag()
    shares = 1 - pull[:12] * torch.linalg.inv(full).diagonal()[:12]
    assert effective == pytest.approx([float(shares[:8].sum()), float(shares[8:].sum())], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_linear_field_is_found_exactly_in_any_unit(scale):
    field = odekit.create("field", "linear", dim=2, dtype="float64")
    fit = odekit.fit(field, linear_series(scale=scale))
    assert fit.field is field
    np.testing.assert_allclose(field.weight.detach(), A, atol=1e-5)
    assert fit.loss < 1e-8
    assert set(fit.history) >= {"loss", "iteration", "continuity"}


@pytest.mark.parametrize("single", [False, True])
def test_coefficients_of_a_mechanistic_field_from_noisy_data_with_gaps(single):
    truth = np.array([1.0, 0.5, 0.75, 0.25])

    def right(t, y):
        a, b, c, d = truth
        return [a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]]

    generator = np.random.default_rng(3)
    series = []
    for y0 in ([2.0, 1.0], [4.0, 2.0]):
        t = np.linspace(0, 12, 40)
        y = solve_ivp(right, (0, 12), y0, t_eval=t, rtol=1e-9, atol=1e-11).y.T
        y = y * (1 + 0.03 * generator.standard_normal(y.shape))
        y[generator.random(y.shape) < 0.15] = np.nan
        y[0] = y0
        series.append(odekit.TimeSeries(t, y))
    field = Pair(single)
    odekit.fit(field, series)
    np.testing.assert_allclose(field.rates.detach(), truth, rtol=0.04)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_network_learns_equally_well_in_any_unit(scale):
    series = linear_series(60, scale=scale)
    field = odekit.create("field", "mlp", dim=2, width=12, depth=1)
    odekit.fit(field, series)
    y = torch.as_tensor(series.y)
    slope = field(torch.tensor(0.0), y).detach()
    truth = y @ torch.from_numpy(A).T
    assert float((slope - truth).norm() / truth.norm()) < 0.02


def test_the_same_data_give_the_same_numbers_and_other_randomness_is_left_alone():
    series = linear_series(20, noise=0.02)
    fields = [odekit.create("field", "mlp", dim=2, width=6, depth=1) for _ in range(2)]
    state = torch.random.get_rng_state()
    losses = [odekit.fit(fields[0], series).loss]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.randn(5, generator=torch.Generator().manual_seed(1))
    losses.append(odekit.fit(fields[1], series).loss)
    assert losses[0] == losses[1]
    for a, b in zip(fields[0].parameters(), fields[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_augmented_turns_the_line_over_where_a_plain_flow_cannot():
    series = [odekit.TimeSeries([0.0, 1.0], [x, -x]) for x in (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0)]
    ends = torch.tensor([[-1.0], [1.0]], dtype=DOUBLE)

    def error(field):
        with torch.no_grad():
            y = odekit.solve(field, ends, [0.0, 1.0]).y[-1]
        return float((y + ends).square().mean())

    augmented = odekit.create("field", "augmented", dim=1, width=16)
    odekit.fit(augmented, series)
    assert error(augmented) <= 1e-2
    plain = odekit.create("field", "mlp", dim=1, width=16)
    odekit.fit(plain, series)
    assert error(plain) >= 1 - 1e-6


@pytest.mark.parametrize("velocity", ["zero", "learned"])
def test_second_order_finds_the_acceleration_from_positions_alone(velocity):
    def right(t, y):
        return [y[1], -1.5 * y[0] - 0.3 * y[1]]

    generator = np.random.default_rng(0)
    series, states = [], []
    for q in (-2.0, -1.0, 1.5, 2.0):
        t = np.concatenate([[0.0], np.sort(generator.uniform(0, 7, 39))])
        y = solve_ivp(right, (0, 7), [q, 0.0], t_eval=t, rtol=1e-9, atol=1e-11).y.T
        states.append(torch.from_numpy(y))
        series.append(odekit.TimeSeries(t, y[:, :1] + 0.003 * generator.standard_normal((40, 1))))
    field = odekit.create("field", "second_order", dim=1, velocity=velocity, width=16, depth=1)
    odekit.fit(field, series)
    y = torch.cat(states)
    with torch.no_grad():
        found = field.acceleration(torch.tensor(0.0), y)[:, 0]
    truth = -1.5 * y[:, 0] - 0.3 * y[:, 1]
    left = (found - truth).square().sum() / (truth - truth.mean()).square().sum()
    assert float(1 - left) > 0.99


def test_a_hamiltonian_field_keeps_the_spring_turning():
    generator = np.random.default_rng(0)
    t = np.linspace(0, 6.3, 30)
    series = []
    for radius in (0.3, 0.6, 0.9):
        y = radius * np.stack([np.cos(t), -np.sin(t)], axis=1)
        series.append(odekit.TimeSeries(t, y + 0.01 * generator.standard_normal(y.shape)))
    field = odekit.create("field", "hamiltonian", dim=1, width=12, depth=1)
    odekit.fit(field, series)
    start = torch.tensor([[0.4, 0.0], [0.8, 0.0]], dtype=DOUBLE)
    with torch.no_grad():
        y = odekit.solve(field, start, torch.linspace(0, 30, 200), rtol=1e-8, atol=1e-10).y
    energy = y.square().sum(-1) / 2
    assert float(((energy - energy[0]) / energy[0]).abs().max()) < 0.1


def test_progress_is_reported_and_the_loss_falls():
    seen = []
    field = odekit.create("field", "mlp", dim=2, width=6, depth=1)
    fit = odekit.fit(field, linear_series(20), progress=lambda *state: seen.append(state))
    assert len(seen) == len(fit.history)
    assert all(done <= total for done, total, _ in seen)
    assert fit.loss < seen[0][2]


def test_an_interrupted_run_resumes_to_the_same_numbers(tmp_path):
    series, path = linear_series(30, noise=0.02), tmp_path / "run.pt"

    def train(**options):
        field = odekit.create("field", "mlp", dim=2, width=6, depth=1)
        return odekit.fit(field, series, iterations=6, **options)

    class Enough(Exception):
        pass

    def stop(done, total, loss):
        if done == 9:
            raise Enough

    with pytest.raises(Enough):
        train(checkpoint=path, progress=stop)
    whole, again = train(), train(checkpoint=path, resume=True)
    assert again.loss == whole.loss
    assert again.history.equals(whole.history)
    for a, b in zip(whole.field.parameters(), again.field.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(odekit.ProblemError, match="made with other decay"):
        train(checkpoint=path, resume=True, decay=1.0)


def test_frozen_parameters_stay():
    field = odekit.create("field", "mlp", dim=2, width=6, depth=1)
    fixed = field.network.weights[0].requires_grad_(False).clone()
    odekit.fit(field, linear_series(15), iterations=3)
    assert torch.equal(field.network.weights[0], fixed)


def test_what_is_trained_keeps_its_dtype_and_is_not_a_copy():
    field = odekit.create("field", "mlp", dim=2, width=6, depth=1)
    before = copy.deepcopy(field)
    odekit.fit(field, linear_series(15), iterations=3)
    assert all(p.dtype == torch.float32 for p in field.parameters())
    assert not torch.equal(field.network.weights[0], before.network.weights[0])


def test_bad_input_ends_in_one_line():
    def refuse(error, message, field=None, series=None, **options):
        field = field or odekit.create("field", "mlp", dim=2, width=4)
        with pytest.raises(error, match=message) as caught:
            odekit.fit(field, linear_series(10) if series is None else series, **options)
        assert "\n" not in str(caught.value)

    one = linear_series(10)
    refuse(odekit.ProblemError, r"3 states.*dim", odekit.create("field", "mlp", dim=3, width=4))
    refuse(odekit.ProblemError, "series is empty", series=[])
    refuse(odekit.IncompatibleError, r"write odekit\.TimeSeries", series=[one.y])
    driven = odekit.TimeSeries(one.t, one.y, u=one.t)
    refuse(odekit.ProblemError, "inputs.*drop", series=driven)
    narrow = odekit.TimeSeries(one.t, one.y[:, :1])
    refuse(odekit.ProblemError, r"same states.*\[1, 2\]", series=[one, narrow])
    gaps = one.y.clone()
    gaps[1:] = torch.nan
    refuse(odekit.ProblemError, "1 rows with a value", series=odekit.TimeSeries(one.t, gaps))
    refuse(odekit.ProblemError, "iterations must be", iterations=0)
    refuse(odekit.ProblemError, "decay must not", decay=-1.0)
    refuse(odekit.UnknownNameError, "did you mean 'shooting'", trainer="shoting")
    refuse(odekit.IncompatibleError, "its options are", momentum=0.9)
    refuse(odekit.IncompatibleError, "progress must be", progress="yes")
    with pytest.raises(odekit.IncompatibleError, match=r"must be an nn\.Module"):
        odekit.fit(lambda t, y: -y, one)
    frozen = odekit.create("field", "mlp", dim=2).requires_grad_(False)
    refuse(odekit.ProblemError, "no parameters to train", frozen)
