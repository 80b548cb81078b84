"""Models integrated along their segments: the states first, their sensitivities afterwards.

Sensitivities obey ``Z' = (df/dx) Z + df/dc`` and take the same Runge-Kutta steps as the states, so
they are exact for the discretised problem. A step turns them into ``A Z + [0, B]``, where ``A`` and
``B`` depend on the states alone. So these are integrated first; then the ``A`` and ``B`` of many
steps are found side by side, where one step at a time would cost calls more than arithmetic. And a
fit asks for sensitivities only where it goes on.

Shapes: ``B`` models, ``M`` segments, ``Q`` intervals a segment, ``S`` steps, ``d`` states, ``v``
    variables (states, then inputs), ``n`` columns of a sensitivity: the start's, the coefficients'.
Units: scaled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from odekit_sindy.dynamics import Dynamics, Slope
from odekit_sindy.layout import Layout
from odekit_sindy.models import Models

HUGE = 1e6
LONG = 1e60
KEPT = 8_000_000
"""Most numbers that `in_parts` keeps of the points at which slopes were taken."""
AT_ONCE = 30_000
"""Numbers in the sensitivities of all steps that are made side by side."""
STAGES = (0.0, 0.5, 0.5, 1.0)


@final
@dataclass(frozen=True)
class Course:
    """States of some models at all nodes, and what their sensitivities follow from.

    Attributes:
        nodes: ``(Q + 1, B, d, M)``; values that are not finite are `HUGE`.
        points: ``(S, 4, B, v, M)``, where slopes were taken; None if that was not kept.
        lengths: ``(S, M)``, of the steps.
        substeps: steps per interval.
    """

    nodes: np.ndarray
    points: np.ndarray | None
    lengths: np.ndarray
    substeps: int

    def pick(self, rows: np.ndarray) -> Course:
        """That of the models ``rows``."""
        if self.points is None or len(rows) == self.nodes.shape[1]:
            return self
        points = self.points[:, :, rows]
        return Course(self.nodes[:, rows], points, self.lengths, self.substeps)

    def put(self, rows: np.ndarray, other: Course, better: np.ndarray) -> None:
        """Take over, for the models ``rows (b,)``, what is ``better (b,)`` of ``other``."""
        self.nodes[:, rows[better]] = other.nodes[:, better]
        if self.points is not None and other.points is not None:
            self.points[:, :, rows[better]] = other.points[:, :, better]

    def tangents(self, slope: Slope, columns: int, start: np.ndarray | None = None) -> np.ndarray:
        """Sensitivities at all nodes, ``(Q + 1, B, d, n, M)``; zero where they are not finite.

        Args:
            slope: slopes with tangents, of the same models.
            columns: their number ``n``.
            start: those at the first node, where it is not the start.
        """
        assert self.points is not None
        steps, _, models, _, segments = self.points.shape
        d = self.nodes.shape[2]
        found = np.empty((len(self.nodes), models, d, columns, segments))
        found[0] = z = _identity(models, d, columns, segments) if start is None else start
        size = max(1, AT_ONCE // max(z.size, 1))
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(0, steps, size):
                here = slice(first, min(first + size, steps))
                for i, after in self._along(slope, here, z):
                    z = after
                    node, rest = divmod(i + 1, self.substeps)
                    if not rest:
                        found[node] = z
        # A tangent this long is of no use, and its square would overflow.
        found[~(np.abs(found) < LONG)] = 0.0
        return found

    def _along(self, slope: Slope, here: slice, z: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each of some steps, and the sensitivities after it, from ``z``."""
        assert self.points is not None
        count = here.stop - here.start
        one = z if count == 1 else np.tile(_identity(*z.shape), count)
        h = self.lengths[here].reshape(-1)
        part = self.points[here].transpose(1, 2, 3, 0, 4)
        points = part.reshape(*part.shape[:3], -1)  # (4, B, v, steps and segments)
        slopes: list[np.ndarray] = []
        for at, share in zip(points, STAGES, strict=True):
            moved = one
            if slopes:
                moved = share * h * slopes[-1]
                moved += one
            tangent = slope(at, moved)[1]
            assert tangent is not None
            slopes.append(tangent)
        first, total, third, last = slopes
        total += third
        total *= 2
        total += first
        total += last
        total *= h / 6
        total += one
        if count == 1:
            yield here.start, total
            return
        apart = np.moveaxis(total.reshape(*z.shape[:3], count, -1), 3, 0)
        for i, step in enumerate(np.ascontiguousarray(apart), here.start):
            z = _composed(step, z)
            yield i, z


def _identity(models: int, d: int, columns: int, segments: int) -> np.ndarray:
    """Sensitivities at the starts, ``(B, d, n, M)``."""
    z = np.zeros((models, d, columns, segments))
    z[:, np.arange(d), np.arange(d)] = 1.0
    return z


def _composed(step: np.ndarray, z: np.ndarray) -> np.ndarray:
    """``A z + [0, B]`` for ``step = [A, B]``, both ``(B, d, n, M)``."""
    d = step.shape[1]
    out: np.ndarray = step[:, :, 0, None] * z[:, None, 0]
    for j in range(1, d):
        out += step[:, :, j, None] * z[:, None, j]
    out[:, :, d:] += step[:, :, d:]
    return out


def follow(
    models: Models, dynamics: Dynamics, layout: Layout, substeps: int, *, kept: bool
) -> Course:
    """Integrate the models from their starts by classical Runge-Kutta steps.

    Args:
        models: ``B`` models with their segments' starts.
        dynamics: their family.
        layout: the data by segment.
        substeps: steps per data interval.
        kept: whether sensitivities may be asked for.
    """
    slope = dynamics.bind(models, False)
    intervals, d = len(layout.step), layout.dim
    shape = (len(models), d + layout.inputs.shape[1], layout.segments)
    points = np.empty((intervals * substeps if kept else 1, 4, *shape))
    nodes = np.empty((intervals + 1, len(models), d, layout.segments))
    nodes[0] = x = models.start
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(intervals):
            h = layout.step[i] / substeps
            half, sixth = 0.5 * h, h / 6
            for s in range(substeps):
                at = points[i * substeps + s if kept else 0]
                k1, _ = slope(_point(layout, at[0], x, i, s / substeps), None)
                middle = s / substeps + 0.5 / substeps
                k2, _ = slope(_point(layout, at[1], x + half * k1, i, middle), None)
                k3, _ = slope(_point(layout, at[2], x + half * k2, i, middle), None)
                last = _point(layout, at[3], x + h * k3, i, s / substeps + 1 / substeps)
                k4, _ = slope(last, None)
                x = x + sixth * (k1 + 2 * (k2 + k3) + k4)
            nodes[i + 1] = x
    nodes = np.nan_to_num(nodes, nan=HUGE, posinf=HUGE, neginf=-HUGE)
    lengths = np.repeat(layout.step / substeps, substeps, axis=0)
    return Course(nodes, points if kept else None, lengths, substeps)


def in_parts(
    models: Models, dynamics: Dynamics, layout: Layout, substeps: int
) -> tuple[np.ndarray, np.ndarray]:
    """States and sensitivities at all nodes, a few intervals at a time where there are many."""
    columns = layout.dim + models.flat.shape[1]
    slope = dynamics.bind(models, True)
    width = layout.dim + layout.inputs.shape[1]
    size = max(1, KEPT // (4 * substeps * len(models) * width * layout.segments))
    nodes: list[np.ndarray] = []
    tangents: list[np.ndarray] = []
    for first in range(0, len(layout.step), size):
        last = first + size
        part = replace(layout, step=layout.step[first:last], inputs=layout.inputs[first : last + 1])
        begun = replace(models, start=nodes[-1][-1]) if nodes else models
        course = follow(begun, dynamics, part, substeps, kept=True)
        z = course.tangents(slope, columns, tangents[-1][-1] if tangents else None)
        nodes.append(course.nodes[bool(nodes) :])
        tangents.append(z[bool(tangents) :])
    return np.concatenate(nodes), np.concatenate(tangents)


def _point(layout: Layout, out: np.ndarray, x: np.ndarray, i: int, share: float) -> np.ndarray:
    """States in their box, and inputs a share into interval ``i``, written to ``out (B, v, M)``."""
    d = layout.dim
    states = out[:, :d]
    np.maximum(x, layout.low[:, None], out=states)
    np.minimum(states, layout.high[:, None], out=states)
    if out.shape[1] > d:
        out[:, d:] = (1 - share) * layout.inputs[i] + share * layout.inputs[i + 1]
    return out
