"""The point of rest near the end of a solve: Newton's method, and what the linear algebra tells.

Newton's method is started at the end of the solve and takes it to the root of the field, at rest in
time, to rounding. A root is taken for the end only where it is near, and where the eigenvalues of
``df/dy`` are at hand only where it is stable and alone: elsewhere the solve would not have stayed,
or would have come to rest at another point had it started elsewhere.

Shapes: ``(lanes, k)`` real entries, one lane with a shared step size; matrices ``(lanes, k, k)``.
Units: ``df/dy`` is one over time.
Source: C. T. Kelley, "Solving Nonlinear Equations with Newton's Method", SIAM, 2003,
    doi:10.1137/1.9780898718898.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, final

import torch
from torch import Tensor

from odekit import Problem, SolveError, Status, Trajectory
from odekit_gradients.backward import beside
from odekit_gradients.krylov import solve_krylov
from odekit_gradients.reach import pull_back
from odekit_gradients.tangents import Batching, Linearised, real_size, units

FAR = 100.0
"""Tolerances between the end of the solve and the root, to be at rest no longer."""


class RootSearch(NamedTuple):
    """Limits of the search.

    Attributes:
        dense_up_to: entries up to which the matrix ``df/dy`` is formed.
        newton_steps: allowed for polishing.
        krylov_steps: products allowed in one solution by GMRES.
    """

    dense_up_to: int
    newton_steps: int
    krylov_steps: int


@dataclass(frozen=True)
class Root:
    """Where a problem came to rest.

    Attributes:
        problem: what was solved.
        search: how it was found.
        y: the root, or the start in lanes that have none.
        t: the time there, as the field wants it.
        good: ``(lanes,)``, which lanes came to rest.
        jacobian: ``(lanes, k, k)``, the identity in lanes that have none; None if it is too large.
    """

    problem: Problem
    search: RootSearch
    y: Tensor
    t: Tensor
    good: Tensor
    jacobian: Tensor | None

    def back(self, cotangent: Tensor) -> Tensor:
        """``x`` with ``(df/dy)^T x = cotangent``, like the state.

        Raises:
            SolveError: GMRES did not get there.
        """
        per_sample = self.problem.per_sample
        b = torch.where(self.good[:, None], _in_lanes(cotangent, per_sample), 0.0)
        if self.jacobian is not None:
            return _like(torch.linalg.solve(self.jacobian.mT, b), self.y)
        with torch.enable_grad():
            y = self.y.detach().requires_grad_()
            value = self.problem.field(self.t, y)

        def send(u: Tensor) -> Tensor:
            return _in_lanes(pull_back(value, [y], _like(u, y))[0], per_sample)

        x, done = solve_krylov(send, b, tolerance=_tolerance(b), limit=self.search.krylov_steps)
        if not bool(done.all()):
            raise SolveError(
                "gradient='steady_state': GMRES did not solve for the gradient within "
                f"krylov_steps={self.search.krylov_steps}; raise that, or dense_up_to to at "
                f"least {b.shape[-1]}",
                Status.NOT_AT_REST,
            )
        return _like(x, self.y)


def find_root(problem: Problem, trajectory: Trajectory, search: RootSearch) -> Root:
    """The root near the end of every lane that got there."""
    reached = trajectory.status == 0
    mask = reached[:, None] if problem.per_sample else reached[0]
    start = torch.where(mask, trajectory.y[-1], problem.y0.detach())
    t = beside(problem, problem.t.detach(), problem.t.shape[-1] - 1, -1)
    t = t[:, None] if t.dim() else t
    size = real_size(start[0] if problem.per_sample else start)
    dense = size <= search.dense_up_to
    mode = Batching("steady_state")
    y, good = _newton(problem, search, t, start, reached, mode if dense else None)
    found = Root(problem, search, y, t, good, None)
    if not dense:
        return found
    jacobian = _Local(problem, t, y, mode).matrix()
    ahead = torch.sign(problem.t.detach()[..., -1] - problem.t.detach()[..., 0]).reshape(-1)
    fine = good & torch.isfinite(jacobian).flatten(1).all(-1)
    one = torch.eye(size, dtype=jacobian.dtype, device=jacobian.device)
    jacobian = torch.where(fine[:, None, None], jacobian, one)
    fine = fine & _is_stable(jacobian * ahead.to(jacobian.dtype)[:, None, None])
    y = torch.where(fine[:, None] if problem.per_sample else fine[0], y, problem.y0.detach())
    return replace(found, y=y, good=fine, jacobian=torch.where(fine[:, None, None], jacobian, one))


def _newton(
    problem: Problem,
    search: RootSearch,
    t: Tensor,
    start: Tensor,
    reached: Tensor,
    mode: Batching | None,
) -> tuple[Tensor, Tensor]:
    """Newton's method from the end of the solve: the root, and where it is near and certain."""
    per_sample = problem.per_sample
    y, active, before = start, reached, torch.full_like(reached, torch.inf, dtype=torch.float64)
    last = before
    eps = torch.finfo(start.dtype).eps
    for _ in range(search.newton_steps):
        here = _Local(problem, t, y, mode)
        change, solved = here.newton_step(search.krylov_steps)
        change = torch.where((active & solved)[:, None], change, 0.0)
        moved = torch.where(active, torch.linalg.vector_norm(change, dim=-1).double(), 0.0)
        y = y + _like(change, y)
        last = torch.where(active, torch.where(solved, moved, torch.inf), last)
        size = torch.linalg.vector_norm(_in_lanes(y, per_sample), dim=-1)
        # Where it no longer shrinks, what is left is rounding, or there is no root.
        active = active & solved & (moved > 4 * eps * size) & (moved < 0.5 * before)
        before = moved
        if not bool(active.any()):
            break
    scale = _scale(problem, y)
    count = scale.shape[-1] ** 0.5
    away = _in_lanes(y - start, per_sample) / scale
    distance = torch.linalg.vector_norm(away, dim=-1) / count
    certain = last <= torch.linalg.vector_norm(scale, dim=-1)
    good = reached & certain & (distance <= FAR) & torch.isfinite(away).all(-1)
    kept = good[:, None] if per_sample else good[0]
    return torch.where(kept, y, problem.y0.detach()), good


@final
class _Local:
    """The field around a point: its value and its derivative, in lanes of real numbers."""

    def __init__(self, problem: Problem, t: Tensor, y: Tensor, mode: Batching | None) -> None:
        self.problem, self.t, self.y, self.mode = problem, t, y, mode

    def newton_step(self, limit: int) -> tuple[Tensor, Tensor]:
        """The change that leads to the root of the tangent, ``(lanes, k)``, and where it exists."""
        per_sample = self.problem.per_sample
        if self.mode is not None:
            jacobian = self.matrix()
            change, info = torch.linalg.solve_ex(jacobian, -self.value)
            return change, (info == 0) & torch.isfinite(change).all(-1)
        here = Linearised(self.problem.field, self.t, self.y, (), Batching("steady_state"))

        def push(v: Tensor) -> Tensor:
            return _in_lanes(here.push(_like(v, self.y)[None])[0], per_sample)

        b = -_in_lanes(here.slope, per_sample)
        return solve_krylov(push, b, tolerance=_tolerance(b), limit=limit)

    def matrix(self) -> Tensor:
        """``df/dy``, ``(lanes, k, k)``; lanes do not meet, so each row serves all of them."""
        y, per_sample = self.y, self.problem.per_sample
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            value = self.problem.field(self.t, y)
        self.value = _in_lanes(value.detach(), per_sample)
        one = y[0] if per_sample else y
        along = units(one, real_size(one))
        if per_sample:
            along = along[:, None].expand(-1, *y.shape)
        if not value.requires_grad or self.mode is None:
            return self.value.new_zeros(*self.value.shape, self.value.shape[-1])
        rows = self.mode.transpose([(value, along)], y)
        return torch.stack([_in_lanes(row, per_sample) for row in rows], 1)


def _is_stable(jacobian: Tensor) -> Tensor:
    """Which of the matrices ``(lanes, k, k)`` have all eigenvalues left of zero, clear of it."""
    slack = jacobian.shape[-1] * torch.finfo(jacobian.dtype).eps
    values = torch.linalg.eigvals(jacobian)
    spread = torch.linalg.svdvals(jacobian)
    left: Tensor = values.real.amax(-1) < -slack * values.abs().amax(-1)
    isolated: Tensor = spread[:, -1] > slack * spread[:, 0]
    return left & isolated


def _scale(problem: Problem, y: Tensor) -> Tensor:
    """What the solve's tolerances allow, ``(lanes, k)``."""
    control = problem.controller.with_tolerances(problem.rtol, problem.atol)
    # A controller that was given tolerances of its own says so in these attributes.
    rtol, atol = (getattr(control, x, getattr(problem, x)) for x in ("rtol", "atol"))
    scale: Tensor = atol + rtol * y.abs()
    if y.is_complex():
        scale = torch.stack([scale, scale], -1)
    lanes = len(y) if problem.per_sample else 1
    least = torch.finfo(scale.dtype).tiny  # with atol=0 an entry may be and stay zero
    return torch.clamp(scale.reshape(lanes, -1), min=least)


def _tolerance(b: Tensor) -> float:
    return 64 * torch.finfo(b.dtype).eps


def _in_lanes(x: Tensor, per_sample: bool) -> Tensor:
    """A state as real numbers, ``(lanes, k)``."""
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    return x.reshape(len(x) if per_sample else 1, -1)


def _like(x: Tensor, y: Tensor) -> Tensor:
    """``(lanes, k)`` of real numbers as a state."""
    if y.is_complex():
        return torch.view_as_complex(x.reshape(*y.shape, 2))
    return x.reshape(y.shape)
