"""What is special about the continuous adjoint, beyond the promises every gradient keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import IncompatibleError, SolveError, solve

F64 = torch.float64
TIGHT = {"rtol": 1e-9, "atol": 1e-11, "solver": "dopri5"}


def gradients(loss: Any, inputs: list[Tensor], **options: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss(**options), inputs))


def agree(loss: Any, inputs: list[Tensor], tolerance: float = 1e-7) -> None:
    """Adjoint against unrolled, which other tests hold against finite differences."""
    found = gradients(loss, inputs, gradient="adjoint")
    want = gradients(loss, inputs, gradient="unrolled")
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).norm()) <= tolerance * max(float(b.norm()), 1e-3)


def test_closed_form_of_exponential_growth() -> None:
    theta = torch.tensor(0.7, dtype=F64, requires_grad=True)
    z0 = torch.tensor(1.0, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    solution = solve(lambda t, z: theta * z, z0, t, gradient="adjoint", **TIGHT)
    (solution.y[-1] ** 2 / 2).backward()
    want = math.exp(1.4)  # L = exp(2 theta) / 2, so every one of these is exp(2 theta) times ...
    assert float(theta.grad) == pytest.approx(want, rel=1e-8)  # ... 1
    assert float(z0.grad) == pytest.approx(want, rel=1e-8)  # ... 1
    assert t.grad.tolist() == pytest.approx([-0.7 * want, 0.7 * want], rel=1e-8)


@pytest.mark.parametrize("seminorm", [False, True])
def test_the_seminorm_saves_evaluations_and_keeps_the_answer(seminorm: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = (0.3 * torch.randn(20, 3, dtype=F64, generator=generator)).requires_grad_()
    back = (0.3 * torch.randn(3, 20, dtype=F64, generator=generator)).requires_grad_()
    y0 = torch.randn(4, 3, dtype=F64, generator=generator)
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return 30 * torch.tanh(y @ weight.T) @ back.T

    def run(gradient: Any) -> tuple[Tensor, int]:
        solution = solve(field, y0, [0.0, 1.0], gradient=gradient, rtol=1e-7, atol=1e-9)
        calls.clear()
        (found,) = torch.autograd.grad(solution.y[-1].square().sum(), [weight])
        return found, len(calls)

    found, count = run(odekit.create("gradient", "adjoint", seminorm=seminorm))
    want, _ = run("unrolled")
    assert float((found - want).norm() / want.norm()) < 1e-5
    other = run(odekit.create("gradient", "adjoint", seminorm=not seminorm))[1]
    assert (count < other) == seminorm


def test_complex_states_and_real_parameters() -> None:
    rate = torch.tensor(1.3, dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.0 + 0.5j, -0.3j], dtype=torch.complex128, requires_grad=True)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        y = solve(
            lambda t, y: (1j * rate - 0.2 * t) * y * y.abs(), y0, t, gradient=gradient, **TIGHT
        ).y
        return y.real.pow(3).sum() + (y * (0.3 - 0.7j)).imag.sum()

    agree(loss, [rate, y0, t])


def test_a_complex_parameter_of_a_real_field_is_refused() -> None:
    rate = torch.tensor(1.0 + 1j, requires_grad=True)
    with pytest.raises(IncompatibleError, match="complex parameter beside a real state"):
        solve(lambda t, y: y * rate.abs().to(y), torch.ones(1), [0.0, 1.0], gradient="adjoint")


def test_mixed_dtypes_of_parameters() -> None:
    net = nn.Linear(2, 2)
    y0 = torch.tensor([1.0, 0.3], requires_grad=True)
    scale = torch.tensor(0.5, dtype=F64, requires_grad=True)
    solution = solve(
        lambda t, y: net(y) * scale.float(), y0, [0.0, 1.0], gradient="adjoint", rtol=1e-5
    )
    solution.y[-1].sum().backward()
    assert net.weight.grad.dtype == torch.float32
    assert scale.grad.dtype == F64
    assert y0.grad.dtype == torch.float32


def test_parameters_are_found_where_functions_keep_them() -> None:
    net = nn.Linear(1, 1, dtype=F64)
    free = torch.tensor(0.5, dtype=F64, requires_grad=True)

    class Holder:
        def __init__(self) -> None:
            self.net = net

        def rate(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y) * free

    y0 = torch.ones(1, dtype=F64)

    def loss(gradient: str) -> Tensor:
        return solve(Holder().rate, y0, [0.0, 1.0], gradient=gradient, **TIGHT).y[-1].sum()

    agree(loss, [net.weight, net.bias, free])


def test_modules_in_a_closure_are_not_searched() -> None:
    import ctypes

    import torch as inner

    rate = torch.tensor(0.5, dtype=F64, requires_grad=True)
    library = ctypes.CDLL(None)

    def field(t: Tensor, y: Tensor) -> Tensor:
        assert library is not None
        return inner.neg(y) * rate

    y0 = torch.ones(1, dtype=F64)
    agree(lambda gradient: solve(field, y0, [0.0, 1.0], gradient=gradient, **TIGHT).y.sum(), [rate])


def test_tensor_tolerances_and_saved_steps() -> None:
    y0 = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=F64, requires_grad=True)
    rate = torch.tensor([1.0, 0.1], dtype=F64, requires_grad=True)

    def loss(gradient: str, per_sample: bool = False) -> Tensor:
        atol = torch.tensor([1e-10, 1e-11], dtype=F64)
        y = solve(
            lambda t, y: -rate * y * y.abs(),
            y0,
            [0.0, 1.0],
            gradient=gradient,
            rtol=1e-10,
            atol=atol if per_sample else atol.expand(2, 2),
            per_sample=per_sample,
            save="steps",
        ).y
        return y[-1].square().sum()

    agree(loss, [y0, rate])
    agree(lambda gradient: loss(gradient, per_sample=True), [y0, rate])


def test_jumps_are_met_on_the_way_back() -> None:
    control = odekit.create("controller", "integral", jump_times=[0.5])
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        return (
            solve(
                lambda t, y: torch.where(t < 0.5, rate, -2 * rate) * y,
                y0,
                [0.0, 1.0],
                gradient=gradient,
                controller=control,
                rtol=1e-10,
                atol=1e-12,
            )
            .y[-1]
            .sum()
        )

    agree(loss, [rate, y0])
    assert float(gradients(loss, [rate], gradient="adjoint")[0]) == pytest.approx(
        -0.5 * math.exp(-0.5), rel=1e-8
    )


def test_dense_output_is_refused_where_it_would_lose_the_gradient() -> None:
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    with pytest.raises(IncompatibleError, match="gradient='unrolled'"):
        solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="adjoint", dense=True)
    with torch.no_grad():
        assert solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="adjoint", dense=True)(0.5) > 0


def test_failed_lanes_do_not_spoil_the_others() -> None:
    y0 = torch.tensor([[0.1], [1.0], [-1.0]], dtype=F64, requires_grad=True)
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        y = solve(
            lambda t, y: rate * y * y,
            y0,
            [0.0, 1.0, 2.0],
            per_sample=True,
            throw=False,
            gradient=gradient,
            **TIGHT,
        ).y
        return y[:, [0, 2]].square().sum()

    agree(loss, [y0, rate])


def test_constant_memory() -> None:
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    y0 = torch.ones(8, 2, dtype=F64)

    def saved(gradient: str, steps: int) -> int:
        sizes: list[int] = []

        def pack(x: Tensor) -> Tensor:
            sizes.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            solve(
                lambda t, y: net(y),
                y0,
                [0.0, 1.0],
                gradient=gradient,
                solver="rk4",
                step_size=1 / steps,
            )
        return sum(sizes)

    assert saved("adjoint", 400) == saved("adjoint", 20)
    assert saved("unrolled", 400) > 15 * saved("unrolled", 20)


def test_a_hopeless_way_back_fails_loudly() -> None:
    rate = torch.tensor(50.0, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    solution = solve(lambda t, y: -rate * (y + y**3), y0, [0.0, 10.0], gradient="adjoint")
    with pytest.raises(SolveError, match="the adjoint's backward solve: step too small"):
        solution.y[-1].sum().backward()


def test_second_derivatives_say_that_they_are_missing() -> None:
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: -(y**2), y0, [0.0, 1.0], gradient="adjoint").y
    with pytest.raises(IncompatibleError, match="no second derivatives"):
        torch.autograd.grad(y[-1].sum(), y0, create_graph=True)
    y = solve(lambda t, y: -(y**2), y0, [0.0, 1.0], gradient="unrolled", **TIGHT).y
    (first,) = torch.autograd.grad(y[-1].sum(), y0, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), y0)
    assert float(second) == pytest.approx(-2 / (1 + 1) ** 3, rel=1e-6)  # of y0 / (1 + y0)
