"""Whether a solve runs inside a transform of ``torch.func``.

A node of the graph that recomputes a solve needs the field as it is, and there the field may hold
tensors that only the transform can open.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit import IncompatibleError


def refuse_transforms(name: str) -> None:
    """Refuse early what would fail in the middle of a solve.

    Args:
        name: of the gradient method.

    Raises:
        IncompatibleError: inside ``torch.func.grad``, ``vmap``, ``jvp`` or what is made of them.
    """
    try:
        _Probe.apply(torch.empty(0))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise IncompatibleError(
            f"gradient={name!r} does not work inside torch.func transforms; use "
            "gradient='unrolled' there, or torch.autograd in place of torch.func"
        ) from error


class _Probe(torch.autograd.Function):
    """Does nothing, in a form that transforms do not accept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)
