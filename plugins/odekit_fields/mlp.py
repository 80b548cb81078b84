"""A network as vector field: the plain neural ODE.

It assumes nothing about the system, so it needs the most data and extrapolates the worst: prefer
`linear`, `second_order` or `hamiltonian` where they apply, and `augmented` where paths of the
observed states cross. A plain flow keeps the order of points on a line and the topology of sets.

Shapes: ``(..., dim)`` to ``(..., dim)``; ``t`` is 0-d or ``(lanes,)``.
Units: the caller's; a trainer sets the network's own (`MLP.rescale`).
Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural Ordinary Differential
    Equations", NeurIPS 2018, arXiv:1806.07366.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from odekit import Field
from odekit.training import Recipe
from odekit_fields.network import (
    Network,
    check_size,
    check_width,
    find_dtype,
    find_generator,
    join_time,
)


@final
class MLP(Field):
    """``dy/dt = network(y)``, or ``network(y, t)``.

    Args:
        dim: number of states.
        width: units per hidden layer.
        depth: number of hidden layers.
        activation: ``"tanh"``, ``"sin"``, ``"silu"``, ``"elu"``, ``"relu"`` ...
        time: let the slope depend on ``t``.
        dtype: of the weights; the slope has the dtype of the state in any case.
        seed: of the initial weights.
        generator: used instead of ``seed``; the global one is never touched.

    Raises:
        ProblemError: a size below one, or an unknown activation.

    Example:
        >>> field = MLP(dim=2, width=8)
        >>> field(torch.tensor(0.0), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    stackable: ClassVar[bool] = True

    def __init__(
        self,
        dim: int,
        width: int = 64,
        depth: int = 2,
        activation: str = "tanh",
        time: bool = False,
        *,
        dtype: torch.dtype | str | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_size("dim", dim)
        self.dim, self.time = dim, bool(time)
        kind = find_dtype(dtype)
        self.network = Network(
            dim + self.time,
            dim,
            width=width,
            depth=depth,
            activation=activation,
            dtype=kind,
            generator=find_generator(seed, generator),
        )
        self.recipe = Recipe(
            "mlp",
            {
                "dim": dim,
                "width": width,
                "depth": depth,
                "activation": activation,
                "time": self.time,
                "dtype": str(kind).removeprefix("torch."),
            },
        )

    def rescale(
        self, center: Tensor, scale: Tensor, rate: Tensor, span: tuple[float, float]
    ) -> None:
        """Adopt the units of data, each ``(dim,)``; only the first call counts."""
        if self.time:
            start, end = span
            center = torch.cat([center, center.new_tensor([(start + end) / 2])])
            scale = torch.cat([scale, scale.new_tensor([(end - start) / 2])])
        self.network.rescale(center, scale, rate)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``(..., dim)`` to ``(..., dim)``.

        Raises:
            ProblemError: the state has another width.
        """
        check_width("mlp", y, self.dim)
        return self.network(join_time(t, y) if self.time else y)  # type: ignore[no-any-return]
