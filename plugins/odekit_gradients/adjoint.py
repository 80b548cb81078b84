"""The continuous adjoint: gradients from a second ODE, solved backwards in constant memory.

For a loss ``L(y(t_0), ..., y(t_n))`` the adjoint ``a(t) = dL/dy(t)`` obeys
``da/dt = -a^T df/dy`` between output times, jumps by ``dL/dy(t_i)`` at each of them, and the
parameter gradient is ``dL/dp = integral of a^T df/dp dt``. Output times get
``dL/dt_i = dL/dy(t_i) f(t_i, y_i)`` and the start ``-a(t_0) f(t_0, y_0)``. The state is
integrated again on the way back, from each stored output to the one before it, so nothing of
the forward solve is kept except its outputs.

The price is exactness: this is the gradient of the true flow, not of the numbers computed, and
it is right only up to the tolerance. Where the two must agree use ``unrolled``; on strongly
dissipative systems avoid this method, for their state cannot be recovered backwards.

With a step size per sample the backward solve still takes one step for all samples, because a
parameter gradient per sample would not fit in memory. Where the output times differ, each
sample runs through its own interval in a time of its own, at most as fast as the true one.

Shapes: the backward state is one vector, ``(2 numel(y) + P,)``.
Units: ``a`` is loss per state, a parameter gradient loss per parameter.
Source: L. S. Pontryagin et al., "The Mathematical Theory of Optimal Processes", 1962; for
    networks R. T. Q. Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018,
    arXiv:1806.07366. Keeping parameters out of the error norm: P. Kidger, R. T. Q. Chen,
    T. Lyons, "Hey, that's not an ODE", ICML 2021, arXiv:2009.09457.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from odekit import FlatField, GradientMethod, IncompatibleError, Integrate, Problem, Trajectory
from odekit_gradients.reach import find_sources, pull_back


@final
class Adjoint(GradientMethod):
    """Backpropagate by integrating the adjoint ODE with the solver of the forward pass.

    Args:
        seminorm: leave the parameter gradient out of the error norm of the backward solve. It
            is a mere integral, so the steps it would ask for buy nothing; fewer evaluations.
        rtol: relative tolerance of the backward solve; None for that of the forward solve.
        atol: absolute tolerance of the backward solve; None for that of the forward solve.
    """

    def __init__(
        self, seminorm: bool = True, rtol: float | None = None, atol: float | None = None
    ) -> None:
        self.seminorm, self.rtol, self.atol = seminorm, rtol, atol

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """Solve without a graph, then attach one node that runs the adjoint when asked.

        Raises:
            IncompatibleError: dense output where gradients are wanted, or a complex parameter
                of a real field.
        """
        if torch.is_grad_enabled():
            problem = replace(problem, params=_all_params(problem))
        wanted = (problem.y0, problem.t, *problem.params)
        attach = torch.is_grad_enabled() and any(x.requires_grad for x in wanted)
        if attach:
            _check(problem)
        with torch.no_grad():
            detached = replace(problem, y0=problem.y0.detach(), t=problem.t.detach(), params=())
            trajectory = integrate(detached)
        if not attach or len(trajectory.y) == 1:
            return trajectory
        t = problem.t if problem.save == "times" else trajectory.t
        how = _Backward(problem, integrate, self, bool(trajectory.status.any()))
        y = _Backsolve.apply(  # type: ignore[no-untyped-call]
            how, trajectory.y, t, problem.y0, *problem.params
        )
        return replace(trajectory, y=y, t=t)


@dataclass(frozen=True)
class _Backward:
    """What the backward pass needs to know, beside tensors."""

    problem: Problem
    integrate: Integrate
    options: Adjoint
    failed: bool


class _Backsolve(torch.autograd.Function):
    """Forward: hand ``y`` over untouched. Backward: solve the adjoint ODE, or raise SolveError."""

    @staticmethod
    def forward(
        ctx: Any, how: _Backward, y: Tensor, t: Tensor, y0: Tensor, *params: Tensor
    ) -> Tensor:
        ctx.how = how
        ctx.save_for_backward(y, t, *params)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the answer would lack its own graph
            raise IncompatibleError(
                "gradient='adjoint' has no second derivatives; use gradient='unrolled'"
            )
        # Unpacking checks that nothing was changed in place since the solve; the field itself
        # holds the tensors of ``problem.params``, so those are what it is differentiated by.
        y, t, *_ = ctx.saved_tensors
        how: _Backward = ctx.how
        field, params = how.problem.field, how.problem.params
        y, grad_y, still, last = _reached(y, grad_y, how)
        a = grad_y[last]
        grad_p = torch.zeros(sum(p.numel() for p in params), dtype=y.dtype, device=y.device)
        grad_t = torch.zeros_like(t) if ctx.needs_input_grad[2] else None
        for i in range(last, 0, -1):
            if grad_t is not None:
                grad_t[..., i] = _along(field, _beside(how, t, i, -1), y[i], grad_y[i])
            a, grad_p = _leg(how, t[..., i], t[..., i - 1], y[i], still[i], a, grad_p)
            if i > 1:
                a = a + grad_y[i - 1]
        if grad_t is not None:
            grad_t[..., 0] = -_along(field, _beside(how, t, 0, 1), y[0], a)
        grads = [
            _real_like(part, p).reshape(p.shape).to(p.dtype)
            for part, p in zip(
                torch.split(grad_p, [p.numel() for p in params]), params, strict=True
            )
        ]
        return None, None, grad_t, a + grad_y[0] if last else a, *grads


def _all_params(problem: Problem) -> tuple[Tensor, ...]:
    """The parameters of the problem, and those that only a look at the field's graph finds."""
    t = problem.t.detach()[..., 0]
    with torch.enable_grad():
        slope = problem.field(t[:, None] if t.dim() else t, problem.y0.detach())
    known = {id(p): p for p in problem.params}
    return tuple((known | find_sources(slope, problem.params)).values())


def _check(problem: Problem) -> None:
    if problem.dense:
        raise IncompatibleError(
            "gradient='adjoint' keeps only the output times, so solution(t) would carry no "
            "gradient; use gradient='unrolled', add the times to t, or leave out dense=True"
        )
    if not problem.y0.is_complex() and any(p.is_complex() for p in problem.params):
        raise IncompatibleError(
            "gradient='adjoint' cannot carry a complex parameter beside a real state; make y0 "
            "complex, or use gradient='unrolled'"
        )


def _reached(y: Tensor, grad_y: Tensor, how: _Backward) -> tuple[Tensor, Tensor, Tensor, int]:
    """Rows and cotangents without what was not reached, where that is, and the last row to use.

    The third is ``(n, lanes)`` of bool, with one column for a shared step size.
    """
    lanes = y.shape[1] if how.problem.per_sample else 1
    lost = torch.zeros(len(y), lanes, dtype=torch.bool, device=y.device)
    if how.failed:
        good = torch.isfinite(y).reshape(len(y), lanes, -1).all(-1)
        lost = good.long().cumprod(0) == 0
        wide = lost if how.problem.per_sample else lost[:, 0]
        wide = wide.reshape(*wide.shape, *(1,) * (y.dim() - wide.dim()))
        y, grad_y = torch.where(wide, y[0], y), torch.where(wide, 0, grad_y)
    return y, grad_y, lost, max(int((~lost).any(1).sum()) - 1, 0)


def _leg(
    how: _Backward,
    late: Tensor,
    early: Tensor,
    y: Tensor,
    still: Tensor,
    a: Tensor,
    grad_p: Tensor,
) -> tuple[Tensor, Tensor]:
    """The adjoint and the parameter gradient, carried from the time ``late`` to ``early``.

    A lane that is ``still``, or whose times are exhausted (``late == early``), does not move.
    """
    problem, n = how.problem, y.numel()
    start = rate = None
    if problem.per_sample:
        length = torch.where(still, 0.0, early - late)
        longest = length.abs().max()
        if bool((late == late[0]).all()) and bool((length == length[0]).all()):
            late, early = late[0], early[0]
        else:
            if problem.controller.step_times or problem.controller.jump_times:
                raise IncompatibleError(
                    "gradient='adjoint' cannot keep step_times or jump_times when output times "
                    "differ from sample to sample; use gradient='unrolled'"
                )
            start, rate = late[:, None], (length / longest)[:, None]
            late, early = torch.zeros_like(longest), longest
    z = torch.cat([y.reshape(-1), a.reshape(-1), grad_p])
    rtol, atol = (
        _spread(chosen if own is None else own, y.shape, len(grad_p))
        for own, chosen in (
            (how.options.rtol, problem.rtol),
            (how.options.atol, problem.atol),
        )
    )
    back = replace(
        problem,
        field=_augment(problem, y.shape, start, rate),
        y0=z.detach(),
        t=torch.stack([late, early]).detach(),
        per_sample=False,
        params=(),
        save="times",
        rtol=rtol,
        atol=atol,
        controlled=2 * n if how.options.seminorm else None,
    )
    end = how.integrate(back).checked("the adjoint's backward solve").y[-1]
    return end[n : 2 * n].reshape(y.shape), end[2 * n :]


def _spread(tolerance: Any, shape: torch.Size, count: int) -> Any:
    """A tolerance of the state, laid out for state, adjoint and parameter gradient."""
    if not isinstance(tolerance, Tensor):
        return tolerance
    part = tolerance.expand(shape).reshape(-1)
    return torch.cat([part, part, part.min().expand(count)])


def _augment(problem: Problem, shape: torch.Size, start: Any, rate: Any) -> FlatField:
    """The field of ``z = (y, a, dL/dp)``, ``(2 n + P,)``; ``start + s rate`` is the true time."""
    n, field, params = shape.numel(), problem.field, problem.params

    def augmented(t: Tensor, z: Tensor) -> Tensor:
        y, a = z[:n].reshape(shape), z[n : 2 * n].reshape(shape)
        if rate is not None:
            t = start + t * rate
        elif problem.per_sample:
            t = t.expand(len(y), 1)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = field(t, y)
            if rate is not None:
                slope = slope * rate.to(_real(y).dtype)
            if not slope.requires_grad:  # a constant field
                return torch.cat([slope.reshape(-1), torch.zeros_like(z[n:])])
            grads = pull_back(slope, (y, *params), -a)
        return torch.cat([part.reshape(-1).to(z.dtype) for part in (slope.detach(), *grads)])

    return augmented


def _beside(how: _Backward, t: Tensor, i: int, side: int) -> Tensor:
    """The output time ``i``; where the field jumps, a little before (-1) or after it (1)."""
    jumps = torch.tensor(how.problem.controller.jump_times, dtype=t.dtype, device=t.device)
    if not len(jumps):
        return t[..., i]
    gap = 4 * torch.finfo(how.problem.y0.dtype).eps * t.abs().amax(-1)
    shift = side * torch.sign(t[..., -1] - t[..., 0]) * gap
    return torch.where(torch.isin(t[..., i], jumps), t[..., i] + shift, t[..., i])


def _along(field: FlatField, t: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """``a . f(t, y)``, real: 0-d with a shared time, ``(lanes,)`` per sample."""
    with torch.no_grad():
        product = field(t[:, None] if t.dim() else t, y).conj() * a
    total = product.sum() if t.dim() == 0 else product.reshape(len(t), -1).sum(-1)
    return _real(total).to(t.dtype)


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x


def _real_like(x: Tensor, like: Tensor) -> Tensor:
    return x if like.is_complex() else _real(x)
