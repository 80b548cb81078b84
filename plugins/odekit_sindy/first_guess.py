"""Where a fit of parameters begins: many random sets, matched to slopes, the best of them kept.

Comparing a formula with the slopes of the smoothed data needs no integration, so hundreds of
parameter sets can be looked at. Parameters in which the formulas are linear are solved for; the
rest is drawn over the sizes that the units of the data suggest, and improved by Gauss-Newton. A
state that was not observed is integrated along the smoothed states of the others, from drawn
starts. What comes out is rough, and multiple shooting takes over.

Shapes: ``B`` candidates, ``k`` free parameters, ``H`` hidden states, ``n`` trajectories, ``q``
    samples, ``v`` variables (states, then inputs).
Units: parameters in the caller's units, samples in scaled ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from odekit_sindy.formula_dynamics import FormulaDynamics
from odekit_sindy.least_squares import minimise
from odekit_sindy.smoothing import Samples

DRAWS = 256
IMPROVED = 16
IMPROVED_HIDDEN = 8
ITERATIONS = 30
STEPS = 120
DISTINCT = 0.02
FAR = 1e3
"""Relative error of a slope that stands for anything worse."""

AWAY = 1e4
"""Hidden states are kept within this, in scaled units."""


@final
@dataclass(frozen=True)
class Guess:
    """Candidates, best first.

    Attributes:
        parameters: ``(B, k)``.
        hidden: hidden states along each trajectory, ``(n, STEPS + 1, B, H)``, at equal steps.
    """

    parameters: np.ndarray
    hidden: np.ndarray


@final
class Grid:
    """Smoothed states at equal steps, all trajectories side by side.

    Attributes:
        step: ``(n,)``.
        x: observed states, ``(STEPS + 1, d, n)``; slopes ``dx`` alike.
        u: inputs, ``(STEPS + 1, m, n)``.
    """

    def __init__(self, samples: Samples) -> None:
        cuts = np.flatnonzero(np.diff(samples.t) <= 0) + 1
        pieces = np.split(np.arange(len(samples.t)), cuts)
        self.step = np.array([float(np.ptp(samples.t[piece])) / STEPS for piece in pieces])
        self.x = _resampled(samples.t, samples.x, pieces)
        self.dx = _resampled(samples.t, samples.dx, pieces)
        self.u = _resampled(samples.t, samples.u, pieces)


def _resampled(t: np.ndarray, values: np.ndarray, pieces: Sequence[np.ndarray]) -> np.ndarray:
    out = np.zeros((STEPS + 1, values.shape[1], len(pieces)))
    for i, piece in enumerate(pieces):
        grid = np.linspace(t[piece[0]], t[piece[-1]], STEPS + 1)
        for j in range(values.shape[1]):
            out[:, j, i] = np.interp(grid, t[piece], values[piece, j])
    return out


def linear_parameters(
    rights: Sequence[Any], free: Sequence[str], *, backwards: bool = False
) -> list[int]:
    """Positions of parameters in which the formulas are linear, all of them together.

    Of two that are multiplied, as in ``k*(x - c)``, the first is taken, or ``backwards`` the last.
    """
    import sympy

    symbols = [sympy.Symbol(name) for name in free]
    chosen: list[int] = []
    for i in sorted(range(len(symbols)), reverse=backwards):
        symbol = symbols[i]
        slopes = [sympy.diff(right, symbol) for right in rights]
        others = [symbols[j] for j in (*chosen, i)]
        if not any(slope.has(other) for slope in slopes for other in others):
            chosen.append(i)
    return sorted(chosen)


@final
class FirstGuess:
    """Candidates for the parameters of one model.

    Args:
        dynamics: the model, in scaled units.
        samples: smoothed observed states.
        observed: positions of the observed states among the model's.
        start: values of those free parameters that are known roughly, by position.
        hidden_start: first values of those hidden states that are known roughly, by position
            among the hidden states, in scaled units.
        positive: whether each hidden state is known to be positive.
        typical: sizes that a parameter may have by its units.
        generator: draws the candidates.
    """

    def __init__(
        self,
        dynamics: FormulaDynamics,
        samples: Samples,
        observed: np.ndarray,
        start: Mapping[int, float],
        hidden_start: Mapping[int, float],
        positive: Sequence[bool],
        typical: np.ndarray,
        generator: np.random.Generator,
    ) -> None:
        self.dynamics = dynamics
        self.grid = Grid(samples)
        self.observed = observed
        self.hidden = np.array([i for i in range(dynamics.dim) if i not in observed], dtype=int)
        self.start, self.hidden_start, self.positive = start, hidden_start, positive
        self.typical, self.generator = typical, generator
        size = np.sqrt((self.grid.dx**2).mean((0, 2)))
        self._size = np.where(size > 0, size, 1.0)

    def candidates(self, count: int) -> Guess:
        """The ``count`` best different candidates."""
        k, n = self.dynamics.size, len(self.grid.step)
        h = len(self.hidden) * n
        known = len(self.start) == k and len(self.hidden_start) * n == h
        p, first = self._drawn(2 if known and k == 0 else DRAWS)
        if k and not h:
            rights, free = self.dynamics.rights, self.dynamics.names[2]
            sets = [linear_parameters(rights, free, backwards=back) for back in (False, True)]
            more = [self._solved(p, linear) for linear in sets[: 1 + (sets[0] != sets[1])]]
            p = np.concatenate([p, *more])
            first = np.tile(first, (1 + len(more), 1))
        box = self.dynamics.box
        theta = np.concatenate([box.unconstrained(box.clipped(p)), first], axis=1)
        cost = self._costs(theta)
        order = np.argsort(cost, kind="stable")[: IMPROVED_HIDDEN if h else IMPROVED]
        # The caller's own values stay among the candidates.
        chosen = list(dict.fromkeys([*([0] if self.start else []), *order]))
        theta, cost = minimise(self._residual, theta[chosen], ITERATIONS)
        kept = _different(theta, np.argsort(cost, kind="stable"), count)
        p = box.values(theta[kept, :k])[0]
        _, paths = self._follow(theta[kept])
        return Guess(p, paths)

    def _drawn(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Random parameters ``(count, k)`` and hidden starts ``(count, H n)``."""
        generator, box = self.generator, self.dynamics.box
        k, n = self.dynamics.size, len(self.grid.step)
        size = generator.choice(self.typical, (count, k)) * 10 ** generator.uniform(
            -1, 1, (count, k)
        )
        p = size * generator.choice([-1.0, 1.0], (count, k))
        p = np.where(np.isfinite(box.low), box.low + size, p)
        p = np.where(np.isfinite(box.high), box.high - size, p)
        both = np.isfinite(box.low) & np.isfinite(box.high)
        with np.errstate(invalid="ignore"):
            inside = box.low + (box.high - box.low) * generator.uniform(0, 1, (count, k))
        p = np.where(both, inside, p)
        for i, value in self.start.items():
            p[: count // 2, i] = value
            p[0, i] = value
        first = 10 ** generator.uniform(-2, 1, (count, len(self.hidden), n))
        first *= generator.random((count, len(self.hidden), 1)) > 0.1  # some begin at zero
        for i, positive in enumerate(self.positive):
            if not positive:
                first[:, i] *= generator.choice([-1.0, 1.0], (count, n))
        for i, value in self.hidden_start.items():
            first[:, i] = value
        return p, first.reshape(count, -1)

    def _points(self) -> np.ndarray:
        """Observed states and inputs as points ``(1, v, q)``, hidden states at zero."""
        grid = self.grid
        q = grid.x.shape[0] * grid.x.shape[2]
        out = np.zeros((1, self.dynamics.dim + grid.u.shape[1], q))
        out[0, self.observed] = grid.x.transpose(1, 0, 2).reshape(-1, q)
        out[0, self.dynamics.dim :] = grid.u.transpose(1, 0, 2).reshape(-1, q)
        return out

    def _solved(self, p: np.ndarray, linear: list[int]) -> np.ndarray:
        """The same parameters, those that enter linearly solved for by least squares."""
        if not linear:
            return p
        points = np.broadcast_to(self._points(), (len(p), *self._points().shape[1:]))
        f, _, own = self.dynamics.tangents(p, points)
        target = self.grid.dx.transpose(1, 0, 2).reshape(self.dynamics.dim, -1)
        rest = target - f + np.einsum("bdkq,bk->bdq", own[:, :, linear], p[:, linear])
        out = p.copy()
        for b in range(len(p)):
            a = (own[b][:, linear] / self._size[:, None, None]).transpose(0, 2, 1)
            a, y = a.reshape(-1, len(linear)), (rest[b] / self._size[:, None]).reshape(-1)
            good = np.isfinite(a).all(1) & np.isfinite(y)
            length = np.linalg.norm(a[good], axis=0)
            if good.any() and np.isfinite(length).all():
                length = np.where(length > 0, length, 1.0)
                out[b, linear] = np.linalg.lstsq(a[good] / length, y[good], rcond=1e-10)[0] / length
        out[~np.isfinite(out)] = 1.0
        return self.dynamics.box.clipped(out)

    def _costs(self, theta: np.ndarray) -> np.ndarray:
        return np.asarray((self._slope_errors(theta) ** 2).sum(1))

    def _residual(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Errors of the slopes and their Jacobian; by differences where states are hidden."""
        count, c = theta.shape
        k = self.dynamics.size
        if len(self.hidden):
            step = 1e-6 * np.maximum(np.abs(theta), 1e-2)
            shifted = theta[:, None] + step[:, :, None] * np.eye(c)
            r = self._slope_errors(np.concatenate([theta, shifted.reshape(-1, c)]))
            now, ahead = r[:count], r[count:].reshape(count, c, -1)
            return now, ((ahead - now[:, None]) / step[:, :, None]).transpose(0, 2, 1)
        p, change = self.dynamics.box.values(theta[:, :k])
        points = np.broadcast_to(self._points(), (count, *self._points().shape[1:]))
        f, _, own = self.dynamics.tangents(p, points)
        jac = own * change[:, None, :, None] / self._size[:, None, None]
        r = self._errors(f)
        return r, jac.transpose(0, 1, 3, 2).reshape(*r.shape, k)

    def _slope_errors(self, theta: np.ndarray) -> np.ndarray:
        k = self.dynamics.size
        p = self.dynamics.box.values(theta[:, :k])[0]
        points = np.repeat(self._points(), len(theta), axis=0)
        if len(self.hidden):
            path, _ = self._follow(theta)
            points[:, self.hidden] = path.transpose(1, 2, 0, 3).reshape(
                len(theta), len(self.hidden), -1
            )
        return self._errors(self.dynamics.slopes(p, points)[:, self.observed])

    def _errors(self, f: np.ndarray) -> np.ndarray:
        target = self.grid.dx.transpose(1, 0, 2).reshape(len(self._size), -1)
        r = (f - target) / self._size[:, None]
        finite: np.ndarray = np.nan_to_num(r, nan=FAR, posinf=FAR, neginf=-FAR)
        return np.asarray(finite.clip(-FAR, FAR).reshape(len(f), -1))

    def _follow(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hidden states along the smoothed ones, ``(STEPS + 1, B, H, n)`` and ``Guess.hidden``."""
        k, n = self.dynamics.size, len(self.grid.step)
        p = self.dynamics.box.values(theta[:, :k])[0]
        h = theta[:, k:].reshape(len(theta), len(self.hidden), n)
        path = np.zeros((STEPS + 1, *h.shape))
        path[0] = h
        if len(self.hidden):
            for i in range(STEPS):
                h = self._advanced(p, h, i)
                path[i + 1] = h
        return path, path.transpose(3, 0, 1, 2)

    def _advanced(self, p: np.ndarray, h: np.ndarray, i: int) -> np.ndarray:
        """One classical Runge-Kutta step of the hidden states, the others from the grid."""
        grid, step = self.grid, self.grid.step

        def slope(h: np.ndarray, fraction: float) -> np.ndarray:
            point = np.empty((len(h), self.dynamics.dim + grid.u.shape[1], len(step)))
            point[:, self.observed] = (1 - fraction) * grid.x[i] + fraction * grid.x[i + 1]
            point[:, self.dynamics.dim :] = (1 - fraction) * grid.u[i] + fraction * grid.u[i + 1]
            point[:, self.hidden] = h
            return self.dynamics.slopes(p, point)[:, self.hidden]

        with np.errstate(all="ignore"):
            k1 = slope(h, 0.0)
            k2 = slope(h + step / 2 * k1, 0.5)
            k3 = slope(h + step / 2 * k2, 0.5)
            k4 = slope(h + step * k3, 1.0)
            h = h + step / 6 * (k1 + 2 * (k2 + k3) + k4)
        finite: np.ndarray = np.nan_to_num(h, nan=AWAY, posinf=AWAY, neginf=-AWAY)
        return np.asarray(finite.clip(-AWAY, AWAY))


def _different(theta: np.ndarray, order: np.ndarray, count: int) -> list[int]:
    """The first rows in this order that differ from one another."""
    kept: list[int] = []
    for i in order:
        size = np.maximum(np.abs(theta[i]), 1e-3)
        if all(np.any(np.abs(theta[i] - theta[j]) > DISTINCT * size) for j in kept):
            kept.append(int(i))
        if len(kept) == count:
            break
    return kept
