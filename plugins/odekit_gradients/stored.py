"""The solution of the forward solve, looked up at any time on the way back.

Shapes: ``t`` as a field sees it, 0-d or ``(lanes, 1)``; rows of times are ``(k,)`` or
    ``(k, lanes)``.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import final

import torch
from torch import Tensor

from odekit import DenseOutput, Segment, Solver


@final
class Stored:
    """Dense output, one time after the other.

    With a shared step size the step is found among floats, several times faster than among
    tensors.

    Args:
        dense: of the forward solve.
        per_sample: whether every lane has times of its own.
    """

    def __init__(self, dense: DenseOutput, *, per_sample: bool) -> None:
        self.dense, self.per_sample = dense, per_sample
        self._place, self._segment = -1, dense.segment
        self._resting: tuple[Tensor, Tensor] | None = None
        if not per_sample:
            knots = dense.knots.tolist()
            self._sign = 1.0 if knots[-1] >= knots[0] else -1.0
            self._knots = [self._sign * knot for knot in knots]

    def rest(self, lanes: Tensor, start: Tensor) -> None:
        """From now on these lanes, ``(lanes,)`` of bool, are at ``start``, where all is finite."""
        self._resting = (lanes[:, None], start)

    def at(self, t: Tensor) -> Tensor:
        """The state at one time, or at one time per lane."""
        if self.per_sample:
            return self.rows(t.T)[0]
        place = bisect_left(self._knots, self._sign * float(t)) - 1
        place = min(max(place, 0), len(self._knots) - 2)
        if place != self._place:
            self._place, steps = place, self.dense.segment
            t0, h, y0, y1 = (x[place] for x in steps[:4])
            self._segment = Segment(t0, h, y0, y1, tuple(x[place] for x in steps.dense))
        return self.dense.solver.interpolate(self._segment, t)

    def rows(self, t: Tensor) -> Tensor:
        """The states at many times, ``(k, *state)``."""
        states = self.dense(t)
        if self._resting is None:
            return states
        lanes, start = self._resting
        return torch.where(lanes, start, states)


def parts_of(dense: DenseOutput | None) -> tuple[Tensor, ...]:
    """The tensors of dense output, for autograd to keep and to free."""
    return () if dense is None else (dense.knots, *dense.segment[:4], *dense.segment.dense)


def restored(solver: Solver, parts: list[Tensor]) -> DenseOutput:
    """Dense output from its tensors."""
    knots, t, h, y0, y1, *rest = parts
    return DenseOutput(solver, knots, Segment(t, h, y0, y1, tuple(rest)))
