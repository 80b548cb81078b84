"""What a trained field contributes where there are data: slopes and samples, never the verdict.

A trained field has learned the noise away, so its slopes rank candidate supports better than
those of a smoother. Its error is smooth, however, and no residual of a regression on it tells a
small true term from a flaw of the training; so it only proposes, and the data decide.

Shapes: an observed state has ``d`` entries, the integrated one of a field that lifts has ``D``.
Units: the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import odekit
from odekit import Field, IncompatibleError, OdekitError, Solution, TimeSeries, VectorField
from odekit.training import check_series
from odekit_sindy import spline
from odekit_sindy.gaussian_process import Series
from odekit_sindy.sampling import Sampler, Trace, traces
from odekit_sindy.smoothing import QUERIES, Samples

BESIDE = 0.5
"""How far from the data, in units of their range, samples of a solution still count."""

OWN_COORDINATES = (
    "The hidden states have coordinates of the training's own choice, so their equations are one "
    "description of many, and no data can decide its terms."
)
"""Said of fields whose hidden states are no velocities."""

SAME = 1e-5
"""Relative difference below which a slope *is* another state; above rounding in float32."""


@dataclass(frozen=True)
class Trained:
    """A field along its solutions.

    Attributes:
        sampler: slopes of the integrated state at any point.
        traces: integrated states along the solutions, each ``(n, D)``.
        width: entries of the observed state ``d``.
        solutions: those solutions.
    """

    sampler: Sampler
    traces: tuple[Trace, ...]
    width: int
    solutions: tuple[Solution, ...] = ()

    @property
    def lifted(self) -> bool:
        """Whether the field integrates more than is observed."""
        return bool(self.traces[0].y.shape[1] > self.width)

    def samples(self, low: np.ndarray, high: np.ndarray) -> list[Samples]:
        """States and slopes along the solutions, as far as they stay near the data.

        Args:
            low: smallest observed values, ``(d,)``; hidden states are free.
            high: largest ones, ``(d,)``.
        """
        margin = BESIDE * (high - low)
        kept = []
        for trace in self.traces:
            x = trace.y[:, : self.width]
            near = ((x >= low - margin) & (x <= high + margin)).all(1)
            kept.append(Trace(trace.t[near], trace.y[near]))
        t = np.concatenate([trace.t for trace in kept])
        y = np.concatenate([trace.y for trace in kept])
        if len(t) < 2 * y.shape[1]:
            return []
        every = -(-len(t) // (2 * QUERIES))
        t, y = t[::every], y[::every]
        return [Samples(t, y, self.sampler(t, y), np.zeros((len(t), 0)))]

    def velocities(self) -> dict[int, int] | None:
        """For each hidden state the observed one of which it is the slope, as `kinematics` does.

        None unless all hidden states are such velocities.
        """
        hidden = set(range(self.width, self.traces[0].y.shape[1]))
        found = {i: j for i, j in self.kinematics().items() if i < self.width and j in hidden}
        return found if sorted(found.values()) == sorted(hidden) else None

    def kinematics(self) -> dict[int, int]:
        """States whose slope is another state, as ``{position: velocity}``.

        The columns are shuffled against one another first: along a solution many things are
        equal that are not the same.
        """
        y = np.concatenate([trace.y for trace in self.traces])
        t = np.concatenate([trace.t for trace in self.traces])
        generator = np.random.default_rng(0)
        x = np.stack([generator.permutation(column) for column in y.T], axis=1)
        dx = self.sampler(t, x)
        size = np.abs(x).max(0) + 1e-300
        found = {}
        for i in range(x.shape[1]):
            apart = np.abs(dx[:, i, None] - x).max(0) / size
            j = int(np.argmin(apart))
            if j != i and apart[j] < SAME and np.ptp(x[:, j]) > SAME * size[j]:
                found[i] = j
        return found


def follow(
    field: VectorField, series: Sequence[TimeSeries], solutions: Sequence[Solution] | None
) -> Trained:
    """The field along its solutions, solved for from the starts of the data where none are given.

    Raises:
        ProblemError: the series differ, or have inputs.
        IncompatibleError: the field is not one of the observed states.
        DiscoveryError: it cannot be followed.
    """
    several = check_series(series)
    width = several[0].dim
    if solutions is None:
        solutions = _solved(field, several)
    found, sampler = traces(field, solutions)
    seen = found[0].y.shape[1]
    shown = width if seen > width and isinstance(field, Field) else seen
    if shown != width:
        raise IncompatibleError(
            f"the field has {seen} states and the data have {width} ({', '.join(several[0].names)})"
            ": give the data that it was trained on"
        )
    return Trained(sampler, tuple(found), width, tuple(solutions))


def _solved(field: VectorField, several: Sequence[TimeSeries]) -> list[Solution]:
    """Solutions over the span of each series, from where its smoothed states begin."""
    dtype, device = _home(field)
    rows = sum(len(one.t) for one in several)
    out = []
    for one, start in zip(several, _starts(several), strict=True):
        if start is None:
            continue
        count = max(20, round(QUERIES * len(one.t) / rows))
        t = torch.linspace(*one.span, count, dtype=torch.float64, device=device)
        x = torch.as_tensor(start, dtype=dtype, device=device)
        try:
            with torch.no_grad():
                out.append(odekit.solve(field, x, t, throw=False))
        except OdekitError:
            raise
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise IncompatibleError(
                f"the field fails on the {len(start)} states of the data ({error}): give the data "
                "that it was trained on, or solutions= where its state is not one tensor"
            ) from error
    return out


def _home(field: VectorField) -> tuple[torch.dtype, torch.device | str]:
    first: Tensor | None = None
    if isinstance(field, nn.Module):
        first = next(field.parameters(), None)
    return (torch.float64, "cpu") if first is None else (first.dtype, first.device)


def _starts(several: Sequence[TimeSeries]) -> list[np.ndarray | None]:
    """Smoothed states at the first row of each series; None where a state is never seen."""
    columns = []
    tables = [(one.t.cpu().numpy(), one.y.double().cpu().numpy()) for one in several]
    for j in range(several[0].dim):
        parts = []
        for t, y in tables:
            seen = np.isfinite(y[:, j])
            parts.append(Series(t[seen], y[seen, j], np.ones(int(seen.sum()))))
        curve = spline.fit(parts)
        columns.append(
            [
                float(curve.predict(i, t[:1])[0][0]) if len(parts[i].t) else None
                for i, (t, _) in enumerate(tables)
            ]
        )
    rows = list(zip(*columns, strict=True))
    return [None if None in row else np.array(row, dtype=np.float64) for row in rows]
