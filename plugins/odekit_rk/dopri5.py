"""Dormand-Prince 5(4): the pair behind MATLAB's ``ode45`` and SciPy's ``RK45``.

To agree with other codes step by step; for new work ``tsit5`` is a little more accurate at the
same price, and below a tolerance of about 1e-9 ``dopri8`` needs fewer evaluations.

The error weights are those of the original pair, whose last one is 1/40 and whose embedded
formula has order four. ``torchdiffeq`` and ``diffrax`` subtract another fourth-order formula,
due to Shampine, whose last weight is 1/60; their step sizes therefore differ from these.

Source: J. R. Dormand and P. J. Prince, "A family of embedded Runge-Kutta formulae", Journal of
    Computational and Applied Mathematics 6(1), 1980, pp. 19-26,
    doi:10.1016/0771-050X(80)90013-3 (pair); L. F. Shampine, "Some practical Runge-Kutta
    formulas", Mathematics of Computation 46, 1986, pp. 135-150,
    doi:10.1090/S0025-5718-1986-0815836-3 (dense output, expanded here in powers of ``x``).
"""

from __future__ import annotations

from typing import final

from odekit import ButcherTableau
from odekit_rk.explicit import ExplicitRungeKutta


@final
class Dopri5(ExplicitRungeKutta):
    """Dormand-Prince 5(4): seven stages, six evaluations per accepted step."""

    order = 5
    tableau = ButcherTableau(
        order=5,
        c=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        b=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
        e=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        dense=(
            (
                1,
                -8048581381 / 2820520608,
                8663915743 / 2820520608,
                -12715105075 / 11282082432,
            ),
            (0, 0, 0, 0),
            (
                0,
                131558114200 / 32700410799,
                -68118460800 / 10900136933,
                87487479700 / 32700410799,
            ),
            (
                0,
                -1754552775 / 470086768,
                14199869525 / 1410260304,
                -10690763975 / 1880347072,
            ),
            (
                0,
                127303824393 / 49829197408,
                -318862633887 / 49829197408,
                701980252875 / 199316789632,
            ),
            (
                0,
                -282668133 / 205662961,
                2019193451 / 616988883,
                -1453857185 / 822651844,
            ),
            (0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
        ),
        dense_order=4,
    )
