"""Averages along trajectories: the same equation, with the field's local errors averaged out.

If ``x' = sum_l c_l theta_l(x)`` holds along a trajectory, it holds for averages over any stretch
of time. A trained field is wrong by a few per cent from point to point, but its solution stays
on the data, so its errors cancel over a stretch; averaging both sides before the regression
recovers small coefficients that pointwise regression loses. Nothing is differenced.

Shapes: ``n`` rows of all traces together; averaging is a sparse matrix ``(windows, n)``.
Source: the integral form of sparse regression, H. Schaeffer, S. G. McCalla, "Sparse model
    selection via integral terms", Physical Review E 96, 023302, 2017,
    doi:10.1103/PhysRevE.96.023302.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Averaging:
    """Averages over stretches of time.

    Attributes:
        matrix: rows to averages, ``(windows, n)``.
        independent: how many of the averages do not overlap, as a number of observations.
    """

    matrix: sparse.csr_array
    independent: float


def average(times: Sequence[np.ndarray], length: float) -> Averaging:
    """Averages over stretches of ``length``, one from each row on, by the trapezoidal rule.

    Args:
        times: of each trace, ``(n_i,)`` increasing.
        length: of a stretch; 0 leaves every row as it is. A trace shorter than it is averaged
            as a whole.
    """
    if length <= 0:
        count = sum(len(t) for t in times)
        return Averaging(sparse.eye_array(count, format="csr"), float(count))
    blocks, independent = [], 0.0
    for t in times:
        blocks.append(_windows(t, length))
        independent += max(float(t[-1] - t[0]) / length, 1.0)
    return Averaging(sparse.block_diag(blocks, format="csr"), independent)


def _windows(t: np.ndarray, length: float) -> sparse.csr_array:
    last = np.searchsorted(t, t + length * (1 - 1e-9))
    first = np.flatnonzero(last < len(t))
    pairs = [(int(i), int(last[i])) for i in first] or [(0, len(t) - 1)]
    out = np.zeros((len(pairs), len(t)))
    for row, (a, b) in enumerate(pairs):
        step = np.diff(t[a : b + 1]) / (t[b] - t[a])
        out[row, a:b] += step / 2
        out[row, a + 1 : b + 1] += step / 2
    return sparse.csr_array(out)
