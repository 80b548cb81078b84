"""Suites and protocol: the right systems, the right points, the right noise."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

import odekit
from odekit import ProblemError
from odekit_benchmarks.protocol import observe, truth
from odekit_benchmarks.structure import decompose, representable
from odekit_benchmarks.suites import SHOWN, Case, cases

# The shown systems a second time: right-hand sides in x0, x1, ..., end of the span, points, starts.
EXPECTED = {
    "logistic": (["0.8*x0-0.1067*x0**2"], 10, 150, [[0.3], [12.0]]),
    "allee": (["-0.5*x0+0.6*x0**2-0.1*x0**3"], 10, 150, [[1.35], [6.0]]),
    "damped_oscillator": (["x1", "-4.5*x0-0.43*x1"], 10, 150, [[1.2, 0.4], [-0.5, 2.0]]),
    "lotka_volterra": (["1.5*x0-x0*x1", "-3.0*x1+x0*x1"], 10, 150, [[5.0, 2.0], [2.0, 3.0]]),
    "van_der_pol": (["x1", "-x0+1.2*x1-1.2*x0**2*x1"], 20, 150, [[2.2, 0.0], [0.3, 3.0]]),
    "fitzhugh_nagumo": (
        ["0.5+x0-0.333333*x0**3-x1", "0.056+0.08*x0-0.064*x1"],
        80,
        150,
        [[-1.0, 1.0], [1.5, -0.5]],
    ),
    "damped_pendulum": (["x1", "-2.0*sin(x0)-0.25*x1"], 15, 150, [[2.5, 0.0], [-1.5, 1.0]]),
    "lorenz": (
        ["-10*x0+10*x1", "28*x0-x1-x0*x2", "-2.6666667*x2+x0*x1"],
        8,
        400,
        [[-8.0, 8.0, 27.0], [5.0, 10.0, 15.0]],
    ),
    "rossler": (
        ["-x1-x2", "x0+0.2*x1", "0.2-5.7*x2+x0*x2"],
        40,
        400,
        [[2.3, 1.1, 0.8], [-0.1, 4.1, -2.1]],
    ),
    "sir": (["-0.9*x0*x1", "0.9*x0*x1-0.3*x1"], 25, 150, [[0.98, 0.02], [0.8, 0.1]]),
    "selkov": (["-x0+0.08*x1+x0**2*x1", "0.6-0.08*x1-x0**2*x1"], 30, 150, [[0.7, 1.4], [1.2, 0.8]]),
    "duffing": (["x1", "x0-0.18*x1-x0**3"], 20, 150, [[-1.8, -1.8], [2.0, 0.5]]),
    "spiral": (["-0.1*x0**3+2*x1**3", "-2*x0**3-0.1*x1**3"], 20, 150, [[2.0, 0.0], [0.0, 1.5]]),
    "brusselator": (["1-4*x0+x0**2*x1", "3*x0-x0**2*x1"], 20, 150, [[0.7, 1.5], [2.1, 1.3]]),
    "may_leonard": (
        [
            "x0-x0**2-0.8*x0*x1-1.3*x0*x2",
            "x1-1.3*x0*x1-x1**2-0.8*x1*x2",
            "x2-0.8*x0*x2-1.3*x1*x2-x2**2",
        ],
        40,
        200,
        [[0.6, 0.1, 0.05], [0.1, 0.5, 0.3]],
    ),
}


def test_the_shown_suite_is_the_fifteen_systems():
    assert [case.name for case in SHOWN] == list(EXPECTED)
    assert cases(["shown"]) == list(SHOWN)


@pytest.mark.parametrize("case", SHOWN, ids=lambda case: case.name)
def test_shown_systems_have_their_equations_spans_and_starts(case):
    right, end, points, starts = EXPECTED[case.name]
    system = case.system()
    symbols = {sympy.Symbol(name): sympy.Symbol(f"x{i}") for i, name in enumerate(system.names)}
    for found, text in zip(system.sympy().values(), right, strict=True):
        difference = sympy.expand(found.subs(symbols, simultaneous=True) - sympy.sympify(text))
        values = difference.as_coefficients_dict().values()
        assert all(abs(float(value)) < 1e-12 for value in values)
    assert (system.span, case.points) == ((0.0, float(end)), points)
    assert [list(start) for start in case.starts] == starts
    assert case.noise == "additive"


def test_odebench_is_whole_and_in_order():
    found = cases(["odebench"])
    assert [case.name for case in found] == [f"odebench_{number}" for number in range(1, 64)]
    assert {(case.points, case.noise, len(case.starts)) for case in found} == {
        (150, "multiplicative", 2)
    }
    kinds = [
        representable(decompose(system.sympy()), system.names)
        for system in (case.system() for case in found)
    ]
    assert sum(polynomial for polynomial, _ in kinds) == 35
    # 23, 28 and 43 have a sine, the others products of waves, such as sin(x - y).
    numbers = [i for i, (polynomial, offered) in enumerate(kinds, 1) if offered and not polynomial]
    assert numbers == [13, 23, 28, 34, 36, 43, 46, 51]


def test_names_are_mixed_and_taken_once():
    found = cases(["lorenz", "shown", "odebench_5", "kepler"])
    assert [case.name for case in found[:2]] == ["lorenz", "logistic"]
    assert len(found) == 17
    assert dict(found[0].options) == {"beta": 2.6666667}
    kepler = found[-1]
    assert (kepler.points, kepler.noise, kepler.options) == (150, "additive", ())
    assert kepler.starts == tuple(map(tuple, odekit.create("system", "kepler").starts))


@pytest.mark.parametrize(
    ("names", "message"),
    [(["lorentz"], r"did you mean 'lorenz'\?.*the suites are shown and odebench"), ([], "suite")],
)
def test_unknown_names_are_refused(names, message):
    with pytest.raises(ProblemError, match=message):
        cases(names)


def test_additive_noise_follows_the_protocol():
    [case] = cases(["brusselator"])
    series = observe(case, 0.1, 0.3, seed=5)[0]
    same = case.system().series(n=150, noise=0.1, drop=0.3, seed=5)
    assert len(series) == 105
    np.testing.assert_array_equal(series.t, same.t)
    np.testing.assert_allclose(series.y, same.y, rtol=0, atol=1e-6)  # two integrators
    assert series.names == ("x", "y")


def test_multiplicative_noise_follows_the_protocol():
    [case] = cases(["odebench_24"])  # x0'' = -2.1 x0
    w, t = np.sqrt(2.1), np.linspace(0, 10, 150)
    for seed in (0, 3):
        for ic, (a, b) in enumerate([(0.4, -0.03), (0.0, 0.2)]):
            number = 24000 + ic + 50000
            rng = np.random.default_rng(number if seed == 0 else [number, seed])
            keep = np.sort(rng.permutation(150)[: 150 - int(0.5 * 150)])
            x = a * np.cos(w * t) + b / w * np.sin(w * t)
            v = b * np.cos(w * t) - a * w * np.sin(w * t)
            clean = np.stack([x, v], axis=1)[keep]
            y = clean * (1 + 0.05 * rng.standard_normal((75, 2)))
            series = observe(case, 0.05, 0.5, seed, trajectories=2)[ic]
            np.testing.assert_array_equal(series.t, t[keep])
            np.testing.assert_allclose(series.y, y, rtol=0, atol=1e-7)


def test_each_trajectory_has_a_generator_of_its_own():
    [case] = cases(["brusselator"])
    first, second = observe(case, 0.05, 0.5, seed=0, trajectories=2)
    assert np.array_equal(first.t, observe(case, 0.05, 0.5, seed=0)[0].t)
    assert not np.array_equal(first.t, second.t)


def test_one_trajectory_is_tested_from_the_other_start_and_two_from_midway():
    [case] = cases(["damped_oscillator"])
    one, two = truth(case), truth(case, 2)
    assert (one.starts, one.other) == (((1.2, 0.4),), (-0.5, 2.0))
    assert two.starts == ((1.2, 0.4), (-0.5, 2.0))
    assert two.other == pytest.approx((0.35, 1.2))
    assert two.beyond[0] == pytest.approx([0.35, 1.2])
    # The oscillator is linear: midway between two starts runs midway between two solutions.
    np.testing.assert_allclose(two.beyond, (two.clean[0] + two.clean[1]) / 2, atol=1e-8)


def test_what_cannot_be_observed_is_refused():
    with pytest.raises(ProblemError, match="has one start"):
        truth(Case("logistic", starts=((0.3,),)), 2)
    with pytest.raises(ProblemError, match="does not reach t = 10"):
        truth(Case("logistic", starts=((-1.0,),)))
    with pytest.raises(ProblemError, match=r"drop = 0.99 leaves 1 of 100 points"):
        observe(Case("logistic", points=100, starts=((0.3,),)), 0.0, 0.99, 0)
