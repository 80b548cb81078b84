"""From attempts of lanes to rows: the lane driver's output, interpolated in batches.

An attempt is kept until its rows are made, and only if some lane has a row in it; how many wait
is limited in number and in bytes, so that memory grows neither with the solve nor with the state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from odekit._engine.clock import is_differentiated
from odekit._engine.emit import BYTES, bytes_of, stack
from odekit.problem import Problem
from odekit.solution import DenseOutput
from odekit.solver import Segment

CHUNK = 128
"""Attempts made before rows are interpolated."""


class _Attempt(NamedTuple):
    """Where only the ends of steps are asked for, ``y0`` is ``y1`` and ``dense`` is empty.

    ``end`` is ``(lanes,)``, up to where each lane has got after it, ``rows`` how many of its rows.
    """

    t: Tensor
    h: Tensor
    y0: Tensor
    y1: Tensor
    dense: tuple[Tensor, ...]
    end: Tensor
    rows: Tensor


class LaneEmitter:
    """Collect the attempts of all lanes and turn them into rows, each lane from its own steps.

    Attributes:
        end: ``(lanes,)``, the time up to which each lane has got.
    """

    def __init__(self, problem: Problem, times: Tensor, sign: Tensor) -> None:
        self.problem, self.times, self.sign = problem, times, sign
        self.attached = is_differentiated(problem.t)
        self.ends_only = problem.save == "steps" and not problem.dense
        self.end = times[:, 0]
        # Never reached, so that lanes without further rows need no word of their own.
        never = times.new_full((len(times), 1), torch.inf)
        self.ahead = torch.cat([times * sign[:, None], never], 1)
        self.next = self.ahead[:, 1]
        self.rows = self.made = torch.ones(len(times), dtype=torch.int64, device=times.device)
        self.history: list[_Attempt] = []
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.attempts = self.bytes = 0

    def inside(self, t1: Tensor) -> Tensor:
        """Lanes whose step, if it ends at ``t1``, will be interpolated."""
        if self.problem.dense or self.attached:
            return torch.ones_like(self.rows, dtype=torch.bool)
        if self.problem.save == "steps":
            return torch.zeros_like(self.rows, dtype=torch.bool)
        return self.next < t1 * self.sign

    def add(
        self,
        t: Tensor,
        h: Tensor,
        y0: Tensor,
        y1: Tensor,
        dense: tuple[Tensor, ...],
        accept: Tensor,
        t1: Tensor,
    ) -> None:
        """Take an attempt from ``t`` with length ``h``; who accepts it has got to ``t1``."""
        self.end = torch.where(accept, t1, self.end)
        if self.ends_only:
            if bool(accept.any()):
                self.history.append(_Attempt(t, h, y1, y1, (), self.end, self.rows))
            return
        self.attempts += 1
        front = self.end * self.sign
        wanted = bool((self.next <= front).any())
        if wanted:
            self.rows = torch.searchsorted(self.ahead, front[:, None], right=True)[:, 0]
            self.next = self.ahead.gather(1, self.rows[:, None])[:, 0]
        if wanted or self.problem.dense:
            self.history.append(_Attempt(t, h, y0, y1, dense, self.end, self.rows))
            self.bytes += bytes_of(y0, y1, *dense)
        enough = self.attempts >= CHUNK or self.bytes >= BYTES
        if enough and not self.problem.dense:
            self._flush()

    def _stacked(self) -> Segment:
        longest = max(len(a.dense) for a in self.history)
        columns = [
            # Attempts without a completed dense output are never looked into.
            a.dense + a.dense[:1] * (longest - len(a.dense))
            for a in self.history
        ]
        dense = tuple(stack(column) for column in zip(*columns, strict=True))
        t, h = stack([a.t for a in self.history]), stack([a.h for a in self.history])
        y0, y1 = stack([a.y0 for a in self.history]), stack([a.y1 for a in self.history])
        return Segment(t, h, y0, y1, dense)

    def _flush(self) -> None:
        """Interpolate the rows that the history covers."""
        self.attempts = self.bytes = 0
        if not self.history:
            return
        index, row, lane = self._due()
        if len(row):
            segment, ends = self._stacked(), stack([a.end for a in self.history])
            width = bytes_of(segment.y0[0, :1]) * (2 + len(segment.dense))
            size = max(BYTES // max(width, 1), 1)
            places = (torch.split(x, size) for x in (index, row, lane))
            for i, r, k in zip(*places, strict=True):
                self.parts.append((r, k, self._values(segment, ends, i, r, k)))
        self.made = self.rows
        if not self.problem.dense:
            self.history = []

    def _due(self) -> tuple[Tensor, Tensor, Tensor]:
        """Attempt, row and lane of all rows that the history covers, row by row."""
        counts = stack([self.made, *(a.rows for a in self.history)])
        fresh = counts.diff(dim=0)
        index, lane = fresh.nonzero(as_tuple=True)
        row, many = counts[index, lane], fresh[index, lane]
        place = torch.repeat_interleave(many)
        row = (row - many.cumsum(0) + many)[place] + torch.arange(len(place), device=row.device)
        order = (row * len(self.made) + lane[place]).argsort()
        return index[place][order], row[order], lane[place][order]

    def _values(
        self, segment: Segment, ends: Tensor, index: Tensor, row: Tensor, lane: Tensor
    ) -> Tensor:
        h = segment.h[index, lane, None]
        picked = Segment(
            segment.t[index, lane, None],
            torch.where(h == 0, 1.0, h),  # a lane without any step stays where it is
            segment.y0[index, lane],
            segment.y1[index, lane],
            tuple(d[index, lane] for d in segment.dense),
        )
        hit = self.times[lane, row] == ends[index, lane]
        if not self.attached and bool(hit.all()):
            return picked.y1
        query = (self.problem.t if self.attached else self.times)[lane, row]
        values = self.problem.solver.interpolate(picked, query[:, None])
        return values if self.attached else torch.where(hit[:, None], picked.y1, values)

    def finish(self) -> tuple[Tensor, Tensor, DenseOutput | None]:
        """Times, rows and dense output; rows that were not reached are NaN."""
        problem, dense = self.problem, None
        if problem.dense and self.history:
            dense = DenseOutput(problem.solver, self._knots(), self._stacked())
        if problem.save == "steps":
            t, y = self._steps()
        else:
            self._flush()
            t, y = problem.t, self._scattered()
        return t, y, dense

    def _knots(self) -> Tensor:
        return torch.stack([self.times[:, 0], *(a.end for a in self.history)])

    def _scattered(self) -> Tensor:
        y0 = self.problem.y0
        lanes = torch.arange(len(y0), device=y0.device)
        parts = [(torch.zeros_like(lanes), lanes, y0), *self.parts]
        row, lane, values = (torch.cat(column) for column in zip(*parts, strict=True))
        parts = self.parts = []
        blank = y0.new_full((), torch.nan).expand(self.times.shape[1], *y0.shape)
        return blank.index_put((row, lane), values)

    def _steps(self) -> tuple[Tensor, Tensor]:
        """Start and accepted steps; lanes that finish early repeat their last row."""
        start, y0 = self.times[:, 0], self.problem.y0
        if not self.history:
            return start[:, None], y0[None]
        knots = self._knots()
        kept = knots[1:] != knots[:-1]
        count = kept.sum(0)
        rank = torch.arange(1, int(count.max()) + 1, device=count.device)[:, None]
        wanted = torch.minimum(rank, count)
        index = torch.searchsorted(kept.long().cumsum(0).T.contiguous(), wanted.T.contiguous()).T
        index = index.clamp(max=len(kept) - 1)
        lanes = torch.arange(len(y0), device=count.device)
        values = stack([a.y1 for a in self.history])[index, lanes]
        values = torch.where((count > 0)[:, None], values, y0)
        t = torch.cat([knots[:1], knots[1:][index, lanes]])
        return t.T, torch.cat([y0[None], values])
