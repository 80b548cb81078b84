"""Tsitouras 5(4): the default, for tolerances between about 1e-3 and 1e-9.

For rougher answers ``bosh3`` is cheaper, for sharper ones ``dopri8``; a stiff field, where the
step is limited by stability and not by accuracy, needs an implicit method.

The coefficients are given with more digits than a double holds, so that every order condition
is met to rounding. The paper prints its dense output in factored form with 16 to 18 digits; here
it stands in powers of ``x``, with the digits that the order conditions fix.

The error weights are ``b`` minus the embedded weights, so that the last one is -1/66. Printed lists
differ in its sign; their sum, which must vanish, decides.

Source: Ch. Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column
    simplifying assumption", Computers & Mathematics with Applications 62(2), 2011, pp. 770-775,
    doi:10.1016/j.camwa.2011.06.002; further digits after OrdinaryDiffEq.jl.
"""

from __future__ import annotations

from typing import final

from odekit import ButcherTableau
from odekit_rk.explicit import ExplicitRungeKutta

_WEIGHTS = (
    0.09646076681806522952,
    0.01,
    0.47988965041449957475,
    1.3790085741037418932,
    -3.2900695154360806799,
    2.3247105240997739824,
)


@final
class Tsit5(ExplicitRungeKutta):
    """Tsitouras 5(4): seven stages, six evaluations per accepted step."""

    order = 5
    tableau = ButcherTableau(
        order=5,
        c=(0, 0.161, 0.327, 0.9, 0.98002554090450968573, 1, 1),
        a=(
            (),
            (0.161,),
            (-0.0084806554923569885444, 0.33548065549235698854),
            (2.8971530571054934321, -6.3594484899750748431, 4.3622954328695814110),
            (
                5.3258648284392566044,
                -11.748883564062827878,
                7.4955393428898362083,
                -0.092495066361755249257,
            ),
            (
                5.8614554429464200287,
                -12.920969317847109292,
                8.1593678985761586432,
                -0.071584973281400997225,
                -0.028269050394068382909,
            ),
            _WEIGHTS,
        ),
        b=(*_WEIGHTS, 0),
        e=(
            0.0017800110522257714434,
            0.00081643445965674690324,
            -0.0078808780102619960103,
            0.14471100717326290754,
            -0.58235716545255522502,
            0.45808210592918694662,
            -1 / 66,
        ),
        dense=(
            (1, -2.7637061972748258687, 2.9132554618219126554, -1.0530884977290215572),
            (0, 0.1317, -0.2234, 0.1017),
            (0, 3.9302962368947515174, -5.9410338721315047357, 2.4906272856512527931),
            (0, -12.411077166933677039, 30.338188630282321650, -16.548102889244902718),
            (0, 37.509313416511039179, -88.178904894766401078, 47.379521962819281219),
            (0, -27.896526289197287789, 65.091894674793671508, -34.870657861496609736),
            (0, 1.5, -4, 2.5),
        ),
        dense_order=4,
    )
