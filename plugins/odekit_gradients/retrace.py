"""The accepted steps of a solve, any stretch of which can be taken again.

Shapes: with a shared step size knots are ``(S + 1,)``; per sample they are ``(lanes, S + 1)``,
    and a stretch is the same number of its own steps for every lane, where lanes that have
    finished wait. Rows come as values ``(m, ...)`` with their places in ``y``.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from odekit import (
    Accepted,
    IncompatibleError,
    Integrate,
    Observer,
    Problem,
    StepController,
    Trajectory,
    create,
)
from odekit_gradients.checkpoints import Mould


@dataclass(frozen=True)
class State:
    """Where a stretch begins or ends.

    Attributes:
        y: the state.
        memory: the solver's memory, or None where it follows from the state.
    """

    y: Tensor
    memory: Any = None

    @property
    def parts(self) -> list[Tensor]:
        """All its tensors."""
        return [self.y, *Mould.of(self.memory)[0]]

    def attached(self) -> State:
        """A copy whose tensors ask for gradients and come from nowhere."""
        tensors, mould = Mould.of(self.memory)
        y, *rest = (
            x.detach().requires_grad_(x.is_floating_point() or x.is_complex())
            for x in (self.y, *tensors)
        )
        return State(y, mould.filled(rest))


class Rows(NamedTuple):
    """Rows of the solution: their values and their places, so that ``y[places]`` are the same."""

    values: Tensor
    places: tuple[Tensor, ...]


@dataclass(frozen=True)
class Path:
    """The steps that a solve took.

    Attributes:
        problem: what was solved.
        integrate: the engine.
        knots: where steps began and ended.
        retired: ``(lanes,)``, lanes that failed; None if none did, or with a shared step size.
        jumps: times strictly inside the span at which the field jumps.
        mould: of the solver's memory, where that has to be stored.
        replay: the controller that takes given steps; looked up once, since it is made often.
    """

    problem: Problem
    integrate: Integrate
    knots: Tensor
    retired: Tensor | None
    jumps: tuple[float, ...]
    mould: Mould | None
    replay: Callable[..., StepController]

    @classmethod
    def of(
        cls,
        problem: Problem,
        integrate: Integrate,
        knots: Tensor,
        trajectory: Trajectory,
        mould: Mould | None,
    ) -> Path:
        """The path of a trajectory; where it failed, only up to the last row that was reached.

        Raises:
            IncompatibleError: the field jumps, steps differ per sample, and the solver has a
                memory that cannot be made anew.
        """
        start, end = problem.t.detach()[..., 0], problem.t.detach()[..., -1]
        low, high = float(torch.minimum(start, end).min()), float(torch.maximum(start, end).max())
        jumps = tuple(float(t) for t in problem.controller.jump_times if low < t < high)
        if jumps and problem.per_sample and mould is not None:
            raise IncompatibleError(
                "jump_times with steps per sample need a one-step solver for this gradient; use "
                "gradient='unrolled', or a Runge-Kutta method"
            )
        retired = None
        if bool(trajectory.status.any()):
            if problem.save == "times":
                knots = _cut(knots, problem.t.detach(), trajectory.status != 0)
            retired = trajectory.status != 0 if problem.per_sample else None
        replay = type(create("controller", "replay", times=[0.0, 1.0]))
        return cls(problem, integrate, knots, retired, jumps, mould, replay)

    @property
    def steps(self) -> int:
        """How many there are, of the lane with the most of them."""
        return self.knots.shape[-1] - 1

    def times(self, count: int) -> Tensor:
        """Those of the rows, of which there are so many."""
        if self.problem.save == "times":
            return self.problem.t.detach()
        return self.knots[..., :count]

    def step(self, index: int) -> tuple[Tensor, Tensor]:
        """Start and length of a step."""
        begin, end = self.knots[..., index], self.knots[..., index + 1]
        return begin, end - begin

    @functools.cached_property
    def _jumps(self) -> frozenset[float]:
        """All times at which the field jumps, ends of the span included."""
        return frozenset(float(t) for t in self.problem.controller.jump_times)

    @functools.cached_property
    def _falls(self) -> bool:
        """Whether time runs backwards; with a shared step size."""
        return bool(self.problem.t[-1] < self.problem.t[0])

    @functools.cached_property
    def _times(self) -> list[float]:
        """The output times with a shared step size, as numbers that rise."""
        times: list[float] = self.problem.t.tolist()
        return [-t for t in times] if self._falls else times

    def start(self, y0: Tensor) -> State:
        """Where the first stretch begins."""
        return State(y0, self.problem.memory)

    def state(self, parts: list[Tensor], index: int, y0: Tensor) -> State:
        """The state after ``index`` steps, of what was stored of it."""
        y, *leaves = parts
        if self.retired is not None:
            done = self.retired & (self.knots[:, index] == self.knots[:, -1])
            y = torch.where(done[:, None], y0, y)
        if self.mould is None or not self._remembers(index):
            return State(y)
        return State(y, self.mould.filled(leaves))

    def go(
        self,
        state: State,
        first: int,
        last: int,
        t: Tensor,
        *,
        rows: bool = True,
        observer: Observer | None = None,
    ) -> tuple[Rows, State]:
        """Take the steps from number ``first`` up to number ``last`` again.

        Args:
            state: where they begin.
            first: number of steps before.
            last: number of steps before and in the stretch.
            t: output times, as in the problem; where they ask for gradients they get them.
            rows: whether the rows of the stretch are wanted.
            observer: told of its steps.
        """
        problem, knots = self.problem, self.knots[..., first : last + 1]
        ends = self._plain_ends(knots, t)
        if ends is not None:
            kept = self._rows_at(ends, first) if rows else {}
            if kept is not None:
                return self._march(state, ends, kept, observer)
        begin, end = knots[..., 0], knots[..., -1]
        picked, index, valid = self._rows_in(begin, end, t if rows else t[..., :0])
        if t.requires_grad:
            shift = t[..., 0] - t[..., 0].detach()
            begin = begin + torch.where(self._moves(begin), shift, 0.0)
        # The state at a jump stays where the jump is, whatever the start time does.
        still = self._is_jump(end) if t.requires_grad else None
        on_row = valid is None and len(picked) > 0 and bool(picked[-1] == end)
        if still is not None or not on_row:
            picked = torch.cat([picked, end[..., None]], -1)
        control = self.replay(knots, problem.controller.jump_times)
        trajectory = self.integrate(
            replace(
                problem,
                y0=state.y,
                memory=state.memory,
                t=torch.cat([begin[..., None], picked], -1),
                controller=control,
                observer=observer,
                save=problem.save if rows else "times",
            )
        )
        y = cast("Tensor", trajectory.last)
        if still is not None:
            y = torch.where(still[:, None] if still.dim() else still, trajectory.y[-1], y)
        memory = trajectory.memory if self._remembers(last) else None
        if rows and problem.save == "steps":
            places = torch.arange(first + 1, last + 1, device=end.device)
            return Rows(trajectory.y[1:], (places,)), State(y, memory)
        values = (
            trajectory.y[1 : 1 + len(index[0])]
            if valid is None
            else trajectory.y[1:][: len(valid)][valid]
        )
        return Rows(values, index), State(y, memory)

    def _plain_ends(self, knots: Tensor, t: Tensor) -> list[float] | None:
        """Knots as numbers, where nothing but steps lies between them; None where more does."""
        if self.problem.per_sample or t.requires_grad:
            return None
        ends: list[float] = knots.tolist()
        return ends if self._jumps.isdisjoint(ends) else None

    def _rows_at(self, ends: list[float], first: int) -> dict[float, int] | None:
        """Places of the rows by the ends of steps where they are; None if some are elsewhere."""
        if self.problem.save == "steps":
            return {end: first + i for i, end in enumerate(ends) if i}
        low, high = (
            bisect.bisect_right(self._times, -x if self._falls else x) for x in (ends[0], ends[-1])
        )
        rows = {-x if self._falls else x: low + i for i, x in enumerate(self._times[low:high])}
        return rows if rows.keys() <= set(ends) else None

    def _march(
        self, state: State, ends: list[float], kept: dict[float, int], observer: Observer | None
    ) -> tuple[Rows, State]:
        """Steps one after the other, without the engine's care for what may lie between them.

        Stretches are short and many, so that the engine's preparations would cost as much as a
        few steps.
        """
        problem, y, memory = self.problem, state.y, state.memory
        solver, field = problem.solver, problem.field
        clock = functools.partial(torch.full, (), dtype=torch.float64, device=y.device)
        values = []
        for begin, end in itertools.pairwise(ends):
            now = clock(begin)
            if memory is None:
                memory = solver.init(field, now, y)
            step = solver.step(field, now, end - begin, y, memory)
            y, memory = step.y, step.state
            if end in kept:
                values.append(y)
            if observer is not None:
                observer(Accepted(end, y, memory, jump=False))
        reached = [kept[end] for end in ends if end in kept]
        places = torch.tensor(reached, dtype=torch.int64, device=y.device)
        rows = torch.stack(values) if values else y.new_empty((0, *y.shape))
        return Rows(rows, (places,)), State(y, memory if self.mould is not None else None)

    def _rows_in(
        self, begin: Tensor, end: Tensor, t: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """Output times behind ``begin`` and up to ``end``, their places, and which are no padding.

        The last is ``(m, lanes)``, or None with a shared step size.
        """
        if self.problem.save == "steps":
            t = t[..., :0]
        if begin.dim() == 0:
            ends = (-float(x) if self._falls else float(x) for x in (begin, end))
            rising = self._times if t.shape[-1] else []
            low, high = (bisect.bisect_right(rising, x) for x in ends)
            return t[low:high], (torch.arange(low, high, device=t.device),), None
        times = t.detach()
        sign = torch.where(self.problem.t[..., -1] < self.problem.t[..., 0], -1.0, 1.0)
        inside = ((times - begin[..., None]) * sign[..., None] > 0) & (
            (times - end[..., None]) * sign[..., None] <= 0
        )
        count = inside.sum(1)
        longest = int(count.max()) if inside.numel() else 0
        ahead = torch.arange(longest, device=t.device)
        valid = (ahead < count[:, None]).T
        first = inside.long().argmax(1) if longest else count
        places = (first[:, None] + ahead).clamp(max=max(t.shape[1] - 1, 0))
        picked = torch.where(valid.T, t.gather(1, places), end[:, None])
        lanes = torch.arange(len(t), device=t.device).expand(longest, -1)
        return picked, (places.T[valid], lanes[valid]), valid

    def _moves(self, t: Tensor) -> Tensor:
        """Whether a step from ``t`` is shifted with the start: only before the first jump."""
        sign = torch.where(self.problem.t[..., -1] < self.problem.t[..., 0], -1.0, 1.0)
        moves = torch.ones_like(t, dtype=torch.bool)
        for jump in self.jumps:
            moves = moves & ((t - jump) * sign < 0)
        return moves

    def _is_jump(self, t: Tensor) -> Tensor | None:
        """Where ``t`` is a jump; None if nowhere."""
        at = torch.zeros_like(t, dtype=torch.bool)
        for jump in self.jumps:
            at = at | (t == jump)
        return at if bool(at.any()) else None

    def _remembers(self, index: int) -> bool:
        """Whether the memory after so many steps is to be handed on; at a jump it is made anew."""
        return self.mould is not None and self._is_jump(self.knots[..., index]) is None


def _cut(knots: Tensor, t: Tensor, failed: Tensor) -> Tensor:
    """Knots of failed lanes only up to where the last row that they reached needs them."""
    table = knots if knots.dim() == 2 else knots[None]
    times = t if t.dim() == 2 else t[None]
    sign = torch.where(times[:, -1:] < times[:, :1], -1.0, 1.0)
    reached = ((times - table[:, -1:]) * sign <= 0).sum(1, keepdim=True)
    last = times.gather(1, reached - 1)
    needed = ((table - last) * sign < 0).sum(1, keepdim=True)
    order = torch.arange(table.shape[1], device=table.device)
    kept = torch.minimum(order, torch.where(failed[:, None], needed, len(order)))
    cut = table.gather(1, kept.clamp(max=len(order) - 1))
    if knots.dim() == 2:
        return cut
    return cut[0, : int(needed) + 1]
