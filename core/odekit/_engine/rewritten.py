"""Operations of a step in other terms, where that makes faster code of the same accuracy.

Fields on few variables multiply by matrices of two or three columns, for which general libraries
are not made, and networks call ``tanh``, which takes as long as the products between its calls.
CPUs only; what else there is keeps its own.

Source: the continued fraction of the hyperbolic tangent is J. H. Lambert's, "Memoire sur quelques
    proprietes remarquables des quantites transcendentes circulaires et logarithmiques", 1768;
    see F. W. J. Olver et al., "NIST Handbook of Mathematical Functions", 2010, 4.39.1 and 4.35.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FEW = 4
"""Columns of a product that is taken apart, at most."""

TERMS = 4096
"""Terms of its sums, at most; longer ones are better left in blocks."""

TANH = """([](const auto& x) {
    using V = std::decay_t<decltype(x)>;
    if constexpr (std::is_same_v<V, at::vec::Vectorized<float>>) {
        using at::vec::fmadd;
        const V size = at::vec::minimum(x.abs(), V(9.02f));
        const V near = size < V(1.1f);
        const V t = V::blendv(size * V(0.5f), size, near), s = t * t;
        const V d = fmadd(
            s, fmadd(s, fmadd(s, V(28.f), V(3150.f)), V(62370.f)), V(135135.f));
        const V less = t * s * fmadd(s, fmadd(s, V(27.f), V(2772.f)), V(45045.f));
        const V n = t * d - less, gap = d - n;
        const V whole = V::blendv(fmadd(d, d, n * n), d, near);
        const V part = V::blendv(gap * gap, less, near) / whole;
        return (V::blendv(V(1.f), t, near) - part).copysign(x);
    } else {
        return x.tanh();
    }
})"""
"""The hyperbolic tangent of a vector in single precision, within two units in the last place.

With ``n / d``, Lambert's fraction after seven terms, it is ``t - (t d - n) / d`` up to 1.1, where
that is exact to rounding. Beyond, with ``t`` half of the argument, where the fraction is right to
``1e-8`` of the result, it is ``1 - (d - n)^2 / (d^2 + n^2)``. From 9.02 on it rounds to one.
"""


def rewrites() -> dict[Any, Callable[..., Any]]:
    """Operations, and what to call in their place; that may give ``NotImplemented``."""
    aten = torch.ops.aten
    return {aten.mm.default: mm, aten.addmm.default: addmm}


def mm(a: Tensor, b: Tensor) -> Any:
    """The product of ``(m, k)`` and ``(k, n)`` for few columns ``n``, as sums along ``a``."""
    if a.device.type != "cpu" or a.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    (rows, terms), columns = a.shape, b.shape[1]
    if not (columns <= FEW < rows and FEW < terms <= TERMS):
        return NotImplemented
    if a.stride(1) == 1:
        return (a[:, None, :] * b.t()[None]).sum(-1)
    if a.stride(0) == 1:  # transposed, as in gradients of weights
        return (a.t()[:, None, :] * b[:, :, None]).sum(0).t()
    return NotImplemented


def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """``bias`` and a product as above."""
    product = mm(a, b) if beta == alpha == 1 else None
    return product + bias if isinstance(product, Tensor) else NotImplemented
