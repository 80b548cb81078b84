"""Functions from formulas as members of a library, with their derivatives.

A formula is evaluated in the caller's variables and divided by its own size over the data, so
that no scaling of a state changes what is found. The partial derivatives of a formula need not
be in the library; what they need beyond it is computed beside it and never offered as a term.

For sine, cosine and exponentials of a single state, and products of these waves, the library's own
are faster.

Shapes: ``v`` variables (states, inputs, then perhaps time), ``M`` points along the last axis.
Units: points come in scaled units; formulas see the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import numpy as np

from odekit_sindy.wave_products import WaveProduct, product_of

Key: TypeAlias = tuple[int, ...] | tuple[str, int] | tuple[str, str] | WaveProduct
"""Identity of a function across libraries: exponents, ``("sin", state)``, ``("custom", text)``,
or a product of waves."""

EXPONENTIALS = ("exp", "exp_minus")

LIMIT = 1e30
"""Values beyond this are cut off: outside of the data a formula may have a pole."""

_NAMED = ("sin", "cos", "exp")


@final
class Customs:
    """Functions given as sympy expressions.

    Args:
        expressions: products without a number in front, in the symbols ``variables``.
        variables: names of states, inputs and perhaps time, in the order of the points' rows.
        units: the variables' units, ``(v,)``.
        dim: number of states.
        inputs: number of inputs.
        points: the data in the caller's units, ``(v, M)``, which say how large a function is.
    """

    def __init__(
        self,
        expressions: Sequence[Any],
        variables: Sequence[str],
        units: np.ndarray,
        dim: int,
        inputs: int,
        points: np.ndarray,
    ) -> None:
        self.expressions = tuple(expressions)
        self.variables = tuple(variables)
        self.units = np.asarray(units, float)
        self.dim = dim
        self.monomials = self.variables[: dim + inputs]
        self.keys = [key_of(e, self.variables[:dim], self.monomials) for e in self.expressions]
        self.texts = [text_of(e) for e in self.expressions]
        self.size = len(self.expressions)
        values = compiled(self.expressions, self.variables)(points)
        self.factor = np.array([self._factor(i, row) for i, row in enumerate(values)])

    def _factor(self, i: int, values: np.ndarray) -> float:
        """From the formula's value to the function's: monomials scale with their variables."""
        key = self.keys[i]
        if isinstance(key, WaveProduct):
            key = (0,) if isinstance(key.first[0], str) else key.first
        if not isinstance(key[0], str):
            powers = np.array(key, float)
            return float(np.prod(self.units[: len(powers)] ** -powers))
        finite = values[np.isfinite(values)]
        size = float(np.sqrt((finite**2).mean())) if finite.size else 0.0
        return 1 / size if np.isfinite(size) and size > 0 else 1.0

    def derivatives(self) -> list[tuple[int, int, float, Any]]:
        """Rows ``(function, state, number, product)``: ``d g / d x_state`` is their sum.

        Everything in the caller's units.
        """
        rows = []
        for i, expression in enumerate(self.expressions):
            for j, name in enumerate(self.variables[: self.dim]):
                slope = derivative(expression, name)
                rows += [(i, j, number, product) for number, product in products(slope)]
        return rows


def derivative(expression: Any, name: str) -> Any:
    """Partial derivative of a real expression; a sign is constant wherever it is not zero."""
    import sympy

    # Plain symbols are complex to sympy, and the derivative of a modulus needs real ones.
    real = {symbol: sympy.Dummy(real=True) for symbol in expression.free_symbols}
    slope = expression.xreplace(real).diff(real.get(sympy.Symbol(name), sympy.Symbol(name)))
    slope = slope.replace(sympy.DiracDelta, lambda *_: sympy.Integer(0))
    return slope.xreplace({dummy: symbol for symbol, dummy in real.items()})


def compiled(
    expressions: Sequence[Any], variables: Sequence[str], *, cut: bool = True
) -> Callable[[np.ndarray], np.ndarray]:
    """Expressions as one numpy function: ``(..., v, M)`` to ``(..., L, M)``.

    What is not a number becomes zero, and values are cut off at `LIMIT`, unless ``cut`` is
    false.
    """
    import sympy

    if not expressions:
        return lambda x: np.empty((*x.shape[:-2], 0, x.shape[-1]))
    # Sympy calls common subexpressions x0, x1 and so on, which are names of states too.
    symbols = {sympy.Symbol(name): sympy.Dummy() for name in variables}
    renamed = [expression.xreplace(symbols) for expression in expressions]
    # The expressions come from the whitelisted parser, so what is generated here is arithmetic.
    call = sympy.lambdify(list(symbols.values()), renamed, modules="numpy", cse=True)

    def evaluate(x: np.ndarray) -> np.ndarray:
        out = np.empty((*x.shape[:-2], len(expressions), x.shape[-1]))
        with np.errstate(all="ignore"):
            for i, value in enumerate(call(*np.moveaxis(x, -2, 0)[: len(symbols)])):
                out[..., i, :] = value
        return np.nan_to_num(np.clip(out, -LIMIT, LIMIT), copy=False, nan=0.0) if cut else out

    return evaluate


def products(expression: Any) -> list[tuple[float, Any]]:
    """A sum as numbers times products: ``2*x*(1 + y)`` gives ``(2, x)`` and ``(2, x*y)``."""
    import sympy

    out: dict[Any, float] = {}
    for part in sympy.Add.make_args(sympy.expand(expression)):
        number, product = part.as_coeff_Mul()
        value = float(number)
        # Constants such as pi, or a function of a number, are part of the number.
        constants, rest = product.as_independent(*product.free_symbols, as_Add=False)
        if constants != 1:
            value, product = value * float(constants), rest
        if value:
            out[product] = out.get(product, 0.0) + value
    return [(value, product) for product, value in out.items() if value]


def key_of(expression: Any, states: Sequence[str], variables: Sequence[str]) -> Key:
    """The identity of a product without a number in front.

    Args:
        expression: a sympy expression.
        states: names that may stand in the library's own waves and exponentials.
        variables: names of the monomials' variables, in order.
    """
    powers = {str(base): e for base, e in expression.as_powers_dict().items()}
    if expression == 1:
        return tuple(0 for _ in variables)
    if all(name in variables and e.is_Integer and e > 0 for name, e in powers.items()):
        return tuple(int(powers.get(name, 0)) for name in variables)
    name = expression.func.__name__
    if name in _NAMED and len(expression.args) == 1:
        argument = expression.args[0]
        if argument.is_Symbol and str(argument) in states:
            return name, list(states).index(str(argument))
        if name == "exp" and (-argument).is_Symbol and str(-argument) in states:
            return "exp_minus", list(states).index(str(-argument))
    product = product_of(expression.as_powers_dict(), states, len(variables) - len(states))
    return ("custom", text_of(expression)) if product is None else product


def named(key: Key, symbols: Sequence[str]) -> str:
    """A function that is no formula, in these symbols."""
    if isinstance(key, WaveProduct):
        first, second = (named(factor, symbols) for factor in key)
        return f"{first}**2" if first == second else f"{first}*{second}"
    if isinstance(key[0], str):
        function, sign = ("exp", "-") if key[0] == "exp_minus" else (key[0], "")
        return f"{function}({sign}{symbols[int(key[1])]})"
    powers = ((symbols[i], int(e)) for i, e in enumerate(key) if e)
    return "*".join(x if e == 1 else f"{x}**{e}" for x, e in powers) or "1"


def text_of(expression: Any) -> str:
    """A formula as text that reads back to the same numbers, digit for digit."""
    from sympy.printing.str import StrPrinter

    class Exact(StrPrinter):  # type: ignore[misc]
        def _print_Float(self, number: Any) -> str:
            return repr(float(number))

    return str(Exact().doprint(expression))
