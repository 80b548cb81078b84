"""The gradient that others are compared with: float64, tight tolerances, steps differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odekit.controller import StepController
from odekit.errors import OdekitError, ProblemError, SolveError
from odekit.field import State
from odekit.field_calls import TooSlow, counted
from odekit.registry import components, create, resolve
from odekit.solution import Solution
from odekit.solve import solve
from odekit.solver import Solver
from odekit.trees import flatten, leaves_of, map_leaves

TIGHT = 1e-12
"""Tolerance of the reference, unless what was asked for is within 1e4 of it."""

FLOOR = {torch.float64: 5e-14, torch.float32: 1e-6}
"""Below this a tolerance asks for less than the rounding of a step."""

WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
WIDE |= {torch.float16: torch.float64, torch.bfloat16: torch.float64}

DETACHED = (
    "loss does not depend on y in a way that can be differentiated: compute it from the rows that "
    "it is given, without detach(), item(), comparisons or whole numbers"
)


@dataclass(frozen=True)
class Question:
    """A solve, a loss of its rows, and what the loss is to be differentiated by.

    Attributes:
        field: the vector field.
        y0: the start; its leaves ask for gradients.
        t: output times.
        loss: of ``solution.y``, 0-d and real.
        params: parameters and args that ask for gradients.
        options: further arguments of ``solve``.
    """

    field: Callable[..., State]
    y0: State
    t: Any
    loss: Callable[[State], Tensor]
    params: tuple[Tensor, ...]
    options: dict[str, Any]

    @property
    def sources(self) -> list[Tensor]:
        """Everything that gradients are asked for."""
        return [*leaves_of(self.y0), *self.params]

    @property
    def dtype(self) -> torch.dtype:
        """The real dtype of the state."""
        dtype: torch.dtype = leaves_of(self.y0)[0].dtype
        return dtype.to_real() if dtype.is_complex else dtype

    def shortened(self, part: float) -> Question:
        """The same over a part of the span only."""
        t = torch.as_tensor(self.t, dtype=torch.float64)
        start = t[..., :1]
        return replace(self, t=(start + part * (t - start)).to(leaves_of(self.y0)[0].device))

    def solve(self, **options: Any) -> Solution:
        """The solution, with these options in place of the question's own."""
        given = {"params": self.params, **self.options, **options}
        return solve(self.field, self.y0, self.t, **given)

    def gradient(self, **options: Any) -> Tensor:
        """The whole gradient as one vector in float64."""
        return self.pull(self.loss(self.solve(**options).y))

    def pull(self, value: Tensor) -> Tensor:
        """The gradient of a loss by all sources, as one vector in float64.

        Raises:
            ProblemError: the loss depends on none of them.
        """
        sources = self.sources
        # What lies behind a source that was computed is the caller's and is needed again.
        keep = any(not x.is_leaf for x in sources)
        if not value.requires_grad:
            raise ProblemError(DETACHED)
        found = torch.autograd.grad(value, sources, retain_graph=keep, allow_unused=True)
        if all(x is None for x in found):
            raise ProblemError(DETACHED)
        whole = [
            torch.zeros_like(s) if x is None else x for s, x in zip(sources, found, strict=True)
        ]
        parts = [torch.view_as_real(x) if x.is_complex() else x for x in whole]
        return torch.cat([x.reshape(-1).to(torch.float64) for x in parts])


@dataclass(frozen=True)
class Reference:
    """What is taken for the truth.

    Attributes:
        gradient: one vector in float64.
        uncertainty: by how much, relative to its norm, it changes with 100 times the tolerance.
        words: how it was found.
    """

    gradient: Tensor
    uncertainty: float
    words: str

    def error(self, gradient: Tensor) -> float:
        """The relative 2-norm of what a gradient is off by."""
        gap = (gradient.to(self.gradient.device) - self.gradient).norm()
        size = self.gradient.norm()
        return float(gap / size) if float(size) > 0 else float(gap)


def find_reference(
    question: Question, solver: str | Solver, tensors: Sequence[Tensor], time_limit: float
) -> Reference:
    """The reference for a question; in float64 also where the question is not, if that works.

    Args:
        question: what is asked.
        solver: name or instance.
        tensors: all that the field may hold; they are float64 meanwhile.
        time_limit: seconds after which it is given up.

    Raises:
        ProblemError: it takes too long, or its gradient is not finite.
        SolveError: it does not reach the end.
    """
    chosen = resolve("solver", solver, Solver)
    name = solver if isinstance(solver, str) else type(solver).__name__
    try:
        with counted(question.field, chosen, time_limit) as (field, _):
            return _find(replace(question, field=field), chosen, name, tensors)
    except TooSlow as slow:
        raise ProblemError(
            f"the reference, by {name} with tight tolerances, was {slow}: give another solver with "
            "reference=, an implicit one where the field is stiff; or shorten t, or raise "
            "time_limit. A field that gives another slope when it is asked again, as with dropout, "
            "has no reference"
        ) from None
    except SolveError as error:
        error.args = (f"the reference, by {name} with tight tolerances: {error}",)
        raise


def _find(question: Question, solver: Solver, name: str, tensors: Sequence[Tensor]) -> Reference:
    """The reference, in float64 if that works."""
    why = ""
    if question.dtype is not torch.float64:
        try:
            with in_double(tensors):
                return _refine(_widened(question), solver, name, "")
        except (SolveError, TooSlow):
            raise
        except (OdekitError, RuntimeError, TypeError) as error:
            why = f", since in float64: {' '.join(str(error).split())[:120]}"
    return _refine(question, solver, name, why)


def _refine(question: Question, solver: Solver, name: str, why: str) -> Reference:
    options = question.options
    asked = [float(x) for x in leaves_of((options["rtol"], options["atol"])) if _is_number(x)]
    floor = FLOOR.get(question.dtype, 1e-3)
    tolerance = max(min(TIGHT, *(1e-4 * x for x in asked if x > 0), TIGHT), floor)
    control = options.get("controller")
    held = control if isinstance(control, StepController) else None
    times = {
        "step_times": held.step_times if held is not None else (),
        "jump_times": held.jump_times if held is not None else (),
    }
    names = {entry.name for entry in components("gradient")}
    chosen: dict[str, Any] = {
        "solver": solver,
        "gradient": "checkpointed" if "checkpointed" in names else "unrolled",
        "controller": create("controller", "integral", **times),
        "step_size": None,
        "max_steps": max(options["max_steps"], 1_000_000),
    }
    rough, fine = (
        question.gradient(**chosen, rtol=x, atol=x) for x in (100 * tolerance, tolerance)
    )
    if not bool(torch.isfinite(fine).all()):
        raise ProblemError(
            "the gradient of the loss is not finite where the loss itself is: look for a root or "
            "a logarithm of zero, or a division by zero, in the loss or the field"
        )
    size = float(fine.norm())
    gap = float((fine - rough).norm())
    dtype = str(question.dtype).removeprefix("torch.")
    words = f"{name} in {dtype}, rtol = atol = {tolerance:.0e}{why}"
    return Reference(fine, gap / size if size > 0 else gap, words)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) or (isinstance(x, Tensor) and x.dim() == 0)


def widen(x: Any) -> Any:
    """A tensor in double precision, asking for gradients if it did; anything else as it is."""
    if not isinstance(x, Tensor) or x.dtype not in WIDE:
        return x
    return x.detach().to(WIDE[x.dtype]).requires_grad_(x.requires_grad)


def _widened(question: Question) -> Question:
    """The question in double precision; its parameters have been widened in place."""
    options = dict(question.options)
    own = {id(x) for x in question.params}
    options["args"] = map_leaves(lambda x: x if id(x) in own else widen(x), options.get("args"))
    for name in ("rtol", "atol"):
        options[name] = map_leaves(widen, options[name])
    return replace(question, y0=map_leaves(widen, question.y0), options=options)


@contextmanager
def in_double(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Leaves in double precision while this lasts, then again with the numbers that they had.

    Raises:
        TypeError: one of them was computed from others, and cannot be made anew.
    """
    narrow = {id(x): x for x in tensors if x.dtype in WIDE}
    for x in narrow.values():
        if not x.is_leaf:
            raise TypeError("a tensor of the field was computed in single precision")
    before = [(x, x.data) for x in narrow.values()]
    try:
        for x, data in before:
            x.data = data.to(WIDE[data.dtype])
        yield
    finally:
        for x, data in before:
            x.data = data


def start_of(y0: State) -> State:
    """A copy of the start whose leaves ask for gradients; what cannot is left for ``solve``."""
    leaves = [x for x in flatten(y0)[0] if isinstance(x, Tensor)]
    smooth = [x for x in leaves if x.is_floating_point() or x.is_complex()]
    own = {id(x): x.detach().clone().requires_grad_() for x in smooth}
    return map_leaves(lambda x: own.get(id(x), x), y0)
