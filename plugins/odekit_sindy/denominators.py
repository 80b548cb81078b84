"""Numbers in denominators, as parameters: ``s/(1 + 3.4*s)`` becomes ``s/(1 + c*s)``, and back.

A term of `odekit.Equations` is a number times a formula, so the numbers of a denominator stand in
the formula itself. To fit them they need names. One coefficient of each denominator stays as it
is, since numerator and denominator can be multiplied by anything: the constant where it is one, as
in what `odekit.discover` writes; otherwise a coefficient of one, as in ``s/(0.3 + s)``.

Terms of one equation with the same denominator share its numbers; other equations have their own.

Units: those of the equations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from odekit.formulas import written


@final
@dataclass(frozen=True)
class Number:
    """One number in a denominator.

    Attributes:
        name: of the parameter that stands for it.
        equation: the state in whose equation it is.
        term: what it multiplies, as text.
        value: what it was.
    """

    name: str
    equation: str
    term: str
    value: float


@final
@dataclass(frozen=True)
class _Sum:
    """A denominator: its symbol, and its parts as pairs of number or parameter and expression."""

    symbol: Any
    parts: tuple[tuple[Any, Any], ...]

    @property
    def expression(self) -> Any:
        import sympy

        return sympy.Add(*(factor * rest for factor, rest in self.parts))

    def text(self, shown: Mapping[str, str]) -> str:
        """In brackets, with numbers in place of the parameters' names."""
        out = ""
        for factor, rest in self.parts:
            number = shown[str(factor)] if factor.is_Symbol else f"{float(factor):.17g}"
            size = number.removeprefix("-")
            piece = size if rest == 1 else str(rest) if size == "1" else f"{size}*{rest}"
            sign = "-" if number.startswith("-") else "+"
            out += f" {sign} {piece}" if out else piece if sign == "+" else f"-{piece}"
        return f"({out})"


@final
class Denominators:
    """The denominators of the terms of some equations.

    Args:
        prefix: what names of parameters begin with; no other name may begin so.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.numbers: list[Number] = []
        self._sums: dict[tuple[str, Any], _Sum] = {}
        self._terms: dict[str, Any] = {}

    def opened(self, name: str, equation: str, expression: Any) -> Any:
        """The expression with parameters in place of the numbers in its denominators.

        Args:
            name: to ask for it later, in `refilled`.
            equation: the state in whose equation it is.
            expression: a sympy expression.
        """
        found = expression.replace(
            lambda e: e.is_Pow and e.base.is_Add and e.exp.is_negative,
            lambda e: self._symbol(equation, e.base) ** e.exp,
        )
        if found != expression:
            self._terms[name] = found
        for one in reversed(self._sums.values()):
            found = found.xreplace({one.symbol: one.expression})
        return found

    def refilled(self, name: str, text: str, shown: Mapping[str, str]) -> str:
        """The text of an expression with other numbers in its denominators.

        Args:
            name: as it was opened.
            text: what to give back if there were no such numbers.
            shown: text of each number by the name of its parameter.
        """
        return self._text(self._terms[name], shown) if name in self._terms else text

    def _text(self, found: Any, shown: Mapping[str, str]) -> str:
        out = written(found)
        for one in reversed(self._sums.values()):
            text = one.text(shown)
            out = re.sub(rf"\b{one.symbol}\b", lambda _, text=text: text, out)  # type: ignore[misc]
        return out

    def labels(self) -> dict[tuple[str, str], str]:
        """Names by pairs of state and words, such as ``("s", "s in the denominator")``."""
        out: dict[tuple[str, str], str] = {}
        values = self._values()
        for (equation, _), one in self._sums.items():
            alone = sum(other == equation for other, _ in self._sums) == 1
            place = "the denominator" if alone else f"the denominator {one.text(values)[1:-1]}"
            for number in self.numbers:
                if any(str(factor) == number.name for factor, _ in one.parts):
                    out[equation, f"{number.term} in {place}"] = number.name
        return out

    def _symbol(self, equation: str, base: Any) -> Any:
        import sympy

        key = (equation, base)
        if key not in self._sums:
            pairs = [part.as_coeff_Mul() for part in base.as_ordered_terms()]
            pairs.sort(key=lambda pair: pair[1] != 1)  # the constant first
            held = _held(pairs)
            parts = tuple(
                (factor if i == held else self._parameter(equation, factor, rest), rest)
                for i, (factor, rest) in enumerate(pairs)
            )
            symbol = sympy.Symbol(f"{self.prefix}over{len(self._sums)}")
            self._sums[key] = _Sum(symbol, parts)
        return self._sums[key].symbol

    def _parameter(self, equation: str, factor: Any, rest: Any) -> Any:
        import sympy

        name = f"{self.prefix}below{len(self.numbers)}"
        text = self._text(rest, self._values())
        self.numbers.append(Number(name, equation, text, float(factor)))
        return sympy.Symbol(name)

    def _values(self) -> dict[str, str]:
        return {number.name: f"{number.value:.4g}" for number in self.numbers}


def _held(pairs: Sequence[tuple[Any, Any]]) -> int:
    """Which part keeps its number: a constant of one, a coefficient of one, or the first."""
    kinds: tuple[Callable[[Any, Any], bool], ...] = (
        lambda factor, rest: bool(factor == 1 and rest == 1),
        lambda factor, rest: bool(factor == 1),
    )
    for kind in kinds:
        for i, pair in enumerate(pairs):
            if kind(*pair):
                return i
    return 0
