"""Which terms the data cannot tell apart, in words, and which further data would.

Three sources: structures that were fitted and came within reach of the answer; directions of the
coefficients that the data leave open, from the covariance; and data that are too few or too slow.
The advice is computed, not general: among the states inside the visited region it names the one
where the answer and its rival disagree most about the slopes.

Shapes: ``d`` states, ``k`` terms, ``p`` candidate starts.
Units: models and starts in scaled units, sentences in the caller's.
Source: distances of 2 and 6 in twice the log odds as "hardly worth a mention" and "strong" are from
    R. E. Kass, A. E. Raftery, "Bayes factors", Journal of the American Statistical Association
    90(430), 1995, doi:10.1080/01621459.1995.10476572. Starting where rivals disagree most:
    W. G. Hunter, A. M. Reiner, "Designs for discriminating between two rival models",
    Technometrics 7(3), 1965, doi:10.1080/00401706.1965.10490265.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from odekit.differences import difference, listed
from odekit_sindy.data import Dataset

RIVAL = 2.0
"""Distance in EBIC below which a larger structure counts as one that is as good."""

STRONG = 6.0
"""Distance below which a structure that lacks a term of the answer counts as one."""

MOST_SENTENCES = 3
PLACES = 512
NEAR = 0.1
LOOSE = 0.25
TIED = 0.9
PER_TURN = 3.0

Pair = tuple[str, str]


@dataclass(frozen=True)
class Rival:
    """Another structure.

    Attributes:
        pairs: state and term, in order.
        distance: its EBIC less that of the answer.
        start: where it disagrees most with the answer, by state, in the caller's units; None
            where that is not known.
    """

    pairs: tuple[Pair, ...]
    distance: float
    start: dict[str, float] | None = None


@dataclass(frozen=True)
class Setting:
    """What the advice depends on.

    Attributes:
        trajectories: how many there are.
        names: the states.
        turning: rows between two turns of each state, ``(d,)``, infinite where it does not turn.
        monotone: whether there is one state, and it only rises or only falls.
        range: smallest and largest value by state.
    """

    trajectories: int
    names: tuple[str, ...]
    turning: np.ndarray
    monotone: bool
    range: dict[str, tuple[float, float]]


def undecided(own: Sequence[Pair], rivals: Sequence[Rival]) -> list[Rival]:
    """The rivals that the data do not rule out, nearest first.

    A structure with all terms of the answer and more is charged for each of them, and is as good
    only if it pays for them; one that does without a term is a different claim, so it has to be
    far.
    """
    mine = set(own)
    return [
        rival
        for rival in sorted(rivals, key=lambda r: r.distance)
        if rival.distance < (RIVAL if mine <= set(rival.pairs) else STRONG)
    ]


def sentences(own: Sequence[Pair], rivals: Sequence[Rival], setting: Setting) -> list[str]:
    """One sentence per group of terms that cannot be told apart, and what would help.

    Each group has the advice of its nearest rival, if no earlier one has it word for word.

    Args:
        own: the answer's structure.
        rivals: as `undecided` gives them.
        setting: for the advice.
    """
    out: list[str] = []
    given: set[str] = set()
    groups = _grouped(own, _minimal(own, rivals))
    for swap, members in groups[:MOST_SENTENCES]:
        text, advice = _confusion(own, swap, members, setting), _advice(members[0], setting)
        before = "" if given else _before(setting)
        out.append(f"{text}." if advice in given else f"{text}; {before}{advice}.")
        given.add(advice)
    if len(groups) > MOST_SENTENCES:
        out[-1] += " More structures are near: see alternatives."
    return out


def advised(own: Sequence[Pair], rivals: Sequence[Rival]) -> list[Rival]:
    """The rivals whose starts `sentences` names: the nearest of each group that it tells of."""
    groups = _grouped(own, _minimal(own, rivals))
    return [members[0] for _, members in groups[:MOST_SENTENCES]]


def _minimal(own: Sequence[Pair], rivals: Sequence[Rival]) -> list[Rival]:
    """Rivals without those that change all that a nearer one changes, and more."""
    out: list[tuple[frozenset[Pair], Rival]] = []
    for rival in rivals:
        change = frozenset(own) ^ frozenset(rival.pairs)
        if not any(known <= change for known, _ in out):
            out.append((change, rival))
    return [rival for _, rival in out]


Swap = tuple[str, tuple[str, ...]]


def _grouped(own: Sequence[Pair], rivals: Sequence[Rival]) -> list[tuple[Swap | None, list[Rival]]]:
    """Rivals that replace the same terms of one equation together, by their nearest."""
    groups: dict[object, tuple[Swap | None, list[Rival]]] = {}
    for rival in rivals:
        swap = _single_swap(own, rival.pairs)
        key: object = swap if swap is not None else rival.pairs
        groups.setdefault(key, (swap, []))[1].append(rival)
    return list(groups.values())


def _single_swap(own: Sequence[Pair], other: Sequence[Pair]) -> Swap | None:
    """The equation and the terms replaced, if one equation differs and something is replaced."""
    gone = [pair for pair in own if pair not in other]
    come = [pair for pair in other if pair not in own]
    equations = {equation for equation, _ in [*gone, *come]}
    if len(equations) != 1 or not gone or not come:
        return None
    return equations.pop(), tuple(term for _, term in gone)


def _confusion(
    own: Sequence[Pair], swap: Swap | None, members: Sequence[Rival], setting: Setting
) -> str:
    where = "on this trajectory" if setting.trajectories == 1 else "on these trajectories"
    least = members[0].distance
    if swap is None:
        words = difference(own, members[0].pairs)
        good = "as good" if least < RIVAL else "not ruled out"
        return f"Another structure is {good} {where} ({words}; EBIC changes by {least:.1f})"
    equation, gone = swap
    into = [
        listed(term for e, term in rival.pairs if (e, term) not in own) for rival in members[:3]
    ]
    many = len(into) > 1
    group = " + ".join(gone)
    apart = "cannot" if least < RIVAL else "can hardly"
    others = listed(into, "or") if many else into[0].replace(" and ", " + ")
    return (
        f"{group} and {others} in {equation}' {apart} be told apart {where} "
        f"(swapping them changes EBIC by {'as little as ' if many else ''}{least:.1f})"
    )


def _before(setting: Setting) -> str:
    """What the first advice begins with."""
    if not (setting.monotone and setting.trajectories == 1):
        return ""
    name = setting.names[0]
    low, high = setting.range[name]
    return f"{name} was seen only on its way between {_short(low)} and {_short(high)}: "


def _advice(rival: Rival, setting: Setting) -> str:
    if setting.monotone and setting.trajectories == 1:
        return f"a start outside of that range{_near(rival)} would separate them"
    if setting.trajectories == 1:
        return f"a second start{_near(rival)} would separate them"
    return f"a start where none of the trajectories has been{_near(rival)} would separate them"


def _near(rival: Rival) -> str:
    if rival.start is None:
        return ""
    place = ", ".join(f"{name} = {_short(value)}" for name, value in rival.start.items())
    return f", for example near {place},"


def _short(value: float) -> str:
    return f"{value:.2g}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:.3g}"


def disagreement(
    slopes: Sequence[np.ndarray], points: np.ndarray, visited: np.ndarray, size: np.ndarray
) -> int | None:
    """Index of the point where two models disagree most, away from what was visited.

    Args:
        slopes: of both models at the points, two of ``(d, p)``.
        points: ``(p, d)``.
        visited: states along the trajectories, ``(n, d)``.
        size: root mean square slope of each state, ``(d,)``.

    Returns:
        None where they agree everywhere.
    """
    width = np.ptp(visited, axis=0)
    width = np.where(width > 0, width, 1.0)
    gap = np.abs(slopes[0] - slopes[1]) / np.where(size > 0, size, 1.0)[:, None]
    gap = np.where(np.isfinite(gap), gap, 0.0).max(0)
    far = np.array(
        [np.sqrt((((visited - point) / width) ** 2).sum(1).min()) > NEAR for point in points]
    )
    gap = np.where(far, gap, 0.0)
    best = int(np.argmax(gap))
    return best if gap[best] > 1e-3 else None


def candidate_starts(visited: np.ndarray) -> np.ndarray:
    """States to start from, ``(p, d)``: inside the visited box; outside of it for one state.

    Where every value seen has one sign, so have the candidates.
    """
    low, high = visited.min(0), visited.max(0)
    d = visited.shape[1]
    if d == 1:
        half = 0.5 * (high - low)
        low_end = np.where(low > 0, np.maximum(low - half, 0.1 * low), low - half)
        high_end = np.where(high < 0, np.minimum(high + half, 0.1 * high), high + half)
        return np.linspace(low_end, high_end, 101)
    unit = qmc.Sobol(d, scramble=False).random(PLACES)
    return np.asarray(low + unit * (high - low))


def loose_directions(
    values: np.ndarray, covariance: np.ndarray, labels: Sequence[Pair | str]
) -> list[str]:
    """Sentences on coefficients that are known only together.

    Two coefficients that are each uncertain by more than a quarter, and whose errors are nearly
    opposite or nearly equal, leave one direction open; across it they are known well.

    Args:
        values: coefficients, ``(k,)``.
        covariance: ``(k, k)``.
        labels: state and term of each, or its name.
    """
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    size = np.maximum(np.abs(values), 1e-300)
    uncertain = spread > LOOSE * size
    out = []
    for i, j in itertools.combinations(range(len(values)), 2):
        if not (uncertain[i] and uncertain[j]) or spread[i] * spread[j] == 0:
            continue
        correlation = covariance[i, j] / (spread[i] * spread[j])
        if abs(correlation) < TIED:
            continue
        # The combination c_i + r c_j whose error is least: the regression of one on the other.
        r = -covariance[i, j] / covariance[j, j]
        value = values[i] + r * values[j]
        error = spread[i] * np.sqrt(max(1 - correlation**2, 0.0))
        one, two = (
            label if isinstance(label, str) else f"c[{label[0]}', {label[1]}]"
            for label in (labels[i], labels[j])
        )
        sign = "+" if r >= 0 else "-"
        out.append(
            f"Only the combination {one} {sign} {abs(r):.3g} {two} = {value:.3g} ± {error:.1g} is "
            "determined, not the two coefficients by themselves."
        )
    return out


def turning(dataset: Dataset) -> np.ndarray:
    """Mean number of rows between two crossings of the mean, ``(d,)``; half an oscillation."""
    out = np.full(dataset.dim, np.inf)
    for j in range(dataset.dim):
        crossings, rows = 0, 0
        for part in dataset.trajectories:
            y = part.y[np.isfinite(part.y[:, j]), j]
            above = y > y.sum() / max(len(y), 1)
            crossings += int((above[1:] != above[:-1]).sum())
            rows += len(y)
        if crossings:
            out[j] = rows / crossings
    return out


def too_slow(setting: Setting) -> list[str]:
    """A sentence for the states that were sampled too slowly to see how they move."""
    slow = [i for i, rows in enumerate(setting.turning) if rows < PER_TURN]
    if not slow:
        return []
    worst = 2 * float(min(setting.turning[slow]))
    names = listed(setting.names[i] for i in slow)
    return [
        f"{names}: about {worst:.2g} samples per oscillation; with fewer than "
        f"{2 * PER_TURN:.0f} the motion between them is a guess, if it is motion: sample faster."
    ]


def is_monotone(dataset: Dataset, states: Sequence[np.ndarray]) -> bool:
    """Whether there is one state, and along every trajectory it only rises or only falls."""
    if dataset.dim != 1:
        return False
    steps = [np.diff(x[:, 0]) for x in states]
    width = float(np.ptp(np.concatenate([x[:, 0] for x in states])))
    slack = 0.01 * width
    return all(bool(np.all(s > -slack)) or bool(np.all(s < slack)) for s in steps if len(s))
