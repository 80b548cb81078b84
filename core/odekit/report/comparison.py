"""The model beside the data: one simulation per trajectory, its residuals and its error band.

The simulation starts from a state that is fitted, since the first observation is as noisy as any
other: Gauss-Newton over the start alone, on a horizon that grows, so that it finds its way when
the whole span would lead it astray. On chaotic systems a single simulation leaves the data after
a few Lyapunov times whatever the equations are; the residuals then say nothing against them.

The band is the 95 % interval of the model's mean by linear propagation: the coefficients vary with
their covariance, the start follows them as the fit of the start would, and adds its own error.

Shapes: ``n`` rows of data, ``m`` times of the fine grid, ``d`` states, ``K`` coefficients.
Units: ``residuals`` are in standard deviations, everything else in those of the data.
Source: G. A. F. Seber, C. J. Wild, "Nonlinear Regression", Wiley 1989, sections 2.1 and 5.1,
    doi:10.1002/0471725315.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from odekit.intervals import half_width

if TYPE_CHECKING:
    from odekit.equations import Equations
    from odekit.series import TimeSeries

Array = np.ndarray[Any, np.dtype[np.float64]]

FINE = 1200
"""Times of the grid that curves are drawn on."""

EFFORT = 30_000
"""Steps of the solver, over all its solves, after which the fit of a start takes what it has."""

FOLLOWS = 0.8
"""R2 from which on a simulation counts as following the data."""

MOST_ATTEMPTS = 16
"""Steps of the fit of a start, on one horizon, that are tried."""

HORIZONS = (0.15, 0.3, 0.6, 1.0)
"""Shares of the data that the start is fitted to, one after the other."""


@dataclass(frozen=True)
class Comparison:
    """One trajectory and the model's simulation of it.

    Attributes:
        label: name of the trajectory for legends.
        t: times of the data, ``(n,)``.
        y: data, ``(n, d)``, NaN where missing.
        start: fitted state at the first time, ``(d,)``.
        times: fine grid, ``(m,)``.
        model: simulation on the grid, ``(m, d)``, NaN where it was not reached.
        half_width: of the 95 % band, ``(m, d)``; None where it is not known.
        fitted: simulation at the times of the data, ``(n, d)``.
        residuals: data against model in the scale of the noise, over its rms, ``(n, d)``.
        r2: per state, ``(d,)``.
        reached: the time up to which the simulation got.
    """

    label: str
    t: Array
    y: Array
    start: Array
    times: Array
    model: Array
    half_width: Array | None
    fitted: Array
    residuals: Array
    r2: Array
    reached: float

    @property
    def complete(self) -> bool:
        """Whether the simulation reached the last time."""
        return bool(np.isfinite(self.model).all())


def compare(equations: Equations, series: TimeSeries, label: str) -> Comparison:
    """Simulate one trajectory from its fitted start, and set it beside the data."""
    t = series.t.numpy()
    y = _observed(equations, series)
    simulator = Simulator(equations, series)
    scale = _scales(y, equations)
    kind = noise_kind(equations)
    start = _fit_start(simulator, t, y, scale, kind)
    times = _grid(t)
    model = simulator.run(start[None], times)[:, 0]
    at_data = np.searchsorted(times, t)
    fitted = model[at_data]
    error = _deviation(y, fitted, kind)
    degrees = max(int(np.isfinite(error).sum()) // max(len(scale), 1) - 1, 1)
    rms = np.sqrt(np.nansum(error**2, axis=0) / degrees)
    bad = ~np.isfinite(model).all(axis=1)
    r2 = _r2(y, fitted)
    # Where the simulation leaves the data, what its linearisation says of errors means nothing.
    trusted = not bad.any() and np.nanmin(r2, initial=1.0) > FOLLOWS
    return Comparison(
        label=label,
        t=t,
        y=y,
        start=start,
        times=times,
        model=model,
        half_width=(_band(simulator, start, times, at_data, y, scale, kind) if trusted else None),
        fitted=fitted,
        residuals=error / np.where(rms > 0, rms, 1.0),
        r2=r2,
        reached=float(times[int(np.argmax(bad)) - 1]) if bad.any() else float(times[-1]),
    )


def _observed(equations: Equations, series: TimeSeries) -> Array:
    """The states of the equations as they were observed, ``(n, d)``; hidden ones are NaN."""
    hidden = equations.diagnostics.get("hidden") or ()
    out = np.full((len(series), len(equations.names)), np.nan)
    for j, name in enumerate(equations.names):
        if name not in hidden:
            out[:, j] = series.y[:, series.names.index(name)].double().numpy()
    return out


def _grid(t: Array) -> Array:
    """``FINE`` equidistant times and those of the data, none of them almost twice."""
    even = np.linspace(t[0], t[-1], FINE)
    after = np.searchsorted(t, even).clip(1, len(t) - 1)
    nearest = np.minimum(np.abs(even - t[after - 1]), np.abs(even - t[after]))
    return np.union1d(even[nearest > 1e-3 * (even[1] - even[0])], t)


class Simulator:
    """Solves the equations for several starts and coefficients in one go.

    Args:
        equations: what to solve.
        series: where the inputs come from, if there are any.

    Attributes:
        coefficients: values of all terms, ``(K,)``.
        covariance: of the coefficients, or None.
        steps: tried so far.
    """

    def __init__(self, equations: Equations, series: TimeSeries) -> None:
        from odekit.symbolic_field import FormulaField

        self.coefficients = np.array([term.value for term in equations.terms])
        self._names = [f"c__{i}" for i in range(len(self.coefficients))]
        self._formulas = {
            state: " + ".join(
                f"{name}*({term.term})"
                for name, term in zip(self._names, equations.terms, strict=True)
                if term.equation == state
            )
            or "0"
            for state in equations.names
        }
        self._make = FormulaField
        self._inputs, self._time = equations.inputs, equations.time
        self._drive = _drive(equations.inputs, series)
        self.covariance = equations.covariance
        self.reach = half_width(equations.degrees_of_freedom)
        self.steps = 0

    def run(
        self,
        starts: Array,
        times: Array,
        coefficients: Array | None = None,
        *,
        rtol: float = 1e-7,
        max_steps: int = 20_000,
    ) -> Array:
        """``(lanes, d)`` starts and ``(lanes, K)`` coefficients to ``(m, lanes, d)``."""
        from odekit.solve import solve

        if coefficients is None:
            coefficients = np.broadcast_to(self.coefficients, (len(starts), len(self._names)))
        columns = [torch.from_numpy(column.copy()) for column in coefficients.T]
        field = self._make(
            self._formulas, dict(zip(self._names, columns, strict=True)), self._inputs, self._time
        )
        y0 = torch.from_numpy(np.array(starts, dtype=np.float64))

        def slope(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return field(t, y, self._drive(t)) if self._drive else field(t, y)  # type: ignore[no-any-return]

        with torch.no_grad():
            solution = solve(
                slope,
                y0,
                torch.from_numpy(np.array(times, dtype=np.float64)),
                rtol=rtol,
                atol=1e-3 * rtol * (float(y0.abs().max()) or 1.0),
                max_steps=max_steps,
                throw=False,
            )
        self.steps += int(solution.stats.attempts.max())
        return solution.y.numpy()  # type: ignore[no-any-return]


def _drive(inputs: Sequence[str], series: TimeSeries) -> Any:
    """The inputs as a function of time: straight lines through what is there."""
    if not inputs or series.u is None:
        return None
    knots = series.t.numpy()
    table = series.u.double().numpy()
    columns = [table[:, series.input_names.index(name)] for name in inputs]
    known = [(knots[np.isfinite(c)], c[np.isfinite(c)]) for c in columns]

    def at(t: torch.Tensor) -> torch.Tensor:
        values = [np.interp(t.numpy(), when, what) for when, what in known]
        return torch.from_numpy(np.stack(values, axis=-1))

    return at


def noise_kind(equations: Equations) -> str:
    """``"additive"``, ``"multiplicative"`` or ``"log-normal"``, as the diagnostics say."""
    noise = equations.diagnostics.get("noise", "additive")
    return str(noise.get("model", "additive") if isinstance(noise, dict) else noise)


def noise_levels(equations: Equations) -> list[float | None]:
    """Noise that the smoother sees over the residuals, per state; None where it is not known."""
    ratios = equations.diagnostics.get("rms_over_sigma")
    known = ratios if isinstance(ratios, dict) else {}
    levels: list[float | None] = []
    for name in equations.names:
        ratio = known.get(name)
        levels.append(1 / ratio if isinstance(ratio, int | float) and ratio > 0 else None)
    return levels


def _scales(y: Array, equations: Equations) -> Array:
    """Size of each state's variation; of a hidden one, of the range that the fit gave it."""
    spans = equations.diagnostics.get("range") or {}
    scale = np.ones(y.shape[1])
    for j, (name, column) in enumerate(zip(equations.names, y.T, strict=True)):
        seen = column[np.isfinite(column)]
        low, high = (0.0, 0.0) if seen.size else spans.get(name, (0.0, 0.0))
        size = float(seen.std()) if seen.size else (high - low) / 4
        scale[j] = size if size > 0 else 1.0
    return scale


def _deviation(y: Array, model: Array, kind: str) -> Array:
    """Data less model in the scale in which the noise is alike everywhere."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "log-normal":
            error = np.log(y) - np.log(model)
        elif kind == "multiplicative":
            floor = 0.03 * np.nanmax(np.abs(model), axis=0, initial=0.0)
            error = (y - model) / np.sqrt(model**2 + floor**2)
        else:
            error = y - model
    return np.where(np.isfinite(error), error, np.nan)


def _r2(y: Array, model: Array) -> Array:
    seen = np.isfinite(y)
    wrong = np.where(seen, (y - model) ** 2, 0.0).sum(axis=0)
    mean = np.where(seen, y, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    total = np.where(seen, (y - mean) ** 2, 0.0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, 1 - wrong / total, np.nan)


def _weighted(y: Array, model: Array, scale: Array, kind: str) -> Array:
    """Residuals ``(lanes, n d)``, zero where nothing was seen, huge where nothing was reached."""
    error = np.stack([_deviation(y, model[:, i], kind) for i in range(model.shape[1])])
    if kind == "additive":
        error = error / scale
    lost = np.isfinite(y) & ~np.isfinite(error)
    return np.where(lost, 1e3, np.where(np.isfinite(y), error, 0.0)).reshape(len(error), -1)


def _fit_start(sim: Simulator, t: Array, y: Array, scale: Array, kind: str) -> Array:
    """The start whose simulation comes nearest to the data, ``(d,)``."""
    start = np.array([next(iter(column[np.isfinite(column)]), 0.0) for column in y.T])
    for share in HORIZONS:
        rows = min(max(int(np.ceil(share * len(t))), 4), len(t))
        start = _descend(sim, start, t[:rows], y[:rows], scale, kind)
    return start


def _descend(sim: Simulator, start: Array, t: Array, y: Array, scale: Array, kind: str) -> Array:
    """Levenberg-Marquardt over the start; one batched solve gives residuals and derivatives."""
    step = 1e-5 * scale
    moved = np.vstack([np.zeros(len(start)), np.diag(step)])

    def expand(point: Array) -> tuple[Array, Array, float]:
        model = sim.run(point + moved, t, rtol=1e-6, max_steps=4000)
        lanes = _weighted(y, model, scale, kind)
        return lanes[0], (lanes[1:] - lanes[0]).T / step, float(lanes[0] @ lanes[0])

    residual, jacobian, cost = expand(start)
    damping, rejected = 1e-3, 0
    for _ in range(MOST_ATTEMPTS):
        if sim.steps > EFFORT or rejected == 4:
            break
        normal = jacobian.T @ jacobian
        damped = normal + damping * np.diag(np.diag(normal)) + 1e-12 * np.eye(len(start))
        candidate = start - np.linalg.solve(damped, jacobian.T @ residual)
        there = expand(candidate)
        if not there[2] < cost:
            damping, rejected = 8 * damping, rejected + 1
            continue
        settled = there[2] > (1 - 1e-4) * cost
        start, (residual, jacobian, cost) = candidate, there
        if settled:
            break
        damping, rejected = damping / 8, 0
    return start


def _band(
    sim: Simulator,
    start: Array,
    times: Array,
    at_data: np.ndarray[Any, np.dtype[np.integer[Any]]],
    y: Array,
    scale: Array,
    kind: str,
) -> Array | None:
    """Half width of the model's 95 % band, ``(m, d)``, or None without a covariance."""
    if sim.covariance is None or not np.isfinite(sim.covariance).all():
        return None
    c, dim = sim.coefficients, len(start)
    count = len(c)
    sizes = np.sqrt(np.maximum(np.diag(sim.covariance), 1e-300))
    steps = np.concatenate([1e-3 * sizes, 1e-4 * scale])
    moved = np.vstack([np.zeros(count + dim), np.diag(steps)])
    lanes = sim.run(start + moved[:, count:], times, c + moved[:, :count], rtol=1e-9)
    if not np.isfinite(lanes).all():
        return None
    slopes = np.moveaxis((lanes[:, 1:] - lanes[:, :1]) / steps[None, :, None], 1, 2)
    by_c, by_start = slopes[..., :count], slopes[..., count:]
    residual = _weighted(y, lanes[at_data][:, :1], scale, kind)[0]
    weight = _noise_weights(y, lanes[at_data, 0], scale, kind)
    seen = np.where(np.isfinite(y), weight, 0.0)[..., None]
    design = (seen * by_start[at_data]).reshape(-1, dim)
    driven = (seen * by_c[at_data]).reshape(-1, count)
    variance = residual @ residual / max(np.isfinite(y).sum() - dim - count, 1)
    inverse = np.linalg.pinv(design.T @ design)
    follow = by_c - by_start @ (inverse @ design.T @ driven)
    total = np.einsum("mdi,ij,mdj->md", follow, sim.covariance, follow)
    total = total + variance * np.einsum("mdi,ij,mdj->md", by_start, inverse, by_start)
    width = sim.reach * np.sqrt(np.maximum(total, 0.0))
    # Where errors grow beyond the data themselves the linear picture has ended.
    return width if np.median(width / scale) < 1.5 else None


def _noise_weights(y: Array, model: Array, scale: Array, kind: str) -> Array:
    """Slope of the residual with respect to the model, up to sign, ``(n, d)``."""
    if kind == "log-normal":
        return 1 / np.maximum(np.abs(model), 1e-300)
    if kind == "multiplicative":
        floor = 0.03 * np.nanmax(np.abs(model), axis=0)
        return 1 / np.sqrt(model**2 + floor**2)  # type: ignore[no-any-return]
    return np.broadcast_to(1 / scale, y.shape)
