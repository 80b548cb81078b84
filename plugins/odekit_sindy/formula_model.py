"""A model with parameters, as `odekit.refine` fits it.

Every symbol of a formula that is no state, input or time is a parameter. Such models are made by
`odekit_sindy.formula_reading`.

Units: those of the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from odekit_sindy.denominators import Denominators


@final
@dataclass(frozen=True)
class FormulaModel:
    """A model with parameters.

    Attributes:
        formulas: right-hand side of each state as text, in the order of the states.
        rights: the same as sympy expressions in plain symbols.
        parameters: names of the parameters, in order of appearance.
        labels: what each parameter is called in messages.
        inputs: names of the inputs that may occur.
        time: name of time.
        start: where to begin, for some of the parameters and hidden states.
        held: parameters that keep their value.
        bounds: lowest and highest value; infinite where there is none.
        terms: state and term of the parameters that are coefficients of `Equations`.
        denominators: of those equations.
    """

    formulas: Mapping[str, str]
    rights: tuple[Any, ...]
    parameters: tuple[str, ...]
    labels: Mapping[str, str]
    inputs: tuple[str, ...]
    time: str
    start: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    terms: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    denominators: Denominators | None = None

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""
        return tuple(self.formulas)

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters to fit."""
        return tuple(name for name in self.parameters if name not in self.held)

    @property
    def timed(self) -> bool:
        """Whether time occurs in a formula."""
        return self.time in symbols_of(self.rights)

    @property
    def driven(self) -> tuple[str, ...]:
        """The inputs that occur in a formula."""
        found = symbols_of(self.rights)
        return tuple(name for name in self.inputs if name in found)

    def slopes(self, parameter: str) -> dict[int, Any] | None:
        """What a coefficient multiplies, by equation; None for a parameter of another kind.

        The formulas are linear in a coefficient, so that zero means without it. A number in a
        denominator whose constant is held counts as one: without it there is one part less.
        """
        import sympy

        symbol = sympy.Symbol(parameter)
        slopes = {i: sympy.diff(right, symbol) for i, right in enumerate(self.rights)}
        slopes = {i: slope for i, slope in slopes.items() if slope != 0}
        linear = not any(slope.has(symbol) for slope in slopes.values())
        return slopes if slopes and (linear or parameter in self.terms) else None

    def worded(self, parameter: str) -> str:
        """What a coefficient multiplies, itself included where it has a name."""
        if parameter in self.terms:
            return self.terms[parameter][1]
        import sympy

        slope = next(iter((self.slopes(parameter) or {0: 1}).values()))
        piece = slope * sympy.Symbol(parameter)
        return str(-piece if piece.could_extract_minus_sign() else piece)


def symbols_of(expressions: Iterable[Any]) -> set[str]:
    """Names of the symbols in sympy expressions."""
    return {str(symbol) for e in expressions for symbol in e.free_symbols}
