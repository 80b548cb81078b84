"""What a vector field is: any callable ``(t, y) -> dy/dt``, and two protocols that ask for more.

A function or an ``nn.Module`` is a field as it stands. `Field` is for those that change what the
state is: an augmented field pads it, a second-order field adds a velocity. ``solve`` lifts the
caller's value once before the solve and projects once after it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

State: TypeAlias = Any
"""A tensor, or a tuple, list or dict of states."""


class VectorField(Protocol):
    """Any callable ``(t, y) -> dy/dt``; with ``args`` it is called ``(t, y, args)``.

    ``t`` is 0-d with a shared step size and ``(lanes,)`` with a step size per sample; the answer
    has the structure, shapes and dtypes of ``y``.
    """

    def __call__(self, t: Tensor, y: State, /) -> State:
        """The slope at ``(t, y)``."""
        ...


@runtime_checkable
class SeparableField(Protocol):
    """A field with ``dq/dt = velocity(p)`` and ``dp/dt = force(q)``, as symplectic solvers ask."""

    def velocity(self, p: Tensor) -> Tensor:
        """``dq/dt`` from the momenta."""
        ...

    def force(self, q: Tensor) -> Tensor:
        """``dp/dt`` from the coordinates."""
        ...


@runtime_checkable
class DiffusionField(Protocol):
    """A field with a drift and a diffusion, as stochastic solvers ask."""

    def drift(self, t: Tensor, y: State) -> State:
        """The deterministic slope."""
        ...

    def diffusion(self, t: Tensor, y: State) -> State:
        """The noise's amplitude."""
        ...


class Field(nn.Module, ABC):
    """Base of fields that are modules, and of those that change what the state is."""

    def lift(self, x: State) -> State:
        """The user's value to the integrated state; by default the value itself."""
        return x

    def project(self, y: State) -> State:
        """The integrated state to the user's value; by default the state itself."""
        return y

    @abstractmethod
    def forward(self, t: Tensor, y: State) -> State:
        """The slope of the integrated state."""
