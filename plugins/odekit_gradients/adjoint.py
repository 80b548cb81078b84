"""The continuous adjoint: gradients from a second ODE, solved backwards in constant memory.

For a loss ``L(y(t_0), ..., y(t_n))`` the adjoint ``a(t) = dL/dy(t)`` obeys
``da/dt = -a^T df/dy`` between output times, jumps by ``dL/dy(t_i)`` at each of them, and the
parameter gradient is ``dL/dp = integral of a^T df/dp dt``. Output times get
``dL/dt_i = dL/dy(t_i) f(t_i, y_i)`` and the start ``-a(t_0) f(t_0, y_0)``. The state is
integrated again on the way back, by default from each stored output to the one before it, so
nothing of the forward solve is kept except its outputs.

The price is exactness: this is the gradient of the true flow, not of the numbers computed, and
it is right only up to the tolerance. Where the two must agree use ``checkpointed``. A strongly
dissipative system forgets where it came from, so its state cannot be recovered backwards: the
backward solve fails, or arrives somewhere else and says so by a `GradientWarning`. There
``interpolated`` is right, at the price of the forward solve's dense output.

With a step size per sample the backward solve still takes one step for all samples, because a
parameter gradient per sample would not fit in memory. Where the output times differ, each
sample runs through its own interval in a time of its own, at most as fast as the true one.

Shapes: the backward state is one vector, ``(2 numel(y) + P,)``.
Units: ``a`` is loss per state, a parameter gradient loss per parameter. Their equations are
    linear, so cotangents are divided by the largest of them, and ``atol`` is a part of that.
Source: L. S. Pontryagin et al., "The Mathematical Theory of Optimal Processes", 1962; for
    networks R. T. Q. Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018,
    arXiv:1806.07366. Keeping parameters out of the error norm: P. Kidger, R. T. Q. Chen,
    T. Lyons, "Hey, that's not an ODE", ICML 2021, arXiv:2009.09457.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from odekit import (
    FlatField,
    GradientMethod,
    GradientWarning,
    IncompatibleError,
    Integrate,
    Problem,
    ProblemError,
    SolveError,
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
from odekit_gradients.drift import is_far
from odekit_gradients.reach import look_behind, pull_back
from odekit_gradients.unchanged import Witness


@final
class Adjoint(GradientMethod):
    """Backpropagate by integrating the adjoint ODE with the solver of the forward pass.

    Args:
        seminorm: leave the parameter gradient out of the error norm of the backward solve. It
            is a mere integral, so the steps it would ask for buy nothing; fewer evaluations.
        rtol: relative tolerance of the backward solve; None for that of the forward solve.
        atol: absolute tolerance of the backward solve; None for that of the forward solve.
        solver: of the backward solve, name or instance; None for that of the forward solve.
        controller: of the backward solve, name or instance; None for that of the forward solve.
        restart: ``"outputs"`` takes the state from the solution at every output time; None
            integrates it all the way back, as where the outputs are not to be relied on.

    Raises:
        ProblemError: another word for ``restart``.
    """

    def __init__(
        self,
        seminorm: bool = True,
        rtol: float | None = None,
        atol: float | None = None,
        solver: str | Solver | None = None,
        controller: str | StepController | None = None,
        restart: Literal["outputs"] | None = "outputs",
    ) -> None:
        if restart not in ("outputs", None):
            raise ProblemError(f"restart must be 'outputs' or None, got {restart!r}")
        self.seminorm, self.restart = seminorm, restart
        self.options = BackwardSolve("adjoint", solver, controller, rtol, atol)

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """Solve without a graph, then attach one node that runs the adjoint when asked.

        Raises:
            IncompatibleError: dense output where gradients are wanted, a complex parameter of a
                real field, parts that cannot serve a backward solve, or forward mode.
        """
        refuse_forward_mode(problem, "adjoint")
        if not torch.is_grad_enabled():
            return integrate(problem)
        params, shared, witness = look_behind(problem)
        problem = replace(problem, params=params)
        wanted = (problem.y0, problem.t, *problem.params)
        attach = any(x.requires_grad for x in wanted)
        back = self._prepare(problem) if attach else problem
        with torch.no_grad():
            detached = replace(problem, y0=problem.y0.detach(), t=problem.t.detach(), params=())
            trajectory = integrate(detached)
        if not attach:
            return trajectory
        t = problem.t if problem.save == "times" else trajectory.t
        failed = bool(trajectory.status.any())
        how = _Backward(problem, back, integrate, self, failed, shared, witness)
        y = _Backsolve.apply(  # type: ignore[no-untyped-call]
            how, trajectory.y, t, problem.y0, *problem.params
        )
        return replace(trajectory, y=y, t=t)

    def _prepare(self, problem: Problem) -> Problem:
        if not problem.y0.is_complex() and any(p.is_complex() for p in problem.params):
            raise IncompatibleError(
                "gradient='adjoint' cannot carry a complex parameter beside a real state; make y0 "
                "complex, or use gradient='interpolated' or 'unrolled'"
            )
        back = self.options.prepare(problem, resized=True)
        jumps = {*back.controller.jump_times, *problem.controller.jump_times}
        if problem.per_sample and (back.controller.step_times or jumps):
            rows = problem.t.detach()
            apart = problem.save == "steps" and len(rows) > 1
            if apart or not bool((rows == rows[:1]).all()):
                raise IncompatibleError(
                    "gradient='adjoint' cannot keep step_times or jump_times where output times "
                    "differ from sample to sample; use gradient='interpolated' or 'unrolled'"
                )
        count = sum(p.numel() for p in problem.params)
        rtol, atol = (_spread(x, problem.y0.shape, count) for x in (back.rtol, back.atol))
        return replace(back, rtol=rtol, atol=atol, per_sample=False)


@dataclass(frozen=True)
class _Backward:
    """What the backward pass needs to know, beside tensors."""

    problem: Problem
    back: Problem
    integrate: Integrate
    options: Adjoint
    failed: bool
    shared: bool
    witness: Witness


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
        params = how.problem.params
        ends = find_ends(
            y, grad_y, per_sample=how.problem.per_sample, failed=how.failed, one_scale=True
        )
        clock = torch.zeros_like(t) if ctx.needs_input_grad[2] else None
        if ends.last:
            how.witness.check()
        with how.witness.ambient.restored():
            a, grad_t, grad_p = _go_back(how, ends, t, clock)
        a, grad_t, [grad_p] = with_spoilt(ends, a, grad_t, [grad_p])
        parts = torch.split(grad_p, [p.numel() for p in params]) if params else ()
        grads = [
            _real_like(part, p).reshape(p.shape).to(p.dtype)
            for part, p in zip(parts, params, strict=True)
        ]
        return None, None, grad_t, a, *grads


def _go_back(
    how: _Backward, ends: Ends, t: Tensor, grad_t: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients by the start, the output times if asked for, and the parameters as one vector."""
    problem, y, field = how.problem, ends.y, how.problem.field
    a = torch.zeros_like(y[0])
    grad_p = y.new_zeros(sum(p.numel() for p in problem.params))
    if not ends.last:
        return a + ends.grad[0] * ends.scale, grad_t, grad_p
    control = continued(how.back, problem.controller.jump_times)
    state, drifted = y[ends.last], False
    for i in range(ends.last, 0, -1):
        if grad_t is not None:
            grad = ends.grad[i] * ends.scale
            grad_t[..., i] = along(field, beside(problem, t, i, -1), y[i], grad)
        a = a + ends.grad[i]
        if how.options.restart == "outputs":
            state = y[i]
        elif how.failed and problem.per_sample and i < ends.last:  # lanes that join only now
            state = torch.where(ends.lost[i + 1][:, None], y[i], state)
        leg = replace(how.back, controller=control, t=torch.stack([t[..., i], t[..., i - 1]]))
        state, a, grad_p = _leg(how, leg, ends.lost[i], (state, a, grad_p))
        drifted = drifted or is_far(problem, control.inner, state, y[i - 1], y[i])
    if drifted:
        warnings.warn(
            "gradient='adjoint': the state recovered on the way back is far from the solution, so "
            "this gradient is probably wrong, as it is on systems that forget where they came "
            "from; use gradient='interpolated' or 'checkpointed'",
            GradientWarning,
            stacklevel=2,
        )
    if grad_t is not None:
        grad_t[..., 0] = -along(field, beside(problem, t, 0, 1), y[0], a * ends.scale)
    return (a + ends.grad[0]) * ends.scale, grad_t, grad_p * ends.scale


def _leg(
    how: _Backward, leg: Problem, still: Tensor, parts: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """State, adjoint and parameter gradient at the end of ``leg``, from those at its start.

    A lane that is ``still``, or whose times are exhausted, does not move.
    """
    shape, n = parts[0].shape, parts[0].numel()
    start = rate = None
    if how.problem.per_sample:
        late, early = leg.t
        length = torch.where(still, 0.0, early - late)
        if bool((late == late[0]).all()) and bool((length == length[0]).all()):
            leg = replace(leg, t=leg.t[:, 0])
        else:
            longest = length.abs().max()
            if not bool(longest):
                return parts
            start, rate = late[:, None], (length / longest)[:, None]
            leg = replace(leg, t=torch.stack([torch.zeros_like(longest), longest]))
    z = torch.cat([part.reshape(-1) for part in parts])
    end = how.integrate(
        replace(
            leg,
            field=_augment(how, shape, start, rate),
            y0=z,
            controlled=2 * n if how.options.seminorm else None,
        )
    )
    error = end.failure("the adjoint's backward solve")
    if error is not None:
        raise SolveError(
            f"{error}; where the state cannot be recovered backwards use "
            "gradient='interpolated' or 'checkpointed'",
            error.status,
        )
    state, a, grad_p = torch.split(end.y[-1], [n, n, len(z) - 2 * n])
    return state.reshape(shape), a.reshape(shape), grad_p


def _spread(tolerance: Any, shape: torch.Size, count: int) -> Any:
    """A tolerance of the state, laid out for state, adjoint and parameter gradient."""
    if not isinstance(tolerance, Tensor):
        return tolerance
    part = tolerance.expand(shape).reshape(-1)
    return torch.cat([part, part, part.min().expand(count)])


def _augment(how: _Backward, shape: torch.Size, start: Any, rate: Any) -> FlatField:
    """The field of ``z = (y, a, dL/dp)``, ``(2 n + P,)``; ``start + s rate`` is the true time."""
    problem, n = how.problem, shape.numel()
    field, params = problem.field, problem.params

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
                slope = slope * rate.to(real(y).dtype)
        grads = pull_back(slope, (y, *params), -a, retain=how.shared)
        return torch.cat([part.reshape(-1).to(z.dtype) for part in (slope.detach(), *grads)])

    return augmented


def _real_like(x: Tensor, like: Tensor) -> Tensor:
    return x if like.is_complex() else real(x)
