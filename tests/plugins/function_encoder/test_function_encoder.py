"""The function encoder: one batched call, least squares against closed forms, unseen systems."""

from __future__ import annotations

import math

import pytest
import torch

import odekit
from odekit_function_encoder.basis import ACTIVATIONS
from odekit_function_encoder.paths import trace
from odekit_function_encoder.regression import Rows, posterior

DOUBLE = torch.float64


def make(**options):
    return odekit.create(
        "field", "function_encoder", **{"dim": 2, "basis": 3, "width": 16, **options}
    )


def turn(rate, start=(1.0, 0.0), n=25, end=4.0, seed=None, noise=0.0):
    """A damped turn, dz/dt = (-0.1 + i rate) z, at irregular times when a seed is given."""
    t = torch.linspace(0.0, end, n, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(seed or 0)
    if seed is not None:
        t[1:-1] = (torch.rand(n - 2, generator=generator, dtype=DOUBLE) * end).sort().values
    z = complex(*start) * torch.exp((-0.1 + 1j * rate) * t)
    y = torch.stack([z.real, z.imag], dim=1)
    return odekit.TimeSeries(t, y + noise * torch.randn(y.shape, generator=generator, dtype=DOUBLE))


@pytest.fixture(scope="module")
def trained():
    """An encoder that has seen turning rates from 0.5 to 2."""
    encoder = make()
    systems = []
    for rate in torch.linspace(0.5, 2.0, 6).tolist():
        systems.append([turn(rate, (r * math.cos(a), r * math.sin(a))) for r, a in STARTS])
    fit = odekit.fit(encoder, systems, steps=400, rate=1e-2, points=40)
    return encoder, fit


STARTS = [(0.5, 0.3), (1.0, 2.0), (1.5, 4.0)]
TRUTH = torch.tensor([[-0.1, -1.2], [1.2, -0.1]], dtype=DOUBLE)


def slope_error(field, rate=1.2):
    points = torch.cat([turn(rate, (r * math.cos(a), r * math.sin(a))).y for r, a in STARTS])
    truth = points @ torch.tensor([[-0.1, -rate], [rate, -0.1]], dtype=DOUBLE).T
    with torch.no_grad():
        found = field(torch.tensor(0.0), points)
    return float((found - truth).norm() / truth.norm())


def test_the_whole_basis_is_one_call_that_equals_its_networks_one_by_one():
    encoder = make(basis=4, depth=2, dtype="float64")
    encoder.fields.rate.fill_(2.0)
    encoder.fields.center.fill_(0.3)
    y = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    found = encoder.evaluate(y)
    assert found.shape == (7, 4, 2)
    for k in range(4):
        x = y - 0.3
        for layer, (weight, bias) in enumerate(
            zip(encoder.fields.weights, encoder.fields.biases, strict=True)
        ):
            x = x @ weight[k + 1] + bias[k + 1]
            x = x if layer == 2 else x.tanh()
        torch.testing.assert_close(found[:, k], 2 * x)


def test_the_cost_in_calls_does_not_grow_with_the_basis():
    def calls(basis):
        with torch.profiler.profile() as profile:
            make(basis=basis).evaluate(torch.zeros(5, 2))
        return sum(event.count for event in profile.key_averages() if event.key == "aten::baddbmm")

    assert calls(2) == calls(20) == 3


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_member_is_linearised_beside_its_values(activation, depth, mean):
    encoder = make(dim=3, activation=activation, depth=depth, mean=mean, dtype="float64")
    for name, value in {"center": 0.3, "scale": 2.0, "rate": 5.0}.items():
        getattr(encoder.fields, name).copy_(value * torch.tensor([1.0, 1.5, 2.0]))
    c = torch.tensor([0.5, -1.0, 2.0], dtype=DOUBLE)
    y = 3 * torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    member, basis, jacobian = encoder.linearised(y, c)
    expected = torch.stack([torch.func.jacrev(lambda x: encoder.combine(x, c))(x) for x in y])
    torch.testing.assert_close(member, encoder.combine(y, c))
    torch.testing.assert_close(basis.transpose(0, 1), encoder.evaluate(y))
    torch.testing.assert_close(jacobian, expected.transpose(1, 2), rtol=1e-11, atol=1e-12)
    weights = list(encoder.fields.parameters())
    taken = torch.autograd.grad(jacobian.square().sum(), weights, materialize_grads=True)
    wanted = torch.autograd.grad(expected.square().sum(), weights, materialize_grads=True)
    for grad, want in zip(taken, wanted, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-9, atol=1e-10)


def test_all_series_of_a_system_are_solved_side_by_side():
    encoder = make()
    several = [turn(1.2, (r * math.cos(a), r * math.sin(a))) for r, a in STARTS]

    def calls(series):
        with torch.profiler.profile() as profile:
            encoder.adapt(series)
        return sum(event.count for event in profile.key_averages() if event.key == "aten::baddbmm")

    assert calls(several) == calls(several[0]) < 300


def test_the_names_of_the_weights_are_those_of_saved_files():
    layers = [f"fields.{kind}.{i}" for kind in ("weights", "biases") for i in range(3)]
    rest = ["prior", "spread", "noise", "fields.center", "fields.scale", "fields.rate"]
    assert sorted(make().state_dict()) == sorted(layers + rest)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
def test_a_member_is_mean_plus_coefficients_times_basis_in_every_shape():
    encoder = make(dtype="float64")
    c = torch.tensor([0.5, -1.0, 2.0], dtype=DOUBLE)
    y = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    basis, mean = encoder.evaluate(y), encoder.combine(y, 0 * c)
    expected = mean + torch.einsum("k,abkd->abd", c, basis)
    torch.testing.assert_close(encoder.combine(y, c), expected)
    torch.testing.assert_close(encoder.combine(y[0, 0], c), expected[0, 0])


def test_the_posterior_is_the_ridge_solution_with_its_covariance():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(200, 3, generator=generator, dtype=DOUBLE)
    truth = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
    target = matrix @ truth + 0.1 * torch.randn(200, generator=generator, dtype=DOUBLE)
    prior, spread = torch.tensor([0.0, 0.0, 3.0], dtype=DOUBLE), 4 * torch.eye(3, dtype=DOUBLE)
    rows = Rows(matrix, target, torch.ones(200, dtype=DOUBLE))
    mean, covariance, misfit = posterior(rows, prior, spread, torch.tensor(1e-3, dtype=DOUBLE))
    assert misfit == pytest.approx(0.1, rel=0.15)
    variance = misfit**2 * 200 / 197
    system = matrix.T @ matrix / variance + torch.eye(3, dtype=DOUBLE) / 4
    expected = torch.linalg.solve(system, matrix.T @ target / variance + prior / 4)
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(covariance, torch.linalg.inv(system), rtol=1e-2, atol=0)
    assert ((mean - truth).abs() < 4 * covariance.diagonal().sqrt()).all()


def test_a_path_fills_gaps_and_its_nodes_integrate_cubics_exactly():
    t = torch.tensor([0.0, 0.4, 1.0, 1.1], dtype=DOUBLE)
    y = torch.stack([t**3, 1 - t], dim=1)
    y[1, 1] = torch.nan
    path = trace(odekit.TimeSeries(t, y))
    torch.testing.assert_close(path.y, torch.stack([t**3, 1 - t], dim=1))
    integral = path.nodes[..., 0].mean(1) * path.h
    torch.testing.assert_close(integral, (t[1:] ** 4 - t[:-1] ** 4) / 4)


def test_an_unseen_system_is_predicted_far_better_than_by_the_typical_one(trained):
    encoder, fit = trained
    assert fit.field is encoder
    assert fit.history["loss"].iloc[-1] < 0.05 * fit.history["loss"].iloc[0]
    field = encoder.adapt(turn(1.75))
    assert field.coefficients.shape == (3,)
    assert field.covariance.shape == (3, 3)
    assert slope_error(field, 1.75) < 0.03
    assert slope_error(field, 1.75) < 0.1 * slope_error(encoder, 1.75)
    t = torch.linspace(0.0, 4.0, 41, dtype=DOUBLE)
    with torch.no_grad():
        y = odekit.solve(field, torch.tensor([1.0, 0.0], dtype=DOUBLE), t).y
    assert float((y - turn(1.75, n=41).y).abs().max()) < 0.1


def test_coefficients_run_straight_in_the_parameter_of_the_family(trained):
    encoder, _ = trained
    rates = torch.linspace(0.6, 1.9, 7, dtype=DOUBLE)
    found = torch.stack([encoder.adapt(turn(r)).coefficients.detach() for r in rates.tolist()])
    line = torch.stack([torch.ones_like(rates), rates], dim=1)
    left = found - line @ torch.linalg.lstsq(line, found).solution
    assert 1 - float(left.square().sum() / (found - found.mean(0)).square().sum()) > 0.99


def test_adapting_runs_no_backward_pass_and_changes_nothing(trained, monkeypatch):
    encoder, _ = trained
    before = [value.clone() for value in encoder.state_dict().values()]

    def refuse(*args, **kwargs):
        raise AssertionError("a backward pass was run")

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.autograd.graph, "_engine_run_backward", refuse)
    for module in ("torch._functorch.eager_transforms", "torch.autograd"):
        monkeypatch.setattr(f"{module}._engine_run_backward", refuse, raising=False)
    monkeypatch.setattr("torch._functorch.eager_transforms._autograd_grad", refuse, raising=False)
    field = encoder.adapt([turn(1.2), turn(1.2, (0.0, 1.5))])
    assert slope_error(field) < 0.03
    after = list(encoder.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(p.grad is not None and p.grad.any() for p in field.parameters())


def test_few_irregular_points_are_enough_and_sweeps_help_between_them(trained):
    encoder, _ = trained
    few = turn(1.2, n=6, seed=3)
    linear, solved = encoder.adapt(few, sweeps=0), encoder.adapt(few)
    assert slope_error(solved) < 0.05
    assert slope_error(solved) < slope_error(linear)


def test_measured_slopes_can_be_used_instead(trained):
    encoder, _ = trained
    series = turn(1.2, n=5)
    slopes = series.y @ TRUTH.T
    assert slope_error(encoder.adapt(series, slopes=slopes)) < 0.03
    slopes[2, 1] = torch.nan
    assert slope_error(encoder.adapt([series], slopes=[slopes])) < 0.03


def test_noise_and_gaps_widen_the_covariance_and_are_survived(trained):
    encoder, _ = trained
    sure = encoder.adapt(turn(1.2, n=40))
    noisy = turn(1.2, n=40, noise=0.05, seed=5)
    y = noisy.y.clone()
    y[3:9, 0] = torch.nan
    unsure = encoder.adapt(odekit.TimeSeries(noisy.t, y))
    assert torch.trace(unsure.covariance) > 3 * torch.trace(sure.covariance)
    assert slope_error(unsure) < 0.15
    torch.linalg.cholesky(unsure.covariance)


def test_a_system_outside_the_family_shows_in_the_misfit(trained):
    encoder, _ = trained
    t = torch.linspace(0.0, 4.0, 25, dtype=DOUBLE)
    foreign = odekit.TimeSeries(t, torch.stack([t.cos() ** 3, (1.7 * t).sin()], dim=1))
    assert encoder.adapt(foreign).misfit > 5 * encoder.adapt(turn(1.2)).misfit


def test_an_adapted_field_is_an_ordinary_field_that_trains_its_coefficients_alone(trained):
    encoder, _ = trained
    field = encoder.adapt(turn(1.0))
    assert [name for name, p in field.named_parameters() if p.requires_grad] == ["coefficients"]
    before = [p.clone() for p in encoder.parameters()]
    odekit.fit(field, [turn(1.2), turn(1.2, (0.0, 1.5))], iterations=8)
    assert slope_error(field) < 0.03
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))


def test_a_trained_encoder_is_saved_with_what_it_knows(trained, tmp_path):
    encoder, fit = trained
    fit.save(tmp_path / "encoder.pt")
    again = odekit.Fit.load(tmp_path / "encoder.pt").field
    first, second = encoder.adapt(turn(1.2)), again.adapt(turn(1.2))
    assert torch.equal(first.coefficients, second.coefficients)
    assert torch.equal(first.covariance, second.covariance)


def test_training_is_the_same_every_time_and_in_any_unit():
    def train(scale):
        systems = [
            [odekit.TimeSeries(one.t, scale * one.y) for one in (turn(r), turn(r, (0.0, 1.0)))]
            for r in (0.5, 1.0, 1.5)
        ]
        return odekit.fit(make(width=6), systems, steps=20).history["loss"]

    state = torch.random.get_rng_state()
    first = train(1.0)
    assert first.equals(train(1.0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert train(1e3).to_list() == pytest.approx(first.to_list(), rel=1e-2)


def test_bad_input_ends_in_one_line(trained):
    encoder, _ = trained
    one = turn(1.0)
    with pytest.raises(odekit.ProblemError, match="one list per system"):
        odekit.fit(make(), [one, one])
    with pytest.raises(odekit.ProblemError, match="at least two systems"):
        odekit.fit(make(), [[one]])
    with pytest.raises(odekit.ProblemError, match=r"system 1 is empty|series is empty"):
        odekit.fit(make(), [[one], []])
    narrow = odekit.TimeSeries(one.t, one.y[:, :1])
    with pytest.raises(odekit.ProblemError, match="1 states but the encoder was made for 2"):
        encoder.adapt(narrow)
    with pytest.raises(odekit.ProblemError, match="shape of the states"):
        encoder.adapt(one, slopes=one.y[:3])
    with pytest.raises(odekit.IncompatibleError, match="trains a function_encoder, got MLP"):
        odekit.fit(odekit.create("field", "mlp", dim=2), [[one]], trainer="function_encoder")
    with pytest.raises(odekit.ProblemError, match="basis must be a positive integer"):
        make(basis=0)
    with pytest.raises(odekit.ProblemError, match="did you mean 'tanh'"):
        make(activation="tahn")
    with pytest.raises(odekit.ProblemError, match="make the field with the dim"):
        encoder(torch.tensor(0.0), torch.zeros(3))
