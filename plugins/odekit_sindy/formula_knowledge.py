"""What is known of a model's parameters: where to begin, what to hold, and bounds.

Units: those of the formulas.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from odekit import ProblemError
from odekit_sindy.formula_model import FormulaModel


def with_knowledge(
    model: FormulaModel,
    chosen: Mapping[Any, str],
    start: Mapping[Any, float] | None,
    fix: Any,
    positive: Iterable[Any],
    bounds: Mapping[Any, tuple[Any, Any]] | None,
    own: Mapping[str, float] | None = None,
) -> FormulaModel:
    """The model with start values, held parameters and bounds, all names checked.

    Its ``own`` values are where it begins, and what is held, unless the caller says otherwise.
    """
    own = own or {}
    start = mapping_of("start", start, "{'k': 1.0}")
    bounds = mapping_of("bounds", bounds, "{'k': (0, None)}")

    def named(argument: str, key: Any) -> str:
        if key in chosen:
            return chosen[key]
        if not isinstance(key, tuple) and str(key) in chosen:
            return chosen[str(key)]  # a symbol of sympy's
        shown = {_shown(k): k for k in chosen}
        close = difflib.get_close_matches(_shown(key), shown, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ProblemError(
            f"{argument}: there is no {_shown(key)!r}: {hint}there are {', '.join(shown)}"
        )

    begin = {named("start", k): _number("start", k, v) for k, v in start.items()}
    fixed, listed = held_values(fix)
    held = {}
    for key in fixed:
        name = named("fix", key)
        if name not in model.parameters:
            raise ProblemError(
                f"fix: {name} is a state that was not observed: hold parameters only, and give a "
                "value to begin at with start="
            )
        if listed and name not in {**own, **begin}:
            raise ProblemError(
                f"fix: {name} is to be held, but at what? write fix={{{name!r}: 1.0}}"
            )
        held[name] = {**own, **begin}[name] if listed else _number("fix", key, fixed[key])
    limits = {named("positive", key): (0.0, math.inf) for key in names_in(positive, "positive")}
    for key, pair in bounds.items():
        limits[named("bounds", key)] = _pair(key, pair)
    for name, (low, high) in limits.items():
        for argument, values in (("start", begin), ("fix", held)):
            if name in values and not low <= values[name] <= high:
                raise ProblemError(
                    f"{argument}: {model.labels.get(name, name)} is {values[name]:g}, outside of "
                    f"its bounds {low:g} to {high:g}"
                )
    for name, value in own.items():
        low, high = limits.get(name, (-math.inf, math.inf))
        begin.setdefault(name, min(max(value, low), high))
    begin = {name: value for name, value in begin.items() if name not in held}
    return replace(model, start=begin, held=held, bounds=limits)


def held_values(fix: Any) -> tuple[Any, bool]:
    """What is to be held, and whether only names were given."""
    if fix is None:
        return {}, False
    if isinstance(fix, Mapping):
        return fix, False
    return names_in(fix), True


def names_in(names: Any, argument: str = "fix") -> list[Any]:
    """Names as a list; one may stand alone."""
    if isinstance(names, str) or hasattr(names, "free_symbols"):
        return [names]
    if not isinstance(names, Iterable):
        raise ProblemError(f"{argument} must be names, such as ['k'], got {names!r}")
    return list(names)


def mapping_of(argument: str, values: Any, example: str) -> Mapping[Any, Any]:
    """A mapping, as it was given."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ProblemError(f"{argument} must be a mapping, such as {example}, got {values!r}")
    return values


def _shown(key: Any) -> str:
    return f"{key[1]} in {key[0]}'" if isinstance(key, tuple) else str(key)


def _number(argument: str, key: Any, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ProblemError(f"{argument}: {_shown(key)} must be a finite number, got {value!r}")
    return number


def _pair(key: Any, pair: Any) -> tuple[float, float]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ProblemError(
            f"bounds: {_shown(key)} needs a lowest and a highest value, such as (0, None), got "
            f"{pair!r}"
        )
    low = -math.inf if pair[0] is None else _limit(key, pair[0])
    high = math.inf if pair[1] is None else _limit(key, pair[1])
    if not low < high:
        raise ProblemError(f"bounds: {_shown(key)} has no room between {low:g} and {high:g}")
    return low, high


def _limit(key: Any, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ProblemError(
            f"bounds: {_shown(key)} needs numbers, or None where there is no bound, got {value!r}"
        ) from None
