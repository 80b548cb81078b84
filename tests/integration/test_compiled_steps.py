"""``compile=True`` where gradients are wanted: each step is one compiled graph."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit._engine.step_graphs import CompiledSolver

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")

DOUBLE = torch.float64


class Wave(nn.Module):
    """A small network that looks at the time, with a weight that it does not use."""

    def __init__(self, dtype: torch.dtype = DOUBLE) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.inner = nn.Linear(3, 8, dtype=dtype)
        self.outer = nn.Linear(8, 3, dtype=dtype)
        self.spare = nn.Parameter(torch.ones((), dtype=dtype))
        for x in (*self.inner.parameters(), *self.outer.parameters()):
            x.data.copy_(torch.randn(x.shape, generator=generator, dtype=dtype) / 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        factor = torch.cos(t) if t.dim() == 0 else torch.cos(t)[:, None]
        return self.outer(torch.tanh(self.inner(y))) * factor


def start(dtype: torch.dtype = DOUBLE) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(5, 3, generator=generator, dtype=dtype)


def gradients(field: Wave, y0: Tensor, **options: Any) -> tuple[list[Tensor], odekit.Solution]:
    """Of start, times and weights."""
    field.zero_grad()
    y = y0.clone().requires_grad_()
    t = torch.linspace(0, 2, 6, dtype=DOUBLE).requires_grad_()
    solution = odekit.solve(field, y, t, **options)
    solution.y.square().sum().backward()
    found = [y.grad, t.grad, *(x.grad for x in field.parameters())]
    return [torch.zeros(()) if x is None else x.clone() for x in found], solution


def close(found: list[Tensor], want: list[Tensor], limit: float) -> None:
    for a, b in zip(found, want, strict=True):
        assert float((a - b).abs().max()) <= limit * (1e-30 + float(b.abs().max()))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    ("gradient", "solver"),
    [
        ("unrolled", "tsit5"),
        ("unrolled", "dopri8"),
        ("unrolled", "rk4"),
        ("discrete", "rk4"),
        ("discrete", "tsit5"),
        ("discrete", "dopri8"),
        ("checkpointed", "rk4"),
        ("auto", "rk4"),
    ],
)
def test_gradients_are_those_of_the_eager_solve(
    gradient: str, solver: str, *, per_sample: bool
) -> None:
    field, y0 = Wave(), start()
    options = {
        "gradient": gradient,
        "solver": solver,
        "per_sample": per_sample,
        "step_size": 0.1 if solver == "rk4" else None,
    }
    want, eager = gradients(field, y0, **options)
    found, compiled = gradients(field, y0, compile=True, **options)
    assert compiled.stats.tier == "step"
    close(found, want, 1e-11)
    assert torch.equal(compiled.stats.attempts, eager.stats.attempts)
    assert torch.equal(compiled.stats.evaluations, eager.stats.evaluations)


@pytest.fixture
def pulled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step that was taken back brought its own derivative."""
    told: list[bool] = []
    own = CompiledSolver.pull_back

    def spied(*args: Any) -> Any:
        found = own(*args)
        told.append(found is not None)
        return found

    monkeypatch.setattr(CompiledSolver, "pull_back", spied)
    return told


def test_steps_that_are_taken_again_bring_their_derivatives(pulled: list[bool]) -> None:
    _, solution = gradients(Wave(), start(), gradient="discrete", compile=True)
    assert pulled == [True] * int(solution.stats.accepted)


@pytest.mark.parametrize("gradient", ["unrolled", "discrete", "checkpointed"])
def test_mixed_precision_is_that_of_the_eager_solve(gradient: str) -> None:
    class Mixed(Wave):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return super().forward(t, y).to(y.dtype)

    field, y0 = Mixed(torch.float32), start(torch.float32)
    options: dict[str, Any] = {"gradient": gradient, "solver": "rk4", "step_size": 0.25}
    found = []
    for compiled in (False, True):
        field.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            solution = odekit.solve(field, y0, [0.0, 1.0], compile=compiled, **options)
        solution.y[-1].square().sum().backward()
        assert solution.stats.tier == "eager"
        found.append([solution.y[-1].detach(), field.inner.weight.grad.clone()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_derivative_by_what_was_computed_before_the_solve(pulled: list[bool]) -> None:
    raw = torch.tensor([0.3, 0.8, 0.5], dtype=DOUBLE, requires_grad=True)
    found = []
    for options in ({}, {"compile": True, "gradient": "discrete"}):
        raw.grad = None
        rate = torch.exp(raw)
        solution = odekit.solve(
            lambda t, y, rate: -rate * y, start(), [0.0, 1.0], args=rate, **options
        )  # type: ignore[arg-type]
        (solution.y[-1].square().sum() + rate.sum()).backward()
        found.append(raw.grad.clone())
    assert pulled
    assert all(pulled)
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=0)


def test_solvers_leave_their_derivative_to_autograd_where_they_have_none() -> None:
    field, y0 = Wave(), start()
    solver = odekit.create("solver", "tsit5")
    t = torch.zeros((), dtype=DOUBLE)
    assert solver.pull_back(field, t, 0.1, y0, solver.init(field, t, y0), [y0]) is None


@pytest.mark.parametrize("gradient", ["adjoint", "interpolated"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_methods_with_equations_of_their_own_are_right(gradient: str, *, per_sample: bool) -> None:
    field, y0 = Wave(), start()
    want, _ = gradients(field, y0, gradient=gradient, per_sample=per_sample)
    found, _ = gradients(field, y0, gradient=gradient, per_sample=per_sample, compile=True)
    close(found, want, 1e-10)


def test_single_precision() -> None:
    field, y0 = Wave(torch.float32), start(torch.float32)
    want, _ = gradients(field, y0, solver="rk4", step_size=0.1)
    found, solution = gradients(field, y0, solver="rk4", step_size=0.1, compile=True)
    assert solution.stats.tier == "step"
    assert solution.y.dtype is torch.float32
    close(found, want, 1e-4)


def test_weights_may_change_between_solves() -> None:
    field, y0 = Wave(), start()
    gradients(field, y0, compile=True)
    with torch.no_grad():
        for x in field.parameters():
            x.mul_(1.5)
    want, _ = gradients(field, y0)
    found, _ = gradients(field, y0, compile=True)
    close(found, want, 1e-11)


def test_a_weight_that_is_replaced_is_the_one_that_is_read() -> None:
    field, y0 = Wave(), start()
    gradients(field, y0, compile=True)
    field.outer.weight = nn.Parameter(field.outer.weight.detach() * 2)
    want, _ = gradients(field, y0)
    found, _ = gradients(field, y0, compile=True)
    close(found, want, 1e-11)


def test_a_frozen_weight_gets_no_gradient() -> None:
    field, y0 = Wave(), start()
    field.inner.weight.requires_grad_(False)
    want, _ = gradients(field, y0)
    found, solution = gradients(field, y0, compile=True)
    assert solution.stats.tier == "step"
    assert field.inner.weight.grad is None
    close(found, want, 1e-11)


def test_args_are_read_anew_in_every_call() -> None:
    def field(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return -rate * y

    y0 = start()
    for value in (0.5, 2.0):
        rate = torch.tensor(value, dtype=DOUBLE, requires_grad=True)
        solution = odekit.solve(field, y0, [0.0, 1.0], args=rate, compile=True, rtol=1e-10)
        solution.y[-1].sum().backward()
        assert solution.stats.tier == "step"
        want = (-y0 * torch.exp(-rate.detach())).sum()
        torch.testing.assert_close(rate.grad, want, rtol=1e-7, atol=0)


def test_a_parameter_that_only_the_graph_shows_gets_its_gradient() -> None:
    hidden = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)

    class Keeper:
        @property
        def rate(self) -> Tensor:
            return hidden

    keeper = Keeper()
    y0 = start().requires_grad_()
    found = []
    for compiled in (False, True):
        hidden.grad = None
        solution = odekit.solve(
            lambda t, y: -keeper.rate * y, y0, [0.0, 1.0], compile=compiled, rtol=1e-8
        )
        solution.y[-1].sum().backward()
        found.append(hidden.grad.clone())
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=0)


def test_second_derivatives_are_refused_with_advice() -> None:
    y0 = start().requires_grad_()
    solution = odekit.solve(Wave(), y0, [0.0, 1.0], compile=True)
    (slope,) = torch.autograd.grad(solution.y[-1].sum(), y0, retain_graph=True)
    assert torch.isfinite(slope).all()
    with pytest.raises(odekit.IncompatibleError, match="first derivatives only"):
        torch.autograd.grad(solution.y[-1].sum(), y0, create_graph=True)


def turns(t: Tensor, y: Tensor) -> Tensor:
    return -y if float(y.detach().sum()) > 0 else y


def drops(t: Tensor, y: Tensor) -> Tensor:
    return y * torch.rand_like(y)


@pytest.mark.parametrize("field", [turns, drops])
def test_what_cannot_be_compiled_runs_with_one_warning(field: Callable[..., Tensor]) -> None:
    y0 = start().requires_grad_()
    with pytest.warns(odekit.CompileWarning, match="compile=True") as seen:
        solution = odekit.solve(field, y0, [0.0, 0.1], compile=True, max_steps=10**5)
    assert len(seen) == 1
    assert solution.stats.tier == "eager"
    solution.y[-1].sum().backward()
    assert torch.isfinite(y0.grad).all()


def test_a_field_that_writes_into_its_own_buffer_is_not_compiled() -> None:
    buffer = torch.zeros(5, 3, dtype=DOUBLE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        buffer.add_(1)
        return -y

    y0 = start().requires_grad_()
    with pytest.warns(odekit.CompileWarning, match="writes into"):
        solution = odekit.solve(field, y0, [0.0, 0.1], compile=True)
    assert solution.stats.tier == "eager"


def test_nothing_is_kept_after_the_backward_pass() -> None:
    field, y0 = Wave(), start()
    gradients(field, y0, compile=True)
    y = y0.clone().requires_grad_()
    solution = odekit.solve(field, y, [0.0, 1.0], compile=True)
    kept = weakref.ref(solution.y)
    solution.y.sum().backward()
    del solution
    gc.collect()
    assert kept() is None


def test_training_goes_the_same_way() -> None:
    losses = []
    for compiled in (False, True):
        field, y0 = Wave(), start()
        optimiser = torch.optim.Adam(field.parameters(), lr=0.01)
        history = []
        for _ in range(10):
            optimiser.zero_grad()
            solution = odekit.solve(field, y0, [0.0, 0.5, 1.0], compile=compiled)
            loss = (solution.y - 1).square().mean()
            loss.backward()
            optimiser.step()
            history.append(float(loss.detach()))
        losses.append(history)
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert losses[1][-1] < losses[1][0]


def test_complex_states_run_eagerly_and_say_so() -> None:
    y0 = torch.ones(2, dtype=torch.complex128)
    with pytest.warns(odekit.CompileWarning, match="complex") as seen:
        solution = odekit.solve(lambda t, y: 1j * y, y0, [0.0, 1.0], compile=True, rtol=1e-8)
    assert len(seen) == 1
    assert solution.stats.tier == "eager"
    torch.testing.assert_close(
        solution.y[-1], torch.exp(torch.tensor(1j)).expand(2).to(y0), rtol=1e-6, atol=0
    )
