"""What this plugin offers; imports nothing heavy."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """Announce the two post-processors."""
    return [
        Component(
            kind=Kind.POSTPROCESSOR,
            name="discovery",
            path="odekit_sindy.discovery:Discovery",
            summary="equations from noisy, irregular data: smoothing, shooting, subset search",
        ),
        Component(
            kind=Kind.POSTPROCESSOR,
            name="sindy",
            path="odekit_sindy.sindy:Sindy",
            summary="equations of a trained field, sampled along its solutions, through PySINDy",
        ),
    ]
