"""What the methods that solve an adjoint equation share: its solver, its start, its ends.

Both are gradients of the true flow, right up to the tolerance. Where the numbers computed are to
be differentiated, exactly, ``checkpointed`` and ``unrolled`` do that.

Shapes: rows and cotangents are ``(n, *state)``; ``t`` is ``(n,)``, or ``(lanes, n)`` per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from odekit import (
    FlatField,
    IncompatibleError,
    Problem,
    Solver,
    StepController,
    Trait,
    VectorField,
)
from odekit.doubling import StepDoubling
from odekit.registry import resolve
from odekit_gradients.continued import Continued
from odekit_gradients.transforms import refuse_transforms


@dataclass(frozen=True)
class BackwardSolve:
    """The choices for a backward solve; None takes that of the forward solve.

    Attributes:
        name: of the gradient method, for messages.
        solver: name or instance.
        controller: name or instance.
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    name: str
    solver: str | Solver | None = None
    controller: str | StepController | None = None
    rtol: float | None = None
    atol: float | None = None

    def prepare(self, problem: Problem, *, resized: bool) -> Problem:
        """The problem with the backward solver, controller and tolerances; all else as it was.

        Args:
            problem: the forward problem.
            resized: whether the backward state is laid out otherwise than ``problem.y0``.

        Raises:
            IncompatibleError: parts that cannot serve a backward solve.
        """
        self._check(problem)
        solver = problem.solver
        if self.solver is not None:
            solver = resolve("solver", self.solver, Solver)
        controller = problem.controller
        if self.controller is not None:
            controller = resolve("controller", self.controller, StepController)
        self._check_controller(controller, resized=resized)
        if type(solver).field_type is not VectorField:
            raise IncompatibleError(
                f"gradient={self.name!r} cannot use solver {type(solver).__name__} on the way "
                "back, since the adjoint's field has no parts to step apart; give it a solver of "
                f"its own, odekit.create('gradient', {self.name!r}, solver='tsit5'), or use "
                "gradient='checkpointed'"
            )
        if controller.solver_needs not in solver.traits:
            if type(solver).complete is not Solver.complete:
                raise IncompatibleError(
                    f"gradient={self.name!r}: controller {type(controller).__name__} needs an "
                    f"error estimate, which solver {type(solver).__name__} does not have; give "
                    "the backward solve another, such as solver='tsit5'"
                )
            solver = StepDoubling(solver)
        return replace(
            problem,
            solver=solver,
            controller=controller,
            rtol=problem.rtol if self.rtol is None else self.rtol,
            atol=problem.atol if self.atol is None else self.atol,
            params=(),
            memory=None,
            observer=None,
            save="times",
            dense=False,
        )

    def _check(self, problem: Problem) -> None:
        if problem.dense:
            raise IncompatibleError(
                f"gradient={self.name!r} carries gradients to the output times only, so "
                "solution(t) would have none; use gradient='unrolled', add the times to t, or "
                "leave out dense=True"
            )
        if Trait.STOCHASTIC in problem.solver.traits:
            raise IncompatibleError(
                f"gradient={self.name!r} needs a solution without noise, which solver "
                f"{type(problem.solver).__name__} does not give; use gradient='unrolled'"
            )

    def _check_controller(self, controller: StepController, *, resized: bool) -> None:
        """Tensors in a controller are steps of a replay, or tolerances laid out like the state."""
        held = [x for x in vars(controller).values() if isinstance(x, Tensor) and x.dim()]
        if not held or (not resized and Trait.ERROR_ESTIMATE in controller.solver_needs):
            return
        raise IncompatibleError(
            f"gradient={self.name!r} cannot use controller {type(controller).__name__} on the way "
            "back, since it holds tensors made for the forward solve; give tolerances to solve "
            "itself as rtol=..., atol=..., or give the backward solve a controller of its own, "
            f"odekit.create('gradient', {self.name!r}, controller='integral'), or use "
            "gradient='checkpointed'"
        )


def refuse_forward_mode(problem: Problem, name: str) -> None:
    """Refuse early the derivatives that a node of the graph would lose.

    Raises:
        IncompatibleError: inside a transform of ``torch.func``, or on dual numbers.
    """
    refuse_transforms(name)
    for x in (problem.y0, problem.t):
        tangent = forward_ad.unpack_dual(x).tangent  # type: ignore[no-untyped-call]
        if tangent is not None:
            raise IncompatibleError(
                f"gradient={name!r} has no forward-mode derivatives; use gradient='unrolled'"
            )


def continued(back: Problem, jump_times: tuple[float, ...]) -> Continued:
    """The controller of a backward pass, for all its solves."""
    return Continued(back.controller.with_tolerances(back.rtol, back.atol), jump_times)


class Ends(NamedTuple):
    """Rows and their cotangents, without what cannot count.

    Attributes:
        y: rows; those that were not reached repeat the start.
        grad: cotangents, divided by ``scale``; zero at rows that were not reached.
        scale: the largest cotangent, so that an absolute tolerance is a part of it: a number, or
            ``(lanes, 1)`` per sample, where no lane may depend on another.
        lost: ``(n, lanes)``, which rows were not reached; one column with a shared step size.
        last: the last row with a cotangent; 0 where the backward solve has nothing to do.
        spoilt: ``(lanes,)``, whose cotangents are not numbers; zero in ``grad``. One entry with a
            shared step size.
    """

    y: Tensor
    grad: Tensor
    scale: Tensor
    lost: Tensor
    last: int
    spoilt: Tensor


def find_ends(
    y: Tensor, grad_y: Tensor, *, per_sample: bool, failed: bool, one_scale: bool = False
) -> Ends:
    """Where the backward solve begins; with ``one_scale`` all lanes share theirs."""
    lanes = y.shape[1] if per_sample else 1
    lost = torch.zeros(len(y), lanes, dtype=torch.bool, device=y.device)
    if failed:
        good = torch.isfinite(y).reshape(len(y), lanes, -1).all(-1)
        lost = good.long().cumprod(0) == 0
        wide = lost if per_sample else lost[:, 0]
        wide = wide.reshape(*wide.shape, *(1,) * (y.dim() - wide.dim()))
        y, grad_y = torch.where(wide, y[0], y), torch.where(wide, 0, grad_y)
    spoilt = ~torch.isfinite(grad_y).reshape(len(y), lanes, -1).all(-1).all(0)
    grad_y = torch.where(spoilt[:, None] if per_sample else spoilt, 0, grad_y)
    size = grad_y.abs()
    scale = size.amax((0, 2))[:, None] if per_sample and not one_scale else size.max()
    scale = torch.where(scale > 0, scale, 1.0)
    used = (size.reshape(len(y), -1) > 0).any(1).nonzero()
    last = int(used[-1]) if len(used) else 0
    return Ends(y, grad_y / scale, scale, lost, last, spoilt)


def beside(problem: Problem, t: Tensor, i: int, side: int) -> Tensor:
    """The output time ``i``; where the field jumps, a little before (-1) or after it (1)."""
    jumps = torch.tensor(problem.controller.jump_times, dtype=t.dtype, device=t.device)
    if not len(jumps):
        return t[..., i]
    gap = 4 * torch.finfo(problem.y0.dtype).eps * t.abs().amax(-1)
    shift = side * torch.sign(t[..., -1] - t[..., 0]) * gap
    return torch.where(torch.isin(t[..., i], jumps), t[..., i] + shift, t[..., i])


def along(field: FlatField, t: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """``a . f(t, y)``, real: 0-d with a shared time, ``(lanes,)`` per sample."""
    with torch.no_grad():
        product = field(t[:, None] if t.dim() else t, y).conj() * a
    total = product.sum() if t.dim() == 0 else product.reshape(len(t), -1).sum(-1)
    return real(total).to(t.dtype)


def real(x: Tensor) -> Tensor:
    """The real part."""
    return x.real if x.is_complex() else x


def with_spoilt(
    ends: Ends, a: Tensor, grad_t: Tensor | None, grads: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Gradients that are NaN where the loss's own derivative is: a lane's own, and all shared."""
    if not bool(ends.spoilt.any()):
        return a, grad_t, list(grads)
    lane = ends.spoilt[:, None] if len(ends.spoilt) > 1 else ends.spoilt
    return (
        torch.where(lane, torch.nan, a),
        None if grad_t is None else torch.where(lane, torch.nan, grad_t),
        [torch.full_like(x, torch.nan) for x in grads],
    )
