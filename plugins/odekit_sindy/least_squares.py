"""Levenberg-Marquardt, many nonlinear least-squares problems side by side: one loop for all.

What differs from caller to caller is how a damped step is made and tried, and that is handed in.
`odekit_sindy.shooting` fits models, `odekit_sindy.training` families under a prior that changes on
the way, `odekit_sindy.neural_smoother` slopes of networks; `minimise` is for problems that need no
integration. For a single one of those ``scipy.optimize.least_squares`` is the better choice.

Shapes: ``B`` problems, of which ``b`` are still at work, ``c`` unknowns, ``r`` residuals.
Source: J. J. More, "The Levenberg-Marquardt algorithm: implementation and theory", Numerical
    Analysis, Lecture Notes in Mathematics 630, 1978, doi:10.1007/BFb0067700, for the damping in
    proportion to the diagonal. The factors are our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, final

import numpy as np

from odekit_sindy.budget import Stop, never

TRIES = 6
"""Failures in a row after which a problem is given up."""

NUMERICAL = 1e-5
"""Share of its cost below which a gain in `minimise` counts as none."""


@final
@dataclass(frozen=True)
class Schedule:
    """How the damping changes.

    Attributes:
        first: damping to begin with.
        less: divisor after a step that is better.
        more: factor after one that is not.
        least: smallest damping after a success.
        renewed: smallest damping after a failure.
    """

    first: float
    less: float
    more: float
    least: float
    renewed: float = 0.0


BOLD = Schedule(1e-3, 6.0, 8.0, 1e-9, 1e-8)
"""For models with a few coefficients, near their minimum."""

WARY = Schedule(1e-2, 5.0, 6.0, 1e-8)
"""For families with many parameters, begun anywhere."""


@final
class Trial(NamedTuple):
    """One attempt at every problem still at work.

    Attributes:
        before: costs, ``(b,)``.
        after: costs after the step, ``(b,)``.
        keep: told which steps are better, ``(b,)``, and how many each problem has taken, ``(b,)``.
    """

    before: np.ndarray
    after: np.ndarray
    keep: Callable[[np.ndarray, np.ndarray], object]


Attempt: TypeAlias = Callable[[np.ndarray, np.ndarray], Trial]
"""Problems ``(b,)`` and their damping ``(b,)`` to a step of each."""


def descend(
    attempt: Attempt,
    count: int,
    iterations: int,
    tolerance: float,
    schedule: Schedule,
    patience: int = 0,
    stop: Stop = never,
) -> None:
    """Levenberg-Marquardt on all problems, each with its own damping.

    A problem is done after ``iterations`` accepted steps, when one of them gains less than
    ``tolerance`` of the cost, or when `TRIES` attempts in a row failed.

    Args:
        attempt: makes and tries one step of each problem, and keeps what it is told to.
        count: number of problems.
        iterations: accepted steps at most.
        tolerance: smallest gain, relative to the cost.
        schedule: of the damping.
        patience: accepted steps during which a small gain ends nothing.
        stop: asked before each attempt; once it says true, all stay where they are.
    """
    lam = np.full(count, schedule.first)
    failures, taken = np.zeros(count, int), np.zeros(count, int)
    alive = np.arange(count)
    while len(alive) and not stop():
        trial = attempt(alive, lam[alive])
        better = trial.after < trial.before
        won, lost = alive[better], alive[~better]
        lam[won] = np.maximum(lam[won] / schedule.less, schedule.least)
        lam[lost] = np.maximum(lam[lost] * schedule.more, schedule.renewed)
        failures[won], failures[lost] = 0, failures[lost] + 1
        taken[won] += 1
        trial.keep(better, taken[alive])
        small = better & (trial.before - trial.after < tolerance * trial.before)
        over = (taken[alive] >= iterations) | (failures[alive] >= TRIES)
        alive = alive[~over & ~(small & (taken[alive] > patience))]


@final
@dataclass(frozen=True)
class Normal:
    """Gauss-Newton equations of ``B`` problems: ``cost (B,)``, ``h (B, c, c)``, ``g (B, c)``."""

    cost: np.ndarray
    h: np.ndarray
    g: np.ndarray

    @classmethod
    def of(cls, r: np.ndarray, jac: np.ndarray) -> Normal:
        """From residuals ``(B, r)`` and their Jacobian ``(B, r, c)``."""
        turned = jac.transpose(0, 2, 1)
        return cls((r**2).sum(1), turned @ jac, (turned @ r[:, :, None])[:, :, 0])

    def put(self, rows: np.ndarray, other: Normal, better: np.ndarray) -> None:
        """Take over, for the problems ``rows (b,)``, what is ``better (b,)`` of ``other``."""
        won = rows[better]
        self.cost[won] = other.cost[better]
        self.h[won] = other.h[better]
        self.g[won] = other.g[better]


def damped_step(
    h: np.ndarray, g: np.ndarray, lam: np.ndarray, prior: np.ndarray | None = None
) -> np.ndarray:
    """Solve ``(H + prior + lam diag H) step = -g`` for each problem, ``(b, c)``.

    Args:
        h: curvature without the prior, ``(b, c, c)``.
        g: gradient, the prior's part of it included, ``(b, c)``.
        lam: damping, ``(b,)``.
        prior: precision of each unknown, ``(b, c)``. With a prior, unknowns that the data say
            little about are damped by a share of the mean as well, so that a family with more
            parameters than data does not jump along them; without one the matrix is kept from
            being singular, no more.
    """
    at = np.arange(h.shape[1])
    diagonal = h[:, at, at]
    tiny = 1e-12 * diagonal.sum(1, keepdims=True) / len(at) + 1e-300
    own, extra = diagonal, tiny
    if prior is not None:
        own, extra = diagonal + 1e-3 * diagonal.mean(1, keepdims=True) + 1e-300, prior
    a = h.copy()
    a[:, at, at] += extra + lam[:, None] * own
    try:
        step = -np.linalg.solve(a, g[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        a[:, at, at] += 1e-6 * own + 1e3 * tiny
        step = -np.linalg.solve(a, g[:, :, None])[:, :, 0]
    return np.asarray(np.nan_to_num(step))


Residual: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Numbers ``(b, c)`` to residuals ``(b, r)`` and their Jacobian ``(b, r, c)``."""


def minimise(
    residual: Residual, theta: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise sums of squares from several starts side by side.

    Args:
        residual: what to make small, row by row.
        theta: starts, ``(B, c)``.
        iterations: accepted steps at most.

    Returns:
        The minimisers ``(B, c)`` and their sums of squares ``(B,)``.
    """
    theta = theta.copy()
    now = Normal.of(*residual(theta))
    if not theta.shape[1]:
        return theta, now.cost

    def attempt(rows: np.ndarray, lam: np.ndarray) -> Trial:
        trial = theta[rows] + damped_step(now.h[rows], now.g[rows], lam)
        new = Normal.of(*residual(trial))

        def keep(better: np.ndarray, _: np.ndarray) -> None:
            theta[rows[better]] = trial[better]
            now.put(rows, new, better)

        return Trial(now.cost[rows], new.cost, keep)

    descend(attempt, len(theta), iterations, NUMERICAL, WARY)
    return theta, now.cost
