"""Formulas in text, read by a whitelist: nothing in them is ever executed.

``parse`` walks Python's syntax tree and knows numbers, the names it was given, ``+ - * / ** ^``,
the functions in `FUNCTIONS` and the constants ``pi`` and ``e``. Whatever else stands in a formula
is refused with the piece that is at fault. Names win over everything: a state may be called
``beta``, ``S`` or even ``e``. Numbers are doubles; only rational arithmetic stays exact.

For expressions that a program builds, use sympy itself; for fields written in Python, hand the
function to ``solve`` as it is.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from odekit.errors import ProblemError

if TYPE_CHECKING:
    import sympy

FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "cot": lambda x: 1 / math.tan(x),
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "tanh": math.tanh,
    "exp": math.exp,
    "log": math.log,
    "ln": math.log,
    "sqrt": math.sqrt,
    "abs": math.fabs,
    "Abs": math.fabs,
    "sign": lambda x: float((x > 0) - (x < 0)),
}
"""Functions of one argument that a formula may call, with their values at a number."""

MAX_LENGTH = 10_000
MAX_DEPTH = 60
MAX_POWER = 100

_LINE = re.compile(
    r"(?:(?P<dashed>\w+)\s*['′’]|d(?P<quotient>\w+)\s*/\s*d(?P<time>\w+))\s*=(?P<right>.*)"
)


def symbol_name(name: str) -> str:
    """The nearest name that can stand in a formula; the name itself if it can.

    Example:
        >>> symbol_name("hare"), symbol_name("prey (t)"), symbol_name("2nd"), symbol_name("lambda")
        ('hare', 'prey_t', 'x_2nd', 'lambda_')
    """
    name = unicodedata.normalize("NFKC", name)  # as Python's own parser does
    if not name.isidentifier():
        name = re.sub(r"\W+", "_", name).strip("_") or "x"
        name = name if name.isidentifier() else f"x_{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def check_symbols(names: Sequence[str]) -> None:
    """Raise `ProblemError` unless all names are different and can stand in a formula."""
    for name in names:
        if not isinstance(name, str) or symbol_name(name) != name:
            raise ProblemError(
                f"{name!r} cannot be a symbol in equations: write {symbol_name(str(name))!r}"
            )
        if names.count(name) > 1:
            raise ProblemError(
                f"{name!r} names two things: time, states, inputs and parameters need different "
                "names"
            )


def parse(text: str, symbols: Iterable[str] | Mapping[str, Any]) -> sympy.Expr:
    """A formula as a sympy expression.

    Args:
        text: the formula; ``^`` means power.
        symbols: the names that may occur. A mapping gives what each of them stands for: a
            number, a sympy expression, or None for the symbol of that name.

    Raises:
        ProblemError: anything that is not on the whitelist, a constant that is not a finite real
            number, or a formula that is too long, too deep or has too high a power.

    Example:
        >>> parse("a*x^2 - sin(y)/2", {"x": None, "y": None, "a": 3})
        3*x**2 - sin(y)/2
    """
    reader = _Reader(text, symbols)
    return reader.read(reader.tree, 0)


def read_formulas(lines: str | Iterable[str], time: str = "t") -> dict[str, str]:
    """Equations such as ``x' = y`` or ``dx/dt = y`` as a dict from state to right-hand side.

    Args:
        lines: one equation each; a single text is split at line ends and semicolons.
        time: the name of time in ``dx/dt``.

    Raises:
        ProblemError: a line that is no equation, or two for one state.

    Example:
        >>> read_formulas(["x' = y", "dy/dt = -x"])
        {'x': 'y', 'y': '-x'}
    """
    split = re.split(r"[\n;]", lines) if isinstance(lines, str) else list(lines)
    found: dict[str, str] = {}
    for line in filter(str.strip, split):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ProblemError(
                f'{line.strip()[:60]!r} is no equation: write it as "x\' = -x", and a second '
                'derivative as "x\' = v" and "v\' = -x"'
            )
        if match["time"] not in (None, time):
            raise ProblemError(
                f"{line.strip()[:60]!r} differentiates by {match['time']!r}: time is called {time}"
            )
        name, right = match["dashed"] or match["quotient"], match["right"].strip()
        if symbol_name(name) != name or name == time:
            raise ProblemError(f"{name!r} cannot name a state: write {symbol_name(name + '0')!r}")
        if name in found:
            raise ProblemError(f"{name!r} has two equations: keep one of them")
        found[name] = right
    if not found:
        raise ProblemError('there is no equation: write one as "x\' = -x"')
    return found


@final
class _Reader:
    """From the syntax tree of one formula to sympy, node by node."""

    def __init__(self, text: str, symbols: Iterable[str] | Mapping[str, Any]) -> None:
        import sympy

        self.sympy = sympy
        given = dict(symbols) if isinstance(symbols, Mapping) else dict.fromkeys(symbols)
        self.symbols = {
            unicodedata.normalize("NFKC", name): sympy.Symbol(name) if value is None else value
            for name, value in given.items()
        }
        if not isinstance(text, str):
            raise ProblemError(f"a formula must be text, got {text!r}")
        if len(text) > MAX_LENGTH:
            raise ProblemError(f"a formula may have {MAX_LENGTH} characters, got {len(text)}")
        self.text = " ".join(text.split()).replace("^", "**")
        self.tree = self._tree()

    def _tree(self) -> ast.expr:
        if not self.text:
            raise ProblemError("a formula is empty: write 0 for no change")
        if "#" in self.text or "\\" in self.text:
            raise ProblemError(f"formula {self._shown()}: '#' and '\\' mean nothing here")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            at = self.text[max((error.offset or 1) - 1, 0) :] or self.text[-1:]
            hint = (
                ": write the product 2*x with its star" if "decimal literal" in str(error) else ""
            )
            raise ProblemError(
                f"formula {self._shown()} cannot be read at {at[:30]!r} ({error.msg}){hint}"
            ) from None
        except (ValueError, MemoryError, RecursionError):
            raise ProblemError(
                f"formula {self._shown()} is nested too deeply or unreadable"
            ) from None

    def _shown(self) -> str:
        return repr(self.text if len(self.text) <= 80 else self.text[:77] + "...")

    def refuse(self, node: ast.expr, why: str) -> ProblemError:
        """The exception that points at ``node``."""
        piece = ast.get_source_segment(self.text, node) or self.text
        return ProblemError(f"formula {self._shown()}: {piece[:60]!r} {why}")

    def read(self, node: ast.expr, depth: int) -> Any:
        """The expression of a node."""
        if depth > MAX_DEPTH:
            raise self.refuse(node, f"is nested more than {MAX_DEPTH} deep: split the formula")
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            inner = self.read(node.operand, depth + 1)
            return -inner if isinstance(node.op, ast.USub) else inner
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, ast.Add | ast.Sub):
                return self._chain(node, depth, self.sympy.Add, ast.Add, ast.Sub)
            if isinstance(node.op, ast.Mult | ast.Div):
                return self._chain(node, depth, self.sympy.Mul, ast.Mult, ast.Div)
            if isinstance(node.op, ast.Pow):
                return self._power(node, depth)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        if isinstance(node, ast.Tuple):
            raise self.refuse(node, "has a comma: decimals are written 1.5")
        raise self.refuse(node, "is not allowed: use numbers, names, + - * / ^ and functions")

    def _constant(self, node: ast.Constant) -> Any:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(node, "is not a real number")
        expression = self.sympy.Integer if isinstance(value, int) else self.sympy.Float
        return self._bounded(node, expression(value))

    def _name(self, node: ast.Name) -> Any:
        name = node.id
        if name in self.symbols:
            return self.sympy.sympify(self.symbols[name], strict=True)
        if name == "pi":
            return self.sympy.pi
        if name == "e":
            return self.sympy.Float(math.e)
        if name in FUNCTIONS:
            raise self.refuse(node, f"is a function: write {name}(...) with its argument")
        close = difflib.get_close_matches(name, self.symbols, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        names = ", ".join(self.symbols) or "none"
        raise self.refuse(node, f"is not known: {hint}the names here are {names}")

    def _chain(self, node: ast.BinOp, depth: int, join: Any, plain: type, inverse: type) -> Any:
        """A sum or product, flat: long ones are no deeper than short ones."""
        parts, left = [], node
        while True:
            part = self.read(left.right, depth + 1)
            if isinstance(left.op, inverse):
                part = -part if inverse is ast.Sub else self._reciprocal(left.right, part)
            parts.append(part)
            if not (isinstance(left.left, ast.BinOp) and isinstance(left.left.op, plain | inverse)):
                break
            left = left.left
        parts.append(self.read(left.left, depth + 1))
        return self._bounded(node, join(*reversed(parts)))

    def _reciprocal(self, node: ast.expr, expression: Any) -> Any:
        if expression == 0:
            raise self.refuse(node, "is zero, and nothing can be divided by it")
        return 1 / expression

    def _power(self, node: ast.BinOp, depth: int) -> Any:
        exponent = self.read(node.right, depth + 1)
        if exponent.is_number:
            value = float(exponent)
            if abs(value) > MAX_POWER:
                raise self.refuse(node, f"is too high a power: {MAX_POWER} is the limit")
            if (2 * value).is_integer():
                exponent = self.sympy.Rational(int(2 * value), 2)
        if isinstance(node.left, ast.Name) and node.left.id == "e" and "e" not in self.symbols:
            return self._apply(node, "exp", exponent)
        base = self.read(node.left, depth + 1)
        if base == 0 and exponent.is_number and exponent < 0:
            raise self.refuse(node, "divides by zero")
        if base.is_number and exponent.is_number:
            return self._bounded(node, self._number_power(node, base, exponent))
        power = base**exponent
        if power.is_Pow and power.exp.is_number and abs(float(power.exp)) > MAX_POWER:
            raise self.refuse(node, f"is too high a power: {MAX_POWER} is the limit")
        return power

    def _number_power(self, node: ast.expr, base: Any, exponent: Any) -> Any:
        if base.is_Rational and exponent.is_Integer:
            size = max(abs(base.p), base.q).bit_length() * abs(int(exponent))
            if size < 1100:  # what a double can hold, and a little more
                return base**exponent
        try:
            value = float(base) ** float(exponent)
        except OverflowError:
            value = math.inf
        if isinstance(value, complex):
            raise self.refuse(node, "is not a real number")
        return self.sympy.Float(value)

    def _call(self, node: ast.Call, depth: int) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name not in FUNCTIONS:
            if name in self.symbols:
                raise self.refuse(node, f"calls {name!r}: write a product as {name}*(...)")
            raise self.refuse(node, f"is not a known function: there are {', '.join(FUNCTIONS)}")
        if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
            raise self.refuse(node, f"is wrong: {name} takes one argument")
        return self._apply(node, name, self.read(node.args[0], depth + 1))

    def _apply(self, node: ast.expr, name: str, argument: Any) -> Any:
        sympy = self.sympy
        if argument.is_number:
            try:
                value = FUNCTIONS[name](float(argument))
            except (ValueError, OverflowError, ZeroDivisionError):
                raise self.refuse(node, "is not a finite real number") from None
            return self._bounded(node, sympy.Float(value))
        if name in ("abs", "Abs", "sign"):
            # Sympy would bring in real parts and conjugates: its plain symbols are complex.
            return (sympy.sign if name == "sign" else sympy.Abs)(argument, evaluate=False)
        if name == "cot":
            return 1 / sympy.tan(argument)
        return getattr(sympy, "log" if name == "ln" else name)(argument)

    def _bounded(self, node: ast.expr, expression: Any) -> Any:
        """The expression, if it is no number or one that a double can hold."""
        if expression.is_number:
            try:
                finite = math.isfinite(float(expression))
            except (OverflowError, TypeError, ValueError):
                finite = False
            if not finite:
                raise self.refuse(node, "is not a finite real number")
        return expression


def written(expression: Any) -> str:
    """Text of a sympy expression, or a number, that `parse` reads back to the last digit.

    Raises:
        ProblemError: something that has no value as text, or a function that `parse` lacks is
            refused there.

    Example:
        >>> import sympy
        >>> written(0.1 * sympy.Symbol("x", positive=True) ** 2)
        '0.10000000000000001*x**2'
    """
    import sympy

    try:
        expression = sympy.sympify(expression, strict=True)
    except sympy.SympifyError:
        raise ProblemError(
            f"a formula must be text, a number or a sympy expression, got {expression!r}"
        ) from None
    if not isinstance(expression, sympy.Expr):
        raise ProblemError(f"a formula must be an expression, got {expression}")
    numbers = {
        number: sympy.Float(float(number), 17)
        for number in expression.atoms(sympy.Float, sympy.E.func)
    }
    return str(expression.xreplace(numbers))
