"""From a fit of parameters to the object that `odekit.refine` returns, and its doubts in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from odekit import Equations, Term
from odekit.differences import listed
from odekit.refined import Parameter, Refined
from odekit_sindy import verdict
from odekit_sindy.data import Dataset
from odekit_sindy.formula_model import FormulaModel
from odekit_sindy.residuals import EXCESS

LEAST_SCORE = 0.5
CONFUSED = 1e4
SHARE = 0.3
OPEN = 0.5
"""Standard error, relative to the value, beyond which a parameter is hardly determined."""

DIFFERENT = 5.0
ROUGH = 0.3


@final
@dataclass(frozen=True)
class Fitted:
    """A fit in the caller's units.

    Attributes:
        model: what was fitted.
        dataset: the data, in the caller's units.
        values: free parameters, ``(k,)``.
        covariance: of them, ``(k, k)``.
        at_bound: which of them ended at a bound, ``(k,)``.
        condition: condition number of the parameters' columns.
        starts: states at the first row of each trajectory, ``(trajectories, d)``.
        score: R2 of the simulation per trajectory.
        rms: residual of each observed state, over its standard deviation and the noise's shape.
        sigma: the same as the smoother sees it.
        memory: z-score of the residuals' lag-one correlation.
        unit: standard deviation of each observed state.
        kind: noise model.
        evidence: log evidence per noise model.
        rivals: parameter sets from other starts that fit as well.
        rough: error of the integration over the residuals.
        substeps: Runge-Kutta steps per data interval.
        cut: whether time ran out.
    """

    model: FormulaModel
    dataset: Dataset
    values: np.ndarray
    covariance: np.ndarray
    at_bound: np.ndarray
    condition: float
    starts: np.ndarray
    score: tuple[float, ...]
    rms: np.ndarray
    sigma: np.ndarray
    memory: np.ndarray
    unit: np.ndarray
    kind: str
    evidence: Mapping[str, float]
    rivals: tuple[np.ndarray, ...]
    rough: float
    substeps: int
    cut: bool

    @property
    def spread(self) -> np.ndarray:
        """Standard errors, ``(k,)``."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def labels(self) -> list[str]:
        """What the free parameters are called."""
        return [self.model.labels[name] for name in self.model.free]

    def parameters(self) -> list[Parameter]:
        """All parameters in the model's order."""
        out = []
        for name in self.model.parameters:
            if name in self.model.held:
                out.append(Parameter(name, self.model.held[name], 0.0, True))
                continue
            i = self.model.free.index(name)
            error = None if self.at_bound[i] else float(self.spread[i])
            out.append(Parameter(name, float(self.values[i]), error))
        return out

    def whole_covariance(self) -> np.ndarray:
        """Covariance of all parameters; held ones have rows of zeros."""
        at = [self.model.parameters.index(name) for name in self.model.free]
        out = np.zeros((len(self.model.parameters),) * 2)
        out[np.ix_(at, at)] = self.covariance
        return out

    def diagnostics(self) -> dict[str, Any]:
        """What was seen on the way."""
        names, data = self.dataset.names, self.dataset
        return {
            "noise": self.kind,
            "noise_evidence": {kind: float(v) for kind, v in self.evidence.items()},
            "sigma": dict(zip(names, map(float, self.sigma * self.unit), strict=True)),
            "rms": dict(zip(names, map(float, self.rms * self.unit), strict=True)),
            "rms_over_sigma": dict(zip(names, map(float, self.rms / self.sigma), strict=True)),
            "residual_memory": dict(zip(names, map(float, self.memory), strict=True)),
            "condition": float(self.condition),
            "substeps": int(self.substeps),
            "points": data.rows,
            "values": int(data.counts.sum()),
            "trajectories": len(data.trajectories),
            "hidden": [name for name in self.model.states if name not in names],
        }


def doubts(fitted: Fitted) -> list[str]:
    """Every reason not to trust the result, one sentence each."""
    out = [*_doubts_of_fit(fitted), *_doubts_of_parameters(fitted)]
    if fitted.rough > ROUGH:
        out.append(
            "The model moves too fast between the rows to be integrated well: sample more often."
        )
    if fitted.cut:
        out.append("Time ran out before the fit had settled: raise time_limit.")
    return out


def _doubts_of_fit(fitted: Fitted) -> list[str]:
    out = []
    for j, name in enumerate(fitted.dataset.names):
        ratio = fitted.rms[j] / fitted.sigma[j]
        if ratio > EXCESS:
            out.append(
                f"The residuals of {name} are {ratio:.3g} times the noise that the smoother sees: "
                "the model does not fit."
            )
        elif fitted.rms[j] > verdict.EXACT and fitted.memory[j] > verdict.MEMORY:
            out.append(
                f"The residuals of {name} have a memory (z = {fitted.memory[j]:.1f}): the model "
                "leaves something out, or the noise is not white."
            )
    poor = [i for i, value in enumerate(fitted.score) if not value > LEAST_SCORE]
    if poor:
        worst = min(fitted.score[i] for i in poor)
        word = "trajectory" if len(poor) == 1 else "trajectories"
        out.append(
            f"Simulated from its start, the model departs from {word} "
            f"{listed(map(str, poor[:5]))} (R2 = {worst:.2f}): it is wrong, or the system is "
            "chaotic."
        )
    return out


def _doubts_of_parameters(fitted: Fitted) -> list[str]:
    labels, spread = fitted.labels, fitted.spread
    out = []
    bound = [labels[i] for i in np.flatnonzero(fitted.at_bound)]
    if bound:
        out.append(f"At a bound, and held there for the errors of the others: {listed(bound)}.")
    inside = np.flatnonzero(~fitted.at_bound)
    confused = _confused(fitted, inside)
    if confused:
        out.append(
            f"The data do not tell {listed(confused)} apart (condition number "
            f"{fitted.condition:.1e}): hold one of them with fix=, or add a trajectory from "
            "another start."
        )
    size = np.maximum(np.abs(fitted.values), 1e-300)
    loose = [labels[i] for i in inside if spread[i] > OPEN * size[i]]
    if loose and not confused:
        out.append(f"Hardly determined by these data: {listed(loose)}.")
    far = [
        rival
        for rival in fitted.rivals
        if np.any(
            np.abs(rival - fitted.values)[inside] > DIFFERENT * spread[inside] + 1e-3 * size[inside]
        )
    ]
    if far and not confused:
        values = listed(f"{labels[i]} = {far[0][i]:.4g}" for i in range(len(labels)))
        out.append(f"Another set of parameters fits as well: {values}.")
    return out


def _confused(fitted: Fitted, inside: np.ndarray) -> list[str]:
    """Parameters along the direction that the data say least about, if that is very little."""
    if len(inside) < 2 or fitted.condition < CONFUSED:
        return []
    spread = fitted.spread[inside]
    unit = np.where(spread > 0, spread, 1.0)
    correlation = fitted.covariance[np.ix_(inside, inside)] / np.outer(unit, unit)
    weak = np.abs(np.linalg.eigh(correlation)[1][:, -1])
    return [fitted.labels[i] for i, share in zip(inside, weak, strict=True) if share > SHARE]


def as_formulas(fitted: Fitted) -> Refined:
    """Formulas with parameters."""
    model, reasons = fitted.model, doubts(fitted)
    return Refined(
        model.formulas,
        fitted.parameters(),
        inputs=model.driven,
        time=model.time,
        covariance=fitted.whole_covariance(),
        starts=fitted.starts,
        score=fitted.score,
        warnings=[*reasons, *(f"Note: {note}." for note in fitted.dataset.notes)],
        confident=not reasons,
        diagnostics=fitted.diagnostics(),
    )


def as_equations(equations: Equations, fitted: Fitted) -> Equations:
    """The same terms with refitted coefficients."""
    reasons = doubts(fitted)
    terms = [
        Term(term.equation, term.term, one.value, one.stderr)
        for term, one in zip(equations.terms, fitted.parameters(), strict=True)
    ]
    return Equations(
        equations.names,
        terms,
        inputs=equations.inputs,
        time=equations.time,
        covariance=fitted.whole_covariance(),
        score=fitted.score,
        warnings=[*reasons, *(f"Note: {note}." for note in fitted.dataset.notes)],
        confident=not reasons,
        diagnostics=fitted.diagnostics(),
    )
