"""The two drivers with a stub solver and a scripted controller: the loop, nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from odekit import Decision, Segment, Solver, Step, StepController, Trait, solve
from odekit.errors import SolveError, Status
from odekit.live_bytes import LiveBytes

F64 = torch.float64


class Drift(Solver):
    """Euler without memory, which remembers nothing and offers linear dense output."""

    order = 1
    traits = Trait.ERROR_ESTIMATE

    def step(self, field: Any, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
        k = field(t, y)
        return Step(y + h * k, torch.zeros_like(y), state, (k,))

    def interpolate(self, segment: Segment, t: Tensor) -> Tensor:
        x = ((t - segment.t) / segment.h).to(segment.y0.dtype)
        return segment.y0 + x * (segment.y1 - segment.y0)


class Script(StepController):
    """Accept or reject as written, with the step sizes as written."""

    def __init__(self, accepts: list[bool], h: float, after: float | None = None, **options: Any):
        self.accepts, self.h, self.after = accepts, h, after or h
        self.step_times = options.get("step_times", ())
        self.jump_times = options.get("jump_times", ())

    def init(self, solver: Any, field: Any, t: Tensor, y: Tensor, span: Tensor) -> Any:
        if t.dim() == 0:
            return self.h, 0
        lanes = len(t)
        return torch.full((lanes,), self.h, dtype=F64), torch.zeros(lanes, dtype=torch.int64)

    def decide(self, solver: Any, h: Any, y0: Any, y1: Any, error: Any, state: Any) -> Decision:
        script = torch.tensor(self.accepts)
        accept = script[torch.as_tensor(state).clamp(max=len(script) - 1)]
        if isinstance(h, Tensor):
            return Decision(accept, torch.full_like(h, self.after), state + 1)
        return Decision(bool(accept), self.after, state + 1)


def one(t: Tensor, y: Tensor) -> Tensor:
    return torch.ones_like(y)


START = [(torch.zeros(1, dtype=F64), False), (torch.zeros(3, 1, dtype=F64), True)]


@pytest.mark.parametrize(("y0", "per_sample"), START)
def test_rejections_are_counted_and_cost_no_progress(y0: Tensor, per_sample: bool) -> None:
    script = Script([False, True, False, False, True], h=0.25)
    solution = solve(one, y0, [0.0, 1.0], solver=Drift(), controller=script, per_sample=per_sample)
    assert solution.stats.attempts.tolist() == [7] * len(solution.status)
    assert solution.stats.accepted.tolist() == [4] * len(solution.status)
    assert solution.stats.rejected.tolist() == [3] * len(solution.status)
    assert solution.stats.evaluations.tolist() == [7] * len(solution.status)
    torch.testing.assert_close(solution.y[-1], y0 + 1)


@pytest.mark.parametrize(("y0", "per_sample"), START)
def test_outputs_do_not_cut_steps(y0: Tensor, per_sample: bool) -> None:
    times = torch.linspace(0, 1, 101, dtype=F64)
    solution = solve(
        one, y0, times, solver=Drift(), controller=Script([True], h=0.5), per_sample=per_sample
    )
    assert solution.stats.accepted.tolist() == [2] * len(solution.status)
    torch.testing.assert_close(solution.y.reshape(101, -1)[:, 0], times)


@pytest.mark.parametrize(("y0", "per_sample"), START)
def test_the_last_step_is_cut_and_the_field_is_not_seen_beyond(
    y0: Tensor, per_sample: bool
) -> None:
    seen: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(float(t.max()))
        return torch.ones_like(y)

    solution = solve(
        field,
        y0,
        [0.0, 1.0],
        solver=Drift(),
        controller=Script([True], h=0.3),
        per_sample=per_sample,
        save="steps",
    )
    ends = solution.t if not per_sample else solution.t[0]
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.3, 0.6, 0.9, 1.0], dtype=F64))
    assert ends[-1] == 1.0
    assert max(seen) <= 1.0


@pytest.mark.parametrize(("y0", "per_sample"), START)
def test_a_remainder_of_rounding_is_no_step(y0: Tensor, per_sample: bool) -> None:
    solution = solve(one, y0, [0.0, 1.0], solver=Drift(), step_size=0.1, per_sample=per_sample)
    assert solution.stats.accepted.tolist() == [10] * len(solution.status)


@pytest.mark.parametrize(("y0", "per_sample"), START)
def test_a_cut_step_does_not_shorten_the_next(y0: Tensor, per_sample: bool) -> None:
    script = Script([True], h=0.4, after=0.4, step_times=(0.5,))
    solution = solve(
        one,
        y0,
        [0.0, 1.0],
        solver=Drift(),
        controller=script,
        per_sample=per_sample,
        save="steps",
    )
    ends = solution.t if not per_sample else solution.t[0]
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.4, 0.5, 0.9, 1.0], dtype=F64))


@pytest.mark.parametrize(("y0", "per_sample"), START)
def test_attempts_are_limited(y0: Tensor, per_sample: bool) -> None:
    options = {"solver": Drift(), "controller": Script([True], h=0.1), "per_sample": per_sample}
    with pytest.raises(SolveError, match=r"max_steps reached at t = 0\.4.*raise max_steps") as info:
        solve(one, y0, [0.0, 1.0], max_steps=4, **options)
    assert info.value.status is Status.MAX_STEPS
    solution = solve(one, y0, [0.0, 0.35, 1.0], max_steps=4, throw=False, **options)
    assert solution.status.tolist() == [Status.MAX_STEPS] * len(solution.status)
    assert solution.y[1].flatten()[0] == pytest.approx(0.35)
    assert bool(solution.y[2].isnan().all())


@pytest.mark.parametrize(("y0", "per_sample"), START)
def test_endless_rejection_ends(y0: Tensor, per_sample: bool) -> None:
    class Shrink(Script):
        def decide(self, solver: Any, h: Any, y0: Any, y1: Any, error: Any, state: Any) -> Decision:
            return Decision(h != h, h * 0.1, state)

    with pytest.raises(SolveError, match="step too small at t = 0"):
        solve(
            one,
            y0,
            [0.0, 1.0],
            solver=Drift(),
            controller=Shrink([], h=0.1),
            per_sample=per_sample,
        )


@pytest.mark.parametrize(("y0", "per_sample"), START)
def test_memory_starts_afresh_after_a_jump_only(y0: Tensor, per_sample: bool) -> None:
    class Memory(Drift):
        def init(self, field: Any, t: Tensor, y: Tensor) -> Any:
            return torch.zeros_like(y)

        def step(self, field: Any, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
            k = field(t, y) * 0 + state  # the slope is the number of steps since the start
            return Step(y + h * k, torch.zeros_like(y), state + 1, (k,))

    plain = Script([True], h=0.25, step_times=(0.5,))
    jump = Script([True], h=0.25, jump_times=(0.5,))
    ends = [
        solve(one, y0, [0.0, 1.0], solver=Memory(), controller=c, per_sample=per_sample).y[-1]
        for c in (plain, jump)
    ]
    torch.testing.assert_close(ends[0], torch.full_like(y0, 0.25 * (0 + 1 + 2 + 3)))
    torch.testing.assert_close(ends[1], torch.full_like(y0, 0.25 * (0 + 1 + 0 + 1)))


def test_completion_is_asked_for_only_where_somebody_looks() -> None:
    calls: list[int] = []

    class Costly(Drift):
        def complete(self, field: Any, t: Any, h: Any, y: Tensor, step: Step) -> Any:
            calls.append(1)
            field(t, y)
            return (*step.dense, torch.zeros_like(y))

    for per_sample, y0 in (
        (False, torch.zeros(1, dtype=F64)),
        (True, torch.zeros(2, 1, dtype=F64)),
    ):
        options = {"solver": Costly(), "step_size": 0.1, "per_sample": per_sample}
        calls.clear()
        assert solve(one, y0, [0.0, 1.0], **options).stats.evaluations[0] == 10
        assert not calls
        solution = solve(one, y0, [0.0, 0.55, 1.0], **options)
        assert len(calls) == 1
        assert solution.stats.evaluations[0] == 11
        assert solution.y[1].flatten()[0] == pytest.approx(0.55)


def test_long_solves_flush_in_order() -> None:
    times = torch.linspace(0, 1, 997, dtype=F64)
    y0 = torch.zeros(2, 1, dtype=F64)
    lanes = torch.stack([times, times * 2 + 1])
    a = solve(one, y0, lanes, solver=Drift(), step_size=0.0011, per_sample=True)
    torch.testing.assert_close(a.y[:, :, 0], (lanes - lanes[:, :1]).T, rtol=0, atol=1e-12)
    b = solve(one, y0[0], times, solver=Drift(), step_size=0.0011)
    torch.testing.assert_close(b.y[:, 0], times, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [64, 4096])
def test_a_solve_with_a_step_size_per_lane_holds_no_step_without_rows(dim: int) -> None:
    y0 = torch.ones(16, dim, dtype=F64)
    for options in ({"step_size": 0.005}, {"rtol": 1e-11, "atol": 1e-13}):
        with torch.no_grad(), LiveBytes() as memory:
            solve(lambda t, y: -y, y0, [0.0, 1.0], solver="rk4", per_sample=True, **options)
        assert memory.peak < 40 * y0.nbytes


@pytest.mark.parametrize("per_sample", [False, True])
def test_few_steps_of_a_large_state_wait_for_their_rows(per_sample: bool) -> None:
    y0 = torch.ones(16, 4096, dtype=F64)
    times = torch.linspace(0, 1, 161, dtype=F64)[[0, *range(1, 160, 2), 160]]
    with torch.no_grad(), LiveBytes() as memory:
        options = {"solver": "rk4", "step_size": 1 / 80, "per_sample": per_sample}
        solution = solve(lambda t, y: -y, y0, times, **options)
    # The rows themselves, waiting, joined and in their place, and little beside them.
    assert memory.peak < (3 * len(times) + 60) * y0.nbytes
    expected = torch.exp(-times)[:, None, None].expand_as(solution.y)
    torch.testing.assert_close(solution.y, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("per_sample", [False, True])
def test_many_rows_inside_one_step_of_a_large_state(per_sample: bool) -> None:
    y0 = torch.ones(4, 8192, dtype=F64)
    times = torch.linspace(0, 1, 200, dtype=F64)
    with torch.no_grad(), LiveBytes() as memory:
        options = {"solver": "tsit5", "step_size": 0.5, "per_sample": per_sample}
        solution = solve(lambda t, y: -y, y0, times, **options)
    assert memory.peak < (3 * len(times) + 100) * y0.nbytes
    expected = torch.exp(-times)[:, None, None].expand_as(solution.y)
    torch.testing.assert_close(solution.y, expected, rtol=1e-4, atol=0)


def test_rows_do_not_depend_on_how_many_steps_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    times = torch.stack([torch.linspace(i, 2 * i + 1, 41, dtype=F64) for i in range(5)])
    weight = torch.tensor(0.7, dtype=F64, requires_grad=True)
    results = []
    for limit in (1 << 22, 1):
        monkeypatch.setattr("odekit._engine.lane_rows.BYTES", limit)
        t = times.clone().requires_grad_()
        y0 = torch.linspace(-1, 1, 10, dtype=F64).reshape(5, 2).requires_grad_()
        for t_or_not in (t, times):
            y = solve(lambda t, y: torch.sin(y * weight), y0, t_or_not, per_sample=True).y
            wanted = [x for x in (y0, weight, t_or_not) if x.requires_grad]
            results.append([y, *torch.autograd.grad(y.square().sum(), wanted)])
    for one_go, apart in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(one_go, apart, rtol=1e-13, atol=1e-14)
