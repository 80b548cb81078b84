"""Hamiltonian fields: learn one scalar energy, get dynamics that conserve it.

Where an `mlp` learns an arbitrary arrow at every point, this field learns ``H(q, p)`` and follows
its level sets: ``dq/dt = dH/dp``, ``dp/dt = -dH/dq``. Energy is constant along the exact flow
whatever the weights are; what drift is left is the solver's. Not for systems with friction or a
drive, nor for data whose momenta are not the conjugate ones.

Shapes: the state is one tensor ``(..., 2 dim)``, coordinates then momenta, or a tuple ``(q, p)``
    of ``(..., dim)`` each.
Units: with ``q`` in unit Q, time in T and energy in E, ``p`` is in E T / Q (metres, seconds and
    joules give kg m / s).
Source: S. Greydanus, M. Dzamba, J. Yosinski, "Hamiltonian Neural Networks", NeurIPS 2019,
    arXiv:1906.01563. The separable form follows Z. Chen, J. Zhang, M. Arjovsky, L. Bottou,
    "Symplectic Recurrent Neural Networks", ICLR 2020, arXiv:1909.13334.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from odekit import Field, ProblemError
from odekit.training import Recipe
from odekit_fields.network import Network, check_size, check_width, find_dtype, find_generator

Energy: TypeAlias = Callable[[Tensor], Tensor]


@final
class Hamiltonian(Field):
    """The field of a scalar energy.

    A separable one, ``H = kinetic(p) + potential(q)``, also offers ``velocity(p)`` and
    ``force(q)`` and so is an `odekit.SeparableField`.

    Args:
        dim: number of coordinates; the state has twice as many entries.
        energy: maps ``(..., 2 dim)`` to ``(..., 1)`` or ``(...)``, one number per point; or a pair
            ``(kinetic, potential)`` of such functions of the momenta and of the coordinates. A
            network by default. The parameters of modules become parameters of the field.
        separable: learn a network for each of the two energies; needs ``energy=None``.
        width, depth, activation, dtype, seed, generator: of the networks, as for `MLP`.

    Raises:
        ProblemError: a size below one, an unknown activation, or an energy that is neither
            callable nor a pair of callables.

    Example:
        >>> spring = Hamiltonian(1, energy=lambda y: 0.5 * y.square().sum(-1, keepdim=True))
        >>> q, p = torch.tensor([3.0]), torch.tensor([4.0])
        >>> [slope.tolist() for slope in spring(torch.tensor(0.0), (q, p))]
        [[4.0], [-3.0]]
        >>> spring.energy_along((q, p)).item()
        12.5
    """

    def __init__(
        self,
        dim: int,
        energy: Energy | tuple[Energy, Energy] | None = None,
        *,
        separable: bool = False,
        width: int = 64,
        depth: int = 2,
        activation: str = "tanh",
        dtype: torch.dtype | str | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_size("dim", dim)
        _check_energy(energy, separable)
        self.dim = dim
        kind, source = find_dtype(dtype), find_generator(seed, generator)
        common: dict[str, Any] = {"width": width, "depth": depth, "activation": activation}

        def network(inputs: int) -> Network:
            return Network(inputs, 1, dtype=kind, generator=source, **common)

        if separable:
            energy = (network(dim), network(dim))
        pair = isinstance(energy, tuple | list)
        parts: Any = energy if pair else (None, None)
        self.kinetic, self.potential = parts
        self.energy = None if pair else network(2 * dim) if energy is None else energy
        if pair:  # set on the instance, so that others are no SeparableField
            self.velocity, self.force = self._velocity, self._force
        self.recipe = None
        if separable or isinstance(self.energy, Network):
            name = str(kind).removeprefix("torch.")
            options = {"dim": dim, "separable": separable, "dtype": name, **common}
            self.recipe = Recipe("hamiltonian", options)

    def rescale(
        self, center: Tensor, scale: Tensor, rate: Tensor, span: tuple[float, float]
    ) -> None:
        """Adopt the units of data, each ``(2 dim,)``; only the networks made here have units."""
        n = self.dim
        unit = torch.cat([rate[:n] * scale[n:], rate[n:] * scale[:n]]).log().mean().exp()[None]
        parts = (
            (self.energy, slice(None)),
            (self.potential, slice(0, n)),
            (self.kinetic, slice(n, None)),
        )
        for part, where in parts:
            if isinstance(part, Network):
                part.rescale(center[where], scale[where], unit)

    def forward(self, t: Tensor, y: Any) -> Any:
        """The slope, with the structure of ``y``; ``t`` is ignored.

        ``torch.func`` takes the derivative, so this works under ``no_grad``, under
        ``torch.compile`` and, for training, under a second derivative.

        Raises:
            ProblemError: the state has another width, or an energy is not one number per point.
        """
        if isinstance(y, tuple | list):
            q, p = self._split(y)
            return type(y)(self._slopes(q, p))
        check_width("hamiltonian", y, 2 * self.dim, "coordinates and momenta")
        return torch.cat(self._slopes(y[..., : self.dim], y[..., self.dim :]), dim=-1)

    def _slopes(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        if self.energy is None:
            return self._velocity(p), self._force(q)
        slope = _gradient(self.energy, torch.cat([q, p], dim=-1))
        return slope[..., self.dim :], -slope[..., : self.dim]

    def _velocity(self, p: Tensor) -> Tensor:
        """``dq/dt = dT/dp``: ``(..., dim)`` to ``(..., dim)``."""
        return _gradient(self.kinetic, p)

    def _force(self, q: Tensor) -> Tensor:
        """``dp/dt = -dV/dq``: ``(..., dim)`` to ``(..., dim)``."""
        return -_gradient(self.potential, q)

    def energy_along(self, y: Any) -> Tensor:
        """Energy of every point of a solution, ``(..., 2 dim)`` or a tuple, to ``(...)``.

        Its drift is the solver's error.
        """
        if isinstance(y, tuple | list):
            q, p = self._split(y)
        else:
            check_width("hamiltonian", y, 2 * self.dim, "coordinates and momenta")
            q, p = y[..., : self.dim], y[..., self.dim :]
        if self.energy is None:
            return _points(self.kinetic, p) + _points(self.potential, q)
        return _points(self.energy, torch.cat([q, p], dim=-1))

    def _split(self, y: Any) -> tuple[Tensor, Tensor]:
        if len(y) != 2:
            raise ProblemError(f"hamiltonian needs a pair (q, p), got {len(y)} tensors")
        q, p = y
        check_width("hamiltonian", q, self.dim, "coordinates")
        if q.shape != p.shape:
            raise ProblemError(
                f"q and p must have one shape, got {tuple(q.shape)} and {tuple(p.shape)}"
            )
        return q, p


def _check_energy(energy: Any, separable: bool) -> None:
    if isinstance(energy, tuple | list):
        if len(energy) != 2 or not all(callable(part) for part in energy):
            raise ProblemError(
                "energy must be one callable or a pair (kinetic, potential) of callables, got "
                f"{energy!r}"
            )
    elif energy is not None and not callable(energy):
        raise ProblemError(f"energy must be callable, got {energy!r}; leave it out to learn it")
    if energy is not None and separable:
        raise ProblemError(
            "separable=True learns both energies; give energy=(kinetic, potential) without it"
        )


def _points(energy: Any, y: Tensor) -> Tensor:
    """One number per point: ``(..., width)`` to ``(...)``."""
    value: Tensor = energy(y)
    if value.shape == (*y.shape[:-1], 1):
        return value[..., 0]
    if value.shape != y.shape[:-1]:
        raise ProblemError(
            f"energy must give one number per point, shape {(*y.shape[:-1], 1)}, got "
            f"{tuple(value.shape)}"
        )
    return value


def _gradient(energy: Any, y: Tensor) -> Tensor:
    # Points do not interact, so the gradient of the sum is theirs.
    return torch.func.grad(lambda z: _points(energy, z).sum())(y)  # type: ignore[no-any-return]
