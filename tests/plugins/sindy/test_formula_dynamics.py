"""Formulas as dynamics: derivatives against differences, bounds, multiple shooting's Jacobian."""

from __future__ import annotations

import numpy as np
import pytest

from odekit.formulas import parse
from odekit_sindy.data import Dataset, Scales, Trajectory
from odekit_sindy.first_guess import linear_parameters
from odekit_sindy.formula_dynamics import Box, FormulaDynamics
from odekit_sindy.layout import arrange
from odekit_sindy.least_squares import minimise
from odekit_sindy.shooting import Shooting

STATES, INPUTS, FREE = ("x", "lambda_"), ("u", "t"), ("a", "b", "n")
RIGHTS = tuple(
    parse(text, (*STATES, *INPUTS, *FREE, "g"))
    for text in (
        "a*x^n/(1 + b*x^2) + g*sin(a*t)*u",
        "abs(lambda_ - x)*exp(-b*lambda_) + sign(x)*sqrt(lambda_) + 2",
    )
)
SCALES = Scales(np.array([2.0, 0.5]), np.array([1.0, 1.0]), 3.0)


def box(low=(-np.inf,) * 3, high=(np.inf,) * 3, unit=(1.0, 0.5, 2.0)):
    return Box(np.array(low, float), np.array(high, float), np.array(unit))


@pytest.fixture
def dynamics():
    bounds = box(low=(0, -np.inf, 1), high=(np.inf, 3, 4))
    return FormulaDynamics(RIGHTS, STATES, INPUTS, FREE, {"g": 9.81}, SCALES, bounds)


def points(count=5, seed=0):
    return np.random.default_rng(seed).uniform(0.3, 1.5, (2, 4, count))


def test_slopes_are_the_formulas_in_scaled_units(dynamics):
    p = np.array([[1.2, 0.4, 1.7], [0.5, 0.1, 2.5]])
    point = points()
    f = dynamics.slopes(p, point)
    for b, (a, c, n) in enumerate(p):
        x, y, u, t = point[b] * np.array([2.0, 0.5, 1.0, 1.0])[:, None]
        first = a * x**n / (1 + c * x**2) + 9.81 * np.sin(a * t) * u
        second = np.abs(y - x) * np.exp(-c * y) + np.sign(x) * np.sqrt(y) + 2
        np.testing.assert_allclose(f[b], np.stack([first * 3 / 2, second * 3 / 0.5]), rtol=1e-13)


def test_tangents_are_the_slopes_of_slopes(dynamics):
    p, point = np.array([[1.2, 0.4, 1.7], [0.5, 0.1, 2.5]]), points()
    f, jac, own = dynamics.tangents(p, point)
    np.testing.assert_allclose(f, dynamics.slopes(p, point), rtol=1e-14)
    h = 1e-6
    for j in range(2):
        step = h * np.eye(4)[j][:, None]
        slope = (dynamics.slopes(p, point + step) - dynamics.slopes(p, point - step)) / (2 * h)
        np.testing.assert_allclose(jac[:, :, j], slope, rtol=1e-6, atol=1e-7)
    for j in range(3):
        step = h * np.eye(3)[j]
        slope = (dynamics.slopes(p + step, point) - dynamics.slopes(p - step, point)) / (2 * h)
        np.testing.assert_allclose(own[:, :, j], slope, rtol=1e-6, atol=1e-7)


def test_derivatives_that_are_infinite_count_as_zero(dynamics):
    point = points()
    point[:, 1] = 0.0
    f, jac, own = dynamics.tangents(np.array([[1.2, 0.4, 1.7]] * 2), point)
    assert np.isfinite(f).all()
    assert np.isfinite(jac).all()
    assert np.isfinite(own).all()


def test_the_jacobian_of_shooting_is_the_slope_of_its_residual(dynamics):
    # Short enough to stay inside of the box where models are evaluated.
    t = np.sort(np.random.default_rng(0).uniform(0, 0.05, 12))
    generator = np.random.default_rng(1)
    part = Trajectory(t - t[0], generator.uniform(0.5, 1.5, (12, 2)), generator.random((12, 2)))
    data = Dataset((part,), ("x", "y"), ("u", "t"))
    shooting = Shooting(arrange(data, (np.ones((12, 2)),)), dynamics, substeps=4)
    start = generator.uniform(0.6, 1.4, (1, 2, shooting.layout.segments))
    models = dynamics.models(np.array([[1.2, 0.4, 1.7]]), start)
    sigma = np.array([[0.3, 0.7]])
    _, jac = shooting.dense(models, sigma, 5.0)
    wall = np.full(2, 1e9)
    for _ in range(4):
        step = generator.standard_normal(jac.shape[1])
        high, low = (
            shooting.dense(models.moved(e * step[None], -wall, wall), sigma, 5.0)[0]
            for e in (1e-6, -1e-6)
        )
        np.testing.assert_allclose(jac @ step, (high - low) / 2e-6, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ((-np.inf,) * 3, (np.inf,) * 3),
        ((0.0, 1.0, -5.0), (np.inf,) * 3),
        ((-np.inf,) * 3, (10.0, 20.0, 9.0)),
        ((0.0, 1.0, -5.0), (10.0, 20.0, 9.0)),
    ],
)
def test_bounds_are_kept_and_inverted(low, high):
    limits = box(low, high)
    p = np.array([[2.0, 3.0, 4.0], [1.0, 2.0, 1.0]])
    c = limits.unconstrained(p)
    np.testing.assert_allclose(limits.values(c)[0], p, rtol=1e-12)
    wild = np.random.default_rng(0).normal(0, 30, (200, 3))
    values, slope = limits.values(wild)
    assert (values >= limits.low - 1e-9).all()
    assert (values <= limits.high + 1e-9).all()
    ahead, behind = limits.values(wild + 1e-6)[0], limits.values(wild - 1e-6)[0]
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-6)


def test_a_start_at_a_bound_can_leave_it():
    limits = box((0.0,) * 3, (np.inf, np.inf, 5.0))
    _, slope = limits.values(limits.unconstrained(np.array([[0.0, 0.0, 5.0]])))
    assert (np.abs(slope) > 0).all()
    assert limits.reached(np.array([0.0, 0.3, 5.0])).tolist() == [True, False, True]


def test_linear_parameters_are_found():
    names = ("a", "b", "c", "d")
    rights = [parse(text, ("x", *names)) for text in ("a*x/(b + x) + c", "d*sin(x) - a")]
    assert linear_parameters(rights, names) == [0, 2, 3]
    product = [parse("a*b*x + c", ("x", *names))]
    assert linear_parameters(product, names[:3]) == [0, 2]


def test_least_squares_finds_each_minimum_of_its_own():
    x = np.linspace(0, 2, 30)
    y = 3 * np.exp(-1.3 * x)

    def residual(theta):
        e = np.exp(-theta[:, 1:] * x)
        r = theta[:, :1] * e - y
        return r, np.stack([e, -theta[:, :1] * x * e], axis=2)

    found, cost = minimise(residual, np.array([[1.0, 0.1], [5.0, 4.0]]), 50)
    np.testing.assert_allclose(found, [[3, 1.3]] * 2, rtol=1e-6)
    assert cost.max() < 1e-12
