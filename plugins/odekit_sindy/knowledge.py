"""What is known about a system, in symbols: checked, and free of contradictions.

`odekit_sindy.claims_reader` makes it from what the user types, `odekit_sindy.known_libraries`
turns it into rules on every library of the ladder, and `describe` writes it into the result.

Units: those of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, final

from odekit.errors import ProblemError
from odekit.formulas import parse
from odekit_sindy.claims import Claims
from odekit_sindy.customs import Key, key_of
from odekit_sindy.units import Unit, unit_of

if TYPE_CHECKING:
    from odekit import Equations

Place: TypeAlias = tuple[int, Key]
"""A coefficient: equation and function."""


@final
@dataclass
class Knowledge:
    """Checked claims about a system with these variables.

    Attributes:
        claims: what was said.
        names: the states.
        inputs: the inputs, without time.
        time: the name of time.
        expressions: the sympy expression of each function that is mentioned.
        whole: equations that are known as a whole.
        fixed: coefficients with a known value.
        forbidden, forced: coefficients that must not, or must, be there.
        signs: 1 or -1.
        groups: coefficients in fixed ratios, the leader first, as ``(place, ratio)``.
        offered: formulas to search over, and the equations where.
        units: of those variables that have one.
    """

    claims: Claims
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    time: str
    expressions: dict[Key, Any] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)
    fixed: dict[Place, float] = field(default_factory=dict)
    forbidden: set[Place] = field(default_factory=set)
    forced: set[Place] = field(default_factory=set)
    signs: dict[Place, int] = field(default_factory=dict)
    groups: list[list[tuple[Place, float]]] = field(default_factory=list)
    offered: dict[Key, set[int]] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of states, inputs, then time."""
        return (*self.names, *self.inputs, self.time)

    @property
    def timed(self) -> bool:
        """Whether time stands in any formula."""
        used = [*(key for _, key in self.fixed), *(key for _, key in self.forced), *self.offered]
        return any(
            self.time in {str(s) for s in self.expressions[key].free_symbols} for key in used
        )

    def chain(self, hidden: Sequence[str]) -> dict[int, int]:
        """Places of the positions of which these hidden states are the derivatives.

        Raises:
            ProblemError: a hidden state that is not the whole of a known equation.
        """
        out = {}
        for name in hidden:
            velocity = self.names.index(name)
            unit = tuple(int(i == velocity) for i in range(len(self.names) + len(self.inputs)))
            positions = [
                j
                for j in sorted(self.whole)
                if j not in out
                and {key: v for (i, key), v in self.fixed.items() if i == j} == {unit: 1.0}
            ]
            if not positions:
                raise ProblemError(
                    f"hidden: nothing says what {name!r} is: write the equation of which it is the "
                    f"right-hand side, such as known={{{self.names[0]!r}: {name!r}}}"
                )
            out[positions[0]] = velocity
        return out

    def said(self, place: Place) -> str:
        """``"x*y in v'"``."""
        return f"{self.expressions[place[1]]} in {self.names[place[0]]}'"

    def coefficient_unit(self, equation: str, expression: Any) -> Unit | None:
        """Unit of a coefficient, None where a unit is missing."""
        state, time = self.units.get(equation), self.units.get(self.time)
        term = unit_of(expression, self.units)
        return None if state is None or time is None or term is None else state / time / term


def describe(equations: Equations, knowledge: Knowledge) -> None:
    """Write into the result what was given, and the units; doubt signs that the data resist.

    ``diagnostics["knowledge"]`` has the claims, ``["given"]`` the terms with a known value,
    ``["units"]`` those of the variables and of the coefficients in order, None where unknown.
    """
    k = knowledge
    equations.diagnostics["knowledge"] = k.claims.record()
    places = [
        (k.names.index(term.equation), _key_of_text(k, term.term)) for term in equations.terms
    ]
    pairs = list(zip(equations.terms, places, strict=True))
    equations.diagnostics["given"] = [
        {"equation": term.equation, "term": term.term} for term, p in pairs if p in k.fixed
    ]
    for term, place in pairs:
        if place in k.signs and term.value == 0:
            equations.warnings.insert(
                0,
                f"The data push the coefficient of {term.term} in {term.equation}' against its "
                "sign: it is held at zero.",
            )
            equations.confident = False
    if k.units:
        units = [_unit(k, term.equation, term.term) for term, _ in pairs]
        equations.diagnostics["units"] = {
            "variables": {name: str(unit) for name, unit in k.units.items()},
            "coefficients": [None if unit is None else str(unit) for unit in units],
        }


def _unit(knowledge: Knowledge, equation: str, term: str) -> Unit | None:
    """Unit of a coefficient; None too where fitted numbers inside of the term carry units."""
    try:
        return knowledge.coefficient_unit(equation, parse(term, knowledge.variables))
    except ProblemError:
        return None


def _key_of_text(knowledge: Knowledge, text: str) -> Key:
    k = knowledge
    return key_of(parse(text, k.variables), k.names, (*k.names, *k.inputs))
