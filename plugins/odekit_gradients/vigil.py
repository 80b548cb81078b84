"""Steps that are too long for the derivative, noticed on the way back.

The exact methods differentiate the numbers computed. Where a field damps something faster than an
explicit solver can follow with its steps, that part of a deviation grows from step to step instead
of dying out. In the solution it may be too small to be seen, so that the steps pass; the derivative
is the growth itself. It shows on the way back: the cotangent ``a`` of the state grows, and it grows
along directions for which the step is longer than the solver is stable for,
``|h| |J^T a| > limit |a|``. Both together are the alarm, since each alone has good reasons: chaos
makes a cotangent grow by steps that are short, and a loss may well put into it what is damped next.

Growth is measured against the smallest that the cotangent has been, and what the loss has added
since. Only where it is found the field is asked, by one vector-Jacobian product a place. Places are
few: the first steps, which a controller takes before it has seen an error, and some of the others.

What is not seen: a derivative that is wrong because the solution is; modes that turn rather than
decay; damped parts that remain as large as they were; solvers without a Butcher tableau.

Shapes: ``lanes`` is 1 with a shared step size; everything is judged lane by lane.
Units: ``a`` is loss per state.
Source: E. Hairer, G. Wanner, "Solving Ordinary Differential Equations II", 2nd ed., 1996, section
    IV.2, doi:10.1007/978-3-642-05221-7, for stability, whose estimate from the slopes of a step,
    there along the solution, is here one along the cotangent.
"""

from __future__ import annotations

import warnings
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from odekit import ButcherTableau, GradientWarning, Problem, Solver
from odekit.doubling import StepDoubling
from odekit_gradients.reach import find_sources, pull_back

GROWTH = 4.0
"""How many times larger a cotangent must have become before the field is asked."""

FAINT = 1e-4
"""A cotangent below this part of what the loss has put in is as good as nothing."""

SHARE = 0.1
"""What growth must add to a parameter's gradient, as a part of it, where none is of the start."""

EXACT = 1e-12
"""A difference that is smaller than this part of what was subtracted may be rounding."""

QUESTIONS = 8
"""Vector-Jacobian products in one backward pass, at most."""

EARLY = (0, 1, 3)
"""Steps at which to look in any case."""

SPREAD = 5
"""How many other steps there are to look at, at most."""

APART = 8
"""Steps between these, at least."""

FEW = 256
"""Rows up to which floats are looked at one by one faster than in arrays."""


def find_limit(solver: Solver) -> float | None:
    """The longest stable step of a field that decays at rate one; None where nobody knows."""
    tableau = getattr(solver, "tableau", None)
    if isinstance(tableau, ButcherTableau):
        return tableau.stability_limit
    inner = getattr(solver, "solver", None)
    if not isinstance(inner, Solver):
        return None
    limit = find_limit(inner)
    return 2 * limit if limit is not None and isinstance(solver, StepDoubling) else limit


def places_in(steps: int) -> list[int]:
    """At the start of which of so many steps to look."""
    others = range(0, steps, max(APART, -(-steps // (SPREAD + 1))))
    return sorted({x for x in (*EARLY, *others) if x < steps})


def is_calm(sizes: Any) -> bool:
    """Whether norms of cotangents, one row a place, are so alike that nobody needs to look."""
    return not bool((sizes.max(0) > GROWTH * sizes.min(0)).any())


def has_grown(t: list[float], rows: list[float], places: list[float], sizes: list[float]) -> bool:
    """Whether `Vigil.look` would find, at one of all places, that a cotangent has grown.

    For one lane, in floats: it is asked on every way back, where small arrays take longer.

    Args:
        t: times of the rows.
        rows: norms of the loss's derivative by each.
        places: times from the last to the first.
        sizes: norms of the cotangents there.
    """
    sign, low, added, left = -1.0 if t[-1] < t[0] else 1.0, 0.0, 0.0, len(rows)
    for at, size in zip(places, sizes, strict=True):
        while left and sign * (t[left - 1] - at) >= 0:
            left -= 1
            added += rows[left]
        if _is_grown(size, max(added + low, EXACT * added), added):
            return True
        low = min(low, size - added)
    return False


def _is_grown(size: Any, before: Any, added: Any) -> Any:
    """Whether a cotangent is much larger than it was, and not as good as nothing; by lane."""
    return (size > GROWTH * before) & (size > FAINT * added) & (before > 0)


def norms(x: Tensor, lanes: int) -> Any:
    """Of the rows of ``x``, lane by lane, ``(rows, lanes)``."""
    flat = x.detach().reshape(len(x), lanes, -1)
    double = torch.complex128 if x.is_complex() else torch.float64
    return _array(torch.linalg.vector_norm(flat, dim=-1, dtype=double))


@final
class Vigil:
    """Looks at the cotangents of one backward pass, from the last to the first.

    Args:
        problem: what was solved.
        limit: of the solver.
        name: of the gradient method, for the warning.
        by_start: whether the start wants its gradient; None if it does where it asks for it.
    """

    def __init__(
        self, problem: Problem, limit: float, name: str, by_start: bool | None = None
    ) -> None:
        self.problem, self.limit, self.name = problem, limit, name
        self.by_start = problem.y0.requires_grad if by_start is None else by_start
        self.lanes = len(problem.y0) if problem.per_sample else 1
        t = _array(problem.t)
        reach = t[..., -1] - t[..., 0]
        self.sign = -1.0 if (reach < 0).any() else 1.0
        self.span = float(abs(reach).max())
        self.asked, self.doubtful = 0, False
        self.rows: tuple[Any, Any] | None = None
        self.base: Tensor | None = None
        self.low: Any = 0.0
        self.late: Any = 0.0

    @classmethod
    def of(cls, problem: Problem, name: str) -> Vigil | None:
        """One for the problem; None where there is nothing to compare steps with."""
        limit = find_limit(problem.solver)
        return None if limit is None else cls(problem, limit, name)

    def open(self, t: Tensor, grad_y: Tensor) -> None:
        """Hear of the loss.

        Args:
            t: times of the rows, ``(n,)`` or ``(lanes, n)``.
            grad_y: the loss's derivative by the rows.
        """
        times = self.sign * _array(t)
        times = times.T if times.ndim == 2 else times[:, None]
        self.rows, self.late = (times, norms(grad_y, self.lanes)), times[-1]
        self.base = grad_y.detach()[-1]

    def look(self, t: Any, h: Any, y: Tensor, a: Tensor, size: Any = None) -> None:
        """Look at the start of a step.

        Args:
            t: the time, a float or 0-d, or one for each lane.
            h: the signed length of the step, likewise.
            y: the state.
            a: its cotangent.
            size: the norm of that, where it is known.
        """
        if self.rows is None:
            return
        size, added = self._norm(a) if size is None else size, self._added(t)
        before = np.maximum(added + self.low, EXACT * added)
        less = size - added < self.low
        if less.all():
            self.base = a.detach()
        elif less.any() and self.base is not None:
            self.base = torch.where(self._wide(less, a), a.detach(), self.base)
        self.low = np.minimum(self.low, size - added)
        late, self.late = self.late, self.sign * _array(t).reshape(-1)
        grown = _is_grown(size, before, added)
        if (size <= FAINT * added).all():  # whatever had grown has died out before the start
            self.doubtful = False
        if self.doubtful or self.asked >= QUESTIONS or not grown.any():
            return
        with torch.random.fork_rng([y.device] if y.is_cuda else []), torch.enable_grad():
            at, a = y.detach().requires_grad_(), a.detach()
            time = torch.as_tensor(t, dtype=torch.float64, device=y.device).detach()
            slope = self.problem.field(time.reshape((-1, 1) if self.problem.per_sample else ()), at)
            (pulled,) = pull_back(slope, (at,), a)
            self.asked += 1
            wrong = grown & (abs(_array(h).reshape(-1)) * self._norm(pulled) > self.limit * size)
            if wrong.any() and self._matters(wrong, at, slope, a, before, late):
                self.doubtful = True

    def _added(self, t: Any) -> Any:
        """What the loss has put in behind a time, ``(lanes,)``."""
        if self.rows is None:
            return np.zeros(self.lanes)
        times, sizes = self.rows
        return np.where(times >= self.sign * _array(t).reshape(-1), sizes, 0).sum(0)

    def _matters(
        self, wrong: Any, at: Tensor, slope: Tensor, a: Tensor, before: Any, late: Any
    ) -> bool:
        """Whether what has grown is in a gradient that was asked for.

        That of the start consists of it. In those of parameters it is multiplied by what they do
        to the slope, which may be nothing: then they are what the cotangent would make of them
        as small as it was.
        """
        if self.by_start:
            return True
        sources = find_sources(slope, self.problem.params).values()
        params = [x for x in sources if x is not at]
        if self.base is None or not params:
            return False
        self.asked += 2
        size = self._norm(self.base)
        scale = np.divide(before, size, out=np.zeros_like(size), where=size > 0)
        found = pull_back(slope, params, torch.where(self._wide(wrong, a), a, 0))
        usual = pull_back(slope, params, self.base * self._wide(scale, a).to(a.real.dtype))
        here, there = (sum(float(x.abs().square().sum()) for x in g) ** 0.5 for g in (found, usual))
        part = float(abs(late - self.late)[wrong].max()) / self.span
        return bool(here > GROWTH * there and here * part > SHARE * there)

    def close(self) -> None:
        """Warn if there is reason to."""
        if not self.doubtful:
            return
        warnings.warn(
            f"gradient={self.name!r}: some steps are longer than "
            f"{type(self.problem.solver).__name__} is stable for, in directions that the gradient "
            "uses. The solution hides it, but this gradient is that of the numbers computed and "
            "far from that of the flow; use gradient='interpolated', or smaller tolerances or "
            "step_size",
            GradientWarning,
            stacklevel=2,
        )

    def _norm(self, x: Tensor) -> Any:
        return norms(x[None], self.lanes)[0]

    def _wide(self, x: Any, like: Tensor) -> Tensor:
        """By lane, as it broadcasts against a state."""
        found = torch.as_tensor(x, device=like.device)
        return found[:, None] if self.problem.per_sample else found.reshape(())


def _array(x: Any) -> Any:
    """Numbers where Python can look at them."""
    return x.detach().numpy(force=True) if isinstance(x, Tensor) else np.asarray(x)
