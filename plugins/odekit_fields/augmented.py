"""Augmented fields: extra states that nobody observes, so that observed paths may cross.

The flow of a plain field cannot map 1 to -1 and -1 to 1, for on a line the two paths would have
to meet. One extra state lets them pass each other. Prefer `second_order` where the hidden state is
a velocity: it says what the extra state means, and so needs less data.

Shapes: the user's value is ``(..., dim)``, the integrated state ``(..., dim + extra)``.
Units: the extra states are bare numbers.
Source: E. Dupont, A. Doucet, Y. W. Teh, "Augmented Neural ODEs", NeurIPS 2019, arXiv:1904.01681.
    A learned lift is the input layer of S. Massaroli et al., "Dissecting Neural ODEs", NeurIPS
    2020, arXiv:2002.08071.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from odekit import Field, ProblemError, VectorField
from odekit.training import Recipe
from odekit_fields.mlp import MLP
from odekit_fields.network import (
    Network,
    check_choice,
    check_size,
    check_width,
    find_dtype,
    find_generator,
)


@final
class Augmented(Field):
    """A field over ``dim`` observed and ``extra`` hidden states.

    Args:
        dim: number of observed states.
        extra: number of hidden states.
        lift: where the hidden states start: at ``"zeros"``, or ``"learned"`` from the observed
            ones by a small network.
        field: the field over all ``dim + extra`` states; by default an `MLP` made from the options
            that follow, which are those of `MLP`.

    Raises:
        ProblemError: a size below one, or an unknown lift or activation.

    Example:
        >>> field = Augmented(dim=1, extra=2)
        >>> field.lift(torch.ones(4, 1)).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        dim: int,
        extra: int = 1,
        lift: str = "zeros",
        field: VectorField | None = None,
        *,
        width: int = 64,
        depth: int = 2,
        activation: str = "tanh",
        time: bool = False,
        dtype: torch.dtype | str | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_size("dim", dim)
        check_size("extra", extra)
        check_choice("lift", lift, ("zeros", "learned"))
        if field is not None and not callable(field):
            raise ProblemError(f"field must be callable as field(t, y), got {field!r}")
        self.dim, self.extra = dim, extra
        kind, source = find_dtype(dtype), find_generator(seed, generator)
        self.field: VectorField = field or MLP(
            dim + extra, width, depth, activation, time, dtype=kind, generator=source
        )
        self.start: Network | None = None
        if lift == "learned":
            self.start = Network(
                dim,
                extra,
                width=min(width, 16),
                depth=1,
                activation=activation,
                dtype=kind,
                generator=source,
            )
        inner = getattr(self.field, "recipe", None)
        name = str(kind).removeprefix("torch.")
        options = {"dim": dim, "extra": extra, "lift": lift, "field": inner, "dtype": name}
        options |= {"width": width, "activation": activation}
        self.recipe = None if inner is None else Recipe("augmented", options)

    def rescale(
        self, center: Tensor, scale: Tensor, rate: Tensor, span: tuple[float, float]
    ) -> None:
        """Adopt the units of data, each ``(dim,)``; hidden states are of order one."""
        if self.start is not None:
            self.start.rescale(center, scale, center.new_ones(self.extra))
        inner = getattr(self.field, "rescale", None)
        if inner is not None:
            hidden = center.new_ones(self.extra)
            inner(
                torch.cat([center, 0 * hidden]),
                torch.cat([scale, hidden]),
                torch.cat([rate, (rate / scale).mean() * hidden]),
                span,
            )

    def lift(self, x: Tensor) -> Tensor:
        """``(..., dim)`` to ``(..., dim + extra)``.

        Raises:
            ProblemError: the value has another width.
        """
        check_width("augmented", x, self.dim, "observed states")
        hidden = x.new_zeros(*x.shape[:-1], self.extra) if self.start is None else self.start(x)
        return torch.cat([x, hidden], dim=-1)

    def project(self, y: Tensor) -> Tensor:
        """``(..., dim + extra)`` to ``(..., dim)``."""
        return y[..., : self.dim]

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``(..., dim + extra)`` to ``(..., dim + extra)``.

        Raises:
            ProblemError: the state has another width.
        """
        check_width("augmented", y, self.dim + self.extra, "integrated states")
        return self.field(t, y)  # type: ignore[no-any-return]
