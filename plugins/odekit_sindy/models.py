"""A batch of models on one library: which terms each uses, coefficients and segment states.

Shapes: ``B`` models, ``k`` terms at most (shorter ones are padded and masked), ``d`` states,
``M`` segments, ``L`` library functions. A term has the flat index ``equation * L + function``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Support = tuple[int, ...]


@dataclass
class Models:
    """``B`` models side by side.

    Attributes:
        flat: ``(B, k)`` flat indices of the terms, 0 where padded.
        used: ``(B, k)``, False where padded.
        c: ``(B, k)`` coefficients.
        start: ``(B, d, M)`` state at the start of each segment.
        size: number of library functions ``L``.
        sign: ``(B, k)``, 1 or -1 where a coefficient's sign is known, else 0; None if none is.
    """

    flat: np.ndarray
    used: np.ndarray
    c: np.ndarray
    start: np.ndarray
    size: int
    sign: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        supports: Sequence[Support],
        values: Sequence[np.ndarray],
        starts: Sequence[np.ndarray],
        size: int,
    ) -> Models:
        """Models from supports, their coefficients and segment states."""
        most = max(1, *(len(s) for s in supports)) if supports else 1
        flat = np.zeros((len(supports), most), dtype=int)
        used = np.zeros((len(supports), most), dtype=bool)
        c = np.zeros((len(supports), most))
        for b, (support, value) in enumerate(zip(supports, values, strict=True)):
            flat[b, : len(support)] = support
            used[b, : len(support)] = True
            c[b, : len(support)] = value
        return cls(flat, used, c, np.stack(list(starts)), size)

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def term(self) -> np.ndarray:
        """Library function of each term, ``(B, k)``."""
        return self.flat % self.size

    @property
    def equation(self) -> np.ndarray:
        """Equation of each term, ``(B, k)``."""
        return self.flat // self.size

    def support(self, b: int) -> Support:
        """Flat indices of model ``b``."""
        return tuple(int(q) for q in self.flat[b, self.used[b]])

    def values(self, b: int) -> np.ndarray:
        """Coefficients of model ``b`` in the order of its support."""
        return np.array(self.c[b, self.used[b]])

    def matrix(self) -> np.ndarray:
        """Coefficients as ``(B, d, L)``."""
        d = self.start.shape[1]
        out = np.zeros((len(self), d * self.size))
        np.add.at(out, (np.arange(len(self))[:, None], self.flat), self.c * self.used)
        return out.reshape(len(self), d, self.size)

    def one_hot(self) -> np.ndarray:
        """Equation of each term as ``(B, d, k)`` of zeros and ones."""
        d = self.start.shape[1]
        hot = self.equation[:, None, :] == np.arange(d)[:, None]
        return np.asarray(hot & self.used[:, None, :], dtype=float)

    def pick(self, rows: np.ndarray | Sequence[int]) -> Models:
        """The models of these rows."""
        rows = np.asarray(rows, dtype=int)
        sign = None if self.sign is None else self.sign[rows]
        return Models(
            self.flat[rows], self.used[rows], self.c[rows], self.start[rows], self.size, sign
        )

    def put(self, rows: np.ndarray, other: Models) -> None:
        """Take over coefficients and segment states of ``other`` in these rows."""
        self.c[rows], self.start[rows] = other.c, other.start

    def moved(self, step: np.ndarray, low: np.ndarray, high: np.ndarray) -> Models:
        """The models after a step ``(B, M d + k)``: segment states, kept in a box, then ``c``."""
        count, d, segments = self.start.shape
        ds = step[:, : segments * d].reshape(count, segments, d).transpose(0, 2, 1)
        start = np.clip(self.start + ds, low[:, None], high[:, None])
        c = self.c + step[:, segments * d :] * self.used
        return Models(self.flat, self.used, c, start, self.size, self.sign)

    def signed(self, sign: np.ndarray | None) -> Models:
        """The models with known signs ``(B, k)``; coefficients on the wrong side become zero."""
        if sign is None:
            return self
        return replace(self, c=np.where(sign * self.c < 0, 0.0, self.c), sign=sign)

    def widened(self) -> Models:
        """One model with every term of the library present, unused ones at zero."""
        d = self.start.shape[1]
        count = d * self.size
        flat = np.tile(np.arange(count), (len(self), 1))
        full = self.matrix().reshape(len(self), count)
        return Models(flat, np.ones_like(flat, dtype=bool), full, self.start, self.size)
