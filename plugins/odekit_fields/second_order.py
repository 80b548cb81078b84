"""Second-order fields: learn an acceleration, get positions and velocities.

``dq/dt = v`` is not learned, so the second half of the state *is* the velocity, whatever the
training did; an augmented field's hidden state means something else for every seed. Only for
systems that are driven by forces: a first-order system has no velocity of its own.

Shapes: the state is ``(..., 2 dim)``, positions then velocities. With ``velocity="given"`` the
    user's value is the same; otherwise it is the positions, ``(..., dim)``.
Units: velocities are the caller's unit of position per unit of time.
Source: A. Norcliffe, C. Bodnar, B. Day, N. Simidjievski, P. Lio, "On Second Order Behaviour in
    Augmented Neural ODEs", NeurIPS 2020, arXiv:2006.07220.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from odekit import Field, ProblemError
from odekit.training import Recipe
from odekit_fields.network import (
    Network,
    check_choice,
    check_size,
    check_width,
    find_dtype,
    find_generator,
    join_time,
)


@final
class SecondOrder(Field):
    """``d2q/dt2 = acceleration(q, v)``.

    Args:
        dim: number of positions.
        velocity: how a trajectory's velocity starts: ``"given"`` with the data, at ``"zero"``
            (released from rest), or ``"learned"`` as a function of the position.
        acceleration: called ``acceleration(t, y)`` with ``y (..., 2 dim)``, gives
            ``(..., dim)``; by default a network made from the options that follow, which are
            those of `MLP`.

    Raises:
        ProblemError: a size below one, or an unknown velocity or activation.

    Example:
        >>> spring = SecondOrder(1, acceleration=lambda t, y: -y[..., :1])
        >>> spring(torch.tensor(0.0), torch.tensor([3.0, 4.0]))
        tensor([ 4., -3.])
    """

    def __init__(
        self,
        dim: int,
        velocity: str = "given",
        acceleration: Callable[[Tensor, Tensor], Tensor] | None = None,
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
        check_choice("velocity", velocity, ("given", "zero", "learned"))
        if acceleration is not None and not callable(acceleration):
            raise ProblemError(
                f"acceleration must be callable as acceleration(t, y), got {acceleration!r}"
            )
        self.dim, self.velocity, self.time = dim, velocity, bool(time)
        kind, source = find_dtype(dtype), find_generator(seed, generator)
        common: dict[str, Any] = {"activation": activation, "dtype": kind, "generator": source}
        self.network: Network | None = None
        self._acceleration = acceleration
        if acceleration is None:
            self.network = Network(2 * dim + self.time, dim, width=width, depth=depth, **common)
        self.start: Network | None = None
        if velocity == "learned":
            self.start = Network(dim, dim, width=min(width, 16), depth=1, **common)
        options = {"dim": dim, "velocity": velocity, "width": width, "depth": depth}
        options |= {"activation": activation, "time": self.time}
        options["dtype"] = str(kind).removeprefix("torch.")
        self.recipe = Recipe("second_order", options) if acceleration is None else None

    def rescale(
        self, center: Tensor, scale: Tensor, rate: Tensor, span: tuple[float, float]
    ) -> None:
        """Adopt the units of data, ``(dim,)`` each, or ``(2 dim,)`` with given velocities."""
        if self.velocity == "given":
            push = rate[self.dim :]
        else:
            push = rate * rate / scale
            center = torch.cat([center, torch.zeros_like(center)])
            scale = torch.cat([scale, rate])
        if self.start is not None:
            self.start.rescale(center[: self.dim], scale[: self.dim], rate)
        if self.time:
            start, end = span
            center = torch.cat([center, center.new_tensor([(start + end) / 2])])
            scale = torch.cat([scale, scale.new_tensor([(end - start) / 2])])
        if self.network is not None:
            self.network.rescale(center, scale, push)

    def guess(self, x: Tensor, slope: Tensor) -> Tensor:
        """The integrated state where the user's value and its slope are known."""
        return x if self.velocity == "given" else torch.cat([x, slope], dim=-1)

    def lift(self, x: Tensor) -> Tensor:
        """The user's value to ``(..., 2 dim)``.

        Raises:
            ProblemError: the value has another width.
        """
        if self.velocity == "given":
            check_width("second_order", x, 2 * self.dim, "positions and velocities")
            return x
        check_width("second_order", x, self.dim, "positions")
        return torch.cat([x, torch.zeros_like(x) if self.start is None else self.start(x)], dim=-1)

    def project(self, y: Tensor) -> Tensor:
        """``(..., 2 dim)`` to the user's value."""
        return y if self.velocity == "given" else y[..., : self.dim]

    def acceleration(self, t: Tensor, y: Tensor) -> Tensor:
        """``(..., 2 dim)`` to ``(..., dim)``: the learned or given ``d2q/dt2``."""
        if self.network is None:
            return self._acceleration(t, y)  # type: ignore[misc]
        return self.network(join_time(t, y) if self.time else y)  # type: ignore[no-any-return]

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``(..., 2 dim)`` to ``(..., 2 dim)``: velocities, then accelerations.

        Raises:
            ProblemError: the state has another width.
        """
        check_width("second_order", y, 2 * self.dim, "positions and velocities")
        return torch.cat([y[..., self.dim :], self.acceleration(t, y)], dim=-1)
