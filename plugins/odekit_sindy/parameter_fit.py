"""The stages of a fit of parameters: smoothing, guess, loose fits, the tight fit, its covariance.

`odekit_sindy.refinement` is the way in, and `odekit_sindy.refined_evidence` judges what comes out.

Shapes: ``B`` starts, ``d`` states of the model, ``k`` free parameters, ``M`` segments.
Units: scaled inside, the caller's outside.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TypeAlias, final

import numpy as np

from odekit import ProblemError
from odekit_sindy.budget import Budget
from odekit_sindy.data import Dataset, Scales, scaled
from odekit_sindy.first_guess import FirstGuess, Guess
from odekit_sindy.formula_dynamics import Box, FormulaDynamics
from odekit_sindy.formula_model import FormulaModel
from odekit_sindy.layout import INTERVALS, Layout, arrange
from odekit_sindy.models import Models
from odekit_sindy.noise_shape import proportional
from odekit_sindy.outcome import Outcome, Tight, Units
from odekit_sindy.refit import uncertainty, unseen
from odekit_sindy.shooting import FLOOR, Shooting
from odekit_sindy.smoothing import MARGIN, Smoothed, smooth
from odekit_sindy.starts import characteristic_time

Problem: TypeAlias = Shooting[FormulaDynamics]

STARTS = 5
LOOSE = (1.0, 10.0, 100.0)
ITERATIONS = 15
ROUNDS = 6
SETTLED = 0.02
"""Change of a parameter from round to round, in standard errors, that ends the fit."""

WIDE = 1e3
"""Bounds of hidden states, in units of their size."""

AS_GOOD = 4.0
"""Difference in twice the log likelihood up to which another start's fit counts as good."""


@final
class ParameterFit:
    """One fit, stage by stage.

    Args:
        model: what to fit.
        dataset: the data, in the caller's units.
        budget: time limit and listener.
        noise: ``"auto"``, or one of `odekit_sindy.smoothing.MODELS`.
        seed: for the starts that are drawn.
    """

    def __init__(
        self, model: FormulaModel, dataset: Dataset, budget: Budget, noise: str, seed: int
    ) -> None:
        self.model, self.budget, self.seed = model, budget, seed
        steps = np.concatenate([np.diff(part.t) for part in dataset.trajectories])
        plain = Scales(dataset.std, np.ones(len(dataset.inputs)), float(steps.mean()))
        self.original, self.dataset = dataset, scaled(dataset, plain)
        self.noises, self.evidence = smooth(
            self.dataset, noise, lambda share: budget.tell("smoothing", share)
        )
        self.smoothed: Smoothed = self.noises[0]
        observed = np.array([model.states.index(name) for name in dataset.names])
        state = np.full(len(model.states), float(np.exp(np.log(dataset.std).mean())))
        state[observed] = dataset.std
        self.units = Units(replace(plain, state=state), observed)
        self.dynamics = FormulaDynamics(
            model.rights, model.states, dataset.inputs, model.free, model.held,
            self.units.scales, self._box(np.ones(len(model.free))),
        )  # fmt: skip

    def _box(self, unit: np.ndarray) -> Box:
        free, bounds = self.model.free, self.model.bounds
        even = (0.0, np.inf)
        pairs = [
            bounds.get(name, even if name in self._even else (-np.inf, np.inf)) for name in free
        ]
        low, high = np.array(pairs, float).reshape(-1, 2).T
        return Box(low, high, unit)

    @cached_property
    def _even(self) -> set[str]:
        """Parameters whose sign changes nothing, as of a frequency in a cosine."""
        import sympy

        symbols = {name: sympy.Symbol(name) for name in self.model.free}
        return {
            name
            for name, symbol in symbols.items()
            if all(e.xreplace({symbol: -symbol}) == e for e in self.model.rights)
            and self.model.start.get(name, 1.0) >= 0
        }

    def run(self) -> Outcome:
        """Guess, fit from several starts, fit the best to the end."""
        self.budget.tell("first guess", 0.0)
        guess = self._guess()
        self._rescale(guess)
        self.budget.tell("fit: several starts", 0.3)
        shooting = self._shooting(self.dynamics)
        models = self.dynamics.models(guess.parameters, self._starts(shooting.layout, guess))
        shooting.substeps = max(3, min(8, shooting.choose_substeps(
            models.pick([0]), np.full((1, self.dynamics.dim), 0.05)
        )))  # fmt: skip
        models = self._loose(shooting, models)
        cost = self._cost(shooting, models)
        order = np.argsort(cost, kind="stable")
        self.budget.tell("fit: the best start", 0.7)
        best = self._tight(shooting, models.pick([order[0]]))
        rivals = self.dynamics.parameters(models)[cost < cost.min() + AS_GOOD]
        shooting, best = self._other_noise(shooting, best)
        return Outcome(
            self.model, self.original, self.dataset, self.smoothed, dict(self.evidence),
            self.units, shooting, self._layout(None), best,
            self.dynamics.parameters(best.models)[0], rivals, self.budget.cut,
        )  # fmt: skip

    def _guess(self) -> Guess:
        model, scales, dynamics = self.model, self.units.scales, self.dynamics
        slow = characteristic_time(self.smoothed.samples) * scales.time
        sizes = [1.0, slow, 1 / slow, *scales.state, *(1 / scales.state), *(scales.state / slow)]
        hidden = [model.states[i] for i in self.units.hidden]
        start = {i: model.start[n] for i, n in enumerate(model.free) if n in model.start}
        first = {
            i: model.start[name] / scales.state[self.units.hidden[i]]
            for i, name in enumerate(hidden)
            if name in model.start
        }
        never_negative = bool(np.nanmin(self.original.stacked) >= 0)
        positive = [never_negative or model.bounds.get(n, (-1.0, 0.0))[0] >= 0 for n in hidden]
        guess = FirstGuess(
            dynamics, self.smoothed.samples, self.units.observed, start, first, positive,
            np.array(sizes), np.random.default_rng(self.seed),
        ).candidates(STARTS)  # fmt: skip
        self._check_values(guess)
        if len(start) == dynamics.size and dynamics.size:
            given = np.array([[start[i] for i in range(dynamics.size)]])
            guess = Guess(
                np.concatenate([guess.parameters, given]),
                np.concatenate([guess.hidden, guess.hidden[:, :, :1]], axis=2),
            )
        return guess

    def _check_values(self, guess: Guess) -> None:
        """Refuse a model that has no value at the data, whatever its parameters."""
        if len(self.units.hidden):
            return
        samples = self.smoothed.samples
        point = np.concatenate([samples.x, samples.u], axis=1).T
        points = np.broadcast_to(point, (len(guess.parameters), *point.shape))
        defined = np.isfinite(self.dynamics.slopes(guess.parameters, points)).any((0, 2))
        for name, good in zip(self.model.states, defined, strict=True):
            if not good:
                raise ProblemError(
                    f"model: {name}' = {self.model.formulas[name]} has no real value at the data: "
                    "look for a logarithm or a root of something negative, or a division by zero"
                )

    def _rescale(self, guess: Guess) -> None:
        """Units of parameters and hidden states from the best candidate."""
        size = np.abs(guess.parameters[0]) if len(guess.parameters) else np.zeros(0)
        typical = np.median(np.abs(guess.parameters), axis=0)
        unit = np.where(size > 0, size, np.where(typical > 0, typical, 1.0))
        state = self.units.scales.state.copy()
        factor = np.ones(len(self.units.hidden))
        for i, j in enumerate(self.units.hidden):
            largest = float(np.abs(guess.hidden[:, :, 0, i]).max())
            factor[i] = largest if 1e-6 < largest < 1e3 else 1.0
            state[j] *= factor[i]
        guess.hidden[...] /= factor
        self.units = replace(self.units, scales=replace(self.units.scales, state=state))
        self.dynamics = self.dynamics.rescaled(self.units.scales, self._box(unit))

    def _layout(self, intervals: int | None) -> Layout:
        """The data by segment, with rows for the hidden states that nothing was seen of."""
        plain = arrange(self.dataset, self.smoothed.shape, intervals)
        d, observed = self.dynamics.dim, self.units.observed
        low, high, counts = np.full(d, -WIDE), np.full(d, WIDE), np.ones(d, int)
        y = np.zeros((len(plain.y), d, plain.segments))
        weight = np.zeros_like(y)
        y[:, observed], weight[:, observed] = plain.y, plain.weight
        low[observed], high[observed], counts[observed] = plain.low, plain.high, plain.counts
        for i, name in enumerate(self.model.states):
            if i not in observed and name in self.model.bounds:
                pair = np.array(self.model.bounds[name]) / self.units.scales.state[i]
                low[i], high[i] = max(low[i], pair[0]), min(high[i], pair[1])
        return replace(plain, y=y, weight=weight, low=low, high=high, counts=counts)

    def _shooting(self, dynamics: FormulaDynamics) -> Problem:
        return Shooting(self._layout(INTERVALS), dynamics, floor=FLOOR, stop=self.budget.late)

    def _starts(self, layout: Layout, guess: Guess) -> np.ndarray:
        """Segment states of each candidate, ``(B, d, M)``."""
        out = []
        for b in range(len(guess.parameters)):
            rows = []
            for i, part in enumerate(self.dataset.trajectories):
                states = np.zeros((len(part.t), self.dynamics.dim))
                states[:, self.units.observed] = self.smoothed.states[i]
                grid = np.linspace(part.t[0], part.t[-1], guess.hidden.shape[1])
                for h, j in enumerate(self.units.hidden):
                    states[:, j] = np.interp(part.t, grid, guess.hidden[i, :, b, h])
                rows.append(self._defined(states, part.u, guess.parameters[b]))
            out.append(layout.starts(tuple(rows)))
        return np.stack(out)

    def _defined(self, states: np.ndarray, u: np.ndarray, p: np.ndarray) -> np.ndarray:
        """States ``(n, d)`` at which the model has a slope: others become the nearest such row.

        Noise may carry a smoothed state out of the domain of a logarithm or a root.
        """
        point = np.concatenate([states, u], axis=1).T[None]
        good = np.isfinite(self.dynamics.slopes(p[None], point)[0]).all(0)
        if good.all() or not good.any():
            return states
        rows = np.arange(len(states))
        near = np.flatnonzero(good)
        return np.asarray(states[near[np.abs(rows[:, None] - near).argmin(1)]])

    def _noise(self, shooting: Problem, models: Models) -> np.ndarray:
        """Noise level from the residuals ``(B, d)``; hidden states take the others' mean."""
        sigma = shooting.noise(models)
        sigma[:, self.units.hidden] = sigma[:, self.units.observed].mean(1, keepdims=True)
        return sigma

    def _loose(self, shooting: Problem, models: Models) -> Models:
        sigma = np.ones((len(models), self.dynamics.dim))
        for tightness in LOOSE:
            models = shooting.fit(models, sigma, tightness, ITERATIONS)
        for tightness in LOOSE[1:]:
            models = shooting.fit(models, self._noise(shooting, models), tightness, ITERATIONS)
        return models

    def _cost(self, shooting: Problem, models: Models) -> np.ndarray:
        """Twice the negative log likelihood of each model, gaps counted as errors, ``(B,)``."""
        rss, gaps = shooting.statistics(models)
        observed = self.units.observed
        counts = shooting.layout.counts[observed]
        gap = gaps[:, observed] + gaps[:, self.units.hidden].sum(1, keepdims=True)
        v = rss[:, observed] / counts + shooting.floor**2 + 10 * gap / counts
        return np.asarray(np.nan_to_num((counts * np.log(v)).sum(1), nan=np.inf))

    def _tight(self, shooting: Problem, models: Models) -> Tight:
        """The last rounds: closed gaps, fine steps, noise from the residuals."""
        before = np.full(self.dynamics.size, np.inf)
        models = shooting.fit(models, self._noise(shooting, models), LOOSE[-1], ITERATIONS)
        for _ in range(ROUNDS):
            sigma = self._noise(shooting, models)
            shooting.substeps = shooting.choose_substeps(models, sigma, share=0.01)
            models = shooting.fit(models, sigma, 1000.0, ITERATIONS, tolerance=1e-7)
            tight = self._covariance(shooting, models)
            now = self.dynamics.parameters(models)[0]
            known = np.nan_to_num(np.diag(tight.covariance), nan=np.inf)
            spread = np.sqrt(known) + 1e-9 * np.abs(now) + 1e-300
            settled = bool(np.all(np.abs(now - before) < SETTLED * spread))
            before = now
            if settled or self.budget.over:
                break
        return tight

    def _other_noise(self, shooting: Problem, best: Tight) -> tuple[Problem, Tight]:
        """The fit under another noise model, if its residuals speak for that one.

        The smoother's evidence mixes how well each model describes the noise with how well its
        curves describe the signal; residuals about a fitted model know the noise alone.
        """
        if len(self.noises) < 2 or self.budget.over:
            return shooting, best
        nodes, _ = shooting.integrate(best.models)
        states = np.concatenate(shooting.layout.at_rows(nodes[:, 0]))[:, self.units.observed]
        error = self.dataset.stacked - states
        size = proportional(states)
        flat, level = (_log_likelihood(error, h) for h in (np.ones_like(size), size))
        wanted = "additive" if flat > level else "multiplicative"
        # Log-normal and multiplicative noise are one model where the noise is small.
        if abs(flat - level) < MARGIN or (self.smoothed.kind == "additive") == (flat > level):
            return shooting, best
        now = self.smoothed
        self.smoothed = next(model for model in self.noises if model.kind == wanted)
        again = self._shooting(self.dynamics)
        again.substeps = shooting.substeps
        other = self._tight(again, best.models)
        if self._likelihood(again, other.models) > self._likelihood(shooting, best.models):
            return again, other
        self.smoothed = now
        return shooting, best

    def _likelihood(self, shooting: Problem, models: Models) -> float:
        return -float(self._cost(shooting, models)[0]) / 2 - shooting.layout.log_shape

    def _covariance(self, shooting: Problem, fitted: Models) -> Tight:
        p = self.dynamics.parameters(fitted)[0]
        free = self.model.free
        held = self.dynamics.box.reached(p)
        unit = np.where(p[~held] != 0, np.abs(p[~held]), self.dynamics.box.unit[~held])
        endless = np.full(len(unit), np.inf)
        box = Box(-endless, endless, unit)
        dynamics = self.dynamics
        if held.any():
            fixed = {name: float(p[i]) for i, name in enumerate(free) if held[i]}
            dynamics = FormulaDynamics(
                dynamics.rights, *dynamics.names[:2],
                [name for name in free if name not in fixed],
                {**dynamics.held, **fixed}, self.units.scales, box,
            )  # fmt: skip
        plain = Shooting(
            shooting.layout, dynamics.rescaled(self.units.scales, box), shooting.substeps
        )
        models = plain.dynamics.models(p[None, ~held], fitted.start)
        covariance = np.zeros((len(p), len(p)))
        part, _ = uncertainty(plain, models)
        covariance[np.ix_(~held, ~held)] = part * np.outer(unit, unit)
        silent, tied = np.zeros(len(p), dtype=bool), np.zeros(len(p), dtype=bool)
        silent[~held], tied[~held], condition = unseen(plain, models)
        # A pseudo-inverse would call known what no data tell.
        covariance[silent | tied] = covariance[:, silent | tied] = np.nan
        return Tight(fitted, covariance, held, silent, tied, condition, plain, models)


def _log_likelihood(error: np.ndarray, shape: np.ndarray) -> float:
    """Of residuals ``(rows, d)``, NaN where nothing was seen, under noise of this shape."""
    seen = np.isfinite(error)
    count = seen.sum(0)
    level = np.sqrt((np.where(seen, error / shape, 0.0) ** 2).sum(0) / count + FLOOR**2)
    return float(-(count * np.log(level)).sum() - np.log(shape[seen]).sum())
