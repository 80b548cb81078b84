"""Announces the gradient methods."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """Unrolled differentiation and the continuous adjoint."""
    found = [
        ("unrolled", "odekit_gradients.unrolled:Unrolled", "differentiate the steps taken"),
        (
            "checkpointed",
            "odekit_gradients.checkpointed:Checkpointed",
            "exact, few stored states",
        ),
        ("discrete", "odekit_gradients.discrete:Discrete", "exact, the states between steps kept"),
        ("adjoint", "odekit_gradients.adjoint:Adjoint", "a second ODE backwards, constant memory"),
        (
            "interpolated",
            "odekit_gradients.interpolated:Interpolated",
            "the adjoint alone backwards, along the stored solution",
        ),
        (
            "reversible",
            "odekit_gradients.reversible:Reversible",
            "exact, constant memory, for reversible solvers",
        ),
        (
            "forward",
            "odekit_gradients.forward:Forward",
            "exact, the sensitivities travel along, for few parameters",
        ),
        (
            "steady_state",
            "odekit_gradients.steady_state:SteadyState",
            "of a point of rest, by the implicit function theorem",
        ),
    ]
    found.append(("auto", "odekit_gradients.auto:Auto", "the fastest exact one within a budget"))
    return [Component(Kind.GRADIENT, *each) for each in found]
