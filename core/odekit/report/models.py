"""The model set: every structure the data leave open, how it differs, and what its share means.

Shares are those of structures that were tried. Where one of them fits they read as probabilities
among these; where none does they only rank attempts, and are called so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odekit.differences import difference, form

if TYPE_CHECKING:
    from odekit.equations import Equations

CREDIBLE = 0.95
"""Share that the structures of the set have together, the answer included."""

MOST_TERMS = 8
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Row:
    """One structure of the set.

    Attributes:
        share: 0 to 1, None where it is not known.
        distance: how far the criterion lies above that of the answer, None where not known.
        difference: in words, empty for the answer.
        equations: the equations.
    """

    share: float | None
    distance: float | None
    difference: str
    equations: Equations


def number_of(equations: Equations, key: str) -> float | None:
    """A figure of the diagnostics, None where it is none."""
    value = equations.diagnostics.get(key)
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable else None  # type: ignore[arg-type]


def fits(equations: Equations) -> bool:
    """Whether the answer explains the data as far as the noise allows; True where not known."""
    return equations.diagnostics.get("fits") is not False


def undecided(equations: Equations) -> bool:
    """Whether the data leave several structures open, so that the set is the result."""
    return not equations.confident and bool(equations.alternatives)


def rows(equations: Equations, most: int) -> list[Row]:
    """The answer, then the others in order: enough to hold `CREDIBLE`, two at least if there are.

    Args:
        equations: the answer with its alternatives.
        most: largest number of others.
    """
    best, own = number_of(equations, "ebic"), number_of(equations, "weight")
    made = [Row(own, None if best is None else 0.0, "", equations)]
    pairs = _pairs(equations)
    total = own or 0.0
    for i, each in enumerate(equations.alternatives[:most]):
        if i >= 2 and own is not None and total >= CREDIBLE:
            break
        total += each.weight
        distance = None if best is None else each.score - best
        words = difference(pairs, _pairs(each.equations))
        made.append(Row(each.weight, distance, words, each.equations))
    return made


def _pairs(equations: Equations) -> list[tuple[str, str]]:
    return [(term.equation, form(term.term)) for term in equations.terms]


def further_terms(equations: Equations) -> list[tuple[str, str, float]]:
    """State, term and share of the structures with it, for terms that the answer lacks."""
    listed = equations.diagnostics.get("inclusion")
    if not isinstance(listed, list):
        return []
    own = set(_pairs(equations))
    found = [
        (str(item["equation"]), str(item["term"]), float(item["inclusion"]))
        for item in listed
        if isinstance(item, dict) and item.keys() >= {"equation", "term", "inclusion"}
    ]
    others = [row for row in found if (row[0], form(row[1])) not in own and row[2] >= LEAST_SHARE]
    return sorted(others, key=lambda row: -row[2])[:MOST_TERMS]


def share_name(equations: Equations) -> str:
    """What to call the shares: ``"weight"``, or that they rank structures none of which fits."""
    return "weight" if fits(equations) else "share among the models tried, none of which fits"


def note(equations: Equations, shown: int) -> str:
    """What shares and distances mean, in sentences."""
    if fits(equations):
        text = (
            "Weight among all structures within reach, and how far the criterion, of which less "
            "is better, lies above that of the equations chosen."
        )
    else:
        text = (
            "Share among the models tried, none of which fits: it ranks attempts and is no "
            "probability of being right."
        )
    more = len(equations.alternatives) - shown
    return f"{text} {more} more in equations.json." if more > 0 else text


def percent(share: float | None) -> str:
    """``"93.0 %"``; ``"n/a"`` where it is not known."""
    return "n/a" if share is None else f"{100 * share:.1f} %"


def as_dicts(equations: Equations) -> list[dict[str, Any]]:
    """The alternatives with what differs, for programs; the answer is not among them."""
    pairs = _pairs(equations)
    return [
        {
            "weight": each.weight,
            "score": each.score,
            "difference": difference(pairs, _pairs(each.equations)),
        }
        for each in equations.alternatives
    ]
