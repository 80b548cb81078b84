"""Solutions of expressions, stopped where a wrong model would run away or never end.

For the truth behind data and for equations that a method found alike: the expressions are
compiled once into one Python function, which for a few states is much faster than any
function of arrays.

Shapes: a solution is ``(n, d)``, a row for each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

Slope: TypeAlias = Callable[..., Any]
"""``slope(t, *state)`` gives the derivatives as a list."""

BOUND = 1e6
"""Size of a state beyond which a simulation has failed."""


class _Failed(Exception):
    """Leaves the integrator; never seen outside."""


def compile_slope(expressions: Mapping[str, Any], time: str = "t") -> Slope:
    """One function for the right-hand sides of all states.

    Args:
        expressions: from each state's name to the sympy expression of its derivative.
        time: the name of time.
    """
    import sympy

    symbols = [sympy.Symbol(name) for name in (time, *expressions)]
    slope: Slope = sympy.lambdify(symbols, list(expressions.values()), modules="math", cse=True)
    return slope


def simulate(
    slope: Slope,
    start: Any,
    times: np.ndarray,
    *,
    calls: float,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    bound: float = BOUND,
) -> np.ndarray | None:
    """The solution by LSODA, or None where it fails.

    Args:
        slope: what `compile_slope` gave.
        start: the state at ``times[0]``, ``(d,)``.
        times: increasing, ``(n,)``.
        calls: how often the right-hand side may be evaluated.
        rtol: relative tolerance.
        atol: absolute tolerance.
        bound: a state beyond this size, or one that is not finite, is a failure.

    Returns:
        ``(n, d)``, or None.

    Source: L. Petzold, "Automatic selection of methods for solving stiff and nonstiff systems of
        ordinary differential equations", SIAM Journal on Scientific and Statistical Computing
        4(1), 1983, doi:10.1137/0904010.
    """
    from scipy.integrate import solve_ivp

    left = calls

    def right(t: float, y: np.ndarray) -> Any:
        nonlocal left
        left -= 1
        state = y.tolist()
        if left < 0 or not all(-bound <= value <= bound for value in state):
            raise _Failed
        return slope(t, *state)

    try:
        solution = solve_ivp(
            right,
            (times[0], times[-1]),
            np.asarray(start, dtype=np.float64),
            method="LSODA",
            t_eval=times,
            rtol=rtol,
            atol=atol,
        )
    except (_Failed, ArithmeticError, ValueError, TypeError):
        return None  # a power of a negative number is complex, hence the type error
    y = np.ascontiguousarray(solution.y.T)
    whole = solution.success and len(y) == len(times)
    return y if whole and bool((np.abs(y) <= bound).all()) else None


def explained(truth: np.ndarray, found: np.ndarray | None) -> float:
    """R2 with all states together, each about its own mean; minus infinity for a failure."""
    if found is None:
        return float("-inf")
    around = float(((truth - truth.mean(0)) ** 2).sum())
    return 1 - float(((truth - found) ** 2).sum()) / around if around > 0 else float("-inf")
