"""Structure, coefficients, intervals and simulations, judged on equations made by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy

from odekit import Equations, Term
from odekit_benchmarks.fits import Task, judge, run
from odekit_benchmarks.methods import METHODS, chosen, read
from odekit_benchmarks.protocol import truth
from odekit_benchmarks.simulation import compile_slope, explained, simulate
from odekit_benchmarks.structure import compare, covered, decompose, representable
from odekit_benchmarks.suites import cases

X, Y = sympy.symbols("x y")
TIMES = np.linspace(0, 1, 4)
POINTS = np.array([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]])  # rms 1 and 2


def compared(true, found):
    return compare(decompose(true), decompose(found), ["x", "y"], TIMES, POINTS)


def test_terms_are_those_of_the_product_multiplied_out():
    found = decompose({"x": X * (1.5 - 2 * Y) - 0.0 * Y, "y": (X + 1) ** 2})
    assert found == {
        ("x", X): 1.5,
        ("x", X * Y): -2.0,
        ("y", X**2): 1.0,
        ("y", X): 2.0,
        ("y", sympy.S.One): 1.0,
    }


def test_exact_is_about_terms_and_not_about_values():
    true = {"x": 1.5 * X - X * Y, "y": -3 * Y}
    result = compared(true, {"x": 1.2 * X - 2 * X * Y, "y": -0.1 * Y})
    assert result.exact
    assert (result.missing, result.extra) == ([], [])
    assert result.error == pytest.approx(math.sqrt((0.09 + 1 + 8.41) / (2.25 + 1 + 9)))


def test_the_error_is_the_same_in_whatever_order_the_terms_are_summed():
    # Sets have another order in every process; sums of exact fractions have no order.
    random = np.random.default_rng(0)
    keys = [("x", X**i * Y**j) for i in range(4) for j in range(3)]
    for _ in range(20):
        true, found = ({key: float(v) for key in keys for v in random.normal(size=1)} for _ in "ab")
        wrong = sum(Fraction((true[key] - found[key]) ** 2) for key in keys)
        size = sum(Fraction(value**2) for value in true.values())
        result = compare(true, found, ["x", "y"], TIMES, POINTS)
        assert result.error == math.sqrt(float(wrong) / float(size))


@pytest.mark.parametrize(("value", "exact"), [(0.0019, True), (0.0021, False)])
def test_a_false_term_counts_from_a_thousandth_on(value, exact):
    # y contributes twice its coefficient, x*y as well: 4 in all for the largest.
    true = {"x": 2 * X * Y, "y": -3 * Y}
    result = compared(true, {"x": 2 * X * Y + value * Y, "y": -3 * Y})
    assert result.exact is exact
    assert result.extra == ([] if exact else ["x: y"])


def test_a_true_term_counts_however_small():
    true = {"x": X + 1e-6 * Y, "y": -Y}
    missing = compared(true, {"x": X, "y": -Y})
    assert not missing.exact
    assert missing.missing == ["x: y"]
    assert not compared(true, true).exact  # found terms must count by themselves


def test_an_equation_without_terms_misses_all():
    result = compared({"x": -X, "y": -Y}, {"x": -X, "y": sympy.S.Zero})
    assert (result.exact, result.missing) == (False, ["y: y"])
    assert result.error == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("expression", "polynomial", "offered"),
    [
        (X**2 * Y - 1, True, True),
        (X**2 * Y**2, False, False),
        (sympy.sin(X) - Y, False, True),
        (sympy.sin(X) * sympy.cos(X), False, True),
        (sympy.sin(2 * X), False, True),
        (sympy.cos(X - 2.0 * Y + 0.3), False, False),  # has sin(y)**2*cos(x)
        (sympy.cos(X - Y + 0.3), False, True),
        (Y * sympy.cos(X), False, True),
        (Y**2 * sympy.cos(X), False, False),
        (sympy.sin(X) * sympy.cos(X) * sympy.cos(Y), False, False),
        (1 / (1 + X), False, False),
        (X * sympy.Symbol("t"), False, False),
        (sympy.Abs(X, evaluate=False) * X, False, False),
    ],
)
def test_what_is_representable_follows_from_the_truth(expression, polynomial, offered):
    found = representable(decompose({"x": expression, "y": -Y}), ["x", "y"])
    assert found == (polynomial, offered)


def test_waves_of_sums_are_their_products():
    true = {"x": 0.5 * sympy.sin(X - Y) - sympy.sin(X), "y": Y - 2 * sympy.cos(X) ** 2}
    sin, cos = sympy.sin, sympy.cos
    found = {
        "x": 0.4 * sin(X) * cos(Y) - 0.6 * cos(X) * sin(Y) - 0.9 * sin(X),
        "y": 0.9 * Y - 2.1 + 1.9 * sin(X) ** 2,
    }
    result = compared(true, found)
    assert (result.exact, result.missing, result.extra) == (True, [], [])
    square = 2 * 0.1**2 + 0.1**2 + 2 * 0.1**2 + 0.1**2
    assert result.error == pytest.approx(math.sqrt(square / (0.5 + 1 + 1 + 8)))
    less = compared(true, found | {"x": 0.4 * sin(X) * cos(Y) - 0.9 * sin(X)})
    assert (less.exact, less.missing) == (False, ["x: sin(y)*cos(x)"])
    more = compared(true, found | {"y": found["y"] + 0.1 * cos(X)})
    assert (more.exact, more.extra) == (False, ["y: cos(x)"])


UPTAKE = {"x": 0.6 - 1.5 * X / (0.3 + X), "y": -Y}
HILL = {"x": X - 2 * X * Y / (1 + 0.5 * X**2), "y": X * Y / (1 + 0.5 * X**2) - Y}
SEEN = np.array([[1.0, 2.0], [3.0, 2.0], [0.5, 1.0], [2.0, 0.3]])


def compared_where_positive(true, found):
    return compare(decompose(true), decompose(found), ["x", "y"], TIMES, SEEN)


@pytest.mark.parametrize(
    ("true", "found"),
    [
        # As a search writes them, with other numbers, ...
        (UPTAKE, {"x": 0.61 - 4.9 * X / (1 + 3.2 * X), "y": -1.1 * Y}),
        # ... over one denominator, with a factor too many, ...
        (UPTAKE, {"x": (0.18 - 0.9 * X) / (0.3 + X), "y": -Y}),
        (UPTAKE, {"x": (0.18 - 0.9 * X) * (X + 7.1) / ((0.3 + X) * (X + 7.1)), "y": -Y}),
        (UPTAKE, {"x": Y**2 * (0.2 - X) / (0.3 * Y**2 + X * Y**2), "y": -Y}),
        # ... and with another plain part.
        (UPTAKE, {"x": -0.9 + 0.45 / (0.3 + X), "y": -Y}),
        (HILL, {"x": 0.9 * X - 2.1 * X * Y / (1 + 0.6 * X**2), "y": HILL["y"] * 1.2}),
        (HILL, {"x": (X**3 + 2 * X - 5 * X * Y) / (X**2 + 2), "y": HILL["y"]}),
    ],
)
def test_a_fraction_is_the_same_however_it_is_written(true, found):
    result = compared_where_positive(true, found)
    assert (result.exact, result.missing, result.extra) == (True, [], [])


@pytest.mark.parametrize(
    ("true", "found", "missing", "extra"),
    [
        # A sum in place of a fraction, and the other way round.
        (
            {"x": X / (1 + X), "y": -Y},
            {"x": X - 0.3 * X**2, "y": -Y},
            [*("x: 1 in the denominator", "x: x in the denominator", "x: x in the numerator")],
            ["x: x", "x: x**2"],
        ),
        (
            {"x": X, "y": -Y},
            {"x": X * (1 + 0.5 * Y) / (1 + 0.501 * Y), "y": -Y},
            ["x: x"],
            [
                *("x: 1 in the denominator", "x: x in the numerator"),
                *("x: x*y in the numerator", "x: y in the denominator"),
            ],
        ),
        # One term too many above, one too few, and another below.
        (UPTAKE, {"x": 0.6 - (X + 0.1 * X**2) / (0.3 + X), "y": -Y}, [],
         ["x: x**2 in the numerator"]),
        (UPTAKE, {"x": -1.5 * X / (0.3 + X), "y": -Y}, ["x: 1 in the numerator"], []),
        (UPTAKE, {"x": (0.6 - 0.9 * X) / (0.3 + X**2), "y": -Y}, ["x: x in the denominator"],
         ["x: x**2 in the denominator"]),
        (HILL, HILL | {"y": X * Y / (1 + 0.5 * X) - Y}, ["y: x**2 in the denominator",
         "y: x**2*y in the numerator"], ["y: x in the denominator"]),
    ],
)  # fmt: skip
def test_another_fraction_is_not_exact(true, found, missing, extra):
    result = compared_where_positive(true, found)
    assert not result.exact
    assert (result.missing, result.extra) == (missing, extra)


@pytest.mark.parametrize(("value", "exact"), [(0.9e-3, True), (1.1e-3, False)])
def test_terms_of_fractions_count_from_a_thousandth_on(value, exact):
    # At x = 2 this is 3/1, and its largest term the 3 below: a change by 1 % makes 0.09.
    points = np.array([[2.0, 1.0]] * 4)
    true = decompose({"x": (X**2 - 1) / (3 - X), "y": -Y})
    above = decompose({"x": (X**2 - 1 + 9 * value * Y) / (3 - X), "y": -Y})
    assert compare(true, above, ["x", "y"], TIMES, points).exact is exact
    below = decompose({"x": (X**2 - 1) / (3 - X + 3 * value * Y), "y": -Y})
    assert compare(true, below, ["x", "y"], TIMES, points).exact is exact


def test_error_of_a_fraction_is_that_of_its_lowest_terms():
    # 1 + e x below, c x above: e = 2 and c = 4, found as 2.2 and 4.
    result = compared_where_positive({"x": 2 * X / (0.5 + X)}, {"x": 20 * X / (5 + 11 * X)})
    assert result.error == pytest.approx(0.2 / math.sqrt(1 + 4 + 16))


def test_a_pole_among_the_points_is_no_structure():
    result = compared({"x": -X, "y": -Y}, {"x": -X / (1 + 0.5 * Y), "y": -Y})
    assert not result.exact


def test_intervals_are_counted_over_true_terms():
    equations = Equations(
        ["x", "y"],
        [
            Term("x", "x", 1.4, 0.1),  # [1.204, 1.596] holds 1.5
            Term("x", "y*x", -1.3, 0.1),  # does not hold -1
            Term("x", "1", 0.0, 0.1),  # is no true term
            Term("y", "y", -3.0),  # has no interval
        ],
    )
    assert covered(decompose({"x": 1.5 * X - X * Y, "y": -3 * Y}), equations) == (1, 2)


def test_intervals_of_products_are_compared_with_what_a_wave_of_a_difference_is():
    equations = Equations(
        ["x", "y"],
        [
            Term("x", "cos(y)*sin(x)", 0.6, 0.1),  # [0.404, 0.796] holds 0.5
            Term("x", "sin(y)*cos(x)", -0.1, 0.1),  # does not hold -0.5
            Term("y", "y/(1 + 2.0*x)", -1.0, 0.1),  # is over a denominator of its own
        ],
    )
    true = {"x": 0.5 * sympy.sin(X - Y), "y": -Y / (1 + 2 * X)}
    assert covered(decompose(true), equations) == (1, 2)


@pytest.mark.parametrize(("name", "exact"), [("michaelis_menten", True), ("odebench_19", False)])
def test_a_fraction_that_is_found_is_exact_and_a_polynomial_in_its_place_is_not(name, exact):
    [case] = cases([name])
    row = run(Task(case, "odekit", 0.0, 0.5, 0, 1, 60.0))
    assert (row["exact"], row["representable"], row["rec"]) == (exact, False, True)
    assert (row["missing"] == []) is exact


def test_r2_takes_the_states_together():
    truth_ = np.array([[0.0, 10.0], [2.0, 30.0]])
    found = np.array([[0.0, 10.0], [2.0, 32.0]])
    assert explained(truth_, found) == pytest.approx(1 - 4 / (2 + 200))
    assert explained(truth_, None) == -math.inf


def test_simulation_agrees_with_closed_forms_and_knows_time():
    t = np.linspace(0, 3, 31)
    time, x = sympy.symbols("t x")
    found = simulate(compile_slope({"x": -2 * time * x}), [1.0], t, calls=8000)
    np.testing.assert_allclose(found[:, 0], np.exp(-(t**2)), atol=1e-6)


@pytest.mark.parametrize(
    ("expression", "start"),
    [
        (X**2, 1.0),  # is infinite at t = 1
        (sympy.Float(3e5) * sympy.S.One, 0.0),  # passes a million
        (sympy.log(X), 0.5),  # leaves the logarithm's domain
        (X**1.5, -1.0),  # is complex
        (1 / (X - 1), 1.0),  # divides by zero
    ],
)
def test_simulations_that_fail_end(expression, start):
    slope = compile_slope({"x": expression})
    assert simulate(slope, [start], np.linspace(0, 10, 50), calls=8000) is None


def test_simulation_has_so_many_calls_and_no_more():
    slope, t = compile_slope({"x": Y, "y": -400 * X}), np.linspace(0, 10, 50)
    assert simulate(slope, [1.0, 0.0], t, calls=500) is None
    assert simulate(slope, [1.0, 0.0], t, calls=8000) is not None


def equations_of_the_oscillator(stiffness, confident=True):
    return Equations(
        ["x", "v"],
        [
            Term("x", "v", 1.0, 0.01),
            Term("v", "x", -stiffness, 0.01),
            Term("v", "v", -0.43, 0.01),
        ],
        confident=confident,
    )


def test_judgement_of_the_truth_and_of_a_wrong_frequency():
    [case] = cases(["damped_oscillator"])
    known = truth(case, 2)
    terms = decompose(known.right)
    [method] = chosen(["odekit"])
    right = judge(equations_of_the_oscillator(4.5), method, known, terms)
    assert (right["exact"], right["rec"], right["gen"]) == (True, True, True)
    assert right["r2_rec"] == pytest.approx(1.0, abs=1e-9)
    assert (right["covered"], right["intervals"], right["confident"]) == (3, 3, True)
    wrong = judge(equations_of_the_oscillator(9.0), method, known, terms)
    assert (wrong["exact"], wrong["rec"], wrong["gen"]) == (True, False, False)
    assert wrong["covered"] == 2
    other = judge(equations_of_the_oscillator(4.5), chosen(["pysindy-default"])[0], known, terms)
    assert (other["confident"], other["intervals"]) == (None, 0)


def test_the_least_of_two_reconstructions_decides():
    [case] = cases(["damped_oscillator"])
    known = truth(case, 2)
    terms = decompose(known.right)
    scores = [
        explained(clean, simulate(compile_slope({"x": sympy.Symbol("v"), "v": -4.6 * X}),
                                  start, known.times, calls=8000))
        for start, clean in zip(known.starts, known.clean, strict=True)
    ]  # fmt: skip
    equations = Equations(["x", "v"], [Term("x", "v", 1.0), Term("v", "x", -4.6)])
    row = judge(equations, chosen(["odekit"])[0], known, terms)
    assert scores[0] != pytest.approx(scores[1])
    assert row["r2_rec"] == pytest.approx(min(scores))


def test_names_of_pysindy_become_terms():
    found = read(
        ["1", "x", "v", "x^2 v", "sin(1 x)"], np.array([[0, 0, 1, 0, 0], [2, 0, 0, -3, 4]]),
        ["x", "v"],
    )  # fmt: skip
    assert str(found) == str(
        Equations(
            ["x", "v"],
            [("x", "v", 1.0), ("v", "1", 2.0), ("v", "x**2*v", -3.0), ("v", "sin(x)", 4.0)],
        )
    )


def test_methods_are_chosen_by_name_and_family():
    assert [m.name for m in chosen(["pysindy-weak", "odekit"])] == ["pysindy-weak", "odekit"]
    assert chosen(["odekit", "pysindy"]) == list(METHODS)
    with pytest.raises(ValueError, match="did you mean 'pysindy-kalman'"):
        chosen(["pysindy-kalmann"])
