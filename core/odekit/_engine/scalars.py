"""A traced function as straight-line code on numbers.

Every tensor becomes an array of single numbers, each a line of code. One axis may be a *loop*: the
code is the same for all its entries and is written once. All that moves data about, such as
``stack``, ``select``, ``reshape`` or an index, is settled here and costs nothing later; what is
left is arithmetic. Sub-expressions that occur twice are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

LARGEST = 12_000
"""Lines beyond which straight-line code is no longer a good idea."""

DTYPES = frozenset(
    (torch.float32, torch.float64, torch.bool, torch.int64, torch.int32, torch.uint8)
)
"""Those that code can be written for."""


class Unsupported(Exception):
    """The function cannot be written this way; the text says why."""


class Mismatch(Exception):
    """Compiled code does not do what the field does."""


class Line(NamedTuple):
    """One operation on numbers.

    Attributes:
        op: its name.
        args: lines that it takes, or what its name needs beside them.
        dtype: of the result.
        looped: whether it differs along the loop.
        after: whether it needs a reduction over the loop, so that it comes after it.
    """

    op: str
    args: tuple[Any, ...]
    dtype: torch.dtype
    looped: bool
    after: bool


@dataclass(frozen=True)
class Value:
    """A tensor made of lines.

    Attributes:
        shape: of the tensor.
        lines: array of line numbers; an axis of one entry stands for an axis of any length
            along which nothing changes, or for the loop.
        loop: the axis that is the loop, or None.
        dtype: of the tensor.
    """

    shape: tuple[int, ...]
    lines: Any
    loop: int | None
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if not isinstance(self.lines, np.ndarray):  # what NumPy makes of a single one
            lines = np.empty((), dtype=object)
            lines[()] = self.lines
            object.__setattr__(self, "lines", lines)

    def full(self) -> Any:
        """The lines with every axis but the loop at its length."""
        want = tuple(1 if i == self.loop else n for i, n in enumerate(self.shape))
        return np.broadcast_to(self.lines, want)


@dataclass
class Program:
    """Lines, each written once.

    Attributes:
        length: of the loop; 1 for none.
    """

    length: int
    lines: list[Line] = field(default_factory=list)
    known: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def add(
        self, op: str, args: tuple[Any, ...], dtype: torch.dtype, *, looped: bool | None = None
    ) -> int:
        """The number of the line, which is new only if there is none like it."""
        if dtype not in DTYPES:
            raise Unsupported(f"it has numbers of {dtype}")
        key: tuple[Any, ...] = (op, args, dtype)
        if op == "number" and args[0] != args[0]:
            key = (op, "nan", dtype)
        elif op == "number":
            key = (op, args, math.copysign(1.0, args[0]), dtype)
        found = self.known.get(key)
        if found is not None:
            return found
        inner = [self.lines[i] for i in args] if op not in ("number", "input") else []
        after = op.startswith("over_") or any(x.after for x in inner)
        if looped is None:
            looped = any(x.looped for x in inner) and not op.startswith("over_")
        if looped and after:
            raise Unsupported("a sum over the batch is used within the batch")
        if len(self.lines) >= LARGEST:
            raise Unsupported(f"it is longer than {LARGEST} operations on single numbers")
        self.known[key] = len(self.lines)
        self.lines.append(Line(op, args, dtype, looped, after))
        return len(self.lines) - 1

    def number(self, value: Any, dtype: torch.dtype) -> int:
        """A constant, as its dtype holds it."""
        return self.add("number", (_converted(value, dtype),), dtype)

    def cast(self, line: int, dtype: torch.dtype) -> int:
        """The same number in another dtype."""
        seen = self.lines[line]
        if seen.dtype is dtype:
            return line
        if seen.op == "number":
            return self.number(seen.args[0], dtype)
        return self.add("cast", (line,), dtype)

    def input(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        loop: int | None = None,
        scalar: bool = False,
    ) -> Value:
        """A tensor from outside, read as ``name[place]``, with the loop's entry beside it.

        Places count in row-major order without the loop; ``scalar`` is read as ``name``.
        """
        if loop is not None and self.length == 1:
            loop = None
        sizes = [1 if i == loop else n for i, n in enumerate(shape)]
        count = math.prod(sizes)
        if count > LARGEST:
            raise Unsupported(f"{name} has {count} numbers")
        lines = np.empty(count, dtype=object)
        for place in range(count):
            args = (name,) if scalar else (name, place)
            lines[place] = self.add("input", args, dtype, looped=loop is not None)
        return Value(tuple(shape), lines.reshape(sizes), loop, dtype)

    def constant(self, tensor: torch.Tensor) -> Value:
        """The numbers of a tensor that never changes."""
        if tensor.numel() > LARGEST:
            raise Unsupported(f"a constant has {tensor.numel()} numbers")
        flat = [self.number(x, tensor.dtype) for x in tensor.reshape(-1).tolist()]
        lines = np.empty(len(flat), dtype=object)
        lines[:] = flat
        return Value(tuple(tensor.shape), lines.reshape(tuple(tensor.shape)), None, tensor.dtype)

    def filled(self, shape: Sequence[int], number: Any, dtype: torch.dtype) -> Value:
        """One number everywhere."""
        lines = np.empty((1,) * len(shape), dtype=object)
        lines[...] = self.number(number, dtype)
        return Value(tuple(shape), lines, None, dtype)

    def pointwise(
        self,
        function: Callable[..., int],
        values: Sequence[Value],
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Value:
        """``function`` of the lines at each place, with broadcasting."""
        rank, loop = len(shape), None
        arrays: list[Any] = []
        for value in values:
            lead = rank - len(value.shape)
            arrays.append(value.lines.reshape((1,) * lead + value.lines.shape))
            if value.loop is not None:
                if loop not in (None, value.loop + lead):
                    raise Unsupported("two axes of the batch meet")
                loop = value.loop + lead
        arrays = list(np.broadcast_arrays(*arrays))
        if loop is not None and arrays[0].shape[loop] != 1:
            raise Unsupported("a tensor with an entry for each sample is not read along the batch")
        out = np.empty(arrays[0].shape, dtype=object)
        flats = [a.reshape(-1) for a in arrays]
        flat = out.reshape(-1)
        for i in range(flat.size):
            flat[i] = function(*(a[i] for a in flats))
        return Value(tuple(shape), flat.reshape(out.shape), loop, dtype)

    def fold(
        self,
        op: str,
        value: Value,
        axes: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Value:
        """A reduction such as ``add`` or ``maximum`` over ``axes``, the loop among them or not."""
        rank = len(value.shape)
        axes = sorted(a % rank for a in axes) if rank else []
        over = value.loop is not None and value.loop in axes
        lines = value.full()
        kept = [i for i in range(rank) if i not in axes]
        moved = np.transpose(lines, [*kept, *axes]) if rank else lines
        sizes = tuple(moved.shape[: len(kept)])
        table = moved.reshape((*sizes, -1))
        out = np.empty(sizes, dtype=object)
        for place in np.ndindex(sizes):
            row = [self.cast(i, dtype) for i in table[place]]
            out[place] = self._folded(op, row, dtype, over=over)
        loop = None
        if value.loop is not None and not over:
            loop = kept.index(value.loop)
        keep = len(shape) == rank and rank > 0
        if keep:
            out = out.reshape(tuple(1 if i in axes else lines.shape[i] for i in range(rank)))
            loop = value.loop if not over else None
        return Value(tuple(shape), out, loop, dtype)

    def _folded(self, op: str, row: list[int], dtype: torch.dtype, *, over: bool) -> int:
        total = row[0]
        for line in row[1:]:
            total = self.add(op, (total, line), dtype)
        if over and self.length > 1:
            total = self.add(f"over_{op}", (total,), dtype)
        return total


def _converted(value: Any, dtype: torch.dtype) -> Any:
    if dtype is torch.bool:
        return bool(value)
    if not dtype.is_floating_point:
        return int(value)
    if dtype is torch.float32:
        with np.errstate(over="ignore"):
            return float(np.float32(value))
    return float(value)
