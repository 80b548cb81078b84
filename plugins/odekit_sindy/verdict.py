"""How far to trust the answer: fit quality, whiteness of residuals, rivals, identifiability.

Every doubt is a sentence. The answer is confident only if there is none, so a wrong structure
needs to pass all tests by chance: residuals at the noise level and without memory, every
coefficient clear of zero, no rival, a simulation that follows the data.

Units: scaled; ``rms`` and ``sigma`` relative to a state's standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odekit_sindy.data import Dataset

RIVAL = 2.0
MAJORITY = 0.5
EXCESS = 1.3
UNEXPLAINED = 0.5
MEMORY = 3.5
ILL = 1e4
CLEAR = 2.5
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
        memory: z-score of the residuals' correlation from row to row ``(d,)``.
        condition: of the coefficients' columns.
        z: coefficients over their standard errors.
        labels: one per coefficient, for sentences.
        rival: EBIC of the best other structure less that of the answer, or infinity.
        weight: the answer's share among the structures within reach.
        score: R2 of the simulation per trajectory.
        data: number of observed values.
        numbers: number of coefficients and start states fitted.
        cut: whether time ran out.
    """

    names: tuple[str, ...]
    rms: np.ndarray
    sigma: np.ndarray | None
    memory: np.ndarray
    condition: float
    z: np.ndarray
    labels: tuple[str, ...]
    rival: float
    weight: float
    score: Sequence[float]
    data: int
    numbers: int
    cut: bool


def doubts(seen: Evidence) -> list[str]:
    """Every reason not to trust the structure, one sentence each; empty if there is none."""
    out = [*_doubts_of_fit(seen), *_doubts_of_structure(seen)]
    if seen.data < DATA_PER_NUMBER * seen.numbers:
        out.append(
            f"{seen.data} observed values for {seen.numbers} fitted numbers are few: "
            "record more, or add a trajectory."
        )
    if seen.cut:
        out.append("Time ran out before the search was complete: raise time_limit.")
    return out


def _doubts_of_fit(seen: Evidence) -> list[str]:
    out = []
    for j, name in enumerate(seen.names):
        if seen.rms[j] > UNEXPLAINED:
            share = 100 * min(float(seen.rms[j]) ** 2, 1.0)
            out.append(f"{share:.0f} % of the variance of {name} is left unexplained.")
        elif seen.sigma is not None and seen.rms[j] > EXCESS * seen.sigma[j]:
            ratio = seen.rms[j] / seen.sigma[j]
            out.append(
                f"The residuals of {name} are {ratio:.3g} times the noise that the smoother sees: "
                "the equations leave something out."
            )
        if seen.memory[j] > MEMORY and seen.rms[j] > EXACT:
            out.append(
                f"The residuals of {name} have a memory (z = {seen.memory[j]:.1f}): the equations "
                "leave something out, or the noise is not white."
            )
    poor = [i for i, value in enumerate(seen.score) if not value > LEAST_SCORE]
    if poor:
        which = ", ".join(str(i) for i in poor[:5])
        worst = min(seen.score)
        out.append(
            f"Simulated from its start, the model departs from trajectory {which} "
            f"(R2 = {worst:.2f}): it is wrong, or the system is chaotic."
        )
    return out


def _doubts_of_structure(seen: Evidence) -> list[str]:
    out = []
    if seen.rival < RIVAL:
        out.append(
            f"Another structure is as good (EBIC differs by {seen.rival:.1f}): see alternatives."
        )
    elif seen.weight < MAJORITY:
        out.append(
            f"Many structures are nearly as good (this one has {100 * seen.weight:.0f} % of the "
            "weight): see alternatives."
        )
    if seen.condition > ILL:
        out.append(
            "The data barely tell the terms apart (condition number "
            f"{seen.condition:.1e}): add a trajectory from another start."
        )
    weak = [label for label, z in zip(seen.labels, seen.z, strict=True) if abs(z) < CLEAR]
    if weak:
        out.append(f"Not clear of zero within its standard error: {', '.join(weak)}.")
    return out


def memory(
    dataset: Dataset, states: tuple[np.ndarray, ...], shape: tuple[np.ndarray, ...]
) -> np.ndarray:
    """z-score of the lag-one correlation of residuals ``(d,)``, standard normal if white."""
    out = np.zeros(dataset.dim)
    for j in range(dataset.dim):
        product, square, pairs = 0.0, 0.0, 0
        for part, x, h in zip(dataset.trajectories, states, shape, strict=True):
            seen = np.isfinite(part.y[:, j])
            e = ((part.y[:, j] - x[:, j]) / h[:, j])[seen]
            product += float(e[1:] @ e[:-1])
            square += float(e @ e)
            pairs += len(e) - 1
        if pairs > 0 and square > 0:
            out[j] = product / square * np.sqrt(pairs)
    return out


def r2(dataset: Dataset, simulated: tuple[np.ndarray, ...]) -> list[float]:
    """R2 per trajectory over all states, each state in units of its standard deviation."""
    out = []
    for part, x in zip(dataset.trajectories, simulated, strict=True):
        error = np.nansum((part.y - x) ** 2)
        around = np.nansum((part.y - np.nanmean(part.y, axis=0)) ** 2)
        out.append(float(1 - error / around) if around > 0 else 0.0)
    return out
