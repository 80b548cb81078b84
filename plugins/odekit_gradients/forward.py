"""Forward sensitivities: the derivative of the state travels with the state.

Beside ``y`` the solver carries ``S = dy/dp`` for every number ``p`` that gradients are asked of:
the entries of the start, of the parameters, and the start time. It obeys the field's own
derivative, ``dS/dt = (df/dy) S + df/dp``. The step-size control sees ``y`` alone, so the steps
are those of the plain solve, and since a Runge-Kutta method commutes with differentiation by
start and parameters the result is the exact gradient of the numbers computed, to rounding. Output
times get ``dL/dt_i = dL/dy(t_i) f(t_i, y_i)`` and the start time ``-(dy_i/dy_0) f(t_0, y_0)``, the
derivatives of the true flow.

The backward pass solves nothing, it is one contraction with the sensitivities of the rows; memory
does not grow with the number of steps. The price grows with the number of directions, all of
which are carried through every step: for a handful of parameters, or a small state, this is the
method; for a network take ``checkpointed``. With a shared step size every entry of the whole batch
is a direction of its own, since nothing is known about who meets whom in the field; with
``per_sample=True`` those of one sample are. The field must be differentiable twice in reverse
mode. `odekit.flow_jacobian` gives the sensitivities themselves.

Shapes: ``m`` directions; beside a state of ``N`` entries the solver carries ``(N (1 + m),)``, per
    sample ``(lanes, dim (1 + m))``.
Units: a sensitivity is state per unit of what it is the derivative by.
Source: E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd ed.,
    1993, section I.14, doi:10.1007/978-3-540-78862-1; carried by the same solver, A. C. Hindmarsh
    et al., "SUNDIALS", ACM Transactions on Mathematical Software 31, 2005, pp. 363-396,
    doi:10.1145/1089014.1089020.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from odekit import (
    FlatField,
    GradientMethod,
    IncompatibleError,
    Integrate,
    Observer,
    Problem,
    Trait,
    Trajectory,
    VectorField,
)
from odekit_gradients.backward import beside, refuse_forward_mode
from odekit_gradients.beheld import Beheld
from odekit_gradients.reach import look_behind
from odekit_gradients.tangents import Batching, Linearised, real_size, units


@final
class Forward(GradientMethod):
    """Solve for the sensitivities along with the state."""

    for_few = True

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """Solve once, then attach one node that holds the sensitivities of the rows.

        Raises:
            IncompatibleError: dense output where gradients are wanted, a solver with noise or one
                that takes the field apart, a field that cannot be differentiated twice, or
                forward mode.
        """
        refuse_forward_mode(problem, "forward")
        if not torch.is_grad_enabled():
            return integrate(problem)
        problem = replace(problem, params=look_behind(problem).params)
        if not any(x.requires_grad for x in (problem.y0, problem.t, *problem.params)):
            return integrate(problem)
        trajectory, tangents = _solve(problem, integrate)
        t = problem.t if problem.save == "times" else trajectory.t
        slopes = _slopes(problem, trajectory.y) if problem.t.requires_grad else None
        lost = _lost(trajectory.y, problem.per_sample) if bool(trajectory.status.any()) else None
        held = _Held(tangents, slopes, lost, problem.per_sample)
        y = _Contracted.apply(  # type: ignore[no-untyped-call]
            held, trajectory.y, t, problem.y0, *problem.params
        )
        return replace(trajectory, y=y, t=t)

    def sensitivities(self, problem: Problem, integrate: Integrate) -> tuple[Trajectory, Tensor]:
        """The solution without a graph, and the derivative of every row by every number.

        Those are the real entries of ``problem.y0`` if it asks for gradients (one sample's,
        where each has its own steps), then those of ``problem.params``, in this order.

        Returns:
            The trajectory and ``(n, m, *y0.shape)``; zero in rows that were not reached.
        """
        return _solve(replace(problem, t=problem.t.detach()), integrate)


@dataclass(frozen=True)
class _Layout:
    """How state and sensitivities share one tensor, each behind any leading axes."""

    shape: torch.Size
    count: int
    per_sample: bool

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """State ``(..., *shape)`` and sensitivities ``(..., m, *shape)``."""
        size = self.shape[-1] if self.per_sample else self.shape.numel()
        lead = z.shape[: -2 if self.per_sample else -1]
        y = z[..., :size].reshape((*lead, *self.shape))
        if self.per_sample:
            return y, z[..., size:].reshape(*z.shape[:-1], self.count, size).transpose(-3, -2)
        return y, z[..., size:].reshape((*lead, self.count, *self.shape))

    def join(self, y: Tensor, tangents: Tensor) -> Tensor:
        """One tensor of a state and its sensitivities, without leading axes."""
        if self.per_sample:
            return torch.cat([y, tangents.transpose(0, 1).reshape(len(y), -1)], -1)
        return torch.cat([y.reshape(-1), tangents.reshape(-1)])


def _solve(problem: Problem, integrate: Integrate) -> tuple[Trajectory, Tensor]:
    """Rows and sensitivities ``(n, m, *shape)``: by the start, the parameters, the start time."""
    _check(problem)
    with torch.no_grad():
        plain = replace(problem, y0=problem.y0.detach(), t=problem.t.detach(), params=())
        first = _first_tangents(problem)
        layout = _Layout(problem.y0.shape, len(first), problem.per_sample)
        control = problem.controller.with_tolerances(problem.rtol, problem.atol)
        trajectory = integrate(
            replace(
                plain,
                field=_augment(problem, layout),
                y0=layout.join(plain.y0, first),
                controller=Beheld(control, layout.split, layout.join),
                observer=_told(problem.observer, layout),
                controlled=None,
            )
        )
        y, tangents = layout.split(trajectory.y)
        last = None if trajectory.last is None else layout.split(trajectory.last)[0]
        trajectory = replace(trajectory, y=y.contiguous(), last=last, memory=None)
        if bool(trajectory.status.any()):
            seen = integrate(replace(plain, observer=None))
            tangents = _restored(tangents, seen.y, per_sample=problem.per_sample)
            trajectory = replace(seen, memory=None)
    return trajectory, tangents


def _check(problem: Problem) -> None:
    name = type(problem.solver).__name__
    if problem.dense:
        raise IncompatibleError(
            "gradient='forward' carries gradients to the output times only, so solution(t) would "
            "have none; use gradient='unrolled', add the times to t, or leave out dense=True"
        )
    if type(problem.solver).field_type is not VectorField:
        raise IncompatibleError(
            f"gradient='forward' cannot use solver {name}, since the sensitivities have no parts "
            "to step apart; use gradient='checkpointed', or solver='tsit5'"
        )
    if Trait.STOCHASTIC in problem.solver.traits:
        raise IncompatibleError(
            f"gradient='forward' needs a solution without noise, which solver {name} does not "
            "give; use gradient='unrolled'"
        )
    if problem.memory is not None:
        raise IncompatibleError(
            "gradient='forward' cannot go on from the memory of an earlier solve, which knows "
            "nothing of sensitivities; use gradient='unrolled', or begin afresh"
        )


def _first_tangents(problem: Problem) -> Tensor:
    """Sensitivities of the start, ``(m, *shape)``."""
    y = problem.y0.detach()
    parts = []
    if problem.y0.requires_grad:
        if problem.per_sample:
            one = units(y[0], real_size(y[0]))
            parts.append(one[:, None].expand(-1, len(y), -1))
        else:
            parts.append(units(y, real_size(y)))
    count = sum(map(real_size, problem.params))
    parts.append(y.new_zeros(count, *y.shape))
    if problem.t.requires_grad:
        t = beside(problem, problem.t.detach(), 0, 1)
        parts.append(-problem.field(t[:, None] if t.dim() else t, y)[None])
    return torch.cat(parts)


def _augment(problem: Problem, layout: _Layout) -> FlatField:
    """The field of state and sensitivities together."""
    field, params, mode = problem.field, problem.params, Batching("forward")
    y = problem.y0
    first = 0
    if y.requires_grad:
        first = real_size(y[0] if problem.per_sample else y)

    def augmented(t: Tensor, z: Tensor) -> Tensor:
        y, tangents = layout.split(z)
        here = Linearised(field, t, y.contiguous(), params, mode)
        return layout.join(here.slope, here.push(tangents, first))

    return augmented


def _told(observer: Observer | None, layout: _Layout) -> Observer | None:
    if observer is None:
        return None
    return lambda seen: observer(seen._replace(y=layout.split(seen.y)[0], memory=None))


def _restored(tangents: Tensor, seen: Tensor, *, per_sample: bool) -> Tensor:
    """Sensitivities of a solve that failed: zero where the plain one failed as well, else NaN.

    A field may be finite where its derivative is not.
    """
    rows = min(len(tangents), len(seen))
    full = tangents.new_full((len(seen), *tangents.shape[1:]), torch.nan)
    full[:rows] = tangents[:rows]
    return torch.where(_wide(_lost(seen, per_sample), full), 0, full)


def _lost(y: Tensor, per_sample: bool) -> Tensor:
    """``(n, lanes)``, which rows were not reached; ``(n, 1)`` with a shared step size."""
    lanes = y.shape[1] if per_sample else 1
    good = torch.isfinite(y).reshape(len(y), lanes, -1).all(-1)
    return good.long().cumprod(0) == 0


def _wide(lost: Tensor, tangents: Tensor) -> Tensor:
    """``lost`` so that it broadcasts against ``(n, m, *shape)``."""
    if lost.shape[1] == 1:
        return lost.reshape(len(lost), *(1,) * (tangents.dim() - 1))
    return lost[:, None, :, None]


def _slopes(problem: Problem, y: Tensor) -> Tensor:
    """The field at every row, ``(n, *shape)``; zero in the first and where none was reached."""
    slopes = torch.zeros_like(y)
    t, start = problem.t.detach(), problem.y0.detach()
    lost = _lost(y, problem.per_sample)
    with torch.no_grad():
        for i in range(1, len(y)):
            at, gone = beside(problem, t, i, -1), lost[i]
            gone = gone[:, None] if problem.per_sample else gone[0]
            slope = problem.field(at[:, None] if at.dim() else at, torch.where(gone, start, y[i]))
            slopes[i] = torch.where(gone, 0, slope)
    return slopes


class _Held(NamedTuple):
    """What the backward pass needs, on the way to the node."""

    tangents: Tensor
    slopes: Tensor | None
    lost: Tensor | None
    per_sample: bool


class _Contracted(torch.autograd.Function):
    """Forward: hand ``y`` over untouched. Backward: cotangents times sensitivities."""

    @staticmethod
    def forward(ctx: Any, held: _Held, y: Tensor, t: Tensor, y0: Tensor, *params: Tensor) -> Tensor:
        ctx.per_sample, ctx.start = held.per_sample, y0.requires_grad
        ctx.likes = [(p.shape, p.dtype) for p in params]
        ctx.save_for_backward(held.tangents, held.slopes, held.lost)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the answer would lack its own graph
            raise IncompatibleError(
                "gradient='forward' has no second derivatives; use gradient='unrolled'"
            )
        tangents, slopes, lost = ctx.saved_tensors
        if lost is not None:
            grad_y = torch.where(_wide(lost, tangents)[:, 0], 0, grad_y)
        shape, dtype = grad_y.shape[1:], grad_y.dtype
        seen = _in_lanes(grad_y, 1, ctx.per_sample)
        grad_t = grad_y0 = None
        if slopes is not None:
            # The first row is the start whenever that is, and depends on no time.
            seen_later, moving = seen[1:], _in_lanes(tangents[1:, -1], 1, ctx.per_sample)
            tangents = tangents[:, :-1]
            grad_t = torch.einsum("ilk,ilk->li", _in_lanes(slopes, 1, ctx.per_sample), seen)
            grad_t[:, 0] = torch.einsum("ilk,ilk->l", moving, seen_later)
            grad_t = (grad_t if ctx.per_sample else grad_t[0]).double()
        found = torch.einsum("imlk,ilk->lm", _in_lanes(tangents, 2, ctx.per_sample), seen)
        if ctx.start:
            size = seen.shape[-1]
            grad_y0, found = _as(found[:, :size], shape, dtype), found[:, size:]
        sizes = [shape.numel() * (2 if dtype.is_complex else 1) for shape, dtype in ctx.likes]
        parts = torch.split(found.sum(0), sizes) if sizes else ()
        grads = [_as(part, *like) for part, like in zip(parts, ctx.likes, strict=True)]
        return None, None, grad_t, grad_y0, *grads


def _in_lanes(x: Tensor, lead: int, per_sample: bool) -> Tensor:
    """Real numbers, ``(..., lanes, k)``, of states behind ``lead`` axes."""
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    size = x.shape[lead + per_sample :].numel()
    return x.reshape(*x.shape[:lead], x.shape[lead] if per_sample else 1, size)


def _as(x: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Real numbers as a tensor of this shape and dtype."""
    if dtype.is_complex:
        return torch.view_as_complex(x.reshape(*shape, 2).contiguous()).to(dtype)
    return x.reshape(shape).to(dtype)
