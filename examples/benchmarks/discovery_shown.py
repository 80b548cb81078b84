"""How often `odekit.discover` finds the exact structure of fifteen known systems.

Protocol: solve tightly on equidistant times, drop half of the points at random, add normal noise
in proportion to each state's standard deviation, discover with default settings. A structure is
exact when the terms that contribute at least 0.1 % of the largest one in their equation are the
true ones, in every equation; the coefficient error is the relative Frobenius norm, its median
taken over all systems.

Run: ``python examples/benchmarks/discovery_shown.py --levels 0.01 0.05 --seeds 0``
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import sympy
from scipy.integrate import solve_ivp

import odekit


@dataclass(frozen=True)
class System:
    """Right-hand sides, end of the time interval, points before dropping, start."""

    equations: tuple[str, ...]
    end: float
    points: int
    start: tuple[float, ...]


SYSTEMS = {
    "logistic": System(("0.8*x0-0.1067*x0**2",), 10, 150, (0.3,)),
    "allee": System(("-0.5*x0+0.6*x0**2-0.1*x0**3",), 10, 150, (1.35,)),
    "damped_osc": System(("x1", "-4.5*x0-0.43*x1"), 10, 150, (1.2, 0.4)),
    "lotka_volterra": System(("1.5*x0-1.0*x0*x1", "-3.0*x1+1.0*x0*x1"), 10, 150, (5.0, 2.0)),
    "van_der_pol": System(("x1", "-x0+1.2*x1-1.2*x0**2*x1"), 20, 150, (2.2, 0.0)),
    "fitzhugh_nagumo": System(
        ("0.5+x0-0.333333*x0**3-x1", "0.056+0.08*x0-0.064*x1"), 80, 150, (-1.0, 1.0)
    ),
    "pendulum": System(("x1", "-2.0*sin(x0)-0.25*x1"), 15, 150, (2.5, 0.0)),
    "lorenz": System(
        ("-10.0*x0+10.0*x1", "28.0*x0-x1-x0*x2", "-2.6666667*x2+x0*x1"),
        8,
        400,
        (-8.0, 8.0, 27.0),
    ),
    "rossler": System(("-x1-x2", "x0+0.2*x1", "0.2-5.7*x2+x0*x2"), 40, 400, (2.3, 1.1, 0.8)),
    "sir": System(("-0.9*x0*x1", "0.9*x0*x1-0.3*x1"), 25, 150, (0.98, 0.02)),
    "selkov": System(("-x0+0.08*x1+x0**2*x1", "0.6-0.08*x1-x0**2*x1"), 30, 150, (0.7, 1.4)),
    "duffing": System(("x1", "x0-0.18*x1-x0**3"), 20, 150, (-1.8, -1.8)),
    "cubic_osc": System(("-0.1*x0**3+2.0*x1**3", "-2.0*x0**3-0.1*x1**3"), 20, 150, (2.0, 0.0)),
    "brusselator": System(("1.0-4.0*x0+x0**2*x1", "3.0*x0-x0**2*x1"), 20, 150, (0.7, 1.5)),
    "may_leonard": System(
        (
            "x0-x0**2-0.8*x0*x1-1.3*x0*x2",
            "x1-1.3*x0*x1-x1**2-0.8*x1*x2",
            "x2-0.8*x0*x2-1.3*x1*x2-x2**2",
        ),
        40,
        200,
        (0.6, 0.1, 0.05),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.01, 0.05, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--drop", type=float, default=0.5)
    arguments = parser.parse_args()
    for level in arguments.levels:
        for seed in arguments.seeds:
            rows = [run(name, level, seed, arguments.drop) for name in arguments.systems]
            exact = sum(row[0] for row in rows)
            sure = [row for row in rows if row[2]]
            print(
                f"noise {100 * level:g} %, seed {seed}: exact {exact}/{len(rows)}, "
                f"median coefficient error {np.median([row[1] for row in rows]):.4f}, "
                f"confident {len(sure)} of which exact {sum(row[0] for row in sure)}, "
                f"median {np.median([row[3] for row in rows]):.1f} s of CPU, "
                f"total {sum(row[3] for row in rows):.0f} s\n",
                flush=True,
            )


def run(name: str, level: float, seed: int, drop: float) -> tuple[bool, float, bool, float]:
    """One discovery: exact or not, coefficient error, confident or not, CPU seconds."""
    system = SYSTEMS[name]
    clean, series = observe(system, level, seed, drop)
    start = time.process_time()
    equations = odekit.discover(series)
    seconds = time.process_time() - start
    exact, error = compare(system, clean, equations)
    mark = "exact" if exact else "     "
    sure = "confident" if equations.confident else ""
    print(f"{name:16s} {mark} error {error:8.4f} {seconds:6.1f} s {sure:9s} {equations!r}")
    return exact, error, equations.confident, seconds


def observe(
    system: System, level: float, seed: int, drop: float
) -> tuple[np.ndarray, odekit.TimeSeries]:
    """The clean states ``(n, d)``, and the series that is left after dropping and noise."""
    symbols = sympy.symbols(f"x0:{len(system.equations)}")
    right = sympy.lambdify(symbols, [sympy.sympify(e) for e in system.equations], "numpy")
    t = np.linspace(0, system.end, system.points)
    solved = solve_ivp(
        lambda _, x: right(*x),
        (0, system.end),
        system.start,
        method="LSODA",
        t_eval=t,
        rtol=1e-10,
        atol=1e-12,
    )
    clean = solved.y.T
    generator = np.random.default_rng(seed)
    kept = np.sort(generator.permutation(len(t))[: len(t) - int(drop * len(t))])
    noise = level * clean.std(0) * generator.standard_normal((len(kept), clean.shape[1]))
    return clean, odekit.TimeSeries(t[kept], clean[kept] + noise)


def compare(system: System, clean: np.ndarray, equations: odekit.Equations) -> tuple[bool, float]:
    """Whether the structure is the true one, and the coefficients' relative error."""
    symbols = sympy.symbols(equations.names)
    exact, wrong, size = True, 0.0, 0.0
    for name, text in zip(equations.names, system.equations, strict=True):
        truth = sympy.expand(sympy.sympify(text)).as_coefficients_dict()
        found = {
            sympy.sympify(term.term): term.value
            for term in equations.terms
            if term.equation == name
        }
        share = {}
        for term, value in found.items():
            column = sympy.lambdify(symbols, term, "numpy")(*clean.T) * np.ones(len(clean))
            share[term] = abs(value) * float(np.sqrt((column**2).mean()))
        counted = {term for term, a in share.items() if a >= 1e-3 * max(share.values())}
        exact &= counted == set(truth)
        for term in set(truth) | set(found):
            wrong += (float(truth.get(term, 0.0)) - found.get(term, 0.0)) ** 2
            size += float(truth.get(term, 0.0)) ** 2
    return exact, float(np.sqrt(wrong / size))


if __name__ == "__main__":
    main()
