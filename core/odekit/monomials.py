"""Monomials of the states in a handful of tensor calls, however many there are.

A `odekit.program.Program` makes one call for each product and is the better choice for many points
at a time, where arithmetic costs more than calls; for few points it is the number of calls that
counts, and this makes two for each degree.

Shapes: states ``(..., d)`` to values ``(..., K)`` of ``K`` monomials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, final

import torch
from torch import Tensor

POINTS = 256
"""Most points at a time for which calls cost more than arithmetic."""


@final
class Monomials:
    """Products of states, made by gathering their factors.

    Args:
        factors: for each monomial the states in it, by number, each as often as its exponent.
    """

    def __init__(self, factors: Sequence[Sequence[int]]) -> None:
        degree = max((len(each) for each in factors), default=0)
        # State 0 is a one, which fills up the monomials of lower degree.
        rows = [[i + 1 for i in each] + [0] * (degree - len(each)) for each in factors]
        table = torch.tensor(rows, dtype=torch.long).reshape(len(rows), degree)
        self._gather = [column.contiguous() for column in table.unbind(1)]

    @classmethod
    def of(cls, expressions: Sequence[Any], names: Sequence[str]) -> Self | None:
        """Sympy expressions as monomials in these names; None where one of them is another."""
        rows = []
        for expression in expressions:
            if expression.is_number and expression != 1:
                return None
            row: list[int] = []
            for base, exponent in expression.as_powers_dict().items():
                if base == 1:
                    continue
                whole = exponent.is_Integer and exponent > 0
                if not (base.is_Symbol and str(base) in names and whole):
                    return None
                row += [list(names).index(str(base))] * int(exponent)
            rows.append(row)
        return cls(rows)

    def pays(self, calls: int) -> bool:
        """Whether this makes fewer calls than a program that makes so many."""
        return 0 < 2 * len(self._gather) < calls

    def suits(self, y: Tensor) -> bool:
        """Whether there are few enough points for it, on the device of the tables."""
        few = y.numel() <= POINTS * y.shape[-1] if y.dim() else False
        return few and y.device.type == "cpu" and not torch.compiler.is_compiling()

    def values(self, y: Tensor) -> Tensor:
        """``(..., d)`` to ``(..., K)``."""
        padded = torch.cat([y.new_ones(*y.shape[:-1], 1), y], dim=-1)
        first, *rest = self._gather
        value = padded.index_select(-1, first)
        for column in rest:
            value = value * padded.index_select(-1, column)
        return value
