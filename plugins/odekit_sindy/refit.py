"""The last fit: segments joined, steps refined, small terms dropped, covariance.

Source: the covariance is the Gauss-Newton one of nonlinear least squares, D. M. Bates,
    D. G. Watts, "Nonlinear Regression Analysis and Its Applications", Wiley 1988, chapter 2. The
    degrees of freedom of errors that rest on several variances lie between the least of their own
    and the sum: F. E. Satterthwaite, "An approximate distribution of estimates of variance
    components", Biometrics Bulletin 2(6), 1946, doi:10.2307/3002019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from odekit_sindy.budget import Stop, never
from odekit_sindy.data import Dataset
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.models import Models, Support
from odekit_sindy.search import Fitted
from odekit_sindy.shooting import Shooting

NEGLIGIBLE = 1e-3
SAME = 1e-9
"""Length of a column or a combination of columns, of unit length each, that is rounding."""

SHARE = 0.3
"""Part of a coefficient in a direction, for it to be named."""


@dataclass(frozen=True)
class Final:
    """The final fit of one structure, in scaled units.

    Attributes:
        support: flat indices.
        c: coefficients.
        covariance: of ``c``, ``(k, k)``.
        condition: condition number of the coefficients' columns in trajectory space, each of
            unit length.
        start: segment states, ``(d, M)``.
        states: fitted states at the rows of each trajectory, ``(n, d)``.
        rms: residual over the noise's shape, ``(d,)``.
        gap: root mean square gap between segments, ``(d,)``.
        substeps: Runge-Kutta steps per data interval.
    """

    support: Support
    c: np.ndarray
    covariance: np.ndarray
    condition: float
    start: np.ndarray
    states: tuple[np.ndarray, ...]
    rms: np.ndarray
    gap: np.ndarray
    substeps: int


def finish(shooting: Shooting[Library], fitted: Fitted, stop: Stop = never) -> Final:
    """Fit once more with nearly closed gaps and fine steps; drop what contributes nothing.

    Args:
        shooting: the problem of the search.
        fitted: its answer.
        stop: asked before each step; once it says true, the coefficients stay as they are.
    """
    fine = Shooting(shooting.layout, shooting.dynamics, shooting.substeps, shooting.floor, stop)
    models = _model(shooting, fitted.support, fitted.c, fitted.start)
    fine.substeps = fine.choose_substeps(models, fitted.rms[None], share=0.01)
    models = _tight(fine, models)
    kept = _contributing(fine, models)
    if len(kept) < len(fitted.support):
        at = [models.support(0).index(q) for q in kept]
        models = _tight(fine, _model(shooting, kept, models.c[0, at], models.start[0]))
    covariance, condition = uncertainty(fine, models)
    nodes, _ = fine.integrate(models)
    rss, gaps = fine.statistics(models)
    joints = max(int(shooting.layout.linked.sum()), 1)
    return Final(
        models.support(0),
        models.values(0),
        covariance,
        condition,
        models.start[0],
        shooting.layout.at_rows(nodes[:, 0]),
        np.sqrt(shooting.layout.mean_square(rss[0])),
        np.sqrt(gaps[0] / joints),
        fine.substeps,
    )


def _model(
    shooting: Shooting[Library], support: Support, c: np.ndarray, start: np.ndarray
) -> Models:
    models = Models.of([support], [c], [start], shooting.dynamics.size)
    rules = shooting.dynamics.rules
    return models if rules is None else models.signed(rules.signs(models))


def _tight(shooting: Shooting[Library], models: Models) -> Models:
    for tightness in (100.0, 1000.0):
        models = shooting.fit(models, shooting.noise(models), tightness, 10)
    return models


def _contributing(shooting: Shooting[Library], models: Models) -> Support:
    """The terms of a single model that contribute at the fitted states."""
    nodes, _ = shooting.integrate(models)
    lay = shooting.layout
    x = np.concatenate(lay.at_rows(nodes[:, 0]))
    u = np.concatenate(lay.at_rows(lay.inputs))
    support = models.support(0)
    points = np.concatenate([x, u], axis=1).T
    kept = contributing(shooting.dynamics, support, models.values(0), points)
    return tuple(support[i] for i in kept)


def contributing(
    library: Library, support: Support, c: np.ndarray, points: np.ndarray
) -> list[int]:
    """Positions of the terms that matter to the slope of their equation.

    The slope itself is the measure, since large terms may cancel: a pressure far from zero has
    terms a thousand times its slope.

    Args:
        library: of the terms; by its rules, forced and shared terms stay whatever their share.
        support: flat indices.
        c: their coefficients.
        points: states and inputs, ``(v, M)``.
    """
    share, rules = library.shares(support, c, points), library.rules
    equation = np.array(support, dtype=int) // library.size
    alone = Models.of([support], [c], [np.zeros((library.dim, 1))], library.size)
    slope, _ = library.bind(alone, sensitivities=False)(points[None], None)
    size = np.sqrt((slope[0] ** 2).mean(1))
    kept = [
        i
        for i, value in enumerate(share)
        if value >= NEGLIGIBLE * min(size[equation[i]], share[equation == equation[i]].max())
        or (rules is not None and rules.protected(support[i]))
    ]
    return library.completed(support, kept)


def uncertainty(shooting: Shooting[Any], models: Models) -> tuple[np.ndarray, float]:
    """Covariance of the coefficients ``(k, k)`` and their condition number.

    Residuals below the smallest noise level count as being there: they are no measure of the
    errors of the numerics. Columns are scaled to unit length before the inversion; without that,
    the covariance of badly scaled problems comes out absurdly small.
    """
    if not models.used.any():
        return np.zeros((0, 0)), 1.0
    r, jac, length, upper = _projected(shooting, models)
    dof = max(len(r) - jac.shape[1], 1)
    inverse = np.linalg.pinv(upper)
    covariance = max(float(r @ r) / dof, 1.0) * (inverse @ inverse.T)
    covariance /= np.outer(length, length)
    columns = np.linalg.norm(upper, axis=0)
    scaled = upper / np.where(columns > 0, columns, 1.0)
    return covariance, float(np.linalg.cond(scaled))


def degrees_of_freedom(counts: np.ndarray, numbers: int) -> float:
    """Degrees of freedom for the intervals of the coefficients, at least 1.

    The noise level of each state is estimated from its own residuals, so a state's mean share of
    all that are left over counts, and not their sum: right for states that are fitted apart and
    alike, and careful where a coefficient rests on several states.

    Args:
        counts: values of each state, ``(d,)``, 0 for a hidden one.
        numbers: that were fitted, the states that the trajectories start from among them.
    """
    return max((float(counts.sum()) - numbers) / max(int((counts > 0).sum()), 1), 1.0)


def unseen(shooting: Shooting[Any], models: Models) -> tuple[np.ndarray, np.ndarray, float]:
    """What the data say nothing about, where `uncertainty` would count it as known.

    Returns:
        Which coefficients change nothing at all ``(k,)``, which of the others change nothing as
        long as they change together ``(k,)``, and the condition number of the others' columns.
    """
    silent = tied = np.zeros(models.used.sum(), dtype=bool)
    if not models.used.any():
        return silent, tied, 1.0
    _, _, _, upper = _projected(shooting, models)
    columns = np.linalg.norm(upper, axis=0)
    silent = columns <= SAME
    if silent.all():
        return silent, tied, 1.0
    _, values, rows = np.linalg.svd(upper[:, ~silent] / columns[~silent])
    share = (rows[values <= SAME * values[0]] ** 2).sum(0)
    tied[~silent] = share > SHARE**2
    return silent, tied, float(values[0] / max(values[-1], 1e-300))


def _projected(
    shooting: Shooting[Any], models: Models
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Residuals, Jacobian, length of the coefficients' columns, and their triangular factor.

    The factor is that of unit columns with the segment states projected out, ``(k, k)``.
    """
    r, jac = shooting.dense(models, shooting.noise(models), 1000.0)
    n_state = shooting.layout.dim * shooting.layout.segments
    length = np.linalg.norm(jac, axis=0)
    length = np.where(length > 0, length, 1.0)
    # R of the QR factorisation: the last block belongs to the coefficients, states projected out.
    upper = np.asarray(np.linalg.qr(jac / length, mode="r"))[n_state:, n_state:]
    return r, jac, length[n_state:], upper


def simulate(
    shooting: Shooting[Library], final: Final, dataset: Dataset, shape: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:
    """States ``(n, d)`` of each trajectory from its fitted start, in one go.

    A fixed number of steps inside a box: this never hangs and never overflows.
    """
    whole = arrange(dataset, shape, intervals=None)
    single = Shooting(whole, shooting.dynamics, min(2 * final.substeps, 32))
    start = whole.starts(final.states)
    models = Models.of([final.support], [final.c], [start], shooting.dynamics.size)
    nodes, _ = single.integrate(models)
    return whole.at_rows(nodes[:, 0])
