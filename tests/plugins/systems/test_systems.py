"""Named systems: fields against sympy, closed forms, invariants, and the protocol of the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
import torch

import odekit
from odekit import Field, ProblemError
from odekit_systems.system import System

NAMES = [
    entry.name
    for entry in odekit.components("system")
    if entry.plugin == "systems" and not entry.name.startswith("odebench_")
]
# The literature's equations, written out a second time with the default parameters put in.
LITERATURE = {
    "allee": (["x"], ["-0.5*x + 0.6*x**2 - 0.1*x**3"]),
    "brusselator": (["x", "y"], ["1 - 4*x + x**2*y", "3*x - x**2*y"]),
    "chen": (["x", "y", "z"], ["35*(y - x)", "-7*x - x*z + 28*y", "x*y - 3*z"]),
    "damped_oscillator": (["x", "v"], ["v", "-4.5*x - 0.43*v"]),
    "damped_pendulum": (["th", "om"], ["om", "-9.81*sin(th) - 0.25*om"]),
    "duffing": (["x", "v"], ["v", "x - 0.18*v - x**3"]),
    "fitzhugh_nagumo": (["v", "w"], ["v - v**3/3 - w + 0.5", "0.056 + 0.08*v - 0.064*w"]),
    "harmonic": (["x", "v"], ["v", "-x"]),
    "henon_heiles": (["x", "y", "p", "q"], ["p", "q", "-x - 2*x*y", "-y - x**2 + y**2"]),
    "kepler": (
        ["x", "y", "p", "q"],
        ["p", "q", "-x/(x**2 + y**2)**1.5", "-y/(x**2 + y**2)**1.5"],
    ),
    "logistic": (["x"], ["0.8*x - 0.8*x**2/7.5"]),
    "lorenz": (["x", "y", "z"], ["10*(y - x)", "28*x - y - x*z", "x*y - 8*z/3"]),
    "lotka_volterra": (["x", "y"], ["1.5*x - x*y", "-3*y + x*y"]),
    "may_leonard": (
        ["x", "y", "z"],
        [
            "x - x**2 - 0.8*x*y - 1.3*x*z",
            "y - 1.3*x*y - y**2 - 0.8*y*z",
            "z - 0.8*x*z - 1.3*y*z - z**2",
        ],
    ),
    "michaelis_menten": (["s"], ["0.6 - 1.5*s/(0.3 + s)"]),
    "pendulum": (["th", "om"], ["om", "-9.81*sin(th)"]),
    "robertson": (
        ["x", "y", "z"],
        ["-0.04*x + 1e4*y*z", "0.04*x - 3e7*y**2 - 1e4*y*z", "3e7*y**2"],
    ),
    "rossler": (["x", "y", "z"], ["-y - z", "x + 0.2*y", "0.2 - 5.7*z + x*z"]),
    "selkov": (["x", "y"], ["-x + 0.08*y + x**2*y", "0.6 - 0.08*y - x**2*y"]),
    "sir": (["s", "i"], ["-0.9*s*i", "0.9*s*i - 0.3*i"]),
    "spiral": (["x", "y"], ["-0.1*x**3 + 2*y**3", "-2*x**3 - 0.1*y**3"]),
    "van_der_pol": (["x", "v"], ["v", "-x + v - x**2*v"]),
}


def states(system, n=20, seed=0):
    scale = np.random.default_rng(seed).uniform(-2.0, 2.0, (n, len(system.names)))
    return torch.from_numpy(scale)


def zero():
    return torch.zeros((), dtype=torch.float64)


def test_every_system_has_its_equations_here():
    assert sorted(LITERATURE) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_field_is_that_of_the_literature(name):
    system = odekit.create("system", name)
    symbols, right = LITERATURE[name]
    function = sympy.lambdify(symbols, [sympy.sympify(text) for text in right], "numpy")
    y = states(system)
    expected = np.array(np.broadcast_arrays(*function(*y.T.numpy())))
    field = system.field()
    assert isinstance(system, System)
    assert isinstance(field, Field)
    np.testing.assert_allclose(field(zero(), y).T, expected, rtol=1e-12, atol=1e-13)
    by_name = [system.sympy()[state] for state in system.names]
    own = sympy.lambdify([sympy.Symbol(state) for state in system.names], by_name, "numpy")
    np.testing.assert_allclose(
        np.array(np.broadcast_arrays(*own(*y.T.numpy()))), expected, rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("name", NAMES)
def test_default_solution_is_finite_and_moves(name):
    system = odekit.create("system", name)
    assert system.y0.shape == (len(system.names),)
    assert system.y0.dtype == torch.float64
    truth = system.truth(np.linspace(*system.span, 60))
    assert bool(truth.isfinite().all())
    assert torch.equal(truth[0], system.y0)
    assert bool((truth.std(0) > 0).all())
    series = system.series()
    assert series.names == system.names
    assert all(isinstance(value, float) for value in system.parameters.values())


@pytest.mark.parametrize("name", NAMES)
def test_fields_take_batches_lanes_and_other_dtypes(name):
    system = odekit.create("system", name)
    field, y = system.field(), states(system, 6)
    whole = field(zero(), y)
    assert torch.equal(field(zero(), y.reshape(2, 3, -1)).reshape(6, -1), whole)
    assert torch.equal(field(zero().expand(6), y), whole)
    assert torch.equal(field(zero(), y[2]), whole[2])
    assert field(zero(), y[2].float()).dtype == torch.float32
    assert not list(field.parameters())
    assert [b.dtype for b in field.buffers()] == [torch.float64] * len(system.parameters)


def test_parameters_may_differ_from_sample_to_sample():
    mu = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    system = odekit.create("system", "van_der_pol", mu=mu)
    y = states(system, 3)
    field = system.field()
    for i in range(3):
        alone = odekit.create("system", "van_der_pol", mu=float(mu[i])).field()
        assert torch.equal(field(zero(), y)[i], alone(zero(), y[i]))
    cubes = y[:, None].expand(3, 4, 2)
    assert torch.equal(field(zero(), cubes)[:, 2], field(zero(), y))
    with pytest.raises(ProblemError, match="parameters differ from sample to sample"):
        field(zero(), y[0])
    for needs_numbers in (system.sympy, system.series):
        with pytest.raises(ProblemError, match="mu has a value for each sample"):
            needs_numbers()


def test_solver_reaches_the_truth_and_gradients_reach_the_start():
    system = odekit.create("system", "lotka_volterra")
    t = torch.linspace(*system.span, 21, dtype=torch.float64)
    solution = odekit.solve(system.field(), system.y0, t, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(solution.y, system.truth(t), rtol=1e-7, atol=1e-8)
    y0 = system.y0.requires_grad_()
    last = odekit.solve(system.field(), y0, t, rtol=1e-10, atol=1e-12).y[-1, 0]
    (gradient,) = torch.autograd.grad(last, y0)
    h = 1e-5
    for i, direction in enumerate(np.eye(2) * h):
        ends = [system.truth(t, np.array(system.start) + s * direction)[-1, 0] for s in (1, -1)]
        assert float(gradient[i]) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-4)


def test_closed_forms():
    t = torch.linspace(0, 10, 101, dtype=torch.float64)
    harmonic = odekit.create("system", "harmonic", omega=2.0)
    expected = torch.stack([3 * torch.cos(2 * t) + torch.sin(2 * t) / 2], -1)
    torch.testing.assert_close(harmonic.truth(t, [3.0, 1.0])[:, :1], expected, rtol=0, atol=1e-8)
    logistic = odekit.create("system", "logistic", rate=1.3, capacity=2.0)
    expected = 2.0 / (1 + (2.0 / 0.1 - 1) * torch.exp(-1.3 * t))
    torch.testing.assert_close(logistic.truth(t, [0.1])[:, 0], expected, rtol=1e-8, atol=0)
    damped = odekit.create("system", "damped_oscillator", stiffness=1.0, damping=2.0)
    expected = (1 + t) * torch.exp(-t)
    torch.testing.assert_close(damped.truth(t, [1.0, 0.0])[:, 0], expected, rtol=0, atol=1e-9)


def lotka_volterra(y, alpha, beta, gamma, delta):
    prey, predator = y
    return delta * prey - gamma * prey.log() + beta * predator - alpha * predator.log()


def pendulum(y, gravity, length):
    return y[1] ** 2 / 2 - gravity / length * torch.cos(y[0])


def kepler(y, mu):
    return (y[2] ** 2 + y[3] ** 2) / 2 - mu / torch.hypot(y[0], y[1])


def henon_heiles(y, coupling):
    return (y**2).sum(0) / 2 + coupling * (y[0] ** 2 * y[1] - y[1] ** 3 / 3)


@pytest.mark.parametrize("invariant", [lotka_volterra, pendulum, kepler, henon_heiles])
def test_invariants_stay_along_the_field(invariant):
    system = odekit.create("system", invariant.__name__)
    y = states(system, 30).abs().requires_grad_()
    value = invariant(y.T, **system.parameters)
    (slope,) = torch.autograd.grad(value.sum(), y)
    along = (slope * system.field()(zero(), y)).sum(-1)
    torch.testing.assert_close(along, torch.zeros(30, dtype=torch.float64), rtol=0, atol=1e-11)
    truth = system.truth(np.linspace(*system.span, 50))
    values = invariant(truth.T, **system.parameters)
    assert float(values.max() - values.min()) < 1e-7 * float(1 + values.abs().max())


def test_robertson_keeps_its_mass():
    truth = odekit.create("system", "robertson").truth(np.linspace(0, 40, 20))
    torch.testing.assert_close(
        truth.sum(-1), torch.ones(20, dtype=torch.float64), atol=1e-9, rtol=0
    )
    assert float(truth[-1, 0]) == pytest.approx(0.7158, abs=1e-4)  # Hairer and Wanner, at t = 40


def test_duffing_is_driven_by_time():
    system = odekit.create("system", "duffing", amplitude=0.5, omega=2.0)
    y, lanes = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([0.0, 0.5, 1.0]).double()
    torch.testing.assert_close(system.field()(lanes, y)[:, 1], 0.5 * torch.cos(2 * lanes))
    assert sympy.Symbol("t") in system.sympy()["v"].free_symbols


def test_series_follows_the_protocol_of_its_docstring():
    system = odekit.create("system", "lorenz")
    n, drop, noise, seed = 41, 0.3, 0.1, 7
    generator = np.random.default_rng(seed)
    t = np.linspace(*system.span, n)
    clean = system.truth(t).numpy()
    keep = sorted(generator.permutation(n)[: n - int(drop * n)])
    y = clean[keep] + noise * np.std(clean, axis=0) * generator.standard_normal((len(keep), 3))
    series = system.series(n=n, drop=drop, noise=noise, seed=seed)
    assert len(series) == n - int(drop * n) == 29
    np.testing.assert_array_equal(series.t, t[keep])
    np.testing.assert_array_equal(series.y, y)


def test_series_is_the_same_each_time_and_differs_between_seeds():
    system = odekit.create("system", "sir")
    first, again, other = system.series(seed=3), system.series(seed=3), system.series(seed=4)
    assert torch.equal(first.t, again.t)
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.t, other.t)


def test_series_without_drop_and_noise_is_the_truth():
    system = odekit.create("system", "pendulum")
    series = system.series(n=50, noise=0.0, drop=0.0, y0=[0.3, 0.1])
    t = np.linspace(*system.span, 50)
    np.testing.assert_array_equal(series.t, t)
    np.testing.assert_array_equal(series.y, system.truth(t, [0.3, 0.1]))
    assert series.y[0].tolist() == [0.3, 0.1]


def test_noise_has_the_level_that_was_asked_for():
    system = odekit.create("system", "lotka_volterra")
    noisy = system.series(n=4000, noise=0.05, drop=0.0)
    clean = system.truth(noisy.t)
    level = (noisy.y - clean).std(0) / clean.std(0, correction=0)
    assert level.tolist() == pytest.approx([0.05, 0.05], rel=0.05)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lorenz", {"rho": math.nan}, "rho must be finite, got nan"),
        ("lorenz", {"rho": "28 mm"}, "rho must be a number or a tensor"),
        ("logistic", {"capacity": 0.0}, "capacity must be positive and finite, got 0.0"),
        ("logistic", {"rate": torch.tensor([1.0, -1.0])}, "rate must be positive and finite"),
        ("logistic", {"rate": torch.ones(2, 2)}, "rate must be a number or a floating tensor"),
        ("logistic", {"speed": 1.0}, "its options are: rate, capacity"),
    ],
)
def test_refuses_parameters(name, options, message):
    with pytest.raises((ProblemError, odekit.IncompatibleError), match=message):
        odekit.create("system", name, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -0.1}, "noise must be zero or more"),
        ({"drop": 1.0}, "leave fewer than two rows"),
        ({"n": 3, "drop": 0.7}, "leave fewer than two rows"),
        ({"y0": [1.0, 2.0]}, r"y0 must be 1 finite numbers \(x\)"),
        ({"y0": [-1.0]}, "does not reach t = 10"),
    ],
)
def test_refuses_series(options, message):
    with pytest.raises(ProblemError, match=message):
        odekit.create("system", "logistic").series(**options)


@pytest.mark.parametrize("name", NAMES)
def test_further_starts_lead_somewhere_else(name):
    system = odekit.create("system", name)
    assert system.starts[0] == tuple(system.y0.tolist())
    assert len(system.starts) >= 2
    ends = [system.truth([system.span[0], 0.9], start)[-1] for start in system.starts]
    assert bool(torch.stack(ends).isfinite().all())
    assert not torch.allclose(ends[0], ends[1], rtol=1e-3)


def test_y0_is_a_fresh_tensor():
    system = odekit.create("system", "spiral")
    system.y0.zero_()
    assert system.y0.tolist() == [2.0, 0.0]
