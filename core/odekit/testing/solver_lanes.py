"""What a solver promises about lanes: none of them meets another, in a step or in a solve.

The checks that solve whole problems take the controller that ``solve`` takes by itself, and
fixed steps where the solver has no error estimate.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from odekit.solution import Solution
from odekit.solve import solve
from odekit.solver import Solver, Step, Trait
from odekit.testing.attempts import attempt, coupled, four_lanes, rounding, unrestricted
from odekit.testing.cases import DOUBLE
from odekit.testing.conformance import Conformance, check, require, require_close
from odekit.testing.convergence import distance, largest


class LaneChecks(Conformance):
    """Each lane gets what it would get alone, whatever its neighbours do."""

    @check
    def test_lanes_step(self) -> str:
        """A step with its own time and length per lane gives each lane what it gets alone."""
        solver = unrestricted(self.make())
        t, h, y = four_lanes()
        step, inside = attempt(solver, coupled, t, h, y)
        worst = 0.0
        for i in range(len(y)):
            alone, mid = attempt(solver, coupled, t[i, 0], float(h[i]), y[i])
            pairs = [(step.y[i], alone.y), (inside[i], mid)]
            if step.error is not None and alone.error is not None:
                pairs.append((step.error[i], alone.error))
            worst = largest(worst, *(distance(*pair) for pair in pairs))
        return require_close(worst, rounding(solver), "a lane beside others and the lane alone")

    @check
    def test_lanes_neighbours(self) -> str:
        """A lane's step does not change when its neighbours are permuted, stiff or NaN."""
        solver = unrestricted(self.make())
        t, h, y = four_lanes()
        usual, _ = attempt(solver, coupled, t, h, y)
        order = torch.tensor([2, 0, 3, 1])
        moved, _ = attempt(solver, coupled, t[order], h[order], y[order])
        worst = _lane_gap(moved, usual, order)
        for value in (1e3, math.nan):
            changed = y.clone()
            changed[2:] = value
            other, _ = attempt(solver, coupled, t, h, changed)
            worst = largest(worst, _lane_gap(other, usual, torch.arange(2)))
        return require_close(worst, rounding(solver), "a lane when its neighbours change")

    @check
    def test_lanes_solve(self) -> str:
        """Solved per sample, each sample takes the attempts and gets the values it gets alone."""
        solver = unrestricted(self.make())
        y0, t = _oscillators()
        batch = _solve(solver, _van_der_pol, y0, t)
        worst = 0.0
        for i in range(len(y0)):
            alone = _solve(solver, _van_der_pol, y0[i : i + 1], t[i : i + 1])
            seen, wanted = int(batch.stats.attempts[i]), int(alone.stats.attempts[0])
            require(
                seen == wanted,
                f"sample {i} takes {seen} attempts beside others and {wanted} alone",
                f"{seen} and {wanted} attempts",
            )
            worst = largest(worst, distance(batch.y[:, i], alone.y[:, 0]))
        return require_close(worst, 1e-12, "a sample beside others and the sample alone")

    @check
    def test_lanes_failure(self) -> str:
        """A sample whose field is NaN fails by itself; the others are solved as without it."""
        solver = unrestricted(self.make())
        y0, t = _oscillators()
        clean = _solve(solver, _van_der_pol, y0, t)
        broken = y0.clone()
        broken[1, 2] = 1e3  # beyond what `_van_der_pol` answers
        spoilt = _solve(solver, _van_der_pol, broken, t)
        statuses = [status.name for status in spoilt.statuses]
        require(
            [s == "SUCCESS" for s in statuses] == [True, False, True, True],
            f"only sample 1 should fail, the statuses are {', '.join(statuses)}",
        )
        others = [0, 2, 3]
        worst = distance(spoilt.y[:, others], clean.y[:, others])
        return require_close(worst, 1e-12, "samples beside one that fails")

    @check
    def test_nan_solve(self) -> str:
        """A field that turns NaN midway ends the solve with a status that says where."""
        solver = unrestricted(self.make())

        def field(t: Tensor, y: Tensor) -> Tensor:
            late = (t > 0.4).reshape(-1, *(1,) * (y.dim() - 1)) if t.dim() else t > 0.4
            return torch.where(late, math.nan, -y)

        reached = []
        for per_sample in (False, True):
            solution = _solve(
                solver, field, torch.ones(2, 1, dtype=DOUBLE), [0.0, 0.2, 1.0], per_sample
            )
            require(
                bool((solution.status != 0).all()),
                "a field that is NaN from t = 0.4 on is solved to t = 1 with status SUCCESS",
            )
            require(bool(torch.isfinite(solution.y[:2]).all()), "rows before the NaN are lost")
            reached.append(float(solution.reached.max()))
        figure = f"reached {max(reached):.3g}"
        require(max(reached) < 0.5, f"claims to have reached t = {max(reached)!r}", figure)
        return figure


def _solve(solver: Solver, field: Any, y0: Tensor, t: Any, per_sample: bool = True) -> Solution:
    adaptive = Trait.ERROR_ESTIMATE in solver.traits
    return solve(
        field,
        y0,
        t,
        solver=solver,
        per_sample=per_sample,
        rtol=1e-3,
        atol=1e-6,
        step_size=None if adaptive else 0.02,
        max_steps=3000,
        throw=False,
    )


def _van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    """``(lanes, 3)``: position, velocity and the stiffness, which is NaN's where above 100."""
    x, v, mu = y.unbind(-1)
    mu = torch.where(mu > 100, math.nan, mu)
    return torch.stack([v, mu * (1 - x * x) * v - x, 0 * mu], -1)


def _oscillators() -> tuple[Tensor, Tensor]:
    """Four Van der Pol oscillators, ``(4, 3)``, with output times of their own, ``(4, 4)``."""
    y0 = torch.tensor(
        [[2.0, 0.0, 0.1], [1.0, 0.5, 1.0], [-1.5, 0.3, 8.0], [0.3, -0.2, 3.0]], dtype=DOUBLE
    )
    end = torch.tensor([[1.0], [2.0], [0.8], [1.5]], dtype=DOUBLE)
    return y0, end * torch.tensor([0.0, 0.31, 0.77, 1.0], dtype=DOUBLE)


def _lane_gap(seen: Step, usual: Step, order: Tensor) -> float:
    """How far the lanes of one step are from those lanes of another."""
    worst = 0.0
    for a, b in ((seen.y, usual.y), (seen.error, usual.error)):
        if a is not None and b is not None:
            worst = largest(worst, distance(a[: len(order)], b[order]))
    return worst
