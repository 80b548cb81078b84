"""From a fit of parameters to the object that `odekit.refine` returns, and its doubts in words.

Doubts about the fit and the structure are those of `odekit_sindy.verdict`, as for discovered
equations; here are those that only parameters give rise to.

Shapes: ``k`` free parameters, ``K`` parameters with those held.
Units: the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import numpy as np

from odekit import Equations, Term
from odekit.differences import listed
from odekit.refined import Parameter, Refined
from odekit_sindy import verdict
from odekit_sindy.outcome import Outcome
from odekit_sindy.rational_report import row, short
from odekit_sindy.refined_evidence import Weighing
from odekit_sindy.refit import degrees_of_freedom

OPEN = 0.5
"""Standard error, relative to the value, beyond which a parameter is hardly determined."""

DIFFERENT = 5.0
ROUGH = 0.3


@final
class RefinedReport:
    """A fit in the caller's units, judged.

    Args:
        outcome: of the fit.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome, self.model = outcome, outcome.model
        self.weighing = Weighing(outcome)
        self.seen = self.weighing.evidence()
        self.judged = verdict.judge(self.seen)
        self.reasons = [*self.judged.doubts, *self._doubts()]

    @property
    def warnings(self) -> list[str]:
        """The doubts, then notes on the data."""
        return [*self.reasons, *(f"Note: {note}." for note in self.outcome.original.notes)]

    def parameters(self) -> list[Parameter]:
        """All parameters in the model's order."""
        tight, spread, out = self.outcome.tight, self.weighing.spread, []
        for name in self.model.parameters:
            if name in self.model.held:
                out.append(Parameter(name, self.model.held[name], 0.0, True))
                continue
            i = self.model.free.index(name)
            known = not tight.at_bound[i] and np.isfinite(spread[i])
            error = float(spread[i]) if known else None
            out.append(Parameter(name, float(self.outcome.values[i]), error))
        return out

    def covariance(self) -> np.ndarray:
        """Covariance of all parameters, ``(K, K)``; held ones have rows of zeros."""
        at = [self.model.parameters.index(name) for name in self.model.free]
        out = np.zeros((len(self.model.parameters),) * 2)
        out[np.ix_(at, at)] = self.outcome.tight.covariance
        return out

    @property
    def degrees_of_freedom(self) -> float:
        """Of the residuals; parameters at a bound and those without effect were not fitted."""
        idle = int((self.outcome.tight.at_bound | self.outcome.tight.silent).sum())
        return degrees_of_freedom(self.outcome.dataset.counts, self.seen.numbers - idle)

    def diagnostics(self) -> dict[str, Any]:
        """What was seen on the way; names as in the diagnostics of a discovery."""
        seen, data = self.seen, self.outcome.original
        unit = self.outcome.units.scales.state[self.outcome.units.observed]
        level = self.weighing.sigma

        def by_state(values: Iterable[float]) -> dict[str, float]:
            return dict(zip(data.names, map(float, values), strict=True))

        return {
            "noise": self.outcome.smoothed.kind,
            "noise_evidence": {kind: float(v) for kind, v in self.outcome.evidence.items()},
            "sigma": by_state(level * unit),
            "rms": by_state(seen.rms * unit),
            "rms_over_sigma": by_state(seen.rms / level),
            "residual_memory": by_state(seen.memory),
            "residual_chance": by_state(seen.chance),
            "condition": float(seen.condition),
            "substeps": int(self.outcome.shooting.substeps),
            "points": data.rows,
            "values": seen.data,
            "trajectories": len(data.trajectories),
            "complete": not seen.cut,
            "fits": self.judged.fits,
            "hidden": [name for name in self.model.states if name not in data.names],
        }

    def _doubts(self) -> list[str]:
        """What only parameters give rise to, one sentence each."""
        out, tight = [], self.outcome.tight
        labels = [self.model.labels[name] for name in self.model.free]
        spread, values = self.weighing.spread, self.outcome.values
        bound = [labels[i] for i in np.flatnonzero(tight.at_bound)]
        if bound:
            out.append(f"At a bound, and held there for the errors of the others: {listed(bound)}.")
        silent = [labels[i] for i in np.flatnonzero(tight.silent)]
        if silent:
            out.append(f"Nothing in these data depends on {listed(silent)}: hold what you know.")
        inside = np.flatnonzero(~(tight.at_bound | tight.silent))
        size = np.maximum(np.abs(values), 1e-300)
        coefficients = {one.index for one in self.weighing.coefficients}
        loose = [labels[i] for i in inside if spread[i] > OPEN * size[i] and i not in coefficients]
        if loose and not self.seen.tied:
            out.append(f"Hardly determined by these data: {listed(loose)}.")
        far = [
            rival
            for rival in self.outcome.rivals
            if np.any(np.abs(rival - values)[inside] > (DIFFERENT * spread + 1e-3 * size)[inside])
        ]
        if far and not self.seen.tied:
            rival = listed(f"{labels[i]} = {far[0][i]:.4g}" for i in range(len(labels)))
            out.append(f"Another set of parameters fits as well: {rival}.")
        if self.weighing.rough > ROUGH:
            out.append(
                "The model moves too fast between the rows to be integrated well: sample more "
                "often."
            )
        return out

    def as_formulas(self) -> Refined:
        """Formulas with parameters."""
        return Refined(
            self.model.formulas,
            self.parameters(),
            inputs=self.model.driven,
            time=self.model.time,
            covariance=self.covariance(),
            degrees_of_freedom=self.degrees_of_freedom,
            starts=np.stack([x[0] for x in self.weighing.states]) * self.outcome.units.scales.state,
            score=self.seen.score,
            warnings=self.warnings,
            confident=not self.reasons,
            diagnostics=self.diagnostics(),
        )

    def as_equations(self, equations: Equations) -> Equations:
        """The same terms with refitted coefficients, and refitted numbers in denominators."""
        fitted = {one.name: one for one in self.parameters()}
        below = self.model.denominators
        numbers = [] if below is None else below.numbers
        shown = {n.name: short(fitted[n.name].value, fitted[n.name].stderr) for n in numbers}
        terms = []
        for term, name in zip(equations.terms, self.model.parameters, strict=False):
            text = term.term if below is None else below.refilled(name, term.term, shown)
            terms.append(Term(term.equation, text, fitted[name].value, fitted[name].stderr))
        free = self.degrees_of_freedom
        rows = [
            row(n.equation, n.term, fitted[n.name].value, fitted[n.name].stderr, free)
            for n in numbers
        ]
        count = len(terms)
        return Equations(
            equations.names,
            terms,
            inputs=equations.inputs,
            time=equations.time,
            covariance=self.covariance()[:count, :count],
            degrees_of_freedom=self.degrees_of_freedom,
            score=self.seen.score,
            warnings=self.warnings,
            confident=not self.reasons,
            diagnostics=self.diagnostics() | ({"denominators": rows} if rows else {}),
        )
