"""Forward sensitivities: the numbers of ``unrolled``, by carrying them along."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import Accepted, IncompatibleError, SolveError, create, solve

F64 = torch.float64
EXACT = 1e-12


def gradients(loss: Any, inputs: list[Tensor], gradient: str, **options: Any) -> list[Tensor]:
    solution = loss(gradient=gradient, **options)
    rows = solution.y
    rows = torch.view_as_real(rows) if rows.is_complex() else rows
    weight = torch.arange(1, rows.numel() + 1, dtype=rows.dtype).cos().reshape(rows.shape)
    found = torch.autograd.grad(
        (weight * (rows + rows.square())).sum(), inputs, allow_unused=True, materialize_grads=True
    )
    return [*found, rows.detach(), solution.stats.accepted, solution.stats.evaluations]


def agree(loss: Any, inputs: list[Tensor], tolerance: float = EXACT, **options: Any) -> None:
    """Forward against unrolled; rows and counts are the very same."""
    *found, rows, steps, calls = gradients(loss, inputs, "forward", **options)
    *want, same, taken, called = gradients(loss, inputs, "unrolled", **options)
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert float((a - b).norm()) <= tolerance * float(b.norm())
    torch.testing.assert_close(rows, same, rtol=1e-13, atol=1e-13)
    assert torch.equal(steps, taken)
    assert torch.equal(calls, called)


def driven() -> tuple[Any, list[Tensor]]:
    """Three coupled states, a start and three parameters of which one is frozen."""
    generator = torch.Generator().manual_seed(3)
    y0 = torch.randn(2, 3, dtype=F64, generator=generator).requires_grad_()
    weight = (0.6 * torch.randn(3, 3, dtype=F64, generator=generator)).requires_grad_()
    bias = (0.3 * torch.randn(3, dtype=F64, generator=generator)).requires_grad_()
    frozen = torch.tensor(0.8, dtype=F64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        phase = t[:, None] if t.dim() else t
        return torch.tanh(y @ weight.T + bias) * (1 + 0.5 * (3 * phase).sin()) - frozen * y

    def loss(t: Any = (0.1, 0.7, 1.6), **options: Any) -> Any:
        return solve(field, y0, list(t), **options)

    return loss, [y0, weight, bias]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("save", ["times", "steps"])
@pytest.mark.parametrize("solver", ["tsit5", "dopri8", "bosh3", "rk4", "reversible_heun"])
def test_it_is_the_gradient_of_the_numbers(solver: str, save: str, per_sample: bool) -> None:
    loss, inputs = driven()
    options = {"rtol": 1e-4, "atol": 1e-6, "save": save, "per_sample": per_sample}
    agree(loss, inputs, solver=solver, **options)


@pytest.mark.parametrize("per_sample", [False, True])
def test_with_fixed_steps_backwards(per_sample: bool) -> None:
    loss, inputs = driven()
    agree(loss, inputs, t=(1.0, 0.4, -0.3), solver="rk4", step_size=0.13, per_sample=per_sample)


@pytest.mark.parametrize("per_sample", [False, True])
def test_tolerances_per_entry_and_jumps(per_sample: bool) -> None:
    loss, inputs = driven()
    rtol = torch.tensor([1e-3, 1e-5, 1e-4], dtype=F64)
    if not per_sample:
        rtol = rtol.expand(2, 3)
    control = create("controller", "pi", jump_times=[0.35, 0.7])
    agree(loss, inputs, rtol=rtol, controller=control, per_sample=per_sample)


def test_output_and_start_times() -> None:
    """Times are those of the true flow, so the agreement is that of the tolerance."""
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = torch.tensor(2.0, dtype=F64, requires_grad=True)
    t = torch.tensor([0.3, 0.9, 1.5], dtype=F64, requires_grad=True)
    solution = solve(lambda t, y: -rate * t * y, y0, t, gradient="forward", rtol=1e-11, atol=1e-13)
    weight = torch.tensor([0.5, 2.0, -1.0], dtype=F64)
    found = torch.autograd.grad((weight * solution.y).sum(), (t, rate, y0))
    s = t.detach().clone().requires_grad_()
    exact = y0 * (-rate * (s.square() - s[0].square()) / 2).exp()
    want = torch.autograd.grad((weight * exact).sum(), (s, rate, y0))
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_jumps_and_times_together() -> None:
    """The slope at a jump is that of the side that is meant."""
    t = torch.tensor([0.0, 1.0, 2.0], dtype=F64, requires_grad=True)
    y0 = torch.zeros(1, dtype=F64)
    control = create("controller", "integral", jump_times=[0.0, 1.0])

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 1, 5.0, torch.where(t > 0, 2.0, 7.0)).to(y.dtype) + 0 * y

    solution = solve(field, y0, t, gradient="forward", controller=control)
    (by_middle,) = torch.autograd.grad(solution.y[1].sum(), t, retain_graph=True)
    (by_end,) = torch.autograd.grad(solution.y[2].sum(), t)
    torch.testing.assert_close(by_middle, torch.tensor([-2.0, 2.0, 0.0], dtype=F64))
    torch.testing.assert_close(by_end, torch.tensor([-2.0, 0.0, 5.0], dtype=F64))


@pytest.mark.parametrize("per_sample", [False, True])
def test_complex_states_and_parameters(per_sample: bool) -> None:
    c = torch.tensor([0.3 - 1.2j], dtype=torch.complex128, requires_grad=True)
    g = torch.tensor(0.4, dtype=F64, requires_grad=True)
    z0 = torch.tensor([[0.8 + 0.2j, 0.1j], [0.3 - 0.6j, 1.0]], dtype=torch.complex128)
    z0.requires_grad_()

    def loss(**options: Any) -> Any:
        def field(t: Tensor, z: Tensor) -> Tensor:
            return c * z.conj() - g * z.abs().square() * z

        return solve(field, z0, [0.0, 0.4, 0.9], per_sample=per_sample, **options)

    agree(loss, [z0, c, g], rtol=1e-5)


def test_a_complex_parameter_of_a_real_field() -> None:
    c = torch.tensor(0.3 - 1.2j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=True)

    def loss(**options: Any) -> Any:
        return solve(lambda t, y: (c * c).real * y - c.imag * y.flip(0), y0, [0.0, 1.0], **options)

    agree(loss, [y0, c])


class Energy(nn.Module):
    """A field that differentiates inside, with parameters in a module."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.how = how
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.how == "func":
            slope = torch.func.grad(lambda qp: self.net(qp).sum())(y)
        else:
            with torch.enable_grad():
                qp = y if y.requires_grad else y.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.net(qp).sum(), qp, create_graph=True)
        q, p = slope.chunk(2, -1)
        return torch.cat([p, -q], -1)


@pytest.mark.parametrize("how", ["func", "autograd"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_fields_that_differentiate_inside(how: str, per_sample: bool) -> None:
    field = Energy(how)
    y0 = torch.tensor([[0.4, 0.1], [1.0, -0.3]], dtype=F64, requires_grad=True)

    def loss(**options: Any) -> Any:
        return solve(field, y0, [0.0, 0.5, 1.2], per_sample=per_sample, **options)

    agree(loss, [y0, *field.parameters()], rtol=1e-5)


def test_more_directions_than_are_taken_together() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 3)).double()
    y0 = torch.ones(3, dtype=F64)

    def loss(**options: Any) -> Any:
        return solve(lambda t, y: net(y), y0, [0.0, 0.5], rtol=1e-3, **options)

    agree(loss, list(net.parameters()))


class _Cube(torch.autograd.Function):
    """Right in every respect, but not to be mapped over."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if grad.detach().max() > 1e300:  # asks for a value, as vmap does not allow
            raise OverflowError
        return 3 * x.square() * grad


def test_fields_that_cannot_be_mapped_over_are_looped_over() -> None:
    p = torch.tensor([0.4, 0.6], dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=True)

    def loss(**options: Any) -> Any:
        return solve(lambda t, y: -_Cube.apply(p * y), y0, [0.0, 1.0], **options)

    agree(loss, [y0, p])


class _Once(torch.autograd.Function):
    """Its derivative says that it cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return -x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class _Silent(torch.autograd.Function):
    """Its derivative does not say so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return -x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad.detach()


@pytest.mark.parametrize("part", [_Once, _Silent])
@pytest.mark.parametrize("of", ["start", "parameter", "both"])
def test_fields_that_differentiate_but_once_are_refused_at_solve(part: Any, of: str) -> None:
    y0 = torch.ones(2, dtype=F64, requires_grad=of != "parameter")
    p = torch.ones(2, dtype=F64, requires_grad=of != "start")

    def field(t: Tensor, y: Tensor) -> Tensor:
        return part.apply(y) + 0.5 * p * y if of == "start" else part.apply(p) - 0.5 * p * y

    with pytest.raises(IncompatibleError, match="use gradient='unrolled'"):
        solve(field, y0, [0.0, 1.0], gradient="forward")


def test_tensors_computed_before_the_solve_pass_their_gradient_on() -> None:
    x = torch.tensor([0.5, 1.5], dtype=F64, requires_grad=True)
    rate = x.square()
    y0 = x.sin()

    def loss(**options: Any) -> Any:
        return solve(lambda t, y: -rate * y + x, y0, [0.0, 1.0], **options)

    found = torch.autograd.grad(loss(gradient="forward").y[-1].sum(), x, retain_graph=True)
    want = torch.autograd.grad(loss(gradient="unrolled").y[-1].sum(), x)
    torch.testing.assert_close(found, want, rtol=EXACT, atol=0)


def test_a_lane_that_fails_has_no_gradient_and_spoils_none() -> None:
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.5], [5.0]], dtype=F64, requires_grad=True)
    options = {"per_sample": True, "throw": False, "max_steps": 400, "rtol": 1e-8}
    t = torch.tensor([0.0, 0.1, 1.0], dtype=F64, requires_grad=True)
    field = lambda t, y: rate * y * y  # noqa: E731 - a formula
    mine = solve(field, y0, t, gradient="forward", **options)
    theirs = solve(field, y0, t.detach(), **options)
    assert torch.equal(mine.status, theirs.status)
    assert torch.equal(mine.y.isnan(), theirs.y.isnan())

    def loss(y: Tensor) -> Tensor:
        return y[:, 0].square().sum() + y[1, 1].sum()

    found = torch.autograd.grad(loss(mine.y), (y0, rate, t))
    exact = y0 / (1 - rate * y0 * (t - t[0])[:, None, None])
    want = torch.autograd.grad(loss(exact), (y0, rate, t))
    torch.testing.assert_close(found, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_field_without_derivative_keeps_its_solution(per_sample: bool) -> None:
    """``y' = -sqrt(y)`` from zero stays there; its derivative is infinite."""
    y0 = torch.tensor([[0.0], [1.0]], dtype=F64, requires_grad=True)
    options = {"per_sample": per_sample, "solver": "rk4", "step_size": 0.1, "gradient": "forward"}
    solution = solve(lambda t, y: -y.sqrt(), y0, [0.0, 0.5, 1.0], **options)
    assert solution.success
    assert float(solution.y.detach()[-1, 0]) == 0.0
    (found,) = torch.autograd.grad(solution.y[-1].sum(), y0)
    assert not torch.isfinite(found[0]).any()
    if per_sample:
        assert float(found[1]) == pytest.approx(0.5, rel=1e-5)  # y = (1 - t / 2)^2 at 1


def test_the_observer_sees_the_state_alone() -> None:
    seen: list[Accepted] = []
    y0 = torch.ones(2, dtype=F64, requires_grad=True)

    class Watched(odekit.GradientMethod):
        def solve(self, problem: Any, integrate: Any) -> Any:
            from dataclasses import replace

            watched = replace(problem, observer=seen.append)
            return create("gradient", "forward").solve(watched, integrate)

    solution = solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=Watched(), save="steps")
    torch.testing.assert_close(torch.stack([s.y for s in seen]), solution.y.detach()[1:])


def test_memory_does_not_grow_with_steps() -> None:
    """What the graph holds is the sensitivities of the rows."""
    rate = torch.tensor(0.5, dtype=F64, requires_grad=True)
    sizes = []
    for step_size in (0.1, 0.001):
        solution = solve(
            lambda t, y: -rate * y,
            torch.ones(3, dtype=F64),
            [0.0, 1.0],
            gradient="forward",
            solver="rk4",
            step_size=step_size,
        )
        saved = [x for x in solution.y.grad_fn.saved_tensors if x is not None]
        sizes.append([tuple(x.shape) for x in saved])
        assert solution.y.grad_fn.next_functions[0][0] is None  # no graph behind the rows
    assert sizes[0] == sizes[1] == [(2, 1, 3)]


def test_parameters_may_change_before_the_backward_pass() -> None:
    rate = torch.tensor(0.5, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64)
    solution = solve(lambda t, y: -rate * y, y0, [0.0, 1.0], gradient="forward", rtol=1e-10)
    with torch.no_grad():
        rate.mul_(3)
    solution.y[-1].sum().backward()
    assert float(rate.grad) == pytest.approx(-torch.tensor(-0.5).exp().item(), rel=1e-6)


def test_nothing_is_kept_alive_but_numbers() -> None:
    net = nn.Linear(2, 2).double()
    field = lambda t, y, net=net: net(y)  # noqa: E731 - a formula
    solution = solve(field, torch.ones(2, dtype=F64), [0.0, 1.0], gradient="forward")
    watched = weakref.ref(field)
    loss = solution.y.sum()
    del field, solution
    gc.collect()
    assert watched() is None  # the backward pass does not need the field
    loss.backward()
    assert bool(net.weight.grad.any())


def test_what_it_cannot_do_it_refuses_early() -> None:
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    field = lambda t, y: -y  # noqa: E731 - a formula
    with pytest.raises(IncompatibleError, match="leave out dense=True"):
        solve(field, y0, [0.0, 1.0], gradient="forward", dense=True)
    with pytest.raises(IncompatibleError, match=r"torch\.func"):
        torch.func.grad(lambda y: solve(field, y, [0.0, 1.0], gradient="forward").y.sum())(y0)
    solution = solve(field, y0, [0.0, 1.0], gradient="forward")
    with pytest.raises(IncompatibleError, match="no second derivatives"):
        torch.autograd.grad(solution.y.sum(), y0, create_graph=True)
    with pytest.raises(SolveError, match="max_steps"):
        solve(field, y0, [0.0, 9.0], gradient="forward", max_steps=2)
