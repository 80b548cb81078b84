"""Announces the trainable fields."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """Six fields, each made by ``odekit.create("field", name, ...)``."""
    found = [
        ("mlp", "odekit_fields.mlp:MLP", "a network, the plain neural ODE"),
        ("linear", "odekit_fields.linear:Linear", "dy/dt = A y, with or without a constant"),
        (
            "augmented",
            "odekit_fields.augmented:Augmented",
            "extra states, from zeros or learned, so that paths may cross",
        ),
        (
            "second_order",
            "odekit_fields.second_order:SecondOrder",
            "a learned acceleration; velocity given, zero or learned",
        ),
        (
            "hamiltonian",
            "odekit_fields.hamiltonian:Hamiltonian",
            "a learned or given energy, conserved along the flow",
        ),
        (
            "ensemble",
            "odekit_fields.ensemble:Ensemble",
            "many fields of one architecture, solved side by side from their own starts",
        ),
    ]
    return [Component(Kind.FIELD, *each) for each in found]
