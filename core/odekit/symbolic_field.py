"""Fields made of formulas: sympy expressions turned once into a straight line of torch calls.

The translation numbers values, so that each distinct product, power and function is computed
once however often it occurs; nothing is executed from text. A hand-written function of torch
calls is about as fast, and shorter where the equations are known in advance.

Shapes: ``y`` is ``(..., d)``, ``t`` is 0-d or ``(lanes,)``, inputs are ``(m,)`` or ``(..., m)``;
    axes in front are samples.
Units: those of the formulas.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from odekit.errors import ProblemError
from odekit.field import Field
from odekit.formulas import check_symbols, parse

_CALLS: dict[str, Callable[..., Any]] = {
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": torch.log,
    "Abs": torch.abs,
    "sign": torch.sign,
}


class Instruction(NamedTuple):
    """One call on earlier values; ``second`` is None for functions of one argument."""

    call: Callable[..., Any]
    first: int
    second: int | None


@final
class Program:
    """Expressions as a straight line of calls.

    Args:
        variables: names of the values that `run` is given, in that order.
        expressions: sympy expressions in these names.

    Attributes:
        used: names of the variables that the expressions need.
        instructions: the calls, each on values before it.
    """

    def __init__(self, variables: Sequence[str], expressions: Sequence[Any]) -> None:
        self.used = {str(s) for e in expressions for s in e.free_symbols}
        self.instructions: tuple[Instruction, ...] = ()
        self.constants: tuple[float, ...] = ()
        self._slots: dict[Any, int] = {name: i for i, name in enumerate(variables)}
        # Constants follow the variables, so they must all be known before the first call.
        numbers = {n for e in expressions for n in self._numbers_in(e)} | {1.0, -1.0}
        for number in sorted(numbers):
            self._slots[number] = len(variables) + len(self.constants)
            self.constants += (number,)
        self._count = len(variables) + len(self.constants)
        self.outputs = tuple(self._build(expression) for expression in expressions)
        self._slots = {}

    def run(self, variables: Sequence[Any]) -> list[Any]:
        """The values of the expressions: tensors, or floats for constants."""
        values = [*variables, *self.constants]
        for call, first, second in self.instructions:
            if second is None:
                values.append(call(values[first]))
            else:
                values.append(call(values[first], values[second]))
        return [values[slot] for slot in self.outputs]

    def _numbers_in(self, expression: Any) -> set[float]:
        """Every number that `_build` will ask for."""
        if expression.is_number:
            return {_number(expression)}
        found = set()
        if expression.is_Pow:
            exponent = expression.exp
            if exponent.is_number:
                found.add(_number(exponent))
                return found | self._numbers_in(expression.base)
        for part in expression.args:
            found |= self._numbers_in(part)
        return found

    def _emit(self, call: Callable[..., Any], first: int, second: int | None = None) -> int:
        if call in (operator.mul, operator.add) and second is not None and second < first:
            first, second = second, first
        key = (call, first, second)
        if key not in self._slots:
            self.instructions += (Instruction(call, first, second),)
            self._slots[key] = self._count
            self._count += 1
        return self._slots[key]

    def _build(self, expression: Any) -> int:
        if expression.is_number:
            return self._slots[_number(expression)]
        if expression.is_Symbol:
            return self._slots[str(expression)]
        if expression.is_Add:
            return self._sum(expression)
        if expression.is_Mul:
            return self._product(expression)
        if expression.is_Pow:
            return self._power(expression.base, expression.exp)
        call = _CALLS.get(type(expression).__name__)
        if call is None or len(expression.args) != 1:
            raise ProblemError(
                f"{expression} cannot be computed: use + - * / ** and {', '.join(_CALLS)}"
            )
        return self._emit(call, self._build(expression.args[0]))

    def _sum(self, expression: Any) -> int:
        negative = [term for term in expression.args if term.as_coeff_Mul()[0] < 0]
        positive = [term for term in expression.args if term not in negative]
        if not positive:
            positive, negative = negative[:1], negative[1:]
        slots = sorted(self._build(term) for term in positive)
        total = slots[0]
        for slot in slots[1:]:
            total = self._emit(operator.add, total, slot)
        for term in negative:
            total = self._emit(operator.sub, total, self._negated(term))
        return total

    def _negated(self, term: Any) -> int:
        if (-term).is_number and _number(-term) not in self._slots:
            return self._emit(operator.neg, self._build(term))
        coefficient, rest = term.as_coeff_Mul()
        if coefficient == -1 or _number(-coefficient) in self._slots:
            return self._build(-term)
        return self._emit(operator.neg, self._build(term))
