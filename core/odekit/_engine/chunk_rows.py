"""From chunks of masked attempts to rows, without a look at where the rows are.

Which attempt a row lies in is worked out where the attempts are; the host knows only how many
rows a chunk can have brought to one lane. What is computed for a row that a lane has not got goes
to a row of its own behind the others.
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

from odekit._engine.emit import BYTES, bytes_of
from odekit.problem import Problem
from odekit.solution import align
from odekit.solver import Segment


class History(NamedTuple):
    """The attempts of one chunk.

    Attributes:
        t, h: ``(attempts, lanes)``, where each began and how long it was.
        y0, y1: ``(attempts, *state)``, from where and to where.
        dense: likewise, what the solver interpolates from.
        ends: ``(attempts, lanes)``, up to where each lane has got after it.
        made, rows: ``(lanes,)``, rows that lay behind before the chunk and after it.
    """

    t: Tensor
    h: Tensor
    y0: Tensor
    y1: Tensor
    dense: tuple[Tensor, ...]
    ends: Tensor
    made: Tensor
    rows: Tensor

    def copy(self) -> History:
        """Another one, for when the buffers are written again."""
        copies = {name: x.clone() for name, x in self._asdict().items() if name != "dense"}
        return History(dense=tuple(x.clone() for x in self.dense), **copies)


@final
class ChunkRows:
    """Rows at the output times, those that are not reached NaN.

    Args:
        problem: which rows of which state.
        times: ``(lanes, n)``.
        sign: ``(lanes,)``, the direction of time.
    """

    def __init__(self, problem: Problem, times: Tensor, sign: Tensor) -> None:
        self.problem, self.times, self.sign = problem, times, sign
        y0 = problem.y0
        self.count = times.shape[1]
        self.rows = y0.new_full((self.count + 1, *y0.shape), math.nan)
        self.rows[0] = y0
        self.lanes = torch.arange(len(times), device=y0.device)

    def add(self, history: History, fresh: int) -> None:
        """Interpolate the rows of a chunk, of which no lane has more than ``fresh``."""
        if not fresh:
            return
        width = bytes_of(self.problem.y0) * (3 + len(history.dense))
        size = max(BYTES // max(width, 1), 1)
        for first in range(0, fresh, size):
            self._add(history, first, min(size, fresh - first))

    def _add(self, history: History, first: int, count: int) -> None:
        place = torch.arange(first, first + count, device=self.times.device)[:, None]
        place = place + history.made  # (count, lanes), and so are all that follow
        query = self.times.gather(1, place.clamp(max=self.count - 1).T).T
        front = (history.ends * self.sign).T.contiguous()
        index = torch.searchsorted(front, (query * self.sign).T.contiguous()).T
        index = index.clamp(max=len(history.t) - 1)
        row = torch.where(place < history.rows, place, self.count)
        hit = query == history.ends.gather(0, index)
        t, h = history.t.gather(0, index), history.h.gather(0, index)
        h = torch.where(h == 0, 1.0, h)  # a lane that waits takes steps of no length
        where: tuple[Tensor, ...] = (index, self.lanes.expand_as(index))
        target: tuple[Tensor, ...] = (row, where[1])
        if not self.problem.per_sample:
            where, target = (index[:, 0],), (row[:, 0],)
            hit, t, h, query = hit[:, 0], t[:, 0], h[:, 0], query[:, 0]
        y0, y1 = history.y0[where], history.y1[where]
        hit, t, h, query = (align(x, y1) for x in (hit, t, h, query))
        segment = Segment(t, h, y0, y1, tuple(x[where] for x in history.dense))
        values = self.problem.solver.interpolate(segment, query)
        self.rows.index_put_(target, torch.where(hit, y1, values))

    def finish(self, last: Tensor, status: Tensor) -> Tensor:
        """All rows; where only the end was asked for, that is ``last`` of who got there."""
        if self.count == 2:
            reached = align(status == 0, last) if self.problem.per_sample else status[0] == 0
            self.rows[1] = torch.where(reached, last, math.nan)
        return self.rows[: self.count]
