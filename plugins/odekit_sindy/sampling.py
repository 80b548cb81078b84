"""A field along its solutions: states from the solution, slopes from the field itself.

Slopes are evaluated, never differenced. A batch of samples becomes one trace per sample; a state
of several tensors (a tuple, list or dict) is joined along its last axis. Where the field
integrates another state than it shows (`odekit.Field.lift`), the integrated state is solved for
again and used, since the equations close only there.

Shapes: a trace has ``t (n,)`` and ``y (n, d)``.
Units: those of the solution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

import odekit
from odekit import DiscoveryError, Field, IncompatibleError, Solution, VectorField

FIELD_ALONE = (
    "The number of terms was judged by the field alone, whose flaws look like small terms: "
    "give the data too, with series=."
)
"""Said where there were no data, unless the equations are the field itself."""

ITSELF = 1e-3
"""Relative difference below which equations are the field itself, and no description of it."""


@dataclass(frozen=True)
class Trace:
    """One sample of one solution: ``t (n,)``, states ``y (n, d)`` in float64."""

    t: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Layout:
    """How a state is joined into one vector: its container, and the width of each leaf.

    Attributes:
        kind: ``"tensor"``, ``"tuple"``, ``"list"`` or ``"dict"``.
        keys: of a dict.
        widths: entries of each leaf along its last axis.
        scalar: whether the state is 0-d.
    """

    kind: str
    keys: tuple[Any, ...]
    widths: tuple[int, ...]
    scalar: bool = False


def traces(field: VectorField, solutions: Sequence[Solution]) -> tuple[list[Trace], Sampler]:
    """Every sample of every solution as rows of one vector, and the field's slopes there.

    Raises:
        DiscoveryError: nothing was solved, or too little of it.
        IncompatibleError: a state that cannot be joined into a vector.
    """
    if not solutions:
        raise DiscoveryError("solutions is empty: give at least one solution of the field")
    out: list[Trace] = []
    sampler = None
    for solution in solutions:
        flat, layout = join(_integrated(field, solution))
        sampler = sampler or Sampler(field, layout, flat.dtype, flat.device)
        times = solution.t.detach().to("cpu", torch.float64)
        joined = flat.detach().to("cpu", torch.float64)
        lanes = joined.reshape(len(joined), -1, joined.shape[-1])
        for i in range(lanes.shape[1]):
            clock = times if times.dim() == 1 else times[i % len(times)]
            good = torch.isfinite(lanes[:, i]).all(-1)
            if int(good.sum()) >= 2:
                out.append(_forward(clock[good].numpy(), lanes[good, i].numpy()))
    if not out or sampler is None:
        raise DiscoveryError(
            "no solution has two finite rows: solve again over a span that the field survives"
        )
    return out, sampler


@final
class Sampler:
    """Slopes of a field at many points: ``t (q,)`` and ``x (q, d)`` to ``(q, d)``, in numpy.

    All points go through the field in one call. A field that cannot take a batch, because it
    was written for one state, is called point by point instead.

    Args:
        field: the field.
        layout: how its state is made of the columns of ``x``.
        dtype: what the field computes in.
        device: where it computes.
    """

    def __init__(
        self,
        field: VectorField,
        layout: Layout,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self._field, self._layout = field, layout
        self._dtype, self._device = dtype, device

    @classmethod
    def of(cls, field: VectorField, dim: int) -> Sampler:
        """For a field of one tensor; dtype and device are those of its parameters."""
        layout = Layout("tensor", (), (dim,))
        first = next(field.parameters(), None) if isinstance(field, nn.Module) else None
        if first is None:
            return cls(field, layout)
        return cls(field, layout, first.dtype, first.device)

    def __call__(self, t: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Slopes at the points.

        Raises:
            DiscoveryError: a slope is not finite.
        """
        times = torch.as_tensor(t, dtype=torch.float64, device=self._device)
        points = torch.as_tensor(x, dtype=self._dtype, device=self._device)
        with torch.no_grad():
            rows = self._batch(times, points)
        values = rows.to("cpu", torch.float64).numpy()
        if not np.isfinite(values).all():
            at = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
            raise DiscoveryError(
                f"the field is not finite at t = {t[at]:.6g}, state {x[at].tolist()}: leave that "
                "part of the solution out"
            )
        return values

    def _batch(self, t: Tensor, x: Tensor) -> Tensor:
        probe = sorted({0, len(x) // 2, len(x) - 1})
        single = torch.stack([self._one(t[i], x[i]) for i in probe])
        try:
            rows = join(self._field(t, split(x, self._layout)))[0]
        except (RuntimeError, IndexError, TypeError, ValueError):
            rows = None
        scale = single.abs().max() + torch.finfo(single.dtype).tiny
        # A field for one state may accept a batch and mix it up: compare before trusting it.
        if rows is not None and rows.shape == x.shape:
            apart = (rows[probe] - single).abs().max() / scale
            if bool(apart < 1e-4) or not bool(apart.isfinite()):
                return rows
        return torch.stack([self._one(a, b) for a, b in zip(t, x, strict=True)])

    def _one(self, t: Tensor, x: Tensor) -> Tensor:
        state = split(x[None], self._layout)
        leaves = _map(lambda leaf: leaf[0], state)
        slope = _map(lambda leaf: leaf[None], self._field(t, leaves))
        return join(slope)[0][0]


def _integrated(field: VectorField, solution: Solution) -> Any:
    """The integrated state along the solution: the solution's own, or solved for again."""
    if not isinstance(field, Field):
        return solution.y
    start = _map(lambda leaf: leaf[0], solution.y)
    with torch.no_grad():
        lifted = field.lift(start)
    if join(_map(lambda leaf: leaf[None], lifted))[0].shape[-1] == join(solution.y)[0].shape[-1]:
        return solution.y
    with torch.no_grad():
        again = odekit.solve(
            lambda t, y: field(t, y),
            lifted,
            solution.t,
            per_sample=solution.t.dim() == 2,
            throw=False,
        )
    return again.y


def _map(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """A function on every leaf of a tensor, tuple, list or dict."""
    if isinstance(state, dict):
        return {key: function(leaf) for key, leaf in state.items()}
    if isinstance(state, (tuple, list)):
        return type(state)(function(leaf) for leaf in state)
    return function(state)


def _forward(t: np.ndarray, y: np.ndarray) -> Trace:
    """In order of time: a solve may have run backwards."""
    return Trace(t[::-1].copy(), y[::-1].copy()) if t[-1] < t[0] else Trace(t, y)


def join(state: Any) -> tuple[Tensor, Layout]:
    """A state with its row axis in front as ``(n, ..., d)``, and how to take it apart.

    Raises:
        IncompatibleError: nested containers, complex values, or leaves of different samples.
    """
    if isinstance(state, Tensor):
        kind, keys, leaves = "tensor", (), [state]
    elif isinstance(state, dict):
        kind, keys, leaves = "dict", tuple(state), list(state.values())
    elif isinstance(state, (tuple, list)):
        kind, keys, leaves = "list" if isinstance(state, list) else "tuple", (), list(state)
    else:
        raise IncompatibleError(f"states must be tensors, got {type(state).__name__}")
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or leaf.is_complex():
            seen = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
            raise IncompatibleError(
                f"states must be real tensors, or one tuple, list or dict of them, got {seen}: "
                "solve a field with a flat state"
            )
    scalar = kind == "tensor" and leaves[0].dim() == 1
    columns = [leaf[:, None] if leaf.dim() == 1 else leaf for leaf in leaves]
    if len({column.shape[:-1] for column in columns}) != 1:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise IncompatibleError(
            f"the parts of a state must agree in all axes but the last, got {shapes}"
        )
    widths = tuple(int(column.shape[-1]) for column in columns)
    return torch.cat(columns, dim=-1), Layout(kind, keys, widths, scalar)


def split(flat: Tensor, layout: Layout) -> Any:
    """``(q, d)`` taken apart into the container that the field expects."""
    if layout.scalar:
        return flat[:, 0]
    parts = list(torch.split(flat, list(layout.widths), dim=-1))
    if layout.kind == "tensor":
        return parts[0]
    if layout.kind == "dict":
        return dict(zip(layout.keys, parts, strict=True))
    return parts if layout.kind == "list" else tuple(parts)


def densify(sampler: Sampler, trace: Trace, count: int) -> Trace:
    """The solution through ``count`` samples per interval, solved again from the first row."""
    share = np.arange(count) / count
    fine = (trace.t[:-1, None] + share * np.diff(trace.t)[:, None]).reshape(-1)
    t = np.append(fine, trace.t[-1])
    start = torch.as_tensor(trace.y[0])

    def slope(s: Tensor, y: Tensor) -> Tensor:
        return torch.as_tensor(sampler(s.reshape(1).numpy(), y[None].numpy())[0])

    with torch.no_grad():
        solution = odekit.solve(slope, start, torch.as_tensor(t), throw=False)
    y = solution.y.numpy()
    good = np.isfinite(y).all(1)
    return Trace(t[good], y[good])
