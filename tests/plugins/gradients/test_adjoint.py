"""What is special about the continuous adjoint, beyond the promises every gradient keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import GradientWarning, IncompatibleError, ProblemError, SolveError, solve

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


def lorenz(parameters: Tensor) -> Any:
    def field(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = parameters
        x, y_, z = y.unbind(-1)
        return torch.stack([a * (y_ - x), x * (b - z) - y_, x * y_ - c * z], -1)

    return field


def through_lorenz(gradient: Any, t: Any, **options: Any) -> Tensor:
    parameters = torch.tensor([10.0, 28.0, 8 / 3], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 1.0, 20.0], [-3.0, 2.0, 25.0]], dtype=F64, requires_grad=True)
    y = solve(lorenz(parameters), y0, t, gradient=gradient, **options).y
    found = torch.autograd.grad(y.square().mean(), (y0, parameters))
    return torch.cat([x.reshape(-1) for x in found])


def relative(found: Tensor, want: Tensor) -> float:
    return float((found - want).norm() / want.norm())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("restart", ["outputs", None])
def test_either_way_back_and_no_false_alarm(restart: Any, *, per_sample: bool) -> None:
    t = torch.linspace(0, 0.5, 6)
    options = {"rtol": 1e-9, "atol": 1e-11, "per_sample": per_sample}
    method = odekit.create("gradient", "adjoint", restart=restart)
    assert relative(through_lorenz(method, t, **options), through_lorenz("unrolled", t)) < 1e-5


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"rtol": 1e-9, "atol": 1e-11}, {"solver": "rk4", "step_size": 0.01}]
)
def test_a_way_back_that_leads_elsewhere_is_noticed(
    options: dict[str, Any], *, per_sample: bool
) -> None:
    # Volume shrinks by exp(-13.7) in a unit of time, and errors grow by as much backwards.
    with pytest.warns(GradientWarning, match="use gradient='interpolated' or 'checkpointed'"):
        through_lorenz("adjoint", [0.0, 1.2], per_sample=per_sample, **options)


def test_the_way_back_is_checked_at_every_output_without_restarts() -> None:
    t = torch.linspace(0, 1.2, 13)
    through_lorenz("adjoint", t)  # one output interval is short enough
    with pytest.warns(GradientWarning):
        through_lorenz(odekit.create("gradient", "adjoint", restart=None), t)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
def test_networks_raise_no_alarm(rtol: float) -> None:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, dtype=F64, generator=generator) * 0.4)
    y0 = torch.randn(16, 2, dtype=F64, generator=generator)

    def run(gradient: str, rtol: float) -> Tensor:
        y = solve(lambda t, y: net(y), y0, [0.0, 5.0], gradient=gradient, rtol=rtol, atol=rtol).y
        found = torch.autograd.grad(y.square().mean(), list(net.parameters()))
        return torch.cat([x.reshape(-1) for x in found])

    assert relative(run("adjoint", rtol), run("unrolled", 1e-10)) < 100 * rtol


def test_a_solver_of_its_own() -> None:
    t = torch.linspace(0, 0.3, 4)
    want = through_lorenz("unrolled", t, **TIGHT)
    calls = {}
    for name in ("bosh3", "dopri8"):
        method = odekit.create("gradient", "adjoint", solver=name, rtol=1e-8, atol=1e-10)
        seen = []

        def field(t: Tensor, y: Tensor, seen: list[int] = seen) -> Tensor:
            seen.append(1)
            return -(y**3)

        assert relative(through_lorenz(method, t, **TIGHT), want) < 1e-5
        y0 = torch.ones(1, dtype=F64, requires_grad=True)
        y = solve(field, y0, [0.0, 1.0], gradient=method).y
        seen.clear()
        y[-1].backward()
        calls[name] = len(seen)
    assert calls["dopri8"] < calls["bosh3"] / 2
    method = odekit.create("gradient", "adjoint", solver=odekit.create("solver", "rk4"))
    assert relative(through_lorenz(method, t, **TIGHT), want) < 1e-5


def test_controllers_made_for_the_forward_solve_are_refused() -> None:
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    replay = odekit.create("controller", "replay", times=torch.linspace(0, 1, 21))
    atol = torch.tensor([1e-9, 1e-8], dtype=F64)
    tolerant = odekit.create("controller", "integral", rtol=1e-8, atol=atol)

    def run(gradient: Any, control: Any) -> Tensor:
        y = solve(lambda t, y: -(y**2), y0, [0.0, 1.0], gradient=gradient, controller=control).y
        return torch.autograd.grad(y[-1].sum(), y0)[0]

    own = odekit.create("gradient", "adjoint", controller="integral")
    for control in (replay, tolerant):
        with pytest.raises(IncompatibleError, match=r"holds tensors .* controller='integral'"):
            run("adjoint", control)
        assert float((run(own, control) - 1 / 4).abs().max()) < 1e-5  # of y0 / (1 + y0)


def test_an_unknown_restart_is_refused() -> None:
    with pytest.raises(ProblemError, match="restart must be 'outputs' or None, got 'steps'"):
        odekit.create("gradient", "adjoint", restart="steps")


def test_jumps_are_kept_with_a_controller_of_its_own() -> None:
    control = odekit.create("controller", "integral", jump_times=[0.5])
    method = odekit.create("gradient", "adjoint", controller="pi")
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    seen = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(float(t))
        return torch.where(t < 0.5, rate, -2 * rate) * y

    y0 = torch.ones(1, dtype=F64)
    y = solve(field, y0, [0.0, 1.0], gradient=method, controller=control, **TIGHT).y
    (found,) = torch.autograd.grad(y[-1].sum(), rate)
    assert float(found) == pytest.approx(-0.5 * math.exp(-0.5), rel=1e-8)
    assert 0.5 not in seen


def test_the_size_of_the_loss_does_not_matter() -> None:
    t = torch.linspace(0, 0.3, 4)
    y0 = torch.tensor([1.0, 1.0, 20.0], dtype=F64, requires_grad=True)
    parameters = torch.tensor([10.0, 28.0, 8 / 3], dtype=F64, requires_grad=True)

    def run(factor: float) -> list[Tensor]:
        y = solve(lorenz(parameters), y0, t, gradient="adjoint").y
        return list(torch.autograd.grad(factor * y.square().sum(), (y0, parameters)))

    for a, b in zip(run(1.0), run(2.0**-40), strict=True):
        assert torch.equal(a * 2.0**-40, b)


def test_a_loss_without_a_finite_derivative_gives_no_number() -> None:
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="adjoint").y
    (found,) = torch.autograd.grad((y * torch.nan).sum(), y0)
    assert bool(found.isnan().all())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap", "dual"])
def test_transforms_are_refused(transform: str) -> None:
    def run(y0: Tensor) -> Tensor:
        return solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="adjoint", step_size=0.5).y.sum()

    def dual() -> Tensor:
        with torch.autograd.forward_ad.dual_level():
            return run(torch.autograd.forward_ad.make_dual(torch.ones(2), torch.ones(2)))

    call = {
        "grad": lambda: torch.func.grad(run)(torch.ones(2)),
        "jvp": lambda: torch.func.jvp(run, (torch.ones(2),), (torch.ones(2),)),
        "vmap": lambda: torch.func.vmap(run)(torch.ones(2, 1)),
        "dual": dual,
    }[transform]
    with pytest.raises(IncompatibleError, match="use gradient='unrolled'"):
        call()


def test_a_constant_field_and_a_slope_that_does_not_see_the_state() -> None:
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: torch.ones_like(y), y0, [0.0, 1.0], gradient="adjoint").y
    assert torch.autograd.grad(y[-1].sum(), y0)[0].tolist() == [1.0, 1.0]
    slope = torch.tensor(2.0, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: slope.expand_as(y), y0, [0.0, 1.0, 3.0], gradient="adjoint").y
    found = torch.autograd.grad(y[-1].sum(), (y0, slope))
    assert found[0].tolist() == [1.0, 1.0]
    assert float(found[1]) == pytest.approx(6.0, rel=1e-12)
