"""What the verdict looks at, for a model whose structure was given and not searched for.

The rules are those of `odekit_sindy.verdict`, so that the same equations on the same data are
judged alike, found or given. What differs is what there is to see: no structure was visited beside
the given one, so whatever else might explain the data is asked of `odekit_sindy.specification`,
which needs no search. A parameter in which the formulas are linear is a coefficient and pays the
price of a term; others, such as a frequency or a half-saturation, have no value that means
"without", and are only asked how well they are known.

Shapes: ``d`` states of the model, ``k`` free parameters, ``n`` rows of a trajectory.
Units: scaled, but for the parameters, which are in the caller's units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np

from odekit_sindy import residuals
from odekit_sindy.holdout import HeldOut, left_out_in_turn
from odekit_sindy.identifiability import Setting, loose_directions, too_slow, turning
from odekit_sindy.outcome import Outcome
from odekit_sindy.refit import SHARE
from odekit_sindy.search import Fitted
from odekit_sindy.shooting import FLOOR, Shooting
from odekit_sindy.specification import Findings, examine
from odekit_sindy.verdict import ILL, Evidence

MOST_SUBSTEPS = 64
HIGHEST = 3
"""Degree that a coefficient of anything but a polynomial is charged for."""

VISIBLE = 1e-3
"""Residual, relative to a state's standard deviation, below which integration errors are let be."""


@final
@dataclass(frozen=True)
class Coefficient:
    """A free parameter without which an equation could do.

    Attributes:
        index: its place among the free parameters.
        label: what it multiplies, in words.
        places: equations that it occurs in.
        price: what the criterion charges for it.
    """

    index: int
    label: str
    places: tuple[int, ...]
    price: float


@final
class Weighing:
    """The evidence for and against a fitted model.

    Args:
        outcome: of the fit.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._nodes = outcome.shooting.integrate(outcome.tight.models)[0]

    @cached_property
    def states(self) -> tuple[np.ndarray, ...]:
        """Fitted states at the rows of each trajectory, hidden ones among them, ``(n, d)``."""
        return self.outcome.shooting.layout.at_rows(self._nodes[:, 0])

    @cached_property
    def rms(self) -> np.ndarray:
        """Residual of each observed state over the noise's shape."""
        shooting, observed = self.outcome.shooting, self.outcome.units.observed
        rss, _ = shooting.statistics(self.outcome.tight.models)
        return np.asarray(np.sqrt(rss[0, observed] / shooting.layout.counts[observed]))

    @property
    def sigma(self) -> np.ndarray:
        """Noise level of each observed state, as the smoother sees it."""
        return np.asarray(np.maximum(self.outcome.smoothed.sigma, 3 * FLOOR))

    @property
    def rough(self) -> float:
        """Error of the integration over the residuals."""
        shooting, observed = self.outcome.shooting, self.outcome.units.observed
        fine, _ = shooting.integrate(self.outcome.tight.models, substeps=2 * shooting.substeps)
        error = np.abs(fine - self._nodes)[:, 0, observed].max()
        return float(error / max(self.rms.max(), VISIBLE))

    @property
    def spread(self) -> np.ndarray:
        """Standard errors of the free parameters, ``(k,)``."""
        return np.asarray(np.sqrt(np.diag(self.outcome.tight.covariance)))

    @cached_property
    def coefficients(self) -> list[Coefficient]:
        """The free parameters that are coefficients and off their bounds."""
        model, tight = self.outcome.model, self.outcome.tight
        data = math.log(int(self.outcome.original.counts.sum()))
        out = []
        for i, name in enumerate(model.free):
            slopes = model.slopes(name)
            if tight.at_bound[i] or tight.silent[i] or slopes is None:
                continue
            crowd = max(self._crowd(slope) for slope in slopes.values())
            price = data + 2 * math.log(crowd)
            out.append(Coefficient(i, model.worded(name), tuple(slopes), price))
        return out

    def _crowd(self, slope: Any) -> int:
        """Number of functions that compete with one of this kind."""
        import sympy

        model = self.outcome.model
        variables = sympy.symbols((*model.states, *self.outcome.dataset.inputs))
        degree = HIGHEST
        if slope.is_polynomial(*variables):
            degree = max(int(sympy.Poly(slope, *variables).total_degree()), 1)
        return math.comb(len(variables) + degree, degree)

    def evidence(self) -> Evidence:
        """All that the verdict looks at."""
        outcome, tight = self.outcome, self.outcome.tight
        data, smoothed, observed = outcome.dataset, outcome.smoothed, outcome.units.observed
        seen = [x[:, observed] for x in self.states]
        simulated = [x[:, observed] for x in self._simulated()]
        level = np.maximum(self.rms, self.sigma)
        held = self._predicted()
        own = [one.index for one in self.coefficients]
        strength = (outcome.values[own] / np.maximum(self.spread[own], 1e-300)) ** 2
        setting = Setting(len(data.trajectories), data.names, turning(data), False, {})
        return Evidence(
            names=data.names,
            rms=self.rms,
            sigma=self.sigma,
            limit=residuals.limits(data, smoothed.states, smoothed.shape, smoothed.sigma),
            memory=residuals.memory(data, seen, smoothed.shape),
            chance=residuals.whiteness(data, seen, smoothed.shape),
            condition=tight.condition,
            gains=strength - [one.price for one in self.coefficients],
            labels=tuple(outcome.model.labels[outcome.model.free[i]] for i in own),
            confusions=(),
            loose=self._loose(),
            findings=self._findings(),
            weight=1.0,
            score=residuals.r2(data, simulated),
            excess=residuals.excess(data, simulated, smoothed.shape, level),
            data=int(data.counts.sum()),
            numbers=len(outcome.values) + len(outcome.model.states) * len(data.trajectories),
            cut=outcome.cut,
            slow=too_slow(setting),
            tied=self._tied(),
            given=True,
            predicted={} if held is None else held.by_index,
            predicted_excess={} if held is None else held.excess(level),
        )

    def _simulated(self) -> tuple[np.ndarray, ...]:
        """States from the fitted starts, each trajectory in one go."""
        outcome, shooting = self.outcome, self.outcome.shooting
        whole = Shooting(
            outcome.whole, shooting.dynamics, min(2 * shooting.substeps, MOST_SUBSTEPS)
        )
        alone = replace(outcome.tight.models, start=outcome.whole.starts(self.states)[None])
        return outcome.whole.at_rows(whole.integrate(alone)[0][:, 0])

    def _predicted(self) -> HeldOut | None:
        """Each of several trajectories predicted by the others, if every state was observed."""
        outcome, free = self.outcome, self.outcome.tight.free
        if len(outcome.units.hidden) or outcome.cut:
            return None
        inside = outcome.tight.inside
        return left_out_in_turn(
            inside, free.support(0), free.values(0), self.states, outcome.dataset,
            outcome.smoothed.shape,
        )  # fmt: skip

    def _findings(self) -> Findings:
        """What would explain more than the model, or as much in place of one of its parts."""
        outcome = self.outcome
        tight, model, inside = outcome.tight, outcome.model, outcome.tight.inside
        by_index = {one.index: one for one in self.coefficients}
        rows = [by_index.get(int(i)) for i in np.flatnonzero(~tight.at_bound)]
        rms = np.sqrt(inside.layout.mean_square(inside.statistics(tight.free)[0][0]))
        rms[outcome.units.hidden] = rms[outcome.units.observed].mean()
        fitted = Fitted(
            tight.free.support(0), tight.free.values(0), tight.free.start[0],
            np.sqrt(rms**2 + inside.floor**2), rms, 0.0,
        )  # fmt: skip
        price = max((one.price for one in self.coefficients), default=self._least_price())
        return examine(
            inside, fitted, model.states, [one.label if one else "" for one in rows], (), price,
            [one.places if one else () for one in rows],
        )  # fmt: skip

    def _least_price(self) -> float:
        return math.log(int(self.outcome.original.counts.sum())) + 2 * math.log(
            1 + len(self.outcome.model.states)
        )

    def _loose(self) -> list[str]:
        """Sentences on coefficients that are known only together."""
        model, own = self.outcome.model, [one.index for one in self.coefficients]
        labels = [model.terms.get(model.free[i], model.labels[model.free[i]]) for i in own]
        covariance = self.outcome.tight.covariance[np.ix_(own, own)]
        return loose_directions(self.outcome.values[own], covariance, labels)

    def _tied(self) -> Sequence[str]:
        """Parameters along the direction that the data say least about, if that is very little."""
        tight, model = self.outcome.tight, self.outcome.model
        inside = np.flatnonzero(~(tight.at_bound | tight.silent))
        if tight.tied.any():
            return [model.labels[model.free[i]] for i in np.flatnonzero(tight.tied)]
        if len(inside) < 2 or tight.condition <= ILL:
            return ()
        spread = self.spread[inside]
        correlation = tight.covariance[np.ix_(inside, inside)] / np.outer(spread, spread)
        weak = np.abs(np.linalg.eigh(correlation)[1][:, -1])
        return [
            model.labels[model.free[i]]
            for i, share in zip(inside, weak, strict=True)
            if share > SHARE
        ]
