"""Orders measured by refining the steps: rows, dense output and error estimates.

The autonomous problem is the one whose solutions are Jacobi's elliptic functions, three coupled
quadratic equations; the other, y' = y cos t, shows wrong nodes. Several phases and the root mean
square along the whole solve keep accidental cancellations out of the slopes.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ellipj

import odekit

# Steps for the elliptic functions over five units of time, and for the other over one.
STEPS = {
    "euler": (100, 50),
    "midpoint": (60, 20),
    "heun": (60, 20),
    "ralston": (60, 20),
    "bosh3": (50, 15),
    "rk4": (40, 10),
    "rk38": (40, 10),
    "dopri5": (40, 10),
    "tsit5": (80, 14),
    "dopri8": (12, 2),
}
SPANS = {"elliptic": 5.0, "swing": 1.0}
PHASES = torch.linspace(0.0, 4.0, 6, dtype=torch.float64)
MODULUS = 0.51


class Elliptic:
    """(sn, cn, dn)' = (cn dn, -sn dn, -m sn cn)."""

    def __call__(self, t, y):
        s, c, d = y.unbind(-1)
        return torch.stack([c * d, -s * d, -MODULUS * s * c], -1)

    def exact(self, t):
        angles = t[..., None] + PHASES
        return torch.as_tensor(np.stack(ellipj(angles.numpy(), MODULUS)[:3], -1))


class Swing:
    """y' = y cos(t + phase)."""

    def __call__(self, t, y):
        return y * torch.cos(t + PHASES)[:, None]

    def exact(self, t):
        return torch.exp(torch.sin(t[..., None] + PHASES) - torch.sin(PHASES))[..., None]


PROBLEMS = {"elliptic": Elliptic(), "swing": Swing()}


def errors(name, problem, end, steps, *, per_sample=False):
    """Root mean square errors at the ends of all steps and at points inside them."""
    start = torch.zeros((), dtype=torch.float64)
    solution = odekit.solve(
        problem,
        problem.exact(start),
        [0.0, end],
        solver=name,
        step_size=abs(end) / steps,
        save="steps",
        dense=True,
        per_sample=per_sample,
    )
    t = solution.t if solution.t.dim() == 1 else solution.t[0]
    assert len(t) == steps + 1
    inside = torch.tensor([0.15, 0.4, 0.5, 0.7, 0.9], dtype=torch.float64)
    inner = (t[:-1, None] + t.diff()[:, None] * inside).flatten()
    return (
        (solution.y - problem.exact(t)).square().mean().sqrt().item(),
        (solution(inner) - problem.exact(inner)).square().mean().sqrt().item(),
    )


def slopes(name, problem, sign, **options):
    steps = STEPS[name][list(PROBLEMS).index(problem)]
    end = sign * SPANS[problem]
    coarse = errors(name, PROBLEMS[problem], end, 2 * steps, **options)
    fine = errors(name, PROBLEMS[problem], end, 3 * steps, **options)
    return [math.log(a / b) / math.log(3 / 2) for a, b in zip(coarse, fine, strict=True)]


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forwards", "backwards"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", STEPS)
def test_order_of_rows_and_dense_output(name, problem, sign):
    solver = odekit.create("solver", name)
    rows, dense = slopes(name, problem, sign)
    assert rows == pytest.approx(solver.order, abs=0.2)
    assert dense > solver.dense_order - 0.2


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", STEPS)
def test_order_with_a_step_size_per_sample(name, problem):
    solver = odekit.create("solver", name)
    rows, dense = slopes(name, problem, 1.0, per_sample=True)
    assert rows == pytest.approx(solver.order, abs=0.2)
    assert dense > solver.dense_order - 0.2


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", STEPS)
def test_local_error_of_dense_output(name, sign):
    # Inside one step from exact data nothing hides the interpolant: its error shrinks with one
    # power more than the order of its conditions, or with the fourth power for the cubic.
    solver, problem = odekit.create("solver", name), PROBLEMS["elliptic"]
    own = bool(solver.blend)
    wanted = solver.dense_order + 1 if own else min(solver.order + 1, 4)
    found = []
    for h in (0.2 * sign, 0.1 * sign) if name == "dopri8" else (0.05 * sign, 0.025 * sign):
        segment, _ = one_step(solver, problem, h)
        t = h * torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64)
        got = torch.stack([solver.interpolate(segment, ti) for ti in t])
        found.append((got - problem.exact(t)).square().mean().sqrt().item())
    assert math.log2(found[0] / found[1]) > wanted - 0.25


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", [n for n in STEPS if n not in ("euler", "rk4", "rk38")])
def test_error_estimates_shrink_with_the_power_that_is_claimed(name, problem):
    solver = odekit.create("solver", name)
    h = 0.08 if name == "dopri8" else 0.02
    sizes = [one_step(solver, PROBLEMS[problem], x)[1].norm().item() for x in (h, h / 2)]
    assert math.log2(sizes[0] / sizes[1]) == pytest.approx(solver.error_order, abs=0.2)


def one_step(solver, problem, h):
    t = torch.zeros((), dtype=torch.float64)
    y = problem.exact(t)
    step = solver.step(problem, t, h, y, solver.init(problem, t, y))
    dense = solver.complete(problem, t, h, y, step)
    return odekit.Segment(t, torch.tensor(h, dtype=t.dtype), y, step.y, dense), step.error
