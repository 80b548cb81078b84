"""Gradients as programs use them: many times over, and in two processes at once."""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import odekit
from odekit import Solver, Step

METHODS = ("unrolled", "discrete", "checkpointed", "interpolated", "adjoint", "reversible")


class Hidden:
    """Holds a tensor where only the graph leads to it."""

    weight: Tensor


def through(gradient: str) -> Any:
    if gradient == "reversible":
        return odekit.create("solver", "reversible", solver="tsit5")
    return "tsit5"


class Flow(nn.Module):
    """A model with a solve inside, as it is trained in parallel."""

    def __init__(self, gradient: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.field = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        with torch.no_grad():
            for p in self.field.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / 2)
        self.gradient = gradient

    def forward(self, y0: Tensor) -> Tensor:
        solution = odekit.solve(
            lambda t, y: self.field(y),
            y0,
            [0.0, 0.5, 1.0],
            solver=through(self.gradient),
            gradient=self.gradient,
            per_sample=True,
            rtol=1e-9,
            atol=1e-11,
        )
        return solution.y[-1]  # type: ignore[no-any-return]


def batch() -> Tensor:
    return torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def train(model: Any, y0: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(y0).square().sum(-1).mean().backward()
    return [p.grad.clone() for p in model.parameters()]


def work(rank: int, folder: str) -> None:
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {}
    for gradient in METHODS:
        model = DistributedDataParallel(Flow(gradient))
        found[gradient] = train(model, batch()[3 * rank : 3 * rank + 3])
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed")
def test_two_processes_get_the_gradient_of_one(tmp_path: Path) -> None:
    processes.spawn(work, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for gradient in METHODS:
        alone = train(Flow(gradient), batch())
        for a, b, want in zip(first[gradient], second[gradient], alone, strict=True):
            assert torch.equal(a, b)
            assert float((a - want).norm() / want.norm()) < 1e-10


@pytest.mark.parametrize("gradient", METHODS)
def test_nothing_is_left_behind_after_many_solves(gradient: str) -> None:
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(x), Tensor) for x in gc.get_objects())

    model, y0 = Flow(gradient), batch()
    for _ in range(3):
        train(model, y0)
    before = tensors()
    for _ in range(20):
        train(model, y0)
    assert tensors() <= before


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("gradient", METHODS[2:])
def test_the_way_back_has_the_precision_of_the_way_forward(gradient: str, *, mixed: bool) -> None:
    """Whether or not the backward pass runs under an autocast of its own."""
    model, y0 = Flow(gradient).field.float(), batch().float().requires_grad_()
    found = []
    for inside in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            y = odekit.solve(
                lambda t, y: model(y).float(),
                y0,
                [0.0, 1.0],
                solver=through(gradient),
                gradient=gradient,
                step_size=1 / 16,
            ).y
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            found.append(torch.autograd.grad(y[-1].sin().sum(), y0)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize("gradient", METHODS[1:])
def test_a_field_that_cannot_be_evaluated_again_is_refused(gradient: str) -> None:
    model = Flow(gradient)
    model.field.append(nn.Dropout(0.5))
    with pytest.raises(odekit.IncompatibleError, match=r"two slopes.*\.eval\(\)"):
        train(model, batch())
    model.eval()
    train(model, batch())


@pytest.mark.parametrize("gradient", METHODS[1:])
@pytest.mark.parametrize("per_sample", [False, True])
def test_weights_computed_before_the_solve(gradient: str, *, per_sample: bool) -> None:
    """Every call of the field then shares that part of the graph, which has to be kept."""
    raw = torch.tensor([[0.1, -0.7], [0.9, 0.2]], dtype=torch.float64, requires_grad=True)
    found = []
    for name in ("unrolled", gradient):
        Hidden.weight = torch.sinh(raw) @ raw
        y = odekit.solve(
            lambda t, y: torch.tanh(y) @ torch.cos(Hidden.weight),
            batch(),
            [0.0, 0.4, 1.0],
            solver=through(gradient),
            gradient=name,
            per_sample=per_sample,
            rtol=1e-9,
            atol=1e-11,
        ).y
        found.append(torch.autograd.grad(y.square().sum(), raw)[0])
    assert float((found[0] - found[1]).norm()) < 1e-7 * float(found[0].norm())


@pytest.mark.parametrize("gradient", METHODS)
def test_a_single_output_time_is_the_start(gradient: str) -> None:
    y0 = batch().requires_grad_()
    y = odekit.solve(lambda t, y: -y, y0, [0.0], solver=through(gradient), gradient=gradient).y
    found = torch.autograd.grad(y.square().sum(), y0)[0]
    assert torch.allclose(found, 2 * y0, rtol=1e-14, atol=0)


@pytest.mark.parametrize("gradient", METHODS)
def test_a_hook_on_a_parameter_is_called_once_with_the_whole_gradient(gradient: str) -> None:
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    seen = []
    rate.register_hook(lambda grad: seen.append(grad) or 0.1 * grad)
    y = odekit.solve(
        lambda t, y: -rate * y,
        torch.ones(2, dtype=torch.float64),
        [0.0, 1.0],
        solver=through(gradient),
        gradient=gradient,
    ).y
    y[-1].sum().backward()
    whole = -2 * torch.exp(-rate.detach())
    assert len(seen) == 1
    assert float(seen[0]) == pytest.approx(float(whole), rel=1e-4)
    assert float(rate.grad) == pytest.approx(0.1 * float(whole), rel=1e-4)


class Midpoint(Solver):
    """A method with a memory of every kind that a solver may have."""

    order = 2

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def init(self, field: Any, t: Tensor, y: Tensor) -> Any:
        return self.memory

    def step(self, field: Any, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
        slope = field(t, y)
        return Step(y + h * field(t + h / 2, y + h / 2 * slope), None, state, (slope, slope))


@pytest.mark.parametrize(
    "memory", [None, {"none": None, "three": 3}, torch.tensor([1, 2]), torch.tensor(True)], ids=str
)
@pytest.mark.parametrize("gradient", ["discrete", "checkpointed"])
def test_a_memory_may_hold_what_has_no_gradient(gradient: str, memory: Any) -> None:
    found = []
    for name in ("unrolled", gradient):
        y0 = batch().requires_grad_()
        y = odekit.solve(
            lambda t, y: torch.sin(y),
            y0,
            [0.0, 0.33, 1.0],
            solver=Midpoint(memory),
            step_size=0.05,
            gradient=name,
        ).y
        found.append(torch.autograd.grad(y.square().sum(), y0)[0])
    assert float((found[0] - found[1]).norm()) < 1e-13 * float(found[0].norm())


def change_buffer(model: Flow) -> None:
    model.field[0].weight.data.mul_(3)


def change_mode(model: Flow) -> None:
    model.train()


@pytest.mark.parametrize("change", [change_buffer, change_mode])
@pytest.mark.parametrize("gradient", METHODS[1:])
def test_a_field_that_changed_since_the_solve_is_noticed(gradient: str, change: Any) -> None:
    model = Flow(gradient)
    model.field.append(nn.Dropout(0.5))
    model.field[0].weight.requires_grad_(False)
    model.eval()
    loss = model(batch()).square().sum()
    change(model)
    with pytest.raises(RuntimeError, match="not what it was in the solve"):
        loss.backward()


def test_a_start_at_zero_is_no_reason_for_a_warning() -> None:
    y0 = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y = odekit.solve(
        lambda t, y: torch.cos(3 * t) - rate * y, y0, [0.0, 3.0], gradient="adjoint", atol=1e-12
    ).y
    y[-1].sum().backward()  # warnings are errors
    assert float(y0.grad[0]) == pytest.approx(math.exp(-3), rel=1e-4)


@pytest.mark.parametrize("gradient", METHODS)
def test_a_lane_whose_loss_is_not_a_number_spoils_no_other(gradient: str) -> None:
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    weights = torch.ones(6, 1, dtype=torch.float64)
    found = []
    for spoilt in (False, True):
        y0 = batch().requires_grad_()
        weights[2] = torch.nan if spoilt else 1.0
        y = odekit.solve(
            lambda t, y: -rate * y,
            y0,
            [0.0, 0.5, 1.0],
            solver=through(gradient),
            gradient=gradient,
            per_sample=True,
        ).y
        found.append(torch.autograd.grad((weights * y).sum(), (y0, rate)))
    (want, _), (seen, of_all) = found
    others = torch.arange(6) != 2
    near = 1e-5 if gradient == "adjoint" else 1e-12  # whose lanes share their backward steps
    assert torch.allclose(seen[others], want[others], rtol=near, atol=0)
    assert bool(seen[2].isnan().all())
    assert bool(of_all.isnan())
