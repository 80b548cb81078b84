"""Orders of convergence, measured: errors over a ladder of step sizes and the slope of their logs.

Errors near rounding say nothing about a method and errors of long steps little; so the ladder
ends when an error drops to the floor, and the slope is that of its last rungs above it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from odekit.solver import FlatField, Solver, Step
from odekit.testing.cases import Case
from odekit.testing.conformance import ConformanceError, NotApplicable

FLOOR = 2e-13
"""Errors below this are rounding as much as method, in double precision and states of order one."""

LOCAL_FLOOR = 1e-14
"""The same for one step, in which less rounding adds up."""

LADDER = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
RUNGS = 3


def clock(t: float) -> Tensor:
    """The 0-d time that a field sees."""
    return torch.tensor(t, dtype=torch.float64)


def march(
    solver: Solver, field: FlatField, y: Tensor, span: tuple[float, float], steps: int
) -> Tensor:
    """The state at the end of the span after equal steps."""
    start, h = span[0], (span[1] - span[0]) / steps
    state = solver.init(field, clock(start), y)
    for i in range(steps):
        step = solver.step(field, clock(start + i * h), h, y, state)
        y, state = step.y, step.state
    return y


def single_step(solver: Solver, case: Case, h: float) -> tuple[Tensor, Step]:
    """One step of length ``h`` from the exact start: start and step."""
    t, y = clock(case.span[0]), case.exact(case.span[0])
    h = math.copysign(h, case.span[1] - case.span[0])
    return y, solver.step(case.field, t, h, y, solver.init(case.field, t, y))


def global_slope(solver: Solver, case: Case) -> float:
    """The order of the error at the end of the span."""
    end = case.exact(case.span[1])

    def error(steps: int) -> float:
        return root_mean_square(
            march(solver, case.field, case.exact(case.span[0]), case.span, steps), end
        )

    return -slope((steps, error(steps)) for steps in LADDER)


def local_slope(error: Callable[[float], float]) -> float:
    """The power with which an error shrinks with the length of one step."""
    return slope(((h, error(h)) for h in (0.8 * 2 ** (-k / 2) for k in range(30))), LOCAL_FLOOR)


def slope(errors: Iterable[tuple[float, float]], floor: float = FLOOR) -> float:
    """Least-squares slope of the logs over the last rungs above the floor.

    Raises:
        ConformanceError: the error is not finite.
        NotApplicable: the error is at rounding from the start, so nothing can be measured.
    """
    rungs: list[tuple[float, float]] = []
    lost = False
    for size, error in errors:
        if not math.isfinite(error):  # the longest steps of a method that is right may overflow
            rungs, lost = [], True
            continue
        if error <= floor:
            break
        rungs.append((math.log(size), math.log(error)))
    if len(rungs) < 3:
        if lost:
            raise ConformanceError("the error is not finite, however short the steps")
        raise NotApplicable("the error is at rounding for every step size")
    x, y = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*rungs[-RUNGS:], strict=True)
    )
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def distance(a: Tensor, b: Tensor) -> float:
    """Largest entry of the difference; NaN where either has one."""
    return float((a.detach() - b.detach()).abs().max())


def largest(*values: float) -> float:
    """The largest value, or NaN if there is one; ``max`` would drop it in silence."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def root_mean_square(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference."""
    return float((a.detach() - b.detach()).abs().square().mean().sqrt())


def same(a: Any, b: Any) -> bool:
    """Whether two pytrees hold the same numbers bit for bit, NaN included."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (
            a.shape == b.shape
            and a.dtype == b.dtype
            and bool(((a == b) | (a != a) & (b != b)).all())
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a is b or bool(a == b) or bool(a != a and b != b)


def snapshot(tree: Any) -> Any:
    """A copy of a pytree whose tensors share nothing with it."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: snapshot(value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [snapshot(value) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a pytree."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return [x for part in tree for x in leaves(part)] if isinstance(tree, tuple | list) else []
