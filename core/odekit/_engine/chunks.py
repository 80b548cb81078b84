"""Solves in chunks of masked attempts, for devices that should not be waited for.

Time, step size, memories and acceptance stay on the device. A chunk is a fixed number of
attempts, each lane taking its own by ``torch.where`` as in the lane driver, whose numbers and
counts these are; a shared step size makes the whole state one lane. Whether any lane goes on is
read one chunk late, so that the device always has the next one before it, at the price of less
than two chunks of attempts that move nothing. Steps that are known in advance are not asked about.

For solves without gradients. Stops inside the span, dense output, all steps as rows and dense
output that takes evaluations of its own are for other tiers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor

from odekit._engine.captured import Executor
from odekit._engine.chunk_rows import ChunkRows, History
from odekit._engine.chunk_start import Beginning, Buffers
from odekit._engine.clock import SNAP, TINY, CountedField, controlled_error
from odekit._engine.emit import bytes_of
from odekit._engine.scalars import Mismatch, Unsupported
from odekit._engine.timetable import foresee
from odekit.errors import Status
from odekit.problem import Problem, Trajectory
from odekit.solution import Stats
from odekit.trees import flatten, unflatten

CHUNK = 16
"""Attempts in a chunk."""

KEPT = 1 << 26
"""Bytes of attempts that one chunk may keep; fewer of a large state are in it."""

PARTS = 12
"""Tensors like the state that an attempt may leave behind."""


@final
class Chunk:
    """A fixed number of masked attempts on buffers of its own.

    Attributes:
        history: the attempts of the latest run; None where only the end is asked for.
        flags: ``(2,)``, whether any lane goes on, and the most rows that one has got.
        calls: of the field, in one attempt.
    """

    def __init__(self, problem: Problem, begin: Beginning) -> None:
        self.problem, self.per_sample = problem, problem.per_sample
        blank = [_blank(x) for x in flatten(tuple(begin.buffers))[0]]
        self.buffers = Buffers(*unflatten(blank, flatten(tuple(begin.buffers))[1]))
        self.controller = problem.controller.with_tolerances(*self.buffers.tolerances)
        self.memory_spec, self.control_spec = begin.memory_spec, begin.control_spec
        self.field = CountedField(problem.field)
        y = problem.y0
        self.real = y.dtype.to_real() if y.dtype.is_complex else y.dtype
        width = bytes_of(y) * PARTS
        self.size = max(1, min(CHUNK, KEPT // max(width, 1)))
        self.sign = torch.empty_like(begin.sign)
        self.flags = torch.zeros(2, dtype=torch.int64, device=y.device)
        self.keeps = problem.t.shape[-1] > 2
        self.history: History | None = None
        self.calls = 0
        self.load(begin)

    def load(self, begin: Beginning) -> None:
        """Go to where a solve begins."""
        for kept, fresh in zip(self.buffers.tensors(), begin.buffers.tensors(), strict=True):
            kept.copy_(fresh)
        self.sign.copy_(begin.sign)

    def run(self) -> None:
        """Make the attempts; the buffers are written to at the end, all at once."""
        now, kept = self.buffers, []
        for _ in range(self.size):
            now, attempt = self._attempt(now)
            kept.append((*attempt, now.t))
        rows = torch.searchsorted(now.ahead, (now.t * self.sign)[:, None], right=True)[:, 0]
        flags = [now.active.any().to(torch.int64), (rows - now.rows).max()]
        if self.keeps:
            columns = list(zip(*kept, strict=True))
            t, h, y0, y1, ends = (torch.stack(columns[i]) for i in (0, 1, 2, 3, 5))
            dense = tuple(torch.stack(x) for x in zip(*columns[4], strict=True))
            self.history = History(t, h, y0, y1, dense, ends, now.rows.clone(), rows)
        self.flags.copy_(torch.stack(flags))
        now = now._replace(rows=rows)
        for target, value in zip(self.buffers.tensors(), now.tensors(), strict=True):
            if target is not value:
                target.copy_(value)

    def _attempt(self, now: Buffers) -> tuple[Buffers, tuple[Any, ...]]:
        """What the lane driver does in one round."""
        solver = self.problem.solver
        now = self._stopped(now)
        t, h, y, active = now.t, now.h, now.y, now.active
        room = now.end - t
        clipped = h.abs() * self.controller.stretch >= room.abs()
        asked = torch.where(active, torch.where(clipped, room, h), 0.0)
        # The length that is really taken, so that a replay of the times repeats it exactly.
        trial = torch.where(active & ~clipped, (t + h) - t, asked)
        memory = unflatten(now.memory, self.memory_spec)
        control = unflatten(now.control, self.control_spec)
        clock, length = self._seen(t), self._seen(trial.to(self.real))
        self.field.calls = 0
        step = solver.step(self.field, clock, length, y, memory)
        self.calls = self.field.calls
        if step.failed is not None:
            raise Unsupported("the solver may fail to make a step")
        error = controlled_error(self.problem, step)
        y0, y1 = self._flat(y), self._flat(step.y)
        error = None if error is None else self._flat(error)
        decision = self.controller.decide(solver, asked, y0, y1, error, control)
        accept = decision.accept & active
        whole = torch.isfinite(y1).all(-1)
        if error is not None:
            whole = whole & torch.isfinite(error).all(-1)
        # A step cut short says little about the next one.
        longer = (h.abs() > room.abs() * SNAP) & accept & (decision.h.abs() < h.abs())
        t1 = torch.where(clipped, now.end, t + trial)
        following = now._replace(
            t=torch.where(accept, t1, t),
            h=torch.where(active, torch.where(longer, h, decision.h), h),
            y=torch.where(self._mask(accept, y), step.y, y),
            attempts=now.attempts + active,
            accepted=now.accepted + accept,
            active=active & ~(accept & clipped),
            finite=torch.where(active, whole | accept, now.finite),
            memory=self._selected(accept, step.state, memory, lanes=self.per_sample),
            control=self._selected(active, decision.state, control, lanes=True),
        )
        return following, (t, trial, y, step.y, step.dense)

    def _stopped(self, now: Buffers) -> Buffers:
        """Without the lanes whose steps are too short or too many."""
        least = torch.maximum(TINY * now.t.abs(), now.floor)
        short = ~(now.h.abs() > least) & now.active
        why = torch.where(now.finite, int(Status.STEP_TOO_SMALL), int(Status.NON_FINITE))
        status = torch.where(short, why, now.status)
        active = now.active & ~short
        spent = active & (now.attempts >= now.max_steps)
        status = torch.where(spent, int(Status.MAX_STEPS), status)
        return now._replace(status=status, active=active & ~spent)

    def _seen(self, x: Tensor) -> Tensor:
        """A time or a length as the solver sees it."""
        return x[:, None] if self.per_sample else x.reshape(())

    def _flat(self, x: Tensor) -> Tensor:
        """A state as the controller of lanes sees it."""
        return x if self.per_sample else x.reshape(1, -1)

    def _mask(self, lanes: Tensor, x: Tensor) -> Tensor:
        return lanes.reshape(-1, *(1,) * (x.dim() - 1)) if self.per_sample else lanes.reshape(())

    def _selected(self, mask: Tensor, new: Any, old: Any, *, lanes: bool) -> list[Any]:
        """Leaves of a memory, new ones for the lanes in ``mask``."""
        pairs = zip(flatten(new)[0], flatten(old)[0], strict=True)
        return [
            a
            if a is b or not isinstance(a, Tensor)
            else torch.where(mask.reshape(-1, *(1,) * (a.dim() - 1)) if lanes else mask[0], a, b)
            for a, b in pairs
        ]


def run_chunks(
    chunk: Chunk, executor: Executor, problem: Problem, begin: Beginning
) -> Trajectory | None:
    """Solve; None where a result that should be finite is not and another tier says where.

    Args:
        chunk: made for a problem like this.
        executor: runs it.
        problem: what is to be solved.
        begin: where it begins.

    Raises:
        Mismatch: steps that were known in advance are others.
    """
    rows = ChunkRows(problem, begin.times, begin.sign)
    controller = problem.controller.with_tolerances(*begin.tolerances)
    table = foresee(problem, controller)
    with executor.alone():
        chunk.load(begin)
        if table is not None:
            for fresh in table.chunks(chunk.size):
                executor.launch()
                if chunk.history is not None:
                    rows.add(chunk.history, fresh)
        else:
            for history, fresh in _asked(chunk, executor):
                if history is not None:
                    rows.add(history, fresh)
        return _trajectory(chunk, problem, begin, rows)


def _asked(chunk: Chunk, executor: Executor) -> Iterator[tuple[History | None, int]]:
    """Each chunk's history and rows, while the chunk after it runs."""
    waiting: tuple[Any, History | None] | None = None
    for _ in itertools.count():
        executor.launch()
        asked = executor.post()
        history = None if chunk.history is None else chunk.history.copy()
        if waiting is not None:
            going, fresh = executor.read(waiting[0])
            yield waiting[1], fresh
            if not going:
                return
        waiting = asked, history


def _trajectory(
    chunk: Chunk, problem: Problem, begin: Beginning, rows: ChunkRows
) -> Trajectory | None:
    """What was reached; the one read of a solve whose steps are known in advance."""
    end = chunk.buffers
    last, status = end.y.clone(), end.status
    y = rows.finish(last, status)
    good = torch.isfinite(y).reshape(len(y), len(status), -1).all(-1)
    lost = (status == 0) & ~good.all(0)
    going, bad = torch.stack([end.active.any(), lost.any()]).tolist()
    if going:
        raise Mismatch("the controller's steps are not those foreseen")
    if bad and not problem.per_sample:
        return None
    before = good.long().cumprod(0).sum(0).clamp(min=1) - 1
    reached = torch.where(lost, begin.times.gather(1, before[:, None])[:, 0], end.t)
    status = torch.where(lost, int(Status.NON_FINITE), status)
    attempts, accepted = end.attempts.clone(), end.accepted.clone()
    evaluations = attempts * chunk.calls + begin.calls
    stats = Stats(attempts, accepted, attempts - accepted, evaluations, tier="graph")
    memory = unflatten([_copied(x) for x in end.memory], chunk.memory_spec)
    return Trajectory(problem.t, y, status, reached, stats, None, last, memory)


def _blank(x: Any) -> Any:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device) if isinstance(x, Tensor) else x


def _copied(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x
