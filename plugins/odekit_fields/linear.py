"""A linear field, ``dy/dt = A y``, optionally with a constant.

The first thing to try: it is fitted in a moment, and its eigenvalues say what the system does.
Anything with more than one fixed point, or with a limit cycle, needs another field.

Shapes: ``(..., dim)`` to ``(..., dim)``.
Units: ``A[i, j]`` is unit of ``y[i]`` per unit of ``y[j]`` and time.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from odekit import Field
from odekit.training import Recipe
from odekit_fields.network import check_size, check_width, find_dtype, find_generator


@final
class Linear(Field):
    """``dy/dt = A y + b`` with trainable ``A = weight`` and, when asked for, ``b = bias``.

    Args:
        dim: number of states.
        bias: add a constant.
        dtype: of the weights; the slope has the dtype of the state in any case.
        seed: of the initial weights, which are small.
        generator: used instead of ``seed``.

    Raises:
        ProblemError: ``dim`` below one.

    Example:
        >>> field = Linear(dim=2)
        >>> field(torch.tensor(0.0), torch.ones(2)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        dim: int,
        bias: bool = False,
        *,
        dtype: torch.dtype | str | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_size("dim", dim)
        self.dim = dim
        kind = find_dtype(dtype)
        source = find_generator(seed, generator)
        weight = 0.1 * torch.randn(dim, dim, generator=source, dtype=torch.float64) / dim**0.5
        self.weight = nn.Parameter(weight.to(kind))
        self.bias = nn.Parameter(torch.zeros(dim, dtype=kind)) if bias else None
        self.recipe = Recipe(
            "linear",
            {"dim": dim, "bias": bool(bias), "dtype": str(kind).removeprefix("torch.")},
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``(..., dim)`` to ``(..., dim)``; ``t`` is ignored.

        Raises:
            ProblemError: the state has another width.
        """
        check_width("linear", y, self.dim)
        bias = None if self.bias is None else self.bias.to(y.dtype)
        return functional.linear(y, self.weight.to(y.dtype), bias)
