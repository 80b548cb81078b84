"""The interpolated adjoint: the state from the forward solve's dense output, only ``a`` goes back.

The adjoint ``a(t) = dL/dy(t)`` obeys ``da/dt = -a^T df/dy`` between output times and jumps by
``dL/dy(t_i)`` at each of them. Where ``adjoint`` integrates the state backwards as well, this
method looks it up in the dense output of the forward solve. The backward solve then has the size
of the state, is linear and as stable as the forward one, also on dissipative systems, whose
state cannot be recovered backwards. The parameter gradient, the integral of ``a^T df/dp``, is a
Gauss-Legendre quadrature over the backward steps with both dense outputs; it takes no part in
step-size control. Steps end at output times, where the slope is evaluated anew, and go on with
the length they had. Output times get ``dL/dy(t_i) f(t_i, y_i)`` and the start
``-a(t_0) f(t_0, y_0)``.

It is the gradient of the true flow, right up to the tolerance: where it must be that of the
numbers computed, use ``checkpointed`` or ``unrolled``. Memory grows with the number of steps, by
some ten states each and none of the field's activations; where that is too much, ``checkpointed``
keeps a chosen number of states, and ``adjoint`` none.

Shapes: the backward state has the shape of the state; with a step size per sample every lane has
    its own backward steps, also where output times differ.
Units: ``a`` is loss per state, a parameter gradient loss per parameter. The equation is linear,
    so cotangents are divided by the largest of them (per sample, of its lane), and ``atol`` is
    a part of that.
Source: A. C. Hindmarsh et al., "SUNDIALS: Suite of nonlinear and differential/algebraic equation
    solvers", ACM Transactions on Mathematical Software 31, 2005, pp. 363-396,
    doi:10.1145/1089014.1089020 (the forward solution interpolated in a backward solve);
    C. Rackauckas et al., "Universal differential equations for scientific machine learning",
    2020, arXiv:2001.04385 (interpolating and quadrature adjoints compared).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from odekit import (
    DenseOutput,
    FlatField,
    GradientMethod,
    IncompatibleError,
    Integrate,
    Problem,
    Solver,
    StepController,
    Trajectory,
)
from odekit_gradients.backward import (
    BackwardSolve,
    Ends,
    along,
    beside,
    continued,
    find_ends,
    real,
    refuse_forward_mode,
    with_spoilt,
)
from odekit_gradients.quadrature import compact, count_nodes, place_nodes
from odekit_gradients.reach import look_behind, pull_back
from odekit_gradients.stored import Stored, parts_of, restored
from odekit_gradients.unchanged import Witness

BATCH = 64
"""Nodes of the quadrature that are looked up together."""


@final
class Interpolated(GradientMethod):
    """Backpropagate by integrating the adjoint alone along the dense output of the solution.

    Args:
        rtol: relative tolerance of the backward solve; None for that of the forward solve, in
            an array the smallest.
        atol: absolute tolerance of the backward solve, as a part of the largest cotangent; None
            for the number of the forward solve, in an array the smallest.
        solver: of the backward solve, name or instance with dense output; None for that of the
            forward solve.
        controller: of the backward solve, name or instance; None for that of the forward solve.
    """

    def __init__(
        self,
        rtol: float | None = None,
        atol: float | None = None,
        solver: str | Solver | None = None,
        controller: str | StepController | None = None,
    ) -> None:
        self.options = BackwardSolve("interpolated", solver, controller, rtol, atol)

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """Solve with dense output and no graph, then attach one node for the backward solve.

        Raises:
            IncompatibleError: dense output where gradients are wanted, a solver without dense
                output, parts that cannot serve a backward solve, or forward mode.
        """
        refuse_forward_mode(problem, "interpolated")
        if not torch.is_grad_enabled():
            return integrate(problem)
        params, shared, witness = look_behind(problem)
        problem = replace(problem, params=params)
        start, times = problem.y0.detach(), problem.t.detach()
        plain = replace(problem, y0=start, t=times, params=())
        if not any(x.requires_grad for x in (problem.y0, problem.t, *problem.params)):
            with torch.no_grad():
                return integrate(plain)
        back = self.options.prepare(problem, resized=False)
        back = replace(back, rtol=_smallest(back.rtol), atol=_smallest(back.atol))
        with torch.no_grad():
            trajectory = integrate(replace(plain, dense=times.shape[-1] > 1))
            _check_dense(trajectory.dense)
        t = problem.t if problem.save == "times" else trajectory.t
        failed = bool(trajectory.status.any())
        kept = trajectory.dense is not None
        how = _Backward(problem, back, integrate, kept, failed, shared, witness)
        y = _Interpolated.apply(  # type: ignore[no-untyped-call]
            how, parts_of(trajectory.dense), trajectory.y, t, problem.y0, *problem.params
        )
        return replace(trajectory, y=y, t=t, dense=None)


@dataclass(frozen=True)
class _Backward:
    """What the backward pass needs to know, beside tensors."""

    problem: Problem
    back: Problem
    integrate: Integrate
    dense: bool
    failed: bool
    shared: bool
    witness: Witness


class _Interpolated(torch.autograd.Function):
    """Forward: hand ``y`` over untouched. Backward: solve the adjoint ODE, or raise SolveError."""

    @staticmethod
    def forward(
        ctx: Any,
        how: _Backward,
        parts: tuple[Tensor, ...],
        y: Tensor,
        t: Tensor,
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        ctx.how, ctx.count = how, len(parts)
        ctx.save_for_backward(y, t, *parts, *params)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the answer would lack its own graph
            raise IncompatibleError(
                "gradient='interpolated' has no second derivatives; use gradient='unrolled' or "
                "'checkpointed'"
            )
        # Unpacking checks that nothing was changed in place since the solve; the field itself
        # holds the tensors of ``problem.params``, so those are what it is differentiated by.
        y, t, *saved = ctx.saved_tensors
        how: _Backward = ctx.how
        problem = how.problem
        asked = ctx.needs_input_grad[5:]
        params = [p if n else None for p, n in zip(problem.params, asked, strict=True)]
        ends = find_ends(y, grad_y, per_sample=problem.per_sample, failed=how.failed)
        wanted = [p for p in params if p is not None]
        dense = restored(problem.solver, saved[: ctx.count]) if how.dense else None
        clock = torch.zeros_like(t) if ctx.needs_input_grad[3] else None
        if ends.last:
            how.witness.check()
        with how.witness.ambient.restored():
            a, grad_t, found = _go_back(how, dense, ends, t, clock, wanted)
        a, grad_t, found = with_spoilt(ends, a, grad_t, found)
        left = iter(found)
        grads = [None if p is None else next(left) for p in params]
        return None, None, None, grad_t, a, *grads


def _go_back(
    how: _Backward,
    dense: DenseOutput | None,
    ends: Ends,
    t: Tensor,
    grad_t: Tensor | None,
    params: list[Tensor],
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Gradients by the start, the output times if ``grad_t`` is there, and the parameters."""
    problem, y, a = how.problem, ends.y, torch.zeros_like(ends.y[0])
    sums = [torch.zeros_like(p) for p in params]
    if dense is None or not ends.last:
        return a + ends.grad[0] * ends.scale, grad_t, sums
    stored, knots = Stored(dense, per_sample=problem.per_sample), compact(dense.knots)
    control = continued(how.back, problem.controller.jump_times)
    nodes_per_piece = count_nodes(how.back.solver.order)
    for i in range(ends.last, 0, -1):
        if grad_t is not None:
            grad = ends.grad[i] * ends.scale
            grad_t[..., i] = along(problem.field, beside(problem, t, i, -1), y[i], grad)
        a = a + ends.grad[i]
        late, early = t[..., i], t[..., i - 1]
        if how.failed and problem.per_sample:
            early = torch.where(ends.lost[i], late, early)
            stored.rest(ends.lost[i], y[0])
        if bool((late == early).all()):
            continue
        leg = how.integrate(
            replace(
                how.back,
                field=_adjoint_field(how, stored),
                y0=a,
                t=torch.stack([late, early], -1),
                controller=control,
                dense=bool(params),
            )
        ).checked("the interpolated adjoint's backward solve")
        a = leg.y[-1]
        if leg.dense is not None:
            nodes, weights = place_nodes(leg.dense.knots, knots, nodes_per_piece)
            shares = weights * ends.scale.reshape(-1) if nodes.dim() == 2 else weights * ends.scale
            look = _beside_one_another(stored, leg.dense)
            _add(sums, params, how, look, nodes, shares)
    if grad_t is not None:
        first = beside(problem, t, 0, 1)
        grad_t[..., 0] = -along(problem.field, first, y[0], a * ends.scale)
    return (a + ends.grad[0]) * ends.scale, grad_t, sums


def _adjoint_field(how: _Backward, stored: Stored) -> FlatField:
    """``-a^T df/dy`` along the stored solution."""

    def backward(t: Tensor, a: Tensor) -> Tensor:
        y = stored.at(t).detach()
        with torch.enable_grad():
            y.requires_grad_()
            slope = how.problem.field(t, y)
        return pull_back(slope, (y,), -a, retain=how.shared)[0]

    return backward


def _beside_one_another(
    stored: Stored, dense: DenseOutput
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def look(times: Tensor) -> tuple[Tensor, Tensor]:
        return stored.rows(times), dense(times)

    return look


def _add(
    sums: list[Tensor],
    params: list[Tensor],
    how: _Backward,
    look: Callable[[Tensor], tuple[Tensor, Tensor]],
    nodes: Tensor,
    weights: Tensor,
) -> None:
    """Add the integral of ``a^T df/dp`` to ``sums``; ``look`` gives states and adjoints."""
    for times, shares in zip(torch.split(nodes, BATCH), torch.split(weights, BATCH), strict=True):
        states, adjoints = look(times)
        if nodes.dim() == 2:
            times, shares = times[..., None], shares[..., None]
        for t, share, y, a in zip(times, shares.to(real(states)), states, adjoints, strict=True):
            with torch.enable_grad():
                slope = how.problem.field(t, y)
            # A lane without a step of its own here has no adjoint to look up.
            cotangent = torch.where(share != 0, a * share, 0)
            found = pull_back(slope, params, cotangent, retain=how.shared)
            for total, part in zip(sums, found, strict=True):
                total += part


def _smallest(tolerance: Any) -> Any:
    return float(tolerance.min()) if isinstance(tolerance, Tensor) else tolerance


def _check_dense(dense: DenseOutput | None) -> None:
    if dense is None:
        return
    try:
        dense(dense.knots[:1])
    except IncompatibleError as error:
        raise IncompatibleError(
            "gradient='interpolated' looks the state up in dense output, which solver "
            f"{type(dense.solver).__name__} does not offer; use gradient='checkpointed', or "
            "another solver"
        ) from error
