"""Announces the step-size controllers."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """Fixed, integral, PI and PID control, and replay."""
    found = [
        ("fixed", "odekit_control.fixed:Fixed", "steps of one length, no error control"),
        ("integral", "odekit_control.error:Integral", "the textbook rule on the current error"),
        ("pi", "odekit_control.error:PI", "proportional-integral, smoother step sequences"),
        ("pid", "odekit_control.error:PID", "proportional-integral-derivative, all gains free"),
        ("replay", "odekit_control.replay:Replay", "the steps of an earlier solve again"),
    ]
    return [Component(Kind.CONTROLLER, *each) for each in found]
