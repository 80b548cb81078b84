"""Announces the trainers."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """Two trainers for ``odekit.fit``."""
    return [
        Component(
            Kind.TRAINER,
            "shooting",
            "odekit_training.shooting:Shooting",
            "multiple-shooting Levenberg-Marquardt, the default for small fields",
        ),
        Component(
            Kind.TRAINER,
            "adam",
            "odekit_training.adam:Adam",
            "gradient descent through the solver along whole trajectories",
        ),
    ]
