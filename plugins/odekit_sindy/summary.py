"""From the outcome of the search to `Equations` in the caller's units.

Coefficients and covariance are unscaled exactly, one factor per term. The alternatives are all
visited structures within EBIC 10, weighted by ``exp(-delta / 2)``; a term's inclusion is the
weight of the structures that have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odekit import Alternative, Equations, Term
from odekit_sindy import verdict
from odekit_sindy.data import Dataset, Scales
from odekit_sindy.library import Library
from odekit_sindy.pipeline import Found
from odekit_sindy.refit import Final, contributing, finish, simulate

WITHIN = 10.0
MOST_ALTERNATIVES = 20

Structure = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Visited:
    """One structure in the caller's units: its terms, and EBIC."""

    terms: tuple[Term, ...]
    ebic: float

    @property
    def structure(self) -> Structure:
        """Which terms, whatever their coefficients."""
        return frozenset((term.equation, term.term) for term in self.terms)


def summarise(found: Found, original: Dataset, *, known_noise: bool = True, cut: bool) -> Equations:
    """The final fit, its uncertainty, the alternatives and the verdict.

    Args:
        found: outcome of the search.
        original: the data in the caller's units, for names and notes.
        known_noise: whether the smoother's noise level may be held against the model.
        cut: whether time ran out.
    """
    rung = found.rungs[found.chosen]
    final = finish(rung.search.shooting, rung.best)
    factor = _factors(final.support, rung.library, found.scales)
    covariance = final.covariance * np.outer(factor, factor)
    spread = np.sqrt(np.diag(covariance))
    visited = visited_structures(found, original)
    plain = _terms(final.support, final.c, rung.library, found.scales, original)
    own = frozenset((term.equation, term.term) for term in plain)
    weights = _weights(visited, own, rung.best.ebic)
    terms = [
        term._replace(
            stderr=float(error),
            inclusion=_inclusion(weights, term),
        )
        for term, error in zip(plain, spread, strict=True)
    ]
    rivals = [v for v in visited.values() if v.structure != own and v.structure in weights]
    rivals.sort(key=lambda v: v.ebic)
    simulated = simulate(rung.search.shooting, final, found.dataset, found.smoothed.shape)
    seen = _evidence(
        found, final, original, terms, rivals, weights[own], simulated, known_noise, cut
    )
    reasons = verdict.doubts(seen)
    return Equations(
        original.names,
        terms,
        inputs=original.inputs,
        time=original.time,
        covariance=covariance,
        score=seen.score,
        warnings=[*reasons, *(f"Note: {note}." for note in original.notes)],
        confident=not reasons,
        alternatives=[
            Alternative(
                Equations(original.names, v.terms, inputs=original.inputs, time=original.time),
                weights[v.structure],
                v.ebic,
            )
            for v in rivals[:MOST_ALTERNATIVES]
        ],
        diagnostics=_diagnostics(found, final, seen),
    )


def visited_structures(found: Found, original: Dataset) -> dict[Structure, Visited]:
    """All structures that were verified, without negligible terms, each with its lowest EBIC."""
    out: dict[Structure, Visited] = {}
    samples = found.smoothed.samples
    points = np.concatenate([samples.x, samples.u], axis=1).T
    for rung in found.rungs:
        size = np.sqrt((rung.library.evaluate(points) ** 2).mean(1))
        for fitted in rung.search.visited.values():
            if not np.isfinite(fitted.ebic):
                continue
            kept = contributing(fitted.support, fitted.c, size)
            support = [fitted.support[i] for i in kept]
            terms = _terms(support, fitted.c[kept], rung.library, found.scales, original)
            item = Visited(tuple(terms), fitted.ebic)
            if item.structure not in out or item.ebic < out[item.structure].ebic:
                out[item.structure] = item
    return out


def _weights(
    visited: dict[Structure, Visited], own: Structure, ebic: float
) -> dict[Structure, float]:
    """Weights ``exp(-delta / 2)`` of the structures within reach, the answer among them."""
    near = {s: v.ebic for s, v in visited.items() if v.ebic < ebic + WITHIN}
    near[own] = min(ebic, near.get(own, ebic))
    best = min(near.values())
    raw = {s: float(np.exp(-0.5 * (value - best))) for s, value in near.items()}
    total = sum(raw.values())
    return {s: value / total for s, value in raw.items()}


def _inclusion(weights: dict[Structure, float], term: Term) -> float:
    key = (term.equation, term.term)
    return min(1.0, sum(weight for structure, weight in weights.items() if key in structure))


def _factors(support: Sequence[int], library: Library, scales: Scales) -> np.ndarray:
    """Factor per term from scaled coefficients to the caller's."""
    unscaling = library.unscaling(scales.state, scales.input)
    return np.array(
        [
            unscaling[q % library.size] * scales.state[q // library.size] / scales.time
            for q in support
        ]
    )


def _terms(
    support: Sequence[int], c: np.ndarray, library: Library, scales: Scales, original: Dataset
) -> list[Term]:
    texts = library.terms(original.names, original.inputs)
    values = c * _factors(support, library, scales)
    return [
        Term(original.names[q // library.size], texts[q % library.size], float(value))
        for q, value in zip(support, values, strict=True)
    ]


def _evidence(
    found: Found,
    final: Final,
    original: Dataset,
    terms: Sequence[Term],
    rivals: Sequence[Visited],
    weight: float,
    simulated: tuple[np.ndarray, ...],
    known_noise: bool,
    cut: bool,
) -> verdict.Evidence:
    rung = found.rungs[found.chosen]
    floor = rung.search.shooting.floor
    spread = np.array([term.stderr or 0.0 for term in terms])
    values = np.array([term.value for term in terms])
    return verdict.Evidence(
        names=original.names,
        rms=final.rms,
        sigma=np.maximum(found.smoothed.sigma, 3 * floor) if known_noise else None,
        memory=verdict.memory(found.dataset, final.states, found.smoothed.shape),
        condition=final.condition,
        z=values / np.maximum(spread, 1e-300),
        labels=tuple(f"{term.term} in {term.equation}'" for term in terms),
        rival=rivals[0].ebic - rung.best.ebic if rivals else np.inf,
        weight=weight,
        score=verdict.r2(found.dataset, simulated),
        data=int(original.counts.sum()),
        numbers=len(terms) + original.dim * len(original.trajectories),
        cut=cut,
    )


def _diagnostics(found: Found, final: Final, seen: verdict.Evidence) -> dict[str, object]:
    rung = found.rungs[found.chosen]
    names = seen.names
    sigma = found.smoothed.sigma * found.scales.state
    rms = final.rms * found.scales.state
    # The verdict's own yardstick, so that the table and the sentences agree.
    ratio = final.rms / (found.noise if seen.sigma is None else seen.sigma)
    return {
        "noise": found.smoothed.kind,
        "noise_evidence": {k: float(v) for k, v in found.evidence.items()},
        "sigma": dict(zip(names, map(float, sigma), strict=True)),
        "rms": dict(zip(names, map(float, rms), strict=True)),
        "rms_over_sigma": dict(zip(names, map(float, ratio), strict=True)),
        "residual_memory": dict(zip(names, map(float, seen.memory), strict=True)),
        "library": rung.library.name,
        "ladder": [
            {"library": r.library.name, "ebic": float(r.best.ebic), "terms": len(r.best.support)}
            for r in found.rungs
        ],
        "smoother": "gaussian process",
        "points": found.dataset.rows,
        "values": seen.data,
        "trajectories": len(found.dataset.trajectories),
        "ebic": float(rung.best.ebic),
        "weight": float(seen.weight),
        "condition": float(final.condition),
        "substeps": int(final.substeps),
        "structures": sum(len(r.search.visited) for r in found.rungs),
    }
