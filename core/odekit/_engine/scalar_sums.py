"""Sums: what reductions, norms and products of matrices mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from odekit._engine.scalar_arithmetic import Arithmetic
from odekit._engine.scalar_moves import reshaped
from odekit._engine.scalars import Unsupported, Value

_FOLDS = {"sum": "add", "prod": "mul", "amax": "maximum", "amin": "minimum", "any": "or_"}


class Sums:
    """Writes sums into a program, term by term.

    Args:
        arithmetic: for the terms.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.program, self.arithmetic = arithmetic.program, arithmetic

    def summed(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value | None:
        """The value of an operation that sums; None if it is no such."""
        program = self.program
        if name in ("mm", "bmm", "mv", "dot"):
            return self._product(name, args[0], args[1], shape, dtype)
        if name in ("addmm", "baddbmm"):
            inner = self._product(name[-2:], args[1], args[2], shape, dtype)
            beta, alpha = options.get("beta", 1), options.get("alpha", 1)
            first = (
                self.arithmetic.two("mul", [args[0], beta], {}, shape, dtype)
                if beta != 1
                else args[0]
            )
            return self.arithmetic.two("add", [first, inner], {"alpha": alpha}, shape, dtype)
        if name in ("linalg_vector_norm", "norm"):
            return self._norm(name, args, options, shape, dtype)
        if name not in (*_FOLDS, "mean", "all", "sum"):
            return None
        value = args[0]
        axes = _axes(args[1] if len(args) > 1 else options.get("dim"), len(value.shape))
        if name in ("any", "all"):
            value = self.arithmetic.cast(value, torch.bool)
        op = "and_" if name == "all" else _FOLDS.get(name, "add")
        total = program.fold(op, value, axes, shape, dtype)
        if name == "mean":
            count = 1
            for axis in axes:
                count *= value.shape[axis]
            total = self.arithmetic.two("div", [total, count], {}, shape, dtype)
        return total

    def _norm(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value:
        value, power = args[0], (args[1] if len(args) > 1 else options.get("ord", 2))
        at = args[2] if len(args) > 2 else options.get("dim")
        axes = _axes(at, len(value.shape))
        value = self.arithmetic.cast(value, dtype)
        if power in (2, 2.0, None):
            squares = self.arithmetic.two("mul", [value, value], {}, value.shape, dtype)
            total = self.program.fold("add", squares, axes, shape, dtype)
            found = self.arithmetic.pointwise("sqrt", [total], {}, shape, dtype)
        elif power in (1, float("inf")):
            sizes = self.arithmetic.pointwise("abs", [value], {}, value.shape, dtype)
            op = "add" if power == 1 else "maximum"
            found = self.program.fold(op, sizes, axes, shape, dtype)  # type: ignore[arg-type]
        else:
            raise Unsupported(f"it takes a norm of order {power}")
        return found  # type: ignore[return-value]

    def _product(self, name: str, a: Value, b: Value, shape: Any, dtype: torch.dtype) -> Value:
        """Products of matrices, as sums of products of numbers."""
        program = self.program
        if name == "dot":
            product = self.arithmetic.two("mul", [a, b], {}, a.shape, dtype)
            return program.fold("add", product, [0], shape, dtype)
        rank = len(a.shape)
        if name == "mv":
            b = reshaped(b, (b.shape[0], 1))
        # (..., m, k, 1) times (..., 1, k, n), summed over k.
        left = reshaped(a, (*a.shape, 1))
        right = reshaped(b, (*b.shape[:-2], 1, *b.shape[-2:]))
        if left.loop == rank - 1 or (right.loop is not None and right.loop >= len(right.shape) - 2):
            raise Unsupported("a matrix product mixes samples")
        wide = tuple(np.broadcast_shapes(left.shape, right.shape))
        product = self.arithmetic.two("mul", [left, right], {}, wide, dtype)
        total = program.fold("add", product, [rank - 1], (*wide[:-2], wide[-1]), dtype)
        return reshaped(total, shape) if name == "mv" else total


def _axes(given: Any, rank: int) -> list[int]:
    if given is None or given == []:
        return list(range(rank))
    return [given % rank] if isinstance(given, int) else [i % rank for i in given]
