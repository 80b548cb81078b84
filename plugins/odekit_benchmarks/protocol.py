"""From a case to what a method sees: the truth, some of it dropped at random, and noise.

One trajectory trains from the first start and is tested from the other one. Two trajectories
train from both starts, and the test starts midway between them.

Each trajectory has a generator of its own, and the same arguments give the same numbers. With
``s`` the seed of the run, ``ic`` the number of the start and ``b`` that of the case:

    additive        default_rng(s) for the first start, default_rng([s, ic]) for the second
    multiplicative  default_rng(b + ic + int(1e6 level)) for s = 0, else that number and s

Shapes: ``n`` times before the drop, ``d`` states.
Units: those of the system; a level is a fraction, 0.05 for 5 %.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from odekit import ProblemError, TimeSeries
from odekit_benchmarks.simulation import compile_slope, simulate
from odekit_benchmarks.suites import Case, Start

PATIENCE = 1_000_000
"""Evaluations of a true right-hand side, which no case comes near."""

FAR = 1e12
"""Size of a true state, which no case comes near."""


@dataclass(frozen=True)
class Truth:
    """What is known about a case and no method sees.

    Attributes:
        right: from each state to the sympy expression of its derivative.
        times: equidistant, ``(n,)``.
        starts: those trained on.
        clean: the solutions from them, ``(n, d)`` each.
        other: the start of the test, None where there is none.
        beyond: the solution from there, ``(n, d)``.
    """

    right: dict[str, Any]
    times: np.ndarray
    starts: tuple[Start, ...]
    clean: tuple[np.ndarray, ...]
    other: Start | None
    beyond: np.ndarray | None


@functools.lru_cache(maxsize=128)
def truth(case: Case, trajectories: int = 1) -> Truth:
    """Solve a case accurately from its starts.

    Args:
        case: the system and how it is observed.
        trajectories: 1 or 2, how many to train on.

    Raises:
        ProblemError: too few starts, or a solution that does not reach the end of the span.
    """
    if len(case.starts) < trajectories:
        raise ProblemError(
            f"{case.name} has one start: two trajectories need a system with two, or run it "
            "with trajectories = 1"
        )
    system = case.system()
    right = system.sympy()
    slope = compile_slope(right)
    first, last = system.span
    times = np.linspace(float(first), float(last), case.points)

    def solve(start: Start) -> np.ndarray | None:
        return simulate(
            slope, start, times, calls=PATIENCE, rtol=case.rtol, atol=case.atol, bound=FAR
        )

    train = case.starts[:trajectories]
    clean = [solve(start) for start in train]
    if any(y is None for y in clean):
        raise ProblemError(f"the solution of {case.name} does not reach t = {times[-1]:g}")
    other = _other(case, trajectories)
    return Truth(
        right,
        times,
        train,
        tuple(y for y in clean if y is not None),
        other,
        None if other is None else solve(other),
    )


def _other(case: Case, trajectories: int) -> Start | None:
    if trajectories == 2:
        first, second = case.starts[:2]
        return tuple((a + b) / 2 for a, b in zip(first, second, strict=True))
    return case.starts[1] if len(case.starts) > 1 else None


def observe(
    case: Case, level: float, drop: float, seed: int, trajectories: int = 1
) -> list[TimeSeries]:
    """The data that a method is given, one series for each start.

    Args:
        case: the system and how it is observed.
        level: of the noise, as a fraction.
        drop: fraction of the points that are taken out, end points not excepted.
        seed: of the run.
        trajectories: 1 or 2.

    Raises:
        ProblemError: fewer than two points are left, or as `truth`.
    """
    known = truth(case, trajectories)
    kept = case.points - int(drop * case.points)
    if not 0 <= drop < 1 or kept < 2:
        raise ProblemError(f"drop = {drop:g} leaves {kept} of {case.points} points: lower it")
    found = []
    for ic, clean in enumerate(known.clean):
        rng = generator(case, level, seed, ic)
        keep = np.sort(rng.permutation(case.points)[:kept])
        y = corrupt(clean, keep, level, case.noise, rng)
        found.append(TimeSeries(known.times[keep], y, names=list(known.right)))
    return found


def generator(case: Case, level: float, seed: int, ic: int) -> np.random.Generator:
    """The generator of one trajectory, fresh."""
    if case.noise == "additive":
        return np.random.default_rng(seed if ic == 0 else [seed, ic])
    number = case.seed + ic + int(level * 1e6)
    return np.random.default_rng(number if seed == 0 else [number, seed])


def corrupt(
    clean: np.ndarray, keep: np.ndarray, level: float, noise: str, rng: np.random.Generator
) -> np.ndarray:
    """The kept rows with noise, ``(kept, d)``.

    Args:
        clean: the solution, ``(n, d)``.
        keep: the rows that are kept.
        level: standard deviation of the noise, as a fraction of each state's standard deviation
            over all ``n`` points where it is additive, and of the value where multiplicative.
        noise: ``"additive"`` or ``"multiplicative"``.
        rng: the generator, from which the drop was drawn first.
    """
    rows = clean[keep]
    drawn = rng.standard_normal(rows.shape)
    if noise == "additive":
        return np.asarray(rows + level * clean.std(axis=0) * drawn)
    return np.asarray(rows * (1 + level * drawn))
