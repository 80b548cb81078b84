"""Multiple shooting: coefficients and segment states fitted to data by Gauss-Newton.

A trajectory is cut into segments, each with its own start state; data residuals and the gaps
between segments are minimised together by Levenberg-Marquardt. Short segments keep chaotic and
badly started models tame, and raising the weight of the gaps closes them. Jacobians are exact for
the discretised problem, see `odekit_sindy.course`. Many models are fitted side by side.

Shapes: ``B`` models, ``M`` segments, ``Q`` intervals a segment, ``d`` states, ``k`` terms,
    ``n = d + k`` columns of a segment's sensitivity.
Units: scaled; residuals are in units of the noise.
Source: H. G. Bock, "Recent advances in parameter identification techniques for O.D.E.",
    Numerical Treatment of Inverse Problems in Differential and Integral Equations, 1983,
    doi:10.1007/978-1-4684-7324-7_7.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from odekit_sindy.budget import Stop, never
from odekit_sindy.course import Course, follow, in_parts
from odekit_sindy.dynamics import Dynamics
from odekit_sindy.layout import Layout
from odekit_sindy.least_squares import BOLD, Normal, Trial, damped_step, descend
from odekit_sindy.models import Models
from odekit_sindy.rules import signed_step

D = TypeVar("D", bound=Dynamics)

FLOOR = 3e-4
"""Default of the smallest noise level, relative to a state's standard deviation."""


class Shooting(Generic[D]):
    """The multiple-shooting problem of one data set and one family of right-hand sides.

    Args:
        layout: the data by segment.
        dynamics: the family; `odekit_sindy.library.Library` is one.
        substeps: Runge-Kutta steps per data interval.
        floor: smallest noise level, relative to a state's standard deviation.
        stop: asked before each step of a fit, see `odekit_sindy.budget`.
    """

    def __init__(
        self,
        layout: Layout,
        dynamics: D,
        substeps: int = 3,
        floor: float = FLOOR,
        stop: Stop = never,
    ) -> None:
        self.layout = layout
        self.dynamics = dynamics
        self.substeps = substeps
        self.floor = floor
        self.stop = stop

    def integrate(
        self, models: Models, sensitivities: bool = False, substeps: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """States at all nodes ``(Q + 1, B, d, M)``, and sensitivities ``(Q + 1, B, d, n, M)``.

        Columns of the sensitivities: the segment's start state, then the coefficients. Values
        that are not finite become `HUGE` (states) and zero (sensitivities).
        """
        count = substeps or self.substeps
        if sensitivities:
            return in_parts(models, self.dynamics, self.layout, count)
        return follow(models, self.dynamics, self.layout, count, kept=False).nodes, None

    def statistics(self, models: Models) -> tuple[np.ndarray, np.ndarray]:
        """Squared residuals over the noise's shape and squared gaps, each summed to ``(B, d)``."""
        lay = self.layout
        nodes, _ = self.integrate(models)
        r = (nodes - lay.y[:, None]) * lay.weight[:, None]
        gaps = self._gaps(nodes[-1], models.start)
        return (r**2).sum((0, 3)), (gaps**2).sum(2)

    def _gaps(self, end: np.ndarray, start: np.ndarray) -> np.ndarray:
        """End of each segment minus start of the next, ``(B, d, M)``, zero at the last ones."""
        return np.where(self.layout.linked, end - np.roll(start, -1, axis=2), 0.0)

    def noise(self, models: Models) -> np.ndarray:
        """Noise level per model and state from the residuals, ``(B, d)``."""
        rss, _ = self.statistics(models)
        return np.asarray(np.sqrt(self.layout.mean_square(rss) + self.floor**2))

    def normal(self, models: Models, sigma: np.ndarray, tightness: float) -> Normal:
        """Gauss-Newton equations at the models.

        Args:
            models: where to linearise.
            sigma: noise level, ``(B, d)``.
            tightness: weight of the gaps against the data.
        """
        lay = self.layout
        nodes, z = self.integrate(models, sensitivities=True)
        assert z is not None
        return _normal(lay, models, nodes, z, sigma, tightness)

    def fit(
        self,
        models: Models,
        sigma: np.ndarray,
        tightness: float,
        iterations: int,
        tolerance: float = 1e-4,
        *,
        states_only: bool = False,
    ) -> Models:
        """Levenberg-Marquardt on all models side by side, see `odekit_sindy.least_squares`.

        Args:
            models: where to begin; not changed.
            sigma: noise level, ``(B, d)``.
            tightness: weight of the gaps against the data.
            iterations: accepted steps at most.
            tolerance: gain, relative to the cost, that ends the fit of a model.
            states_only: whether the coefficients are held.
        """
        models = models.pick(range(len(models)))
        if self.stop():
            return models
        now = _Equations(self, models, sigma, tightness)
        states = models.start[0].size if states_only else None

        def attempt(rows: np.ndarray, lam: np.ndarray) -> Trial:
            here, (h, g) = models.pick(rows), now.at(rows)
            if states is None:
                step = signed_step(damped_step, here, h, g, lam)
            else:
                step = np.zeros_like(g)
                step[:, :states] = damped_step(h[:, :states, :states], g[:, :states], lam)
            trial = here.moved(step, self.layout.low, self.layout.high)
            course = follow(trial, self.dynamics, self.layout, self.substeps, kept=True)
            residuals = _Residuals.of(self.layout, trial, course.nodes, sigma[rows], tightness)

            def keep(better: np.ndarray, _: np.ndarray) -> None:
                models.put(rows[better], trial.pick(np.flatnonzero(better)))
                now.put(rows, better, course, residuals.cost)

            return Trial(now.cost[rows], residuals.cost, keep)

        descend(attempt, len(models), iterations, tolerance, BOLD, stop=self.stop)
        return models

    def dense(
        self, models: Models, sigma: np.ndarray, tightness: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Residual ``(r,)`` and Jacobian ``(r, M d + k)`` of a single model.

        Rows: data, then gaps; columns: segment states, then the terms of the model.
        """
        lay = self.layout
        nodes, z = self.integrate(models, sensitivities=True)
        assert z is not None
        d, segments, k = lay.dim, lay.segments, models.flat.shape[1]
        node, state, segment = np.nonzero(lay.weight)
        w = lay.weight[node, state, segment] / sigma[0, state]
        r = (nodes[node, 0, state, segment] - lay.y[node, state, segment]) * w
        jac = np.zeros((len(node), segments * d + k))
        rows = np.arange(len(node))
        local = z[node, 0, state, :, segment] * w[:, None]
        jac[rows[:, None], segment[:, None] * d + np.arange(d)] = local[:, :d]
        jac[:, segments * d :] = local[:, d:]
        joint = np.flatnonzero(lay.linked)
        gap = self._gaps(nodes[-1], models.start)[0][:, joint].T * (tightness / sigma[0])
        ends = z[-1, 0][:, :, joint].transpose(2, 0, 1) * (tightness / sigma[0])[:, None]
        more = np.zeros((len(joint), d, segments * d + k))
        at = np.arange(len(joint))
        for i in range(d):
            more[at, :, joint * d + i] = ends[:, :, i]
            more[at, i, (joint + 1) * d + i] -= tightness / sigma[0, i]
        more[:, :, segments * d :] = ends[:, :, d:]
        more = more.reshape(-1, segments * d + k)
        return np.concatenate([r, gap.reshape(-1)]), np.concatenate([jac, more])

    def choose_substeps(self, models: Models, sigma: np.ndarray, share: float = 0.02) -> int:
        """The fewest of 2, 4, 8, 16, 32 substeps that change the states by little."""
        limit = max(1e-4, share * float(np.min(sigma)))
        coarse, _ = self.integrate(models, substeps=2)
        for count in (2, 4, 8, 16):
            fine, _ = self.integrate(models, substeps=2 * count)
            if np.abs(fine - coarse).max() < limit:
                return count
            coarse = fine
        return 32


class _Equations:
    """Gauss-Newton equations of models on their way, found where a step starts from them.

    A quarter of all attempts end in models from which no step starts: worse ones, and last ones.
    """

    def __init__(
        self, shooting: Shooting[Any], models: Models, sigma: np.ndarray, tightness: float
    ) -> None:
        self.shooting, self.models = shooting, models
        self.sigma, self.tightness = sigma, tightness
        lay = shooting.layout
        self.course = follow(models, shooting.dynamics, lay, shooting.substeps, kept=True)
        self.cost = _Residuals.of(lay, models, self.course.nodes, sigma, tightness).cost
        unknowns = models.start[0].size + models.flat.shape[1]
        self.h = np.empty((len(models), unknowns, unknowns))
        self.g = np.empty((len(models), unknowns))
        self.stale = np.ones(len(models), dtype=bool)

    def at(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Curvature ``(b, c, c)`` and gradient ``(b, c)`` of the models ``rows (b,)``."""
        old = rows[self.stale[rows]]
        if len(old):
            models, course = self.models.pick(old), self.course.pick(old)
            columns = models.start.shape[1] + models.flat.shape[1]
            z = course.tangents(self.shooting.dynamics.bind(models, True), columns)
            sigma = self.sigma[old]
            new = _normal(self.shooting.layout, models, course.nodes, z, sigma, self.tightness)
            self.h[old], self.g[old] = new.h, new.g
            self.stale[old] = False
        return self.h[rows], self.g[rows]

    def put(self, rows: np.ndarray, better: np.ndarray, course: Course, cost: np.ndarray) -> None:
        """Take over, for the models ``rows (b,)``, what is ``better (b,)`` of an attempt."""
        self.course.put(rows, course, better)
        self.cost[rows[better]] = cost[better]
        self.stale[rows[better]] = True


class _Residuals(NamedTuple):
    """What is left of data and of gaps, weighted.

    Attributes:
        data: ``(Q + 1, B, d, M)``.
        gap: ``(B, d, M)``.
        cost: the sum of their squares, ``(B,)``.
    """

    data: np.ndarray
    gap: np.ndarray
    cost: np.ndarray

    @classmethod
    def of(
        cls, lay: Layout, models: Models, nodes: np.ndarray, sigma: np.ndarray, tightness: float
    ) -> _Residuals:
        """At the nodes of some models."""
        r = (nodes - lay.y[:, None]) * (lay.weight[:, None] / sigma[:, :, None])
        gap = np.where(lay.linked, nodes[-1] - np.roll(models.start, -1, axis=2), 0.0)
        gap *= (tightness / sigma)[:, :, None]
        cost = np.minimum((r**2).sum((0, 2, 3)) + (gap**2).sum((1, 2)), 1e30)
        return cls(r, gap, cost)


def _normal(
    lay: Layout,
    models: Models,
    nodes: np.ndarray,
    z: np.ndarray,
    sigma: np.ndarray,
    tightness: float,
) -> Normal:
    """Assemble the normal equations from the blocks of the segments."""
    count, d, segments = models.start.shape
    n = z.shape[3]
    k, states = n - d, segments * d
    stiff = tightness / sigma  # (B, d)
    weight = lay.weight[:, None] / sigma[:, :, None]  # (Q + 1, B, d, M)
    r, gap, cost = _Residuals.of(lay, models, nodes, sigma, tightness)
    ends = z[-1] * np.where(lay.linked, stiff[:, :, None], 0.0)[:, :, None]
    rows = np.concatenate([z * weight[:, :, :, None], ends[None]])
    local = rows.transpose(1, 4, 0, 2, 3).reshape(count, segments, -1, n)
    right = np.concatenate([r, gap[None]]).transpose(1, 3, 0, 2).reshape(count, segments, -1, 1)
    turned = local.transpose(0, 1, 3, 2)
    block = turned @ local  # (B, M, n, n)
    vector = (turned @ right)[..., 0]  # (B, M, n)

    h = np.zeros((count, states + k, states + k))
    g = np.zeros((count, states + k))
    at = np.arange(segments)
    ss = np.zeros((count, segments, d, segments, d))
    ss[:, at, :, at, :] = block[..., :d, :d].transpose(1, 0, 2, 3)
    sp = block[..., :d, d:].copy()
    gs = vector[..., :d].copy()
    joint = np.flatnonzero(lay.linked)
    if len(joint):
        # The start of the next segment enters the gap with minus one.
        cross = -(ends * stiff[:, :, None, None])[..., joint].transpose(0, 3, 2, 1)  # (B, J, n, d)
        own = np.zeros((count, d, d))
        own[:, np.arange(d), np.arange(d)] = stiff**2
        ss[:, joint + 1, :, joint + 1, :] += own
        ss[:, joint, :, joint + 1, :] += cross[:, :, :d].transpose(1, 0, 2, 3)
        ss[:, joint + 1, :, joint, :] += cross[:, :, :d].transpose(1, 0, 3, 2)
        sp[:, joint + 1] += cross[:, :, d:].transpose(0, 1, 3, 2)
        gs[:, joint + 1] -= (gap * stiff[:, :, None])[..., joint].transpose(0, 2, 1)
    h[:, :states, :states] = ss.reshape(count, states, states)
    h[:, :states, states:] = sp.reshape(count, states, k)
    h[:, states:, :states] = h[:, :states, states:].transpose(0, 2, 1)
    h[:, states:, states:] = block[..., d:, d:].sum(1)
    g[:, :states] = gs.reshape(count, states)
    g[:, states:] = vector[..., d:].sum(1)
    return Normal(cost, h, g)
