"""Exact gradients say where they are those of the numbers and not of the flow."""

from __future__ import annotations

import gc
import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import odekit
from odekit import GradientWarning, Problem
from odekit_gradients.vigil import Vigil, has_grown, norms

F64 = torch.float64
POINTS = 64
METHODS = ("unrolled", "discrete", "checkpointed", "auto")
X = torch.arange(POINTS, dtype=F64) * (2 * math.pi / POINTS)


def burgers(viscosity: Any) -> Callable[[Tensor, Tensor], Tensor]:
    h = 2 * math.pi / POINTS

    def field(t: Tensor, u: Tensor) -> Tensor:
        right, left = u.roll(-1, -1), u.roll(1, -1)
        return viscosity * (right - 2 * u + left) / h**2 - (right**2 - left**2) / (4 * h)

    return field


def lorenz(rho: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def field(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y
        return torch.stack([10 * (b - a), a * (rho - c) - b, a * b - 8 / 3 * c])

    return field


def gradients(
    field: Callable[[Tensor], Any], y0: Tensor, p: float, end: float, method: str, **options: Any
) -> list[Tensor]:
    """Of the mean square at the end, by start and parameter."""
    y0, parameter = y0.clone().requires_grad_(), torch.tensor(p, dtype=F64, requires_grad=True)
    if method == "reversible":
        inner = options.pop("solver", "tsit5")
        options["solver"] = odekit.create("solver", "reversible", solver=inner)
    y = odekit.solve(
        field(parameter), y0, [0.0, end], gradient=method, max_steps=10**5, **options
    ).y[-1]
    return list(torch.autograd.grad(y.square().mean(), [y0, parameter]))


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))


def warned(run: Callable[[], Any]) -> tuple[Any, bool]:
    """What came back, and whether steps were said to be too long."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GradientWarning)
        found = run()
    return found, any("longer than" in str(w.message) for w in caught)


WAVE = 1 + 0.5 * torch.sin(X)


@pytest.mark.parametrize("method", METHODS)
def test_a_dissipative_field_at_default_tolerances(method: str) -> None:
    right = gradients(burgers, WAVE, 0.1, 1.0, "unrolled", solver="dopri8", rtol=1e-11, atol=1e-12)
    found, said = warned(lambda: gradients(burgers, WAVE, 0.1, 1.0, method))
    assert said
    assert apart(found, right) > 100
    found, said = warned(lambda: gradients(burgers, WAVE, 0.1, 1.0, method, rtol=1e-9, atol=1e-11))
    assert not said
    assert apart(found, right) < 1e-8


def test_what_is_recommended_is_right() -> None:
    exact = gradients(burgers, WAVE, 0.1, 1.0, "unrolled", rtol=1e-9, atol=1e-11)
    found, said = warned(lambda: gradients(burgers, WAVE, 0.1, 1.0, "interpolated"))
    assert not said
    assert apart(found, exact) < 1e-4


def test_a_reversible_solve() -> None:
    right = gradients(burgers, WAVE, 0.1, 0.6, "unrolled", rtol=1e-9, atol=1e-11)
    found, said = warned(lambda: gradients(burgers, WAVE, 0.1, 0.6, "reversible", rtol=1e-4))
    assert said
    assert apart(found, right) > 1
    found, said = warned(lambda: gradients(burgers, WAVE, 0.1, 0.3, "reversible"))
    right = gradients(burgers, WAVE, 0.1, 0.3, "unrolled", rtol=1e-9, atol=1e-11)
    assert not said
    assert apart(found, right) < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_chaos_grows_by_short_steps(method: str) -> None:
    start = torch.tensor([1.0, 1.0, 20.0], dtype=F64)
    found, said = warned(lambda: gradients(lorenz, start, 28.0, 4.0, method, rtol=1e-4, atol=1e-6))
    assert float(found[0].norm()) > 1e2
    assert not said


@pytest.mark.parametrize("method", [*METHODS, "reversible"])
def test_what_grows_in_the_flow_may_grow_on_the_way_back(method: str) -> None:
    start = torch.tensor([1.0, 2.0], dtype=F64)
    found, said = warned(lambda: gradients(lambda p: lambda t, y: p * y, start, 3.0, 2.0, method))
    assert torch.allclose(found[0], start * math.exp(12), rtol=1e-4)
    assert not said


@pytest.mark.parametrize("method", METHODS)
def test_a_solve_at_its_limit_of_stability_whose_gradient_is_right(method: str) -> None:
    """A hundred steps at the limit; the cotangent dies out all the same."""

    def field(p: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda t, y: -1000 * (y - p * torch.cos(t))

    start = torch.ones(1, dtype=F64)
    (_, found), said = warned(lambda: gradients(field, start, 1.0, 0.3, method))
    right = 2 * math.cos(0.3) ** 2  # of a solution that follows p cos(t), up to a part in 1,000
    assert not said
    assert float(found) == pytest.approx(right, rel=2e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("factor", "grows"), [(0.9, False), (1.5, True)])
def test_steps_of_one_length(method: str, factor: float, *, grows: bool) -> None:
    """A slow and a fast mode; the fast one is not in the start, so it is not in the solution."""

    def field(p: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda t, y: torch.stack([-p * y[0], -100 * y[1] + 0 * y[0]])

    step = factor * 2.785 / 100
    start = torch.tensor([1.0, 0.0], dtype=F64)
    y0 = start.clone().requires_grad_()
    parameter = torch.tensor(1.0, dtype=F64, requires_grad=True)

    def run() -> Tensor:
        y = odekit.solve(
            field(parameter), y0, [0.0, 40 * step], solver="rk4", step_size=step, gradient=method
        ).y[-1]
        return torch.autograd.grad(y.sum(), y0)[0]

    found, said = warned(run)
    assert said is grows
    assert (float(found[1]) > 100) is grows


@pytest.mark.parametrize("method", METHODS)
def test_parameters_that_have_no_part_in_it(method: str) -> None:
    """Viscosity acts on the smooth wave; a force at every point acts on what has grown."""

    def forced(force: Tensor, viscosity: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda t, u: burgers(viscosity)(t, u) + force

    def run(force: Tensor, viscosity: Tensor) -> Tensor:
        y = odekit.solve(forced(force, viscosity), WAVE, [0.0, 1.0], gradient=method).y[-1]
        wanted = [x for x in (force, viscosity) if x.requires_grad]
        return torch.autograd.grad(y.square().mean(), wanted)[0]

    force, viscosity = torch.zeros(POINTS, dtype=F64), torch.tensor(0.1, dtype=F64)
    _, said = warned(lambda: run(force, viscosity.clone().requires_grad_()))
    assert not said
    _, said = warned(lambda: run(force.clone().requires_grad_(), viscosity))
    assert said


@pytest.mark.parametrize("method", METHODS)
def test_one_lane_of_several(method: str) -> None:
    waves = torch.stack([WAVE, torch.ones_like(X)])

    def run(viscosity: list[float]) -> Tensor:
        y0 = waves.clone().requires_grad_()
        field = burgers(torch.tensor(viscosity, dtype=F64)[:, None])
        y = odekit.solve(field, y0, [0.0, 1.0], per_sample=True, gradient=method).y[-1]
        return torch.autograd.grad(y.square().mean(), y0)[0]

    assert warned(lambda: run([0.1, 0.1]))[1]
    assert not warned(lambda: run([0.01, 0.01]))[1]


def test_nothing_is_kept_and_every_pass_is_judged() -> None:
    y0, kept = WAVE.clone().requires_grad_(), torch.ones(3)
    gone = weakref.ref(kept)

    def run(kept: Tensor) -> list[bool]:
        def field(t: Tensor, u: Tensor) -> Tensor:
            return burgers(0.1)(t, u) if kept.numel() else u

        y = odekit.solve(field, y0, [0.0, 1.0], gradient="unrolled").y
        loss = y[-1].square().mean()
        return [
            warned(lambda: torch.autograd.grad(loss, y0, retain_graph=True))[1] for _ in range(2)
        ]

    assert run(kept) == [True, True]
    del kept
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("method", ["unrolled", "auto"])
def test_nothing_is_kept_of_a_single_step(method: str, *, back: bool) -> None:
    def solved(kept: Tensor) -> None:
        y0 = torch.ones(2, dtype=F64, requires_grad=True)
        y = odekit.solve(
            lambda t, y: -y if kept.numel() else y,
            y0,
            [0.0, 1.0],
            solver="rk4",
            step_size=1.0,
            gradient=method,
        ).y
        if back:
            y.sum().backward()

    kept = torch.ones(3)
    gone = weakref.ref(kept)
    solved(kept)
    del kept
    gc.collect()
    assert gone() is None


def test_a_lane_whose_gradient_overflows_hides_no_other() -> None:
    length = 1.5 * 2.785 / 100  # one and a half times what rk4 is stable for at rate 100
    y0 = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=F64, requires_grad=True)
    rates = torch.tensor([100.0, 1e12], dtype=F64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[:, 0], -rates * y[:, 1]], -1)

    def run() -> Tensor:
        end = 40 * length
        found = odekit.solve(field, y0, [0.0, end], solver="rk4", step_size=length, per_sample=True)
        return torch.autograd.grad(found.y[-1].sum(), y0)[0]

    grad, said = warned(run)
    assert bool(torch.isfinite(grad[0]).all())
    assert not bool(torch.isfinite(grad[1]).all())
    assert said


def test_random_numbers_are_not_used_up() -> None:
    def run() -> Tensor:
        y0 = WAVE.clone().requires_grad_()

        def field(t: Tensor, u: Tensor) -> Tensor:
            return burgers(0.1)(t, u) + 0 * torch.randn(POINTS, dtype=F64)

        y = odekit.solve(field, y0, [0.0, 1.0], gradient="unrolled").y[-1]
        before = torch.random.get_rng_state()
        torch.autograd.grad(y.square().mean(), y0)
        return before

    with torch.random.fork_rng():
        before, said = warned(run)
        assert said
        assert bool((torch.random.get_rng_state() == before).all())


def test_the_field_is_not_asked_where_nothing_grows() -> None:
    calls = [0]

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return -y

    y0 = torch.ones(3, dtype=F64, requires_grad=True)
    y = odekit.solve(field, y0, [0.0, 1.0], solver="rk4", step_size=0.1).y[-1]
    before = calls[0]
    torch.autograd.grad(y.sum(), y0)
    assert calls[0] == before


@pytest.mark.parametrize("backwards", [False, True])
def test_all_places_at_once_are_judged_as_one_by_one(*, backwards: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(300):
        t = torch.linspace(0, 1, 6, dtype=F64)
        places = torch.rand(4, generator=draw, dtype=F64).sort(descending=True).values
        if backwards:
            t, places = -t, -places
        grads = torch.randn(6, 2, generator=draw, dtype=F64)
        grads *= 10 ** (2 * torch.randn(6, 1, generator=draw, dtype=F64))
        grads *= torch.rand(6, 1, generator=draw) > 0.3
        cotangents = torch.randn(4, 2, generator=draw, dtype=F64)
        cotangents *= 10 ** (2 * torch.randn(4, 1, generator=draw, dtype=F64))
        calls = [0]

        def field(t: Tensor, y: Tensor, calls: list[int] = calls) -> Tensor:
            calls[0] += 1
            return 0 * y

        solver = odekit.create("solver", "tsit5")
        control = odekit.create("controller", "integral")
        problem = Problem(field, grads[0].requires_grad_(), t, solver, control)
        vigil = Vigil(problem, 3.0, "unrolled")
        vigil.open(t, grads.detach())
        for at, cotangent in zip(places.tolist(), cotangents, strict=True):
            vigil.look(at, 0.1, problem.y0, cotangent)
        rows, sizes = norms(grads, 1)[:, 0].tolist(), norms(cotangents, 1)[:, 0].tolist()
        assert has_grown(t.tolist(), rows, places.tolist(), sizes) == (calls[0] > 0)
        seen.add(calls[0] > 0)
    assert seen == {False, True}


def test_many_gradients_at_once() -> None:
    y0 = WAVE.clone().requires_grad_()
    y = odekit.solve(burgers(0.1), y0, [0.0, 0.2], gradient="unrolled", rtol=1e-9).y[-1]
    directions = torch.eye(POINTS, dtype=F64)[:3]
    (together,) = torch.autograd.grad(y, y0, directions, is_grads_batched=True, retain_graph=True)
    apiece = [torch.autograd.grad(y, y0, d, retain_graph=True)[0] for d in directions]
    assert torch.allclose(together, torch.stack(apiece), rtol=1e-12)
