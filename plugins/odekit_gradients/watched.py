"""A solve on autograd's graph, some states of which are watched on the way back.

For gradients that leave the graph to autograd, so that there is no place of their own where
cotangents pass by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from odekit import Accepted, IncompatibleError, Integrate, Problem, Trajectory
from odekit_gradients.transforms import refuse_transforms
from odekit_gradients.vigil import (
    APART,
    EARLY,
    FEW,
    GROWTH,
    SPREAD,
    Vigil,
    find_limit,
    has_grown,
    is_calm,
    norms,
)


def watched(problem: Problem, integrate: Integrate, name: str) -> Trajectory:
    """The trajectory of the problem, with a warning on the way back where steps are too long."""
    limit = find_limit(problem.solver)
    wanted = any(x.requires_grad for x in (problem.y0, problem.t, *problem.params))
    if limit is None or not torch.is_grad_enabled() or not wanted or problem.dense:
        return integrate(problem)
    if is_transformed():
        return integrate(problem)
    y0 = problem.y0.view_as(problem.y0) if problem.y0.requires_grad else problem.y0
    path = _Places(problem, y0)
    trajectory = integrate(replace(problem, y0=y0, observer=path))
    if not trajectory.y.requires_grad:
        return trajectory
    steps = [x for x in path.found() if x[2].requires_grad]
    times, lanes = trajectory.t.detach(), len(y0) if problem.per_sample else 1
    # Not the observer, which may hold what is on the graph: nobody would ever free that.
    look = partial(Vigil, replace(problem, observer=None), limit, name)
    passing = _Passing(look, [(t, h, y.detach()) for t, h, y in steps], lanes)
    _hook(trajectory.y, lambda grad: passing.open(times, grad))
    for i, (_, _, y) in enumerate(steps):
        _hook(y, partial(passing.note, i, y is y0))
    return trajectory


def is_transformed() -> bool:
    """Whether this runs inside ``torch.func``, where values cannot be looked at."""
    try:
        refuse_transforms("")
    except IncompatibleError:
        return True
    return False


@final
class _Places:
    """An observer that keeps some of the steps, with what they start from.

    How many there will be is not known, so every eighth, every sixteenth, ... is kept, and the
    first.
    """

    def __init__(self, problem: Problem, y0: Tensor) -> None:
        self.further = problem.observer
        t = problem.t.detach()[..., 0]
        self.before: tuple[Any, Tensor] = (t if t.dim() else float(t), y0)
        self.count, self.every = 0, APART
        self.kept: dict[int, tuple[Any, Any, Tensor]] = {}

    def __call__(self, seen: Accepted) -> None:
        """Take note of a step."""
        if self.count % self.every == 0 or self.count in EARLY:
            self.kept[self.count] = self.before[0], seen.t, self.before[1]
            if len(self.kept) > 3 * SPREAD:
                self.every *= 2
                self.kept = {
                    i: x for i, x in self.kept.items() if i % self.every == 0 or i in EARLY
                }
        self.before = seen.t, seen.y
        self.count += 1
        if self.further is not None:
            self.further(seen)

    def found(self) -> list[tuple[Any, Any, Tensor]]:
        """Time, length and start of the steps to look at, from the first to the last."""
        others = [i for i in sorted(self.kept) if i not in EARLY]
        others = others[:: -(-len(others) // SPREAD) or 1]
        picked = sorted({*others, *(i for i in EARLY if i in self.kept)})
        return [(t, end - t, y) for t, end, y in map(self.kept.__getitem__, picked)]


@final
class _Passing:
    """What hooks do when a gradient passes.

    Cotangents are only collected, since a look at each of them by itself would take longer.

    Args:
        look: makes what looks at them.
        steps: time, length and state at the start of each.
        lanes: how many there are.
    """

    def __init__(
        self, look: Callable[[bool], Vigil], steps: list[tuple[Any, Any, Tensor]], lanes: int
    ) -> None:
        self.look, self.steps, self.lanes = look, steps, lanes
        self.opened: tuple[Tensor, Tensor] | None = None
        self.seen: dict[int, Tensor] = {}
        self.by_start = False

    def open(self, t: Tensor, grad_y: Tensor) -> None:
        """A backward pass begins; not watched if it is on a graph of its own."""
        self.forget()
        if not torch.is_grad_enabled():
            self.opened = t, grad_y
            torch.autograd.Variable._execution_engine.queue_callback(self.close)

    def note(self, place: int, is_start: bool, grad: Tensor) -> None:
        """A cotangent has come to the start of a step."""
        if self.opened is not None:
            self.seen[place] = grad
            self.by_start |= is_start

    def close(self) -> None:
        """The backward pass is over: look at what was seen, and forget it."""
        opened, seen, by_start = self.opened, dict(self.seen), self.by_start
        self.forget()
        if opened is None or not seen:
            return
        t, grad_y = opened
        places = sorted(seen, reverse=True)
        with torch.no_grad():
            sizes = _read(grad_y, [seen[place] for place in places], self.lanes)
            if sizes is None or self._is_quiet(t, places, sizes):
                return
            vigil = self.look(by_start)
            vigil.open(t, grad_y)
            for place, size in zip(places, sizes[len(grad_y) :], strict=True):
                vigil.look(*self.steps[place], seen[place], size)
            vigil.close()

    def _is_quiet(self, t: Tensor, places: list[int], sizes: Any) -> bool:
        """Whether there is nothing to ask the field about."""
        rows = len(sizes) - len(places)
        if self.lanes > 1 or rows > FEW:
            return is_calm(sizes[rows - 1 :])
        known: list[float] = sizes.reshape(-1).tolist()
        compared = known[rows - 1 :]
        if math.isnan(sum(compared)) or max(compared) <= GROWTH * min(compared):
            return True
        at = [float(self.steps[place][0]) for place in places]
        return not has_grown(t.reshape(-1).tolist(), known[:rows], at, known[rows:])

    def forget(self) -> None:
        """Keep nothing of a backward pass."""
        self.opened, self.by_start = None, False
        self.seen.clear()


def _read(grad_y: Tensor, cotangents: list[Tensor], lanes: int) -> Any:
    """`norms` of the rows and the cotangents; None where rows are not finite or cannot be read.

    That is so of a batch of gradients taken together.
    """
    try:
        found = norms(torch.cat([grad_y, torch.stack(cotangents)]), lanes)
    except RuntimeError:
        return None
    return found if math.isfinite(found[: len(grad_y)].sum()) else None


def _hook(y: Tensor, told: Callable[[Tensor], None]) -> None:
    """Have the cotangent of ``y`` told; cheaper than a hook on the tensor itself."""
    place, node = y.output_nr, y.grad_fn

    def tell(grads: tuple[Tensor | None, ...]) -> None:
        grad = grads[place]
        if grad is not None:
            told(grad)

    if node is not None:
        node.register_prehook(tell)
