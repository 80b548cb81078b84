"""The gradient of a point of rest, by the implicit function theorem.

A solve that has come to rest has forgotten how it got there. Its end is the root of
``f(t_end, y) = 0``, and so depends on parameters by ``dy/dp = -(df/dy)^-1 df/dp``, whatever the
path was: one linear system with ``(df/dy)^T`` in the backward pass, no memory of the solve, no
second solve. The end is first polished by Newton's method, so that it is the root to rounding.
For anything but a stable point of rest take ``checkpointed``.

Time stands still at the end. By the start the end has no gradient, for it would come to rest at
the same point. By the end time it has none unless the field depends on time, and then that of the
root of the field as it is at that moment. Since rows in between have no such gradient, ``t`` must
be the start and the end alone where gradients are wanted; the first row is the start itself.

A lane that is not at rest, further than a hundred tolerances from the root, fails with
`Status.NOT_AT_REST`. So does one at an unstable root, from which the start does matter, or at one
of a family of roots, as where something is conserved. With more entries than ``dense_up_to`` the
eigenvalues that tell are not computed: there only distance and convergence are looked at.

Shapes: ``(lanes, k)`` real entries, one lane with a shared step size; matrices ``(lanes, k, k)``.
Units: ``df/dy`` is one over time.
Source: the implicit function theorem; for networks S. Bai, J. Z. Kolter, V. Koltun, "Deep
    equilibrium models", NeurIPS 2019, arXiv:1909.01377.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from odekit import (
    GradientMethod,
    IncompatibleError,
    Integrate,
    Problem,
    ProblemError,
    Status,
    Trait,
    Trajectory,
)
from odekit_gradients.backward import refuse_forward_mode
from odekit_gradients.reach import look_behind, pull_back
from odekit_gradients.root import Root, RootSearch, find_root


@final
class SteadyState(GradientMethod):
    """Solve to the end, polish it, and differentiate the root.

    Args:
        dense_up_to: entries up to which the matrix ``df/dy`` is formed and factorised; beyond
            that, systems are solved by GMRES with products alone.
        newton_steps: allowed for polishing.
        krylov_steps: products allowed in one solution by GMRES.

    Raises:
        ProblemError: an option out of range.
    """

    at_rest = True

    def __init__(
        self, dense_up_to: int = 256, newton_steps: int = 20, krylov_steps: int = 300
    ) -> None:
        if dense_up_to < 0 or newton_steps < 1 or krylov_steps < 1:
            raise ProblemError(
                "need dense_up_to >= 0, newton_steps >= 1 and krylov_steps >= 1, got "
                f"{dense_up_to!r}, {newton_steps!r}, {krylov_steps!r}"
            )
        self.search = RootSearch(dense_up_to, newton_steps, krylov_steps)

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """Solve without a graph, polish the end, and attach it to the field's parameters.

        Raises:
            IncompatibleError: rows beside start and end, or dense output, where gradients are
                wanted; a solver with noise; or forward mode.
        """
        refuse_forward_mode(problem, "steady_state")
        if Trait.STOCHASTIC in problem.solver.traits:
            raise IncompatibleError(
                "gradient='steady_state' needs a solution that comes to rest, which with noise "
                "none does; use gradient='unrolled'"
            )
        if torch.is_grad_enabled():
            problem = replace(problem, params=look_behind(problem).params)
        wanted = (problem.y0, problem.t, *problem.params)
        attach = torch.is_grad_enabled() and any(x.requires_grad for x in wanted)
        if attach and (problem.dense or problem.save != "times" or problem.t.shape[-1] != 2):
            raise IncompatibleError(
                "gradient='steady_state' has gradients of the end alone: give t as "
                "[start, end], without dense=True or save='steps', or use gradient='checkpointed'"
            )
        with torch.no_grad():
            y0, t = problem.y0.detach(), problem.t.detach()
            trajectory = integrate(replace(problem, y0=y0, t=t, params=()))
            if problem.t.shape[-1] == 1:
                return trajectory
            root = find_root(problem, trajectory, self.search)
            trajectory = _with_end(trajectory, root, per_sample=problem.per_sample)
        if not attach:
            return trajectory
        y = _Implicit.apply(  # type: ignore[no-untyped-call]
            root, trajectory.y, problem.y0, problem.t, *problem.params
        )
        return replace(trajectory, y=y, t=problem.t)


class _Implicit(torch.autograd.Function):
    """Forward: hand ``y`` over untouched. Backward: one linear system, one pull-back."""

    @staticmethod
    def forward(ctx: Any, root: Root, y: Tensor, y0: Tensor, t: Tensor, *params: Tensor) -> Tensor:
        ctx.root = root
        ctx.save_for_backward(t, *params)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the answer would lack its own graph
            raise IncompatibleError(
                "gradient='steady_state' has no second derivatives; use gradient='unrolled'"
            )
        t, *_ = ctx.saved_tensors  # checks that no parameter was changed in place
        root: Root = ctx.root
        params, (first, last) = root.problem.params, grad_y
        grad_t = torch.zeros_like(t)
        x = root.back(last)
        with torch.enable_grad():
            at = root.t.detach().requires_grad_()
            value = root.problem.field(at, root.y)
        by_time, *grads = pull_back(value, [at, *params], -x)
        grad_t[..., -1] = by_time.reshape(grad_t.shape[:-1])
        return None, None, first, grad_t, *grads


def _with_end(trajectory: Trajectory, root: Root, *, per_sample: bool) -> Trajectory:
    """The trajectory with its end at the root; NaN where there is none."""
    good = root.good[:, None] if per_sample else root.good[0]
    end = torch.where(good, root.y, torch.nan)
    lost = ~root.good & (trajectory.status == 0)
    status = torch.where(lost, int(Status.NOT_AT_REST), trajectory.status)
    return replace(trajectory, y=torch.cat([trajectory.y[:-1], end[None]]), status=status)
