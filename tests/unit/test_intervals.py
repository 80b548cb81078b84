"""Half widths of 95 % intervals are the quantiles of Student's t."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import integrate, stats

from odekit import Equations, ProblemError, Refined, Term
from odekit.intervals import half_width


@given(some.floats(0.5, 1e9))
def test_95_percent_of_student_lie_within(free):
    assert 1 - 2 * stats.t.sf(half_width(free), free) == pytest.approx(0.95, rel=1e-9)


@pytest.mark.parametrize("free", [1.0, 2.5, 6.0, 40.0])
def test_the_density_integrates_to_95_percent(free):
    log_scale = math.lgamma((free + 1) / 2) - math.lgamma(free / 2) - math.log(free * math.pi) / 2

    def density(x):
        return math.exp(log_scale - (free + 1) / 2 * math.log1p(x * x / free))

    inside, _ = integrate.quad(density, -half_width(free), half_width(free), epsabs=1e-11)
    assert inside == pytest.approx(0.95, abs=1e-9)


def test_many_are_normal():
    assert half_width() == half_width(None) == pytest.approx(stats.norm.ppf(0.975), rel=1e-14)
    assert half_width(1e9) == pytest.approx(half_width(), rel=1e-8)
    assert half_width(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-12)


@given(some.floats(0.5, 1e6), some.floats(1.01, 10))
def test_more_data_make_it_narrower(free, times):
    assert half_width(free) > half_width(times * free) > half_width()


@pytest.mark.parametrize("free", [0, -1.0, math.inf, math.nan, "6", True, [6.0]])
@pytest.mark.parametrize(
    "made",
    [
        half_width,
        lambda free: Equations(["x"], [("x", "x", 1.0)], degrees_of_freedom=free),
        lambda free: Refined({"x": "k*x"}, [("k", 1.0)], degrees_of_freedom=free),
    ],
)
def test_what_is_no_number_above_0_is_refused(made, free):
    with pytest.raises(ProblemError, match="degrees_of_freedom must be a finite number above 0"):
        made(free)


def test_tables_reach_as_far_as_the_residuals_allow():
    row = Equations(["x"], [Term("x", "x", 2.0, 0.1)], degrees_of_freedom=np.int64(3)).coefficients
    width = 0.1 * stats.t.ppf(0.975, 3)
    assert (row["low"][0], row["high"][0]) == pytest.approx((2 - width, 2 + width))
    table = Refined({"x": "k*x"}, [("k", 2.0, 0.1)], degrees_of_freedom=3).parameters
    assert (table["low"]["k"], table["high"]["k"]) == pytest.approx((2 - width, 2 + width))
