"""The ladder of libraries that a search climbs, smallest first.

Shapes: ``d`` states. Units: the libraries' variables are scaled; ``scale`` and ``ranges`` are in
    the caller's units.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from odekit.errors import ProblemError
from odekit_sindy.library import Library
from odekit_sindy.rational import Rational

FLAT, STEEP = 0.5, 25.0
"""Range of a state within which its exponential is neither a polynomial nor a spike."""

MOST_STATES = 2
"""States up to which products of waves, four times their number squared, are tried."""


def ladder(
    dim: int,
    inputs: int,
    scale: np.ndarray,
    library: str = "auto",
    degree: int | None = None,
    ranges: np.ndarray | None = None,
) -> list[Library]:
    """The libraries to try, smallest first.

    Args:
        dim: number of states.
        inputs: number of inputs.
        scale: the states' units, ``(dim,)``.
        library: ``"auto"`` (polynomials of rising degree, then sine and cosine, exponentials, for
            one or two states products of waves, and fractions, all these unless a degree is asked
            for), ``"polynomial"`` (the same without these), ``"trig"``, ``"exp"`` or
            ``"rational"`` (one library with waves, with exponentials, or with fractions).
        degree: highest degree; 3 by default.
        ranges: lowest and highest value of each state in the caller's unit, ``(dim, 2)``; only
            states that move neither little nor very much get exponentials, and none without it.

    Raises:
        ProblemError: ``"exp"`` where no state is fit for it.
    """
    top = 3 if degree is None else degree
    waves = Library(dim, top, trig=True, inputs=inputs, scale=scale)
    if library == "trig":
        return [waves]
    rows = exponentials(ranges)
    growth = Library(dim, top, inputs=inputs, scale=scale, exponentials=rows)
    if library == "exp":
        if not rows:
            raise ProblemError(
                f"library='exp': no state varies by {FLAT:g} to {STEEP:g} of its unit, where its "
                "exponential is neither a polynomial nor a spike: rescale the states, or give "
                "terms=['exp(x/scale)']"
            )
        return [growth]
    most = max(top, 2) if dim <= 2 or degree is not None else 2
    fractions = Rational.of(Library(dim, most, inputs=inputs, scale=scale))
    if library == "rational":
        return [fractions]
    rungs = [Library(dim, p, inputs=inputs, scale=scale) for p in range(1, top + 1)]
    if library != "auto" or degree is not None:
        return rungs
    rungs += [waves, growth] if rows else [waves]
    return [*rungs, *([replace(waves, products=True)] * (dim <= MOST_STATES)), fractions]


def exponentials(ranges: np.ndarray | None) -> tuple[tuple[int, float, float], ...]:
    """The states whose exponentials are worth a try, with their ranges."""
    if ranges is None:
        return ()
    return tuple(
        (j, float(low), float(high))
        for j, (low, high) in enumerate(ranges)
        if FLAT <= high - low <= STEEP and max(abs(low), abs(high)) < 300
    )
