"""What multiple shooting asks of a family of right-hand sides: slopes and their tangents in numpy.

A library with linear coefficients is one family, a formula with parameters another, a neural
network a third; `odekit_sindy.shooting` fits them all.

Shapes: ``B`` models, ``v = d + m`` variables (states, then inputs), ``k`` parameters,
    ``n = d + k`` columns of a sensitivity, ``M`` points.
Units: scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from odekit_sindy.models import Models

Slope: TypeAlias = Callable[
    [np.ndarray, "np.ndarray | None"], "tuple[np.ndarray, np.ndarray | None]"
]
"""Points ``(B, v, M)`` and tangents ``z (B, d, n, M)`` or None, to slopes ``f (B, d, M)`` and
``(df/dx) z + [0, df/dc]``, of the shape of ``z``, or None."""


class Dynamics(Protocol):
    """A family of right-hand sides with parameters."""

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """The slopes of these models.

        Args:
            models: ``models.c (B, k)`` holds the parameters in the order of the tangents' columns.
            sensitivities: whether tangents will be asked for.
        """
