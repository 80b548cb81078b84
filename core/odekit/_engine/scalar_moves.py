"""Moving numbers about and making them: what reshapes, joins, picks and fills mean."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from odekit._engine.scalar_arithmetic import Arithmetic
from odekit._engine.scalars import Unsupported, Value

SAME = frozenset(
    ["clone", "detach", "alias", "lift_fresh_copy", "lift_fresh", "contiguous", "_to_copy"]
)
"""They give what they are given, in another dtype perhaps."""

RESHAPES = frozenset(["view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "expand"])
"""Their result follows from its shape alone."""

SEVERAL = frozenset(["unbind", "split", "split_with_sizes", "chunk"])
"""They give several tensors."""

BLANK = frozenset(
    (
        *("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty"),
        *("empty_permuted", "empty_strided", "new_empty_strided"),
    )
)
"""They give zeros, or what nobody may rely on."""


class Moves:
    """Tells where numbers come from; hardly any lines of code come of it.

    Args:
        arithmetic: for numbers that change their kind.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.program, self.arithmetic = arithmetic.program, arithmetic

    def moved(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Any:
        """The value, or values, of an operation that moves numbers; None if it is no such."""
        if name in SAME:
            return self.arithmetic.cast(args[0], dtype)
        if name in RESHAPES:
            if args[0].dtype is not dtype:
                raise Unsupported("it reads the bits of numbers")
            return reshaped(args[0], shape)
        if name in ("permute", "transpose", "t", "numpy_T"):
            return _permuted(name, args, shape)
        if name == "select":
            return _taken(args[0], args[1], int(args[2]), shape)
        if name == "slice":
            dim, start, end, step = _filled(args[1:], (0, None, None, 1))
            return _sliced(args[0], dim, slice(start, end, step), shape)
        if name == "flip":
            value = args[0]
            for dim in args[1]:
                value = _sliced(value, dim, slice(None, None, -1), shape)
            return value
        if name in SEVERAL:
            return self._pieces(name, args, options)
        if name in ("cat", "stack"):
            dim = args[1] if len(args) > 1 else options.get("dim", 0)
            return self._joined(
                name, [self.arithmetic.cast(x, dtype) for x in args[0]], dim, shape, dtype
            )
        if name in ("index_select", "index", "gather"):
            return self._indexed(name, args, shape)
        if name in ("select_scatter", "slice_scatter"):
            return self._scattered(name, args, shape, dtype)
        if name == "copy":
            return self.arithmetic.cast(reshaped(args[1], shape), dtype)
        if name == "repeat":
            lines = np.tile(args[0].full(), args[1]) if args[0].loop is None else None
            return None if lines is None else Value(shape, lines, None, dtype)
        return None

    def _pieces(self, name: str, args: list[Any], options: dict[str, Any]) -> list[Value]:
        value = args[0]
        at = 1 if name == "unbind" else 2
        dim = (args[at] if len(args) > at else options.get("dim", 0)) % len(value.shape)
        length = value.shape[dim]
        if name == "unbind":
            shape = value.shape[:dim] + value.shape[dim + 1 :]
            return [_taken(value, dim, i, shape) for i in range(length)]
        sizes = args[1]
        if name == "chunk":
            sizes = -(-length // sizes)
        if isinstance(sizes, int):
            sizes = [min(sizes, length - i) for i in range(0, length, sizes)]
        found, begin = [], 0
        for size in sizes:
            shape = (*value.shape[:dim], size, *value.shape[dim + 1 :])
            found.append(_sliced(value, dim, slice(begin, begin + size), shape))
            begin += size
        return found

    def _joined(
        self, name: str, values: list[Value], dim: int, shape: Any, dtype: torch.dtype
    ) -> Value:
        rank = len(shape)
        dim %= rank
        parts, loop = [], None
        if name == "cat":
            values = [v for v in values if len(v.shape) == rank]
        for value in values:
            lines, here = value.full(), value.loop
            if name == "stack":
                lines = np.expand_dims(lines, dim)
                if here is not None and here >= dim:
                    here += 1
            if here is not None:
                if here == dim or loop not in (None, here):
                    raise Unsupported("samples are joined along the batch")
                loop = here
            parts.append(lines)
        if loop is not None:
            # What does not differ from sample to sample stands for all of them.
            for i, value in enumerate(values):
                if value.loop is None:
                    parts[i] = _collapsed(parts[i], loop)
        return Value(tuple(shape), np.concatenate(parts, dim), loop, dtype)

    def _indexed(self, name: str, args: list[Any], shape: Any) -> Value:
        value = args[0]
        if name == "index_select":
            index = self._numbers(args[2])
            return _sliced(value, args[1], index, shape)
        if name == "gather":
            raise Unsupported("it calls gather")
        places = [None if i is None else self._numbers(i) for i in args[1]]
        used = [i for i, p in enumerate(places) if p is not None]
        if value.loop in used:
            raise Unsupported("it picks samples by index")
        key = tuple(slice(None) if p is None else p for p in places)
        first = used[0]
        if used != list(range(first, first + len(used))):
            raise Unsupported("it indexes by tensors in separate axes")
        lines = value.full()[key]
        loop = value.loop
        if loop is not None and loop > first:
            loop += lines.ndim - value.lines.ndim
        return Value(tuple(shape), lines, loop, value.dtype)

    def _numbers(self, value: Value) -> Any:
        """The numbers of a tensor that is constant."""
        lines = [self.program.lines[i] for i in value.full().reshape(-1)]
        if value.loop is not None or any(line.op != "number" for line in lines):
            raise Unsupported("it indexes by numbers that are computed")
        kind = np.bool_ if value.dtype is torch.bool else np.int64
        return np.array([line.args[0] for line in lines], dtype=kind).reshape(value.shape)

    def _scattered(self, name: str, args: list[Any], shape: Any, dtype: torch.dtype) -> Value:
        """``args[0]`` with a part overwritten by ``args[1]``."""
        value, part = args[0], self.arithmetic.cast(args[1], dtype)
        dim = (args[2] if len(args) > 2 else 0) % len(shape)
        if name == "select_scatter":
            place: Any = slice(args[3], args[3] + 1) if args[3] != -1 else slice(-1, None)
            part = reshaped(part, (*shape[:dim], 1, *shape[dim + 1 :]))
        else:
            start, end, step = _filled(args[3:], (None, None, 1))
            place = slice(start, end, step)
        loop = value.loop if value.loop is not None else part.loop
        if loop == dim or (part.loop is not None and part.loop != loop):
            raise Unsupported("it writes into single samples")
        lines = value.full()
        if value.loop is None and loop is not None:
            lines = _collapsed(lines, loop)
        lines = lines.copy()
        new = part.full()
        if part.loop is None and loop is not None:
            new = _collapsed(new, loop)
        lines[(slice(None),) * dim + (place,)] = new
        return Value(tuple(shape), lines, loop, dtype)

    def made(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value | None:
        """The value of an operation that makes a tensor; None if it is no such."""
        program = self.program
        if name in BLANK:
            return program.filled(shape, 0, dtype)
        if name in ("ones", "ones_like", "new_ones"):
            return program.filled(shape, 1, dtype)
        if name in ("full", "full_like", "new_full", "scalar_tensor"):
            number = args[0] if name == "scalar_tensor" else args[-1]
            if isinstance(number, Value):
                return reshaped(self.arithmetic.cast(number, dtype), shape)
            return program.filled(shape, number, dtype)
        if name in ("arange", "eye", "linspace", "logspace"):
            return program.constant(getattr(torch, name)(*args, dtype=dtype))
        if name == "fill":
            return self.made("full_like", args, options, shape, dtype)
        if name == "constant_pad_nd":
            return self._padded(args, shape, dtype)
        return None

    def _padded(self, args: list[Any], shape: Any, dtype: torch.dtype) -> Value:
        """``args[0]`` with numbers before and behind it, the last axis first."""
        value, widths, number = _filled(args, (None, None, 0))
        for i in range(len(widths) // 2):
            dim = len(shape) - 1 - i
            parts = []
            for part in (widths[2 * i], None, widths[2 * i + 1]):
                if part is not None and part < 0:
                    raise Unsupported("it pads by less than nothing")
                size = (*value.shape[:dim], part, *value.shape[dim + 1 :])
                parts.append(value if part is None else self.program.filled(size, number, dtype))
            parts = [x for x in parts if x.shape[dim]]
            wide = (*value.shape[:dim], shape[dim], *value.shape[dim + 1 :])
            if len(parts) > 1:
                value = self._joined("cat", parts, dim, wide, dtype)
        return cast("Value", value)


def _filled(args: list[Any], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments, and the defaults of those that were left out."""
    return (*args, *defaults[len(args) :])


def _collapsed(lines: Any, axis: int) -> Any:
    """One entry of an axis along which all are the same.

    Raises:
        Unsupported: they are not, so that each sample would have code of its own.
    """
    first = np.take(lines, [0], axis)
    if lines.shape[axis] != 1 and not bool((lines == first).all()):
        raise Unsupported("a tensor with an entry for each sample is not read along the batch")
    return first


def reshaped(value: Value, shape: Any) -> Value:
    """Reshape or expand, which broadcasting may hide in one another."""
    shape = tuple(shape)
    if value.shape == shape:
        return value
    count = int(np.prod(value.shape, dtype=np.int64))
    if count != int(np.prod(shape, dtype=np.int64)):  # an expansion
        lead = len(shape) - len(value.shape)
        loop = None if value.loop is None else value.loop + lead
        lines = value.lines.reshape((1,) * lead + value.lines.shape)
        return Value(shape, lines, loop, value.dtype)
    if value.loop is None:
        if value.lines.size == 1:
            return Value(shape, value.lines.reshape((1,) * len(shape)), None, value.dtype)
        return Value(shape, value.full().reshape(shape), None, value.dtype)
    before = int(np.prod(value.shape[: value.loop], dtype=np.int64))
    length = value.shape[value.loop]
    for place, size in enumerate(shape):
        if size == length and int(np.prod(shape[:place], dtype=np.int64)) == before:
            sizes = (*shape[:place], 1, *shape[place + 1 :])
            return Value(shape, value.full().reshape(sizes), place, value.dtype)
    raise Unsupported("a reshape mixes the batch with another axis")


def _permuted(name: str, args: list[Any], shape: Any) -> Value:
    value = args[0]
    rank = len(value.shape)
    if name == "permute":
        order = [i % rank for i in args[1]]
    else:
        order = list(range(rank))
        a, b = (args[1] % rank, args[2] % rank) if name == "transpose" else (0, rank - 1)
        if rank:
            order[a], order[b] = order[b], order[a]
    loop = None if value.loop is None else order.index(value.loop)
    return Value(tuple(shape), np.transpose(value.lines, order), loop, value.dtype)


def _taken(value: Value, dim: int, index: int, shape: Any) -> Value:
    dim %= len(value.shape)
    if value.loop == dim:
        raise Unsupported("it picks a sample by its number")
    place = index if value.lines.shape[dim] != 1 else 0
    loop = value.loop
    if loop is not None and loop > dim:
        loop -= 1
    return Value(tuple(shape), np.take(value.lines, place, dim), loop, value.dtype)


def _sliced(value: Value, dim: int, place: Any, shape: Any) -> Value:
    dim %= len(value.shape)
    if value.shape == tuple(shape) and isinstance(place, slice) and place.step in (None, 1):
        return value
    if value.loop == dim:
        raise Unsupported("it picks samples by their numbers")
    lines = value.lines
    if lines.shape[dim] != 1 or value.shape[dim] == 1:
        lines = lines[(slice(None),) * dim + (place,)]
    return Value(tuple(shape), lines, value.loop, value.dtype)
