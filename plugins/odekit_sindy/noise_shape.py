"""The shape of noise that grows with the state: what is known of its size before its level is.

A noise *shape* is a standard deviation up to one factor per state, the level. Noise in proportion
to a state does not vanish where the state crosses zero, so the shape has a floor.

Shapes: states and shapes ``(n, d)``, or ``(..., d)``.
Units: those of the states.
"""

from __future__ import annotations

import numpy as np

FLAT = 0.03
"""Floor of the shape, relative to the largest value of the state."""


def proportional(states: np.ndarray, largest: np.ndarray | None = None) -> np.ndarray:
    """Shape of noise in proportion to the states, ``(n, d)``.

    Args:
        states: ``(n, d)``.
        largest: largest size of each state, ``(d,)``; that of these rows if None.
    """
    if largest is None:
        largest = np.abs(states).max(0)
    return np.asarray(np.sqrt(states**2 + (FLAT * largest) ** 2))


def mean_size(shape: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Root mean square of a shape ``(n, d)`` over the cells that were ``seen``, ``(d,)``."""
    square = (np.where(seen, shape, 0.0) ** 2).sum(0)
    return np.asarray(np.sqrt(square / np.maximum(seen.sum(0), 1)))
