"""Replay: the same steps give the same numbers, bit by bit."""

from __future__ import annotations

import pytest
import torch

import odekit
from odekit import ProblemError

F64 = torch.float64
STARTS = torch.tensor([[1.7, 0.6], [0.3, 2.0], [4.0, 0.1]], dtype=F64)


def field(t, y):
    hare, lynx = y.unbind(-1)
    return torch.stack([hare * (1 + 0.3 * torch.sin(3 * t) - lynx), lynx * (hare - 1.2)], -1)


def replay_of(solution):
    return odekit.create("controller", "replay", times=solution.t)


@pytest.mark.parametrize("controller", ["integral", "pi", "pid"])
@pytest.mark.parametrize("span", [(0.0, 5.0), (0.3, -1.7)])
@pytest.mark.parametrize("solver", ["bosh3", "dopri5", "tsit5", "dopri8"])
def test_steps_repeat_to_the_last_bit(solver, span, controller):
    first = odekit.solve(field, STARTS[0], span, solver=solver, controller=controller, save="steps")
    again = odekit.solve(
        field, STARTS[0], span, solver=solver, controller=replay_of(first), save="steps"
    )
    assert torch.equal(again.t, first.t)
    assert torch.equal(again.y, first.y)
    assert again.stats.rejected.item() == 0


@pytest.mark.parametrize("span", [(0.0, 5.0), (0.3, -1.7)])
def test_every_sample_repeats_its_own_steps(span):
    first = odekit.solve(field, STARTS, span, save="steps", per_sample=True)
    again = odekit.solve(
        field, STARTS, span, save="steps", per_sample=True, controller=replay_of(first)
    )
    assert len(set(first.stats.accepted.tolist())) > 1
    assert torch.equal(again.stats.accepted, first.stats.accepted)
    assert torch.equal(again.t, first.t)
    assert torch.equal(again.y, first.y)


def test_another_method_can_follow_the_same_steps():
    first = odekit.solve(field, STARTS[0], [0.0, 5.0], save="steps", solver="tsit5")
    other = odekit.solve(
        field, STARTS[0], [0.0, 5.0], save="steps", solver="rk4", controller=replay_of(first)
    )
    assert torch.equal(other.t, first.t)
    assert 1e-8 < (other.y - first.y).abs().max() < 1e-2


def test_rows_between_the_steps_are_the_same_too():
    t = torch.linspace(0, 5, 23, dtype=F64)
    first = odekit.solve(field, STARTS[0], [0.0, 5.0], save="steps")
    rows = odekit.solve(field, STARTS[0], t)
    again = odekit.solve(field, STARTS[0], t, controller=replay_of(first))
    assert torch.equal(again.y, rows.y)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0], r"S >= 1, got \(1,\)"),
        ([0.0, 1.0, 0.5], "monotone"),
        ([[[0.0, 1.0]]], r"got \(1, 1, 2\)"),
    ],
)
def test_times_that_are_no_steps_are_refused(times, message):
    with pytest.raises(ProblemError, match=message):
        odekit.create("controller", "replay", times=times)


def test_steps_for_another_span_or_another_batch_are_refused():
    steps = odekit.create("controller", "replay", times=[0.0, 1.0, 2.0])
    with pytest.raises(ProblemError, match="replay covers 0 to 2, but t runs from 0 to 3"):
        odekit.solve(field, STARTS[0], [0.0, 3.0], controller=steps)
    with pytest.raises(ProblemError, match="does not fit 3 lanes"):
        odekit.solve(field, STARTS, [0.0, 2.0], controller=steps, per_sample=True)
