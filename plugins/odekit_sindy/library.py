"""Libraries of candidate functions, each closed under differentiation.

A library holds all monomials up to a degree and, if asked, sine and cosine of each state. Every
partial derivative of a member is a combination of members, so the Jacobian of a model costs one
more matrix product with the values already there: ``d theta / d x_j = theta @ D_j``.

Shapes: ``L`` functions of ``v = d + m`` variables (states, then inputs), ``M`` points along the
last axis, any leading axes.
Units: variables are in scaled units; the argument of a sine is in the caller's unit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from odekit_sindy.dynamics import Slope
    from odekit_sindy.models import Models

Key = tuple[int, ...] | tuple[str, int]
"""Identity of a function across libraries: exponents, or ``("sin", state)``."""


@dataclass(frozen=True)
class Library:
    """Monomials and, optionally, waves of the states.

    Args:
        dim: number of states.
        degree: highest degree of the monomials.
        trig: whether sine and cosine of each state belong to it.
        inputs: number of inputs, further variables of the monomials.
        scale: the states' units ``(dim,)``, needed for the arguments of waves.
    """

    dim: int
    degree: int
    trig: bool = False
    inputs: int = 0
    scale: np.ndarray | None = field(default=None, compare=False)

    @cached_property
    def exponents(self) -> np.ndarray:
        """Exponents of the monomials by degree, ``(monomials, v)``; the constant comes first."""
        v = self.dim + self.inputs
        rows = []
        for total in range(self.degree + 1):
            for pick in itertools.combinations_with_replacement(range(v), total):
                rows.append([pick.count(i) for i in range(v)])
        return np.array(rows, dtype=int).reshape(-1, v)

    @cached_property
    def keys(self) -> list[Key]:
        """One key per function, in order."""
        keys: list[Key] = [tuple(int(e) for e in row) for row in self.exponents]
        if self.trig:
            keys += [(name, j) for j in range(self.dim) for name in ("sin", "cos")]
        return keys

    @property
    def size(self) -> int:
        """Number of functions ``L``."""
        return len(self.keys)

    @property
    def name(self) -> str:
        """``"polynomials up to degree 2"``, for reports."""
        waves = ", sine and cosine" if self.trig else ""
        return f"polynomials up to degree {self.degree}{waves}"

    @cached_property
    def _frequency(self) -> np.ndarray:
        return np.ones(self.dim) if self.scale is None else np.asarray(self.scale, float)

    @cached_property
    def _gather(self) -> list[np.ndarray]:
        """Rows of the table of powers that each monomial multiplies, one array per variable."""
        high = self.degree + 1
        return [self.exponents[:, i] + i * high for i in range(self.exponents.shape[1])]

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """Values of all functions: ``(..., v, M)`` to ``(..., L, M)``."""
        high = self.degree + 1
        v = self.exponents.shape[1]
        powers = np.empty((*x.shape[:-2], v, high, x.shape[-1]))
        powers[..., 0, :] = 1.0
        for p in range(1, high):
            np.multiply(powers[..., p - 1, :], x, out=powers[..., p, :])
        table = powers.reshape(*x.shape[:-2], v * high, x.shape[-1])
        out = np.take(table, self._gather[0], axis=-2)
        for rows in self._gather[1:]:
            out *= np.take(table, rows, axis=-2)
        if not self.trig:
            return out
        angle = x[..., : self.dim, :] * self._frequency[:, None]
        waves = np.stack([np.sin(angle), np.cos(angle)], axis=-2)
        waves = waves.reshape(*x.shape[:-2], 2 * self.dim, x.shape[-1])
        return np.concatenate([out, waves], axis=-2)

    @cached_property
    def derivative(self) -> np.ndarray:
        """``D (d, L, L)``: ``d theta_l / d x_j = sum_k theta_k D[j, k, l]``."""
        place = {key: i for i, key in enumerate(self.keys)}
        out = np.zeros((self.dim, self.size, self.size))
        for i, row in enumerate(self.exponents):
            for j in range(self.dim):
                if row[j]:
                    lower = [int(e) - (k == j) for k, e in enumerate(row)]
                    out[j, place[tuple(lower)], i] = row[j]
        if self.trig:
            for j in range(self.dim):
                sine, cosine = place["sin", j], place["cos", j]
                out[j, cosine, sine] = self._frequency[j]
                out[j, sine, cosine] = -self._frequency[j]
        return out

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """Slopes ``C theta`` of these models, see `odekit_sindy.dynamics.Dynamics`."""
        return _Combination(models, self, sensitivities)

    def terms(self, names: tuple[str, ...], inputs: tuple[str, ...] = ()) -> list[str]:
        """The functions as text that sympy reads: ``1``, ``x**2*y``, ``sin(x)``."""
        symbols = (*names, *inputs)
        out = []
        for key in self.keys:
            if isinstance(key[0], str):
                out.append(f"{key[0]}({names[int(key[1])]})")
                continue
            factors = [
                symbols[i] if e == 1 else f"{symbols[i]}**{e}" for i, e in enumerate(key) if e
            ]
            out.append("*".join(factors) or "1")
        return out

    def unscaling(self, state: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Factor ``(L,)`` from a function of scaled variables to one of the caller's variables."""
        units = np.concatenate([state, inputs])
        out = np.ones(self.size)
        out[: len(self.exponents)] = np.prod(units ** (-self.exponents.astype(float)), axis=1)
        return out

    def embed(self, support: tuple[int, ...], other: Library) -> tuple[int, ...]:
        """A support of ``other`` (indices ``equation * L + function``) as one of this library.

        Functions that this library lacks are left out.
        """
        place = {key: i for i, key in enumerate(self.keys)}
        found = []
        for q in support:
            j, i = divmod(q, other.size)
            if other.keys[i] in place:
                found.append(j * self.size + place[other.keys[i]])
        return tuple(sorted(found))


class _Combination:
    """Linear combinations of the library for a batch of models, with tangents."""

    def __init__(self, models: Models, library: Library, sensitivities: bool) -> None:
        self.library = library
        self.c = models.matrix()
        self.dim = library.dim
        if sensitivities:
            d, size = library.dim, library.size
            # (B, i, j, L): the coefficients of df_i/dx_j on the library itself.
            w = np.tensordot(self.c, library.derivative, axes=([2], [2]))
            # One matrix for slopes and Jacobian: numpy's overhead counts in the inner loop.
            self.c = np.concatenate([self.c, w.reshape(len(models), d * d, size)], axis=1)
            self.hot = models.one_hot()[..., None]
            self.rows = (models.term + size * np.arange(len(models))[:, None]).reshape(-1)

    def __call__(
        self, point: np.ndarray, z: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        count, d = len(point), self.dim
        theta = self.library.evaluate(point)
        slopes = self.c @ theta
        if z is None:
            return slopes, None
        jac = slopes[:, d:].reshape(count, d, d, -1)
        dz = jac[:, :, 0, None] * z[:, None, 0]
        for j in range(1, d):
            dz += jac[:, :, j, None] * z[:, None, j]
        picked = theta.reshape(-1, theta.shape[2]).take(self.rows, axis=0)
        dz[:, :, d:] += self.hot * picked.reshape(count, 1, -1, theta.shape[2])
        return slopes[:, :d], dz


def ladder(
    dim: int, inputs: int, scale: np.ndarray, library: str = "auto", degree: int | None = None
) -> list[Library]:
    """The libraries to try, smallest first.

    Args:
        dim: number of states.
        inputs: number of inputs.
        scale: the states' units, ``(dim,)``.
        library: ``"auto"`` (polynomials of rising degree, then sine and cosine unless a degree
            is asked for), ``"polynomial"`` (the same without waves) or ``"trig"`` (one library
            with waves).
        degree: highest degree; 3 by default.
    """
    top = 3 if degree is None else degree
    waves = Library(dim, top, trig=True, inputs=inputs, scale=scale)
    if library == "trig":
        return [waves]
    rungs = [Library(dim, p, inputs=inputs, scale=scale) for p in range(1, top + 1)]
    return [*rungs, waves] if library == "auto" and degree is None else rungs
