"""Fixed steps: where they end, and what they give."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import odekit
from odekit import ProblemError

F64 = torch.float64


def decay(t, y):
    return -y


def stepped(t, *, per_sample=False, controller=None, y=1.0, solver="rk4", **options):
    start = torch.full((2, 1) if per_sample else (1,), y, dtype=F64)
    return odekit.solve(
        decay, start, t, solver=solver, controller=controller, per_sample=per_sample, **options
    )


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_steps_have_one_length_and_the_last_one_ends_on_the_end(sign, per_sample):
    end = sign * 1.0
    solution = stepped([0.0, end], step_size=0.3, save="steps", per_sample=per_sample)
    t = solution.t[0] if per_sample else solution.t
    torch.testing.assert_close(t, sign * torch.tensor([0.0, 0.3, 0.6, 0.9, 1.0], dtype=F64))
    assert t[-1].item() == end
    assert solution.reached.tolist() == [end] * len(solution.reached)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_step_longer_than_the_span_becomes_one_step(per_sample):
    solution = stepped([0.0, 0.5], step_size=7.0, per_sample=per_sample)
    x = -0.5
    want = 1 + x + x**2 / 2 + x**3 / 6 + x**4 / 24
    assert set(solution.stats.attempts.tolist()) == {1}
    assert solution.y[-1].flatten().tolist() == pytest.approx([want] * (1 + per_sample), rel=1e-15)


def test_a_length_that_divides_the_span_leaves_no_crumb():
    solution = stepped([0.0, 1.0], step_size=0.1)
    assert solution.stats.attempts.item() == 10


@pytest.mark.parametrize("times", [[0.0, 0.1, 0.5, 0.7, 2.0], [2.0, 1.9, 0.4, -1.0]])
def test_without_a_length_each_output_time_is_one_step(times):
    solution = stepped(times, solver="euler", controller="fixed")
    want = [1.0]
    for a, b in itertools.pairwise(times):
        want.append(want[-1] * (1 - (b - a)))
    assert solution.y[:, 0].tolist() == pytest.approx(want, rel=1e-15)
    assert solution.stats.attempts.item() == len(times) - 1


def test_without_a_length_each_sample_follows_its_own_times():
    times = torch.tensor([[0.0, 0.1, 0.7, 1.0], [0.0, 0.5, 0.6, 2.0]], dtype=F64)
    together = stepped(times, solver="euler", controller="fixed", per_sample=True)
    for lane in range(2):
        alone = stepped(times[lane], solver="euler", controller="fixed")
        torch.testing.assert_close(together.y[:, lane], alone.y, rtol=1e-15, atol=0)
    assert together.stats.attempts.tolist() == [3, 3]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_steps_end_on_the_times_asked_for_and_go_on_at_full_length(sign, per_sample):
    controller = odekit.create(
        "controller", "fixed", step_size=0.4, step_times=(sign * 0.5, 9.0, sign * 0.95)
    )
    end = sign * 1.5
    solution = stepped([0.0, end], controller=controller, save="steps", per_sample=per_sample)
    t = solution.t[0] if per_sample else solution.t
    want = sign * torch.tensor([0.0, 0.4, 0.5, 0.9, 0.95, 1.35, 1.5], dtype=F64)
    torch.testing.assert_close(t, want, rtol=1e-14, atol=0)
    assert {sign * 0.5, sign * 0.95, end} <= set(t.tolist())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_a_jump_between_two_constants_is_exact(solver, per_sample):
    def field(t, y):
        return torch.where(t.reshape(-1, 1) < 1, 1.0, -2.0).expand_as(y).to(y)

    controller = odekit.create("controller", "fixed", step_size=0.3, jump_times=(1.0,))
    y = torch.zeros(2, 1, dtype=F64)
    solution = odekit.solve(
        field, y, [0.0, 2.0], solver=solver, controller=controller, per_sample=per_sample
    )
    torch.testing.assert_close(solution.y[-1], torch.full_like(y, -1.0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("length", [0.0, -0.1, math.inf, math.nan])
def test_lengths_that_cannot_be_are_refused(length):
    with pytest.raises(ProblemError, match="step_size must be positive"):
        odekit.create("controller", "fixed", step_size=length)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_without_a_length_stops_are_steps_beside_the_output_times(per_sample, backwards):
    times = torch.tensor([0.0, 1.0, 1.1, 5.0], dtype=torch.float64)
    control = odekit.create("controller", "fixed", step_times=(0.5, 1.0, 7.0), jump_times=(2.0,))
    wanted = torch.tensor([0.0, 0.5, 1.0, 1.1, 2.0, 5.0], dtype=torch.float64)
    if backwards:
        times, wanted = times.flip(0), wanted.flip(0)
    y0 = torch.ones(2, 1, dtype=torch.float64)
    solution = odekit.solve(
        lambda t, y: -y,
        y0,
        times,
        solver="rk4",
        controller=control,
        save="steps",
        per_sample=per_sample,
    )
    for row in solution.t if per_sample else [solution.t]:
        torch.testing.assert_close(row, wanted, rtol=0, atol=1e-12)
