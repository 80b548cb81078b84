"""Libraries of candidate functions, each closed under differentiation.

A library holds all monomials up to a degree and, if asked, sine and cosine of each state,
products of these, exponentials of some states, and formulas that the user gives. Every partial
derivative of a member is a combination of members, so the Jacobian of a model costs one more
matrix product with the values already there: ``d theta / d x_j = theta @ D_j``. Only formulas may
need functions beyond the members; these are computed beside them and are never terms.

Shapes: ``L`` functions of ``v = d + m`` variables (states, then inputs), or one more where time
    is a variable of formulas; ``M`` points along the last axis, any leading axes.
Units: variables are in scaled units; the argument of a sine is in the caller's unit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from odekit.errors import ProblemError
from odekit_sindy.combination import Combination
from odekit_sindy.customs import EXPONENTIALS, Customs, Key, named
from odekit_sindy.functions import Functions
from odekit_sindy.wave_products import WAVES, WaveProduct, wave_products

if TYPE_CHECKING:
    from odekit_sindy.data import Scales
    from odekit_sindy.dynamics import Slope
    from odekit_sindy.models import Models, Support
    from odekit_sindy.rules import Rules


@dataclass(frozen=True)
class Library:
    """Monomials and, optionally, waves and exponentials of the states, and given formulas.

    Args:
        dim: number of states.
        degree: highest degree of the monomials.
        trig: whether sine and cosine of each state belong to it.
        inputs: number of inputs, further variables of the monomials.
        scale: the states' units ``(dim,)``, needed for the arguments of waves and exponentials.
        exponentials: rows ``(state, low, high)``: the states with ``exp(x)`` and ``exp(-x)``,
            and the range of each in the caller's unit, where these stay below one.
        customs: formulas.
        rules: what the user knows about the coefficients.
        products: whether `odekit_sindy.wave_products` belong to it too, beside sine and cosine.
    """

    dim: int
    degree: int
    trig: bool = False
    inputs: int = 0
    scale: np.ndarray | None = field(default=None, compare=False)
    exponentials: tuple[tuple[int, float, float], ...] = ()
    customs: Customs | None = None
    rules: Rules | None = None
    products: bool = False

    def __post_init__(self) -> None:
        """Check that products have their factors.

        Raises:
            ProblemError: products of waves without the waves or without the states.
        """
        if self.products and not (self.trig and self.degree):
            raise ProblemError(
                f"products=True with trig={self.trig} and degree={self.degree}: products are made "
                "of the library's own waves and states; give trig=True and a degree of one or more"
            )

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
            keys += [(name, j) for j in range(self.dim) for name in WAVES]
        keys += [(name, j) for j, _, _ in self.exponentials for name in EXPONENTIALS]
        if self.products:
            keys += wave_products(self.dim, self.inputs)
        if self.customs is not None:
            keys += self.customs.keys
        return keys

    @cached_property
    def place(self) -> dict[Key, int]:
        """Where each function stands."""
        return {key: i for i, key in enumerate(self.keys)}

    @property
    def size(self) -> int:
        """Number of functions ``L``."""
        return len(self.keys)

    @cached_property
    def crowd(self) -> np.ndarray:
        """How many functions the smallest library has that holds each one, ``(L,)``."""
        degree = np.maximum(self.exponents.sum(1), 1)
        v = self.exponents.shape[1]
        out = np.full(self.size, float(self.choices))
        out[: len(degree)] = [math.comb(v + int(g), int(g)) for g in degree]
        if self.products:
            more = self._multiplied
            free = len(more) if self.rules is None else self.rules.allowed[:, more].any(0).sum()
            out[len(degree) :] = max(self.choices - int(free), 1)
            out[more] = self.choices
        return out

    @cached_property
    def level(self) -> np.ndarray:
        """Rungs of the ladder below each function, ``(L,)``; none below a formula of the user."""
        below = np.full(self.size, max(self.degree, 1))
        below[: len(self.exponents)] = np.maximum(self.exponents.sum(1), 1) - 1
        below[self._multiplied] += 1
        if self.customs is not None:
            below[self.size - self.customs.size :] = 0
        return below

    @property
    def name(self) -> str:
        """``"polynomials up to degree 2"``, for reports."""
        parts = [f"polynomials up to degree {self.degree}"]
        parts += ["sine and cosine" + ", and their products" * self.products] * self.trig
        parts += ["exponentials"] * bool(self.exponentials)
        offered = self._offered
        parts += offered if len(offered) <= 3 else [f"{len(offered)} formulas"]
        return ", ".join(parts)

    @property
    def _offered(self) -> list[str]:
        """Formulas that may become terms; others are there for known parts alone."""
        if self.customs is None:
            return []
        first = self.size - self.customs.size
        if self.rules is None:
            return self.customs.texts
        free = np.asarray(self.rules.allowed[:, first:].any(axis=0))
        return [text for i, text in enumerate(self.customs.texts) if free[i]]

    @property
    def choices(self) -> int:
        """Number of functions that the search may choose from."""
        return self.size if self.rules is None else max(int(self.rules.allowed.any(0).sum()), 1)

    @cached_property
    def own_products(self) -> list[tuple[int, WaveProduct]]:
        """Where products that are the library's own stand, with their factors."""
        own = self.keys[: self.size - (self.customs.size if self.customs else 0)]
        return [(i, key) for i, key in enumerate(own) if isinstance(key, WaveProduct)]

    @cached_property
    def _multiplied(self) -> np.ndarray:
        """Places of the products, ``(P,)``."""
        return np.array([i for i, _ in self.own_products], dtype=int)

    @cached_property
    def product_factors(self) -> np.ndarray:
        """Places of the two factors of each product, ``(2, P)``."""
        place = self.place
        rows = [(place[key.first], place[key.second]) for _, key in self.own_products]
        return np.array(rows, dtype=int).reshape(-1, 2).T

    @cached_property
    def functions(self) -> Functions:
        """The members as arithmetic."""
        return Functions(self)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """Values of all functions: ``(..., v, M)`` to ``(..., L, M)``."""
        values = self.functions.values(x)
        return values[..., : self.size, :] if self.functions.beyond else values

    def evaluate_all(self, x: np.ndarray) -> np.ndarray:
        """Values of all functions, and of those that their derivatives need: ``(..., L+, M)``."""
        return self.functions.values(x)

    @property
    def derivative(self) -> np.ndarray:
        """``D (d, L+, L)``: ``d theta_l / d x_j = sum_k theta_k D[j, k, l]``."""
        return self.functions.derivative

    def at(self, scales: Scales) -> Library:
        """The same library with the rules in scaled units."""
        if self.rules is None:
            return self
        unscaling = self.unscaling(scales.state, scales.input)
        factor = unscaling * scales.state[:, None] / scales.time
        return replace(self, rules=self.rules.scaled(factor))

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """Slopes ``C theta`` of these models, see `odekit_sindy.dynamics.Dynamics`."""
        return Combination(models, self, sensitivities)

    def terms(self, names: tuple[str, ...], inputs: tuple[str, ...] = ()) -> list[str]:
        """The functions as text that sympy reads: ``1``, ``x**2*y``, ``sin(x)``."""
        own = self.keys[: self.size - (self.customs.size if self.customs else 0)]
        texts = [named(key, (*names, *inputs)) for key in own]
        return texts + (self.customs.texts if self.customs else [])

    def unscaling(self, state: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Factor ``(L,)`` from a function of scaled variables to one of the caller's variables."""
        units = np.concatenate([state, inputs])[: self.exponents.shape[1]]
        out = np.ones(self.size)
        out[: len(self.exponents)] = np.prod(units ** (-self.exponents.astype(float)), axis=1)
        for j, low, high in self.exponentials:
            out[self.place["exp", j]] = np.exp(-high)
            out[self.place["exp_minus", j]] = np.exp(low)
        if self.products:
            out[self._multiplied] = out[self.product_factors].prod(axis=0)
        if self.customs is not None:
            out[self.size - self.customs.size :] = self.customs.factor
        return out

    def written(self, support: Support) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
        """The terms of a model as it is written down, shared and given ones included.

        Returns:
            Flat indices of ``T`` terms; the matrix ``(T, k)`` from the coefficients of the
            support to theirs; and the given values ``(T,)``, zero where there is none.
        """
        if self.rules is not None:
            return self.rules.expanded(support)
        return tuple(support), np.eye(len(support)), np.zeros(len(support))

    def factors(self, flat: Sequence[int], scales: Scales) -> np.ndarray:
        """Factor of each coefficient from scaled units to the caller's, ``(k,)``."""
        unscaling = self.unscaling(scales.state, scales.input)
        index = np.asarray(flat, dtype=int)
        slope = scales.state[index // self.size] / scales.time
        return np.asarray(unscaling[index % self.size] * slope)

    def is_below(self, flat: Sequence[int]) -> np.ndarray:
        """Which coefficients stand in a denominator, ``(k,)``: none of a sum."""
        return np.zeros(len(flat), dtype=bool)

    def labels(
        self,
        flat: Sequence[int],
        names: tuple[str, ...],
        inputs: tuple[str, ...] = (),
        numbers: Sequence[str] | None = None,
    ) -> list[str]:
        """The function of each coefficient as text; ``numbers`` are those of denominators."""
        texts = self.terms(names, inputs)
        return [texts[q % self.size] for q in flat]

    def shares(self, support: Support, c: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Root mean square contribution of each coefficient to its equation, ``(k,)``.

        Args:
            support: flat indices.
            c: coefficients.
            points: states and inputs, ``(v, M)``.
        """
        size = np.sqrt((self.evaluate(points) ** 2).mean(1))
        return np.asarray(np.abs(c) * size[np.asarray(support, dtype=int) % self.size])

    def completed(self, support: Support, kept: Sequence[int]) -> list[int]:
        """Positions in a support to keep, when ``kept`` are all that contribute."""
        return list(kept)

    def admits(self, models: Models) -> np.ndarray:
        """Which models have a right-hand side wherever the system was seen, ``(B,)``."""
        return np.ones(len(models), dtype=bool)

    def canonical(self, support: Support) -> Support | None:
        """The support that stands for all that make the same functions; None for none."""
        return support

    def conversion(self, mine: int, theirs: int, other: Library) -> float:
        """Factor from a coefficient in ``other`` to that of the same function here.

        Formulas are divided by their size, exponentials are not: the same function may differ.
        """
        return float(other._own_factor[theirs % other.size] / self._own_factor[mine % self.size])

    @cached_property
    def _own_factor(self) -> np.ndarray:
        """What each function is multiplied by, beyond the units of its variables, ``(L,)``."""
        plain = self.unscaling(np.ones(self.dim), np.ones(self.inputs))
        if self.customs is not None:
            first = self.size - self.customs.size
            as_own = [not isinstance(key[0], str) for key in self.customs.keys]
            plain[first:][as_own] = 1.0
        return plain

    def embed(self, support: tuple[int, ...], other: Library) -> tuple[int, ...]:
        """A support of ``other`` (indices ``equation * L + function``) as one of this library.

        Functions that this library lacks are left out.
        """
        place = self.place
        found = []
        for q in support:
            j, i = divmod(q, other.size)
            if other.keys[i] in place:
                found.append(j * self.size + place[other.keys[i]])
        return tuple(sorted(found))
