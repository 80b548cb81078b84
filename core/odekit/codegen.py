"""Equations as text: for reading, for LaTeX, and as source in Python, C and Julia.

Source carries every number as the shortest text that reads back to the same double; the text
for reading and LaTeX round to four digits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odekit.errors import ProblemError

Right = Sequence[tuple[float, Any]]
"""A right-hand side: coefficients and sympy expressions."""


def readable(right: Right) -> str:
    """A right-hand side with four digits, such as ``0.561 hare - 0.029 hare lynx``."""
    return _summed(_folded(right), lambda value: f"{value:.4g}", _readable_term)


def _folded(right: Right) -> Right:
    """Numbers within terms drawn into the coefficients."""
    pairs = [(value, *expression.as_coeff_Mul()) for value, expression in right]
    return [(value * float(number), rest) for value, number, rest in pairs]


def _rounded(expression: Any) -> Any:
    """An expression with its own numbers at four digits."""
    import sympy

    return expression.xreplace({n: sympy.Float(n, 4) for n in expression.atoms(sympy.Float)})


def _readable_term(expression: Any) -> str:
    text = str(_rounded(expression)).replace("**", "^").replace("*", " ")
    return f"({text})" if expression.is_Add else text


def latex(rights: Mapping[str, Right], variables: Sequence[str], time: str) -> str:
    """An ``aligned`` block; names of several letters are upright."""
    import sympy

    symbols = {sympy.Symbol(name): _latex_name(name) for name in variables}

    def term(expression: Any) -> str:
        text = sympy.latex(_rounded(expression), symbol_names=symbols, mul_symbol=r"\,")
        return rf"\left({text}\right)" if expression.is_Add else text

    time_name = _latex_name(time)
    rows = []
    for name, right in rights.items():
        slope = rf"\frac{{d {_latex_name(name)}}}{{d {time_name}}}"
        rows.append(f"{slope} &= " + _summed(_folded(right), _latex_number, term, space=r"\,"))
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def _latex_name(name: str) -> str:
    """``x0`` with an index, ``alpha`` as a letter of Greek, ``hare`` upright."""
    from sympy.printing.latex import greek_letters_set, tex_greek_dictionary

    match = re.fullmatch(r"([A-Za-z]+?)_?(\d*)", name)
    if match is None:
        return r"\mathrm{" + name.replace("_", r"\_") + "}"
    letters, index = match.groups()
    if len(letters) > 1 and letters in greek_letters_set:
        letters = tex_greek_dictionary.get(letters, "\\" + letters)
    elif len(letters) > 1:
        letters = r"\mathrm{" + letters + "}"
    return f"{letters}_{{{index}}}" if index else letters


def _latex_number(value: float) -> str:
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if exponent else mantissa


def _summed(
    right: Right, number: Callable[[float], str], term: Callable[[Any], str], space: str = " "
) -> str:
    """Numbers and terms joined by signs; a coefficient of exactly one is left out."""
    text = ""
    for value, expression in right:
        if expression == 1:
            piece = number(abs(value))
        elif abs(value) == 1:
            piece = term(expression)
        elif term(expression).startswith("1/"):
            piece = f"{number(abs(value))}{term(expression)[1:]}"
        else:
            piece = f"{number(abs(value))}{space}{term(expression)}"
        sign = "-" if value < 0 else "+"
        text = f"{text} {sign} {piece}" if text else f"{'-' * (value < 0)}{piece}"
    return text or "0"


@dataclass(frozen=True)
class Language:
    """How one language writes what formulas are made of.

    Attributes:
        functions: a template for each function.
        power: a template for powers, base then exponent.
        power_binds: whether ``power`` is an operator rather than a call.
    """

    functions: Mapping[str, str]
    power: str
    power_binds: bool

    def write(self, expression: Any, names: Mapping[str, str]) -> str:
        """An expression in this language."""
        return self._write(expression, names)[0]

    def _write(self, expression: Any, names: Mapping[str, str]) -> tuple[str, int]:
        """Text, and how tightly it binds: 1 sum, 2 product or sign, 3 power, 4 closed."""
        if expression.is_number:
            text = repr(float(expression))
            return text, 2 if text.startswith("-") else 4
        if expression.is_Symbol:
            return names[str(expression)], 4
        if expression.is_Add:
            parts = [self._write(part, names)[0] for part in expression.as_ordered_terms()]
            return " + ".join(parts).replace("+ -", "- "), 1
        if expression.is_Mul:
            return self._product(expression, names), 2
        if expression.is_Pow:
            return self._power(expression.base, expression.exp, names)
        argument = self._write(expression.args[0], names)[0]
        return self.functions[type(expression).__name__].format(argument), 4

    def _product(self, expression: Any, names: Mapping[str, str]) -> str:
        above, below = [], []
        for factor in expression.as_ordered_factors():
            if factor.is_Pow and factor.exp.is_number and factor.exp < 0:
                below.append(self._power(factor.base, -factor.exp, names))
            else:
                above.append(self._write(factor, names))
        if above and above[0][0] == "-1.0" and len(above) > 1:
            sign, above = "-", above[1:]
        else:
            sign = ""
        top = "*".join(_closed(text, binds, 2 + (i > 0)) for i, (text, binds) in enumerate(above))
        text = sign + (top or "1.0")
        for piece, binds in below:
            text += "/" + _closed(piece, binds, 3)
        return text

    def _power(self, base: Any, exponent: Any, names: Mapping[str, str]) -> tuple[str, int]:
        inner, binds = self._write(base, names)
        if exponent == 1:
            return inner, binds
        if exponent.is_number and exponent < 0:
            text, tight = self._power(base, -exponent, names)
            return f"1.0/{_closed(text, tight, 3)}", 2
        if exponent.is_number and float(exponent) == 0.5:
            return self.functions["sqrt"].format(inner), 4
        if not self.power_binds:
            if exponent in (2, 3) and binds == 4:
                return "*".join([inner] * int(exponent)), 2
            return self.power.format(inner, self._exponent(exponent, names)[0]), 4
        above = _closed(*self._exponent(exponent, names), 4)
        return self.power.format(_closed(inner, binds, 4), above), 3

    def _exponent(self, exponent: Any, names: Mapping[str, str]) -> tuple[str, int]:
        if exponent.is_Integer:
            return str(exponent), 4
        return self._write(exponent, names)

    def sum(self, right: Right, names: Mapping[str, str]) -> str:
        """A right-hand side in this language."""

        def term(expression: Any) -> str:
            return _closed(*self._write(expression, names), 2)

        return _summed(right, repr, term, space="*") if right else "0.0"


def _closed(text: str, binds: int, needed: int) -> str:
    return text if binds >= needed else f"({text})"


_SAME = {name: f"{name}({{}})" for name in (
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "sqrt"
)}  # fmt: skip

PYTHON = Language(
    functions={
        **{name: f"np.{call}" for name, call in _SAME.items()},
        "asin": "np.arcsin({})",
        "acos": "np.arccos({})",
        "atan": "np.arctan({})",
        "Abs": "np.abs({})",
        "sign": "np.sign({})",
    },
    power="{}**{}",
    power_binds=True,
)
C = Language(
    functions={**_SAME, "Abs": "fabs({})", "sign": "(double)(({0} > 0) - ({0} < 0))"},
    power="pow({}, {})",
    power_binds=False,
)
JULIA = Language(
    functions={**_SAME, "Abs": "abs({})", "sign": "sign({})"},
    power="{}^{}",
    power_binds=True,
)


def source(language: str, rights: Mapping[str, Right], inputs: Sequence[str], time: str) -> str:
    """A function of the right-hand side; see `odekit.Equations.code`.

    Raises:
        ProblemError: a language that is not ``"python"``, ``"c"`` or ``"julia"``.
    """
    writers = {"python": _python, "c": _c, "julia": _julia}
    if language not in writers:
        close = difflib.get_close_matches(str(language).lower(), writers, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ProblemError(
            f"language: there is no code in {language!r}: {hint}write one of {', '.join(writers)}"
        )
    return writers[language](rights, inputs, time)


def compiled(text: str) -> Callable[..., Any]:
    """The function ``f`` of Python source that `source` wrote.

    Names in it were checked when the equations were made, and everything else comes from
    `Language`, so nothing but arithmetic can stand there.
    """
    names: dict[str, Any] = {}
    exec(compile(text, "<odekit right-hand side>", "exec"), names)
    function: Callable[..., Any] = names["f"]
    return function


def _python(rights: Mapping[str, Right], inputs: Sequence[str], time: str) -> str:
    names = {time: "t"}
    for name in (*rights, *inputs):
        variable = name
        while variable in ("np", "f", "y", "u", *names.values()):
            variable += "_"
        names[name] = variable
    lines = ["import numpy as np", "", "", f"def f(t, y{', u' if inputs else ''}):"]
    for array, group in (("y", tuple(rights)), ("u", inputs)):
        variables = ", ".join(names[name] for name in group)
        if group:
            lines.append(f"    {variables if len(group) > 1 else f'({variables},)'} = {array}")
    lines.append("    return np.array([")
    lines += [f"        {PYTHON.sum(right, names)}," for right in rights.values()]
    lines += ["    ])", ""]
    return "\n".join(lines)


def _c(rights: Mapping[str, Right], inputs: Sequence[str], time: str) -> str:
    names = {time: "t", **_indexed("y", rights, 0), **_indexed("u", inputs, 0)}
    argument = " const double *u," if inputs else ""
    lines = ["#include <math.h>", "", *_legend("/* {} */", rights, inputs)]
    lines += [f"void f(double t, const double *y,{argument} double *dydt)", "{"]
    lines += [f"    (void){name};" for name in ("t", "y", *["u"] * bool(inputs))]
    for i, right in enumerate(rights.values()):
        lines.append(f"    dydt[{i}] = {C.sum(right, names)};")
    return "\n".join([*lines, "}", ""])


def _julia(rights: Mapping[str, Right], inputs: Sequence[str], time: str) -> str:
    names = {time: "t", **_indexed("y", rights, 1), **_indexed("u", inputs, 1)}
    lines = [*_legend("# {}", rights, inputs), "function f!(dy, y, p, t)"]
    if inputs:
        lines.append("    u = p(t)")
    for i, right in enumerate(rights.values()):
        lines.append(f"    dy[{i + 1}] = {JULIA.sum(right, names)}")
    return "\n".join([*lines, "    return nothing", "end", ""])


def _indexed(array: str, names: Iterable[str], first: int) -> dict[str, str]:
    return {name: f"{array}[{i}]" for i, name in enumerate(names, first)}


def _legend(comment: str, states: Iterable[str], inputs: Sequence[str]) -> list[str]:
    lines = [comment.format(f"y: {', '.join(states)}")]
    return lines + ([comment.format(f"u: {', '.join(inputs)}")] if inputs else [])
