"""What ``solve`` returns: rows, counts, a status per lane, and the state at any time between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odekit.errors import ProblemError, Status
from odekit.field import State
from odekit.solver import Segment, Solver


@dataclass(frozen=True)
class Stats:
    """Work done: integer tensors ``(lanes,)``, and the method that gradients go by.

    Attributes:
        attempts: steps tried.
        accepted: steps kept.
        rejected: steps thrown away.
        evaluations: calls of the field that this lane needed.
        gradient: name of the gradient method; where that one picked another, of its choice.
        tier: what ran: ``"eager"``, ``"step"`` (each step one compiled graph), ``"native"``
            (the whole solve as machine code) or ``"graph"`` (many steps one CUDA graph).
    """

    attempts: Tensor
    accepted: Tensor
    rejected: Tensor
    evaluations: Tensor
    gradient: str = ""
    tier: str = "eager"


@dataclass(frozen=True)
class DenseOutput:
    """The state at any time: accepted steps, each with what its solver interpolates from.

    Attributes:
        solver: gives the interpolant.
        knots: ``(steps + 1,)`` or ``(steps + 1, lanes)``, monotone; a lane that waits repeats.
        segment: the steps, stacked along a leading axis.
    """

    solver: Solver
    knots: Tensor
    segment: Segment

    def __call__(self, t: Tensor) -> Tensor:
        """``(k,)`` or ``(k, lanes)`` to ``(k, *state)``; ends of steps give the step's own value.

        Gradients reach ``t`` as well as whatever the steps depend on.
        """
        index = locate(self.knots.detach(), t.detach())
        picked = pick(self.segment, index)
        return self.solver.interpolate(picked, align(t, picked.y0))


def locate(knots: Tensor, t: Tensor) -> Tensor:
    """The step that holds each query: ``i`` with ``knots[i] < t <= knots[i + 1]``.

    ``knots`` is ``(steps + 1,)`` or ``(steps + 1, lanes)`` and runs either way; ``t`` is ``(k,)``
    or ``(k, lanes)``. Queries at or before the start belong to the first
    step that leads on.
    """
    forward = bool((knots[-1] >= knots[0]).all())
    columns, queries = (knots, t) if forward else (-knots, -t)
    if knots.dim() == 1:
        index = torch.searchsorted(columns, queries)
    else:
        index = torch.searchsorted(columns.T.contiguous(), queries.T.contiguous()).T
    waiting = (columns[1:] == columns[0]).long().cumprod(0).sum(0)
    return torch.maximum(index - 1, waiting).clamp(max=max(len(knots) - 2, 0))


def pick(segment: Segment, index: Tensor) -> Segment:
    """The segments of ``index``, ``(k,)`` or ``(k, lanes)``, with times that broadcast."""
    lanes = torch.arange(index.shape[1], device=index.device) if index.dim() == 2 else None

    def take(x: Tensor) -> Tensor:
        return x.index_select(0, index) if lanes is None else x[index, lanes]

    y0 = take(segment.y0)
    t, h = align(take(segment.t), y0), align(take(segment.h), y0)
    return Segment(t, h, y0, take(segment.y1), tuple(map(take, segment.dense)))


def align(t: Tensor, y: Tensor) -> Tensor:
    """``t`` with trailing axes of one, so that it broadcasts against ``y``."""
    return t.reshape(*t.shape, *(1,) * (y.dim() - t.dim()))


@dataclass(frozen=True)
class Solution:
    """The result of a solve.

    Attributes:
        t: times of the rows, ``(n,)``, or ``(lanes, n)`` where they differ per sample.
        y: time first: every leaf is ``(n, *leaf of y0)``. Rows that were not reached are NaN.
        status: ``(lanes,)`` integers of `Status`; 0 is success.
        stats: counts per lane.
        reached: ``(lanes,)``, the time up to which the solve is good.
        events: records of events.
    """

    t: Tensor
    y: State
    status: Tensor
    stats: Stats
    reached: Tensor
    events: tuple[Any, ...] = ()
    _dense: DenseOutput | None = field(default=None, repr=False)
    _restore: Callable[[Tensor], State] | None = field(default=None, repr=False)

    @property
    def success(self) -> bool:
        """True when every lane reached the end."""
        return not bool(self.status.any())

    @property
    def statuses(self) -> list[Status]:
        """The statuses as names."""
        return [Status(s) for s in self.status.tolist()]

    def __call__(self, t: Any) -> State:
        """The state at any time of the span, from dense output.

        Args:
            t: a number, ``(k,)``, or ``(k, lanes)`` for times that differ per sample.

        Returns:
            Leaves like ``y0`` for a number, else ``(k, *leaf of y0)``.

        Raises:
            ProblemError: ``dense=True`` was not asked for, or ``t`` lies outside the span.
        """
        if self._dense is None or self._restore is None:
            raise ProblemError("solution(t) needs dense output: call solve(..., dense=True)")
        query = torch.as_tensor(t, dtype=torch.float64, device=self.t.device)
        rows = query.reshape(1) if query.dim() == 0 else query
        knots = self._dense.knots
        if knots.dim() == 2:
            rows = rows if rows.dim() == 2 else rows[:, None].expand(-1, knots.shape[1])
        self._check_span(rows)
        start, reached = knots[0], self.reached if knots.dim() == 2 else self.reached[0]
        ends = self.t.detach()[..., [0, -1]].movedim(-1, 0)
        slack = 1e-12 * torch.maximum(ends.abs().amax(0), (ends[1] - ends[0]).abs())
        sign = torch.sign(ends[1] - ends[0])
        outside = ((rows.detach() - start) * sign < -slack) | (
            (rows.detach() - reached) * sign > slack
        )
        # What lies outside by rounding alone is the end itself; the rest is not looked at, so
        # that no gradient of it is.
        low, high = torch.minimum(start, reached), torch.maximum(start, reached)
        y = self._dense(rows.clamp(low, high))
        if bool(outside.any()):
            y = y.masked_fill(align(outside, y), torch.nan)
        return self._restore(y[0] if query.dim() == 0 else y)

    def _check_span(self, t: Tensor) -> None:
        ends = self.t.detach()
        low, high = float(ends.min()), float(ends.max())
        slack = 1e-12 * max(abs(low), abs(high), high - low)
        if bool(((t < low - slack) | (t > high + slack)).any()) or bool(t.isnan().any()):
            raise ProblemError(
                f"t must lie in the solved span [{low:.9g}, {high:.9g}], "
                f"got values from {float(t.min()):.9g} to {float(t.max()):.9g}"
            )
