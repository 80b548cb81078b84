"""The discrete adjoint: the numbers of unrolled, from the states between the steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import FlatField, IncompatibleError, Solver, Step, solve

F64 = torch.float64
EXACT = 1e-12
SOLVERS = ["rk4", "tsit5", "dopri5", "dopri8"]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def network(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def agree(loss: Callable[[str], Tensor], inputs: list[Tensor], *, order: int = 2) -> None:
    """Derivatives up to an order, of ``discrete`` and of ``unrolled``."""
    found, want = (_derivatives(loss(name), inputs, order) for name in ("discrete", "unrolled"))
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).norm()) <= EXACT * float(b.norm())


def _derivatives(value: Tensor, inputs: list[Tensor], order: int) -> list[Tensor]:
    """The value and its derivatives; each order is that of the norm of the one before."""
    every = [value.detach()]
    for n in range(order):
        more = n + 1 < order
        found = torch.autograd.grad(value, inputs, create_graph=more, allow_unused=True)
        every += [
            torch.zeros_like(x) if slope is None else slope.detach()
            for x, slope in zip(inputs, found, strict=True)
        ]
        if more:
            value = torch.stack([(x * x.conj()).real.sum() for x in found if x is not None]).sum()
    return every


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("step_size", [None, 0.23])
def test_the_numbers_of_unrolled(solver: str, step_size: float | None, *, per_sample: bool) -> None:
    """First and second derivatives by start, parameters and times, rows inside steps included."""
    net, y0 = network(3, 6, 3), draw(4, 3).requires_grad_()
    for times in ([0.2, 0.5, 0.6, 2.0], [1.5, 0.7, 0.1]):
        t = torch.tensor(times, dtype=F64, requires_grad=True)

        def loss(gradient: str, t: Tensor = t) -> Tensor:
            return (
                solve(
                    lambda t, y: net(y) * torch.cos(t.reshape(-1, 1)),
                    y0,
                    t,
                    solver=solver,
                    gradient=gradient,
                    per_sample=per_sample,
                    step_size=step_size,
                    rtol=1e-4,
                )
                .y.sin()
                .sum()
            )

        agree(loss, [y0, t, *net.parameters()])


def test_third_derivatives() -> None:
    net, y0 = network(2, 4, 2), draw(2).requires_grad_()
    agree(
        lambda gradient: (
            solve(lambda t, y: net(y), y0, [0.0, 1.0], gradient=gradient, step_size=0.3)
            .y[-1]
            .sin()
            .sum()
        ),
        [y0, *net.parameters()],
        order=3,
    )


@pytest.mark.parametrize("per_sample", [False, True])
def test_what_a_solve_may_be_asked_for(*, per_sample: bool) -> None:
    """Jumps, stops, dense output, saved steps, pytrees."""
    rate, y0 = torch.tensor(1.3, dtype=F64, requires_grad=True), draw(3, 1).requires_grad_()
    t = torch.tensor([0.1, 0.7, 1.4], dtype=F64, requires_grad=True)
    control = odekit.create("controller", "integral", jump_times=(0.5,), step_times=(1.1,))

    def field(t: Tensor, y: Any, rate: Tensor) -> Any:
        pace = torch.where(t < 0.5, rate, -2 * rate).reshape(-1, 1)
        return {"a": pace * y["b"], "b": -y["a"].sin()}

    def run(gradient: str, t: Tensor, **options: Any) -> Any:
        start = {"a": y0, "b": 0.5 * y0}
        return solve(
            field,
            start,
            t,
            args=rate,
            gradient=gradient,
            per_sample=per_sample,
            controller=control,
            rtol=1e-5,
            **options,
        )

    agree(lambda g: run(g, t).y["a"].square().sum(), [y0, rate, t])
    agree(lambda g: run(g, t.detach(), save="steps").y["b"].sin().sum(), [y0, rate])
    agree(lambda g: run(g, t, dense=True)([0.3, 0.9])["a"].sin().sum(), [y0, rate, t])
    agree(lambda g: run(g, t, solver="dopri8", dense=True)(0.3)["b"].sum(), [y0, rate, t])


@pytest.mark.parametrize("per_sample", [False, True])
def test_complex_states(*, per_sample: bool) -> None:
    y0 = draw(3, 2, dtype=torch.complex128).requires_grad_()
    rate = torch.tensor([1.0 + 0.3j, -0.4], dtype=torch.complex128, requires_grad=True)
    scale = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        y = solve(
            lambda t, y: 1j * rate * y - scale * y * y.abs().square(),
            y0,
            [0.0, 0.4, 1.0],
            gradient=gradient,
            per_sample=per_sample,
            rtol=1e-5,
        ).y
        return (y.real.square() + y.imag.sin()).sum()

    agree(loss, [y0, rate, scale])


def test_parameters_wherever_they_are() -> None:
    """Computed from one another, hidden in a container, given as args; frozen ones get none."""
    free, frozen = draw(2, 2).requires_grad_(), draw(2, 2, seed=1)
    code = draw(2, 3, seed=2).requires_grad_()
    secret = draw(2, seed=3).requires_grad_()
    y0 = draw(4, 2, seed=4)

    def loss(gradient: str) -> Tensor:
        weight = torch.tanh(code @ code.T)  # computed once, used by every step beside its source
        hidden = {"deep": [[[[(secret,)]]], [[[(secret.square(),)]]]]}

        def field(t: Tensor, y: Tensor, args: Any) -> Tensor:
            inner = y @ weight + 0.1 * code[:, 0]
            for place in hidden["deep"]:
                inner = inner + place[0][0][0][0]
            return torch.sin(inner) @ args["w"] - y @ frozen.square()

        args = {"w": free * 0.5}
        y = solve(field, y0, [0.0, 0.8], args=args, gradient=gradient, rtol=1e-5).y
        return y[-1].square().sum() + weight.sum()

    agree(loss, [free, code, secret])
    loss("discrete").backward()
    assert frozen.grad is None


class Bashforth(Solver):
    """Adams-Bashforth of second order, started by Euler; its memory is a tree with a counter."""

    order = 2

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Any:
        return {"steps": torch.zeros((), dtype=torch.int64), "past": [y, field(t, y)]}

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
        slope, (_, before) = field(t, y), state["past"]
        late = state["steps"] > 0
        y1 = y + h * torch.where(late, 1.5 * slope - 0.5 * before, slope)
        memory = {"steps": state["steps"] + 1, "past": [y, slope]}
        return Step(y1, None, memory, (slope, slope))


def test_any_solver() -> None:
    net, y0 = network(2, 5, 2), draw(2).requires_grad_()

    def loss(gradient: str) -> Tensor:
        return (
            solve(
                lambda t, y: net(y) * torch.cos(t),
                y0,
                [0.0, 0.33, 1.0],
                solver=Bashforth(),
                step_size=0.1,
                gradient=gradient,
            )
            .y.sin()
            .sum()
        )

    agree(loss, [y0, *net.parameters()])


class Energy(nn.Module):
    """A Hamiltonian field that differentiates its energy with autograd, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(2, 6, 1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.net(y).sum(), y, create_graph=True)
        return torch.cat([slope[..., 1:], -slope[..., :1]], -1)


class Flow(nn.Module):
    """A continuous normalising flow: the state and its log-density, by an exact divergence."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(2, 6, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = y[..., :2] if y.requires_grad else y[..., :2].detach().requires_grad_()
            slope = self.net(x) * torch.cos(t.reshape(-1, 1))
            rows = [
                torch.autograd.grad(slope[..., i].sum(), x, create_graph=True)[0][..., i]
                for i in range(2)
            ]
        return torch.cat([slope, -torch.stack(rows, -1).sum(-1, keepdim=True)], -1)


FIELDS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "autograd": (Energy, 2),
    "torch.func": (
        lambda: odekit.create("field", "hamiltonian", dim=1, energy=network(2, 6, 1)),
        2,
    ),
    "divergence": (Flow, 3),
}


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("gradient", ["unrolled", "discrete"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_fields_that_differentiate(kind: str, gradient: str, *, per_sample: bool) -> None:
    """Against central differences; the same rows with and without a graph."""
    make, dim = FIELDS[kind]
    field, y0 = make(), draw(3, dim)
    params = [p for p in field.parameters() if p.requires_grad]

    def rows(y0: Tensor) -> Tensor:
        return solve(
            field, y0, [0.0, 0.5, 1.0], gradient=gradient, per_sample=per_sample, step_size=0.1
        ).y

    with torch.no_grad():
        quiet = rows(y0)
    assert not quiet.requires_grad
    start = y0.clone().requires_grad_()
    y = rows(start)
    assert float((y.detach() - quiet).abs().max()) < 1e-14
    found = torch.autograd.grad(y.sin().sum(), [start, *params], allow_unused=True)
    step = 1e-5
    with torch.no_grad():
        for x, slope in zip([y0, *params], found, strict=True):
            direction = torch.cos(torch.arange(x.numel(), dtype=F64)).reshape(x.shape)
            values = []
            for sign in (1, -1):
                x += sign * step * direction
                values.append(float(rows(y0).sin().sum()))
                x -= sign * step * direction
            want = (values[0] - values[1]) / (2 * step)
            got = 0.0 if slope is None else float((slope * direction).sum())
            assert got == pytest.approx(want, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("kind", FIELDS)
def test_second_derivatives_of_fields_that_differentiate(kind: str) -> None:
    make, dim = FIELDS[kind]
    field, y0 = make(), draw(3, dim).requires_grad_()
    params = [p for p in field.parameters() if p.requires_grad]
    agree(
        lambda gradient: (
            solve(field, y0, [0.0, 0.4], gradient=gradient, step_size=0.2).y[-1].sin().sum()
        ),
        [y0, *params],
    )


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of the tracer
def test_compiled_fields(*, per_sample: bool) -> None:
    net, y0 = network(2, 5, 2), draw(3, 2).requires_grad_()

    def field(t: Tensor, y: Tensor) -> Tensor:
        return net(y) * torch.cos(t).reshape(-1, 1)

    def slopes(field: Any, gradient: str) -> tuple[Tensor, ...]:
        y = solve(
            field,
            y0,
            [0.0, 0.7],
            gradient=gradient,
            per_sample=per_sample,
            params=net.parameters(),
        ).y
        return torch.autograd.grad(y.square().sum(), [y0, *net.parameters()])

    fast = torch.compile(field, backend="aot_eager", fullgraph=True)
    want = slopes(field, "unrolled")
    # In this order, because what is compiled for a graph that is freed refuses to be kept.
    for gradient in ("unrolled", "discrete", "unrolled"):
        for a, b in zip(slopes(fast, gradient), want, strict=True):
            assert float((a - b).norm()) <= EXACT * float(b.norm())


@pytest.mark.parametrize("inside", [False, True])
def test_mixed_precision_is_that_of_the_solve(*, inside: bool) -> None:
    """Whether or not the backward pass runs under the same autocast."""
    net, y0 = network(4, 8, 4).float(), draw(16, 4, dtype=torch.float32).requires_grad_()
    slopes = {}
    for gradient in ("unrolled", "discrete"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = solve(
                lambda t, y: net(y).float(),
                y0,
                [0.0, 1.0],
                solver="rk4",
                step_size=0.25,
                gradient=gradient,
            ).y
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            slopes[gradient] = torch.autograd.grad(y.sin().sum(), [y0, net[2].bias])
    # Sums over steps are in double the precision here, so those of a parameter agree less closely.
    for a, b, near in zip(slopes["discrete"], slopes["unrolled"], (1e-6, 1e-2), strict=True):
        assert float((a - b).norm()) <= near * float(b.norm())


def test_only_states_are_kept() -> None:
    """A time, a state and a slope for each step, and nothing of what the field computes."""
    net, y0 = network(4, 32, 4), draw(8, 4)

    def kept(gradient: str, steps: int) -> int:
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

    per_step = (kept("discrete", 80) - kept("discrete", 40)) / 40
    assert per_step == 2 * y0.numel() * 8 + 8
    assert kept("unrolled", 40) > 10 * kept("discrete", 40)


def test_every_step_is_taken_twice() -> None:
    calls, rate = [0], torch.tensor(0.3, dtype=F64, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return rate * y

    solution = solve(field, draw(2), [0.0, 1.0], solver="rk4", step_size=0.1, gradient="discrete")
    assert int(solution.stats.evaluations) == 41
    assert calls[0] == 44  # three more, to see what there is behind the slope
    calls[0] = 0
    loss = solution.y[-1].sum()
    loss.backward(retain_graph=True)
    assert calls[0] == 41  # one more, to see that the field is what it was
    first = rate.grad.clone()
    loss.backward()
    assert torch.equal(rate.grad, 2 * first)


def test_a_slope_that_the_field_keeps_is_left_alone() -> None:
    slope, y0 = torch.ones(2, dtype=F64), draw(2).requires_grad_()
    y = solve(lambda t, y: slope, y0, [0.0, 1.0], gradient="discrete").y
    (found,) = torch.autograd.grad(y[-1].sum(), y0)
    assert found.tolist() == [1.0, 1.0]
    assert slope.grad_fn is None
    assert not slope.requires_grad


def test_a_parameter_changed_in_place_is_noticed() -> None:
    rate = torch.tensor(0.3, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: rate * y, draw(2), [0.0, 1.0], gradient="discrete").y
    with torch.no_grad():
        rate += 1
    with pytest.raises(RuntimeError, match="changed in place between the solve"):
        y[-1].sum().backward()


def test_transforms_are_refused_early() -> None:
    def loss(y: Tensor) -> Tensor:
        return solve(lambda t, y: -y, y, [0.0, 1.0], gradient="discrete").y[-1].sum()

    for transform in (torch.func.grad, torch.func.vmap, torch.func.jacrev):
        with pytest.raises(IncompatibleError, match=r"inside torch\.func transforms; use"):
            transform(loss)(draw(2))


def test_nothing_to_differentiate() -> None:
    quiet = solve(lambda t, y: -y, draw(2), [0.0, 1.0], gradient="discrete")
    assert not quiet.y.requires_grad
    alone = draw(2).requires_grad_()
    only = solve(lambda t, y: -y, alone, [0.5], gradient="discrete").y
    assert torch.autograd.grad(only.sum(), alone)[0].tolist() == [1.0, 1.0]
