"""Multiple shooting: coefficients and segment states fitted to data by Gauss-Newton.

A trajectory is cut into segments, each with its own start state; data residuals and the gaps
between segments are minimised together by Levenberg-Marquardt. Short segments keep chaotic and
badly started models tame, and raising the weight of the gaps closes them. Sensitivities obey
``Z' = (df/dx) Z + df/dc`` and are integrated with the states by the same Runge-Kutta steps, so
Jacobians are exact for the discretised problem. Many models are fitted side by side.

Shapes: ``B`` models, ``M`` segments, ``Q`` intervals a segment, ``d`` states, ``k`` terms,
    ``n = d + k`` columns of a segment's sensitivity.
Units: scaled; residuals are in units of the noise.
Source: H. G. Bock, "Recent advances in parameter identification techniques for O.D.E.",
    Numerical Treatment of Inverse Problems in Differential and Integral Equations, 1983,
    doi:10.1007/978-1-4684-7324-7_7.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

from odekit_sindy.budget import Stop, never
from odekit_sindy.dynamics import Dynamics
from odekit_sindy.layout import Layout
from odekit_sindy.least_squares import BOLD, Normal, Trial, damped_step, descend
from odekit_sindy.models import Models
from odekit_sindy.rules import signed_step

D = TypeVar("D", bound=Dynamics)

HUGE = 1e6
LONG = 1e60
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
        lay = self.layout
        count = substeps or self.substeps
        slopes = _Slopes(models, self.dynamics, lay, sensitivities)
        x = models.start
        z = slopes.identity() if sensitivities else None
        xs, zs = [x], [z]
        with np.errstate(over="ignore", invalid="ignore"):
            for i in range(len(lay.step)):
                h = lay.step[i] / count
                for s in range(count):
                    x, z = slopes.step(x, z, h, i, s / count, 1 / count)
                xs.append(x)
                zs.append(z)
        nodes = np.nan_to_num(np.stack(xs), nan=HUGE, posinf=HUGE, neginf=-HUGE)
        if not sensitivities:
            return nodes, None
        tangent = np.stack([v for v in zs if v is not None])
        # A tangent this long is of no use, and its square would overflow.
        return nodes, np.where(np.abs(tangent) < LONG, tangent, 0.0)

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
        now = self.normal(models, sigma, tightness)
        states = models.start[0].size if states_only else None

        def attempt(rows: np.ndarray, lam: np.ndarray) -> Trial:
            here, h, g = models.pick(rows), now.h[rows], now.g[rows]
            if states is None:
                step = signed_step(damped_step, here, h, g, lam)
            else:
                step = np.zeros_like(g)
                step[:, :states] = damped_step(h[:, :states, :states], g[:, :states], lam)
            trial = here.moved(step, self.layout.low, self.layout.high)
            new = self.normal(trial, sigma[rows], tightness)

            def keep(better: np.ndarray, _: np.ndarray) -> None:
                models.put(rows[better], trial.pick(np.flatnonzero(better)))
                now.put(rows, new, better)

            return Trial(now.cost[rows], new.cost, keep)

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


class _Slopes:
    """Right-hand sides of states and sensitivities for a batch, and one Runge-Kutta step."""

    def __init__(
        self, models: Models, dynamics: Dynamics, layout: Layout, sensitivities: bool
    ) -> None:
        self.layout = layout
        self.slope = dynamics.bind(models, sensitivities)
        self.shape = (len(models), layout.dim, models.flat.shape[1], layout.segments)

    def identity(self) -> np.ndarray:
        """Sensitivities at a segment's start, ``(B, d, n, M)``."""
        count, d, k, segments = self.shape
        z = np.zeros((count, d, d + k, segments))
        z[:, np.arange(d), np.arange(d)] = 1.0
        return z

    def __call__(
        self, x: np.ndarray, z: np.ndarray | None, i: int, fraction: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        lay = self.layout
        point = np.minimum(np.maximum(x, lay.low[:, None]), lay.high[:, None])
        if lay.inputs.shape[1]:
            u = (1 - fraction) * lay.inputs[i] + fraction * lay.inputs[i + 1]
            u = np.broadcast_to(u, (len(x), *u.shape))
            point = np.concatenate([point, u], axis=1)
        return self.slope(point, z)

    def step(
        self, x: np.ndarray, z: np.ndarray | None, h: np.ndarray, i: int, at: float, part: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The classical fourth-order step from fraction ``at`` of interval ``i`` over ``part``."""
        k1, m1 = self(x, z, i, at)
        k2, m2 = self(x + 0.5 * h * k1, _add(z, 0.5 * h, m1), i, at + 0.5 * part)
        k3, m3 = self(x + 0.5 * h * k2, _add(z, 0.5 * h, m2), i, at + 0.5 * part)
        k4, m4 = self(x + h * k3, _add(z, h, m3), i, at + part)
        x = x + h / 6 * (k1 + 2 * (k2 + k3) + k4)
        if z is None or m1 is None or m2 is None or m3 is None or m4 is None:
            return x, None
        m2 += m3
        m2 *= 2
        m2 += m1
        m2 += m4
        m2 *= h / 6
        m2 += z
        return x, m2


def _add(z: np.ndarray | None, h: np.ndarray, slope: np.ndarray | None) -> np.ndarray | None:
    if z is None or slope is None:
        return None
    out: np.ndarray = h * slope
    out += z
    return out


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
    r = (nodes - lay.y[:, None]) * weight
    gap = np.where(lay.linked, nodes[-1] - np.roll(models.start, -1, axis=2), 0.0)
    gap *= stiff[:, :, None]
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
    cost = np.minimum((r**2).sum((0, 2, 3)) + (gap**2).sum((1, 2)), 1e30)
    return Normal(cost, h, g)
