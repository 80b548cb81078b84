"""What is known about coefficients, as arrays over equations and functions of one library.

A coefficient is free (it may be searched and fitted), given (an offset), or a follower (a fixed
multiple of a free one); free ones may be forced into every model or have a sign. The search and
the fits see the free ones alone, so a group of shared coefficients is one number.

Shapes: ``d`` equations, ``L`` functions; a flat index is ``equation * L + function``. ``B``
    models of ``k`` terms.
Units: those of the coefficients; `Rules.scaled` leads to others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

from odekit_sindy.candidates import best_by_size, choose_size, normalised

if TYPE_CHECKING:
    from odekit_sindy.models import Models, Support


Paths: TypeAlias = Callable[[np.ndarray, np.ndarray], dict[int, tuple[int, ...]]]
"""Columns ``(q, L)`` and slopes ``(q,)`` to one candidate support of each size."""

Solve: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""``h (B, c, c)``, ``g (B, c)`` and damping ``(B,)`` to a step ``(B, c)``."""


@final
@dataclass(frozen=True, eq=False)
class Rules:
    """Which coefficients are free, given, forced, signed or shared.

    Attributes:
        allowed: ``(d, L)``, whether a coefficient may be in a model on its own.
        forced: ``(d, L)``, whether it is in every model; forced ones are allowed.
        offset: ``(d, L)``, given coefficients, zero elsewhere.
        sign: ``(d, L)``, 1 or -1 where the sign is known, else 0.
        followers: per leading coefficient the others of its group, as ``(flat, ratio)``.
        told: the given coefficients as the user gave them, before any scaling.
    """

    allowed: np.ndarray
    forced: np.ndarray
    offset: np.ndarray
    sign: np.ndarray
    followers: Mapping[int, Sequence[tuple[int, float]]] = field(default_factory=dict)
    told: np.ndarray | None = None

    def scaled(self, factor: np.ndarray) -> Rules:
        """The rules for coefficients divided by ``factor (d, L)``, which is positive."""
        flat = factor.reshape(-1)
        followers = {
            lead: tuple((q, ratio * float(flat[lead] / flat[q])) for q, ratio in group)
            for lead, group in self.followers.items()
        }
        told = self.offset if self.told is None else self.told
        return replace(self, offset=self.offset / factor, followers=followers, told=told)

    @property
    def size(self) -> int:
        """Number of functions ``L``."""
        return int(self.allowed.shape[1])

    def free(self, equation: int) -> np.ndarray:
        """Functions that the search may add to an equation, or take away."""
        return np.flatnonzero(self.allowed[equation] & ~self.forced[equation])

    def may_be_empty(self, equation: int) -> bool:
        """Whether an equation may do without a term of its own choice."""
        size = self.size
        following = any(
            q // size == equation for group in self.followers.values() for q, _ in group
        )
        return following or bool(self.forced[equation].any() or self.offset[equation].any())

    def complete(self, c: np.ndarray) -> np.ndarray:
        """All coefficients from the free ones, ``(B, d, L)``: followers and given ones added."""
        out = c + self.offset
        flat = out.reshape(len(c), -1)
        for lead, group in self.followers.items():
            for q, ratio in group:
                flat[:, q] += ratio * c.reshape(len(c), -1)[:, lead]
        return np.asarray(out)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Followers of every flat index, padded: indices and ratios ``(d L, g)``."""
        most = max((len(group) for group in self.followers.values()), default=0)
        flat = np.zeros((self.allowed.size, most), dtype=int)
        ratio = np.zeros((self.allowed.size, most))
        for lead, group in self.followers.items():
            for i, (q, value) in enumerate(group):
                flat[lead, i], ratio[lead, i] = q, value
        return flat, ratio

    def followed(self, models: Models) -> list[tuple[np.ndarray, np.ndarray]]:
        """What else a term brings: weights ``(B, d, k)`` and functions ``(B, k)``, per follower."""
        flat, ratio = self._table
        equations = np.arange(len(self.allowed))[:, None]
        out = []
        for i in range(flat.shape[1]):
            q, value = flat[models.flat, i], ratio[models.flat, i] * models.used
            hot = (q // self.size)[:, None, :] == equations
            out.append((hot * value[:, None, :], q % self.size))
        return out

    def signs(self, models: Models) -> np.ndarray | None:
        """Known sign of every term ``(B, k)``, None where there is none at all."""
        if not self.sign.any():
            return None
        return np.asarray(self.sign.reshape(-1)[models.flat] * models.used)

    def protected(self, q: int) -> bool:
        """Whether a term stays however little it contributes."""
        return bool(self.forced.reshape(-1)[q]) or q in self.followers

    def expanded(self, support: Support) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
        """The terms of a model as it is written down, see `Library.written`."""
        rows: dict[int, dict[int, float]] = {q: {i: 1.0} for i, q in enumerate(support)}
        for i, lead in enumerate(support):
            for q, ratio in self.followers.get(lead, ()):
                rows.setdefault(q, {})[i] = ratio
        offset = self.offset.reshape(-1)
        for given in np.flatnonzero(offset):
            rows.setdefault(int(given), {})
        flat = sorted(rows)
        matrix = np.zeros((len(flat), len(support)))
        for t, q in enumerate(flat):
            for i, value in rows[q].items():
                matrix[t, i] = value
        return tuple(flat), matrix, offset[flat]

    def paths(
        self, a: np.ndarray, dx: np.ndarray, search: Paths = best_by_size
    ) -> list[dict[int, Support]]:
        """Supports by size from regressions of slopes, one dict per equation.

        Args:
            a: library values, ``(q, L)``.
            dx: slopes, ``(q, d)``.
            search: from columns and slopes of one equation to a support of each size; only
                `odekit_sindy.candidates.best_by_size` heeds signs.
        """
        return [self._path(a, dx[:, j] - a @ self.offset[j], j, search) for j in range(dx.shape[1])]

    def _path(
        self, a: np.ndarray, y: np.ndarray, equation: int, search: Paths
    ) -> dict[int, Support]:
        must = np.flatnonzero(self.forced[equation])
        free = [i for i in self._open(equation) if i not in must]
        base = tuple(int(i) for i in must)
        if not free:
            return {len(base): base}
        columns = a[:, free]
        if base:
            q, _ = np.linalg.qr(a[:, must])
            before = (columns**2).sum(0)
            columns = columns - q @ (q.T @ columns)
            columns[:, (columns**2).sum(0) <= 1e-12 * before] = 0.0
            y = y - q @ (q.T @ y)
        if not columns.any():
            return {len(base): base}
        sign = self.sign[equation, free]
        if search is best_by_size and sign.any():
            found = best_by_size(columns, y, sign=sign)
        else:
            found = search(columns, y)
        out = {len(base): base} if self.may_be_empty(equation) else {}
        for k, support in found.items():
            out[len(base) + k] = tuple(sorted((*base, *(int(free[i]) for i in support))))
        return out or {0: ()}

    def _open(self, equation: int) -> list[int]:
        """Functions that may stand in an equation, those of followers included."""
        size = self.size
        following = {
            q % size for group in self.followers.values() for q, _ in group if q // size == equation
        }
        return sorted({int(i) for i in np.flatnonzero(self.allowed[equation])} | following)

    def sizes(
        self, a: np.ndarray, dx: np.ndarray, paths: list[dict[int, Support]], blocks: np.ndarray
    ) -> list[int]:
        """Size per equation by cross-validation, see `odekit_sindy.candidates.choose_size`."""
        return [
            choose_size(a, dx[:, j] - a @ self.offset[j], path, blocks)
            for j, path in enumerate(paths)
        ]

    def start(
        self, a: np.ndarray, dx: np.ndarray, flat: Sequence[int]
    ) -> tuple[Support, np.ndarray]:
        """A support with its leaders for its followers, and coefficients by least squares.

        Args:
            a: library values, ``(q, L)``.
            dx: slopes, ``(q, d)``.
            flat: flat indices, followers among them.
        """
        leader = {q: lead for lead, group in self.followers.items() for q, _ in group}
        support = tuple(sorted({leader.get(q, q) for q in flat}))
        if not support:
            return (), np.zeros(0)
        k, d = len(support), dx.shape[1]
        pattern = np.zeros((k, d, self.size))
        for i, q in enumerate(support):
            for p, ratio in ((q, 1.0), *self.followers.get(q, ())):
                pattern[i, p // self.size, p % self.size] = ratio
        target = dx.T - self.offset @ a.T
        weight = 1 / np.maximum(np.sqrt((dx**2).mean(0)), 1e-300)
        design = (pattern @ a.T) * weight[:, None]  # (k, d, q)
        rows, right = design.reshape(k, -1), (target * weight[:, None]).reshape(-1)
        unit, projected, length = normalised(rows @ rows.T, rows @ right)
        sign = self.sign.reshape(-1)[list(support)]
        c = np.linalg.solve(unit + 1e-10 * np.eye(k), projected) / length
        return support, np.where(sign * c < 0, 0.0, c)


def signed_step(
    solve: Solve, models: Models, h: np.ndarray, g: np.ndarray, lam: np.ndarray
) -> np.ndarray:
    """A step that takes no coefficient across zero to the side where its sign forbids it.

    Coefficients that would cross stop at zero, and the step of all others is solved for again.

    Args:
        solve: the step without signs.
        models: where it starts; coefficients are the last columns.
        h: Gauss-Newton matrices, ``(B, c, c)``.
        g: gradients, ``(B, c)``.
        lam: damping, ``(B,)``.
    """
    step = solve(h, g, lam)
    if models.sign is None:
        return step
    k = models.c.shape[1]
    first = h.shape[1] - k
    held = np.zeros(models.c.shape, dtype=bool)
    for _ in range(k):
        crossing = (models.sign * (models.c + step[:, first:]) < 0) & ~held
        rows = np.flatnonzero(crossing.any(1))
        if not len(rows):
            break
        held |= crossing
        step[rows] = _held_step(solve, h[rows], g[rows], lam[rows], models.c[rows], held[rows])
    return step


def _held_step(
    solve: Solve, h: np.ndarray, g: np.ndarray, lam: np.ndarray, c: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """The step with the coefficients ``held`` going exactly to zero."""
    first = h.shape[1] - c.shape[1]
    fixed = np.concatenate([np.zeros((len(h), first)), np.where(held, -c, 0.0)], axis=1)
    mask = np.concatenate([np.zeros((len(h), first), dtype=bool), held], axis=1)
    g = np.where(mask, 0.0, g + (h @ fixed[:, :, None])[:, :, 0])
    crossed = mask[:, :, None] | mask[:, None, :]
    diagonal = np.eye(h.shape[1], dtype=bool)
    return np.where(mask, fixed, solve(np.where(crossed & ~diagonal, 0.0, h), g, lam))
