"""Numbers and formulas for people: rounded to their errors, and set in MathML.

MathML is what browsers show without any script; ``Equations.latex()`` is for papers and
``str(equations)`` for terminals.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from odekit.intervals import half_width

if TYPE_CHECKING:
    from odekit.equations import Equations

WIDEST = 64
"""Letters of a right-hand side before it goes on in the next row."""

MINUS = "\N{MINUS SIGN}"
GAP = '<mspace width="0.22em"/>'
D = f'<mi mathvariant="normal">d</mi>{GAP}'

GREEK = {
    unicodedata.name(letter).split()[-1].lower().replace("lamda", "lambda"): letter
    for letter in "αβγδεζηθικλμνξοπρστυφχψω"
} | {
    unicodedata.name(letter).split()[-1].capitalize().replace("Lamda", "Lambda"): letter
    for letter in "ΓΔΘΛΞΠΣΦΨΩ"
}


def round_with(value: float, stderr: float | None) -> tuple[str, str, int]:
    """A number and its error to the same place, as mantissas with a common power of ten.

    Two digits of the error are kept, or four of the value where no error is known.

    Returns:
        Value, error (``""`` if unknown), and the exponent, 0 for numbers that need none.

    Example:
        >>> round_with(0.02897, 0.0016), round_with(-1.234e-7, 2.5e-9), round_with(3.0, None)
        (('0.0290', '0.0016', 0), ('−1.234', '0.025', -7), ('3', '', 0))
    """
    if not math.isfinite(value):
        return "n/a", "", 0
    size = _place(value) if value else 0
    known = stderr is not None and math.isfinite(stderr) and stderr > 0
    last = _place(float(stderr)) - 1 if known and stderr is not None else size - 3
    last = min(max(last, size - 5), size - 1)
    exponent = size if value and not -4 <= size <= 4 else 0
    digits = max(exponent - last, 0)
    text = f"{value / 10**exponent:.{digits}f}".replace("-", MINUS)
    if not known or stderr is None:
        return (text.rstrip("0").rstrip(".") if "." in text else text), "", exponent
    error = stderr / 10**exponent
    return text, f"{error:.{digits}f}" if float(f"{error:.{digits}f}") else f"{error:.1g}", exponent


def number(value: float, digits: int = 4) -> str:
    """A number for tables and captions, ``"−1.2 × 10⁻⁵"`` where it needs a power of ten."""
    if value is None or not math.isfinite(value):
        return "n/a"
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    mantissa = mantissa.replace("-", MINUS)
    return f"{mantissa} × 10{superscript(int(exponent))}" if exponent else mantissa


def rich_text(text: str) -> str:
    """HTML of plain equations: raised powers, powers of ten, true minus signs.

    Example:
        >>> rich_text("x' = -1.2e-05 x^2 - y")
        "x' = −1.2 × 10<sup>−5</sup> x<sup>2</sup> − y"
    """
    text = escape(text, quote=False)
    text = re.sub(r"(?<=\d)e([+-]?)0*(\d+)", _power_of_ten, text)
    text = re.sub(r"\^(\d+)", r"<sup>\1</sup>", text)
    return re.sub(r"(?<![\w>])-(?=[ \d\w(])", MINUS, text)


def _power_of_ten(match: re.Match[str]) -> str:
    return f" × 10<sup>{MINUS * (match[1] == '-')}{match[2]}</sup>"


def superscript(exponent: int) -> str:
    """An integer in raised digits."""
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def with_error(value: float, stderr: float | None) -> str:
    """``"0.561 ± 0.033"``, with brackets and a power of ten where one is needed."""
    text, error, exponent = round_with(value, stderr)
    if exponent and error:
        return f"({text} ± {error}) × 10{superscript(exponent)}"
    power = f" × 10{superscript(exponent)}" if exponent else ""
    return f"{text}{power}" + (f" ± {error}" if error else "")


def interval(value: float, stderr: float | None, degrees_of_freedom: float | None = None) -> str:
    """The 95 % interval, to the place that `round_with` rounds to; ``"n/a"`` if not known.

    Args:
        value: in the middle.
        stderr: its standard error.
        degrees_of_freedom: as for `odekit.Equations`.

    Example:
        >>> interval(0.997, 0.0061), interval(0.997, 0.0061, 6)
        ('0.9850 to 1.0090', '0.9821 to 1.0119')
    """
    text, error, exponent = round_with(value, stderr)
    if not error or stderr is None:
        return "n/a"
    digits = len(text.partition(".")[2])
    width = half_width(degrees_of_freedom) * stderr
    low, high = (
        f"{bound / 10**exponent:.{digits}f}".replace("-", MINUS)
        for bound in (value - width, value + width)
    )
    return f"({low} to {high}) × 10{superscript(exponent)}" if exponent else f"{low} to {high}"


def _place(value: float) -> int:
    """The exponent of the first digit that is kept, after rounding to two."""
    return int(f"{abs(value):.1e}".partition("e")[2])


def mathml(equations: Equations, time: str) -> str:
    """All equations as one display formula, signs of equality below one another.

    Args:
        equations: what to write.
        time: name of time in the derivatives.
    """
    rows = []
    for name in equations.names:
        terms = [term for term in equations.terms if term.equation == name]
        rows += _equation(name, equations, terms, time)
    return (
        '<math display="block"><mtable displaystyle="true" columnalign="right center left">'
        f"{''.join(rows)}</mtable></math>"
    )


def term_mathml(text: str, variables: Sequence[str]) -> str:
    """One term as inline MathML."""
    from odekit.formulas import parse

    return f"<math><mrow>{_write(parse(text, variables))}</mrow></math>"


def name_mathml(name: str) -> str:
    """A name: one letter slanted, several upright, digits at the end as an index."""
    match = re.fullmatch(r"([^\W\d_]+?)_?(\d*)", name)
    if match is None:
        return f"<mi>{escape(name)}</mi>"
    letters, index = match.groups()
    base = f"<mi>{escape(GREEK.get(letters, letters))}</mi>"
    return f"<msub>{base}<mn>{index}</mn></msub>" if index else base


def _equation(name: str, equations: Equations, terms: Sequence[Any], time: str) -> list[str]:
    from odekit.formulas import parse

    variables = (*equations.names, equations.time, *equations.inputs)
    pieces, lengths = [], []
    for i, term in enumerate(terms):
        text, _, exponent = round_with(abs(term.value), term.stderr)
        expression = parse(term.term, variables)
        sign = MINUS if term.value < 0 else "+" if i else ""
        # A sign in front of the first term binds to it; between terms it needs space around it.
        operator = f'<mo form="{"infix" if i else "prefix"}">{sign}</mo>' if sign else ""
        factor = "" if expression == 1 else f"{GAP}{_write(expression, inside=True)}"
        # A coefficient of one that was not estimated says nothing that its term does not.
        plain = abs(term.value) == 1 and term.stderr is None and factor
        shown = _write(expression, inside=True) if plain else _mantissa(text, exponent) + factor
        pieces.append(f"{operator}<mrow>{shown}</mrow>")
        lengths.append(len(text) + (5 if exponent else 0) + len(term.term) + 3)
    lines, room = [""], WIDEST
    for piece, length in zip(pieces, lengths, strict=True):
        if length > room and lines[-1]:
            lines.append("")
            room = WIDEST
        lines[-1] += piece
        room -= length
    left = f"<mfrac><mrow>{D}{name_mathml(name)}</mrow><mrow>{D}{name_mathml(time)}</mrow></mfrac>"
    heads = [(left, "<mo>=</mo>")] + [("", "")] * (len(lines) - 1)
    return [
        f"<mtr><mtd>{head}</mtd><mtd>{equal}</mtd><mtd>{line or '<mn>0</mn>'}</mtd></mtr>"
        for (head, equal), line in zip(heads, lines, strict=True)
    ]


def _mantissa(text: str, exponent: int) -> str:
    number = f"<mn>{text}</mn>"
    if not exponent:
        return number
    sign = f"<mo>{MINUS}</mo>" if exponent < 0 else ""
    power = f"<mrow>{sign}<mn>{abs(exponent)}</mn></mrow>"
    return f"{number}<mo>×</mo><msup><mn>10</mn>{power}</msup>"


def _write(expression: Any, *, inside: bool = False) -> str:
    """A sympy expression; ``inside`` a product, where sums need brackets."""
    if expression.is_Symbol:
        return name_mathml(str(expression))
    if expression.is_number:
        return _constant(expression)
    if expression.is_Add:
        parts = [_write(part) for part in expression.as_ordered_terms()]
        joined = "<mo>+</mo>".join(parts).replace(
            f"<mo>+</mo><mo>{MINUS}</mo>", f"<mo>{MINUS}</mo>"
        )
        return _bracketed(joined) if inside else f"<mrow>{joined}</mrow>"
    if expression.is_Mul:
        return _product(expression)
    if expression.is_Pow:
        return _power(expression.base, expression.exp)
    argument = _write(expression.args[0])
    if expression.func.__name__ == "Abs":
        return f"<mrow><mo>|</mo>{argument}<mo>|</mo></mrow>"
    return f"<mrow><mi>{escape(expression.func.__name__)}</mi>{_bracketed(argument)}</mrow>"


def _constant(expression: Any) -> str:
    text = str(expression) if expression.is_Integer else f"{float(expression):.4g}"
    sign = f"<mo>{MINUS}</mo>" if text.startswith("-") else ""
    return f"{sign}<mn>{text.removeprefix('-')}</mn>"


def _product(expression: Any) -> str:
    above, below = [], []
    for factor in expression.as_ordered_factors():
        if factor.is_Pow and factor.exp.is_number and factor.exp < 0:
            below.append(factor.base ** (-factor.exp))
        else:
            above.append(factor)
    sign = ""
    if above and above[0] == -1:
        sign, above = f"<mo>{MINUS}</mo>", above[1:]
    several = len(above) > 1
    top = GAP.join(_write(f, inside=several) for f in above) if above else "<mn>1</mn>"
    if not below:
        return f"<mrow>{sign}{top}</mrow>"
    bottom = GAP.join(_write(f, inside=len(below) > 1) for f in below)
    return f"<mrow>{sign}<mfrac><mrow>{top}</mrow><mrow>{bottom}</mrow></mfrac></mrow>"


def _power(base: Any, exponent: Any) -> str:
    if exponent.is_number and float(exponent) == 0.5:
        return f"<msqrt>{_write(base)}</msqrt>"
    if exponent.is_number and exponent < 0:
        return f"<mfrac><mn>1</mn><mrow>{_write(base ** (-exponent))}</mrow></mfrac>"
    bare = base.is_Symbol and "_" not in str(base)
    inner: Callable[[Any], str] = _write
    text = inner(base) if bare else _bracketed(inner(base))
    return f"<msup><mrow>{text}</mrow><mrow>{_write(exponent)}</mrow></msup>"


def _bracketed(text: str) -> str:
    return f"<mrow><mo>(</mo>{text}<mo>)</mo></mrow>"
