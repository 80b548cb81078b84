"""Everything about a discovery that is a number or a name, as JSON can hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odekit.differences import difference
from odekit_sindy import verdict
from odekit_sindy.data import Dataset
from odekit_sindy.found import Found
from odekit_sindy.holdout import HeldOut
from odekit_sindy.identifiability import STRONG, Rival
from odekit_sindy.refit import Final
from odekit_sindy.specification import Finding

MOST_FINDINGS = 5
SMOOTHERS = {
    "gp": "gaussian process",
    "spline": "smoothing spline",
    "library": "trajectories of a whole library",
}
"""Smoothers in words; what comes after a comma is said already."""


@dataclass(frozen=True)
class Account:
    """What there is to tell.

    Attributes:
        found: outcome of the search.
        final: the last fit.
        seen: the evidence.
        judged: the verdict.
        near: rivals that the data do not rule out.
        shares: inclusion of every term in any structure within reach, by state and term.
        range: smallest and largest value seen of each state and input.
        held: prediction of held-out trajectories, if there is one.
        original: the data in the caller's units.
    """

    found: Found
    final: Final
    seen: verdict.Evidence
    judged: verdict.Verdict
    near: Sequence[Rival]
    shares: dict[tuple[str, str], float]
    range: dict[str, tuple[float, float]]
    held: HeldOut | None
    original: Dataset


def diagnostics(account: Account) -> dict[str, object]:
    """The dictionary for `Equations.diagnostics`.

    Of interest to programs: ``complete`` (False if time ran out), ``fits`` (whether the answer
    explains the data as far as the noise allows), ``range``, ``inclusion`` (a list of
    ``equation``, ``term``, ``inclusion``), ``undecided`` (a list of ``difference`` and
    ``distance``), ``holdout`` (``how``, ``trajectories``, ``r2``, ``states``, and ``starts``, which
    has those of trajectories with a few values only).
    """
    found, final, seen = account.found, account.final, account.seen
    rung = found.rungs[found.chosen]
    return {
        **_noise(account),
        "library": rung.library.name,
        "ladder": [
            {"library": r.library.name, "ebic": float(r.best.ebic), "terms": len(r.best.support)}
            for r in found.rungs
        ],
        "smoother": _in_words(found.smoothed.smoother),
        "points": found.dataset.rows,
        "values": seen.data,
        "trajectories": len(found.dataset.trajectories),
        "ebic": float(rung.best.ebic),
        "weight": float(seen.weight),
        "condition": float(final.condition),
        "substeps": int(final.substeps),
        "structures": sum(len(r.search.visited) for r in found.rungs),
        "complete": not seen.cut,
        "fits": account.judged.fits,
        "range": {name: [low, high] for name, (low, high) in account.range.items()},
        "inclusion": [
            {"equation": equation, "term": term, "inclusion": float(share)}
            for (equation, term), share in account.shares.items()
        ],
        "undecided": _undecided(account),
        "lookalikes": [
            _finding(f) for f in seen.findings.alike[:MOST_FINDINGS] if f.change < STRONG
        ],
        "omitted": [_finding(f) for f in seen.findings.omitted[:MOST_FINDINGS]],
        **_holdout(account),
    }


def _in_words(smoother: str) -> str:
    name, *more = smoother.split(", ")
    return ", ".join([SMOOTHERS.get(name, name), *more])


def _noise(account: Account) -> dict[str, object]:
    found, final, seen = account.found, account.final, account.seen
    sigma = found.smoothed.sigma * found.scales.state
    rms = final.rms * found.scales.state
    # The verdict's own yardstick, so that the table and the sentences agree.
    ratio = final.rms / (found.noise if seen.sigma is None else seen.sigma)
    return {
        "noise": found.smoothed.kind,
        "noise_evidence": {k: float(v) for k, v in found.evidence.items()},
        "sigma": _by_state(seen.names, sigma),
        "rms": _by_state(seen.names, rms),
        "rms_over_sigma": _by_state(seen.names, ratio),
        "residual_memory": _by_state(seen.names, seen.memory),
        "residual_chance": _by_state(seen.names, seen.chance),
    }


def _by_state(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return dict(zip(names, map(float, values), strict=True))


def _undecided(account: Account) -> list[dict[str, object]]:
    support, library = account.final.support, account.found.rungs[account.found.chosen].library
    flat, _, _ = library.written(support)
    texts = library.labels(flat, account.original.names, account.original.inputs)
    own = [
        (account.original.names[q // library.size], text)
        for q, text, below in zip(flat, texts, library.is_below(flat), strict=True)
        if not below
    ]
    return [
        {
            "difference": difference(own, rival.pairs),
            "distance": float(rival.distance),
            **({"start": rival.start} if rival.start is not None else {}),
        }
        for rival in account.near
    ]


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "equation": finding.equation,
        "function": finding.probe,
        "replaces": list(finding.replaced),
        "change": finding.change,
    }


def _holdout(account: Account) -> dict[str, object]:
    held = account.held
    if held is None:
        return {}
    names = account.original.names
    return {
        "holdout": {
            "how": held.how,
            "trajectories": list(held.trajectories),
            "r2": list(held.r2),
            "states": {name: held.states[:, j].tolist() for j, name in enumerate(names)},
            "starts": [
                {
                    "trajectory": index,
                    "start": _by_state(names, one.start * account.found.scales.state),
                    "stderr": _by_state(names, one.stderr * account.found.scales.state),
                }
                for index, one in held.short.items()
            ],
        }
    }


def visited_range(found: Found, final: Final, original: Dataset) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each state and input along the trajectories.

    States are the fitted ones, so that noise and outliers do not widen the range.
    """
    x = np.concatenate(final.states) * found.scales.state
    lowest, highest = original.range
    hidden = original.counts == 0
    lowest[hidden], highest[hidden] = x.min(0)[hidden], x.max(0)[hidden]
    low, high = np.maximum(x.min(0), lowest), np.minimum(x.max(0), highest)
    # A fit that explains little says nothing of where the states were; the data do.
    wrong = ~(low < high) | (final.rms > verdict.UNEXPLAINED)
    low[wrong], high[wrong] = lowest[wrong], highest[wrong]
    out = {n: (float(a), float(b)) for n, a, b in zip(original.names, low, high, strict=True)}
    u = np.concatenate([part.u for part in original.trajectories])
    for k, name in enumerate(original.inputs):
        out[name] = (float(u[:, k].min()), float(u[:, k].max()))
    return out
