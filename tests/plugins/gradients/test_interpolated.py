"""What is special about the interpolated adjoint, beyond the promises every gradient keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import GradientWarning, IncompatibleError, SolveError, solve
from odekit_gradients.quadrature import compact, count_nodes, place_nodes

F64 = torch.float64
TIGHT = {"rtol": 1e-9, "atol": 1e-11, "solver": "dopri5"}


def gradients(loss: Any, inputs: list[Tensor], gradient: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss(gradient), inputs))


def distance(found: list[Tensor], want: list[Tensor]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, want, strict=True))


def agree(loss: Any, inputs: list[Tensor], tolerance: float = 1e-7) -> None:
    """Interpolated against unrolled, which other tests hold against finite differences."""
    found = gradients(loss, inputs, "interpolated")
    want = gradients(loss, inputs, "unrolled")
    assert all(a.dtype == b.dtype for a, b in zip(found, want, strict=True))
    assert distance(found, want) <= tolerance


def test_closed_form_of_exponential_growth() -> None:
    theta = torch.tensor(0.7, dtype=F64, requires_grad=True)
    z0 = torch.tensor(1.0, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    solution = solve(lambda t, z: theta * z, z0, t, gradient="interpolated", **TIGHT)
    (solution.y[-1] ** 2 / 2).backward()
    want = math.exp(1.4)  # L = exp(2 theta) / 2, so every one of these is exp(2 theta) times ...
    assert float(theta.grad) == pytest.approx(want, rel=1e-8)  # ... 1
    assert float(z0.grad) == pytest.approx(want, rel=1e-8)  # ... 1
    assert t.grad.tolist() == pytest.approx([-0.7 * want, 0.7 * want], rel=1e-8)


def burgers(gradient: Any, span: float, **options: Any) -> list[Tensor]:
    """Gradients by start and viscosity of ``u_t = nu u_xx - u u_x`` on 64 points of a circle."""
    x = torch.arange(64, dtype=F64) * (2 * torch.pi / 64)
    width = 2 * torch.pi / 64
    nu = torch.tensor(0.1, dtype=F64, requires_grad=True)
    u0 = (torch.sin(x) + 0.3 * torch.cos(2 * x)).requires_grad_()

    def field(t: Tensor, u: Tensor) -> Tensor:
        left, right = u.roll(1), u.roll(-1)
        return nu * (left - 2 * u + right) / width**2 - u * (right - left) / (2 * width)

    y = solve(field, u0, [0.0, span], gradient=gradient, **options).y
    return list(
        torch.autograd.grad((y[-1] * (torch.cos(3 * x) + torch.sin(x + 1))).sum(), (u0, nu))
    )


def test_a_dissipative_field_is_no_obstacle() -> None:
    # Steps short enough for the fastest mode, whose rate is 4 nu / dx^2 = 42.
    want = burgers("unrolled", 1.0, solver="rk4", step_size=1e-3)
    assert distance(burgers("interpolated", 1.0), want) < 100 * 1e-6
    with pytest.raises(SolveError, match="use gradient='interpolated'"):
        burgers("adjoint", 1.0)


def test_where_the_adjoint_arrives_somewhere_else_it_says_so() -> None:
    want = burgers("unrolled", 0.6, solver="rk4", step_size=1e-3)
    with pytest.warns(GradientWarning, match="use gradient='interpolated'"):
        found = burgers("adjoint", 0.6)
    assert distance(found, want) > 1
    assert distance(burgers("interpolated", 0.6), want) < 100 * 1e-6


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("solver", ["tsit5", "dopri8"])
def test_an_adjoint_at_rest_does_not_hide_what_the_state_does(
    solver: str, *, per_sample: bool
) -> None:
    p = torch.tensor(1.5, dtype=F64, requires_grad=True)
    speed = torch.tensor([40.0, 3.0], dtype=F64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return p * torch.cos(speed[:, None] * t.reshape(-1, 1)) + 0 * y

    y0 = torch.zeros(2, 1, dtype=F64)
    y = solve(
        field,
        y0,
        [0.0, 2.0],
        gradient="interpolated",
        solver=solver,
        rtol=1e-8,
        atol=1e-8,
        per_sample=per_sample,
    ).y
    (found,) = torch.autograd.grad(y[-1].sum(), p)
    assert float(found) == pytest.approx(float((torch.sin(2 * speed) / speed).sum()), abs=1e-6)


def test_steps_go_on_with_their_length_at_output_times() -> None:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64) * 0.7)
            p.requires_grad_(requires_grad=False)
    y0 = torch.randn(8, 2, dtype=F64, generator=generator).requires_grad_()
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return net(y)

    y = solve(
        field,
        y0,
        torch.linspace(0, 5, 51),
        gradient="interpolated",
        solver="dopri5",
        rtol=1e-5,
        atol=1e-5,
    ).y
    calls.clear()
    y.square().mean().backward()
    # One step from each output time to the one before, six stages each and a new slope after
    # each jump, and little more for the first step.
    assert 7 * 50 <= len(calls) <= 7 * 50 + 15


def oscillator(p: Tensor) -> Any:
    def field(t: Tensor, y: Tensor) -> Tensor:
        position, speed = y[..., :1], y[..., 1:]
        force = p[1] * torch.sin(t.reshape(-1, 1)) - p[0] * position - 0.2 * position**3
        return torch.cat([speed, force], -1)

    return field


def test_a_lane_gets_what_it_would_get_alone() -> None:
    times = torch.tensor([[0.0, 0.4, 1.0], [0.3, 2.9, 6.6]], dtype=F64)
    starts = torch.tensor([[1.0, 0.0], [0.2, -3.0]], dtype=F64)

    def run(lanes: slice) -> list[Tensor]:
        y0, t = starts[lanes].clone().requires_grad_(), times[lanes].clone().requires_grad_()
        p = torch.tensor([1.3, 0.5], dtype=F64, requires_grad=True)
        y = solve(oscillator(p), y0, t, gradient="interpolated", per_sample=True).y
        weight = torch.tensor([1.0, 1e6], dtype=F64)[lanes, None]
        return list(torch.autograd.grad((weight * y.square()).sum(), (y0, t, p)))

    both, first, second = run(slice(0, 2)), run(slice(0, 1)), run(slice(1, 2))
    for i in range(2):
        alone = torch.cat([first[i], second[i]])
        assert float(((both[i] - alone) / alone).abs().max()) < 1e-9
    assert float((both[2] - first[2] - second[2]).abs().max()) < 1e-9 * float(both[2].abs().max())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("save", ["times", "steps"])
def test_either_direction_and_saved_steps(*, per_sample: bool, backwards: bool, save: str) -> None:
    p = torch.tensor([1.3, 0.5], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0], [0.2, -3.0]], dtype=F64, requires_grad=True)
    t = [2.0, 1.1, -0.5] if backwards else [-0.5, 1.1, 2.0]

    def loss(gradient: Any) -> Tensor:
        y = solve(
            oscillator(p), y0, t, gradient=gradient, per_sample=per_sample, save=save, **TIGHT
        ).y
        return y[-1].pow(3).sum() + (y[0] * y0.detach()).sum()

    agree(loss, [y0, p], 1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("at", [0.5, 0.7])
def test_jumps_of_the_field_also_at_output_times(at: float, *, per_sample: bool) -> None:
    control = odekit.create("controller", "integral", jump_times=[at])
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=F64, requires_grad=True)

    def loss(gradient: Any) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return torch.where(t < at, rate, -2 * rate).reshape(-1, 1) * y

        y = solve(
            field, y0, t, gradient=gradient, controller=control, per_sample=per_sample, **TIGHT
        ).y
        return y[1].sum() + y[-1].square().sum()

    agree(loss, [rate, y0, t])


def test_the_size_of_the_loss_does_not_matter() -> None:
    p = torch.tensor([1.3, 0.5], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64, requires_grad=True)

    def run(factor: float) -> list[Tensor]:
        y = solve(oscillator(p), y0, [0.0, 1.0, 4.0], gradient="interpolated").y
        return list(torch.autograd.grad(factor * y.square().sum(), (y0, p)))

    large, small = run(1.0), run(2.0**-40)
    assert all(torch.equal(a * 2.0**-40, b) for a, b in zip(large, small, strict=True))


def test_many_output_times_in_single_precision() -> None:
    def run(dtype: torch.dtype, gradient: Any) -> Tensor:
        p = torch.tensor([1.3, 0.5], dtype=dtype, requires_grad=True)
        y0 = torch.tensor([[1.0, 0.0]], dtype=dtype)
        options = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else TIGHT
        y = solve(oscillator(p), y0, torch.linspace(0, 10, 200), gradient=gradient, **options).y
        (found,) = torch.autograd.grad(y.square().mean(), p)
        return found.double()

    want = run(F64, "unrolled")
    assert float((run(torch.float32, "interpolated") - want).norm() / want.norm()) < 1e-4


def test_tolerances_per_entry_in_either_place() -> None:
    atol = torch.tensor([1e-10, 1e-11], dtype=F64)
    own = odekit.create("controller", "integral", rtol=1e-9, atol=atol)
    p = torch.tensor([1.3, 0.5], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0], [0.2, -3.0]], dtype=F64, requires_grad=True)
    for options in ({"controller": own}, {"rtol": 1e-9, "atol": atol}):

        def loss(gradient: Any, options: Any = options) -> Tensor:
            y = solve(
                oscillator(p), y0, [0.0, 1.0], gradient=gradient, per_sample=True, **options
            ).y
            return y.square().sum()

        agree(loss, [y0, p])


def test_fields_that_differentiate() -> None:
    weight = torch.tensor([0.7, 0.2], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.4], [0.3, -0.8]], dtype=F64, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            energy = (weight * y.square()).sum() + 0.1 * (y[:, 0] * y[:, 1]).sin().sum()
            (slope,) = torch.autograd.grad(energy, y, create_graph=True)
        return torch.stack([slope[:, 1], -slope[:, 0]], -1)

    def loss(gradient: Any) -> Tensor:
        return solve(field, y0, [0.0, 0.7, 2.0], gradient=gradient, **TIGHT).y.pow(3).sum()

    agree(loss, [weight, y0])


def test_a_complex_parameter_beside_a_real_state() -> None:
    root = torch.tensor(0.3 + 1.1j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.ones(2, dtype=F64, requires_grad=True)

    def loss(gradient: Any) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return -(root * root.conj()).real * y + root.imag * y**2 * torch.cos(root.real * t)

        return solve(field, y0, [0.0, 1.0], gradient=gradient, **TIGHT).y[-1].sum()

    agree(loss, [root, y0])


def test_a_solver_and_a_controller_of_its_own() -> None:
    p = torch.tensor([1.3, 0.5], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64, requires_grad=True)
    knots = torch.linspace(0, 1, 101, dtype=F64)
    replay = odekit.create("controller", "replay", times=knots)

    def run(gradient: Any, **options: Any) -> list[Tensor]:
        y = solve(oscillator(p), y0, [0.0, 0.5, 1.0], gradient=gradient, **options).y
        return list(torch.autograd.grad(y.square().sum(), (y0, p)))

    want = run("unrolled", **TIGHT)
    loose = odekit.create("gradient", "interpolated", rtol=1e-3, atol=1e-3)
    strict = odekit.create("gradient", "interpolated", rtol=1e-9, atol=1e-11, solver="dopri8")
    assert 1e-6 < distance(run(loose, **TIGHT), want) < 1e-2
    assert distance(run(strict, **TIGHT), want) < 1e-7
    with pytest.raises(IncompatibleError, match=r"controller Replay .* controller='integral'"):
        run("interpolated", controller=replay)
    own = odekit.create("gradient", "interpolated", controller="pi", rtol=1e-9, atol=1e-11)
    assert distance(run(own, controller=replay), want) < 1e-7
    doubled = odekit.create("gradient", "interpolated", solver="rk4", rtol=1e-9, atol=1e-11)
    assert distance(run(doubled, **TIGHT), want) < 1e-6
    assert distance(run("interpolated", solver="rk4", step_size=0.005), want) < 1e-7


def test_what_it_cannot_do_is_refused() -> None:
    y0 = torch.ones(1, dtype=F64, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -(y**2)

    with pytest.raises(IncompatibleError, match="gradient='unrolled'"):
        solve(field, y0, [0.0, 1.0], gradient="interpolated", dense=True)
    with torch.no_grad():
        assert solve(field, y0, [0.0, 1.0], gradient="interpolated", dense=True)(0.5) > 0
    y = solve(field, y0, [0.0, 1.0], gradient="interpolated").y
    with pytest.raises(IncompatibleError, match="no second derivatives"):
        torch.autograd.grad(y[-1].sum(), y0, create_graph=True)


class Blind(odekit.Solver):
    """Euler's method without dense output."""

    order = 1

    def step(self, field: Any, t: Any, h: Any, y: Tensor, state: Any) -> odekit.Step:
        return odekit.Step(y + h * field(t, y), None, None, ())


def test_a_solver_without_dense_output_is_refused() -> None:
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    with pytest.raises(IncompatibleError, match="solver Blind does not offer; use gradient="):
        solve(
            lambda t, y: -y, y0, [0.0, 1.0], solver=Blind(), gradient="interpolated", step_size=0.1
        )


def test_a_loss_without_a_finite_derivative_gives_no_number() -> None:
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="interpolated").y
    (found,) = torch.autograd.grad((y * torch.nan).sum(), y0)
    assert bool(found.isnan().all())


def test_rows_without_a_cotangent_cost_nothing() -> None:
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return -(y**2)

    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    y = solve(field, y0, torch.linspace(0, 10, 11), gradient="interpolated").y
    calls.clear()
    y[1].sum().backward(retain_graph=True)
    assert max(calls) <= 1.0
    assert float(y0.grad) == pytest.approx(1 / 4, rel=1e-5)  # of y0 / (1 + y0)
    calls.clear()
    y[0].sum().backward()
    assert not calls


def test_the_stored_solution_is_freed_with_the_graph() -> None:
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="interpolated").y
    assert len(y.grad_fn.saved_tensors) > 5
    y.sum().backward()
    with pytest.raises(RuntimeError, match="freed"):
        _ = y.grad_fn.saved_tensors


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_rule_is_exact_for_polynomials_in_every_lane(sign: float) -> None:
    forward = sign * torch.tensor([[0.0, 0.0], [0.1, 2.0], [0.4, 2.0], [1.0, 3.0]], dtype=F64)
    # Backwards, the first lane in one step that is longer than those of the state; the second
    # waits before it moves, and again in between.
    back = sign * torch.tensor([[0.9, 2.8], [0.05, 2.8], [0.05, 2.5], [0.05, 0.5]], dtype=F64)
    nodes, weights = place_nodes(back, compact(forward), 2)
    for power in range(4):
        found = (weights * nodes**power).sum(0)
        want = (back[0] ** (power + 1) - back[-1] ** (power + 1)) / (power + 1)
        assert torch.allclose(found, want, rtol=1e-14, atol=0)
    first = nodes[weights[:, 0] != 0, 0] * sign
    for low, high in ((0.05, 0.1), (0.1, 0.4), (0.4, 0.9)):
        assert int(((first > low) & (first < high)).sum()) == 2
    assert [count_nodes(order) for order in (1, 2, 3, 4, 5, 8)] == [1, 1, 2, 2, 3, 4]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap", "dual"])
def test_transforms_are_refused(transform: str) -> None:
    def run(y0: Tensor) -> Tensor:
        return solve(
            lambda t, y: -y, y0, [0.0, 1.0], gradient="interpolated", step_size=0.5
        ).y.sum()

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
    y = solve(lambda t, y: torch.ones_like(y), y0, [0.0, 1.0], gradient="interpolated").y
    assert torch.autograd.grad(y[-1].sum(), y0)[0].tolist() == [1.0, 1.0]
    slope = torch.tensor(2.0, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: slope.expand_as(y), y0, [0.0, 1.0, 3.0], gradient="interpolated").y
    found = torch.autograd.grad(y[-1].sum(), (y0, slope))
    assert found[0].tolist() == [1.0, 1.0]
    assert float(found[1]) == pytest.approx(6.0, rel=1e-12)
