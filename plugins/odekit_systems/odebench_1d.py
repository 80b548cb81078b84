"""ODEBench, systems 1 to 23, with one state; see `odekit_systems.odebench`.

Copyright (c) 2023 Stéphane d'Ascoli, MIT licence; the notice stands there.
"""

from __future__ import annotations

from odekit_systems.record import Record

RECORDS: dict[int, Record] = {
    1: Record(
        "RC circuit, charging capacitor",
        ("(c0 - x0/c1)/c2",),
        {"c0": 0.7, "c1": 1.2, "c2": 2.31},
        ((10.0,), (3.54,)),
        "Strogatz, p. 20",
    ),
    2: Record(
        "exponential growth",
        ("c0*x0",),
        {"c0": 0.23},
        ((4.78,), (0.87,)),
        "Strogatz, p. 22",
    ),
    3: Record(
        "logistic growth",
        ("c0*x0*(1 - x0/c1)",),
        {"c0": 0.79, "c1": 74.3},
        ((7.3,), (21.0,)),
        "Strogatz, p. 22",
    ),
    4: Record(
        "RC circuit with a nonlinear resistor",
        ("1/(1 + exp(c0 - x0/c1)) - 0.5",),
        {"c0": 0.5, "c1": 0.96},
        ((0.8,), (0.02,)),
        "Strogatz, p. 38",
    ),
    5: Record(
        "falling body with quadratic drag",
        ("c0 - c1*x0^2",),
        {"c0": 9.81, "c1": 0.0021175},
        ((0.5,), (73.0,)),
        "Strogatz, p. 38",
    ),
    6: Record(
        "autocatalysis",
        ("c0*x0 - c1*x0^2",),
        {"c0": 2.1, "c1": 0.5},
        ((0.13,), (2.24,)),
        "Strogatz, p. 39",
    ),
    7: Record(
        "Gompertz tumour growth",
        ("c0*x0*log(c1*x0)",),
        {"c0": 0.032, "c1": 2.29},
        ((1.73,), (9.5,)),
        "Strogatz, p. 39",
    ),
    8: Record(
        "logistic growth with Allee effect",
        ("c0*x0*(1 - x0/c1)*(x0/c2 - 1)",),
        {"c0": 0.14, "c1": 130.0, "c2": 4.4},
        ((6.123,), (2.1,)),
        "Strogatz, p. 39",
    ),
    9: Record(
        "language death, linear",
        ("(1 - x0)*c0 - x0*c1",),
        {"c0": 0.32, "c1": 0.28},
        ((0.14,), (0.55,)),
        "Strogatz, p. 40",
    ),
    10: Record(
        "language death, power law",
        ("(1 - x0)*c0*x0^c1 - x0*(1 - c0)*(1 - x0)^c1",),
        {"c0": 0.2, "c1": 1.2},
        ((0.83,), (0.34,)),
        "Strogatz, p. 40",
    ),
    11: Record(
        "critical slowing down",
        ("-x0^3",),
        {},
        ((3.4,), (1.6,)),
        "Strogatz, p. 41",
    ),
    12: Record(
        "laser photons, simple",
        ("c0*x0 - c1*x0^2",),
        {"c0": 1.8, "c1": 0.1107},
        ((11.0,), (1.3,)),
        "Strogatz, p. 55",
    ),
    13: Record(
        "overdamped bead on a rotating hoop",
        ("c0*sin(x0)*(c1*cos(x0) - 1)",),
        {"c0": 0.0981, "c1": 9.7},
        ((3.1,), (2.4,)),
        "Strogatz, p. 63",
    ),
    14: Record(
        "spruce budworm",
        ("c0*x0*(1 - x0/c1) - c3*x0^2/(c2^2 + x0^2)",),
        {"c0": 0.78, "c1": 81.0, "c2": 21.2, "c3": 0.9},
        ((2.76,), (23.3,)),
        "Strogatz, p. 75",
    ),
    15: Record(
        "spruce budworm, dimensionless",
        ("c0*x0*(1 - x0/c1) - x0^2/(1 + x0^2)",),
        {"c0": 0.4, "c1": 95.0},
        ((44.3,), (4.5,)),
        "Strogatz, p. 76",
    ),
    16: Record(
        "Landau equation, fifth order",
        ("c0*x0 - c1*x0^3 - c2*x0^5",),
        {"c0": 0.1, "c1": -0.04, "c2": 0.001},
        ((0.94,), (1.65,)),
        "Strogatz, p. 87",
    ),
    17: Record(
        "logistic growth with constant harvesting",
        ("c0*x0*(1 - x0/c1) - c2",),
        {"c0": 0.4, "c1": 100.0, "c2": 0.3},
        ((14.3,), (34.2,)),
        "Strogatz, p. 89",
    ),
    18: Record(
        "logistic growth with saturating harvesting",
        ("c0*x0*(1 - x0/c1) - c2*x0/(c3 + x0)",),
        {"c0": 0.4, "c1": 100.0, "c2": 0.24, "c3": 50.0},
        ((21.1,), (44.1,)),
        "Strogatz, p. 90",
    ),
    19: Record(
        "logistic growth with saturating harvesting, dimensionless",
        ("x0*(1 - x0) - c0*x0/(c1 + x0)",),
        {"c0": 0.08, "c1": 0.8},
        ((0.13,), (0.03,)),
        "Strogatz, p. 90",
    ),
    20: Record(
        "autocatalytic gene switch",
        ("c0 - c1*x0 + x0^2/(1 + x0^2)",),
        {"c0": 0.1, "c1": 0.55},
        ((0.002,), (0.25,)),
        "Strogatz, p. 91",
    ),
    21: Record(
        "reduced SIR, deaths",
        ("c0 - c1*x0 - exp(-x0)",),
        {"c0": 1.2, "c1": 0.2},
        ((0.0,), (0.8,)),
        "Strogatz, p. 92",
    ),
    22: Record(
        "protein expression with Hill feedback",
        ("c0 + c1*x0^5/(c2 + x0^5) - c3*x0",),
        {"c0": 1.4, "c1": 0.4, "c2": 123.0, "c3": 0.89},
        ((3.1,), (6.3,)),
        "Strogatz, p. 93",
    ),
    23: Record(
        "overdamped pendulum with constant torque",
        ("c0 - sin(x0)",),
        {"c0": 0.21},
        ((-2.74,), (1.65,)),
        "Strogatz, p. 104",
    ),
}
"""By the numbers of the benchmark."""
