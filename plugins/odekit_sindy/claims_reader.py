"""From what the user types to `odekit_sindy.knowledge.Knowledge`, with all that can be wrong.

Whole equations, single terms with their value, forbidden and forced terms, signs, values and
fixed ratios of coefficients, formulas to offer, and units. Formulas are read by
`odekit.formulas.parse`, never executed.

Units: those of the caller. A number that is written in a known part carries the unit that makes
it balance; where none is written, the symbols have to balance by themselves.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from typing import Any, final

from odekit.errors import ProblemError
from odekit.formulas import parse
from odekit_sindy.claims import EXAMPLES, Claims, Named
from odekit_sindy.customs import Key, key_of, products
from odekit_sindy.knowledge import Knowledge, Place
from odekit_sindy.units import parse_unit, unit_of

_IN = re.compile(r"(?P<term>.*\S)\s+in\s+(?P<equation>\w+)\s*['′’]?", re.DOTALL)
_ENTRY = re.compile(r"c\s*\[(?P<equation>[^\[\],]+),(?P<term>[^\[\]]+)\]")
_RELATION = re.compile(r"==|<=|>=|=|<|>")


def read_claims(
    claims: Claims, names: Sequence[str], inputs: Sequence[str], time: str
) -> Knowledge:
    """Read and check claims about a system with these variables.

    Raises:
        ProblemError: a name that does not exist, a formula that cannot be read, claims that
            contradict one another, or units that do not balance.
    """
    knowledge = Knowledge(claims, tuple(names), tuple(inputs), time)
    reader = _Reader(knowledge)
    reader.read_units()
    reader.read_known()
    reader.read_terms()
    reader.read_constraints()
    reader.check()
    return knowledge


@final
class _Reader:
    """From claims to knowledge, option by option."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.k = knowledge
        self.explicit_forbidden: set[Place] = set()
        self.ratios: list[tuple[Place, Place, float]] = []

    def read_units(self) -> None:
        """Units of states, inputs and time."""
        for name, text in self.k.claims.units.items():
            if name not in self.k.variables:
                raise ProblemError(
                    f"units: there is no {name!r}: {self._close(name, self.k.variables)}"
                    f"the names are {', '.join(self.k.variables)}"
                )
            try:
                self.k.units[name] = parse_unit(text)
            except ProblemError as error:
                raise ProblemError(f"units: {name}: {error}") from None

    def read_known(self) -> None:
        """Whole equations, and single terms with their value."""
        for option in ("known", "known_terms"):
            for name, text in getattr(self.k.claims, option).items():
                j = self._equation(option, name)
                if j in self.k.whole:
                    raise ProblemError(
                        f"known_terms: {name}' is known as a whole: keep it in one of known and "
                        "known_terms"
                    )
                for value, product in products(self._parse(f"{option}: {name}", text)):
                    place = (j, self._key(product))
                    self._check_balance(f"{option}: {name}", name, value, product)
                    self.k.fixed[place] = value
                if option == "known":
                    self.k.whole.add(j)

    def read_terms(self) -> None:
        """Formulas to offer, forbidden terms, forced terms."""
        for item in self.k.claims.terms:
            equations, key, _ = self._term("terms", item)
            self._check_dimension("terms", key)
            self.k.offered.setdefault(key, set()).update(equations)
        for item in self.k.claims.forbidden:
            equations, key, single = self._term("forbidden", item)
            self.k.forbidden |= {(j, key) for j in equations}
            if single:
                self.explicit_forbidden |= {(j, key) for j in equations}
        for item in self.k.claims.forced:
            equations, key, single = self._term("forced", item)
            self._check_dimension("forced", key)
            if single and equations & self.k.whole:
                raise ProblemError(
                    f"forced: {item!r}: {self.k.names[min(equations)]}' is known as a whole: "
                    "nothing is fitted in it; leave one of the two out"
                )
            self.k.forced |= {(j, key) for j in equations - self.k.whole}

    def read_constraints(self) -> None:
        """Signs, ratios and values of coefficients."""
        for text in self.k.claims.constraints:
            relation, entries, constant = self._relation(str(text))
            if relation == "==" and len(entries) == 1:
                ((place, factor),) = entries
                self._fix(f"constraints: {text!r}", place, -constant / factor)
            elif relation == "==" and len(entries) == 2 and constant == 0:
                (one, a), (other, b) = entries
                self._check_ratio(text, one, other, -a / b)
                self.ratios.append((one, other, -a / b))
            elif relation != "==" and len(entries) == 1 and constant == 0:
                ((place, factor),) = entries
                sign = int(math.copysign(1, factor)) * (1 if relation == ">" else -1)
                if self.k.signs.setdefault(place, sign) != sign:
                    raise ProblemError(
                        f"constraints: {text!r} contradicts another sign of {self.k.said(place)}"
                    )
            else:
                raise ProblemError(
                    f"constraints: {text!r} is neither a sign, a value nor a ratio: write "
                    "'c[x, x**3] < 0', 'c[x, x] == 1.5' or 'c[x, x*y] == -c[y, x*y]'"
                )

    def check(self) -> None:
        """Groups, then contradictions between what was said in different options."""
        self._group()
        k = self.k
        for place in k.forced:
            if place in k.forbidden:
                raise ProblemError(
                    f"{k.said(place)} is both forced and forbidden: leave one of the two out"
                )
        for place in [*k.fixed, *(p for group in k.groups for p, _ in group)]:
            wide = place in k.forbidden and place not in self.explicit_forbidden
            if wide and place in k.fixed:
                k.forbidden.discard(place)  # forbidden wherever it is not known
            elif place in k.forbidden and k.fixed.get(place) != 0:
                raise ProblemError(
                    f"{k.said(place)} is forbidden and yet known or constrained: leave one of the "
                    "two out"
                )
        for place in k.forced & k.fixed.keys():
            if k.fixed[place] == 0:
                raise ProblemError(f"{k.said(place)} is both forced and fixed at zero")
            k.forced.discard(place)
        for place, sign in k.signs.items():
            if k.fixed.get(place, 0.0) * sign < 0:
                raise ProblemError(
                    f"{k.said(place)} is known as {k.fixed[place]:g}, which contradicts its sign "
                    f"in constraints: {'> 0' if sign > 0 else '< 0'}"
                )
            if place[0] in k.whole and place not in k.fixed:
                raise ProblemError(
                    f"constraints: {k.names[place[0]]}' is known as a whole and has no term "
                    f"{k.expressions[place[1]]}"
                )

    def _group(self) -> None:
        """Join ratios that share a coefficient, and hand on values, signs and forcing."""
        k = self.k
        links: dict[Place, list[tuple[Place, float]]] = {}
        for lead, other, ratio in self.ratios:  # c[other] = ratio * c[lead]
            links.setdefault(lead, []).append((other, ratio))
            links.setdefault(other, []).append((lead, 1 / ratio))
        seen: dict[Place, float] = {}
        for first in links:
            if first in seen:
                continue
            group, queue = [], [(first, 1.0)]
            while queue:
                place, ratio = queue.pop(0)
                if place in seen:
                    if not math.isclose(seen[place], ratio, rel_tol=1e-9):
                        raise ProblemError(
                            f"constraints: the ratios give {k.said(place)} two values"
                        )
                    continue
                seen[place] = ratio
                group.append((place, ratio))
                queue += [(other, ratio * factor) for other, factor in links[place]]
            self._settle(group)

    def _settle(self, group: list[tuple[Place, float]]) -> None:
        k = self.k
        for place, _ in group:
            if place[0] in k.whole and place not in k.fixed:
                raise ProblemError(
                    f"constraints: {k.names[place[0]]}' is known as a whole and has no term "
                    f"{k.expressions[place[1]]}"
                )
        values = [(place, k.fixed[place] / ratio) for place, ratio in group if place in k.fixed]
        if values:
            for place, ratio in group:
                self._fix("constraints", place, values[0][1] * ratio)
            return
        lead = group[0][0]
        for place, ratio in group[1:]:
            if place in k.signs:
                sign = k.signs.pop(place) * int(math.copysign(1, ratio))
                if k.signs.setdefault(lead, sign) != sign:
                    raise ProblemError(
                        f"constraints: the sign of {k.said(place)} contradicts that of "
                        f"{k.said(lead)} by their ratio"
                    )
        if any(place in k.forced for place, _ in group):
            k.forced -= {place for place, _ in group}
            k.forced.add(lead)
        k.groups.append(group)

    def _fix(self, where: str, place: Place, value: float) -> None:
        k = self.k
        before = k.fixed.get(place)
        if before is None and place[0] in k.whole:
            raise ProblemError(
                f"{where}: {k.names[place[0]]}' is known as a whole and has no term "
                f"{k.expressions[place[1]]}"
            )
        if before is not None and not math.isclose(before, value, rel_tol=1e-9):
            raise ProblemError(
                f"{where}: {k.said(place)} is known as {before:g}, and here it is {value:g}"
            )
        k.fixed[place] = value

    def _equation(self, option: str, name: str) -> int:
        name = name.strip().rstrip("'′’")
        if name not in self.k.names:
            raise ProblemError(
                f"{option}: there is no state {name!r}: {self._close(name, self.k.names)}"
                f"the states are {', '.join(self.k.names)}"
            )
        return self.k.names.index(name)

    @staticmethod
    def _close(name: str, names: Sequence[str]) -> str:
        close = difflib.get_close_matches(name, names, n=1)
        return f"did you mean {close[0]!r}? " if close else ""

    def _parse(self, where: str, text: str) -> Any:
        try:
            return parse(text, self.k.variables)
        except ProblemError as error:
            raise ProblemError(f"{where}: {error}") from None

    def _key(self, expression: Any) -> Key:
        monomials = (*self.k.names, *self.k.inputs)
        key = key_of(expression, self.k.names, monomials)
        self.k.expressions.setdefault(key, expression)
        return key

    def _function(self, where: str, text: str) -> Key:
        expression = self._parse(where, text)
        number, product = expression.as_coeff_Mul()
        if number != 1 or expression == 0:
            raise ProblemError(
                f"{where}: {text.strip()!r} has a number in front: its coefficient is fitted, so "
                f"write {product}"
            )
        return self._key(product)

    def _term(self, option: str, item: Named) -> tuple[set[int], Key, bool]:
        """Equations, function, and whether the equation was named."""
        if not isinstance(item, str):
            name, text = item
        else:
            match = _IN.fullmatch(item.strip())
            if match is None:
                key = self._function(f"{option}: {item!r}", item)
                return set(range(len(self.k.names))), key, False
            name, text = match["equation"], match["term"]
        j = self._equation(option, name)
        return {j}, self._function(f"{option}: {text!r}", text), True

    def _relation(self, text: str) -> tuple[str, list[tuple[Place, float]], float]:
        """A relation as ``sum factor * c[place] + constant (==, <, >) 0``."""
        import sympy

        entries: list[Place] = []

        def swap(match: re.Match[str]) -> str:
            j = self._equation("constraints", match["equation"])
            place = (j, self._function(f"constraints: {text!r}", match["term"]))
            if place not in entries:
                entries.append(place)
            return f" c{entries.index(place)}_ "

        plain = _ENTRY.sub(swap, text)
        found = _RELATION.findall(plain)
        if len(found) != 1 or not entries:
            raise ProblemError(
                f"constraints: {text!r} cannot be read: {EXAMPLES['constraints']}, one relation "
                "each"
            )
        relation = {"=": "==", "<=": "<", ">=": ">"}.get(found[0], found[0])
        left, right = _RELATION.split(plain)
        names = [f"c{i}_" for i in range(len(entries))]
        difference = sympy.expand(self._side(text, left, names) - self._side(text, right, names))
        factors = [difference.coeff(sympy.Symbol(name)) for name in names]
        rest = sympy.expand(
            difference - sum(f * sympy.Symbol(n) for f, n in zip(factors, names, strict=True))
        )
        if rest.free_symbols or any(f.free_symbols or f == 0 for f in factors):
            raise ProblemError(
                f"constraints: {text!r} is not linear in its coefficients: "
                f"{EXAMPLES['constraints']}"
            )
        pairs = [(place, float(f)) for place, f in zip(entries, factors, strict=True)]
        return relation, pairs, float(rest)

    def _side(self, text: str, side: str, names: list[str]) -> Any:
        try:
            return parse(side, names)
        except ProblemError:
            raise ProblemError(
                f"constraints: {text!r} cannot be read at {side.strip()!r}: "
                f"{EXAMPLES['constraints']}"
            ) from None

    def _check_dimension(self, option: str, key: Key) -> None:
        try:
            unit_of(self.k.expressions[key], self.k.units)
        except ProblemError as error:
            raise ProblemError(f"{option}: the units do not fit: {error}") from None

    def _check_balance(self, where: str, name: str, value: float, product: Any) -> None:
        """A written number may carry the unit that is missing; where none is written, none is."""
        try:
            unit = self.k.coefficient_unit(name, product)
        except ProblemError as error:
            raise ProblemError(f"{where}: the units do not fit: {error}") from None
        if unit is not None and not unit.plain and abs(value) == 1 and product != 1:
            slope = self.k.units[name] / self.k.units[self.k.time]
            raise ProblemError(
                f"{where}: the units do not fit: {name}' is in {slope}, {product} in "
                f"{slope / unit}: write the number that converts between them"
            )

    def _check_ratio(self, text: str, one: Place, other: Place, ratio: float) -> None:
        k = self.k
        units = [k.coefficient_unit(k.names[j], k.expressions[key]) for j, key in (one, other)]
        if None not in units and units[0] != units[1] and abs(ratio) == 1:
            raise ProblemError(
                f"constraints: {text!r}: the units do not fit: {k.said(one)} has a coefficient in "
                f"{units[0]}, {k.said(other)} one in {units[1]}"
            )
