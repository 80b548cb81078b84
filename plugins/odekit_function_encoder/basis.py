"""Many small networks evaluated as one: a batched product per layer, never a loop.

Shapes: ``(N, dim)`` to ``(K, N, dim)`` for ``K`` networks.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from odekit import ProblemError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "relu": torch.relu,
}

_ROOT = (2 * math.pi) ** 0.5

SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda x, a: 1 - a * a,
    "sin": lambda x, a: torch.cos(x),
    "silu": lambda x, a: torch.sigmoid(x) * (1 + x - a),
    "softplus": lambda x, a: torch.sigmoid(x),
    "elu": lambda x, a: torch.where(x > 0, 1.0, a + 1),
    "gelu": lambda x, a: 0.5 * torch.erfc(-x / 2**0.5) + x * torch.exp(-x * x / 2) / _ROOT,
    "relu": lambda x, a: (x > 0).to(x.dtype),
}
"""Derivatives of the activations, from what goes in and what comes out."""


@final
class Basis(nn.Module):
    """``count`` networks of one shape, in the units of their data.

    Args:
        count: number of networks.
        dim: width of input and output.
        width: units per hidden layer.
        depth: number of hidden layers.
        activation: one of `ACTIVATIONS`.
        dtype: of the weights; outputs have the dtype of the input.
        generator: source of the initial weights.

    Raises:
        ProblemError: a size below one, or an unknown activation.
    """

    center: Tensor
    scale: Tensor
    rate: Tensor

    def __init__(
        self,
        count: int,
        dim: int,
        *,
        width: int,
        depth: int,
        activation: str,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            close = difflib.get_close_matches(str(activation), ACTIVATIONS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ProblemError(
                f"unknown activation {activation!r}: {hint}write one of {', '.join(ACTIVATIONS)}"
            )
        self._activation, self._slope = ACTIVATIONS[activation], SLOPES[activation]
        sizes = [dim, *[width] * depth, dim]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (before, after) in enumerate(itertools.pairwise(sizes)):
            spread = 1.5 if layer == 0 else 0.5 if layer < depth else 0.0
            weight = torch.randn(count, before, after, generator=generator, dtype=torch.float64)
            bias = torch.rand(count, 1, after, generator=generator, dtype=torch.float64)
            self.weights.append(nn.Parameter((weight / before**0.5).to(dtype)))
            self.biases.append(nn.Parameter(((2 * bias - 1) * spread).to(dtype)))
        for name, value in (("center", 0.0), ("scale", 1.0), ("rate", 1.0)):
            self.register_buffer(name, torch.full((dim,), value, dtype=dtype))

    def forward(self, y: Tensor) -> Tensor:
        """``(N, dim)`` to ``(K, N, dim)``, in the dtype of ``y``."""
        kind = y.dtype
        x = ((y - self.center.to(kind)) / self.scale.to(kind)).expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias.to(kind), x, weight.to(kind))
            if layer < last:
                x = self._activation(x)
        return x * self.rate.to(kind)

    def linearised(self, y: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The networks, and the Jacobian of their sum with ``shares (K,)`` of each.

        ``(N, dim)`` to ``(K, N, dim)`` and ``(N, dim, dim)``, the direction before the last axis.
        The directions go through the layers beside the values, as more rows of the same products:
        for networks this small that is several times faster than a forward derivative by
        ``torch.func``, which gives the same.
        """
        kind, (count, dim) = y.dtype, y.shape
        x = ((y - self.center.to(kind)) / self.scale.to(kind)).expand(len(shares), -1, -1)
        z = torch.diag_embed(1 / self.scale.to(kind))
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            w = weight.to(kind)
            x = torch.baddbmm(bias.to(kind), x, w)
            if layer == last:
                break
            z = z @ w
            a = self._activation(x)
            # (K, N, dim, width), rows of the product with the next layer
            z = (self._slope(x, a)[:, :, None] * z.reshape(len(w), -1, dim, w.shape[2])).flatten(
                1, 2
            )
            x = a
        rate = self.rate.to(kind)
        ends = (w * (shares[:, None, None] * rate)).flatten(0, 1)
        jacobian = z.transpose(0, 1).flatten(1) @ ends
        return x * rate, jacobian.reshape(count, dim, dim)
