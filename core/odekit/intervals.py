"""How many standard errors a 95 % interval reaches to each side.

Where the noise level is estimated from the same residuals as the numbers, an error over its
standard error follows Student's t and not the normal distribution: 2.45 standard errors to each
side with six degrees of freedom, 1.96 with many.

Source: Student, "The probable error of a mean", Biometrika 6(1), 1908, doi:10.2307/2331554; for
    nonlinear least squares, D. M. Bates, D. G. Watts, "Nonlinear Regression Analysis and Its
    Applications", Wiley 1988, chapter 2.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from odekit.errors import ProblemError

CONFIDENCE = 0.95


def half_width(degrees_of_freedom: float | None = None) -> float:
    """Half the width of the two-sided 95 % interval, in standard errors.

    Args:
        degrees_of_freedom: of the residuals that the noise level was estimated from; None for so
            many that the normal distribution serves, or for a noise level that was given.

    Raises:
        ProblemError: no number above 0.

    Example:
        >>> round(half_width(), 3), round(half_width(6), 3)
        (1.96, 2.447)
    """
    from scipy.special import ndtri, stdtrit

    free, share = checked(degrees_of_freedom), 0.5 + 0.5 * CONFIDENCE
    return float(ndtri(share) if free is None else stdtrit(free, share))


def checked(degrees_of_freedom: Any) -> float | None:
    """The degrees of freedom as a number, or None for many.

    Raises:
        ProblemError: no finite number above 0.
    """
    if degrees_of_freedom is None:
        return None
    number = isinstance(degrees_of_freedom, Real) and not isinstance(degrees_of_freedom, bool)
    if not number or not 0 < degrees_of_freedom < math.inf:
        raise ProblemError(
            f"degrees_of_freedom must be a finite number above 0, got {degrees_of_freedom!r}: "
            "write None where there are many"
        )
    return float(degrees_of_freedom)
