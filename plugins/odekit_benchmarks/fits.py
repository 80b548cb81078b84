"""One fit of a benchmark: a case, a method, a noise level and a seed in, a row out.

A row is plain JSON and holds everything that the table is made of. What goes wrong in a method
becomes the row's ``failure``; what is not finite is null. ``seconds``, of processor time, is the
only entry that differs from run to run, as long as no search is cut short by its time limit.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from odekit import ProblemError
from odekit.many import pinned
from odekit_benchmarks.methods import Method, chosen
from odekit_benchmarks.protocol import Truth, observe, truth
from odekit_benchmarks.simulation import compile_slope, explained, simulate
from odekit_benchmarks.structure import Terms, compare, covered, decompose, representable
from odekit_benchmarks.suites import Case

if TYPE_CHECKING:
    from odekit import Equations

SUCCESS = 0.9
"""R2 above which a simulation is a success."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What one row is about.

    Attributes:
        case: the system and how it is observed.
        method: name of the method.
        noise: level, as a fraction.
        drop: fraction of the points that is taken out.
        seed: of the run.
        trajectories: 1 or 2.
        time_limit: seconds after which the method begins nothing new, where it knows of one.
    """

    case: Case
    method: str
    noise: float
    drop: float
    seed: int
    trajectories: int
    time_limit: float

    @property
    def key(self) -> Row:
        """The entries of the row that tell it from others."""
        return {
            "system": self.case.name,
            "method": self.method,
            "noise": self.noise,
            "drop": self.drop,
            "seed": self.seed,
            "trajectories": self.trajectories,
            "time_limit": self.time_limit,
        }


def run(task: Task) -> Row:
    """Observe, fit, and judge; what goes wrong is the row's ``failure``.

    All of it on one thread of linear algebra, so that a row is the same wherever it was made.
    """
    with pinned():
        return _run(task)


def _run(task: Task) -> Row:
    try:
        known = truth(task.case, task.trajectories)
        series = observe(task.case, task.noise, task.drop, task.seed, task.trajectories)
    except ProblemError as error:
        unknown = {"states": 0, "rows": [], "polynomial": False, "representable": False}
        return {**task.key, **unknown, **failed(error, gen=None), "seconds": 0.0}
    terms = decompose(known.right)
    polynomial, offered = representable(terms, list(known.right))
    row: Row = {
        **task.key,
        "states": len(known.right),
        "rows": [len(one) for one in series],
        "polynomial": polynomial,
        "representable": offered,
    }
    [method] = chosen([task.method])
    import pysindy  # noqa: F401 - its import shall not count as anyone's time

    with _silent():
        began = time.process_time()
        seconds = None
        try:
            equations = method.fit(series, task.time_limit)
            seconds = time.process_time() - began
            row |= judge(equations, method, known, terms)
        except Exception as error:
            row |= failed(error, gen=None if known.beyond is None else False)
        row["seconds"] = time.process_time() - began if seconds is None else seconds
    return {name: _plain(value) for name, value in row.items()}


def failed(error: Exception, gen: bool | None) -> Row:
    """The judgement where there are no equations, or none that can be judged."""
    return {
        "failure": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
        "equations": None,
        "exact": False,
        "missing": [],
        "extra": [],
        "error": None,
        "r2_rec": None,
        "r2_gen": None,
        "rec": False,
        "gen": gen,
        "covered": 0,
        "intervals": 0,
        "confident": None,
        "warnings": [],
    }


def judge(equations: Equations, method: Method, known: Truth, terms: Terms) -> Row:
    """Structure, coefficients, simulations and error bars against the truth.

    ``rec`` is the simulation from the training starts, by the least R2 where there are two, and
    ``gen`` from the other start; None where that leads nowhere.
    """
    states = list(known.right)
    times = np.tile(known.times, len(known.clean))
    found = decompose(equations.sympy())
    compared = compare(terms, found, states, times, np.concatenate(known.clean))
    slope = compile_slope(equations.sympy(), equations.time)
    scores = [
        explained(clean, simulate(slope, start, known.times, calls=method.calls))
        for start, clean in zip(known.starts, known.clean, strict=True)
    ]
    beyond = None
    if known.beyond is not None:
        beyond = explained(
            known.beyond, simulate(slope, known.other, known.times, calls=method.calls)
        )
    inside, count = covered(terms, equations) if method.intervals else (0, 0)
    return {
        "failure": None,
        "equations": str(equations),
        "exact": compared.exact,
        "missing": compared.missing,
        "extra": compared.extra,
        "error": compared.error,
        "r2_rec": min(scores),
        "r2_gen": beyond,
        "rec": min(scores) > SUCCESS,
        "gen": None if beyond is None else beyond > SUCCESS,
        "covered": inside,
        "intervals": count,
        "confident": equations.confident if method.intervals else None,
        "warnings": equations.warnings,
    }


@contextmanager
def _silent() -> Iterator[None]:
    """No warnings, which are the method's own affair."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _plain(value: Any) -> Any:
    """The value with infinities and NaN replaced by None, as JSON wants it."""
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
