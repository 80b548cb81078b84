"""Training by trajectories: Levenberg-Marquardt with a decay of the parameters set by evidence.

Families with more parameters than the data determine, such as networks and whole libraries, are
fitted by multiple shooting with a Gaussian prior on their parameters. MacKay's rule sets its
strength ``alpha`` from the number of parameters that the data determine, with the segment
states integrated out, so noisy or few data give smooth fields without a knob. Several models are
trained side by side, and the evidence tells which to keep. For a few coefficients of a chosen
model prefer `Shooting.fit`, which has no prior and so no bias.

Shapes: ``B`` models with ``k`` parameters, ``M`` segments, ``d`` states, ``c = M d + k`` unknowns.
Units: scaled; residuals are in units of the noise, parameters in those handed in.
Source: D. J. C. MacKay, "A practical Bayesian framework for backpropagation networks", Neural
    Computation 4(3), 1992, doi:10.1162/neco.1992.4.3.448.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

from odekit_sindy.dynamics import Dynamics
from odekit_sindy.least_squares import WARY, Normal, Trial, damped_step, descend
from odekit_sindy.models import Models
from odekit_sindy.shooting import Shooting

D = TypeVar("D", bound=Dynamics)

FIRST_DECAY = 1e-2
LEAST_DECAY, MOST_DECAY = 1e-4, 10.0
RENEWAL = 4
"""Accepted steps after which the decay is set anew."""

WARM_UP = 5
STALLED = 2e-3


class Training(Generic[D]):
    """Models fitted to trajectories under a prior.

    Args:
        shooting: the problem.
        models: parameters and segment states to begin with; not changed.
        sigma: noise level, ``(B, d)``.
        units: size that each parameter is expected to have, ``(k,)``; one by default.
        decay: first strength of the prior, one number or ``(B,)``.
    """

    def __init__(
        self,
        shooting: Shooting[D],
        models: Models,
        sigma: np.ndarray,
        units: np.ndarray | None = None,
        decay: np.ndarray | float = FIRST_DECAY,
    ) -> None:
        count, k = models.c.shape
        self.shooting = shooting
        self.models = models.pick(range(count))
        self.sigma = sigma
        self.units = np.ones(k) if units is None else units
        self.decay = np.broadcast_to(decay, count).astype(float)
        self.determined = np.zeros(count)
        """Number of parameters that the data determine, per model."""
        self.evidence = np.full(count, -np.inf)
        """Log evidence per model, up to a constant of the data and their segments."""

    def run(self, tightness: float, iterations: int = 25) -> None:
        """Fit all models side by side at one weight of the gaps, `WARM_UP` steps at least."""
        models, layout = self.models, self.shooting.layout
        k = models.c.shape[1]
        now = self.shooting.normal(models, self.sigma, tightness)

        def attempt(rows: np.ndarray, lam: np.ndarray) -> Trial:
            prior, g = self._prior(rows), now.g[rows]
            g[:, -k:] += prior[:, -k:] * models.c[rows]
            step = damped_step(now.h[rows], g, lam, prior)
            trial = models.pick(rows).moved(step, layout.low, layout.high)
            new = self.shooting.normal(trial, self.sigma[rows], tightness)
            before = now.cost[rows] + self._length(rows, models.c[rows])

            def keep(better: np.ndarray, taken: np.ndarray) -> None:
                models.put(rows[better], trial.pick(np.flatnonzero(better)))
                now.put(rows, new, better)
                for b in rows[better & (taken % RENEWAL == 0)]:
                    self._renew(int(b), now)

            return Trial(before, new.cost + self._length(rows, trial.c), keep)

        descend(attempt, len(models), iterations, STALLED, WARY, WARM_UP, self.shooting.stop)
        for b in range(len(models)):
            self._renew(b, now)

    @property
    def order(self) -> np.ndarray:
        """The models from the highest evidence to the lowest."""
        return np.argsort(-np.nan_to_num(self.evidence, nan=-np.inf), kind="stable")

    def _prior(self, rows: np.ndarray) -> np.ndarray:
        """Precision of each unknown, none for the segment states, ``(b, c)``."""
        states = self.models.start[0].size
        precision = self.decay[rows, None] / self.units**2
        return np.concatenate([np.zeros((len(rows), states)), precision], axis=1)

    def _length(self, rows: np.ndarray, c: np.ndarray) -> np.ndarray:
        """What the prior adds to the cost, ``(b,)``."""
        return np.asarray(self.decay[rows] * ((c / self.units) ** 2).sum(1))

    def _renew(self, b: int, now: Normal) -> None:
        """Set the decay of a model by MacKay's rule, and note its evidence."""
        alpha = self.decay[b]
        length = float(((self.models.c[b] / self.units) ** 2).sum())
        values, volume = marginal(now.h[b], self.models.start[0].size, self.units)
        spread = np.log(values + alpha).sum() - len(values) * np.log(alpha)
        layout = self.shooting.layout
        rows = layout.counts + layout.linked.sum()  # gaps are measured in the noise's unit too
        spread += 2 * (rows * np.log(self.sigma[b])).sum()
        self.evidence[b] = -0.5 * (now.cost[b] + alpha * length + spread + volume)
        self.determined[b] = (values / (values + alpha)).sum()
        share = self.determined[b] / max(length, 1e-300)
        self.decay[b] = np.clip(share, LEAST_DECAY, MOST_DECAY)


def marginal(h: np.ndarray, states: int, units: np.ndarray) -> tuple[np.ndarray, float]:
    """Curvature in the parameters once the states are free, and the states' log volume.

    Args:
        h: curvature in states and parameters, ``(c, c)``.
        states: number of states, the first rows.
        units: units of the parameters, ``(k,)``.

    Returns:
        Eigenvalues ``(k,)`` of the Schur complement in those units, and the log determinant of
        the states' block.
    """
    inner = h[:states, :states].copy()
    inner[np.diag_indices(states)] += 1e-9 * np.trace(inner) / states
    cross = h[:states, states:] * units
    schur = h[states:, states:] * units[:, None] * units - cross.T @ np.linalg.solve(inner, cross)
    values = np.maximum(np.linalg.eigvalsh(0.5 * (schur + schur.T)), 0.0)
    return values, float(np.linalg.slogdet(inner)[1])
