"""Trajectories cut into short segments, padded to one length so that all run as one batch.

Shapes: ``M`` segments of at most ``L`` intervals. A shorter segment repeats its last time, and a
step of length zero changes nothing, so node ``L`` is the end of every segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odekit_training.observations import Trajectory


@dataclass(frozen=True)
class Segments:
    """The layout of multiple shooting.

    Attributes:
        t: ``(M, L + 1)``, times of the nodes.
        y: ``(M, L + 1, d)``, data at the nodes, every datum once; NaN elsewhere.
        start: ``(M,)``, row of each segment's first node in the trajectories, laid end to end.
        first: ``(F,)``, segments that begin a trajectory.
        before: ``(C,)``, segments that are followed by another one of the same trajectory;
            the follower of ``before[i]`` is ``before[i] + 1``.
    """

    t: Tensor
    y: Tensor
    start: Tensor
    first: Tensor
    before: Tensor

    def __len__(self) -> int:
        return len(self.t)

    @property
    def intervals(self) -> int:
        """The number of intervals of the longest segment, ``L``."""
        return self.t.shape[1] - 1


def cut(trajectories: Sequence[Trajectory], length: int) -> Segments:
    """Segments of ``length`` intervals; a last one of less than two joins its neighbour."""
    pieces: list[tuple[int, Tensor, Tensor]] = []
    first: list[int] = []
    before: list[int] = []
    offset = 0
    for one in trajectories:
        total = len(one.t) - 1
        starts = list(range(0, total, length))
        if len(starts) > 1 and total - starts[-1] < 2:
            starts.pop()
        first.append(len(pieces))
        for i, begin in enumerate(starts):
            last = i == len(starts) - 1
            end = total if last else starts[i + 1]
            y = one.y[begin : end + 1].clone()
            if not last:
                y[-1] = torch.nan  # the first datum of the next segment
                before.append(len(pieces))
            pieces.append((offset + begin, one.t[begin : end + 1], y))
        offset += total + 1
    longest = max(len(t) for _, t, _ in pieces)
    t = torch.stack([torch.cat([t, t[-1:].expand(longest - len(t))]) for _, t, _ in pieces])
    y = torch.stack(
        [torch.cat([y, y.new_full((longest - len(y), y.shape[1]), torch.nan)]) for *_, y in pieces]
    )
    start = torch.tensor([begin for begin, *_ in pieces])
    return Segments(t, y, start, torch.tensor(first), torch.tensor(before, dtype=torch.int64))
