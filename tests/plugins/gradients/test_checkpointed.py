"""What is special about checkpointing, beyond the promises that every gradient keeps."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import Accepted, IncompatibleError, ProblemError, SolveError
from odekit_gradients.checkpointed import read_bytes
from odekit_gradients.checkpoints import Recorder, cost, split

DOUBLE = torch.float64
EXACT = 1e-12


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=DOUBLE))
    return net


def checkpointed(**options: Any) -> Any:
    return odekit.create("gradient", "checkpointed", **options)


class Case:
    """A loss on all rows, with gradients of start, times and parameters."""

    def __init__(self, *, end: float = 3.0, **options: Any) -> None:
        self.options, self.net, self.end = options, network(), end
        self.y0 = torch.tensor([[0.5, -0.3], [1.2, 0.4], [-0.8, 0.9]], dtype=DOUBLE)
        self.calls = 0

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.net(y) * torch.cos(t.reshape(-1, 1) if t.dim() else t)

    def gradients(self, gradient: Any, *, times: bool = True) -> list[Tensor]:
        y0 = self.y0.clone().requires_grad_()
        t = torch.linspace(0, self.end, 7, dtype=DOUBLE).requires_grad_(times)
        y = odekit.solve(self.field, y0, t, gradient=gradient, **self.options).y
        inputs = [y0, *self.net.parameters(), *([t] if times else [])]
        return list(torch.autograd.grad(y.square().cos().sum(), inputs))


def close(found: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(found, want, strict=True):
        assert float((a - b).norm()) <= EXACT * float(b.norm())


SOLVES: dict[str, dict[str, Any]] = {
    "adaptive": {},
    "lanes": {"per_sample": True},
    "fixed": {"solver": "rk4", "step_size": 0.01},
    "completed": {"solver": "dopri8", "rtol": 1e-10},
    "completed lanes": {"solver": "dopri8", "per_sample": True},
    "doubled": {"solver": "rk4", "rtol": 1e-5},
    "with a memory": {"solver": "reversible_heun", "step_size": 0.01},
}
ROOMS: dict[str, dict[str, Any]] = {
    "square root": {},
    "one": {"checkpoints": 1},
    "three": {"checkpoints": 3},
    "budget": {"memory_budget": "400kB"},
}


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("solve", SOLVES)
def test_the_numbers_are_those_of_unrolled(solve: str, room: str, *, times: bool) -> None:
    case = Case(**SOLVES[solve])
    found = case.gradients(checkpointed(**ROOMS[room]), times=times)
    close(found, case.gradients("unrolled", times=times))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("checkpoints", [None, 1, 50])
def test_jumps(checkpoints: int | None, *, times: bool, per_sample: bool) -> None:
    control = odekit.create("controller", "integral", jump_times=(0.9, 1.5, 2.0))
    case = Case(controller=control, per_sample=per_sample, rtol=1e-9)
    smooth = case.field

    def kicked(t: Tensor, y: Tensor) -> Tensor:
        push = torch.where((t > 0.9) & (t < 1.5), 2.0, -0.5)
        return smooth(t, y) + (push.reshape(-1, 1) if push.dim() else push)

    case.field = kicked  # type: ignore[method-assign]
    found = case.gradients(checkpointed(checkpoints=checkpoints), times=times)
    close(found, case.gradients("unrolled", times=times))


@pytest.mark.parametrize("per_sample", [False, True])
def test_rows_at_every_step(*, per_sample: bool) -> None:
    case = Case(per_sample=per_sample, save="steps", rtol=1e-9)
    close(
        case.gradients(checkpointed(checkpoints=2), times=False),
        case.gradients("unrolled", times=False),
    )


@pytest.mark.parametrize("step_size", [0.125, 0.2])
def test_rows_at_the_ends_of_steps_and_between_them_backwards_in_time(step_size: float) -> None:
    """An eighth divides the half between rows; a fifth does not."""
    case = Case(end=-3.0, solver="rk4", step_size=step_size)
    close(
        case.gradients(checkpointed(checkpoints=2), times=False),
        case.gradients("unrolled", times=False),
    )


def test_second_derivatives() -> None:
    def product(gradient: Any) -> Tensor:
        case = Case()
        y0 = case.y0.clone().requires_grad_()
        weights = list(case.net.parameters())
        y = odekit.solve(case.field, y0, [0.0, 1.0, 2.0], gradient=gradient).y
        first = torch.autograd.grad(y.square().cos().sum(), [y0, *weights], create_graph=True)
        along = sum(((i + 1.0) * g.sum() for i, g in enumerate(first)), torch.zeros(()))
        found = torch.autograd.grad(along, [y0, *weights])
        return torch.cat([x.reshape(-1) for x in found])

    want = product("unrolled")
    assert float((product(checkpointed()) - want).norm() / want.norm()) < EXACT


def test_parameters_computed_from_one_another_are_counted_once() -> None:
    def gradient(name: str) -> list[Tensor]:
        w = torch.tensor(0.4, dtype=DOUBLE, requires_grad=True)
        code = (2 * w).sin()
        y0 = torch.stack([w, code])
        y = odekit.solve(lambda t, y: -w * y + code, y0, [0.0, 1.0], gradient=name).y
        return list(torch.autograd.grad(y[-1].square().sum(), [w]))

    close(gradient("checkpointed"), gradient("unrolled"))


@pytest.mark.parametrize("checkpoints", [1, 2, 5, 20])
def test_no_more_states_than_asked_for_and_no_more_work_than_promised(checkpoints: int) -> None:
    """Evaluations of the best reversal, counted, against the closed form of its cost."""
    steps = 60
    case = Case(solver="euler", step_size=3 / steps)
    method = checkpointed(checkpoints=checkpoints)
    case.gradients(method)
    rows = steps // 6
    assert rows == 10
    # Each step forward once and on the graph once; the rest is what the stretches cost.
    every = 1
    while steps // every > checkpoints:
        every *= 2
    most = sum(
        cost(min(every, steps - first), max(checkpoints - first // every, 0))
        if checkpoints - first // every > 0
        else every * (every - 1) // 2
        for first in range(0, steps, every)
    )
    begins = steps + 2 * most + 10  # every stretch starts with one evaluation of its own
    assert case.calls <= 2 * steps + most + begins


def test_the_best_splits_cost_what_exhaustive_search_finds() -> None:
    @functools.cache
    def best(blocks: int, slots: int) -> int:
        if blocks == 1:
            return 0
        if slots == 0:
            return blocks * (blocks - 1) // 2
        return min(m + best(blocks - m, slots - 1) + best(m, slots) for m in range(1, blocks))

    @functools.cache
    def ours(blocks: int, slots: int) -> int:
        if blocks == 1 or slots == 0:
            return best(blocks, slots)
        m = split(blocks, slots)
        return m + ours(blocks - m, slots - 1) + ours(m, slots)

    for slots in range(6):
        for blocks in range(1, 60):
            assert ours(blocks, slots) == best(blocks, slots) == cost(blocks, slots)


def saved_bytes(gradient: Any, steps: int) -> int:
    """Bytes that autograd holds between forward and backward, parameters aside."""
    case = Case(solver="rk4", step_size=3 / steps)
    own = {p.untyped_storage().data_ptr() for p in case.net.parameters()}
    held: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return x

    y0 = case.y0.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        odekit.solve(case.field, y0, [0.0, 3.0], gradient=gradient, **case.options)
    return sum(held.values())


def test_memory_grows_with_the_root_of_the_steps() -> None:
    few, many = (saved_bytes(checkpointed(), steps) for steps in (100, 6400))
    assert many <= 64**0.6 * few
    assert saved_bytes("unrolled", 1600) > 20 * many


@pytest.mark.parametrize("size", [4, 100_000])
def test_only_small_states_are_allocated_ahead(size: int) -> None:
    start = torch.zeros(size, dtype=DOUBLE)
    recorder = Recorder(start, torch.tensor(0.0), lambda stored, _: stored > 2, with_memory=False)
    for i in range(1, 21):
        recorder(Accepted(float(i), start + i, None, jump=False))
    taken = sum(part.numel() for block in recorder.blocks for part in block)
    assert taken <= max(3 * size, 10_000)
    assert (len(recorder.blocks) == 1) == (size == 4)
    assert [float(recorder.stored(i)[0][0]) for i in range(recorder.count)] == [8, 16]


def test_stretches_with_a_large_graph_are_taken_in_thirds() -> None:
    steps = 300
    case = Case(solver="rk4", step_size=3 / steps)
    case.y0 = case.y0.repeat(500, 1)
    want = case.gradients("unrolled", times=False)
    case.calls = 0
    found = case.gradients(checkpointed(), times=False)
    close(found, want)
    # One solve forward, one on graphs, two thirds of one between them; 4 evaluations a step.
    assert 2.5 * 4 * steps < case.calls < 2.9 * 4 * steps


@pytest.mark.parametrize("bad", ["200", "much", "-3MB", 0, "", "1.2.3MB", "5TB"])
def test_budgets_that_cannot_be_read(bad: Any) -> None:
    if bad == "200":
        assert read_bytes(bad) == 200
        return
    with pytest.raises(ProblemError, match="memory_budget must be"):
        read_bytes(bad)


def test_budgets() -> None:
    assert read_bytes("1.5 MB") == read_bytes(1_500_000) == read_bytes("1500k")
    with pytest.raises(ProblemError, match="not both"):
        checkpointed(checkpoints=3, memory_budget=100)
    with pytest.raises(ProblemError, match="at least 1"):
        checkpointed(checkpoints=0)
    with pytest.raises(ProblemError, match="the graph of one step"):
        Case(solver="rk4", step_size=0.01).gradients(checkpointed(memory_budget=100))


def test_dense_output_is_refused_at_once() -> None:
    case = Case(dense=True)
    with pytest.raises(IncompatibleError, match="solution\\(t\\) would carry no gradient"):
        case.gradients(checkpointed())


def test_a_solve_that_fails_keeps_what_it_reached() -> None:
    rate = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)

    def gradient(name: str) -> Tensor:
        y = odekit.solve(
            lambda t, y: rate * y * y,
            torch.ones(1, dtype=DOUBLE),
            [0.0, 0.5, 0.9, 1.5],
            gradient=name,
            throw=False,
        ).y
        return torch.autograd.grad(y[:3].sum(), rate)[0]

    close([gradient("checkpointed")], [gradient("unrolled")])
    with pytest.raises(SolveError):
        odekit.solve(
            lambda t, y: rate * y * y,
            torch.ones(1, dtype=DOUBLE),
            [0.0, 1.5],
            gradient="checkpointed",
        )
