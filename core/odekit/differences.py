"""In words, how one structure differs from another: what stands in place of what."""

from __future__ import annotations

import re
from collections.abc import Iterable

Pairs = Iterable[tuple[str, str]]
"""A structure: pairs of a state and a term of its derivative."""

_NUMBER = re.compile(r"[+-] [0-9.]+(?:e[+-]?[0-9]+)?\*")


def difference(own: Pairs, other: Pairs) -> str:
    """How ``other`` differs from ``own``, one part per equation.

    Args:
        own: the structure that is known.
        other: the structure to describe.

    Returns:
        Words such as ``"hare*lynx**2 instead of hare*lynx in hare'"``, ``"x**2 more in y'"`` and
        ``"without x in y'"``, parts divided by semicolons; empty where nothing differs.

    Example:
        >>> difference([("x", "x"), ("y", "x*y")], [("x", "x**2"), ("y", "x*y"), ("y", "y")])
        "x**2 instead of x in x'; y more in y'"
    """
    mine, theirs = list(dict.fromkeys(own)), list(dict.fromkeys(other))
    equations = dict.fromkeys(equation for equation, _ in [*mine, *theirs])
    parts = []
    for equation in equations:
        gone = [t for e, t in mine if e == equation and (e, t) not in theirs]
        come = [t for e, t in theirs if e == equation and (e, t) not in mine]
        if gone and come:
            parts.append(f"{listed(come)} instead of {listed(gone)} in {equation}'")
        elif come:
            parts.append(f"{listed(come)} more in {equation}'")
        elif gone:
            parts.append(f"without {listed(gone)} in {equation}'")
    return "; ".join(parts)


def form(term: str) -> str:
    """The term with a letter for every number in its denominator, which is a matter of the fit.

    Example:
        >>> form("x/(1 + 3.404*x**2)"), form("2*x")
        ('x/(1 + c*x**2)', '2*x')
    """
    above, line, below = term.partition("/(1 ")
    return above + line + _NUMBER.sub("+ c*", below)


def listed(words: Iterable[str], last: str = "and") -> str:
    """``"a, b and c"``."""
    several = list(words)
    if len(several) < 2:
        return "".join(several)
    return f"{', '.join(several[:-1])} {last} {several[-1]}"
