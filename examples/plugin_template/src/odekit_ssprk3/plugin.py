"""Announces the solver. It is imported at the first look-up of any name, so it imports nothing."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """One solver."""
    return [
        Component(
            kind=Kind.SOLVER,
            name="ssprk3",
            path="odekit_ssprk3.ssprk3:SSPRK3",
            summary="order 3, fixed steps, strong stability preserving",
        )
    ]
