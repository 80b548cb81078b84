"""Sympy expressions as a straight line of torch calls.

Values are numbered, so that each distinct product, power and function is computed once however
often it occurs. Nothing is generated as text and executed, and a program pickles and compiles.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import torch

from odekit.errors import ProblemError

Operand: TypeAlias = tuple[bool, float]
"""While a program is built: whether it is a constant, and that or the number of a value."""

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


@final
class Program:
    """Expressions as a straight line of calls.

    Args:
        variables: names of the values that `run` is given, in that order.
        expressions: sympy expressions in these names.

    Raises:
        ProblemError: a function without a counterpart in torch, or a number beyond a double.
    """

    def __init__(self, variables: Sequence[str], expressions: Sequence[Any]) -> None:
        self._variables = {name: i for i, name in enumerate(variables)}
        self._known: dict[Any, Operand] = {}
        self._calls: list[tuple[Callable[..., Any], tuple[Operand, ...]]] = []
        outputs = [self._build(expression) for expression in expressions]
        operands = [*outputs, *(o for _, chosen in self._calls for o in chosen)]
        numbers = sorted({number for constant, number in operands if constant})

        def final_place(operand: Operand) -> int:
            constant, number = operand
            if constant:
                return len(variables) + numbers.index(number)
            place = int(number)
            return place if place < len(variables) else place + len(numbers)

        self.constants = tuple(numbers)
        self.calls = tuple((f, tuple(map(final_place, chosen))) for f, chosen in self._calls)
        self.outputs = tuple(map(final_place, outputs))
        del self._variables, self._known, self._calls

    def run(self, variables: Sequence[Any]) -> list[Any]:
        """The values of the expressions: tensors, or floats for constants."""
        values: list[Any] = [*variables, *self.constants]
        for function, chosen in self.calls:
            values.append(function(*[values[i] for i in chosen]))
        return [values[i] for i in self.outputs]

    def _emit(self, function: Callable[..., Any], *operands: Operand) -> Operand:
        """The number of a value; equal calls are made once."""
        if function in (operator.mul, operator.add):
            operands = tuple(sorted(operands))
        key = (function, operands)
        if key not in self._known:
            self._known[key] = (False, len(self._variables) + len(self._calls))
            self._calls.append(key)
        return self._known[key]

    def _build(self, expression: Any) -> Operand:
        if expression.is_number:
            return (True, _number(expression))
        if expression.is_Symbol:
            return (False, self._variables[str(expression)])
        if expression.is_Add:
            return self._sum(expression)
        if expression.is_Mul:
            return self._product(expression)
        if expression.is_Pow:
            return self._power(expression.base, expression.exp)
        function = _CALLS.get(type(expression).__name__)
        if function is None or len(expression.args) != 1:
            raise ProblemError(
                f"{expression} has no counterpart in torch: use + - * / ** and {', '.join(_CALLS)}"
            )
        return self._emit(function, self._build(expression.args[0]))

    def _sum(self, expression: Any) -> Operand:
        terms = sorted(expression.args, key=lambda term: (bool(_coefficient(term) < 0), str(term)))
        total = self._build(terms[0])
        for term in terms[1:]:
            if _coefficient(term) < 0:
                total = self._emit(operator.sub, total, self._build(-term))
            else:
                total = self._emit(operator.add, total, self._build(term))
        return total

    def _product(self, expression: Any) -> Operand:
        coefficient, rest = expression.as_coeff_Mul()
        above: list[Operand] = []
        below: list[Operand] = []
        for factor in rest.as_ordered_factors():
            if factor.is_Pow and not factor.is_number and _is_negative(factor.exp):
                below.append(self._power(factor.base, -factor.exp))
            else:
                above.append(self._build(factor))
        scale = _number(coefficient)
        if not above:
            return self._emit(operator.truediv, (True, scale), self._joined(below))
        value = self._joined(above)
        if below:
            value = self._emit(operator.truediv, value, self._joined(below))
        if scale == -1:
            return self._emit(operator.neg, value)
        return value if scale == 1 else self._emit(operator.mul, value, (True, scale))

    def _joined(self, factors: list[Operand]) -> Operand:
        total, *rest = sorted(factors)
        for factor in rest:
            total = self._emit(operator.mul, total, factor)
        return total

    def _power(self, base: Any, exponent: Any) -> Operand:
        if not exponent.is_number:
            return self._emit(torch.pow, self._build(base), self._build(exponent))
        power = _number(exponent)
        if power < 0:
            return self._emit(operator.truediv, (True, 1.0), self._power(base, -exponent))
        value = self._build(base)
        if power.is_integer():
            return self._whole_power(value, int(power))
        if power == 0.5:
            return self._emit(torch.sqrt, value)
        return self._emit(torch.pow, value, (True, power))

    def _whole_power(self, value: Operand, power: int) -> Operand:
        """By products, which are shared and whose derivatives are finite at zero."""
        if power == 1:
            return value
        half = self._whole_power(value, power // 2)
        if power % 2 == 0:
            return self._emit(operator.mul, half, half)
        return self._emit(operator.mul, self._whole_power(value, power - 1), value)


def _coefficient(term: Any) -> Any:
    return term.as_coeff_Mul()[0]


def _is_negative(exponent: Any) -> bool:
    return bool(exponent.is_number and exponent < 0)


def _number(expression: Any) -> float:
    try:
        return float(expression)
    except (OverflowError, TypeError):
        raise ProblemError(f"the number {str(expression)[:40]} does not fit a double") from None
