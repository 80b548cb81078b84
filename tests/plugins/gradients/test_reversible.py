"""What is special about the reversible gradient, beyond the promises every gradient keeps."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import GradientWarning, IncompatibleError

DOUBLE = torch.float64


def make(inner: str | None, **options: Any) -> Any:
    if inner is None:
        return "reversible_heun"
    return odekit.create("solver", "reversible", solver=inner, **options)


def far(found: list[Tensor], want: list[Tensor]) -> float:
    gaps = [float((a - b).norm() / b.norm()) for a, b in zip(found, want, strict=True)]
    return max(gaps)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def gradients(
    gradient: str,
    inner: str | None,
    *,
    per_sample: bool = False,
    adaptive: bool = True,
    times: bool = True,
    back: bool = False,
    jumps: tuple[float, ...] = (),
    save: str = "times",
) -> list[Tensor]:
    net = network()
    y0 = torch.sin(torch.arange(12, dtype=DOUBLE)).reshape(4, 3).requires_grad_()
    t = torch.linspace(0.0, 1.2, 4, dtype=DOUBLE)
    if per_sample:
        t = 0.1 + t * torch.linspace(0.5, 1.5, 4, dtype=DOUBLE)[:, None]
    t = (t.flip(-1) if back else t).clone().requires_grad_(times)

    def field(t: Tensor, y: Tensor) -> Tensor:
        t = t[:, None] if t.dim() else t
        scale = 1.0 + sum(torch.where(t > jump, 0.5, 0.0) for jump in jumps)
        return net(y) * torch.cos(3 * t) * scale

    options: dict[str, Any] = {} if adaptive else {"step_size": 0.11}
    name = "integral" if adaptive else "fixed"
    control = odekit.create("controller", name, jump_times=jumps, **options)
    solution = odekit.solve(
        field,
        y0,
        t,
        solver=make(inner),
        gradient=gradient,
        controller=control,
        per_sample=per_sample,
        save=save,
        rtol=1e-4,
        atol=1e-6,
    )
    weights = torch.arange(solution.y.numel(), dtype=DOUBLE).cos().reshape(solution.y.shape)
    loss = (weights * (solution.y + 0.3 * solution.y**2)).sum()
    wanted = [y0, *net.parameters(), *([t] if times else [])]
    return list(torch.autograd.grad(loss, wanted))


CASES = [
    (inner, per_sample, adaptive, times)
    for inner, per_sample, adaptive, times in itertools.product(
        ("tsit5", "dopri8", "rk4", None), (False, True), (False, True), (False, True)
    )
    if adaptive <= (inner != "rk4")
]


@pytest.mark.parametrize(("inner", "per_sample", "adaptive", "times"), CASES)
@pytest.mark.parametrize("jumps", [(), (0.4, 0.61)])
def test_equal_to_unrolled(
    inner: str | None, jumps: tuple[float, ...], *, per_sample: bool, adaptive: bool, times: bool
) -> None:
    case: dict[str, Any] = {
        "per_sample": per_sample,
        "adaptive": adaptive,
        "times": times,
        "jumps": jumps,
        "back": adaptive and times,
    }
    found, want = (gradients(each, inner, **case) for each in ("reversible", "unrolled"))
    assert far(found, want) < 1e-11


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("jumps", [(), (0.4, 0.61)])
def test_equal_to_unrolled_at_saved_steps(jumps: tuple[float, ...], *, per_sample: bool) -> None:
    case: dict[str, Any] = {"per_sample": per_sample, "jumps": jumps}
    found, want = (
        gradients(each, "tsit5", times=False, save="steps", **case)
        for each in ("reversible", "unrolled")
    )
    assert far(found, want) < 1e-11


def test_jumps_right_at_the_start_and_one_step_apart() -> None:
    case: dict[str, Any] = {"adaptive": False, "jumps": (0.0, 0.11, 0.22, 1.2)}
    found, want = (gradients(each, "rk4", **case) for each in ("reversible", "unrolled"))
    assert far(found, want) < 1e-11


def saved_bytes(gradient: str, steps: int) -> int:
    net, kept = network(), {}
    y0 = torch.ones(4, 3, dtype=DOUBLE, requires_grad=True)

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        solution = odekit.solve(
            lambda t, y: net(y),
            y0,
            [0.0, 1.0],
            solver=make("rk4"),
            gradient=gradient,
            step_size=1 / steps,
        )
    solution.y[-1].sum().backward()
    return sum(kept.values())


def test_memory_grows_by_the_times_of_the_steps_alone() -> None:
    few, many = (saved_bytes("reversible", steps) for steps in (10, 400))
    assert many - few == 8 * 390
    assert saved_bytes("unrolled", 400) > 100 * many


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_rows_that_a_failed_solve_did_reach(*, adaptive: bool, per_sample: bool) -> None:
    """With fixed steps the reference stops before the failure, which spoils unrolled's own."""

    def run(gradient: str, t: list[float]) -> list[Tensor]:
        y0 = torch.tensor([[0.5], [2.0]], dtype=DOUBLE, requires_grad=True)
        rate = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
        options: dict[str, Any] = {} if adaptive else {"step_size": 0.01}
        solution = odekit.solve(
            lambda t, y: rate * y * y * torch.where(y > 1e3, torch.nan, 1.0),
            y0,
            t,
            solver=make("tsit5"),
            gradient=gradient,
            per_sample=per_sample,
            throw=False,
            max_steps=300,
            **options,
        )
        rows = solution.y[:3]
        return list(torch.autograd.grad(rows.square().sum(), [y0, rate]))

    t = [0.0, 0.2, 0.4, 0.55, 1.0]  # the second sample grows beyond all bounds at one half
    want = run("unrolled", t if adaptive else t[:3])
    assert far(run("reversible", t), want) < 1e-10


def test_fields_that_differentiate_inside() -> None:
    torch.manual_seed(0)
    field = odekit.create("field", "hamiltonian", dim=2).double()
    y0 = torch.linspace(-1, 1, 8, dtype=DOUBLE).reshape(2, 4).requires_grad_()

    def run(gradient: str) -> list[Tensor]:
        solution = odekit.solve(
            field, y0, [0.0, 1.0], solver=make("tsit5"), gradient=gradient, rtol=1e-5
        )
        wanted = [y0, *(p for p in field.parameters() if p.requires_grad)]
        found = torch.autograd.grad(solution.y[-1].square().sum(), wanted, allow_unused=True)
        return [g for g in found if g is not None and bool(g.any())]

    assert far(run("reversible"), run("unrolled")) < 1e-11


def test_parameters_computed_from_one_another_and_hidden_ones() -> None:
    base = torch.tensor([0.4, -0.3], dtype=DOUBLE, requires_grad=True)
    frozen = torch.tensor(0.5, dtype=DOUBLE)
    code = base.exp() * base[0]

    class Field:
        def __call__(self, t: Tensor, y: Tensor, store: Any) -> Tensor:
            return frozen * code * y - store.deep[0]["w"] * base * torch.sin(y)

    class Store:
        def __init__(self) -> None:
            self.deep = [{"w": torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)}]

    store, y0 = Store(), torch.tensor([1.0, 0.3], dtype=DOUBLE, requires_grad=True)

    def run(gradient: str) -> list[Tensor]:
        field = Field()
        solution = odekit.solve(
            lambda t, y: field(t, y, store), y0, [0.0, 0.7], solver=make("rk4"),
            gradient=gradient, step_size=0.1,
        )  # fmt: skip
        wanted = [base, y0, store.deep[0]["w"]]
        return list(torch.autograd.grad(solution.y[-1].sum(), wanted, retain_graph=True))

    assert far(run("reversible"), run("unrolled")) < 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_start_that_is_not_found_again_is_said(dtype: torch.dtype) -> None:
    def run(coupling: float) -> None:
        y0 = torch.tensor([1.0, 0.5], dtype=dtype, requires_grad=True)
        solver = make("rk4", coupling=coupling)
        y = odekit.solve(
            lambda t, y: torch.sin(3 * y), y0, [0.0, 2.0], solver=solver,
            gradient="reversible", step_size=0.01,
        ).y  # fmt: skip
        y[-1].sum().backward()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(0.999)
    with pytest.warns(GradientWarning, match="use gradient='checkpointed'") as seen:
        run(0.8)
    assert len(seen) == 1


def test_a_system_that_forgets_its_start_is_said() -> None:
    y0 = torch.tensor([1.0, 0.5], dtype=DOUBLE, requires_grad=True)
    y = odekit.solve(
        lambda t, y: -20 * (y - torch.cos(t)), y0, [0.0, 2.0], solver=make("rk4"),
        gradient="reversible", step_size=0.01,
    ).y  # fmt: skip
    with pytest.warns(GradientWarning, match="off by"):
        y[-1].sum().backward()


def test_a_solver_that_is_not_reversible_is_refused_with_the_way_out() -> None:
    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(IncompatibleError, match=r"create\('solver', 'reversible', solver='tsit5'"):
        odekit.solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="reversible")


def test_dense_output_is_refused() -> None:
    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(IncompatibleError, match="leave out dense=True"):
        odekit.solve(
            lambda t, y: -y, y0, [0.0, 1.0], solver=make("tsit5"), gradient="reversible", dense=True
        )


def test_second_derivatives_are_refused() -> None:
    y0 = torch.ones(2, requires_grad=True)
    y = odekit.solve(
        lambda t, y: -y * y, y0, [0.0, 1.0], solver=make("tsit5"), gradient="reversible"
    ).y
    with pytest.raises(IncompatibleError, match="no second derivatives"):
        torch.autograd.grad(y[-1].sum(), y0, create_graph=True)


def test_a_parameter_changed_before_the_way_back_is_noticed() -> None:
    weight = torch.tensor(0.5, requires_grad=True)
    y0 = torch.ones(2)
    y = odekit.solve(
        lambda t, y: weight * y, y0, [0.0, 1.0], solver=make("tsit5"), gradient="reversible"
    ).y
    with torch.no_grad():
        weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y[-1].sum().backward()


def test_a_single_time_is_its_own_solution() -> None:
    y0 = torch.ones(2, requires_grad=True)
    y = odekit.solve(lambda t, y: -y, y0, [0.0], solver=make("tsit5"), gradient="reversible").y
    y.sum().backward()
    assert y0.grad is not None
    assert y0.grad.tolist() == [1.0, 1.0]
