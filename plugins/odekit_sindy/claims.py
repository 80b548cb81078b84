"""What the user says about a system, as it was typed: types checked, nothing read yet.

`odekit_sindy.claims_reader` reads the formulas and checks the claims against one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

from odekit.errors import ProblemError

Named: TypeAlias = str | tuple[str, str]
"""A term, ``"x*y"`` or ``"x*y in v"``, or the pair ``("v", "x*y")``."""


@final
@dataclass(frozen=True)
class Claims:
    """What the user says, as it was typed.

    Attributes:
        known: whole equations, from state to right-hand side.
        known_terms: parts that are certainly there with these values, from state to their sum.
        forbidden: terms that must not occur, in one equation or in all.
        forced: terms that must occur.
        constraints: signs, ratios and values of coefficients, such as ``"c[x, x**3] < 0"``.
        terms: formulas to offer beside the library's functions.
        units: from the name of a state, an input or time to its unit.
    """

    known: Mapping[str, Any] = field(default_factory=dict)
    known_terms: Mapping[str, Any] = field(default_factory=dict)
    forbidden: Sequence[Named] = ()
    forced: Sequence[Named] = ()
    constraints: Sequence[str] = ()
    terms: Sequence[Named] = ()
    units: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, **options: Any) -> Claims:
        """Check the types; None says nothing, and one text is a list of one.

        Raises:
            ProblemError: another type, and what to write instead.
        """
        mappings = ("known", "known_terms", "units")
        read: dict[str, Any] = {
            name: _mapping(name, value) if name in mappings else _sequence(name, value)
            for name, value in options.items()
        }
        return cls(**read)

    @property
    def empty(self) -> bool:
        """Whether nothing is claimed."""
        return not any(vars(self).values())

    def record(self) -> dict[str, Any]:
        """What was claimed, for the diagnostics: lists, dicts and texts."""
        out: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Mapping):
                out[name] = {key: str(item) for key, item in value.items()}
            else:
                out[name] = [v if isinstance(v, str) else f"{v[1]} in {v[0]}" for v in value]
        return {name: value for name, value in out.items() if value}


def _mapping(option: str, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    example = "units={'x': 'm'}" if option == "units" else f"{option}={{'x': 'v'}}"
    if not isinstance(value, Mapping):
        raise ProblemError(f"{option} must be a dict such as {example}, got {value!r}")
    out: dict[str, str] = {}
    for name, text in value.items():
        if isinstance(text, int | float) and not isinstance(text, bool):
            text = repr(text)
        if not isinstance(name, str) or not isinstance(text, str):
            raise ProblemError(
                f"{option} must map names to text, as in {example}, got {name!r}: {text!r}"
            )
        out[name] = text
    return out


def _sequence(option: str, value: Any) -> tuple[Named, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence):
        raise ProblemError(f"{option} must be a list of texts, got {value!r}")
    for item in items:
        couple = isinstance(item, tuple | list) and len(item) == 2
        fine = isinstance(item, str) or (couple and all(isinstance(part, str) for part in item))
        if not fine or (option == "constraints" and not isinstance(item, str)):
            raise ProblemError(f"{option}: {item!r} cannot be read: {EXAMPLES[option]}")
    return tuple(item if isinstance(item, str) else (item[0], item[1]) for item in items)


EXAMPLES = {
    "forbidden": "write ['x**3 in v'], ['x*y'] for all equations, or [('v', 'x**3')]",
    "forced": "write ['x in v'], ['x'] for all equations, or [('v', 'x')]",
    "constraints": "write ['c[x, x**3] < 0'] or ['c[x, x*y] == -c[y, x*y]']",
    "terms": "write ['sin(2*t)'], ['x/(1 + x) in v'] or [('v', 'x/(1 + x)')]",
}
