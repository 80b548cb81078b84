"""How far to trust the answer: fit, memory of residuals, prediction, rivals inside and outside.

Every doubt is a sentence. The answer is confident only if there is none, so a wrong structure
needs to pass all tests by chance: residuals at the noise level and without memory, nothing that the
library lacks would explain more or as well, every coefficient clear of zero, no rival, a simulation
that follows the data, and trajectories predicted that took no part in the fit.

Units: scaled; ``rms`` and ``sigma`` relative to a state's standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from odekit.differences import listed
from odekit_sindy.identifiability import RIVAL, STRONG
from odekit_sindy.residuals import EXCESS
from odekit_sindy.specification import Finding, Findings

MAJORITY = 0.5
BAD = 2.0
FAR = 10.0
"""Error of a prediction over the noise beyond which errors of coefficients are no excuse."""

UNEXPLAINED = 0.5
MEMORY = 3.5
CHANCE = 2e-4
ILL = 1e4
EXACT = 2e-3
LEAST_SCORE = 0.5
DATA_PER_NUMBER = 3.0


@dataclass(frozen=True)
class Evidence:
    """What the verdict looks at.

    Attributes:
        names: the states.
        rms: residual level ``(d,)``.
        sigma: noise level according to the smoother ``(d,)``, or None where it has none.
        limit: largest ratio of ``rms`` to ``sigma`` that is no doubt, ``(d,)``, see
            `odekit_sindy.residuals.limits`.
        memory: z-score of the residuals' correlation from row to row ``(d,)``.
        chance: probability of correlations this strong over several lags ``(d,)``, if white.
        condition: of the coefficients' columns.
        gains: what each coefficient gains in the criterion, by its standard error, ``(k,)``.
        labels: one per coefficient, for sentences.
        confusions: sentences on structures that the data do not rule out.
        loose: sentences on coefficients that are known only together.
        findings: what functions outside of the library say.
        weight: the answer's share among the structures within reach.
        score: R2 of the simulation per trajectory.
        excess: root mean square error of the simulation over the noise, per trajectory.
        predicted: R2 per trajectory that was predicted, by index.
        predicted_excess: as ``excess``, for the predictions, by index.
        data: number of observed values.
        numbers: number of coefficients and start states fitted.
        cut: whether time ran out.
        slow: sentences on sampling.
        tied: what the data barely tell apart, if there are names for it.
        given: whether the structure was given, and not searched for.
        places: the caller's number of each trajectory; as they come, if empty.
        learned: which trajectories ``score`` is about; all of them, if empty.
        predicted: R2 of predictions of trajectories that had no part in the fit.
        predicted_excess: their error over the noise level.
    """

    names: tuple[str, ...]
    rms: np.ndarray
    sigma: np.ndarray | None
    limit: np.ndarray
    memory: np.ndarray
    chance: np.ndarray
    condition: float
    gains: np.ndarray
    labels: tuple[str, ...]
    confusions: Sequence[str]
    loose: Sequence[str]
    findings: Findings
    weight: float
    score: Sequence[float]
    excess: Sequence[float]
    data: int
    numbers: int
    cut: bool
    slow: Sequence[str] = ()
    tied: Sequence[str] = ()
    given: bool = False
    places: Sequence[int] = ()
    learned: Sequence[int] = ()
    predicted: dict[int, float] = field(default_factory=dict)
    predicted_excess: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The doubts, and whether the answer fits at all.

    Attributes:
        doubts: every reason not to trust the structure, one sentence each; empty if there is none.
        fits: whether the answer explains the data as far as the noise allows. Where it does not,
            shares of structures rank what was tried and are no probabilities of being right.
    """

    doubts: tuple[str, ...]
    fits: bool


def judge(seen: Evidence) -> Verdict:
    """The verdict."""
    level, left = _doubts_of_level(seen), _doubts_of_residuals(seen)
    fit = [*level, *left, *_doubts_of_simulation(seen)]
    out = [*fit, *_doubts_of_structure(seen, hopeless=_hopeless(seen), fits=not fit)]
    if seen.data < DATA_PER_NUMBER * seen.numbers:
        out.append(
            f"{seen.data} observed values for {seen.numbers} fitted numbers are few: "
            "record more, or add a trajectory."
        )
    if seen.cut:
        work = "fit" if seen.given else "search"
        out.append(
            f"The {work} ended before it was complete, at its time limit or because it was "
            "stopped: raise time_limit, or let it run."
        )
    if out:
        out += seen.slow
    return Verdict(tuple(out), not (level or left))


def _hopeless(seen: Evidence) -> bool:
    """Whether the answer is so far from the data that a choice between structures means little."""
    bad = bool(np.any(seen.rms > UNEXPLAINED))
    level = np.maximum(seen.limit, BAD)
    return bad or (seen.sigma is not None and bool(np.any(seen.rms > level * seen.sigma)))


def _doubts_of_level(seen: Evidence) -> list[str]:
    out = []
    for j, name in enumerate(seen.names):
        quiet = seen.sigma is not None and seen.rms[j] <= seen.limit[j] * seen.sigma[j]
        if seen.rms[j] > UNEXPLAINED and quiet:
            out.append(f"{name} hardly moves beyond its noise, so its equation says little.")
        elif seen.rms[j] > UNEXPLAINED:
            share = 100 * min(float(seen.rms[j]) ** 2, 1.0)
            out.append(f"{share:.0f} % of the variance of {name} is left unexplained.")
        elif seen.sigma is not None and seen.rms[j] > seen.limit[j] * seen.sigma[j]:
            ratio = seen.rms[j] / seen.sigma[j]
            out.append(
                f"The residuals of {name} are {ratio:.3g} times the noise that the smoother sees: "
                "the equations leave something out."
            )
    return out


def _doubts_of_residuals(seen: Evidence) -> list[str]:
    out = []
    for j, name in enumerate(seen.names):
        if seen.rms[j] <= EXACT:
            continue
        if seen.memory[j] > MEMORY:
            out.append(
                f"The residuals of {name} have a memory (z = {seen.memory[j]:.1f}): the equations "
                "leave something out, or the noise is not white."
            )
        elif seen.chance[j] < CHANCE:
            out.append(
                f"The residuals of {name} have a pattern over several rows (p = "
                f"{seen.chance[j]:.0e}): the equations leave something out, or the noise is not "
                "white."
            )
    named: set[str] = set()
    for finding in seen.findings.omitted:
        if finding.equation not in named:
            named.add(finding.equation)
            out.append(
                f"{finding.equation}' seems to depend on {finding.probe} besides (EBIC would fall "
                f"by {-finding.change:.1f}): {_meaning(finding, given=seen.given)}."
            )
    return out


def _meaning(finding: Finding, *, given: bool) -> str:
    if given and finding.kind in ("form", "term"):
        return "the model lacks a term"
    return {
        "form": "the library lacks a term",
        "term": "a larger library is needed",
        "past": "there is a delay, or a state that was not observed",
        "time": "something drives the system that was not given as an input",
    }[finding.kind]


def _doubts_of_simulation(seen: Evidence) -> list[str]:
    out = []
    learned = list(seen.learned) or list(range(len(seen.score)))
    failed = {
        i: value
        for i, value, excess in zip(learned, seen.score, seen.excess, strict=True)
        if not value > LEAST_SCORE and not excess < EXCESS
    }
    poor = list(failed)
    if poor:
        worst = min(failed.values())
        out.append(
            f"Simulated from its start, the model departs from {_numbered(poor, seen)} "
            f"(R2 = {worst:.2f}): it is wrong, or the system is chaotic."
        )
    missed = [
        i
        for i, value in seen.predicted.items()
        if i not in poor and _missed(value, seen.predicted_excess[i])
    ]
    if missed:
        worst = min(seen.predicted[i] for i in missed)
        out.append(
            f"Fitted without it, the model does not predict {_numbered(missed, seen)} "
            f"(R2 = {worst:.2f}, error {max(seen.predicted_excess[i] for i in missed):.3g} times "
            "the noise)."
        )
    return out


def _missed(score: float, excess: float) -> bool:
    """Whether a prediction failed: far off on the data's scale, or by many times the noise."""
    return excess > FAR or (not score > LEAST_SCORE and not excess < BAD)


def _numbered(indices: Sequence[int], seen: Evidence) -> str:
    places = seen.places or range(max(indices) + 1)
    indices = [places[i] for i in indices]
    word = "trajectory" if len(indices) == 1 else "trajectories"
    more = ["..."] if len(indices) > 5 else []
    return f"{word} {listed([*map(str, indices[:5]), *more])}"


def _doubts_of_structure(seen: Evidence, *, hopeless: bool, fits: bool) -> list[str]:
    out: list[str] = []
    if not hopeless:
        out += seen.confusions
        out += seen.loose
    if seen.weight < MAJORITY and not out:
        out.append(
            f"Many structures are nearly as good (this one has {100 * seen.weight:.0f} % of the "
            "weight): see alternatives."
        )
    if fits:
        out += _lookalikes(seen)
    if seen.condition > ILL:
        advice = " or hold one of them with fix=" if seen.given else ""
        out.append(
            f"The data barely tell {listed(seen.tied) or 'the terms'} apart (condition number "
            f"{seen.condition:.1e}): add a trajectory from another start{advice}."
        )
    weak = [label for label, gain in zip(seen.labels, seen.gains, strict=True) if gain < STRONG]
    if weak:
        out.append(f"Not clear of zero within its standard error: {', '.join(weak)}.")
    return out


def _lookalikes(seen: Evidence) -> list[str]:
    """The nearest look-alike of each equation, if the data do not rule it out.

    It does without a term of the answer, so it is another claim, and has to be far to be none. A
    structure that was given is somebody's knowledge, which only what is as good puts in doubt.
    """
    out, named = [], set()
    bound = RIVAL if seen.given else STRONG
    for finding in seen.findings.alike:
        if finding.change >= bound or finding.equation in named:
            continue
        named.add(finding.equation)
        near = finding.change < RIVAL
        if finding.kind == "term":
            out.append(
                f"{' + '.join(finding.replaced)} and {finding.probe} in {finding.equation}' "
                f"{'cannot' if near else 'can hardly'} be told apart on these data (swapping them "
                f"changes EBIC by "
                f"{finding.change:.1f}); a start that leads through other states would separate "
                "them."
            )
            continue
        replaced = listed(finding.replaced)
        fate = {
            "form": "the data do not settle the form",
            "past": "a delay or an unobserved state is not ruled out",
            "time": "a hidden drive is not ruled out",
        }[finding.kind]
        out.append(
            f"In {finding.equation}', {finding.probe} would do {'' if near else 'nearly '}as well "
            f"as {replaced} (EBIC changes by {finding.change:.1f}): {fate}; a start that leads "
            "through other states would tell."
        )
    return out
