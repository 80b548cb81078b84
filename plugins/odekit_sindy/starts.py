"""Starts from below: supports and rough coefficients from slopes along smoothed states.

Every smoother, and every trained field, gives samples of states and slopes; least squares of the
slopes on a library gives supports of several sizes. Starts from above, by elimination, are in
`odekit_sindy.elimination`.

Shapes: ``q`` samples, ``d`` states, ``L`` functions; supports hold flat indices
    ``equation * L + function``.
Units: scaled, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from odekit_sindy.candidates import Support, best_by_size, choose_size, coefficients, time_blocks
from odekit_sindy.data import Scales
from odekit_sindy.library import Library
from odekit_sindy.rational import Rational
from odekit_sindy.search import Start
from odekit_sindy.smoothing import Samples

Slope: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A field in numpy: times ``(q,)`` and states ``(q, d)`` to slopes ``(q, d)``."""

Paths: TypeAlias = Callable[[np.ndarray, np.ndarray], dict[int, Support]]
"""Library values ``(q, L)`` and slopes ``(q,)`` to one candidate support of each size."""

SIZES = (2, 3, 6)
MOST_STARTS = 5


def start_models(
    samples: Samples, library: Library, start: np.ndarray, paths: Paths = best_by_size
) -> list[Start]:
    """Supports from least squares of slopes on the library: size by cross-validation, and fixed.

    Args:
        samples: states and slopes.
        library: candidate functions.
        start: segment states ``(d, M)``.
        paths: candidate supports of each size.
    """
    if isinstance(library, Rational):
        plain = start_models(samples, library.plain, start, paths)
        return [replace(s, support=library.embed(s.support, library.plain)) for s in plain]
    a = library.evaluate(np.concatenate([samples.x, samples.u], axis=1).T).T
    blocks = time_blocks(len(samples.x))
    rules = library.rules
    if rules is None:
        found = [paths(a, y) for y in samples.dx.T]
        cv = [choose_size(a, y, p, blocks) for p, y in zip(found, samples.dx.T, strict=True)]
    else:
        found = rules.paths(a, samples.dx, paths)
        cv = rules.sizes(a, samples.dx, found, blocks)
    out: dict[Support, Start] = {}
    for sizes in [cv, *([k] * len(found) for k in SIZES)]:
        support: list[int] = []
        values: list[float] = []
        for j, (path, k) in enumerate(zip(found, sizes, strict=True)):
            chosen = path[_nearest(path, k)]
            y = samples.dx[:, j]
            support += [j * library.size + i for i in chosen]
            if rules is None:
                values += list(coefficients(a.T @ a, a.T @ y, chosen))
        if rules is not None:
            whole, c = rules.start(a, samples.dx, support)
            support, values = list(whole), list(c)
        out.setdefault(tuple(support), Start(tuple(support), np.array(values), start))
    return list(out.values())[:MOST_STARTS]


def _nearest(path: dict[int, Support], size: int) -> int:
    return min(path, key=lambda k: abs(k - size))


def of_field(slope: Slope, samples: Samples, scales: Scales) -> Samples:
    """The slopes of a field in the caller's units along scaled samples."""
    dx = slope(samples.t * scales.time, samples.x * scales.state)
    return replace(samples, dx=dx * scales.time / scales.state)


def in_units(samples: Samples, scales: Scales) -> Samples:
    """Samples in the caller's units as scaled ones."""
    return Samples(
        samples.t / scales.time,
        samples.x / scales.state,
        samples.dx * scales.time / scales.state,
        samples.u / scales.input,
    )


def characteristic_time(samples: Samples) -> float:
    """Median of ``|x| / |x'|`` over all states and samples."""
    slope = np.abs(samples.dx)
    ratio = np.abs(samples.x)[slope > 0] / slope[slope > 0]
    value = float(np.median(ratio)) if ratio.size else 1.0
    return value if np.isfinite(value) and value > 0 else 1.0
