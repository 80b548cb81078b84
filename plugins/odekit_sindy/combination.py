"""Slopes that are linear combinations of a library's functions, with their tangents.

Shapes: ``B`` models, ``d`` states, ``L`` functions, ``M`` points; see
    `odekit_sindy.dynamics.Dynamics`. Units: scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from odekit_sindy.library import Library
    from odekit_sindy.models import Models


@final
class Combination:
    """Linear combinations of the library for a batch of models, with tangents."""

    def __init__(self, models: Models, library: Library, sensitivities: bool) -> None:
        self.library = library
        self.c = models.matrix()
        self.dim = library.dim
        rules = library.rules
        if rules is not None:
            self.c = rules.complete(self.c)
        self.beyond = library.derivative.shape[1] - library.size if library.customs else 0
        self.gather: list[np.ndarray] | None = None
        self.waves = False
        self.more: list[tuple[np.ndarray, np.ndarray]] = []
        if sensitivities:
            d, size = library.dim, library.size + self.beyond
            # (B, i, j, L): the coefficients of df_i/dx_j on the library itself.
            w = np.tensordot(self.c, library.derivative, axes=([2], [2]))
            # One matrix for slopes and Jacobian: numpy's overhead counts in the inner loop.
            self.c = np.concatenate([self._padded(), w.reshape(len(models), d * d, size)], axis=1)
            self.hot = models.one_hot()[..., None]
            lanes = size * np.arange(len(models))[:, None]
            self.rows = (models.term + lanes).reshape(-1)
            if rules is not None:
                self.more = [
                    (hot[..., None], (term + lanes).reshape(-1))
                    for hot, term in rules.followed(models)
                ]
        else:
            used = np.flatnonzero(self.c.any(axis=(0, 1)))
            self.gather = library.functions.factors(used)
            self.c = self._padded() if self.gather is None else self.c.take(used, axis=2)
            last = library.exponents.shape[1]
            self.waves = self.gather is not None and any((r > last).any() for r in self.gather)

    def _padded(self) -> np.ndarray:
        """Coefficients with zeros for the functions beyond the members, ``(B, d, L+)``."""
        return np.pad(self.c, ((0, 0), (0, 0), (0, self.beyond))) if self.beyond else self.c

    def _products(self, point: np.ndarray) -> np.ndarray:
        """The functions that have a coefficient, ``(B, U, M)``."""
        assert self.gather is not None
        table = self.library.functions.table(point, self.waves)
        first, *rest = self.gather
        values = table.take(first, axis=1)
        for rows in rest:
            values *= table.take(rows, axis=1)
        return values

    def __call__(
        self, point: np.ndarray, z: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Slopes ``(B, d, M)`` and tangents ``(B, d, p, M)``."""
        count, d = len(point), self.dim
        if z is None and self.gather is not None:
            return self.c @ self._products(point), None
        theta = self.library.evaluate_all(point)
        slopes = self.c @ theta
        if z is None:
            return slopes, None
        jac = slopes[:, d:].reshape(count, d, d, -1)
        dz = jac[:, :, 0, None] * z[:, None, 0]
        for j in range(1, d):
            dz += jac[:, :, j, None] * z[:, None, j]
        flat = theta.reshape(-1, theta.shape[2])
        picked = flat.take(self.rows, axis=0)
        dz[:, :, d:] += self.hot * picked.reshape(count, 1, -1, theta.shape[2])
        for hot, rows in self.more:
            dz[:, :, d:] += hot * flat.take(rows, axis=0).reshape(count, 1, -1, theta.shape[2])
        return slopes[:, :d], dz
