"""Announces the algebraically reversible solvers."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """The wrapper around any explicit one-step method, and reversible Heun."""
    found = [
        (
            "reversible",
            "odekit_reversible.coupled:Reversible",
            "any explicit one-step method made reversible, order kept",
        ),
        (
            "reversible_heun",
            "odekit_reversible.heun:ReversibleHeun",
            "order 2(1), reversible, one evaluation a step",
        ),
    ]
    return [Component(Kind.SOLVER, *each) for each in found]
