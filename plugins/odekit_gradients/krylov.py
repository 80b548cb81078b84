"""Linear systems whose matrix is only known by what it does to a vector.

Where the matrix fits in memory a factorisation is faster and more robust. Without a
preconditioner the number of products grows with the spread of the eigenvalues.

Shapes: one system a lane, ``(lanes, k)``; no lane depends on another.
Source: Y. Saad and M. H. Schultz, "GMRES: A generalized minimal residual algorithm for solving
    nonsymmetric linear systems", SIAM J. Sci. Stat. Comput. 7, 1986, pp. 856-869,
    doi:10.1137/0907058; orthogonalised twice, L. Giraud, J. Langou, M. Rozloznik, J. van den
    Eshof, Numerische Mathematik 101, 2005, pp. 87-100, doi:10.1007/s00211-005-0615-4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def solve_krylov(
    apply: Callable[[Tensor], Tensor], b: Tensor, *, tolerance: float, limit: int
) -> tuple[Tensor, Tensor]:
    """``x`` with ``apply(x) = b``, and which lanes got there.

    Args:
        apply: the product, ``(lanes, k)`` to ``(lanes, k)``, real.
        b: the right-hand side.
        tolerance: of the residual, relative to ``b``.
        limit: products allowed; all directions are kept, so memory is this many vectors.

    Returns:
        ``(lanes, k)``, and ``(lanes,)`` of bool; a lane that did not get there is what it had.
    """
    size = torch.linalg.vector_norm(b, dim=-1)
    x, done = torch.zeros_like(b), size == 0
    safe = torch.where(size > 0, size, 1.0)
    basis = (b / safe[:, None])[:, None]
    columns = b.new_zeros(len(b), 1, 0)
    for _ in range(min(limit, b.shape[-1])):
        if bool(done.all()):
            break
        columns, basis = _extend(apply, columns, basis)
        target = torch.zeros_like(columns[:, :, :1])
        target[:, 0] = size[:, None]
        weights = torch.linalg.pinv(columns) @ target
        rest = torch.linalg.vector_norm(columns @ weights - target, dim=1)[:, 0]
        found = torch.einsum("lj,ljk->lk", weights[..., 0], basis[:, :-1])
        x = torch.where(done[:, None], x, found)
        done = done | (rest <= tolerance * size)
    return x, done & torch.isfinite(x).all(-1)


def _extend(
    apply: Callable[[Tensor], Tensor], columns: Tensor, basis: Tensor
) -> tuple[Tensor, Tensor]:
    """One more direction: ``(lanes, j + 1, j)``, ``(lanes, j + 1, k)``, each longer by one."""
    vector = apply(basis[:, -1])
    scale = torch.linalg.vector_norm(vector, dim=-1)
    column = torch.zeros_like(basis[..., 0])
    for _ in range(2):
        along = torch.einsum("ljk,lk->lj", basis, vector)
        vector = vector - torch.einsum("ljk,lj->lk", basis, along)
        column = column + along
    length = torch.linalg.vector_norm(vector, dim=-1)
    # What rounding leaves over is no direction; there the answer is exact already.
    length = torch.where(length > 8 * torch.finfo(length.dtype).eps * scale, length, 0.0)
    following = torch.where(
        length[:, None] > 0, vector / torch.where(length > 0, length, 1.0)[:, None], 0.0
    )
    longer = torch.nn.functional.pad(columns, (0, 0, 0, 1))
    column = torch.cat([column, length[:, None]], -1)[..., None]
    return torch.cat([longer, column], -1), torch.cat([basis, following[:, None]], 1)
