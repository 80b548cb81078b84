"""From the outcome of the search to `Equations` in the caller's units.

Coefficients and covariance are unscaled exactly, one factor per term. The alternatives are all
visited structures within EBIC 10, weighted by ``exp(-delta / 2)``; a term's inclusion is the
weight of the structures that have it. Where the verdict says that none of them fits, these weights
rank what was tried and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from odekit import Alternative, Equations, Term
from odekit.differences import listed
from odekit_sindy import residuals, verdict
from odekit_sindy.data import Dataset, Scales, scaled
from odekit_sindy.diagnostics import Account, diagnostics, visited_range
from odekit_sindy.found import Found
from odekit_sindy.holdout import HeldOut, kept_out, left_out_in_turn
from odekit_sindy.identifiability import (
    Rival,
    Setting,
    advised,
    candidate_starts,
    disagreement,
    is_monotone,
    loose_directions,
    sentences,
    too_slow,
    turning,
    undecided,
)
from odekit_sindy.library import Library
from odekit_sindy.lookalikes import settle
from odekit_sindy.models import Models, Support
from odekit_sindy.rational_report import denominators, with_numbers
from odekit_sindy.refit import Final, contributing, degrees_of_freedom, simulate
from odekit_sindy.specification import Findings

WITHIN = 10.0
MOST_ALTERNATIVES = 20
MOST_PLACED = 4
"""Nearest rivals for which a start that would tell them apart is looked for, advised or not."""

Structure = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Visited:
    """One structure: its terms in the caller's units, EBIC, and the model in scaled units.

    ``terms`` have letters for the numbers in denominators, ``written`` has the numbers.
    """

    terms: tuple[Term, ...]
    written: tuple[Term, ...]
    ebic: float
    library: Library
    support: Support
    c: np.ndarray

    @property
    def structure(self) -> Structure:
        """Which terms, whatever their coefficients."""
        return frozenset(self.pairs)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """State and term, in order."""
        return tuple((term.equation, term.term) for term in self.terms)


@dataclass(frozen=True)
class Kept:
    """Trajectories that took no part in the search.

    Attributes:
        dataset: in the caller's units.
        indices: their places among all trajectories.
    """

    dataset: Dataset
    indices: tuple[int, ...]


def summarise(
    found: Found,
    original: Dataset,
    *,
    known_noise: bool = True,
    cut: bool,
    kept: Kept | None = None,
    predict: bool = True,
    places: Sequence[int] = (),
) -> Equations:
    """The final fit, its uncertainty, the alternatives and the verdict.

    Args:
        found: outcome of the search.
        original: the data in the caller's units, for names and notes.
        known_noise: whether the smoother's noise level may be held against the model.
        cut: whether time ran out.
        kept: trajectories to predict, if some were kept out of the search.
        predict: whether, of several trajectories, each is left out of the fit in turn and
            predicted; it has no effect with ``kept``.
        places: the caller's number of each trajectory, those kept out among them.
    """
    settled = settle(found, original, look=known_noise)
    found, final = settled.found, settled.final
    rung = found.rungs[found.chosen]
    flat, matrix, given = rung.library.written(final.support)
    factor = _factors(flat, rung.library, found.scales)
    covariance = matrix @ final.covariance @ matrix.T * np.outer(factor, factor)
    spread = np.sqrt(np.diag(covariance))
    own_rows = [i for i, q in enumerate(flat) if q in set(final.support)]
    shown = np.flatnonzero(~rung.library.is_below(flat))
    visited = visited_structures(found, original)
    plain = _terms(final.support, final.c, rung.library, found.scales, original)
    own = frozenset((plain[i].equation, plain[i].term) for i in shown)
    weights = _weights(visited, own, rung.best.ebic)
    shares = inclusions(weights)
    terms = [
        term
        if known
        else term._replace(stderr=float(error), inclusion=shares.get((term.equation, term.term)))
        for term, error, known in zip(plain, spread, given != 0, strict=True)
    ]
    fitted = [terms[i] for i in own_rows]
    written = with_numbers(rung.library, flat, terms, original.names, original.inputs)
    texts = _texts(visited, weights) | dict(
        zip(_pairs([terms[i] for i in shown]), _pairs(written), strict=True)
    )
    shares = {texts.get(pair, pair): share for pair, share in shares.items()}
    rivals = [v for v in visited.values() if v.structure != own and v.structure in weights]
    rivals.sort(key=lambda v: v.ebic)
    held = _predicted(found, final, kept, predict=predict)
    setting = _setting(found, final, original)
    labelled = [terms[i] for i in shown]
    near = _undecided(found, final, labelled, rivals, original)
    findings = _unverified(settled.findings, own, visited)
    cut = cut or rung.search.budget.cut
    seen = _evidence(found, final, original, fitted, known_noise=known_noise, cut=cut)
    seen = replace(
        seen,
        confusions=[*_unsearched(settled.beyond), *sentences(_pairs(labelled), near, setting)],
        loose=loose_directions(
            np.array([term.value for term in fitted]),
            covariance[np.ix_(own_rows, own_rows)],
            _pairs(fitted),
        ),
        slow=too_slow(setting),
        findings=findings,
        weight=weights[own],
        places=places,
        learned=_learned(found, held),
        predicted={} if held is None else held.by_index,
        predicted_excess={} if held is None else held.excess(_level(found, final)),
    )
    judged = verdict.judge(seen)
    free = degrees_of_freedom(original.counts, seen.numbers)
    below = denominators(rung.library, flat, terms, original.names, original.inputs, free)
    account = Account(found, final, seen, judged, near, shares, setting.range, held, original)
    return Equations(
        original.names,
        written,
        inputs=original.drives,
        time=original.time,
        covariance=covariance[np.ix_(shown, shown)],
        degrees_of_freedom=free,
        score=_scores(seen.score, held),
        warnings=[*judged.doubts, *(f"Note: {note}." for note in original.notes)],
        confident=not judged.doubts,
        alternatives=[
            Alternative(
                Equations(original.names, v.written, inputs=original.drives, time=original.time),
                weights[v.structure],
                v.ebic,
            )
            for v in rivals[:MOST_ALTERNATIVES]
        ],
        diagnostics=diagnostics(account) | ({"denominators": below} if below else {}),
    )


def visited_structures(found: Found, original: Dataset) -> dict[Structure, Visited]:
    """All structures that were verified, without negligible terms, each with its lowest EBIC."""
    out: dict[Structure, Visited] = {}
    samples = found.smoothed.samples
    points = np.concatenate([samples.x, samples.u], axis=1).T
    for rung in found.rungs:
        for fitted in rung.search.visited.values():
            if not np.isfinite(fitted.ebic):
                continue
            kept = contributing(rung.library, fitted.support, fitted.c, points)
            support = tuple(fitted.support[i] for i in kept)
            c = fitted.c[kept]
            terms = _terms(support, c, rung.library, found.scales, original)
            flat, _, _ = rung.library.written(support)
            labelled = itertools.compress(terms, ~rung.library.is_below(flat))
            written = with_numbers(rung.library, flat, terms, original.names, original.inputs)
            item = Visited(tuple(labelled), tuple(written), fitted.ebic, rung.library, support, c)
            if item.structure not in out or item.ebic < out[item.structure].ebic:
                out[item.structure] = item
    return out


def _weights(
    visited: dict[Structure, Visited], own: Structure, ebic: float
) -> dict[Structure, float]:
    """Weights ``exp(-delta / 2)`` of the structures within reach, the answer among them."""
    near = {s: v.ebic for s, v in visited.items() if v.ebic < ebic + WITHIN}
    near[own] = ebic
    best = min(near.values())
    raw = {s: float(np.exp(-0.5 * (value - best))) for s, value in near.items()}
    total = sum(raw.values())
    return {s: value / total for s, value in raw.items()}


def _texts(
    visited: dict[Structure, Visited], weights: dict[Structure, float]
) -> dict[tuple[str, str], tuple[str, str]]:
    """Every term within reach as it is written in the best structure that has it."""
    near = sorted((visited[s] for s in weights if s in visited), key=lambda v: -v.ebic)
    return {
        pair: (term.equation, term.term)
        for v in near
        for pair, term in zip(v.pairs, v.written, strict=True)
    }


def inclusions(weights: dict[Structure, float]) -> dict[tuple[str, str], float]:
    """Weight of the structures with each term, for every term in any of them, largest first."""
    out: dict[tuple[str, str], float] = {}
    for structure, weight in weights.items():
        for pair in structure:
            out[pair] = out.get(pair, 0.0) + weight
    order = sorted(out, key=lambda pair: (-out[pair], pair))
    return {pair: min(1.0, out[pair]) for pair in order}


def _factors(support: Sequence[int], library: Library, scales: Scales) -> np.ndarray:
    """Factor per term from scaled coefficients to the caller's."""
    return library.factors(support, scales)


def _terms(
    support: Sequence[int], c: np.ndarray, library: Library, scales: Scales, original: Dataset
) -> list[Term]:
    flat, matrix, given = library.written(tuple(support))
    texts = library.labels(flat, original.names, original.inputs)
    values = (matrix @ c + given) * _factors(flat, library, scales)
    if library.rules is not None and library.rules.told is not None:
        # What was given comes back to the last digit.
        values = np.where(given != 0, library.rules.told.reshape(-1)[list(flat)], values)
    return [
        Term(original.names[q // library.size], text, float(value))
        for q, text, value in zip(flat, texts, values, strict=True)
    ]


def _pairs(terms: Sequence[Term]) -> list[tuple[str, str]]:
    return [(term.equation, term.term) for term in terms]


def _setting(found: Found, final: Final, original: Dataset) -> Setting:
    return Setting(
        trajectories=len(original.trajectories),
        names=original.names,
        turning=turning(original),
        monotone=is_monotone(found.dataset, final.states),
        range=visited_range(found, final, original),
    )


def _undecided(
    found: Found, final: Final, terms: Sequence[Term], rivals: Sequence[Visited], original: Dataset
) -> list[Rival]:
    """The rivals that the data do not rule out, with a start that would tell if it is asked for.

    It is for the nearest, and for those that the advice speaks of.
    """
    ebic = found.best.ebic
    plain = [Rival(v.pairs, v.ebic - ebic) for v in rivals]
    near = undecided(_pairs(terms), plain)
    by_pairs = {v.pairs: v for v in rivals}
    spoken_of = {rival.pairs for rival in advised(_pairs(terms), near)}
    return [
        replace(rival, start=_start(found, final, by_pairs[rival.pairs], original))
        if i < MOST_PLACED or rival.pairs in spoken_of
        else rival
        for i, rival in enumerate(near)
    ]


def _start(
    found: Found, final: Final, rival: Visited, original: Dataset
) -> dict[str, float] | None:
    """Where the answer and a rival disagree most about the slopes, in the caller's units."""
    library = found.rungs[found.chosen].library
    visited = np.concatenate(final.states)
    points = candidate_starts(visited)
    inputs = np.concatenate([part.u for part in found.dataset.trajectories]).mean(0)
    places = np.concatenate([points, np.tile(inputs, (len(points), 1))], axis=1).T
    slopes = [
        _slopes(library, final.support, final.c, places, original.dim),
        _slopes(rival.library, rival.support, rival.c, places, original.dim),
    ]
    size = np.sqrt((found.smoothed.samples.dx**2).mean(0))
    best = disagreement(slopes, points, visited, size)
    if best is None:
        return None
    place = points[best] * found.scales.state
    return dict(zip(original.names, map(float, place), strict=True))


def _slopes(
    library: Library, support: Support, c: np.ndarray, places: np.ndarray, dim: int
) -> np.ndarray:
    models = Models.of([support], [c], [np.zeros((dim, 1))], library.size)
    slopes, _ = library.bind(models, False)(places[None], None)
    return np.asarray(slopes[0])


def _unsearched(beyond: Sequence[str]) -> list[str]:
    """A sentence on terms of the answer that come from no library."""
    if not beyond:
        return []
    return [
        f"No library has {listed(beyond)}', which does better than all that was searched: its form "
        f"is one of several, and numbers in it are a guess; offer what you believe, such as "
        f"terms={list(beyond)}."
    ]


def _unverified(findings: Findings, own: Structure, visited: dict[Structure, Visited]) -> Findings:
    """The findings without look-alikes that were fitted: their EBIC is known, not estimated."""
    alike = []
    for f in findings.alike:
        rest = own - {(f.equation, term) for term in f.replaced}
        if f.kind != "term" or rest | {(f.equation, f.probe)} not in visited:
            alike.append(f)
    return replace(findings, alike=tuple(alike))


def _predicted(found: Found, final: Final, kept: Kept | None, *, predict: bool) -> HeldOut | None:
    rung = found.rungs[found.chosen]
    shooting, shape = rung.search.shooting, found.smoothed.shape
    if kept is not None:
        dataset = scaled(kept.dataset, found.scales)
        kind = found.smoothed.kind
        return kept_out(
            shooting,
            final.support,
            final.c,
            dataset,
            kind,
            kept.indices,
            _level(found, final),
            final.covariance,
        )
    if not predict:
        return None
    return left_out_in_turn(shooting, final.support, final.c, final.states, found.dataset, shape)


def _learned(found: Found, held: HeldOut | None) -> list[int]:
    """Which trajectories were learned from, counted with those kept out."""
    out = held.trajectories if held is not None and held.how == "kept out" else ()
    count = len(found.dataset.trajectories) + len(out)
    return [i for i in range(count) if i not in out]


def _level(found: Found, final: Final) -> np.ndarray:
    """Size of an error that is no news, ``(d,)``: the residuals', or the noise if it is larger."""
    return np.asarray(np.maximum(final.rms, found.noise))


def _scores(score: Sequence[float], held: HeldOut | None) -> list[float]:
    """R2 per trajectory in the caller's order, those kept out among the others."""
    out = list(score)
    if held is not None and held.how == "kept out":
        for index, value in zip(held.trajectories, held.r2, strict=True):
            out.insert(index, value)
    return out


def _evidence(
    found: Found,
    final: Final,
    original: Dataset,
    terms: Sequence[Term],
    *,
    known_noise: bool,
    cut: bool,
) -> verdict.Evidence:
    rung = found.rungs[found.chosen]
    shooting, shape = rung.search.shooting, found.smoothed.shape
    simulated = simulate(shooting, final, found.dataset, shape)
    spread = np.array([term.stderr or 0.0 for term in terms])
    values = np.array([term.value for term in terms])
    price = rung.search.prices[list(final.support)]
    smoothed = found.smoothed
    return verdict.Evidence(
        names=original.names,
        rms=np.where(original.counts > 0, final.rms, 0.0),
        sigma=np.maximum(smoothed.sigma, 3 * shooting.floor) if known_noise else None,
        limit=residuals.limits(found.dataset, smoothed.states, shape, smoothed.sigma),
        memory=residuals.memory(found.dataset, final.states, shape),
        chance=residuals.whiteness(found.dataset, final.states, shape),
        condition=final.condition,
        gains=(values / np.maximum(spread, 1e-300)) ** 2 - price,
        labels=tuple(f"{term.term} in {term.equation}'" for term in terms),
        confusions=(),
        loose=(),
        findings=Findings(),
        weight=1.0,
        score=residuals.r2(found.dataset, simulated),
        excess=residuals.excess(found.dataset, simulated, shape, _level(found, final)),
        data=int(original.counts.sum()),
        numbers=len(terms) + original.dim * len(original.trajectories),
        cut=cut,
    )
