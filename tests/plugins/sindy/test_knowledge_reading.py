"""Claims: what is read, and what is refused because of a typing error or a contradiction."""

from __future__ import annotations

import pytest

from odekit import ProblemError
from odekit_sindy.claims import Claims
from odekit_sindy.claims_reader import read_claims
from odekit_sindy.discovery import Discovery

X, V, CONSTANT = (1, 0, 0), (0, 1, 0), (0, 0, 0)
X3, XV, XU = (3, 0, 0), (1, 1, 0), (1, 0, 1)


def read(**options):
    return read_claims(Claims.of(**options), ("x", "v"), ("u",), "t")


def test_known_equations_are_sums_of_numbers_times_products():
    found = read(known={"x": "2*(v - 0.1)"}, known_terms={"v": -9.81})
    assert found.whole == {0}
    assert found.fixed == {(0, V): 2.0, (0, CONSTANT): -0.2, (1, CONSTANT): -9.81}


def test_terms_are_for_one_equation_or_for_all():
    found = read(forbidden=["x**3 in v", "v*x"], forced=[("v", "x")])
    assert found.forbidden == {(1, X3), (0, XV), (1, XV)}
    assert found.forced == {(1, X)}
    assert read(forced="x in v'").forced == {(1, X)}
    assert read(forced=["x"], known={"x": "v"}).forced == {(1, X)}


def test_formulas_are_offered_and_may_need_time():
    found = read(terms=["x*u", "exp(-x) in v", ("x", "sin(v)")])
    assert found.offered == {XU: {0, 1}, ("exp_minus", 0): {1}, ("sin", 1): {0}}
    assert not found.timed
    assert read(terms=["sin(2*t)"]).timed
    assert read(known_terms={"v": "3*cos(t)"}).timed


def test_constraints_are_signs_values_and_ratios():
    found = read(
        constraints=[
            "c[x, x**3] < 0",
            "0 <= -c[v, v]",
            "c[x, v] == 1.5",
            "c[x, x*v] == -2*c[v, v*x]",
        ]
    )
    assert found.signs == {(0, X3): -1, (1, V): -1}
    assert found.fixed == {(0, V): 1.5}
    assert found.groups == [[((0, XV), 1.0), ((1, XV), -0.5)]]


def test_ratios_join_and_hand_on_signs_values_and_forcing():
    chain = ["c[x, x] == 2*c[v, x]", "c[v, x] + c[v, v] == 0"]
    found = read(constraints=[*chain, "c[v, v] > 0"], forced=["v in v"])
    assert found.groups == [[((0, X), 1.0), ((1, X), 0.5), ((1, V), -0.5)]]
    assert found.signs == {(0, X): -1}
    assert found.forced == {(0, X)}
    valued = read(constraints=[*chain, "c[v, v] == 3"])
    assert valued.groups == []
    assert valued.fixed == {(1, V): 3.0, (1, X): -3.0, (0, X): -6.0}


def test_forbidden_everywhere_leaves_room_for_what_is_known():
    found = read(forbidden=["v"], known_terms={"x": "v"})
    assert found.forbidden == {(1, V)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"known": {"vv": "x"}}, "known: there is no state 'vv': did you mean 'v'"),
        ({"known": {"x": "w"}}, "known: x: .*'w' is not known"),
        ({"known": {"x": "v"}, "known_terms": {"x": "x"}}, "x' is known as a whole"),
        ({"forbidden": ["x**3 in w"]}, "forbidden: there is no state 'w'"),
        ({"forbidden": ["z**3 in v"]}, "forbidden: 'z\\*\\*3'"),
        ({"forced": ["2*x in v"]}, "number in front: .* write x"),
        ({"forced": ["x in v"], "forbidden": ["x"]}, "x in v' is both forced and forbidden"),
        ({"forced": ["x in v"], "known": {"v": "-v"}}, "forced: .* v' is known as a whole"),
        (
            {"constraints": ["c[x, v] == 2", "c[x, v] < 0"]},
            "v in x' is known as 2, which contradicts its sign in constraints: < 0",
        ),
        ({"constraints": ["c[x, v] > 0", "c[x, v] < 0"]}, "contradicts another sign"),
        ({"constraints": ["c[x, v] == 2", "c[x, v] == 3"]}, "known as 2, and here it is 3"),
        ({"constraints": ["c[x, v] == 2"], "known": {"x": "v"}}, "known as 1, and here it is 2"),
        ({"constraints": ["c[x, x] < 0"], "known": {"x": "v"}}, "known as a whole and has no term"),
        ({"constraints": ["c[x, v] == c[v, v]"], "known": {"x": "u"}}, "has no term v"),
        (
            {"constraints": ["c[x, x] == 2*c[v, v]", "c[x, x] == 3*c[v, v]"]},
            "the ratios give .* two values",
        ),
        (
            {"constraints": ["c[x, x] == -c[v, v]", "c[x, x] > 0", "c[v, v] > 0"]},
            "the sign of v in v' contradicts",
        ),
        ({"constraints": ["c[x, v] == c[v, v]"], "forbidden": ["v in v"]}, "forbidden and yet"),
        ({"constraints": ["c[x, x] < 2"]}, "neither a sign, a value nor a ratio"),
        ({"constraints": ["c[x, x]*c[v, v] == 1"]}, "not linear in its coefficients"),
        ({"constraints": ["x**3 < 0"]}, "cannot be read"),
        ({"constraints": ["c[x, x]"]}, "one relation each"),
        ({"constraints": ["0 < c[x, x] < 1"]}, "one relation each"),
        ({"constraints": ["c[w, x] < 0"]}, "constraints: there is no state 'w'"),
        ({"constraints": ["c[x, x] < y"]}, "cannot be read at 'y'"),
        ({"terms": ["sin(2*w)"]}, "terms: .*'w' is not known"),
        ({"terms": ["__import__('os')"]}, "terms: .*not a known function"),
        ({"units": {"y": "m"}}, "units: there is no 'y'"),
        ({"units": {"x": "m//s"}}, "units: x: unit 'm//s' cannot be read"),
    ],
)
def test_typing_errors_and_contradictions_are_named(options, message):
    with pytest.raises(ProblemError, match=message) as caught:
        read(**options)
    assert "\n" not in str(caught.value)


UNITS = {"x": "m", "v": "m/s", "t": "s"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": ["sin(x)"]}, "terms: the units do not fit: sin.x. takes x in m"),
        ({"terms": ["x/(1 + x)"]}, "terms: the units do not fit: .*adds"),
        ({"forced": ["exp(-x) in v"]}, "forced: the units do not fit"),
        ({"known": {"x": "x"}}, "known: x: the units do not fit: x' is in m/s, x in m: write"),
        ({"known": {"v": "-9.81 + sin(t)"}}, "known: v: the units do not fit"),
        ({"constraints": ["c[x, x] == -c[v, x]"]}, "the units do not fit: .* in 1/s, .* in 1/s.2"),
    ],
)
def test_units_must_balance(options, message):
    with pytest.raises(ProblemError, match=message):
        read(units=UNITS, **options)


def test_a_written_number_carries_the_unit_that_is_missing():
    found = read(units=UNITS, known={"x": "v"}, known_terms={"v": "-9.81 + 3*x"})
    assert found.fixed[1, CONSTANT] == -9.81
    assert str(found.coefficient_unit("v", found.expressions[CONSTANT])) == "m/s^2"
    assert str(found.coefficient_unit("v", found.expressions[X])) == "1/s^2"
    read(units=UNITS, terms=["sin(x/(v*t))", "u*x"])  # u has no unit, so nothing is held against it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"known": "x' = v"}, "known must be a dict such as known={'x': 'v'}"),
        ({"known": {"x": ["v"]}}, "known must map names to text"),
        ({"forbidden": 3}, "forbidden must be a list of texts"),
        ({"forbidden": [3]}, "forbidden: 3 cannot be read: write"),
        ({"constraints": [("x", "v")]}, "constraints: .* cannot be read"),
        ({"units": ["m"]}, "units must be a dict such as units={'x': 'm'}"),
    ],
)
def test_wrong_types_are_refused_before_any_data_are_read(options, message):
    with pytest.raises(ProblemError, match=message):
        Discovery(**options)
