"""Libraries that know what the user knows: formulas added, and rules on every coefficient.

Each library of the ladder gets the functions that known parts, forced terms and offered formulas
need and that it lacks; a function that is there for a known part alone is not searched over.
Without claims the ladder is left as it is.

Shapes: ``d`` states, ``L`` functions of a library.
Units: those of the caller; `odekit_sindy.library.Library.at` leads to scaled ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from odekit.errors import ProblemError
from odekit_sindy.customs import EXPONENTIALS, Customs, Key, compiled
from odekit_sindy.data import Dataset, first_scales
from odekit_sindy.knowledge import Knowledge, Place
from odekit_sindy.library import Library
from odekit_sindy.rational import Rational
from odekit_sindy.rules import Rules
from odekit_sindy.wave_products import WAVES, WaveProduct

UNDEFINED = 0.1
"""Share of the data at which an offered formula may be without a value."""


def informed(
    libraries: Sequence[Library], knowledge: Knowledge, points: np.ndarray, units: np.ndarray
) -> tuple[list[Library], list[str]]:
    """The ladder with formulas and rules, and notes on claims that say nothing here.

    Args:
        libraries: the ladder.
        knowledge: checked claims.
        points: states, inputs and, if a formula has it, time, in the caller's units, ``(v, M)``.
        units: what the search divides these by, ``(v,)``.

    Raises:
        ProblemError: a formula without a value on the data, or a library of which the units
            leave nothing.
    """
    _check_values(knowledge, points)
    out = [_informed(library, knowledge, points, units) for library in libraries]
    kept = [library for library in out if _has_more(library)]
    if not kept:
        raise ProblemError(
            "units: every state has a unit, so none can stand in a sine or an exponential: offer "
            "terms such as terms=['sin(x/scale)'] instead"
        )
    return kept, _vacuous(knowledge, kept)


def observed(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Points ``(v, rows)`` and units ``(v,)`` of data for `informed`.

    A missing cell gets the mean of its state.
    """
    scales = first_scales(dataset)
    u = np.concatenate([part.u for part in dataset.trajectories])
    y = np.where(np.isfinite(dataset.stacked), dataset.stacked, np.nanmean(dataset.stacked, 0))
    return np.concatenate([y, u], axis=1).T, np.concatenate([scales.state, scales.input])


def _variables(knowledge: Knowledge, points: np.ndarray) -> tuple[str, ...]:
    return knowledge.variables[: len(points)]


def _check_values(knowledge: Knowledge, points: np.ndarray) -> None:
    keys = _used(knowledge)
    names = _variables(knowledge, points)
    values = compiled([knowledge.expressions[key] for key in keys], names, cut=False)(points)
    for key, row in zip(keys, values, strict=True):
        share = float(np.mean(~np.isfinite(row)))
        if share > UNDEFINED:
            raise ProblemError(
                f"{knowledge.expressions[key]} has no finite value at {100 * share:.0f} % of the "
                "data: offer a formula that is defined there, or leave those rows out"
            )


def _used(knowledge: Knowledge) -> list[Key]:
    """Functions that every library needs, in the order in which they were mentioned."""
    needed = {
        *(key for (_, key), value in knowledge.fixed.items() if value),
        *(key for _, key in knowledge.forced),
        *knowledge.offered,
    }
    return [key for key in knowledge.expressions if key in needed]


def _informed(
    library: Library, knowledge: Knowledge, points: np.ndarray, units: np.ndarray
) -> Library:
    if isinstance(library, Rational):
        return Rational.of(_informed(library.plain, knowledge, points, units))
    missing = [key for key in _used(knowledge) if key not in library.place]
    whole = library
    if missing:
        customs = Customs(
            [knowledge.expressions[key] for key in missing],
            _variables(knowledge, points),
            units,
            library.dim,
            library.inputs,
            points,
        )
        whole = replace(library, customs=customs)
    return replace(whole, rules=_rules(whole, knowledge, library.size))


def _rules(library: Library, knowledge: Knowledge, own: int) -> Rules:
    """The rules; ``own`` functions are the library's, the others were added."""
    shape = (library.dim, library.size)
    allowed = np.ones(shape, dtype=bool)
    forced, offset, sign = np.zeros(shape, bool), np.zeros(shape), np.zeros(shape, int)
    allowed[:, own:] = False
    for key in _with_units(library, knowledge):
        allowed[:, library.place[key]] = False
    for key, equations in knowledge.offered.items():
        allowed[sorted(equations), library.place[key]] = True

    def at(place: Place) -> tuple[int, int] | None:
        return (place[0], library.place[place[1]]) if place[1] in library.place else None

    for place in knowledge.forced:
        where = at(place)
        if where is not None:
            allowed[where] = forced[where] = True
    for place, side in knowledge.signs.items():
        where = at(place)
        if where is not None:
            sign[where] = side
    allowed[sorted(knowledge.whole)] = False
    for place in knowledge.forbidden:
        where = at(place)
        if where is not None:
            allowed[where] = False
    for place, value in knowledge.fixed.items():
        where = at(place)
        if where is not None:
            allowed[where] = False
            offset[where] = value
    followers = _followers(library, knowledge, allowed)
    return Rules(allowed, forced, offset, sign, followers)


def _followers(
    library: Library, knowledge: Knowledge, allowed: np.ndarray
) -> dict[int, tuple[tuple[int, float], ...]]:
    """Groups of which the library has all members; members of others are taken out."""
    out = {}
    for group in knowledge.groups:
        there = [
            j * library.size + library.place[key] if key in library.place else None
            for (j, key), _ in group
        ]
        flat = [q for q in there if q is not None]
        free = allowed.reshape(-1)
        # A member that is offered in one equation is offered in those of its group.
        complete = len(flat) == len(group) and bool(free[flat].any())
        free[flat] = False
        if complete:
            free[flat[0]] = True
            ratios = [ratio for _, ratio in group[1:]]
            out[flat[0]] = tuple(zip(flat[1:], ratios, strict=True))
    return out


def _with_units(library: Library, knowledge: Knowledge) -> list[Key]:
    """Waves and exponentials of states that carry a unit."""
    return [
        key
        for key in library.keys
        if not all(_plain(knowledge, knowledge.names[j]) for j in _arguments(key))
    ]


def _arguments(key: Key) -> list[int]:
    """States in the arguments of a function's waves and exponentials."""
    if isinstance(key, WaveProduct):
        return [*_arguments(key.first), *_arguments(key.second)]
    if key[0] in (*WAVES, *EXPONENTIALS) and isinstance(key[1], int):
        return [key[1]]
    return []


def _plain(knowledge: Knowledge, name: str) -> bool:
    return name not in knowledge.units or knowledge.units[name].plain


def _has_more(library: Library) -> bool:
    """Whether anything is left of what distinguishes the library from those below it."""
    if not (library.trig or library.exponentials) or library.rules is None:
        return True
    functions = [
        i
        for i, key in enumerate(library.keys)
        if (isinstance(key, WaveProduct) if library.products else _arguments(key))
    ]
    # Equations that are known leave nothing to search in any library.
    return bool(library.rules.allowed[:, functions].any() or not library.rules.allowed.any())


def _vacuous(knowledge: Knowledge, libraries: Sequence[Library]) -> list[str]:
    """Claims on functions that no library has."""
    mentioned: dict[Place, Any] = dict.fromkeys(knowledge.forbidden)
    mentioned |= dict.fromkeys(knowledge.signs)
    mentioned |= {place: None for group in knowledge.groups for place, _ in group}
    lacking = [
        str(knowledge.expressions[key])
        for key in dict.fromkeys(key for _, key in mentioned)
        if not any(key in library.place for library in libraries)
    ]
    return [
        f"{text} is in none of the libraries that were tried, so what was said about it had no "
        "effect"
        for text in sorted(lacking)
    ]
