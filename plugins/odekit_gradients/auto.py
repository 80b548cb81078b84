"""The exact gradient by the fastest method that fits into a budget of memory.

All that this method picks from give the gradient of the numbers computed, so what it picks
changes time and memory but no digit beyond rounding. The rule:

1. ``unrolled`` while its graph fits. The bytes of a step are measured on the graph, on the second
   step, without an evaluation of the field. Once a sixteenth of the budget is used, and again at
   every doubling, the part of the span that is done tells how much the whole will take; where
   that is more than twice the budget, or the budget is used up, the attempt is given up.
2. ``discrete`` while the states between steps fit, by the same watch.
3. ``checkpointed``, as it is where twice the memory that it needs at least fits, and else with
   this budget, which makes it slower. Where it cannot serve, with dense output, or with jumps in
   the field and steps per sample of a solver with a longer memory, it is ``discrete`` again.

How many steps a solve will take is not known before; so it is tried. An attempt that is given up
has cost its forward steps, most often those of a sixteenth of the budget and at worst of all of
it; its evaluations are counted in ``stats``. Where you know what fits, name the method.

Left out are ``reversible``, which takes one more solve than ``checkpointed`` and magnifies
rounding; ``adjoint`` and ``interpolated``, whose gradient is another within the tolerance; and
``forward``, which costs one more forward solve for every number that asks for a gradient.

Shapes: those of `odekit.Problem`.
Units: memory in bytes.
Source: the choice between storing and recomputing is that of A. Griewank and A. Walther,
    "Evaluating Derivatives", 2nd ed., 2008, chapter 12, doi:10.1137/1.9780898717761.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from odekit import (
    Accepted,
    FlatField,
    GradientMethod,
    IncompatibleError,
    Integrate,
    Problem,
    Trait,
    Trajectory,
)
from odekit.trees import leaves_of
from odekit_gradients.checkpointed import Checkpointed, read_bytes
from odekit_gradients.discrete import Discrete
from odekit_gradients.tape import Gauge
from odekit_gradients.transforms import refuse_transforms
from odekit_gradients.unrolled import Unrolled

EARLY = 16
"""The part of the budget, as its inverse, from which on the whole is estimated."""

SURE = 2.0
"""How far beyond the budget an estimate must lie, since the first steps are often short ones."""

STORED = 8 * 1024
"""Bytes that ``discrete`` takes a step beside the state: its node and what that refers to."""


@final
class Auto(GradientMethod):
    """Take ``unrolled``, ``discrete`` or ``checkpointed``, and say so in ``stats.gradient``.

    Args:
        memory_budget: bytes, or a string such as ``"200MB"``, for the graph or what stands in
            its place. Parameters and the rows of the solution come on top.

    Raises:
        ProblemError: the budget cannot be read.
    """

    def __init__(self, memory_budget: int | str = "1GB") -> None:
        self.memory_budget = read_bytes(memory_budget)

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """The trajectory of the method that was picked.

        Raises:
            ProblemError: the budget is too small for a single step.
        """
        if not torch.is_grad_enabled() or _is_transformed():
            return _signed(Unrolled().solve(problem, integrate), "unrolled", 0)
        trial = _Trial(problem, integrate, self.memory_budget)
        trajectory = trial.run(Unrolled(), "graph")
        if trajectory is not None:
            return _signed(trajectory, "unrolled", trial.wasted)
        if not _can_be_checkpointed(problem):
            return _signed(Discrete().solve(problem, integrate), "discrete", trial.wasted)
        if trial.states <= self.memory_budget:
            trajectory = trial.run(Discrete(), "states")
            if trajectory is not None:
                return _signed(trajectory, "discrete", trial.wasted)
        fits = 2 * trial.least <= self.memory_budget
        last = Checkpointed(memory_budget=None if fits else self.memory_budget)
        return _signed(last.solve(problem, integrate), "checkpointed", trial.wasted)


def _signed(trajectory: Trajectory, name: str, wasted: int) -> Trajectory:
    stats = trajectory.stats
    return replace(
        trajectory,
        stats=replace(stats, gradient=name, evaluations=stats.evaluations + wasted),
    )


def _is_transformed() -> bool:
    """Whether this runs inside ``torch.func``, where only what autograd records can serve."""
    try:
        refuse_transforms("auto")
    except IncompatibleError:
        return True
    return False


def _can_be_checkpointed(problem: Problem) -> bool:
    one_step = Trait.ONE_STEP in problem.solver.traits
    return not problem.dense and (
        one_step or not problem.per_sample or not problem.controller.jump_times
    )


class _TooMuch(Exception):
    """The budget will not do; raised and caught around one solve."""


@final
class _Trial:
    """Solves that are given up when they will not fit.

    Attributes:
        wasted: evaluations of the solves that were given up.
        states: bytes that ``discrete`` is expected to take.
        least: bytes that ``checkpointed`` is expected to need at least.
    """

    def __init__(self, problem: Problem, integrate: Integrate, budget: int) -> None:
        self.problem, self.integrate, self.budget = problem, integrate, budget
        self.wasted, self.states, self.least = 0, 0.0, 0.0

    def run(self, method: GradientMethod, kept: Literal["graph", "states"]) -> Trajectory | None:
        """The trajectory, or None where it would not fit."""
        watch = _Watch(self.problem, self.budget, kept)
        counted = _Counted(self.problem.field)
        try:
            return method.solve(
                replace(self.problem, field=counted, observer=watch), self.integrate
            )
        except _TooMuch:
            self.wasted += counted.calls
            self.states = watch.whole * (watch.state + STORED)
            if kept == "graph":
                # Of m states for every m-th step and the graph of m steps the sum is smallest.
                self.least = 2 * math.sqrt(watch.whole * watch.state * watch.step) + watch.step
            return None


@final
class _Counted:
    """A field with a count of its calls, open to an engine that takes whole steps at once."""

    def __init__(self, field: FlatField) -> None:
        self.field, self.calls = field, 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.field(t, y)


@final
class _Watch:
    """An observer that ends a solve whose memory will not do.

    Attributes:
        whole: how many steps the solve was expected to take when it was last asked.
        step: bytes that a step leaves behind.
        state: bytes of a state and the solver's memory.
    """

    def __init__(self, problem: Problem, budget: int, kept: Literal["graph", "states"]) -> None:
        self.budget, self.kept = budget, kept
        ends = problem.t.detach()[..., [0, -1]]
        self.start, self.reach = ends[..., 0], ends[..., 1] - ends[..., 0]
        self.gauge: Gauge | None = Gauge()
        self.count, self.step, self.state = 0, 0, 0
        self.limit = budget / EARLY
        self.whole = 0.0

    def __call__(self, seen: Accepted) -> None:
        """Count the step, and look ahead when it is time."""
        self.count += 1
        if self.gauge is not None:
            self._measure(seen, self.gauge)
        used = self.count * self.step
        if used <= self.limit:
            return
        self.whole = self.count / self._done(seen)
        if used > self.budget or (self.whole - 1) * self.step > SURE * self.budget:
            raise _TooMuch
        self.limit = min(2 * used, self.budget)

    def _measure(self, seen: Accepted, gauge: Gauge) -> None:
        """The first step is as large as its parameters make it; the second is like the rest."""
        parts = [x for x in (seen.y, *leaves_of(seen.memory)) if isinstance(x, Tensor)]
        self.state = sum(x.numel() * x.element_size() for x in parts)
        if self.kept == "states":
            self.step, self.gauge = self.state + STORED, None
            return
        added = gauge.added(parts)
        if self.count == 2:
            self.step, self.gauge = added, None  # which would keep the graph alive

    def _done(self, seen: Accepted) -> float:
        """The part of the span that is behind, of the lane that is furthest back."""
        now: Any = torch.as_tensor(seen.t, dtype=self.start.dtype, device=self.start.device)
        done = (now - self.start) / self.reach
        if seen.lanes is not None:
            done = done[seen.lanes]
        return max(float(done.min()), torch.finfo(torch.float64).tiny)
