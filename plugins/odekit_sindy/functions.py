"""How a library's functions are computed, and their derivatives as combinations of them.

Monomials share a table of powers; products of waves share their waves; a formula's derivative may
need functions beyond the members, which are computed beside these. What the members are, and what
each one is called and costs, is `odekit_sindy.library`.

Shapes: ``L`` members, ``L+`` with those beyond; ``M`` points of ``v`` variables along the last
    axis, any leading axes.
Units: variables are in scaled units; the argument of a wave is in the caller's unit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np

from odekit_sindy.customs import EXPONENTIALS, Key, compiled, key_of
from odekit_sindy.wave_products import WAVES, WaveProduct, multiplied

if TYPE_CHECKING:
    from odekit_sindy.library import Library


@final
class Functions:
    """The members of a library as arithmetic."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.exponents = library.exponents
        self.dim = library.dim
        scale = library.scale
        self.frequency = np.ones(self.dim) if scale is None else np.asarray(scale, float)

    def values(self, x: np.ndarray) -> np.ndarray:
        """All members, and what their derivatives need: ``(..., v, M)`` to ``(..., L+, M)``."""
        library = self.library
        out = self._monomials(x)
        if not (library.trig or library.exponentials or library.customs):
            return out
        parts = [out]
        if library.trig:
            angle = x[..., : self.dim, :] * self.frequency[:, None]
            waves = np.stack([np.sin(angle), np.cos(angle)], axis=-2)
            parts.append(waves.reshape(*x.shape[:-2], 2 * self.dim, x.shape[-1]))
        for j, low, high in library.exponentials:
            y = x[..., j : j + 1, :] * self.frequency[j]
            parts += [np.exp(y - high), np.exp(low - y)]
        if library.products:
            simple = np.concatenate(parts, axis=-2)
            first, second = library.product_factors
            parts.append(np.take(simple, first, axis=-2) * np.take(simple, second, axis=-2))
        if library.customs is not None:
            raw = x[..., : len(library.customs.units), :] * library.customs.units[:, None]
            parts.append(self._formulas(raw) * self._formula_factor[:, None])
        return np.concatenate(parts, axis=-2)

    def _monomials(self, x: np.ndarray) -> np.ndarray:
        high = self.library.degree + 1
        v = self.exponents.shape[1]
        x = x[..., :v, :]
        powers = np.empty((*x.shape[:-2], v, high, x.shape[-1]))
        powers[..., 0, :] = 1.0
        for p in range(1, high):
            np.multiply(powers[..., p - 1, :], x, out=powers[..., p, :])
        table = powers.reshape(*x.shape[:-2], v * high, x.shape[-1])
        out = table.take(self._gather[0], axis=-2)
        for rows in self._gather[1:]:
            out *= table.take(rows, axis=-2)
        return out

    def factors(self, chosen: np.ndarray) -> list[np.ndarray] | None:
        """Members as products of rows of `table`, for few points at a time.

        Args:
            chosen: which members, ``(U,)``.

        Returns:
            Rows to multiply, one array ``(U,)`` for each factor, row 0 where there are fewer; None
            where a member is no such product.
        """
        customs = self.library.customs
        own = self.library.size - (customs.size if customs else 0)  # formulas have units of theirs
        rows = [self._rows_of(self.library.keys[i]) if i < own else None for i in chosen]
        out = np.zeros((max((len(row or ()) for row in rows), default=0) or 1, len(rows)), int)
        for i, row in enumerate(rows):
            if row is None:
                return None
            out[: len(row), i] = row
        return list(out)

    def _rows_of(self, key: Key) -> list[int] | None:
        v = self.exponents.shape[1]
        if isinstance(key, WaveProduct):
            first, second = self._rows_of(key.first), self._rows_of(key.second)
            return None if first is None or second is None else first + second
        if key[0] in WAVES:
            return [1 + v + self.dim * WAVES.index(str(key[0])) + int(key[1])]
        if len(key) != v or isinstance(key[0], str):
            return None
        return [1 + i for i, power in enumerate(key) for _ in range(int(power))]

    def table(self, x: np.ndarray, waves: bool) -> np.ndarray:
        """A one, the variables and, if asked, sines and cosines: ``(B, rows, M)``."""
        v = self.exponents.shape[1]
        out = np.empty((len(x), 1 + v + 2 * self.dim * waves, x.shape[2]))
        out[:, 0] = 1.0
        out[:, 1 : 1 + v] = x[:, :v]
        if waves:
            angle = x[:, : self.dim] * self.frequency[:, None]
            np.sin(angle, out=out[:, 1 + v : 1 + v + self.dim])
            np.cos(angle, out=out[:, 1 + v + self.dim :])
        return out

    @cached_property
    def _gather(self) -> list[np.ndarray]:
        """Rows of the table of powers that each monomial multiplies, one array per variable."""
        high = self.library.degree + 1
        return [self.exponents[:, i] + i * high for i in range(self.exponents.shape[1])]

    @cached_property
    def derivative(self) -> np.ndarray:
        """``D (d, L+, L)``: ``d theta_l / d x_j = sum_k theta_k D[j, k, l]``."""
        library, place = self.library, self.library.place
        out = np.zeros((self.dim, library.size + len(self.beyond), library.size))
        for i, row in enumerate(self.exponents):
            for j in range(self.dim):
                if row[j]:
                    lower = [int(e) - (k == j) for k, e in enumerate(row)]
                    out[j, place[tuple(lower)], i] = row[j]
        if library.trig:
            for j in range(self.dim):
                sine, cosine = place["sin", j], place["cos", j]
                out[j, cosine, sine] = self.frequency[j]
                out[j, sine, cosine] = -self.frequency[j]
        for j, _, _ in library.exponentials:
            for sign, name in zip((1, -1), EXPONENTIALS, strict=True):
                out[j, place[name, j], place[name, j]] = sign * self.frequency[j]
        self._derive_products(out)
        self._derive_formulas(out)
        return out

    def _derive_products(self, out: np.ndarray) -> None:
        """By the product rule, from the derivatives of the factors."""
        keys, place = self.library.keys, self.library.place
        constant = (0,) * self.exponents.shape[1]
        for i, (a, b) in self.library.own_products:
            for factor, other in ((a, b), (b, a)):
                slope = out[:, :, place[factor]].copy()
                for j, k in zip(*np.nonzero(slope), strict=True):
                    for key, number in multiplied(keys[k], other, constant).items():
                        out[j, place[key], i] += number * slope[j, k]

    def _derive_formulas(self, out: np.ndarray) -> None:
        library = self.library
        if library.customs is None:
            return
        first, units = library.size - library.customs.size, library.customs.units
        members = library.unscaling(units[: self.dim], units[self.dim :])
        factors = np.concatenate([members, np.ones(len(self.beyond))])
        beyond = {product: library.size + i for i, product in enumerate(self.beyond)}
        for i, j, number, product in self._slopes:
            at = beyond[product] if product in beyond else library.place[self._key_of(product)]
            out[j, at, first + i] += number * units[j] * library.customs.factor[i] / factors[at]

    @cached_property
    def _slopes(self) -> list[tuple[int, int, float, Any]]:
        customs = self.library.customs
        return [] if customs is None else customs.derivatives()

    @cached_property
    def beyond(self) -> list[Any]:
        """Formulas in derivatives of formulas that are no members."""
        if self.library.customs is None:
            return []
        found = {
            product: None
            for _, _, _, product in self._slopes
            if self._key_of(product) not in self.library.place
        }
        return list(found)

    def _key_of(self, product: Any) -> Key:
        assert self.library.customs is not None
        customs = self.library.customs
        return key_of(product, customs.variables[: self.dim], customs.monomials)

    @cached_property
    def _formulas(self) -> Callable[[np.ndarray], np.ndarray]:
        assert self.library.customs is not None
        customs = self.library.customs
        return compiled([*customs.expressions, *self.beyond], customs.variables)

    @cached_property
    def _formula_factor(self) -> np.ndarray:
        assert self.library.customs is not None
        return np.concatenate([self.library.customs.factor, np.ones(len(self.beyond))])
