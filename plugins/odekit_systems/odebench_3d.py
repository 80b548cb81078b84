"""ODEBench, systems 52 to 63, with three or four states; see `odekit_systems.odebench`.

Copyright (c) 2023 Stéphane d'Ascoli, MIT licence; the notice stands there.
"""

from __future__ import annotations

from odekit_systems.record import Record

RECORDS: dict[int, Record] = {
    52: Record(
        "Maxwell-Bloch laser",
        ("c0*(x1 - x0)", "c1*(x0*x2 - x1)", "c2*(c3 + 1 - x2 - c3*x0*x1)"),
        {"c0": 0.1, "c1": 0.21, "c2": 0.34, "c3": 3.1},
        ((1.3, 1.1, 0.89), (0.89, 1.3, 1.1)),
        "Strogatz, p. 82",
    ),
    53: Record(
        "apoptosis",
        (
            "c0 - c5*x1*x0/(c9 + x0) - c4*x0",
            "c1*x2*(c8 + x1) - c2*x1/(c6 + x1) - c3*x0*x1/(c7 + x1)",
            "-c1*x2*(c8 + x1) + c2*x1/(c6 + x1) + c3*x0*x1/(c7 + x1)",
        ),
        {
            "c0": 0.1,
            "c1": 0.6,
            "c2": 0.2,
            "c3": 7.95,
            "c4": 0.05,
            "c5": 0.4,
            "c6": 0.1,
            "c7": 2.0,
            "c8": 0.1,
            "c9": 0.1,
        },
        ((0.005, 0.26, 2.15), (0.248, 0.0973, 0.0027)),
        "https://epubs.siam.org/doi/10.1137/20M1318043",
    ),
    54: Record(
        "Lorenz, periodic (rho 12)",
        ("c0*(x1 - x0)", "c1*x0 - x1 - x0*x2", "x0*x1 - c2*x2"),
        {"c0": 5.1, "c1": 12.0, "c2": 1.67},
        ((2.3, 8.1, 12.4), (10.0, 20.0, 30.0)),
        "Strogatz, p. 319",
    ),
    55: Record(
        "Lorenz, complex periodic (rho 99.96)",
        ("c0*(x1 - x0)", "c1*x0 - x1 - x0*x2", "x0*x1 - c2*x2"),
        {"c0": 10.0, "c1": 99.96, "c2": 8 / 3},
        ((2.3, 8.1, 12.4), (10.0, 20.0, 30.0)),
        "Strogatz, p. 319",
    ),
    56: Record(
        "Lorenz, chaotic (rho 28)",
        ("c0*(x1 - x0)", "c1*x0 - x1 - x0*x2", "x0*x1 - c2*x2"),
        {"c0": 10.0, "c1": 28.0, "c2": 8 / 3},
        ((2.3, 8.1, 12.4), (10.0, 20.0, 30.0)),
        "Strogatz, p. 319",
    ),
    57: Record(
        "Rossler, stable fixed point, time scaled by 5",
        ("c3*(-x1 - x2)", "c3*(x0 + c0*x1)", "c3*(c1 + x2*(x0 - c2))"),
        {"c0": -0.2, "c1": 0.2, "c2": 5.7, "c3": 5.0},
        ((2.3, 1.1, 0.8), (-0.1, 4.1, -2.1)),
        "https://en.wikipedia.org/wiki/Rössler_attractor",
    ),
    58: Record(
        "Rossler, periodic, time scaled by 5",
        ("c3*(-x1 - x2)", "c3*(x0 + c0*x1)", "c3*(c1 + x2*(x0 - c2))"),
        {"c0": 0.1, "c1": 0.2, "c2": 5.7, "c3": 5.0},
        ((2.3, 1.1, 0.8), (-0.1, 4.1, -2.1)),
        "https://en.wikipedia.org/wiki/Rössler_attractor",
    ),
    59: Record(
        "Rossler, chaotic, time scaled by 5",
        ("c3*(-x1 - x2)", "c3*(x0 + c0*x1)", "c3*(c1 + x2*(x0 - c2))"),
        {"c0": 0.2, "c1": 0.2, "c2": 5.7, "c3": 5.0},
        ((2.3, 1.1, 0.8), (-0.1, 4.1, -2.1)),
        "https://en.wikipedia.org/wiki/Rössler_attractor",
    ),
    60: Record(
        "Aizawa",
        (
            "x0*(x2 - c1) - c3*x1",
            "c3*x0 + x1*(x2 - c1)",
            "c2 + c0*x2 - x2^3/3 - (x0^2 + x1^2)*(1 + c4*x2) + c5*x2*x0^3",
        ),
        {"c0": 0.95, "c1": 0.7, "c2": 0.65, "c3": 3.5, "c4": 0.25, "c5": 0.1},
        ((0.1, 0.05, 0.05), (-0.3, 0.2, 0.1)),
        "https://analogparadigm.com/downloads/alpaca_17.pdf",
    ),
    61: Record(
        "Chen-Lee",
        ("c0*x0 - x1*x2", "c1*x1 + x0*x2", "c2*x2 + x0*x1/c3"),
        {"c0": 5.0, "c1": -10.0, "c2": -3.8, "c3": 3.0},
        ((15.0, -15.0, -15.0), (8.0, 14.0, -10.0)),
        "https://doi.org/10.1016/j.chaos.2003.12.034",
    ),
    62: Record(
        "binocular rivalry with adaptation",
        (
            "-x0 + 1/(1 + exp(c0*x2 + c1*x1 - c2))",
            "c3*(x0 - x1)",
            "-x2 + 1/(1 + exp(c0*x0 + c1*x3 - c2))",
            "c3*(x2 - x3)",
        ),
        {"c0": 0.89, "c1": 0.4, "c2": 1.4, "c3": 1.0},
        ((2.25, -0.5, -1.13, 0.4), (0.342, -0.431, -0.86, 0.041)),
        "Strogatz, p. 295",
    ),
    63: Record(
        "SEIR, proportions",
        ("-c1*x0*x2", "c1*x0*x2 - c0*x1", "c0*x1 - c2*x2", "c2*x2"),
        {"c0": 0.47, "c1": 0.28, "c2": 0.3},
        ((0.6, 0.3, 0.09, 0.01), (0.4, 0.3, 0.25, 0.05)),
        "https://de.wikipedia.org/wiki/SEIR-Modell",
    ),
}
"""By the numbers of the benchmark."""
