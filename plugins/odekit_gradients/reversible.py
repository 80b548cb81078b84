"""The gradient of an algebraically reversible solve: exact, with nothing stored on the way.

The forward solve leaves no graph; of its steps only the times are kept. On the way back each step
is taken back by the solver itself, `Solver.reverse`, from the state at the end to the state at
the start, then taken forward once more with a graph, through which the cotangents of state and
memory go. So this is the gradient of the numbers computed, as ``unrolled`` gives it, in a memory
that does not grow with the number of steps: one step's graph, and eight bytes a step and lane.

What it costs: a solver with `Trait.REVERSIBLE`, which takes about twice the evaluations of an
ordinary one, and one more solve without a graph. Taking steps back magnifies rounding, by ``1 / l``
a step for a coupling ``l`` and by what the system itself forgets on its way forward; where the
start that is found in the end is not the start, the gradient is not to be trusted, and a
``GradientWarning`` says so. Prefer ``unrolled`` where memory allows, and ``checkpointed`` for
systems that lose energy and for very many steps.

The field jumps where the controller says so. There the solver starts afresh, which cannot be
taken back, and two states are kept for each jump.

Shapes: those of `odekit.Problem`.
Units: cotangents are loss per state.
Source: P. Kidger, J. Foster, X. Li, T. Lyons, "Efficient and Accurate Gradients for Neural SDEs",
    NeurIPS 2021, arXiv:2105.13493; S. McCallum, J. Foster, "Efficient, Accurate and Stable
    Gradients for Neural ODEs", 2024, arXiv:2410.11648.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from odekit import (
    GradientMethod,
    IncompatibleError,
    Integrate,
    Problem,
    Trait,
    Trajectory,
)
from odekit.trees import Structure, flatten, unflatten
from odekit_gradients.backward import refuse_forward_mode
from odekit_gradients.footsteps import Footsteps, Watch
from odekit_gradients.reach import look_behind
from odekit_gradients.retreat import Retreat
from odekit_gradients.unchanged import Witness


@final
class Reversible(GradientMethod):
    """Backpropagate by taking the steps of a reversible solver back."""

    solver_needs = Trait.REVERSIBLE
    solver_advice = "solver=odekit.create('solver', 'reversible', solver='tsit5')"

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """Solve without a graph, then attach one node that goes back when asked.

        Raises:
            IncompatibleError: dense output where gradients are wanted.
        """
        refuse_forward_mode(problem, "reversible")
        if not torch.is_grad_enabled():
            return integrate(problem)
        params, shared, witness = look_behind(problem)
        problem = replace(problem, params=params)
        wanted = (problem.y0, problem.t, *problem.params)
        attach = any(x.requires_grad for x in wanted)
        if problem.t.shape[-1] == 1:
            return integrate(problem)
        if attach and problem.dense:
            raise IncompatibleError(
                "gradient='reversible' keeps no steps, so solution(t) would carry no gradient; "
                "use gradient='unrolled', add the times to t, or leave out dense=True"
            )
        quiet = replace(problem, y0=problem.y0.detach(), t=problem.t.detach(), params=())
        with torch.no_grad():
            if not attach:
                return integrate(quiet)
            trajectory, steps, lost = _walk(quiet, integrate)
        leaves, structure = flatten(steps.packed())
        how = _Back(problem, structure, lost, len(leaves), shared, witness)
        t = problem.t if problem.save == "times" else trajectory.t
        y = _TakeBack.apply(  # type: ignore[no-untyped-call]
            how, trajectory.y, leaves, t, problem.y0, *problem.params
        )
        return replace(trajectory, y=y, t=t)


def _walk(problem: Problem, integrate: Integrate) -> tuple[Trajectory, Footsteps, Tensor | None]:
    """The trajectory, its steps, and the rows without a value, ``(n, lanes)``, or None."""
    watch = Watch(problem)
    trajectory = integrate(replace(problem, observer=watch))
    if not bool(trajectory.status.any()):
        return trajectory, watch.footsteps(), None
    # Who failed may be where no step can be taken back from: the solve is watched once more, and
    # only as far as there are rows.
    lanes = problem.y0.shape[0] if problem.per_sample else 1
    good = torch.isfinite(trajectory.y).reshape(len(trajectory.y), lanes, -1).all(-1)
    good = good.long().cumprod(0).bool()
    times = trajectory.t if trajectory.t.dim() == 2 else trajectory.t[None]
    last = (good.sum(0) - 1).clamp(min=0)
    goal = times.expand(lanes, -1).gather(1, last[:, None])[:, 0]
    watch = Watch(problem, goal)
    integrate(replace(problem, observer=watch))
    return trajectory, watch.footsteps(), ~good


@dataclass(frozen=True)
class _Back:
    """What the way back needs to know, beside tensors."""

    problem: Problem
    structure: Structure
    lost: Tensor | None
    count: int
    shared: bool
    witness: Witness


class _TakeBack(torch.autograd.Function):
    """Forward: hand ``y`` over untouched. Backward: take the steps back one by one."""

    @staticmethod
    def forward(
        ctx: Any,
        how: _Back,
        y: Tensor,
        steps: list[Any],
        t: Tensor,
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        ctx.how = how
        ctx.save_for_backward(*steps, t, y0, *params)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the answer would lack its own graph
            raise IncompatibleError(
                "gradient='reversible' has no second derivatives; use gradient='unrolled', or "
                "'checkpointed'"
            )
        how: _Back = ctx.how
        # Unpacking checks that nothing was changed in place since the solve; the field itself
        # holds the tensors of ``problem.params``, so those are what it is differentiated by.
        saved = ctx.saved_tensors
        steps = Footsteps.unpacked(unflatten(list(saved[: how.count]), how.structure))
        if how.lost is not None:
            lost = how.lost if how.problem.per_sample else how.lost[:, 0]
            lost = lost.reshape(*lost.shape, *(1,) * (grad_y.dim() - lost.dim()))
            grad_y = torch.where(lost, 0, grad_y)
        _, _, _, wants_t, wants_y0, *wanted = ctx.needs_input_grad
        params = [p for p, asked in zip(how.problem.params, wanted, strict=True) if asked]
        retreat = Retreat(how.problem, steps, params, wants_t=wants_t, shared=how.shared)
        how.witness.check()
        with how.witness.ambient.restored():
            grad_t, grad_y0, grads = retreat.run(grad_y)
        found = iter(grads)
        by_param = [next(found) if asked else None for asked in wanted]
        return None, None, None, grad_t, grad_y0 if wants_y0 else None, *by_param
