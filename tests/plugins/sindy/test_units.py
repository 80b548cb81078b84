"""Units: reading, arithmetic, and the dimension check of formulas."""

from __future__ import annotations

from fractions import Fraction

import pytest

from odekit import ProblemError
from odekit.formulas import parse
from odekit_sindy.units import Unit, parse_unit, unit_of

UNITS = {"x": "m", "v": "m/s", "t": "s", "m": "kg", "s": "1"}


def powers(text):
    return {symbol: exponent for symbol, exponent in parse_unit(text).powers}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m/s^2", {"m": 1, "s": -2}),
        ("kg*m", {"kg": 1, "m": 1}),
        ("1/h", {"h": -1}),
        ("m s^-1", {"m": 1, "s": -1}),
        ("J/(kg*K)", {"J": 1, "kg": -1, "K": -1}),
        ("m**2·s", {"m": 2, "s": 1}),
        ("V/Hz^(1/2)", {"V": 1, "Hz": Fraction(-1, 2)}),
        ("(m/s)^2/m", {"m": 1, "s": -2}),
        ("µg/mL", {"µg": 1, "mL": -1}),
        ("%", {"%": 1}),
        ("m/m", {}),
        ("1", {}),
        ("", {}),
    ],
)
def test_units_are_read_as_powers_of_symbols(text, expected):
    assert powers(text) == expected


@pytest.mark.parametrize("text", ["m/s^2", "1/h", "kg*m/s^2", "V/Hz^(1/2)", "1", "J/(K*kg)"])
def test_what_is_written_reads_back(text):
    unit = parse_unit(text)
    assert parse_unit(str(unit)) == unit
    assert str(unit) == text


@pytest.mark.parametrize("text", ["m//s", "m^", "2*m", "m^x", "(m", "m)", "m$", "m^(1/0)", "/s"])
def test_what_is_no_unit_is_refused_with_an_example(text):
    with pytest.raises(ProblemError, match=r"unit .* cannot be read .*'m/s\^2'"):
        parse_unit(text)


def test_units_must_be_text():
    with pytest.raises(ProblemError, match="must be text"):
        parse_unit(3)


def dimension(formula):
    units = {name: parse_unit(text) for name, text in UNITS.items()}
    return unit_of(parse(formula, [*units, "z"]), units)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("x*v", "m^2/s"),
        ("3*x/t", "m/s"),
        ("x + 2*v*t", "m"),
        ("sqrt(x*v)", "m/s^(1/2)"),
        ("sin(x/(v*t))", "1"),
        ("exp(-s)*x", "m"),
        ("x/(1 + s)", "m"),
        ("abs(v)*v", "m^2/s^2"),
        ("v*sign(x)", "m/s"),
        ("7", "1"),
    ],
)
def test_a_formula_has_the_unit_of_its_parts(formula, expected):
    assert dimension(formula) == parse_unit(expected)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("x + v", "adds .* in .* to .* in"),
        ("x/(1 + x)", "adds 1 in 1 to x in m|adds x in m to 1 in 1"),
        ("sin(x)", "sin.x. takes x in m, but needs a plain number"),
        ("exp(-t)", "takes -t in s"),
        ("log(v)*x", "takes v in m/s"),
        ("2^x", "takes x in m"),
        ("x^v", "takes"),
        ("x^0.123456789", "no simple fraction"),
    ],
)
def test_what_does_not_balance_is_refused(formula, message):
    with pytest.raises(ProblemError, match=message):
        dimension(formula)


def test_an_unknown_unit_passes():
    assert dimension("z*x") is None
    assert dimension("sin(z)") is None
    assert dimension("x + z") is None
    with pytest.raises(ProblemError, match="adds"):
        dimension("x + z + v")


def test_plain_numbers_have_no_unit():
    assert Unit().plain
    assert not parse_unit("m").plain
    assert (parse_unit("m") / parse_unit("m")).plain
