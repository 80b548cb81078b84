"""The noise model once more, judged by the residuals of a fitted model.

The evidence of a smoother mixes how well each noise model describes the noise with how well its
curve describes the signal; residuals about a fitted model know the noise alone, provided that the
model fits. So the evidence decides what is searched first, and this what is searched again.

Units: scaled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from odekit_sindy.found import Found
from odekit_sindy.models import Models
from odekit_sindy.noise_shape import proportional
from odekit_sindy.shooting import FLOOR
from odekit_sindy.smoothing import MARGIN, Smoothed


def better_noise(found: Found, models: Sequence[Smoothed]) -> Smoothed | None:
    """Another noise model, if the residuals of the best model speak for it.

    It is to be kept only if a model reaches its noise level.

    Args:
        found: a search under one noise model.
        models: the smoothed data under each of them.
    """
    rung = found.rungs[found.chosen]
    layout = rung.search.shooting.layout
    best = rung.best
    if np.all(best.rms < found.floor):
        return None  # there is no noise to speak of
    nodes, _ = rung.search.shooting.integrate(
        Models.of([best.support], [best.c], [best.start], rung.library.size)
    )
    states = np.concatenate(layout.at_rows(nodes[:, 0]))
    observed = found.dataset.counts > 0
    y, states = found.dataset.stacked[:, observed], states[:, observed]
    seen = np.isfinite(y)
    size = proportional(states)
    likely = {
        "additive": _log_likelihood(y - states, 1.0, seen),
        "multiplicative": _log_likelihood(y - states, size, seen),
    }
    if bool((y[seen] > 0).all() and (states[seen] > 0).all()):
        logs = np.log(np.where(seen, y, 1.0)), np.log(np.where(seen, states, 1.0))
        likely["log-normal"] = _log_likelihood(logs[0] - logs[1], 1.0, seen) - logs[0].sum()
    kinds = {model.kind: model for model in models}
    kind = max((k for k in likely if k in kinds), key=likely.__getitem__)
    now = likely.get(found.smoothed.kind, -np.inf)
    return kinds[kind] if likely[kind] > now + MARGIN else None


def _log_likelihood(error: np.ndarray, shape: np.ndarray | float, seen: np.ndarray) -> float:
    h = np.broadcast_to(shape, error.shape)
    square = np.where(seen, (error / h) ** 2, 0.0).sum(0)
    count = seen.sum(0)
    level = np.sqrt(square / count + FLOOR**2)
    return float(-(count * np.log(level)).sum() - np.log(h[seen]).sum())
