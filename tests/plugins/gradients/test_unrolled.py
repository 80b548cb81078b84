"""Unrolled differentiation: what is on the tape, transforms of torch.func, second derivatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import odekit
from odekit import IncompatibleError, solve

# What PyTorch's own formulas of forward mode are written with.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

F64 = torch.float64
FIXED: list[dict[str, Any]] = [
    {"solver": "rk4", "step_size": 0.13},
    {"solver": "tsit5", "step_size": 0.3},
    {"solver": "dopri8", "step_size": 0.5},
]
TIMES = torch.tensor([0.1, 0.5, 1.2], dtype=F64)


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=F64)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def spiral(y0: Tensor, weight: Tensor, t: Any = TIMES, **options: Any) -> Tensor:
    """All rows of ``y' = cos(t) tanh(W y)``, for one sample ``(2,)``."""
    return solve(lambda t, y: torch.cos(t) * torch.tanh(weight @ y), y0, t, **options).y


def differences(function: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-5) -> Tensor:
    """The Jacobian of a flat function by central differences, ``(*out, *x)``."""
    columns = []
    for i in range(x.numel()):
        shift = torch.zeros_like(x).reshape(-1)
        shift[i] = step
        shift = shift.reshape(x.shape)
        columns.append((function(x + shift) - function(x - shift)) / (2 * step))
    stacked = torch.stack(columns, -1)
    return stacked.reshape(*stacked.shape[:-1], *x.shape)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape
    assert float((a - b).norm()) <= tolerance * float(b.norm())


def nodes(y: Tensor) -> Counter[str]:
    """The kinds of node in the graph behind a tensor."""
    waiting, seen = [y.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return Counter(node.name() for node in seen)


@pytest.mark.parametrize("solver", ["tsit5", "dopri5", "dopri8"])
def test_step_size_control_is_not_on_the_tape(solver: str) -> None:
    """An adaptive solve leaves the graph that its accepted steps leave when taken again."""
    weight, y0 = draw(2, 2).requires_grad_(), draw(2, seed=1).requires_grad_()
    options: dict[str, Any] = {"solver": solver, "rtol": 1e-5, "save": "steps"}

    def run(controller: Any) -> Any:
        return solve(
            lambda t, y: 3 * torch.tanh(weight @ y),
            y0,
            [0.0, 2.0],
            controller=controller,
            **options,
        )

    adaptive = run(odekit.create("controller", "integral", first_step=1.9))
    assert int(adaptive.stats.rejected) > 0
    again = run(odekit.create("controller", "replay", times=adaptive.t))
    assert torch.equal(adaptive.y, again.y)
    assert nodes(adaptive.y) == nodes(again.y)
    found, want = (torch.autograd.grad(s.y.sum(), (weight, y0)) for s in (adaptive, again))
    assert all(map(torch.equal, found, want))


def test_step_doubling_leaves_its_two_halves_on_the_tape() -> None:
    weight, y0 = draw(2, 2).requires_grad_(), draw(2, seed=1)
    solution = solve(
        lambda t, y: torch.tanh(weight @ y), y0, [0.0, 2.0], solver="rk4", save="steps"
    )
    steps = int(solution.stats.accepted)
    assert nodes(solution.y)["TanhBackward0"] == 1 + 8 * steps - 1  # nobody asks for the last slope


def test_step_size_control_is_not_differentiated_per_sample() -> None:
    """In reverse and in forward mode: the derivative is that of the same steps taken again."""
    y0 = double([[1.0], [0.4], [2.0]])

    def rows(y0: Tensor, **options: Any) -> Any:
        return solve(lambda t, y: -y * y, y0, [0.0, 1.0], per_sample=True, rtol=1e-3, **options)

    steps = rows(y0, save="steps").t
    replay = odekit.create("controller", "replay", times=steps)
    want = jacrev(lambda y0: rows(y0, controller=replay).y[-1])(y0)
    assert float((want - torch.diag(1 / (1 + y0[:, 0]) ** 2)[:, None, :, None]).abs().max()) > 1e-7
    close(jacrev(lambda y0: rows(y0).y[-1])(y0), want)
    close(jacfwd(lambda y0: rows(y0).y[-1])(y0), want)


@pytest.mark.parametrize("options", FIXED, ids=lambda o: o["solver"])
def test_vmap_is_a_loop_over_solves(options: dict[str, Any]) -> None:
    starts, weights = draw(3, 2), draw(3, 2, 2, seed=1)
    found = vmap(lambda y, w: spiral(y, w, **options))(starts, weights)
    want = [spiral(y, w, **options) for y, w in zip(starts, weights, strict=True)]
    close(found, torch.stack(want))
    shared = vmap(lambda w: spiral(starts[0], w, **options))(weights)
    close(shared, torch.stack([spiral(starts[0], w, **options) for w in weights]))
    nested = vmap(vmap(lambda y: spiral(y, weights[0], **options)))(draw(2, 3, 2, seed=2))
    assert nested.shape == (2, 3, 3, 2)


@pytest.mark.parametrize("options", FIXED, ids=lambda o: o["solver"])
def test_jacobians_of_start_weight_and_times(options: dict[str, Any]) -> None:
    y0, weight = draw(2), draw(2, 2, seed=1)
    by_each: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda y: spiral(y, weight, **options), y0),
        (lambda w: spiral(y0, w, **options), weight),
        (lambda t: spiral(y0, weight, t, **options), TIMES),
    ]
    for function, x in by_each:
        back, ahead = jacrev(function)(x), jacfwd(function)(x)
        close(back, ahead)
        if x is TIMES:  # differences move the steps as well, so they see the true flow
            truth = differences(
                lambda t: spiral(y0, weight, t, solver="dopri8", rtol=1e-11, atol=1e-13), x
            )
            assert float((back - truth).abs().max()) < 2e-4
        else:
            close(back, differences(function, x), 1e-8)
        _, pull = vjp(function, x)
        (found,) = pull(torch.ones(3, 2, dtype=F64))
        close(found, back.sum((0, 1)))
        _, push = jvp(function, (x,), (torch.ones_like(x),))
        close(push, back.flatten(2).sum(-1))


@pytest.mark.parametrize("options", FIXED, ids=lambda o: o["solver"])
def test_compositions(options: dict[str, Any]) -> None:
    starts, weight = draw(3, 2), draw(2, 2, seed=1)

    def loss(y: Tensor, w: Tensor) -> Tensor:
        return spiral(y, w, **options).square().sum()

    each = vmap(grad(loss, argnums=(0, 1)), in_dims=(0, None))(starts, weight)
    for i, y in enumerate(starts):
        for found, want in zip(each, grad(loss, argnums=(0, 1))(y, weight), strict=True):
            close(found[i], want)
    bend = hessian(lambda w: loss(starts[0], w))(weight)
    close(bend, jacrev(jacrev(lambda w: loss(starts[0], w)))(weight))
    close(bend, jacrev(jacfwd(lambda w: loss(starts[0], w)))(weight))
    close(bend, differences(grad(lambda w: loss(starts[0], w)), weight), 1e-8)
    jacobians = vmap(jacrev(lambda y: spiral(y, weight, **options)))(starts)
    close(jacobians[1], jacfwd(lambda y: spiral(y, weight, **options))(starts[1]))
    close(jacobians, vmap(jacfwd(lambda y: spiral(y, weight, **options)))(starts))
    through = grad(lambda w: vmap(lambda y: loss(y, w))(starts).sum())(weight)
    close(through, each[1].sum(0))


def test_an_ensemble_of_networks() -> None:
    """Stacked parameters, a gradient of each member, dense output and pytrees on the way."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double() for _ in range(3)]
    stacked = {
        k: torch.stack([dict(n.named_parameters())[k].detach() for n in nets])
        for k in dict(nets[0].named_parameters())
    }
    y0 = draw(5, 2)

    def loss(params: dict[str, Tensor]) -> Tensor:
        def field(t: Tensor, y: Any) -> Any:
            return {"q": functional_call(nets[0], params, (y["q"],)), "clock": torch.ones_like(y0)}

        start = {"q": y0, "clock": torch.zeros_like(y0)}
        solution = solve(field, start, [0.0, 1.0], solver="tsit5", step_size=0.25, dense=True)
        return solution(0.6)["q"].square().sum() + solution.y["q"][-1].sum()

    found = vmap(grad(loss))(stacked)
    for i, net in enumerate(nets):
        params = dict(net.named_parameters())
        want = torch.autograd.grad(loss(params), list(params.values()))
        for name, x in zip(params, want, strict=True):
            close(found[name][i], x)


def test_forward_mode_reaches_the_times_without_functorch() -> None:
    weight, y0 = draw(2, 2), draw(2, seed=1)
    with forward_ad.dual_level():
        t = forward_ad.make_dual(TIMES, torch.ones_like(TIMES))
        tangent = forward_ad.unpack_dual(spiral(y0, weight, t)).tangent
    close(tangent, jacrev(lambda t: spiral(y0, weight, t))(TIMES).sum(-1))


@pytest.mark.parametrize("per_sample", [False, True])
def test_adaptive_steps_may_be_differentiated_by_transforms(per_sample: bool) -> None:
    y0 = draw(3, 1)

    def rows(y: Tensor, t: Tensor) -> Tensor:
        return solve(
            lambda t, y: torch.sin(y) * torch.cos(t.reshape(-1, 1)), y, t, per_sample=per_sample
        ).y

    for which in (0, 1):
        back, ahead = (mode(rows, argnums=which)(y0, TIMES) for mode in (jacrev, jacfwd))
        close(back, ahead, 1e-11)
        x = (y0, TIMES)[which].clone().requires_grad_()
        given = (x, TIMES) if which == 0 else (y0, x)
        (want,) = torch.autograd.grad(rows(*given).sum(), x)
        close(back.sum((0, 1, 2)), want)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "per_sample=True"),
        ({"solver": "rk4"}, "step_size="),
        ({"per_sample": True}, "drop per_sample"),
        ({"per_sample": True, "step_size": 0.1}, "drop per_sample"),
    ],
)
def test_vmap_over_steps_that_adapt_is_refused(options: dict[str, Any], advice: str) -> None:
    with pytest.raises(IncompatibleError, match="vmap cannot map over") as caught:
        vmap(lambda y: solve(lambda t, y: -y, y, [0.0, 1.0], **options).y)(draw(2, 3, 1))
    assert advice in str(caught.value)


def test_vmap_over_times_is_refused() -> None:
    y0 = draw(1)
    with pytest.raises(IncompatibleError, match="vmap cannot map over t"):
        vmap(lambda t: solve(lambda t, y: -y, y0, t, step_size=0.1).y)(draw(2, 3))


def test_a_complaint_of_the_field_under_vmap_is_its_own() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y if bool(y.sum() > 0) else y

    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        vmap(lambda y: solve(field, y, [0.0, 1.0], step_size=0.1, solver="rk4").y)(draw(2, 3))


def test_values_that_are_not_finite_stay_visible_under_vmap() -> None:
    starts = double([[0.1], [1e200]])
    rows = vmap(lambda y: solve(lambda t, y: y**3, y, [0.0, 1.0], solver="rk4", step_size=0.5).y)(
        starts
    )
    assert torch.isfinite(rows[0]).all()
    assert not torch.isfinite(rows[1, -1]).all()


@pytest.mark.parametrize("gradient", ["unrolled", "discrete"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_hessian_vector_products(gradient: str, *, per_sample: bool) -> None:
    """Second derivatives by start, weights and times, against differences of first ones."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    steps = odekit.create("controller", "fixed", step_size=0.2)

    def first(shift: float, *, further: bool) -> tuple[list[Tensor], list[Tensor]]:
        inputs = [draw(3, 2, seed=1), double([0.0, 0.5, 1.1]), *net.parameters()]
        inputs = [(x + shift * torch.cos(x)).detach().requires_grad_() for x in inputs]
        y0, t, *params = inputs
        names = [name for name, _ in net.named_parameters()]

        def field(t: Tensor, y: Tensor, params: Any) -> Tensor:
            given = dict(zip(names, params, strict=True))
            return functional_call(net, given, (y,)) * torch.cos(t.reshape(-1, 1))

        y = solve(
            field,
            y0,
            t,
            args=params,
            solver="dopri5",
            controller=steps,
            gradient=gradient,
            per_sample=per_sample,
        ).y
        return inputs, list(torch.autograd.grad(y.sin().sum(), inputs, create_graph=further))

    inputs, slopes = first(0.0, further=True)
    found = torch.autograd.grad(
        sum((g * x.detach().cos()).sum() for g, x in zip(slopes, inputs, strict=True)), inputs
    )
    step = 1e-5
    (_, ahead), (_, behind) = first(step, further=False), first(-step, further=False)
    for i, product in enumerate(found):
        close(product, (ahead[i] - behind[i]) / (2 * step), 1e-6)
