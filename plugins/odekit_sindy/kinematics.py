"""Families of right-hand sides of which some slopes are known: ``q' = v`` beside anything for v.

A network for all states may turn those that nobody observed into coordinates of its own choice.
Held to ``q' = v`` they stay velocities, and what it learns of them can be named.

Shapes: see `odekit_sindy.dynamics`.
Units: scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np

from odekit_sindy.dynamics import Dynamics, Slope
from odekit_sindy.models import Models


@final
class Kinematic:
    """Another family with some of its slopes replaced by multiples of other states.

    Args:
        inner: the family; what it says of the replaced slopes has no effect.
        moved: per state the one that moves it, and by how much: ``{0: (1, 2.0)}`` for
            ``x0' = 2 x1``.
    """

    def __init__(self, inner: Dynamics, moved: Mapping[int, tuple[int, float]]) -> None:
        self.inner = inner
        self.moved = dict(moved)

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """The slopes of these models, see `odekit_sindy.dynamics.Dynamics`."""
        inner = self.inner.bind(models, sensitivities)

        def slope(point: np.ndarray, z: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
            f, dz = inner(point, z)
            for state, (mover, factor) in self.moved.items():
                f[:, state] = factor * point[:, mover]
                if dz is not None and z is not None:
                    dz[:, state] = factor * z[:, mover]
            return f, dz

        return slope
