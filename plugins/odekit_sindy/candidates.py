"""Candidate supports of one equation from least squares: best subsets, backward path, size by CV.

Everything works on normal equations, so a library of twenty functions and a thousand samples
cost the same as twenty samples. Columns are scaled to unit length first: no threshold depends on
the caller's units.

Shapes: ``A (q, L)`` library values, ``y (q,)`` slopes; ``G = A'A``, ``g = A'y``, ``yy = y'y``.
Source: best subsets by enumeration and the exact backward step are standard linear regression;
    the one-standard-error rule is from T. Hastie, R. Tibshirani, J. Friedman, "The Elements of
    Statistical Learning", 2nd ed. 2009, section 7.10.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

Support = tuple[int, ...]
RIDGE = 1e-10
MOST_SETS = 20_000


def normalised(gram: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gram matrix and right-hand side of unit columns, and the columns' lengths."""
    diagonal = np.diag(gram)
    there = diagonal > 1e-300
    length = np.sqrt(np.where(there, diagonal, 1.0))
    return gram / length[:, None] / length, np.where(there, g / length, 0.0), length


def ridge(a: np.ndarray, y: np.ndarray, share: float) -> np.ndarray:
    """Coefficients of all columns at once, by ridge regression on unit columns, ``(L, d)``.

    Args:
        a: library values, ``(q, L)``.
        y: slopes of all states, ``(q, d)``.
        share: of a column's squared length that is added to it.
    """
    unit, _, length = normalised(a.T @ a, np.ones(a.shape[1]))
    target = (a.T @ y) / length[:, None]
    return np.asarray(np.linalg.solve(unit + share * np.eye(len(unit)), target) / length[:, None])


def largest_size(functions: int) -> int:
    """Largest size searched exhaustively."""
    return 4 if functions <= 24 else 3


def best_subsets(
    gram: np.ndarray,
    g: np.ndarray,
    yy: float,
    largest: int,
    top: int = 3,
    sign: np.ndarray | None = None,
) -> list[tuple[float, Support]]:
    """Candidate supports as ``(residual sum of squares, columns)``.

    The ``top`` best of every size up to ``largest`` by enumeration, then the path of backward
    elimination from all columns down to one. Columns of zeros are left out. With ``sign (L,)``,
    1 or -1 where a coefficient's sign is known, the supports whose least squares contradict it
    are left out too.
    """
    unit, right, _ = normalised(gram, g)
    diagonal = np.diag(gram)
    usable = np.flatnonzero(diagonal > 0)
    out: list[tuple[float, Support]] = []
    for k in range(1, min(largest, len(usable)) + 1):
        if math.comb(len(usable), k) > MOST_SETS:
            break
        sets = np.array(list(itertools.combinations(usable, k)))
        blocks = unit[sets[:, :, None], sets[:, None, :]] + RIDGE * np.eye(k)
        picked = right[sets]
        c = np.linalg.solve(blocks, picked[:, :, None])[:, :, 0]
        rss = np.maximum(yy - (c * picked).sum(1), 0.0)
        if sign is not None:
            fit = (c * sign[sets] >= 0).all(1)
            sets, rss = sets[fit], rss[fit]
        order = np.argsort(rss, kind="stable")[:top]
        out += [(float(rss[i]), tuple(int(v) for v in sets[i])) for i in order]
    path = backward_path(unit, right, yy, [int(v) for v in usable])
    if sign is None:
        return out + path
    return out + [(r, s) for r, s in path if (coefficients(gram, g, s) * sign[list(s)] >= 0).all()]


def backward_path(
    unit: np.ndarray, right: np.ndarray, yy: float, active: list[int]
) -> list[tuple[float, Support]]:
    """Supports of sizes ``L .. 1``, each time without the column whose loss costs least."""
    out = []
    active = list(active)
    while active:
        block = unit[np.ix_(active, active)] + RIDGE * np.eye(len(active))
        inverse = np.linalg.pinv(block, hermitian=True)
        c = inverse @ right[active]
        out.append((float(max(yy - c @ right[active], 0.0)), tuple(active)))
        with np.errstate(over="ignore"):  # infinite is dear enough
            increase = c**2 / np.maximum(np.diag(inverse), 1e-300)
        active.pop(int(np.argmin(increase)))
    return out


def residual(gram: np.ndarray, g: np.ndarray, yy: float, support: Support) -> float:
    """Residual sum of squares of least squares on ``support``."""
    return float(yy - coefficients(gram, g, support) @ g[list(support)])


def coefficients(gram: np.ndarray, g: np.ndarray, support: Support) -> np.ndarray:
    """Least-squares coefficients on ``support``, ``(k,)``."""
    rows = list(support)
    unit, right, length = normalised(gram[np.ix_(rows, rows)], g[rows])
    return np.asarray(np.linalg.solve(unit + RIDGE * np.eye(len(rows)), right) / length)


def best_by_size(
    a: np.ndarray, y: np.ndarray, most: int = 10, sign: np.ndarray | None = None
) -> dict[int, Support]:
    """The best support found of each size up to ``most``, see `best_subsets` for ``sign``."""
    gram, g, yy = a.T @ a, a.T @ y, float(y @ y)
    best: dict[int, tuple[float, Support]] = {}
    for rss, support in best_subsets(gram, g, yy, largest_size(a.shape[1]), top=1, sign=sign):
        k = len(support)
        if k <= most and (k not in best or rss < best[k][0]):
            best[k] = (rss, tuple(sorted(support)))
    return {k: best[k][1] for k in sorted(best)}


def choose_size(
    a: np.ndarray, y: np.ndarray, supports: dict[int, Support], blocks: np.ndarray
) -> int:
    """The smallest size within one standard error, and a tenth, of the best cross-validation.

    Args:
        a: ``(q, L)``.
        y: ``(q,)``.
        supports: one support per size.
        blocks: ``(q,)``, the contiguous block of each sample; each is left out once.
    """
    labels = np.unique(blocks)
    errors = np.array(
        [[_left_out(a, y, support, blocks == b) for b in labels] for support in supports.values()]
    )
    mean = errors.mean(1) + 1e-6 * float((y**2).mean())
    spread = errors.std(1) / np.sqrt(len(labels))
    k0 = int(np.argmin(mean))
    limit = mean[k0] + spread[k0] + 0.1 * mean[k0]
    return list(supports)[int(np.flatnonzero(mean <= limit)[0])]


def _left_out(a: np.ndarray, y: np.ndarray, support: Support, out: np.ndarray) -> float:
    columns = a[:, list(support)]
    kept = columns[~out]
    c = coefficients(kept.T @ kept, kept.T @ y[~out], tuple(range(len(support))))
    return float(((columns[out] @ c - y[out]) ** 2).mean())


def time_blocks(samples: int, count: int = 6) -> np.ndarray:
    """Contiguous blocks of about equal size over samples in order of trajectory and time."""
    return np.arange(samples) * count // samples
