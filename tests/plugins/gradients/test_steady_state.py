"""The gradient of a point of rest: closed forms, long unrolled solves, and what is no rest."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import IncompatibleError, ProblemError, SolveError, Status, solve
from odekit.testing import GradientConformance
from odekit_gradients.krylov import solve_krylov

F64 = torch.float64
KRYLOV = pytest.mark.parametrize("dense_up_to", [256, 0], ids=["dense", "gmres"])


def rest(field: Any, y0: Tensor, t: Any, dense_up_to: int = 256, **options: Any) -> Any:
    method = odekit.create("gradient", "steady_state", dense_up_to=dense_up_to)
    return solve(field, y0, t, gradient=method, **options)


@KRYLOV
def test_closed_form_of_a_balance(dense_up_to: int) -> None:
    """``y' = a - b y^3`` rests at ``(a / b)^(1/3)``, to rounding for all its crude tolerance."""
    a = torch.tensor(2.0, dtype=F64, requires_grad=True)
    b = torch.tensor(0.25, dtype=F64, requires_grad=True)
    y0 = torch.tensor(0.5, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 30.0], dtype=F64, requires_grad=True)
    solution = rest(lambda t, y: a - b * y**3, y0, t, dense_up_to, rtol=1e-5, atol=1e-7)
    assert float(solution.y[-1].detach()) == pytest.approx(2.0, rel=1e-14)
    solution.y[-1].backward()
    assert float(a.grad) == pytest.approx(2 / (3 * 2.0), rel=1e-13)
    assert float(b.grad) == pytest.approx(-2 / (3 * 0.25), rel=1e-13)
    assert float(y0.grad) == 0.0
    assert t.grad.tolist() == [0.0, 0.0]


def toggle(p: Tensor) -> Any:
    """Two genes that repress each other: nonlinear, coupled, at rest in one of two points."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        u, v = y[..., 0], y[..., 1]
        return torch.stack([p[0] / (1 + v**2) - p[2] * u, p[1] / (1 + u**2) - v], -1)

    return field


@KRYLOV
@pytest.mark.parametrize("per_sample", [False, True])
def test_agrees_with_a_long_unrolled_solve(per_sample: bool, dense_up_to: int) -> None:
    p = torch.tensor([3.0, 2.5, 0.9], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[2.0, 0.1], [0.1, 2.0], [1.5, 0.5]], dtype=F64, requires_grad=True)
    weight = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.3, 0.7]], dtype=F64)
    options: dict[str, Any] = {"per_sample": per_sample, "rtol": 1e-10, "atol": 1e-12}

    def gradient(solution: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad((weight * solution.y[-1].square()).sum(), (p, y0))

    found = gradient(rest(toggle(p), y0, [0.0, 120.0], dense_up_to, **options))
    want = gradient(solve(toggle(p), y0, [0.0, 120.0], **options))
    torch.testing.assert_close(found[0], want[0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found[1], want[1], rtol=0, atol=1e-9)


@KRYLOV
def test_complex_states_with_a_field_that_is_not_holomorphic(dense_up_to: int) -> None:
    c = torch.tensor(0.6 - 0.3j, dtype=torch.complex128, requires_grad=True)
    g = torch.tensor(0.8, dtype=F64, requires_grad=True)
    z0 = torch.tensor([0.1 + 0.1j, -0.2 + 0.4j], dtype=torch.complex128)

    def field(t: Tensor, z: Tensor) -> Tensor:
        return c - (g + 0.5j) * z - 0.3 * z.abs().square() * z + 0.1 * z.conj()

    def gradient(solution: Any) -> tuple[Tensor, ...]:
        end = torch.view_as_real(solution.y[-1])
        return torch.autograd.grad((end + end**3)[..., 0].sum() - end[..., 1].sum(), (c, g))

    options = {"rtol": 1e-11, "atol": 1e-13}
    found = gradient(rest(field, z0, [0.0, 60.0], dense_up_to, **options))
    want = gradient(solve(field, z0, [0.0, 60.0], **options))
    for x, y in zip(found, want, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-9)


def test_a_network_with_a_tree_for_a_state() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    frozen = net[0].bias.requires_grad_(False)

    def field(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        slope = 0.5 * net(torch.cat([y["a"], y["b"]], -1)) - torch.cat([y["a"], y["b"]], -1)
        return {"a": slope[..., :1], "b": slope[..., 1:]}

    y0 = {"a": torch.ones(4, 1, dtype=F64), "b": torch.zeros(4, 2, dtype=F64)}
    grads = []
    for gradient in ("steady_state", "unrolled"):
        net.zero_grad()
        end = solve(field, y0, [0.0, 60.0], gradient=gradient, rtol=1e-9, atol=1e-11).y
        (end["a"][-1].sum() + end["b"][-1].square().sum()).backward()
        grads.append([p.grad for p in net.parameters() if p.requires_grad])
    for found, want in zip(*grads, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-8)
    assert frozen.grad is None


def test_tensors_computed_before_the_solve_pass_their_gradient_on() -> None:
    x = torch.tensor(1.5, dtype=F64, requires_grad=True)
    a = x.square()
    solution = rest(lambda t, y: a - x * y, torch.ones(1, dtype=F64), [0.0, 40.0])
    (found,) = torch.autograd.grad(solution.y[-1].sum(), x)  # y = x^2 / x
    assert float(found) == pytest.approx(1.0, rel=1e-12)


def test_the_first_row_is_the_start() -> None:
    y0 = torch.tensor([2.0], dtype=F64, requires_grad=True)
    solution = rest(lambda t, y: 1 - y, y0, [0.0, 50.0])
    (found,) = torch.autograd.grad(3 * solution.y[0].sum() + solution.y[-1].sum(), y0)
    assert found.tolist() == [3.0]


def test_a_root_that_moves_with_time_has_a_gradient_by_the_end() -> None:
    t = torch.tensor([0.0, 40.0], dtype=F64, requires_grad=True)
    level = 1e-9
    solution = rest(lambda t, y: 1 + level * t - y, torch.zeros(1, dtype=F64), t)
    (found,) = torch.autograd.grad(solution.y[-1].sum(), t)
    assert found[0] == 0
    assert float(found[1]) == pytest.approx(level, rel=1e-12)


def test_backward_time_rests_where_forward_time_leaves() -> None:
    p = torch.tensor(0.7, dtype=F64, requires_grad=True)
    solution = rest(lambda t, y: y - p, torch.zeros(1, dtype=F64), [0.0, -40.0])
    (found,) = torch.autograd.grad(solution.y[-1].sum(), p)
    assert float(found) == pytest.approx(1.0, rel=1e-12)


def test_times_of_their_own_per_sample() -> None:
    p = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.0], [1.0]], dtype=F64)
    t = torch.tensor([[0.0, 40.0], [5.0, 60.0]], dtype=F64)
    solution = rest(lambda t, y: p.square() - y, y0, t, per_sample=True)
    (found,) = torch.autograd.grad(solution.y[-1, 1].sum(), p)
    assert float(found) == pytest.approx(1.4, rel=1e-12)


def test_many_entries_by_products_alone() -> None:
    """A heated rod of 400 points, too large for the matrix: ``y'' - y + s = 0``."""
    n = 400
    source = torch.linspace(0, 3, n, dtype=F64).sin().requires_grad_()

    def field(t: Tensor, y: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(y, (1, 1))
        return 0.2 * (padded[2:] - 2 * y + padded[:-2]) - y + source

    solution = rest(field, torch.zeros(n, dtype=F64), [0.0, 40.0])
    weight = torch.linspace(-1, 1, n, dtype=F64)
    (found,) = torch.autograd.grad((weight * solution.y[-1]).sum(), source)
    off = torch.full((n - 1,), 0.2, dtype=F64)
    matrix = torch.diag(off, 1) + torch.diag(off, -1) - 1.4 * torch.eye(n, dtype=F64)
    torch.testing.assert_close(found, -torch.linalg.solve(matrix, weight), rtol=1e-11, atol=1e-12)


FAILURES: list[tuple[str, Any, float]] = [
    ("still moving", lambda p: lambda t, y: p - 0.05 * y, 10.0),
    ("running away", lambda p: lambda t, y: p + 0 * y, 10.0),
    ("conserved", lambda p: lambda t, y: p * (y.flip(-1) - y), 30.0),
    ("unstable", lambda p: lambda t, y: p * (y - 1), 10.0),
    ("turning", lambda p: lambda t, y: p * torch.stack([y[..., 1] - 1, 1 - y[..., 0]], -1), 10.0),
]


@pytest.mark.parametrize(("name", "make", "end"), FAILURES, ids=[f[0] for f in FAILURES])
def test_says_so_where_there_is_no_rest(name: str, make: Any, end: float) -> None:
    p = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.0, 1.0], dtype=F64)
    if name == "conserved":
        y0 = torch.tensor([1.0, 0.2], dtype=F64)
    with pytest.raises(SolveError, match="no stable point of rest") as caught:
        rest(make(p), y0, [0.0, end])
    assert caught.value.status is Status.NOT_AT_REST


def test_lanes_without_rest_do_not_spoil_the_others() -> None:
    p = torch.tensor(0.5, dtype=F64, requires_grad=True)
    rate = torch.tensor([[1.0], [0.01], [-1.0]], dtype=F64)
    y0 = torch.tensor([[0.1], [0.1], [30.0]], dtype=F64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(rate > 0, rate * (p - y), y * y)

    solution = rest(field, y0, [0.0, 40.0], per_sample=True, throw=False, max_steps=300)
    assert solution.statuses[:2] == [Status.SUCCESS, Status.NOT_AT_REST]
    assert not solution.success
    assert int(solution.status[2]) not in (Status.SUCCESS, Status.NOT_AT_REST)
    assert solution.y[-1, 1:].isnan().all()
    (found,) = torch.autograd.grad(solution.y[-1, 0].sum(), p)
    assert float(found) == pytest.approx(1.0, rel=1e-12)


def test_without_gradients_any_rows_may_be_asked_for() -> None:
    field = lambda t, y: 2 - y  # noqa: E731 - a formula
    t = [0.0, 1.0, 40.0]
    quiet = rest(field, torch.zeros(1, dtype=F64), t, rtol=1e-4)
    assert not quiet.y.requires_grad
    assert float(quiet.y[-1]) == 2.0
    y0 = torch.zeros(1, dtype=F64, requires_grad=True)
    with torch.no_grad():
        assert not rest(field, y0, t).y.requires_grad
    for more in ({"t": t}, {"dense": True}, {"save": "steps"}):
        options: dict[str, Any] = {"t": [0.0, 40.0], **more}
        with pytest.raises(IncompatibleError, match="the end alone"):
            rest(field, y0, **options)


def test_second_derivatives_are_refused() -> None:
    p = torch.tensor(0.5, dtype=F64, requires_grad=True)
    solution = rest(lambda t, y: p - y, torch.zeros(1, dtype=F64), [0.0, 40.0])
    with pytest.raises(IncompatibleError, match="no second derivatives"):
        torch.autograd.grad(solution.y[-1].sum(), p, create_graph=True)


def test_parameters_changed_in_place_are_noticed() -> None:
    p = torch.tensor(0.5, dtype=F64, requires_grad=True)
    solution = rest(lambda t, y: p - y, torch.zeros(1, dtype=F64), [0.0, 40.0])
    with torch.no_grad():
        p.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        solution.y[-1].sum().backward()


def test_nothing_is_kept_alive() -> None:
    net = nn.Linear(2, 2).double()
    field = lambda t, y, net=net: 0.1 * net(y) - y  # noqa: E731 - a formula
    solution = rest(field, torch.ones(2, dtype=F64), [0.0, 60.0])
    solution.y[-1].sum().backward()
    watched = weakref.ref(net)
    del net, field, solution
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("options", [{"dense_up_to": -1}, {"newton_steps": 0}, {"krylov_steps": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(ProblemError, match="krylov_steps >= 1"):
        odekit.create("gradient", "steady_state", **options)


def test_gmres_that_does_not_get_there_says_so() -> None:
    n = 40
    source = torch.linspace(0, 3, n, dtype=F64).sin().requires_grad_()
    rates = torch.logspace(0, 1.5, n, dtype=F64)
    few = odekit.create("gradient", "steady_state", dense_up_to=0, krylov_steps=3)
    with pytest.raises(SolveError, match="no stable point"):
        solve(
            lambda t, y: source - rates * y,
            torch.zeros(n, dtype=F64),
            [0.0, 20.0],
            gradient=few,
        )


def test_gmres_solves_every_lane_alone() -> None:
    """Lanes of different difficulty, one of them solved at once and one with nothing to do."""
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(4, 30, 30, dtype=F64, generator=generator) + 8 * torch.eye(30, dtype=F64)
    a[1] = 3 * torch.eye(30, dtype=F64)
    b = torch.randn(4, 30, dtype=F64, generator=generator)
    b[2] = 0

    def solved(lanes: list[int], limit: int = 60) -> tuple[Tensor, Tensor]:
        def apply(x: Tensor) -> Tensor:
            return torch.einsum("lij,lj->li", a[lanes], x)

        return solve_krylov(apply, b[lanes], tolerance=1e-13, limit=limit)

    x, done = solved([0, 1, 2, 3])
    assert bool(done.all())
    torch.testing.assert_close(x, torch.linalg.solve(a, b), rtol=1e-10, atol=1e-11)
    for lane in range(4):
        torch.testing.assert_close(solved([lane])[0][0], x[lane], rtol=1e-13, atol=1e-14)
    assert solved([0, 1, 2, 3], limit=4)[1].tolist() == [False, True, True, False]


def test_gmres_knows_a_singular_system() -> None:
    a = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=F64))
    _, done = solve_krylov(lambda x: x @ a, torch.ones(1, 3, dtype=F64), tolerance=1e-12, limit=9)
    assert done.tolist() == [False]


class _Detached(odekit.GradientMethod):
    """Claims to know the gradient at rest, and gives half of it."""

    at_rest = True

    def solve(self, problem: Any, integrate: Any) -> Any:
        from dataclasses import replace

        trajectory = integrate(problem)
        return replace(trajectory, y=0.5 * trajectory.y + 0.5 * trajectory.y.detach())


def test_the_kit_notices_a_wrong_gradient_at_rest() -> None:
    class Suite(GradientConformance):
        def make(self) -> odekit.GradientMethod:
            return _Detached()

    results = {r.check: r for r in Suite().run()}
    assert not results["rest"].passed
    assert not results["rest_per_sample"].passed
    assert not results["linear"].applies


def test_single_precision_keeps_its_dtype() -> None:
    a = torch.tensor(2.0, requires_grad=True)
    t = torch.tensor([0.0, 30.0], dtype=F64, requires_grad=True)
    solution = rest(lambda t, y: a - y**3, torch.ones(3), t, rtol=1e-4, atol=1e-6)
    by_a, by_t = torch.autograd.grad(solution.y[-1].mean(), (a, t))
    assert solution.y.dtype == by_a.dtype == torch.float32
    assert by_t.dtype == F64
    assert float(by_a) == pytest.approx(2 ** (-2 / 3) / 3, rel=1e-5)
