"""Announces the function encoder and its trainer."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """A field that adapts to new systems, and the trainer that learns its basis."""
    return [
        Component(
            Kind.FIELD,
            "function_encoder",
            "odekit_function_encoder.encoder:FunctionEncoder",
            "a learned basis of fields; adapts to a new system by least squares",
        ),
        Component(
            Kind.TRAINER,
            "function_encoder",
            "odekit_function_encoder.trainer:EncoderTrainer",
            "learn the basis of a function encoder from series of many systems",
        ),
    ]
