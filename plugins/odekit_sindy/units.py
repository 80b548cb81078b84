"""Units of measurement as products of powers, and the units of formulas.

A unit such as ``m/s^2`` is read symbol by symbol; symbols are opaque, so ``km`` and ``m`` are
two different units and nothing is converted. A quantity without a unit is unknown and passes
every check; a plain number has the unit 1.

For conversions and named prefixes use a package of units before the data come here.

Units: a `Unit` maps symbols to exponents; ``{}`` is the unit of plain numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, final

from odekit.errors import ProblemError

_TOKEN = re.compile(
    r"\s*(?:(?P<symbol>[^\W\d]+|[%°]\w*)|(?P<number>\d+)|(?P<sign>\*\*|[*/^()·⋅-]))\s*"
)


@final
@dataclass(frozen=True)
class Unit:
    """A product of powers of symbols: ``(("m", 1), ("s", -2))``, sorted, without zeros."""

    powers: tuple[tuple[str, Fraction], ...] = ()

    @classmethod
    def of(cls, powers: Mapping[str, Fraction]) -> Unit:
        """The unit of these exponents."""
        return cls(tuple(sorted((symbol, e) for symbol, e in powers.items() if e)))

    @property
    def plain(self) -> bool:
        """Whether it is the unit of plain numbers."""
        return not self.powers

    def __mul__(self, other: Unit) -> Unit:
        powers = dict(self.powers)
        for symbol, e in other.powers:
            powers[symbol] = powers.get(symbol, Fraction(0)) + e
        return Unit.of(powers)

    def __truediv__(self, other: Unit) -> Unit:
        return self * other**-1

    def __pow__(self, exponent: int | Fraction) -> Unit:
        return Unit.of({symbol: e * exponent for symbol, e in self.powers})

    def __str__(self) -> str:
        above = [_power(symbol, e) for symbol, e in self.powers if e > 0]
        below = [_power(symbol, -e) for symbol, e in self.powers if e < 0]
        text = "*".join(above) or "1"
        if not below:
            return text
        return f"{text}/{below[0]}" if len(below) == 1 else f"{text}/({'*'.join(below)})"


def _power(symbol: str, exponent: Fraction) -> str:
    if exponent == 1:
        return symbol
    return f"{symbol}^{exponent}" if exponent.denominator == 1 else f"{symbol}^({exponent})"


def parse_unit(text: str) -> Unit:
    """Read a unit.

    Args:
        text: symbols with ``* / ^`` (or ``**``, ``·``) and parentheses; ``"1"`` or an empty text
            for plain numbers. A space multiplies.

    Raises:
        ProblemError: anything else.

    Example:
        >>> str(parse_unit("kg*m/s^2")), str(parse_unit("1/h")), str(parse_unit("m s^-1"))
        ('kg*m/s^2', '1/h', 'm/s')
    """
    if not isinstance(text, str):
        raise ProblemError(f"a unit must be text such as 'm/s^2', got {text!r}")
    return _Reader(text).read() if text.strip() else Unit()


@final
class _Reader:
    """Products, quotients and powers by recursive descent."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._refused(text[at:])
            self.tokens.append(match[0].strip())
            at = match.end()

    def _refused(self, piece: str) -> ProblemError:
        where = f"at {piece[:20]!r}" if piece else "to its end"
        return ProblemError(
            f"unit {self.text!r} cannot be read {where}: write it like 'm/s^2', 'kg*m' or '1/h'"
        )

    def read(self) -> Unit:
        """The unit of the whole text."""
        unit = self._product()
        if self.tokens:
            raise self._refused(self.tokens[0])
        return unit

    def _next(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def _product(self) -> Unit:
        unit = self._factor()
        while self._next() and self._next() != ")":
            sign = self.tokens.pop(0) if self._next() in ("*", "/", "·", "⋅") else "*"
            other = self._factor()
            unit = unit / other if sign == "/" else unit * other
        return unit

    def _factor(self) -> Unit:
        token = self.tokens.pop(0) if self.tokens else ""
        if token == "(":
            unit = self._product()
            if self._next() != ")":
                raise self._refused(self._next())
            self.tokens.pop(0)
        elif token == "1":
            unit = Unit()
        elif token and (token[0].isalpha() or token[0] in "%°_"):
            unit = Unit(((token, Fraction(1)),))
        else:
            raise self._refused(token)
        if self._next() in ("^", "**"):
            self.tokens.pop(0)
            return unit ** self._exponent()
        return unit

    def _exponent(self) -> Fraction:
        bracket = self._next() == "("
        if bracket:
            self.tokens.pop(0)
        text = ""
        allowed = ("-", "/") if bracket else ("-",)
        while self._next() in allowed or self._next().isdigit():
            text += self.tokens.pop(0)
            if not bracket and text[-1].isdigit():
                break
        if bracket and self._next() == ")":
            self.tokens.pop(0)
        elif bracket:
            raise self._refused(self._next())
        try:
            return Fraction(text)
        except (ValueError, ZeroDivisionError):
            raise self._refused(text) from None


def unit_of(expression: Any, units: Mapping[str, Unit]) -> Unit | None:
    """The unit of a sympy expression, or None where an unknown one decides.

    Args:
        expression: in the symbols that ``units`` names, and others of unknown unit.
        units: of the symbols.

    Raises:
        ProblemError: a sum of different units, or a function or exponent of something that has
            a unit.
    """
    if expression.is_Symbol:
        return units.get(str(expression))
    if expression.is_number:
        return Unit()
    if expression.is_Mul:
        factors = [unit_of(part, units) for part in expression.args]
        product = Unit()
        for factor in factors:
            if factor is None:
                return None
            product = product * factor
        return product
    if expression.is_Add:
        return _of_sum(expression, units)
    if expression.is_Pow and expression.exp.is_number:
        base = unit_of(expression.base, units)
        return None if base is None else base ** _rational(expression.exp, base, expression)
    return _of_function(expression, units)


def _of_sum(expression: Any, units: Mapping[str, Unit]) -> Unit | None:
    """All parts alike; a written number carries no unit."""
    known: tuple[Any, Unit] | None = None
    unknown = False
    for part in expression.args:
        unit = unit_of(part, units)
        if unit is None:
            unknown = True
        elif known is None:
            known = part, unit
        elif unit != known[1]:
            raise ProblemError(
                f"{expression} adds {known[0]} in {known[1]} to {part} in {unit}: "
                "make the summands alike"
            )
    return None if unknown or known is None else known[1]


def _of_function(expression: Any, units: Mapping[str, Unit]) -> Unit | None:
    if expression.func.__name__ in ("Abs", "sign"):
        inner = unit_of(expression.args[0], units)
        return inner if expression.func.__name__ == "Abs" else Unit()
    known = True
    for argument in expression.args:
        unit = unit_of(argument, units)
        known = known and unit is not None
        if unit is not None and not unit.plain:
            raise ProblemError(
                f"{expression} takes {argument} in {unit}, but needs a plain number: divide it by "
                "a scale in the same unit"
            )
    return Unit() if known else None


def _rational(exponent: Any, base: Unit, expression: Any) -> Fraction:
    value = Fraction(float(exponent)).limit_denominator(1000)
    if not base.plain and abs(float(value) - float(exponent)) > 1e-12:
        raise ProblemError(
            f"{expression} raises something in {base} to a power that is no simple fraction: "
            "divide it by a scale in the same unit"
        )
    return value
