"""Announces the explicit Runge-Kutta methods."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl


@hookimpl
def odekit_components() -> list[Component]:
    """Ten methods of orders one to eight."""
    found = [
        ("euler", "odekit_rk.fixed:Euler", "order 1, fixed steps"),
        ("midpoint", "odekit_rk.low_order:Midpoint", "order 2(1), adaptive"),
        ("heun", "odekit_rk.low_order:Heun", "order 2(1), adaptive"),
        ("ralston", "odekit_rk.low_order:Ralston", "order 2(1), adaptive"),
        ("rk4", "odekit_rk.fixed:RK4", "order 4, fixed steps, the classical method"),
        ("rk38", "odekit_rk.fixed:RK38", "order 4, fixed steps, the 3/8 rule"),
        ("bosh3", "odekit_rk.bosh3:Bosh3", "order 3(2), adaptive, for loose tolerances"),
        ("dopri5", "odekit_rk.dopri5:Dopri5", "order 5(4), adaptive, dense output of order 4"),
        ("tsit5", "odekit_rk.tsit5:Tsit5", "order 5(4), adaptive, the default"),
        ("dopri8", "odekit_rk.dopri8:Dopri8", "order 8(5,3), adaptive, for tight tolerances"),
    ]
    return [Component(Kind.SOLVER, *each) for each in found]
