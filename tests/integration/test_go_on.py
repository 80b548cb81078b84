"""A solve can be watched, stopped and gone on with: what gradient methods are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import odekit
from odekit import Accepted, GradientMethod, Integrate, Problem, Trajectory

DOUBLE = torch.float64


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -torch.sin(y[..., 0]) + 0.1 * torch.cos(t)], -1)


class Watched(GradientMethod):
    """Keep what the engine says."""

    def __init__(self) -> None:
        self.seen: list[Accepted] = []

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        return integrate(replace(problem, observer=self.seen.append))


class InTwo(GradientMethod):
    """Solve to an accepted step in the middle, then go on from there."""

    def __init__(self, *, afresh: bool) -> None:
        self.afresh = afresh

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        seen: list[Accepted] = []
        whole = integrate(replace(problem, observer=seen.append))
        seen = [each for each in seen if each.lanes is None or bool(each.lanes.all())]
        knots = torch.stack([torch.as_tensor(each.t, dtype=DOUBLE) for each in seen], -1)
        half = len(seen) // 2
        middle = seen[half]
        steps = odekit.create("controller", "replay", times=knots[..., half:])
        t = torch.cat([knots[..., half : half + 1], problem.t[..., -1:]], -1)
        rest = integrate(
            replace(
                problem,
                y0=middle.y,
                t=t,
                memory=None if self.afresh else middle.memory,
                controller=steps,
            )
        )
        return replace(whole, y=torch.cat([whole.y[:1], rest.y[-1:]]), t=problem.t[..., [0, -1]])


@pytest.mark.parametrize("solver", ["tsit5", "dopri8", "rk4"])
def test_every_accepted_step_is_seen_once(solver: str) -> None:
    watch = Watched()
    y0 = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    step = 0.1 if solver == "rk4" else None
    got = odekit.solve(
        pendulum, y0, [0.0, 3.0], solver=solver, gradient=watch, save="steps", step_size=step
    )
    assert [each.t for each in watch.seen] == got.t[1:].tolist()
    assert torch.equal(torch.stack([each.y for each in watch.seen]), got.y[1:])


def test_lanes_say_who_took_the_step() -> None:
    watch = Watched()
    y0 = torch.tensor([[0.1, 0.0], [3.0, 0.0]], dtype=DOUBLE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return pendulum(t[:, None].expand_as(y)[..., 0], y)

    got = odekit.solve(field, y0, [0.0, 5.0], gradient=watch, per_sample=True, save="steps")
    taken = torch.stack([each.lanes for each in watch.seen if each.lanes is not None])
    assert taken.sum(0).tolist() == got.stats.accepted.tolist()
    for lane in range(2):
        times = [float(each.t[lane]) for each in watch.seen if bool(each.lanes[lane])]
        assert times == got.t[lane, 1 : len(times) + 1].tolist()


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("afresh", [False, True])
@pytest.mark.parametrize("solver", ["tsit5", "dopri8"])
def test_going_on_from_the_middle_ends_at_the_same_numbers(
    solver: str, *, afresh: bool, per_sample: bool
) -> None:
    y0 = torch.tensor([[1.0, 0.0]], dtype=DOUBLE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return pendulum(t.reshape(-1) if per_sample else t, y)

    options: dict[str, Any] = {"solver": solver, "per_sample": per_sample, "rtol": 1e-9}
    want = odekit.solve(field, y0, [0.0, 4.0], **options).y[-1]
    got = odekit.solve(field, y0, [0.0, 4.0], gradient=InTwo(afresh=afresh), **options).y[-1]
    assert float((got - want).abs().max()) < 1e-13


def test_the_observer_sees_jumps() -> None:
    watch = Watched()
    control = odekit.create("controller", "integral", jump_times=(1.0,))

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 1.0, 1.0, -1.0) * torch.ones_like(y)

    odekit.solve(
        field, torch.zeros(1, dtype=DOUBLE), [0.0, 2.0], controller=control, gradient=watch
    )
    assert [each.t for each in watch.seen if each.jump] == [1.0]


@pytest.mark.parametrize("solver", ["tsit5", "dopri8"])
def test_lanes_whose_only_row_is_the_end(solver: str) -> None:
    y0 = torch.tensor([1.0, 0.0], dtype=DOUBLE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)

    alone = odekit.solve(field, y0, [0.0, 4.0], solver=solver, rtol=1e-9).y[-1]
    lane = odekit.solve(field, y0[None], [0.0, 4.0], solver=solver, rtol=1e-9, per_sample=True)
    assert float((lane.y[-1, 0] - alone).abs().max()) < 1e-13
