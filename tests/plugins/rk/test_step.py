"""One step against SciPy's, and what every step must do whatever its numbers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import DOP853, RK23, RK45

import odekit
from odekit import Segment

NAMES = [
    "euler",
    "midpoint",
    "heun",
    "ralston",
    "rk4",
    "rk38",
    "bosh3",
    "dopri5",
    "tsit5",
    "dopri8",
]
ADAPTIVE = [name for name in NAMES if name not in ("euler", "rk4", "rk38")]
F64 = torch.float64


def predators(t, y):
    hare, lynx = y.unbind(-1)
    season = 1 + 0.3 * torch.sin(3 * t)
    return torch.stack([hare * (season - lynx), lynx * (hare - 1.2)], -1)


def in_numpy(t, y):
    return predators(torch.tensor(t, dtype=F64), torch.as_tensor(y)).numpy()


def attempt(solver, field, t, h, y):
    t = torch.as_tensor(t, dtype=F64)
    step = solver.step(field, t, h, y, solver.init(field, t, y))
    dense = solver.complete(field, t, h, y, step)
    return step, Segment(t, torch.as_tensor(h, dtype=F64), y, step.y, dense)


@pytest.mark.parametrize("h", [0.3, -0.3])
@pytest.mark.parametrize(("name", "peer"), [("bosh3", RK23), ("dopri5", RK45), ("dopri8", DOP853)])
def test_one_step_and_its_dense_output_are_those_of_scipy(name, peer, h):
    y0 = torch.tensor([1.7, 0.6], dtype=F64)
    other = peer(in_numpy, 0.4, y0.numpy(), 0.4 + 10 * h, first_step=abs(h), rtol=1.0, atol=1.0)
    other.step()
    assert other.t == pytest.approx(0.4 + h)
    solver = odekit.create("solver", name)
    step, segment = attempt(solver, predators, 0.4, h, y0)
    np.testing.assert_allclose(step.y, other.y, rtol=2e-15)
    interpolant = other.dense_output()
    for x in np.linspace(0, 1, 9):
        got = solver.interpolate(segment, torch.tensor(0.4 + x * h, dtype=F64))
        np.testing.assert_allclose(got, interpolant(0.4 + x * h), rtol=5e-15)


def test_error_of_dopri8_is_dop853s_for_one_entry_and_no_less_for_more():
    solver = odekit.create("solver", "dopri8")
    other = DOP853(in_numpy, 0.4, np.array([1.7, 0.6]), 10.0, first_step=0.3, rtol=1.0, atol=1.0)
    other.step()
    step, _ = attempt(solver, predators, 0.4, 0.3, torch.tensor([1.7, 0.6], dtype=F64))
    scale = np.array([0.3, 0.02])
    for entry in range(2):
        alone = scale[entry : entry + 1]
        want = other._estimate_error_norm(other.K[:, entry : entry + 1], 0.3, alone)
        assert abs(step.error[entry].item()) / scale[entry] == pytest.approx(want, rel=1e-9)
    ours = np.sqrt(np.mean((step.error.numpy() / scale) ** 2))
    theirs = other._estimate_error_norm(other.K, 0.3, scale)
    assert theirs <= ours < 3 * theirs


def test_error_of_dopri8_is_zero_where_nothing_changes():
    solver = odekit.create("solver", "dopri8")

    def field(t, y):
        return torch.stack([torch.zeros_like(y[0]), y[1] ** 3])

    y = torch.tensor([2.0, 1.0], dtype=F64)
    error = attempt(solver, field, 0.0, 0.1, y)[0].error
    assert error[0] == 0
    assert 0 < abs(error[1].item()) < 1e-6
    lost = attempt(solver, lambda t, y: y * torch.nan, 0.0, 0.1, y)[0].error
    assert lost.isnan().all()


def test_dopri8_takes_about_as_many_steps_as_scipy():
    y0, t = torch.tensor([1.7, 0.6], dtype=F64), [0.0, 20.0]
    other = DOP853(in_numpy, 0.0, y0.numpy(), 20.0, rtol=1e-9, atol=1e-11)
    accepted = 0
    while other.status == "running":
        other.step()
        accepted += 1
    ours = odekit.solve(predators, y0, t, solver="dopri8", rtol=1e-9, atol=1e-11)
    assert accepted * 0.9 <= ours.stats.accepted.item() <= accepted * 1.3


@pytest.mark.parametrize("name", NAMES)
def test_a_float_and_a_tensor_step_agree(name):
    solver = odekit.create("solver", name)
    y = torch.tensor([[1.7, 0.6], [0.5, 1.1], [2.0, 0.2]], dtype=F64)
    lengths = torch.tensor([0.3, 0.11, -0.2], dtype=F64)
    start = torch.tensor([0.0, 0.4, 1.0], dtype=F64)

    def batched(t, y):
        return predators(t[:, 0], y)

    step, segment = attempt(solver, batched, start[:, None], lengths[:, None], y)
    middle = solver.interpolate(segment, (start + 0.37 * lengths)[:, None])
    for lane in range(3):
        h = lengths[lane].item()
        alone, part = attempt(solver, predators, start[lane], h, y[lane])
        torch.testing.assert_close(step.y[lane], alone.y, rtol=1e-14, atol=1e-15)
        inside = solver.interpolate(part, start[lane] + 0.37 * h)
        torch.testing.assert_close(middle[lane], inside, rtol=1e-13, atol=1e-14)
        if alone.error is not None:
            torch.testing.assert_close(step.error[lane], alone.error, rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 4)])
@pytest.mark.parametrize("name", NAMES)
def test_states_of_any_shape(name, shape):
    generator = torch.Generator().manual_seed(5)
    y = torch.rand(shape, dtype=F64, generator=generator) + 0.5
    step, segment = attempt(odekit.create("solver", name), lambda t, y: -y * y, 0.0, 0.01, y)
    assert step.y.shape == shape
    for tensor in (*step.dense, *segment.dense):
        assert tensor.shape == shape
    torch.testing.assert_close(step.y, 1 / (1 / y + 0.01), rtol=3e-4, atol=0)
    inside = odekit.create("solver", name).interpolate(segment, torch.tensor(0.005, dtype=F64))
    assert inside.shape == shape
    torch.testing.assert_close(inside, 1 / (1 / y + 0.005), rtol=3e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_complex_state_moves_like_its_real_and_imaginary_part(name):
    def turn(t, z):
        return (0.4j - 0.1 * z.abs() ** 2) * z

    def in_parts(t, y):
        return torch.view_as_real(turn(t, torch.view_as_complex(y)))

    z = torch.tensor([1 + 0.5j, -0.3 + 2j], dtype=torch.complex128)
    solver = odekit.create("solver", name)
    got, segment = attempt(solver, turn, 0.0, 0.2, z)
    want, parts = attempt(solver, in_parts, 0.0, 0.2, torch.view_as_real(z).contiguous())
    torch.testing.assert_close(torch.view_as_real(got.y), want.y, rtol=1e-14, atol=1e-14)
    t = torch.tensor(0.13, dtype=F64)
    torch.testing.assert_close(
        torch.view_as_real(solver.interpolate(segment, t)),
        solver.interpolate(parts, t),
        rtol=1e-13,
        atol=1e-14,
    )
    if got.error is not None and name != "dopri8":  # whose modulus joins the two parts
        torch.testing.assert_close(torch.view_as_real(got.error), want.error, rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("name", NAMES)
def test_dense_output_meets_values_and_slopes_at_both_ends(name):
    solver = odekit.create("solver", name)
    y = torch.tensor([1.7, 0.6], dtype=F64)
    step, segment = attempt(solver, predators, 0.4, 0.25, y)
    for t, value in ((0.4, y), (0.65, step.y)):
        when = torch.tensor(t, dtype=F64, requires_grad=True)
        got = solver.interpolate(segment, when)
        slope = torch.stack([torch.autograd.grad(g, when, retain_graph=True)[0] for g in got])
        torch.testing.assert_close(got, value, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(slope, predators(when.detach(), value), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["dopri5", "tsit5", "dopri8"])
def test_dense_output_in_single_precision_loses_no_more_than_rounding(name):
    solver = odekit.create("solver", name)
    y = torch.tensor([1.7, 0.6], dtype=F64)
    _, double = attempt(solver, predators, 0.4, 0.25, y)
    single = double._replace(
        y0=double.y0.float(), y1=double.y1.float(), dense=tuple(k.float() for k in double.dense)
    )
    t = torch.linspace(0.4, 0.65, 11, dtype=F64)[:, None]
    got = solver.interpolate(single, t)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got.double(), solver.interpolate(double, t), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_no_gradient_flows_through_the_error(name):
    y = torch.tensor([1.7, 0.6], dtype=F64, requires_grad=True)
    step, _ = attempt(odekit.create("solver", name), predators, 0.4, 0.25, y)
    assert step.y.requires_grad
    assert not step.error.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_step_leaves_its_arguments_alone_and_repeats_itself(name):
    solver = odekit.create("solver", name)
    y, t = torch.tensor([1.7, 0.6], dtype=F64), torch.tensor(0.4, dtype=F64)
    state = solver.init(predators, t, y)
    before = [x.clone() for x in (y, t, state)]
    first = solver.step(predators, t, 0.25, y, state)
    second = solver.step(predators, t, 0.25, y, state)
    assert torch.equal(first.y, second.y)
    assert all(torch.equal(a, b) for a, b in zip(before, (y, t, state), strict=True))
    assert not vars(solver)


EVALUATIONS = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "ralston": 2,
    "rk4": 4,
    "rk38": 4,
    "bosh3": 3,
    "dopri5": 6,
    "tsit5": 6,
    "dopri8": 12,
}


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_per_step(name):
    y = torch.tensor([1.7, 0.6], dtype=F64)
    solution = odekit.solve(predators, y, [0.0, 1.0], solver=name, step_size=0.1)
    assert solution.stats.accepted.item() == 10
    assert solution.stats.evaluations.item() == 1 + 10 * EVALUATIONS[name]


@pytest.mark.parametrize("per_sample", [False, True])
def test_dopri8_spends_three_evaluations_on_steps_that_are_looked_into(per_sample):
    y = torch.tensor([[1.7, 0.6]], dtype=F64)

    def field(t, y):
        return predators(t, y)

    options = {"solver": "dopri8", "step_size": 0.1, "per_sample": per_sample}
    t = [0.0, 0.2, 0.3125, 0.34375, 0.75, 1.0]
    solution = odekit.solve(field, y, t, **options)
    assert solution.stats.evaluations.item() == 1 + 10 * 12 + 2 * 3
    dense = odekit.solve(field, y, [0.0, 1.0], dense=True, **options)
    assert dense.stats.evaluations.item() == 1 + 10 * (12 + 3)
    torch.testing.assert_close(dense(solution.t), solution.y, rtol=1e-14, atol=1e-14)


def test_derivatives_of_dense_output_reach_the_state_and_the_field():
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y = torch.tensor([1.5], dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.31, 1.0], dtype=F64)
    for name in ("dopri5", "tsit5", "dopri8"):
        row = odekit.solve(lambda t, y: -rate * y, y, t, solver=name, step_size=0.25).y[1]
        by_y, by_rate = torch.autograd.grad(row.sum(), (y, rate))
        decay = math.exp(-0.7 * 0.31)
        assert by_y.item() == pytest.approx(decay, rel=1e-6)
        assert by_rate.item() == pytest.approx(-0.31 * 1.5 * decay, rel=1e-5)
