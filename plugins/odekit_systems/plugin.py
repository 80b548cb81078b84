"""Announces the named systems."""

from __future__ import annotations

from odekit.plugin import Component, Kind, hookimpl
from odekit_systems import odebench_1d, odebench_2d, odebench_3d


@hookimpl
def odekit_components() -> list[Component]:
    """22 systems and the 63 of ODEBench, with their equations and synthetic data."""
    found = [
        (
            "lotka_volterra",
            "odekit_systems.populations:LotkaVolterra",
            "predator and prey, 2 states",
        ),
        ("logistic", "odekit_systems.populations:Logistic", "growth up to a capacity, 1 state"),
        ("allee", "odekit_systems.populations:Allee", "growth that needs a crowd, 1 state"),
        (
            "may_leonard",
            "odekit_systems.populations:MayLeonard",
            "three species in cyclic competition, 3 states",
        ),
        ("sir", "odekit_systems.populations:SIR", "an epidemic, 2 states"),
        ("harmonic", "odekit_systems.oscillators:Harmonic", "a spring without friction, 2 states"),
        (
            "damped_oscillator",
            "odekit_systems.oscillators:DampedOscillator",
            "a spring with friction, 2 states",
        ),
        (
            "pendulum",
            "odekit_systems.oscillators:Pendulum",
            "a pendulum without friction, 2 states",
        ),
        (
            "damped_pendulum",
            "odekit_systems.oscillators:DampedPendulum",
            "a pendulum with friction, 2 states",
        ),
        (
            "duffing",
            "odekit_systems.oscillators:Duffing",
            "a hardening spring, perhaps driven, 2 states",
        ),
        (
            "van_der_pol",
            "odekit_systems.oscillators:VanDerPol",
            "self-driven oscillator, stiff for large mu, 2 states",
        ),
        ("fitzhugh_nagumo", "odekit_systems.oscillators:FitzHughNagumo", "a nerve cell, 2 states"),
        ("spiral", "odekit_systems.oscillators:Spiral", "the cubic spiral, 2 states"),
        ("kepler", "odekit_systems.mechanics:Kepler", "a planet around a fixed sun, 4 states"),
        ("henon_heiles", "odekit_systems.mechanics:HenonHeiles", "a star in a galaxy, 4 states"),
        ("lorenz", "odekit_systems.chaos:Lorenz", "the butterfly, chaotic, 3 states"),
        ("rossler", "odekit_systems.chaos:Rossler", "a folded band, chaotic, 3 states"),
        ("chen", "odekit_systems.chaos:Chen", "a relative of Lorenz, chaotic, 3 states"),
        (
            "brusselator",
            "odekit_systems.reactions:Brusselator",
            "an oscillating reaction, 2 states",
        ),
        ("selkov", "odekit_systems.reactions:Selkov", "glycolysis, 2 states"),
        (
            "michaelis_menten",
            "odekit_systems.reactions:MichaelisMenten",
            "an enzyme at work, 1 state",
        ),
        (
            "robertson",
            "odekit_systems.reactions:Robertson",
            "three reactions, very stiff, 3 states",
        ),
    ]
    for table in (odebench_1d, odebench_2d, odebench_3d):
        for number, record in table.RECORDS.items():
            states = "1 state" if len(record.right) == 1 else f"{len(record.right)} states"
            path = f"odekit_systems.odebench:Odebench{number}"
            found.append((f"odebench_{number}", path, f"ODEBench: {record.title}, {states}"))
    return [Component(Kind.SYSTEM, *each) for each in found]
