"""Right-hand sides with a fraction: ``x_j' = theta c_j + theta a_j / (1 + theta e_j)``.

Each equation is a combination of the functions of a plain library and, beside it, one fraction of
monomials, whose denominator is one plus multiples of first and second powers of single variables.
Saturation, inhibition and Hill functions are such fractions. The plain part need not be brought
over the denominator: ``x - x*y/(1 + x)`` takes three coefficients, not five. The denominator is
positive wherever the system was seen; a pole of the fitted equations lies outside of it.

Prefer `odekit_sindy.library.Library` where polynomials fit: fractions cost more and say less.

A fraction can be written in several ways, ``1 - 1/(1 + x) = x/(1 + x)``; of those that need the
same number of terms one is canonical, the one without the lowest numerator.

Shapes: ``L`` plain functions, then ``A`` numerators, then ``E`` denominator functions, of ``v``
    variables; a flat index is ``equation * (L + A + E) + function``.
Units: scaled; the coefficients of the denominator make its terms plain numbers.
Source: sparse regression with rational functions, N. M. Mangan, S. L. Brunton, J. L. Proctor,
    J. N. Kutz, "Inferring biological networks by sparse identification of nonlinear dynamics",
    IEEE Transactions on Molecular, Biological and Multi-Scale Communications 2(1), 2016,
    doi:10.1109/TMBMC.2016.2633265.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np

from odekit_sindy.customs import Key
from odekit_sindy.library import Library
from odekit_sindy.models import Support
from odekit_sindy.rules import Rules

if TYPE_CHECKING:
    from odekit_sindy.data import Scales
    from odekit_sindy.dynamics import Slope
    from odekit_sindy.models import Models

HIGHEST = 2
"""Highest degree of a numerator, and highest power in a denominator."""

GUARD = 0.02
"""Denominator below which its reciprocal is continued along the tangent."""

CLEAR = 0.05
"""Denominator below which, where the system was seen, a model is none."""

LEVEL = 3
"""Rungs of the ladder below a fraction, at least."""


@final
@dataclass(frozen=True)
class Rational(Library):
    """A plain library, and one fraction per equation. Make it with `Rational.of`.

    Args:
        plain: the library beside the fraction; its degree is two or more.
    """

    plain: Library = field(kw_only=True)

    @classmethod
    def of(cls, plain: Library) -> Rational:
        """The library with fractions over a plain one, whose rules hold for both parts.

        What is forbidden is so in numerators too; what is forced, given, signed or shared concerns
        the plain part alone. An equation in which nothing is free has no fraction.
        """
        bare = cls(
            plain.dim,
            plain.degree,
            plain.trig,
            plain.inputs,
            plain.scale,
            plain.exponentials,
            plain.customs,
            products=plain.products,
            plain=plain,
        )
        return bare if plain.rules is None else replace(bare, rules=bare._widened(plain.rules))

    @cached_property
    def above(self) -> np.ndarray:
        """Plain functions that may be numerators, ``(A,)``."""
        return np.flatnonzero(self.plain.exponents.sum(1) <= HIGHEST)

    @cached_property
    def below(self) -> np.ndarray:
        """Plain functions that may stand in a denominator, ``(E,)``."""
        rows = self.plain.exponents
        single = (rows > 0).sum(1) == 1
        return np.flatnonzero(single & (rows.sum(1) <= HIGHEST))

    @cached_property
    def source(self) -> np.ndarray:
        """The plain function from which each function is made, ``(L + A + E,)``."""
        return np.concatenate([np.arange(self.plain.size), self.above, self.below])

    @cached_property
    def kind(self) -> np.ndarray:
        """0 for plain functions, 1 for numerators, 2 for denominators, ``(L + A + E,)``."""
        return np.repeat([0, 1, 2], [self.plain.size, len(self.above), len(self.below)])

    @cached_property
    def keys(self) -> list[Key]:
        """One key per function, in order."""
        plain = self.plain.keys
        over: list[Key] = [("above", str(plain[i])) for i in self.above]
        return [*plain, *over, *(("below", str(plain[i])) for i in self.below)]

    @cached_property
    def crowd(self) -> np.ndarray:
        """How many functions the smallest library of its kind has that holds each one, ``(L,)``."""
        more = len(self.above) + len(self.below)
        return np.concatenate([self.plain.crowd, np.full(more, float(self.choices))])

    @cached_property
    def level(self) -> np.ndarray:
        """Rungs of the ladder below each function, ``(L,)``."""
        more = len(self.above) + len(self.below)
        return np.concatenate([self.plain.level, np.full(more, max(self.plain.degree, LEVEL))])

    @property
    def name(self) -> str:
        """``"polynomials up to degree 3, fractions"``, for reports."""
        return f"{self.plain.name}, fractions"

    def evaluate_all(self, x: np.ndarray) -> np.ndarray:
        """Values of what each function is made from: ``(..., v, M)`` to ``(..., L, M)``."""
        return np.take(self.plain.evaluate(x), self.source, axis=-2)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """The same as `evaluate_all`."""
        return self.evaluate_all(x)

    def at(self, scales: Scales) -> Rational:
        """The same library with the rules in scaled units."""
        return Rational.of(self.plain.at(scales))

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """Slopes and tangents of these models, see `odekit_sindy.dynamics.Dynamics`."""
        return _Quotient(models, self, sensitivities)

    def terms(self, names: tuple[str, ...], inputs: tuple[str, ...] = ()) -> list[str]:
        """The plain text of the function that each one is made from."""
        texts = self.plain.terms(names, inputs)
        return [texts[i] for i in self.source]

    def unscaling(self, state: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Factor ``(L,)`` from a function of scaled variables to one of the caller's variables."""
        return np.asarray(self.plain.unscaling(state, inputs)[self.source])

    def factors(self, flat: Sequence[int], scales: Scales) -> np.ndarray:
        """Factor of each coefficient from scaled units to the caller's, ``(k,)``."""
        unscaling = self.unscaling(scales.state, scales.input)
        index = np.asarray(flat, dtype=int)
        slope = scales.state[index // self.size] / scales.time
        below = self.kind[index % self.size] == 2
        return np.asarray(unscaling[index % self.size] * np.where(below, 1.0, slope))

    def is_below(self, flat: Sequence[int]) -> np.ndarray:
        """Which coefficients stand in a denominator, ``(k,)``."""
        return np.asarray(self.kind[np.asarray(flat, dtype=int) % self.size] == 2)

    def labels(
        self,
        flat: Sequence[int],
        names: tuple[str, ...],
        inputs: tuple[str, ...] = (),
        numbers: Sequence[str] | None = None,
    ) -> list[str]:
        """What each coefficient belongs to, in words of formulas.

        Args:
            flat: flat indices of all coefficients of a model.
            names: of the states.
            inputs: names of the inputs.
            numbers: one text per coefficient for those in denominators; without them a letter
                stands in their place, and the labels of two fits of a structure are the same.
        """
        texts = self.terms(names, inputs)
        denominators: dict[int, str] = {}
        for i, q in enumerate(flat):
            j, function = divmod(q, self.size)
            if self.kind[function] == 2:
                number = "c" if numbers is None else numbers[i]
                sign = "-" if number.startswith("-") else "+"
                piece = f" {sign} {number.removeprefix('-')}*{texts[function]}"
                denominators[j] = denominators.get(j, "") + piece
        out = []
        for q in flat:
            j, function = divmod(q, self.size)
            text = texts[function]
            if self.kind[function] == 1:
                text = f"{text}/(1{denominators.get(j, '')})"
            elif self.kind[function] == 2:
                text = f"{text} in the denominator"
            out.append(text)
        return out

    def conversion(self, mine: int, theirs: int, other: Library) -> float:
        """Factor from a coefficient in ``other`` to that of the same function here."""
        if self.kind[mine % self.size] > 0:
            return 1.0
        return self.plain.conversion(mine % self.size, theirs, other)

    def shares(self, support: Support, c: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Root mean square contribution of each coefficient to its equation, ``(k,)``.

        That of a denominator function ``g`` with coefficient ``e`` is the size of ``n e g / D``,
        the change that the numerators need to make up for it.

        Args:
            support: flat indices.
            c: coefficients.
            points: states and inputs, ``(v, M)``.
        """
        flat = np.asarray(support, dtype=int)
        theta = self.evaluate(points)[flat % self.size] * np.asarray(c)[:, None]
        kind, equation = self.kind[flat % self.size], flat // self.size
        for j in np.unique(equation):
            mine = equation == j
            inverse, _ = reciprocal(1 + theta[mine & (kind == 2)].sum(0))
            fraction = theta[mine & (kind == 1)].sum(0) * inverse
            theta[mine & (kind == 1)] *= inverse
            theta[mine & (kind == 2)] *= fraction
        return np.asarray(np.sqrt((theta**2).mean(1)))

    def completed(self, support: Support, kept: Sequence[int]) -> list[int]:
        """Positions to keep: a denominator as long as it has a numerator, and only so long."""
        kinds = [int(self.kind[q % self.size]) for q in support]
        fractions = {support[i] // self.size for i in kept if kinds[i] == 1}
        return [
            i
            for i, q in enumerate(support)
            if (q // self.size in fractions if kinds[i] == 2 else i in set(kept))
        ]

    def admits(self, models: Models) -> np.ndarray:
        """Whether denominators are clear of zero at the starts of all segments, ``(B,)``."""
        x = models.start
        if self.inputs:
            x = np.pad(x, ((0, 0), (0, self.inputs), (0, 0)))
        powers = self.plain.exponents[self.below]
        theta = np.prod(x[:, None] ** powers[:, :, None], axis=2)
        e = models.matrix()[..., self.kind == 2]
        return np.asarray((1 + e @ theta).min((1, 2)) > CLEAR)

    def canonical(self, support: Support) -> Support | None:
        """The same family of functions in its canonical form; None for half a fraction."""
        size, plain = self.size, self.plain.size
        out: list[int] = []
        for j in sorted({q // size for q in support}):
            mine = {q % size for q in support if q // size == j}
            kinds = {int(self.kind[i]) for i in mine}
            if (1 in kinds) != (2 in kinds):
                return None
            for numerator, group in self._relations(frozenset(i for i in mine if i >= plain)):
                absent = group - mine
                if numerator in mine and len(absent) <= 1:
                    mine = (mine - {numerator}) | absent
            if 2 in kinds and not any(self.kind[i] == 1 for i in mine):
                return None
            out += [j * size + i for i in sorted(mine)]
        return tuple(out)

    def _relations(self, mine: frozenset[int]) -> list[tuple[int, set[int]]]:
        """Numerators ``m`` and the other members of ``m = (m + sum_g e_g m g) / D``.

        Lower numerators come first.
        """
        place, powers = self.place, self.plain.exponents
        below = [powers[self.source[i]] for i in mine if self.kind[i] == 2]
        found = []
        for i, m in zip(np.flatnonzero(self.kind == 1), self.above, strict=True):
            products = [("above", str(tuple((powers[m] + g).tolist()))) for g in below]
            if products and all(key in place for key in products):
                found.append((int(i), {int(m), *(place[key] for key in products)}))
        return found

    def _widened(self, rules: Rules) -> Rules:
        size, plain = self.size, self.plain.size
        more = size - plain

        def wide(values: np.ndarray) -> np.ndarray:
            return np.pad(values, ((0, 0), (0, more)))

        def moved(q: int) -> int:
            return q // plain * size + q % plain

        allowed = wide(rules.allowed)
        allowed[:, self.kind == 1] = rules.allowed[:, self.above]
        allowed[:, self.kind == 2] = rules.allowed.any(axis=1, keepdims=True)
        return Rules(
            allowed,
            wide(rules.forced),
            wide(rules.offset),
            wide(rules.sign),
            {
                moved(lead): tuple((moved(q), ratio) for q, ratio in group)
                for lead, group in rules.followers.items()
            },
        )


def reciprocal(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``1 / D`` and its derivative, along the tangent at `GUARD` for all smaller values.

    The continuation is smooth to first order and grows with the distance, so that a fit that
    strays across a pole is led back.
    """
    clear = values >= GUARD
    inverse = 1 / np.where(clear, values, GUARD)
    slope = -(inverse**2)
    return np.where(clear, inverse, inverse + slope * (values - GUARD)), slope


class _Quotient:
    """Slopes ``P + n / D`` for a batch of models, with tangents."""

    def __init__(self, models: Models, library: Rational, sensitivities: bool) -> None:
        self.plain, d = library.plain, library.dim
        c, rules = models.matrix(), library.rules
        if rules is not None:
            c = rules.complete(c)
        derivative = self.plain.derivative
        size, whole = self.plain.size, derivative.shape[1]
        # Rows: plain parts, numerators and denominators of all equations, on the plain library.
        parts = np.zeros((len(models), 3, d, size))
        parts[:, 0] = c[..., :size]
        parts[:, 1][..., library.above] = c[..., library.kind == 1]
        parts[:, 2][..., library.below] = c[..., library.kind == 2]
        rows = parts.reshape(len(models), 3 * d, size)
        self.rows = np.pad(rows, ((0, 0), (0, 0), (0, whole - size)))
        self.dim = d
        if not sensitivities:
            return
        w = np.tensordot(rows, derivative, axes=([2], [2])).reshape(len(models), -1, whole)
        self.rows = np.concatenate([self.rows, w], axis=1)
        self.hot = models.one_hot()[..., None]
        lanes = whole * np.arange(len(models))[:, None]
        self.take = (library.source[models.term] + lanes).reshape(-1)
        # Column of each term among the factors 1, 1/D of all equations, -n/D^2 of all equations.
        kind = library.kind[models.term]
        column = np.where(kind == 0, 0, 1 + (kind - 1) * d + models.equation)
        self.factor = (column + (1 + 2 * d) * np.arange(len(models))[:, None]).reshape(-1)
        self.more: list[tuple[np.ndarray, np.ndarray]] = []
        if rules is not None:
            self.more = [
                (hot[..., None], (term + lanes).reshape(-1)) for hot, term in rules.followed(models)
            ]

    def __call__(
        self, point: np.ndarray, z: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        count, d, m = len(point), self.dim, point.shape[-1]
        theta = self.plain.evaluate_all(point)
        values = self.rows @ theta
        numerator = values[:, d : 2 * d]
        inverse, slope = reciprocal(1 + values[:, 2 * d : 3 * d])
        f = values[:, :d] + numerator * inverse
        if z is None:
            return f, None
        steep = numerator * slope
        parts = values[:, 3 * d :].reshape(count, 3, d, d, m)
        jac = parts[:, 0] + parts[:, 1] * inverse[:, :, None] + parts[:, 2] * steep[:, :, None]
        dz = jac[:, :, 0, None] * z[:, None, 0]
        for j in range(1, d):
            dz += jac[:, :, j, None] * z[:, None, j]
        flat = theta.reshape(-1, m)
        factors = np.concatenate([np.ones((count, 1, m)), inverse, steep], axis=1).reshape(-1, m)
        picked = flat.take(self.take, axis=0) * factors.take(self.factor, axis=0)
        dz[:, :, d:] += self.hot * picked.reshape(count, 1, -1, m)
        for hot, rows in self.more:
            dz[:, :, d:] += hot * flat.take(rows, axis=0).reshape(count, 1, -1, m)
        return f, dz
