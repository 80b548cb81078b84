"""The way back over the steps of a reversible solver, with the cotangents.

Step by step from the last to the first: the solver takes the step back without a graph, takes it
forward again with one, and what the loss owes to the end of the step and to the rows inside it
is pulled back to its start.

Shapes: per sample every lane goes back over its own steps, the first of all lanes together;
    lanes with fewer steps wait at their end, and nothing reaches them meanwhile.
Units: times in the caller's unit of time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from odekit import GradientWarning, Problem, Segment
from odekit.trees import leaves_of, map_leaves
from odekit_gradients.footsteps import Footsteps, choose
from odekit_gradients.reach import pull_back
from odekit_gradients.timetable import Index, Piece, Timetable
from odekit_gradients.vigil import Vigil, places_in


class _Start(NamedTuple):
    """Where a step starts, and whose memory is made afresh there."""

    y: Tensor
    memory: Any
    afresh: Tensor | bool


class _Walked(NamedTuple):
    """A step with its graph: what it came from, what it led to, and the rows inside it."""

    start: Tensor
    leaves: list[Tensor]
    shift: Tensor
    t_rows: Tensor
    y: Tensor
    memory: Any
    rows: Tensor | None


class Retreat:
    """Goes back once.

    Args:
        problem: what was solved.
        steps: the steps taken.
        params: what else gradients are wanted of.
        wants_t: whether the output times and the start time want theirs.
        shared: whether calls of the field have part of a graph in common.
    """

    def __init__(
        self,
        problem: Problem,
        steps: Footsteps,
        params: Sequence[Tensor],
        *,
        wants_t: bool,
        shared: bool,
    ) -> None:
        self.common = shared
        self.problem, self.solver, self.steps = problem, problem.solver, steps
        self.params, self.wants_t = list(params), wants_t
        self.shared = not problem.per_sample
        self.real = problem.y0.real.dtype
        self.t = problem.t.detach()
        self.grad_t = torch.zeros_like(self.t)
        self.grads = [torch.zeros_like(p) for p in params]
        self.drift = torch.zeros((), dtype=self.real, device=self.t.device)
        self.table = Timetable(problem, steps, wants_t=wants_t)
        self.vigil = Vigil.of(problem, "reversible")
        self.places = set(places_in(len(self.table))) if self.vigil is not None else set()

    def run(self, grad_y: Tensor) -> tuple[Tensor | None, Tensor, list[Tensor]]:
        """Gradients of output times (None if not wanted), start and parameters.

        Args:
            grad_y: the loss's derivative by the rows, like them; finite.
        """
        if self.vigil is not None:
            times = self.t if self.problem.save == "times" else self.steps.knots[:, : len(grad_y)]
            self.vigil.open(times[0] if self.shared and times.dim() == 2 else times, grad_y)
        self.at_ends, self.inside = self.table.sort_rows(len(grad_y))
        y, memory = self.steps.y, self.steps.memory
        a: Tensor = torch.zeros_like(self.problem.y0)
        b: list[Tensor] | None = None  # of the memory's leaves; the last memory is owed nothing
        for i in reversed(range(len(self.table))):
            piece = self.table.piece(i)
            start = self._take_back(i, piece, y, memory)
            y, memory = start.y, start.memory
            a = self._add_rows(a, grad_y, i)
            a, b = self._pull(i, piece, start, a, b, grad_y)
            if i in self.places:
                self._look(piece, y, a, b)
        a = self._add_rows(a, grad_y, -1)
        self._warn()
        if self.vigil is not None:
            self.vigil.close()
        return (self.grad_t if self.wants_t else None), a, self.grads

    def _look(self, piece: Piece, y: Tensor, a: Tensor, b: list[Tensor] | None) -> None:
        """Have a look at what the loss owes to the start of a step, by way of its memory too."""
        if self.vigil is None:
            return
        t, h = piece.t, piece.h
        if b is not None:
            with torch.enable_grad():
                at = y.detach().requires_grad_()
                made = _tensors(self.solver.init(self.problem.field, t, at))
            (a,) = pull_back([at, *made], (at,), [a, *b])
        if piece.active is not None:
            h = torch.where(piece.active[:, None], h, 0)
        self.vigil.look(t, h, y, a)

    def _add_rows(self, a: Tensor, grad_y: Tensor, i: int) -> Tensor:
        """The cotangent of the end of step ``i``, and those of the rows that are this state."""
        index = self.at_ends.get(i)
        if index is None:
            return a
        if self.shared:
            return a + grad_y[index].sum(0)
        return a.index_put((index[1],), grad_y[index], accumulate=True)

    @torch.no_grad()
    def _take_back(self, i: int, piece: Piece, y: Tensor, memory: Any) -> _Start:
        """State and memory at the start of step ``i``, from those at its end."""
        known = self.steps.anchors.get(i, [])
        late, late_memory = y, memory
        if not (self.shared and known and known[0].memory is not None):
            y, memory = self.solver.reverse(self.problem.field, piece.t, piece.h, y, memory)
            if piece.active is not None:
                y = choose(piece.active, y, late)
                memory = choose(piece.active, memory, late_memory)
        afresh: Tensor | bool = False
        for lanes, place, stored in known:
            if stored is None:
                self._compare(y, place, late, lanes)
                afresh = True if lanes is None else lanes | afresh
            y = place if lanes is None else choose(lanes, place, y)
            if stored is not None:
                memory = stored if lanes is None else choose(lanes, stored, memory)
        if i == 0:
            start = self.problem.y0.detach()
            self._compare(y, start, late, None)
            first = self.problem.memory
            return _Start(start, memory, True) if first is None else _Start(start, first, False)
        return _Start(y, memory, afresh)

    def _compare(self, found: Tensor, known: Tensor, late: Tensor, lanes: Tensor | None) -> None:
        """Take note of how far a state that was found is from where the step had started."""
        count = 1 if self.shared else len(known)
        off, before, after = (
            x.abs().reshape(count, -1).amax(1) for x in (found - known, known, late)
        )
        ratio = off / torch.maximum(before, after).clamp(min=torch.finfo(self.real).tiny)
        ratio = torch.where(ratio.isnan(), torch.inf, ratio)
        if lanes is not None:
            ratio = torch.where(lanes, ratio, 0)
        self.drift = torch.maximum(self.drift, ratio.max())

    def _warn(self) -> None:
        drift, allowed = float(self.drift), torch.finfo(self.real).eps ** 0.5
        if not drift <= allowed:
            warnings.warn(
                f"gradient='reversible' came back to a start that is off by {drift:.1e} of the "
                f"state, more than {allowed:.0e}: its gradients are not exact; use "
                "gradient='checkpointed', fewer steps, or a coupling closer to 1",
                GradientWarning,
                stacklevel=2,
            )

    def _pull(
        self,
        i: int,
        piece: Piece,
        start: _Start,
        a: Tensor,
        b: list[Tensor] | None,
        grad_y: Tensor,
    ) -> tuple[Tensor, list[Tensor] | None]:
        """Take the step forward with a graph and pull the cotangents back through it.

        ``a`` and ``b`` are those of state and memory, at the end of the step and then at its
        start; None where the memory is owed nothing.
        """
        index = self.inside.get(i)
        walked = self._walk(i, piece, start)
        values, cotangents = [walked.y], [a]
        if walked.rows is not None:
            values.append(walked.rows)
            cotangents.append(grad_y[index])
        if b is not None:
            values += _tensors(walked.memory)
            cotangents += b
        kept: list[Tensor] = []
        if piece.active is not None:
            kept, cotangents = _split(piece.active, cotangents, rows=walked.rows is not None)
        count = 3 + len(walked.leaves)
        sources = [walked.start, walked.shift, walked.t_rows, *walked.leaves, *self.params]
        found = pull_back(values, sources, cotangents, retain=self.common)
        for total, part in zip(self.grads, found[count:], strict=True):
            total += part
        if self.wants_t:
            self._add_times(found[1], found[2], index)
        a, b = found[0], found[3:count]
        if kept:
            a = a + kept[0]
            b = [x + k for x, k in zip(b, kept[1:], strict=True)] if kept[1:] else b
        return a, None if start.afresh is True else b

    @torch.enable_grad()
    def _walk(self, i: int, piece: Piece, start: _Start) -> _Walked:
        """The step as the solve took it, attached to its start, its times and the parameters."""
        field, solver = self.problem.field, self.solver
        y = start.y.detach().requires_grad_()
        memory = used = map_leaves(_attached, start.memory)
        shift = torch.zeros_like(piece.t, requires_grad=self.wants_t)
        t = piece.t + torch.where(piece.moving, shift, 0.0) if self.wants_t else piece.t
        if start.afresh is not False:
            made = solver.init(field, t, y)
            used = made if start.afresh is True else choose(start.afresh, made, used)
        step = solver.step(field, t, piece.h, y, used)
        index = self.inside.get(i)
        t_rows = self._by_row(self.t)[index] if index else self.t[:0]
        t_rows = t_rows.requires_grad_(self.wants_t)
        y1, rows = step.y, None
        if index is not None or self.table.holds[i]:
            dense = solver.complete(field, t, piece.h, y, step)
            h = torch.as_tensor(piece.h, dtype=torch.float64, device=self.t.device)
            segment = Segment(t, h, y, step.y, dense)
            if self.table.holds[i]:
                y1 = self._hold(piece, segment)
            if index is not None:
                rows = self._interpolate(segment, index, t_rows)
        return _Walked(y, _tensors(memory), shift, t_rows, y1, step.state, rows)

    def _hold(self, piece: Piece, segment: Segment) -> Tensor:
        """The end of the step, which where the field jumps does not move with the start time."""
        held = piece.held
        h = torch.where(held, segment.h, 1.0)
        value = self.solver.interpolate(segment._replace(h=h), piece.end)
        return torch.where(held, value, segment.y1)

    def _interpolate(self, segment: Segment, index: Index, t_rows: Tensor) -> Tensor:
        """The rows inside the step."""
        if self.shared:
            wide = segment._replace(
                y0=segment.y0[None],
                y1=segment.y1[None],
                dense=tuple(x[None] for x in segment.dense),
            )
            t = t_rows.reshape(-1, *(1,) * segment.y0.dim())
            return self.solver.interpolate(wide, t)
        lane = index[1]
        t, h, y0, y1 = (x[lane] for x in (segment.t, segment.h, segment.y0, segment.y1))
        picked = Segment(t, h, y0, y1, tuple(x[lane] for x in segment.dense))
        return self.solver.interpolate(picked, t_rows[:, None])

    def _by_row(self, t: Tensor) -> Tensor:
        """Output times with their rows first."""
        return t if self.shared else t.T

    def _add_times(self, start: Tensor, rows: Tensor, index: Index | None) -> None:
        first = self._by_row(self.grad_t)[0]
        first += start.reshape(first.shape)
        if index is not None:
            self._by_row(self.grad_t)[index] += rows


def _split(
    active: Tensor, cotangents: list[Tensor], *, rows: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Cotangents that wait with their lanes, and those that go through the step.

    Both are in the order of state, memory; rows lie in steps that are taken.
    """
    places = [0, *range(2 if rows else 1, len(cotangents))]
    kept, through = [], list(cotangents)
    for place in places:
        whole = cotangents[place]
        zero = torch.zeros_like(whole)
        kept.append(choose(active, zero, whole))
        through[place] = choose(active, whole, zero)
    return kept, through


def _attached(x: Any) -> Any:
    """A copy that asks for gradients and comes from nowhere."""
    if not isinstance(x, Tensor):
        return x
    return x.detach().requires_grad_(x.is_floating_point() or x.is_complex())


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in leaves_of(tree) if isinstance(x, Tensor)]
