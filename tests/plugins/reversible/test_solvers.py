"""What is special about the reversible solvers, beyond the promises every solver keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import odekit
from odekit import IncompatibleError, ProblemError, SeparableField, Solver, Step, Trait
from odekit.testing import SolverConformance

DOUBLE = torch.float64


def swing(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -torch.sin(y[..., 0]) + 0.3 * torch.cos(t)], -1)


def clock(t: float) -> Tensor:
    return torch.tensor(t, dtype=DOUBLE)


def lengths(count: int) -> list[float]:
    return [0.05 * (1.2 + math.sin(i)) for i in range(count)]


@pytest.mark.parametrize("inner", ["euler", "midpoint", "bosh3", "rk4", "tsit5", "dopri8", None])
def test_steps_of_many_lengths_are_taken_back(inner: str | None) -> None:
    solver = make(inner)
    y = start = torch.tensor([[1.0, 0.2], [-0.4, 0.9]], dtype=DOUBLE)
    memory, t, times = solver.init(swing, clock(0.0), y), 0.0, []
    for h in lengths(200):
        step = solver.step(swing, clock(t), h, y, memory)
        y, memory = step.y, step.state
        times.append(t)
        t += h
    assert float((y - start).abs().max()) > 0.1
    for t, h in zip(reversed(times), reversed(lengths(200)), strict=True):
        y, memory = solver.reverse(swing, clock(t), h, y, memory)
    assert float((y - start).abs().max()) < 1e-12


def make(inner: str | None, **options: Any) -> Solver:
    if inner is None:
        return odekit.create("solver", "reversible_heun")
    return odekit.create("solver", "reversible", solver=inner, **options)


def test_the_coupled_step_is_that_of_the_paper() -> None:
    """Definition 3.1 with Euler's method inside, written out."""
    solver = make("euler", coupling=0.9)
    y, z = (torch.tensor(v, dtype=DOUBLE) for v in ([1.0, 0.2], [0.8, 0.3]))
    t, h = clock(0.4), 0.1
    y1 = 0.9 * y + 0.1 * z + h * swing(t, z)
    z1 = z + h * swing(t + h, y1)  # minus an Euler step of -h
    step = solver.step(swing, t, h, y, z)
    assert torch.allclose(step.y, y1, rtol=0, atol=1e-15)
    assert torch.allclose(step.state, z1, rtol=0, atol=1e-15)


def test_two_steps_of_reversible_heun_are_those_of_the_paper() -> None:
    """Algorithm 1 without noise, written out."""
    solver = make(None)
    y = v = torch.tensor([1.0, 0.2], dtype=DOUBLE)
    t, h = 0.4, 0.1
    memory = solver.init(swing, clock(t), y)
    found = y
    for i in range(2):
        before, after = clock(t + i * h), clock(t + i * h) + h
        v1 = 2 * y - v + h * swing(before, v)
        y = y + h / 2 * (swing(before, v) + swing(after, v1))
        v = v1
        step = solver.step(swing, before, h, found, memory)
        found, memory = step.y, step.state
    assert torch.allclose(found, y, rtol=0, atol=1e-15)
    assert torch.allclose(memory[0], v, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("inner", "order"), [("heun", 2), ("rk4", 4), ("dopri8", 8)])
def test_the_wrapper_has_the_claims_of_its_solver(inner: str, order: int) -> None:
    solver, plain = make(inner), odekit.create("solver", inner)
    assert (solver.order, solver.dense_order) == (order, plain.dense_order)
    assert solver.traits == Trait.REVERSIBLE | (plain.traits & Trait.ERROR_ESTIMATE)


@pytest.mark.parametrize(
    ("inner", "coupling"),
    [("midpoint", 0.9), ("bosh3", 1.0), ("bosh3", 0.9999), ("rk4", 0.9), ("dopri5", 1.0)],
)
def test_the_order_is_kept(inner: str, coupling: float) -> None:
    """At least the order of the method inside; odd ones gain from the symmetry."""

    def error(steps: int) -> float:
        t = torch.linspace(0.0, 2.0, steps + 1, dtype=DOUBLE)
        y0 = torch.tensor(0.7, dtype=DOUBLE)
        solver = make(inner, coupling=coupling)
        y = odekit.solve(lambda t, y: y * torch.cos(t), y0, t, solver=solver, controller="fixed").y
        exact = 0.7 * torch.sin(t).exp()
        return float((y - exact).abs().max())

    measured = math.log(error(25) / error(100)) / math.log(4)
    assert measured > make(inner).order - 0.2


def test_a_smaller_coupling_is_stable_where_one_is_not() -> None:
    def size(coupling: float) -> float:
        solver = make("rk4", coupling=coupling)
        y0 = torch.ones(1, dtype=DOUBLE)
        with torch.no_grad():
            solution = odekit.solve(
                lambda t, y: -y, y0, [0.0, 60.0], solver=solver, step_size=0.1, throw=False
            )
        return float(solution.y[-1].abs())

    assert size(1.0) > 1.0
    assert size(0.9) < 1e-8


@pytest.mark.parametrize("inner", ["tsit5", "rk4", "dopri8"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_dense_output_is_that_of_the_state_and_not_of_its_companion(
    inner: str, *, per_sample: bool
) -> None:
    solver = make(inner, coupling=0.9)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[..., 1], -y[..., 0]], -1)

    y0 = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=DOUBLE)
    solution = odekit.solve(
        field, y0, [0.0, 3.0], solver=solver, step_size=0.1, dense=True, per_sample=per_sample
    )
    t = torch.linspace(0.0, 3.0, 101, dtype=DOUBLE)
    exact = torch.stack([torch.cos(t), -torch.sin(t)], -1)
    error = float((solution(t)[:, 0] - exact).abs().max())
    assert error < {"tsit5": 2e-8, "rk4": 4e-6, "dopri8": 1e-12}[inner]


def test_adaptive_steps_keep_to_the_tolerance() -> None:
    y0 = torch.tensor([0.5, 0.0], dtype=DOUBLE)
    for inner, rtol, limit in (("tsit5", 1e-9, 1e-7), ("dopri8", 1e-11, 1e-9), (None, 1e-6, 1e-3)):
        found = odekit.solve(swing, y0, [0.0, 10.0], solver=make(inner), rtol=rtol, atol=rtol).y[-1]
        exact = odekit.solve(swing, y0, [0.0, 10.0], solver="dopri8", rtol=1e-13, atol=1e-14).y[-1]
        assert float((found - exact).abs().max()) < limit


@pytest.mark.parametrize("inner", ["bosh3", "tsit5", "dopri8"])
def test_error_control_keeps_the_two_states_together(inner: str) -> None:
    """On a system that loses energy they would part without a trace in either step's estimate."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -20 * (y - torch.cos(t))

    y0 = torch.tensor([1.0, 0.5], dtype=DOUBLE)
    exact = odekit.solve(field, y0, [0.0, 2.0], solver="dopri8", rtol=1e-12, atol=1e-13).y[-1]
    solver = make(inner, coupling=0.9)
    found = odekit.solve(field, y0, [0.0, 2.0], solver=solver, rtol=1e-6, atol=1e-8)
    assert float((found.y[-1] - exact).abs().max()) < 1e-5
    assert int(found.stats.accepted[0]) < 600


class Stub(Solver):
    """A solver with claims and nothing behind them."""

    order = 1

    def step(self, field: Any, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
        return Step(y, None, None, ())


class Implicit(Stub):
    traits = Trait.ONE_STEP | Trait.IMPLICIT


class Separable(Stub):
    traits = Trait.ONE_STEP
    field_type = SeparableField


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (Implicit(), "Implicit is Trait.IMPLICIT"),
        (Stub(), "keeps a memory of earlier steps"),
        ("reversible_heun", "keeps a memory of earlier steps"),
        (Separable(), "asks for a SeparableField"),
        (3, "must be a name or an odekit.Solver, got int"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(inner: Any, message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        odekit.create("solver", "reversible", solver=inner)


@pytest.mark.parametrize("coupling", [0.0, -0.5, 1.5, math.nan, True])
def test_a_coupling_out_of_range_is_refused(coupling: float) -> None:
    with pytest.raises(ProblemError, match="coupling must be above 0 and at most 1"):
        odekit.create("solver", "reversible", coupling=coupling)


class Modest(SolverConformance):
    """Claims one order less than it has."""

    def make(self) -> Solver:
        solver = odekit.create("solver", "reversible", solver="rk4")
        solver.order = 3
        return solver


class Kinder(SolverConformance):
    """Of odd order, and better than that where errors cancel."""

    def make(self) -> Solver:
        return odekit.create("solver", "reversible", solver="dopri5")


def test_the_kit_allows_one_problem_to_be_kinder_than_the_claim_and_not_all() -> None:
    [result] = Kinder().run("order_autonomous")
    assert result.passed
    assert float(result.figure.removeprefix("slope ")) > 5.5
    [result] = Modest().run("order_autonomous")
    assert not result.passed
    assert "claims order 3, but halving the step shows order 4.00" in result.detail
