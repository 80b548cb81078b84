"""One way to write a right-hand side: a sum of functions over a sum of functions, in lowest terms.

Waves of sums and of whole multiples are expanded, and no power of a cosine is left, so that
``sin(x - y)`` and ``sin(x)*cos(y) - cos(x)*sin(y)`` become the same, and ``cos(x)**2`` becomes
``1 - sin(x)**2``. Fractions are brought over one denominator, and common factors cancel; all this
in exact arithmetic, where rounding cannot hide a factor. What remains undecided: identities
between other functions, such as waves of a fraction of an angle, and common factors that only
show where ``sin(x)**2 + cos(x)**2 = 1`` is used once more.

Units: those of the expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

Sum = dict[Any, float]
"""From each function, a sympy expression without a number in front, to its coefficient."""

MOST_TURNS = 8
"""Multiples of an angle beyond which its waves count as functions of their own."""


@final
@dataclass(frozen=True)
class NormalForm:
    """A sum of functions over another one.

    Attributes:
        above: the numerator.
        below: the denominator, ``{1: 1.0}`` for sums; else of several functions, the lowest of
            which has the coefficient one.
    """

    above: Sum
    below: Sum

    @property
    def is_sum(self) -> bool:
        """Whether there is no denominator."""
        return len(self.below) == 1


def normal_form(expression: Any) -> NormalForm:
    """The normal form of a sympy expression; functions with a zero in front are left out."""
    import sympy

    atoms = _Atoms()
    plain = atoms.rational(sympy.expand(_expand_waves(_exact(sympy.sympify(expression)))))
    above, below = (atoms.reduced(part) for part in sympy.fraction(sympy.together(plain)))
    symbols = sorted(above.free_symbols | below.free_symbols, key=str) or [sympy.Dummy()]
    if below.free_symbols:
        parts = [sympy.Poly(part, *symbols, domain="QQ") for part in (above, below)]
        top, bottom = parts[0].cancel(parts[1], include=True)
    else:
        top, bottom = sympy.Poly(above / below, *symbols, domain="QQ"), None
    if bottom is None or len(bottom.terms()) == 1:
        single = sympy.S.One if bottom is None else bottom.as_expr()
        return NormalForm(atoms.sum(top, single), {sympy.S.One: 1.0})
    lowest = min(bottom.terms(), key=lambda term: (sum(term[0]), [-power for power in term[0]]))[1]
    return NormalForm(atoms.sum(top, lowest), atoms.sum(bottom, lowest))


def _exact(expression: Any) -> Any:
    """The same with ``3/10`` in place of ``0.3``."""
    import sympy

    return expression.xreplace({n: _decimal(n) for n in expression.atoms(sympy.Float)})


def _decimal(number: Any) -> Any:
    """A number as the fraction that its shortest decimals are."""
    import sympy

    return sympy.Rational(repr(float(number)))


def _readable(function: Any) -> Any:
    """The same with ``0.3`` in place of ``3/10``."""
    import sympy

    fractions = [n for n in function.atoms(sympy.Rational) if not n.is_Integer]
    return function.xreplace({n: sympy.Float(float(n)) for n in fractions})


def _expand_waves(expression: Any) -> Any:
    """The same in sines and cosines of single terms."""
    import sympy

    sin, cos = sympy.sin, sympy.cos
    quotients = {
        sympy.tan: lambda a: sin(a) / cos(a),
        sympy.cot: lambda a: cos(a) / sin(a),
        sympy.sec: lambda a: 1 / cos(a),
        sympy.csc: lambda a: 1 / sin(a),
    }
    for function, written in quotients.items():
        expression = expression.replace(function, written)

    def expanded(wave: Any) -> Any:
        angle = sympy.expand(wave.args[0])
        turns = [abs(c) for c in angle.as_coefficients_dict().values() if c.is_Integer]
        wave = wave.func(angle)
        return wave if max(turns, default=0) > MOST_TURNS else sympy.expand_trig(wave)

    return expression.replace(lambda part: isinstance(part, sin | cos), expanded)


@final
class _Atoms:
    """Symbols in place of all that is no sum, product, or whole power."""

    def __init__(self) -> None:
        self.symbols: dict[Any, Any] = {}

    def symbol(self, function: Any) -> Any:
        """The symbol of a function, whose name sorts as the function does."""
        import sympy

        return self.symbols.setdefault(function, sympy.Symbol(str(function)))

    def rational(self, part: Any) -> Any:
        """A rational function of symbols, with exact numbers."""
        import sympy

        if part.is_number:
            return part if part.is_Rational else _decimal(part)
        if part.is_Add or part.is_Mul:
            return part.func(*(self.rational(one) for one in part.args))
        if part.is_Pow and part.exp.is_Integer:
            return self.rational(part.base) ** part.exp
        if isinstance(part, sympy.exp) and part.args[0].could_extract_minus_sign():
            return 1 / self.symbol(sympy.exp(-part.args[0]))
        return self.symbol(part)

    def reduced(self, part: Any) -> Any:
        """The same, expanded, without squares of cosines."""
        import sympy

        part = sympy.expand(part)
        for function, symbol in list(self.symbols.items()):
            if isinstance(function, sympy.cos) and part.has(symbol):
                square = 1 - self.symbol(sympy.sin(*function.args)) ** 2
                powers = sympy.Poly(part, symbol).terms()
                part = sympy.expand(
                    sum(c * symbol ** (k % 2) * square ** (k // 2) for (k,), c in powers)
                )
        return part

    def sum(self, terms: Any, divisor: Any) -> Sum:
        """A polynomial over a number or a single term, in the functions themselves."""
        functions = {symbol: _readable(function) for function, symbol in self.symbols.items()}
        number, rest = divisor.as_coeff_Mul()
        out: Sum = {}
        for powers, value in terms.terms():
            if value:
                product = _product(terms.gens, powers) / rest
                out[product.xreplace(functions)] = float(value / number)
        return out


def _product(symbols: Sequence[Any], powers: Sequence[int]) -> Any:
    import sympy

    return sympy.Mul(*(symbol**power for symbol, power in zip(symbols, powers, strict=True)))
