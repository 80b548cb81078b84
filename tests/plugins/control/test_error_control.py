"""Error control: factors by hand, limits, jumps, SciPy's first step, and lanes that are alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import DOP853, RK23, RK45

import odekit
from odekit import ProblemError

F64 = torch.float64
GAINS = {"integral": (0.0, 1.0, 0.0), "pi": (0.4, 0.3, 0.0), "pid": (0.2, 0.5, 0.1)}


def controlled(name, **options):
    if name == "pid":
        gains = dict(zip(("proportional", "integral", "derivative"), GAINS["pid"], strict=True))
        options = {**gains, **options}
    return odekit.create("controller", name, **options)


def judged(controller, errors, h=0.1, *, lanes=False):
    """The decisions about attempts whose error norms are ``errors``, one after the other."""
    solver = odekit.create("solver", "dopri5")
    y = torch.zeros(2, 1, dtype=F64) if lanes else torch.zeros(1, dtype=F64)
    t = torch.zeros(2, 1, dtype=F64) if lanes else torch.zeros((), dtype=F64)
    span = torch.tensor([0.0, math.copysign(100.0, h)], dtype=F64)
    span = span.expand(2, 2) if lanes else span
    bound = controller.with_tolerances(0.0, 1.0)
    _, state = bound.init(solver, lambda t, y: y + 1, t, y, span)
    h = torch.full((2,), h, dtype=F64) if lanes else h
    for q in errors:
        decision = bound.decide(solver, h, y, y, torch.full_like(y, q), state)
        yield decision
        h, state = decision.h, decision.state


def expected(gains, history, order=5, safety=0.9, limits=(0.2, 10.0)):
    """Soederlind's rule on the current norm and the two accepted before it."""
    q0, q1, q2 = history
    p, i, d = gains
    factor = safety * q0 ** (-(p + i + d) / order) * q1 ** ((p + 2 * d) / order)
    factor *= q2 ** (-d / order)
    factor = min(factor, safety * q0 ** (-1 / order)) if q0 > 1 else max(factor, 1.0)
    return min(max(factor, limits[0]), limits[1])


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("h", [0.1, -0.1])
@pytest.mark.parametrize("name", GAINS)
def test_factors_are_those_of_the_rule(name, h, lanes):
    errors = [0.3, 0.02, 1.8, 0.7, 1e-4, 40.0, 3.0, 0.05, 0.9]
    history = [1.0, 1.0]
    length = h
    for q, decision in zip(errors, judged(controlled(name), errors, h, lanes=lanes), strict=True):
        length *= expected(GAINS[name], (q, *history))
        for value in decision.h.tolist() if lanes else [decision.h]:
            assert value == pytest.approx(length, rel=1e-13)
        accepted = q <= 1
        assert (decision.accept.tolist() if lanes else [decision.accept] * 2) == [accepted] * 2
        if accepted:
            history = [q, history[0]]


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("name", GAINS)
@pytest.mark.parametrize("q", [math.nan, math.inf])
def test_attempts_without_a_finite_error_shrink_as_far_as_allowed(name, q, lanes):
    (decision,) = judged(controlled(name, factor_min=0.125), [q], lanes=lanes)
    got = decision.h.tolist() if lanes else [decision.h]
    assert got == [0.1 * 0.125] * len(got)
    assert not (decision.accept.any() if lanes else decision.accept)


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("name", GAINS)
def test_factors_stay_inside_their_limits(name, lanes):
    options = {"factor_min": 0.5, "factor_max": 1.5}
    first, second = judged(controlled(name, **options), [0.0, 1e12], lanes=lanes)
    lengths = [float(d.h[0]) if lanes else d.h for d in (first, second)]
    assert lengths == pytest.approx([0.15, 0.075], rel=1e-14)


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("name", GAINS)
def test_a_rejected_step_always_gets_shorter(name, lanes):
    # A tiny norm two steps ago makes the derivative term ask for more, whatever the error now.
    lengths = [0.1]
    for decision in judged(controlled(name), [1e-10, 1.0, 1.0001, 1.00001], lanes=lanes):
        lengths.append(float(decision.h[0]) if lanes else decision.h)
    assert lengths[4] < lengths[3] < lengths[2]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ["pi", "pid"])
def test_a_relaxation_oscillator_is_not_rejected_for_ever(name, per_sample):
    def field(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, 5 * (1 - x * x) * v - x], -1)

    y = torch.tensor([[2.0, 0.0]], dtype=F64)
    controller = odekit.create("controller", name)
    solution = odekit.solve(field, y, [0.0, 30.0], controller=controller, per_sample=per_sample)
    assert solution.stats.rejected.item() < solution.stats.accepted.item() / 3


# What whole solves do with these decisions.


def seasons(t, y):
    hare, lynx = y.unbind(-1)
    return torch.stack([hare * (1 + 0.3 * torch.sin(3 * t) - lynx), lynx * (hare - 1.2)], -1)


STARTS = torch.tensor([[1.7, 0.6], [0.3, 2.0], [1.2, 1.0], [4.0, 0.1]], dtype=F64)


def lengths_of(**options):
    controller = controlled(options.pop("name", "integral"), **options)
    solution = odekit.solve(seasons, STARTS[0], [0.0, 8.0], controller=controller, save="steps")
    return solution.t.diff()


@pytest.mark.parametrize("name", GAINS)
def test_steps_never_get_longer_than_max_step(name):
    free, held = lengths_of(name=name), lengths_of(name=name, max_step=0.125)
    assert free.max() > 0.2
    assert held.max() <= 0.125 * (1 + 1e-12)
    assert (held > 0.1249).sum() > len(held) / 2


@pytest.mark.parametrize("name", GAINS)
def test_steps_never_get_shorter_than_min_step(name):
    held = lengths_of(name=name, min_step=0.4)
    assert held[:-1].min() >= 0.4 * (1 - 1e-12)  # the last one is cut to end on the end
    solution = odekit.solve(
        seasons, STARTS[0], [0.0, 8.0], controller=controlled(name, min_step=0.4, max_step=0.4)
    )
    assert (solution.stats.accepted.item(), solution.stats.rejected.item()) == (20, 0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_step_that_would_leave_little_goes_all_the_way(per_sample, compiled):
    """No two steps where one is expected to do; the steps before do not know of the end."""

    def ends(end, **options):
        with torch.no_grad():
            found = odekit.solve(
                *(lambda t, y: -y, STARTS[:1], [0.0, end]),  # steps grow, and none is rejected
                controller=controlled("integral", **options),
                per_sample=per_sample,
                save="steps",
                compile=compiled,
            )
        return found.t.flatten().tolist()

    free = ends(5.0)
    for i in (2, 6):
        length = free[i + 1] - free[i]
        near, far = free[i + 1] + 0.08 * length, free[i + 1] + 0.2 * length
        assert ends(near) == pytest.approx([*free[: i + 1], near], rel=1e-9)
        assert ends(far) == pytest.approx([*free[: i + 2], far], rel=1e-9)
        # What nobody exceeds is not stretched either.
        assert ends(near, max_step=100.0) == pytest.approx([*free[: i + 2], near], rel=1e-9)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", GAINS)
def test_the_first_step_is_the_one_asked_for(name, sign, per_sample):
    solution = odekit.solve(
        seasons if not per_sample else lambda t, y: -y,
        STARTS[:1] if per_sample else STARTS[0],
        [1.0, 1.0 + sign * 2.0],
        controller=controlled(name, first_step=0.003),
        save="steps",
        per_sample=per_sample,
    )
    first = solution.t.flatten()[1].item() - 1.0
    assert first == pytest.approx(sign * 0.003, rel=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("solver", "peer"), [("bosh3", RK23), ("dopri5", RK45), ("dopri8", DOP853)]
)
def test_the_first_step_is_estimated_like_scipy_does(solver, peer, sign):
    rtol, atol = 1e-5, 1e-7
    other = peer(
        lambda t, y: seasons(torch.tensor(t, dtype=F64), torch.as_tensor(y)).numpy(),
        0.2, STARTS[0].numpy(), 0.2 + sign * 10.0, rtol=rtol, atol=atol,
    )  # fmt: skip
    controller = controlled("integral").with_tolerances(rtol, atol)
    t, span = torch.tensor(0.2, dtype=F64), torch.tensor([0.2, 0.2 + sign * 10.0], dtype=F64)
    method = odekit.create("solver", solver)
    h, _ = controller.init(method, seasons, t, STARTS[0], span)
    assert h == pytest.approx(sign * other.h_abs, rel=1e-13)
    lanes, _ = controller.init(
        method, lambda t, y: seasons(t[:, 0], y), t.expand(1, 1), STARTS[:1], span[None]
    )
    assert lanes.tolist() == pytest.approx([h], rel=1e-13)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", GAINS)
def test_steps_end_on_the_times_asked_for(name, sign, per_sample):
    wanted = (sign * 0.7, sign * 1.1, sign * 1.1000001, -sign * 3.0, sign * 50.0)
    solution = odekit.solve(
        seasons_by_lane if per_sample else seasons,
        STARTS,
        [0.0, sign * 2.0],
        controller=controlled(name, step_times=wanted),
        save="steps",
        per_sample=per_sample,
    )
    for row in solution.t.reshape(-1, solution.t.shape[-1]):
        assert set(wanted[:3]) <= set(row.tolist())
        assert not set(wanted[3:]) & set(row.tolist())


def seasons_by_lane(t, y):
    hare, lynx = y.unbind(-1)
    return torch.stack([hare * (1 + 0.3 * torch.sin(3 * t) - lynx), lynx * (hare - 1.2)], -1)


class Jumping:
    """y' = 1 before t = 1, else -2."""

    def __init__(self):
        self.times = []

    def __call__(self, t, y):
        self.times += t.reshape(-1).tolist()
        return torch.where(t.reshape(-1, 1) < 1, 1.0, -2.0).to(y).expand_as(y)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
@pytest.mark.parametrize("solver", ["bosh3", "dopri5", "tsit5", "dopri8"])
@pytest.mark.parametrize("name", GAINS)
def test_a_named_jump_is_exact_and_costs_no_rejections(name, solver, span, per_sample):
    field, y = Jumping(), torch.zeros(2, 1, dtype=F64)
    named = odekit.solve(
        field, y, span, solver=solver, controller=controlled(name, jump_times=(1.0,)),
        per_sample=per_sample, dense=True,
    )  # fmt: skip
    sign = span[1] - span[0]
    torch.testing.assert_close(named.y[-1], torch.full_like(y, -sign / 2), rtol=0, atol=1e-14)
    assert named.stats.rejected.max().item() == 0
    assert 1.0 not in field.times
    middle = named(torch.tensor([0.5, 1.0, 1.5], dtype=F64))[:, 0, 0]
    want = [0.5, 1.0, 0.0] if sign > 0 else [0.5, 2.0 - 1.0, 1.0]
    want = want if sign > 0 else [1.5, 2.0, 1.0]
    assert middle.tolist() == pytest.approx(want, abs=1e-13)


def test_a_jump_that_nobody_named_costs_rejections():
    y = torch.zeros(2, 1, dtype=F64)
    unnamed = odekit.solve(Jumping(), y, [0.0, 2.0], solver="tsit5")
    assert unnamed.stats.rejected.item() > 3
    assert unnamed.y[-1].flatten().tolist() == pytest.approx([-1.0, -1.0], abs=1e-3)


@pytest.mark.parametrize("solver", ["bosh3", "dopri5", "tsit5", "dopri8"])
@pytest.mark.parametrize("span", [(0.0, 5.0), (5.0, -1.0)])
@pytest.mark.parametrize("name", GAINS)
def test_each_sample_gets_what_it_would_get_alone(name, span, solver):
    t = torch.linspace(*span, 13, dtype=F64)
    options = {"solver": solver, "controller": controlled(name), "rtol": 1e-6, "atol": 1e-8}
    together = odekit.solve(seasons_by_lane, STARTS, t, per_sample=True, **options)
    # The lean driver rounds the error estimate otherwise, which moves its steps and so its rows by
    # a thousandth of the tolerance at most.
    for lane, start in enumerate(STARTS):
        one = odekit.solve(seasons_by_lane, start[None], t, per_sample=True, **options)
        lean = odekit.solve(seasons, start, t, **options)
        torch.testing.assert_close(together.y[:, lane], one.y[:, 0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.y[:, lane], lean.y, rtol=1e-9, atol=1e-9)
        for count in ("attempts", "accepted", "rejected", "evaluations"):
            got = getattr(together.stats, count)[lane].item()
            assert got == getattr(one.stats, count).item() == getattr(lean.stats, count).item()
    assert len(set(together.stats.attempts.tolist())) > 1


@pytest.mark.parametrize(
    "solver", ["midpoint", "heun", "ralston", "bosh3", "dopri5", "tsit5", "dopri8"]
)
@pytest.mark.parametrize("name", GAINS)
def test_tighter_tolerances_give_proportionally_smaller_errors(name, solver):
    def field(t, y):
        return y * torch.cos(t)

    errors = []
    low = solver in ("midpoint", "heun", "ralston")
    for rtol in (1e-3, 1e-5) if low else (1e-5, 1e-8):
        y = torch.ones(1, dtype=F64)
        solution = odekit.solve(
            field, y, [0.0, 6.0], solver=solver, controller=controlled(name), rtol=rtol, atol=rtol
        )
        errors.append(abs(solution.y[-1].item() - math.exp(math.sin(6.0))) / rtol)
        assert errors[-1] < 20
    assert np.isfinite(errors).all()


def test_its_own_tolerances_win_over_those_of_solve():
    y = torch.ones(1, dtype=F64)
    strict = controlled("integral", rtol=1e-10, atol=1e-12)
    a = odekit.solve(lambda t, y: -y, y, [0.0, 1.0], controller=strict, rtol=1e-2, atol=1e-2)
    b = odekit.solve(lambda t, y: -y, y, [0.0, 1.0], rtol=1e-10, atol=1e-12)
    assert torch.equal(a.y, b.y)
    assert (strict.rtol, strict.atol) == (1e-10, 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"safety": 0.0}, "safety"),
        ({"safety": 1.5}, "safety"),
        ({"factor_min": 1.0}, "factor_min < 1"),
        ({"factor_max": 1.0}, "1 < factor_max"),
        ({"min_step": -1.0}, "min_step"),
        ({"min_step": 2.0, "max_step": 1.0}, "min_step <= max_step"),
        ({"first_step": 0.0}, "first_step must be positive"),
        ({"first_step": math.nan}, "first_step must be positive"),
    ],
)
@pytest.mark.parametrize("name", GAINS)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ProblemError, match=message):
        controlled(name, **options)
