"""Libraries of candidate functions, each closed under differentiation.

A library holds all monomials up to a degree and, if asked, sine and cosine of each state,
exponentials of some, and formulas that the user gives. Every partial derivative of a member is a
combination of members, so the Jacobian of a model costs one more matrix product with the values
already there: ``d theta / d x_j = theta @ D_j``. Only formulas may need functions beyond the
members; these are computed beside them and are never terms.

Shapes: ``L`` functions of ``v = d + m`` variables (states, then inputs), or one more where time
    is a variable of formulas; ``M`` points along the last axis, any leading axes.
Units: variables are in scaled units; the argument of a sine is in the caller's unit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from odekit.errors import ProblemError
from odekit_sindy.customs import Customs, Key, compiled, key_of

if TYPE_CHECKING:
    from odekit_sindy.data import Scales
    from odekit_sindy.dynamics import Slope
    from odekit_sindy.models import Models, Support
    from odekit_sindy.rules import Rules

FLAT, STEEP = 0.5, 25.0
"""Range of a state within which its exponential is neither a polynomial nor a spike."""

EXPONENTIALS = ("exp", "exp_minus")


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
    """

    dim: int
    degree: int
    trig: bool = False
    inputs: int = 0
    scale: np.ndarray | None = field(default=None, compare=False)
    exponentials: tuple[tuple[int, float, float], ...] = ()
    customs: Customs | None = None
    rules: Rules | None = None

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
        keys += [(name, j) for j, _, _ in self.exponentials for name in EXPONENTIALS]
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
        monomials = [math.comb(v + int(g), int(g)) for g in degree]
        others = [self.choices] * (self.size - len(monomials))
        return np.array([*monomials, *others], dtype=float)

    @cached_property
    def level(self) -> np.ndarray:
        """Rungs of the ladder below each function, ``(L,)``; none below a formula of the user."""
        below = np.full(self.size, max(self.degree, 1))
        below[: len(self.exponents)] = np.maximum(self.exponents.sum(1), 1) - 1
        if self.customs is not None:
            below[self.size - self.customs.size :] = 0
        return below

    @property
    def name(self) -> str:
        """``"polynomials up to degree 2"``, for reports."""
        parts = [f"polynomials up to degree {self.degree}"]
        parts += ["sine and cosine"] * self.trig
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
    def _frequency(self) -> np.ndarray:
        return np.ones(self.dim) if self.scale is None else np.asarray(self.scale, float)

    @cached_property
    def _gather(self) -> list[np.ndarray]:
        """Rows of the table of powers that each monomial multiplies, one array per variable."""
        high = self.degree + 1
        return [self.exponents[:, i] + i * high for i in range(self.exponents.shape[1])]

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """Values of all functions: ``(..., v, M)`` to ``(..., L, M)``."""
        values = self.evaluate_all(x)
        return values[..., : self.size, :] if self._beyond else values

    def evaluate_all(self, x: np.ndarray) -> np.ndarray:
        """Values of all functions, and of those that their derivatives need: ``(..., L+, M)``."""
        out = self._monomials(x)
        if not (self.trig or self.exponentials or self.customs):
            return out
        parts = [out]
        if self.trig:
            angle = x[..., : self.dim, :] * self._frequency[:, None]
            waves = np.stack([np.sin(angle), np.cos(angle)], axis=-2)
            parts.append(waves.reshape(*x.shape[:-2], 2 * self.dim, x.shape[-1]))
        for j, low, high in self.exponentials:
            y = x[..., j : j + 1, :] * self._frequency[j]
            parts += [np.exp(y - high), np.exp(low - y)]
        if self.customs is not None:
            raw = x[..., : len(self.customs.units), :] * self.customs.units[:, None]
            parts.append(self._formulas(raw) * self._formula_factor[:, None])
        return np.concatenate(parts, axis=-2)

    def _monomials(self, x: np.ndarray) -> np.ndarray:
        high = self.degree + 1
        v = self.exponents.shape[1]
        x = x[..., :v, :]
        powers = np.empty((*x.shape[:-2], v, high, x.shape[-1]))
        powers[..., 0, :] = 1.0
        for p in range(1, high):
            np.multiply(powers[..., p - 1, :], x, out=powers[..., p, :])
        table = powers.reshape(*x.shape[:-2], v * high, x.shape[-1])
        out = np.take(table, self._gather[0], axis=-2)
        for rows in self._gather[1:]:
            out *= np.take(table, rows, axis=-2)
        return out

    @cached_property
    def _slopes(self) -> list[tuple[int, int, float, Any]]:
        return [] if self.customs is None else self.customs.derivatives()

    @cached_property
    def _beyond(self) -> list[Any]:
        """Formulas in derivatives of formulas that are no members."""
        if self.customs is None:
            return []
        found = {
            product: None
            for _, _, _, product in self._slopes
            if self._key_of(product) not in self.place
        }
        return list(found)

    def _key_of(self, product: Any) -> Key:
        assert self.customs is not None
        return key_of(product, self.customs.variables[: self.dim], self.customs.monomials)

    @cached_property
    def _formulas(self) -> Callable[[np.ndarray], np.ndarray]:
        assert self.customs is not None
        return compiled([*self.customs.expressions, *self._beyond], self.customs.variables)

    @cached_property
    def _formula_factor(self) -> np.ndarray:
        assert self.customs is not None
        return np.concatenate([self.customs.factor, np.ones(len(self._beyond))])

    @cached_property
    def derivative(self) -> np.ndarray:
        """``D (d, L+, L)``: ``d theta_l / d x_j = sum_k theta_k D[j, k, l]``."""
        place = self.place
        out = np.zeros((self.dim, self.size + len(self._beyond), self.size))
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
        for j, _, _ in self.exponentials:
            for sign, name in zip((1, -1), EXPONENTIALS, strict=True):
                out[j, place[name, j], place[name, j]] = sign * self._frequency[j]
        self._derive_formulas(out)
        return out

    def _derive_formulas(self, out: np.ndarray) -> None:
        if self.customs is None:
            return
        first, units = self.size - self.customs.size, self.customs.units
        factors = np.concatenate([self._member_factors, np.ones(len(self._beyond))])
        beyond = {product: self.size + i for i, product in enumerate(self._beyond)}
        for i, j, number, product in self._slopes:
            at = beyond[product] if product in beyond else self.place[self._key_of(product)]
            out[j, at, first + i] += number * units[j] * self.customs.factor[i] / factors[at]

    @cached_property
    def _member_factors(self) -> np.ndarray:
        assert self.customs is not None
        units = self.customs.units
        return self.unscaling(units[: self.dim], units[self.dim :])

    def at(self, scales: Scales) -> Library:
        """The same library with the rules in scaled units."""
        if self.rules is None:
            return self
        unscaling = self.unscaling(scales.state, scales.input)
        factor = unscaling * scales.state[:, None] / scales.time
        return replace(self, rules=self.rules.scaled(factor))

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """Slopes ``C theta`` of these models, see `odekit_sindy.dynamics.Dynamics`."""
        return _Combination(models, self, sensitivities)

    def terms(self, names: tuple[str, ...], inputs: tuple[str, ...] = ()) -> list[str]:
        """The functions as text that sympy reads: ``1``, ``x**2*y``, ``sin(x)``."""
        symbols = (*names, *inputs)
        out = []
        for key in self.keys[: self.size - (self.customs.size if self.customs else 0)]:
            if isinstance(key[0], str):
                function, sign = ("exp", "-") if key[0] == "exp_minus" else (key[0], "")
                out.append(f"{function}({sign}{names[int(key[1])]})")
                continue
            factors = [
                symbols[i] if e == 1 else f"{symbols[i]}**{e}" for i, e in enumerate(key) if e
            ]
            out.append("*".join(factors) or "1")
        return out + (self.customs.texts if self.customs else [])

    def unscaling(self, state: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Factor ``(L,)`` from a function of scaled variables to one of the caller's variables."""
        units = np.concatenate([state, inputs])[: self.exponents.shape[1]]
        out = np.ones(self.size)
        out[: len(self.exponents)] = np.prod(units ** (-self.exponents.astype(float)), axis=1)
        for j, low, high in self.exponentials:
            out[self.place["exp", j]] = np.exp(-high)
            out[self.place["exp_minus", j]] = np.exp(low)
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
            monomial = [not isinstance(key[0], str) for key in self.customs.keys]
            plain[first:][monomial] = 1.0
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


class _Combination:
    """Linear combinations of the library for a batch of models, with tangents."""

    def __init__(self, models: Models, library: Library, sensitivities: bool) -> None:
        self.library = library
        self.c = models.matrix()
        self.dim = library.dim
        rules = library.rules
        if rules is not None:
            self.c = rules.complete(self.c)
        self.beyond = library.derivative.shape[1] - library.size if library.customs else 0
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
            self.c = self._padded()

    def _padded(self) -> np.ndarray:
        """Coefficients with zeros for the functions beyond the members, ``(B, d, L+)``."""
        return np.pad(self.c, ((0, 0), (0, 0), (0, self.beyond))) if self.beyond else self.c

    def __call__(
        self, point: np.ndarray, z: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        count, d = len(point), self.dim
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


def ladder(
    dim: int,
    inputs: int,
    scale: np.ndarray,
    library: str = "auto",
    degree: int | None = None,
    ranges: np.ndarray | None = None,
) -> list[Library]:
    """The libraries to try, smallest first.

    Args:
        dim: number of states.
        inputs: number of inputs.
        scale: the states' units, ``(dim,)``.
        library: ``"auto"`` (polynomials of rising degree, then sine and cosine, exponentials,
            and fractions, all three unless a degree is asked for), ``"polynomial"`` (the same
            without these), ``"trig"``, ``"exp"`` or ``"rational"`` (one library with waves, with
            exponentials, or with fractions).
        degree: highest degree; 3 by default.
        ranges: lowest and highest value of each state in the caller's unit, ``(dim, 2)``; only
            states that move neither little nor very much get exponentials, and none without it.

    Raises:
        ProblemError: ``"exp"`` where no state is fit for it.
    """
    top = 3 if degree is None else degree
    waves = Library(dim, top, trig=True, inputs=inputs, scale=scale)
    if library == "trig":
        return [waves]
    rows = exponentials(ranges)
    growth = Library(dim, top, inputs=inputs, scale=scale, exponentials=rows)
    if library == "exp":
        if not rows:
            raise ProblemError(
                f"library='exp': no state varies by {FLAT:g} to {STEEP:g} of its unit, where its "
                "exponential is neither a polynomial nor a spike: rescale the states, or give "
                "terms=['exp(x/scale)']"
            )
        return [growth]
    from odekit_sindy.rational import Rational  # it builds on this module

    most = max(top, 2) if dim <= 2 or degree is not None else 2
    fractions = Rational.of(Library(dim, most, inputs=inputs, scale=scale))
    if library == "rational":
        return [fractions]
    rungs = [Library(dim, p, inputs=inputs, scale=scale) for p in range(1, top + 1)]
    if library != "auto" or degree is not None:
        return rungs
    return [*rungs, waves, growth, fractions] if rows else [*rungs, waves, fractions]


def exponentials(ranges: np.ndarray | None) -> tuple[tuple[int, float, float], ...]:
    """The states whose exponentials are worth a try, with their ranges."""
    if ranges is None:
        return ()
    return tuple(
        (j, float(low), float(high))
        for j, (low, high) in enumerate(ranges)
        if FLAT <= high - low <= STEEP and max(abs(low), abs(high)) < 300
    )
