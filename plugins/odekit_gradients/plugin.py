"""Announces the gradient methods."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """Unrolled differentiation and the continuous adjoint."""
    found = [
        ("unrolled", "odekit_gradients.unrolled:Unrolled", "differentiate the steps taken"),
        ("adjoint", "odekit_gradients.adjoint:Adjoint", "a second ODE backwards, constant memory"),
    ]
    return [Component(Kind.GRADIENT, *each) for each in found]
