"""Prediction of trajectories that the equations have not seen.

Two kinds. *Kept out*: trajectories that took no part in anything; asked for by the user. *Left out
in turn*: the structure is that of all data, but its coefficients are fitted again without one
trajectory, or one group of them, which is then predicted. The second kind costs a few iterations
and loses no data; it does not test the choice of the structure.

What is predicted is everything but the start: the coefficients come from the other trajectories,
and the start from the trajectory itself, since its first observation is as noisy as any other. The
start is fitted with the coefficients held fixed, so d numbers are taken from the held-out data.

Shapes: ``n`` rows of a trajectory, ``d`` states, ``k`` terms.
Units: scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from odekit import ProblemError
from odekit_sindy.data import MOST_ROWS, Dataset, Trajectory
from odekit_sindy.layout import arrange
from odekit_sindy.models import Models, Support
from odekit_sindy.noise_shape import mean_size, proportional
from odekit_sindy.shooting import Shooting
from odekit_sindy.short_prediction import Learned, Prediction, is_short, predict_short

GROUPS = 10
"""Most refits: more trajectories than this are left out in groups."""

TIGHT = (10.0, 100.0, 1000.0)
ITERATIONS = 8


@dataclass(frozen=True)
class HeldOut:
    """Prediction of held-out trajectories.

    Attributes:
        how: ``"kept out"`` or ``"left out in turn"``.
        trajectories: indices of the predicted trajectories.
        r2: of the simulation over all states, one per predicted trajectory.
        states: the same by state, ``(len(r2), d)``.
        error: root mean square error over the noise's shape, ``(len(r2), d)``; for trajectories
            of a few values per value that the fit of their start left free.
        short: trajectories of a few values, with what is known of their starts.
    """

    how: str
    trajectories: tuple[int, ...]
    r2: tuple[float, ...]
    states: np.ndarray
    error: np.ndarray
    short: dict[int, Prediction] = field(default_factory=dict)

    @property
    def by_index(self) -> dict[int, float]:
        """R2 by trajectory."""
        return dict(zip(self.trajectories, self.r2, strict=True))

    def excess(self, level: np.ndarray) -> dict[int, float]:
        """Error over the noise level ``(d,)`` of the worst state, by trajectory."""
        ratio = (self.error / level).max(1)
        return dict(zip(self.trajectories, map(float, ratio), strict=True))


def check(holdout: Any) -> Any:
    """The option itself, if it is one.

    Raises:
        ProblemError: neither None, ``"auto"``, an index, several indices nor a fraction.
    """
    if holdout is None or (isinstance(holdout, str) and holdout == "auto") or _is_index(holdout):
        return holdout
    if isinstance(holdout, float):
        if not 0 < holdout < 1:
            raise ProblemError(f"holdout as a fraction must lie between 0 and 1, got {holdout}")
        return holdout
    several = not isinstance(holdout, str) and hasattr(holdout, "__len__")
    if not several or not len(holdout) or not all(_is_index(i) for i in holdout):
        raise ProblemError(
            "holdout must be None, 'auto', an index, a list of indices or a fraction, got "
            f"{holdout!r}"
        )
    return holdout


def _is_index(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def named(holdout: Any, count: int) -> tuple[int, ...]:
    """The trajectories that are named one by one, none where they are drawn or do not exist."""
    if holdout is None or isinstance(holdout, str | float):
        return ()
    listed = [holdout] if _is_index(holdout) else list(holdout)
    return tuple(sorted({int(i) % count for i in listed if -count <= i < count}))


def choose(holdout: Any, count: int, seed: int) -> tuple[int, ...]:
    """Indices of the trajectories to keep out of the search.

    Args:
        holdout: None or ``"auto"`` (none of them), an index, several indices, or a fraction
            between 0 and 1 of the trajectories, at least one, to draw.
        count: number of trajectories.
        seed: for the draw.

    Raises:
        ProblemError: something else, an index that does not exist, or nothing left to learn from.
    """
    check(holdout)
    if holdout is None or isinstance(holdout, str):
        return ()
    if count < 2:
        raise ProblemError(
            f"holdout={holdout!r} needs two trajectories or more, got {count}: give a list of them"
        )
    if isinstance(holdout, float):
        number = min(max(round(holdout * count), 1), count - 1)
        drawn = np.random.default_rng(seed).permutation(count)[:number]
        return tuple(sorted(int(i) for i in drawn))
    listed = [holdout] if _is_index(holdout) else list(holdout)
    wrong = [i for i in listed if not -count <= i < count]
    if wrong:
        raise ProblemError(
            f"holdout names trajectory {wrong[0]}, but there are {count}: write 0 to {count - 1}"
        )
    chosen = sorted({int(i) % count for i in listed})
    if len(chosen) == count:
        raise ProblemError(
            f"holdout keeps out all {count} trajectories: leave one or more to learn from"
        )
    return tuple(chosen)


def left_out_in_turn(
    shooting: Shooting[Any],
    support: Support,
    c: np.ndarray,
    states: Sequence[np.ndarray],
    dataset: Dataset,
    shape: Sequence[np.ndarray],
) -> HeldOut | None:
    """Refit the coefficients without each trajectory, or group, and predict it.

    Args:
        shooting: the problem of all trajectories, for the family, the substeps and the floor.
        support: flat indices of the structure.
        c: its coefficients from all data, where the refits begin.
        states: fitted states at the rows of each trajectory, ``(n, d)``, where the starts begin.
        dataset: scaled data.
        shape: the noise's shape per trajectory, ``(n, d)``.

    Returns:
        None for a single trajectory, or where the time was up.
    """
    count = len(dataset.trajectories)
    if count < 2 or not support:
        return None
    out = np.zeros((count, 1 + 2 * dataset.dim))
    size = shooting.dynamics.size
    for group in np.array_split(np.arange(count), min(count, GROUPS)):
        if shooting.stop():
            return None
        rest = [i for i in range(count) if i not in set(group.tolist())]
        again = _problem(shooting, _some(dataset, rest), [shape[i] for i in rest])
        start = again.layout.starts(tuple(states[i] for i in rest))
        models = Models.of([support], [c], [start], size)
        for tightness in TIGHT[1:]:
            models = again.fit(models, again.noise(models), tightness, ITERATIONS)
        held = group.tolist()
        part = _some(dataset, held)
        out[group] = predict(
            shooting,
            support,
            models.values(0),
            [states[i] for i in held],
            part,
            [shape[i] for i in held],
        )
    return _outcome("left out in turn", range(count), out, dataset.dim)


def kept_out(
    shooting: Shooting[Any],
    support: Support,
    c: np.ndarray,
    dataset: Dataset,
    kind: str,
    indices: Sequence[int],
    level: np.ndarray,
    covariance: np.ndarray,
) -> HeldOut:
    """Predict trajectories that took no part in the search.

    Args:
        shooting: the problem of the others.
        support: flat indices of the structure.
        c: its coefficients.
        dataset: the trajectories to predict, in the scaled units of the others.
        kind: the noise model that the others chose.
        indices: what to call these trajectories.
        level: noise level of each state, ``(d,)``.
        covariance: of ``c``, ``(k, k)``.
    """
    # In the unit of the noise level, whose shape has unit mean square over the others' data.
    lay = shooting.layout
    seen = (lay.weight > 0).transpose(0, 2, 1).reshape(-1, lay.dim)
    y = lay.y.transpose(0, 2, 1).reshape(-1, lay.dim)
    size = mean_size(_shape(y, kind), seen)
    centre = np.where(seen, y, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
    spread = mean_size(y - centre, seen)
    learned = Learned(centre, np.where(spread > 0, spread, 1.0), level, covariance)
    parts = tuple(_divided(part, float(lay.step.max())) for part in dataset.trajectories)
    dataset = replace(dataset, trajectories=parts)
    states = [_filled(part.t, part.y, centre) for part in parts]
    shape = [_shape(x, kind) / np.where(size > 0, size, 1.0) for x in states]
    few = [is_short(part.y) for part in parts]
    out = np.zeros((len(few), 1 + 2 * dataset.dim))
    long = [i for i, short in enumerate(few) if not short]
    if long:
        part, own = _some(dataset, long), [shape[i] for i in long]
        out[long] = predict(shooting, support, c, [states[i] for i in long], part, own)
    short = {}
    for i in (i for i, one in enumerate(few) if one):
        part, guesses = _some(dataset, [i]), [states[i][0], centre]
        found = predict_short(shooting, support, c, part, shape[i], learned, guesses)
        out[i] = _compared(part, [found.states], [shape[i]])[0]
        out[i, 1 + dataset.dim :] /= np.sqrt(1 - found.spent)
        short[indices[i]] = found
    return replace(_outcome("kept out", indices, out, dataset.dim), short=short)


def _outcome(how: str, indices: Sequence[int], out: np.ndarray, dim: int) -> HeldOut:
    return HeldOut(
        how,
        tuple(indices),
        tuple(float(v) for v in out[:, 0]),
        out[:, 1 : 1 + dim],
        out[:, 1 + dim :],
    )


def predict(
    shooting: Shooting[Any],
    support: Support,
    c: np.ndarray,
    states: Sequence[np.ndarray],
    dataset: Dataset,
    shape: Sequence[np.ndarray],
) -> np.ndarray:
    """How well simulations with these coefficients from fitted starts follow the data.

    Returns:
        A row per trajectory, ``(trajectories, 1 + 2 d)``: R2 over all states, each in units of
        its standard deviation; R2 by state; root mean square error over the noise's shape.
    """
    several = _problem(shooting, dataset, shape)
    models = Models.of(
        [support], [c], [several.layout.starts(tuple(states))], shooting.dynamics.size
    )
    sigma = np.ones((1, dataset.dim))
    for tightness in TIGHT:
        models = several.fit(models, sigma, tightness, ITERATIONS, states_only=True)
        sigma = several.noise(models)
    nodes, _ = several.integrate(models)
    fitted = several.layout.at_rows(nodes[:, 0])
    whole = arrange(dataset, tuple(shape), intervals=None)
    # The box in which models are evaluated is that of all data, not of one trajectory.
    whole = replace(whole, low=shooting.layout.low, high=shooting.layout.high)
    single = Shooting(whole, shooting.dynamics, min(2 * shooting.substeps, 32), shooting.floor)
    alone = Models.of([support], [c], [whole.starts(fitted)], shooting.dynamics.size)
    nodes, _ = single.integrate(alone)
    return _compared(dataset, whole.at_rows(nodes[:, 0]), shape)


def _problem(
    shooting: Shooting[Any], dataset: Dataset, shape: Sequence[np.ndarray]
) -> Shooting[Any]:
    layout = arrange(dataset, tuple(shape))
    layout = replace(layout, low=shooting.layout.low, high=shooting.layout.high)
    return Shooting(layout, shooting.dynamics, shooting.substeps, shooting.floor)


def _some(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    return replace(dataset, trajectories=tuple(dataset.trajectories[i] for i in indices))


def _divided(part: Trajectory, longest: float) -> Trajectory:
    """A trajectory with rows without data where its intervals are longer than the others'.

    Steps of integration are counted per interval, and those of the others are fine enough.
    """
    longest = max(longest, float(np.ptp(part.t)) / MOST_ROWS)
    counts = np.maximum(np.ceil(np.diff(part.t) / longest - 1e-9).astype(int), 1)
    at = np.concatenate([[0], np.cumsum(counts)])
    t = np.interp(np.arange(at[-1] + 1), at, part.t)
    y = np.full((len(t), part.y.shape[1]), np.nan)
    y[at] = part.y
    u = [np.interp(t, part.t, column) for column in part.u.T]
    return Trajectory(t, y, np.stack(u, axis=1) if u else np.zeros((len(t), 0)))


def _filled(t: np.ndarray, y: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Observations with straight lines across what is missing; ``centre`` where all is."""
    out = np.tile(centre, (len(y), 1))
    for j in range(y.shape[1]):
        seen = np.isfinite(y[:, j])
        if seen.any():
            out[:, j] = np.interp(t, t[seen], y[seen, j])
    return out


def _shape(x: np.ndarray, kind: str) -> np.ndarray:
    """The noise's standard deviation up to a factor, under a noise model, ``(n, d)``."""
    if kind == "additive":
        return np.ones_like(x)
    level = proportional(x)
    return np.asarray(np.where(level > 0, level, 1.0))


def _compared(
    dataset: Dataset, simulated: Sequence[np.ndarray], shape: Sequence[np.ndarray]
) -> np.ndarray:
    rows = []
    for part, x, h in zip(dataset.trajectories, simulated, shape, strict=True):
        seen = np.isfinite(part.y)
        count = np.maximum(seen.sum(0), 1)
        error = np.where(seen, part.y - x, 0.0)
        around = np.where(seen, part.y - np.where(seen, part.y, 0.0).sum(0) / count, 0.0)
        wrong, total = (error**2).sum(0), (around**2).sum(0)
        whole = 1 - wrong.sum() / total.sum() if total.sum() > 0 else 0.0
        by_state = np.where(total > 0, 1 - wrong / np.where(total > 0, total, 1.0), np.nan)
        rows.append(np.concatenate([[whole], by_state, np.sqrt(((error / h) ** 2).sum(0) / count)]))
    return np.array(rows)
