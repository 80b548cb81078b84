"""Doubts one by one, the tests of residuals against their distributions, and what is no doubt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import odekit
from odekit import TimeSeries
from odekit_sindy import residuals, verdict
from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.specification import Finding, Findings
from odekit_sindy.verdict import Evidence, judge


def clean():
    """Evidence without a reason to doubt."""
    return Evidence(
        names=("x", "y"),
        rms=np.array([0.05, 0.05]),
        sigma=np.array([0.05, 0.05]),
        limit=np.array([1.3, 1.3]),
        memory=np.zeros(2),
        chance=np.ones(2),
        condition=3.0,
        gains=np.array([100.0, 50.0]),
        labels=("x in x'", "y in y'"),
        confusions=(),
        loose=(),
        findings=Findings(),
        weight=0.9,
        score=[0.99],
        excess=[1.0],
        data=150,
        numbers=6,
        cut=False,
    )


def test_nothing_to_doubt():
    judged = judge(clean())
    assert judged.doubts == ()
    assert judged.fits


OMITTED = Findings(omitted=(Finding("x", "the past of y", (), -9.0, "past"),))
ALIKE = Findings(alike=(Finding("y", "a root of x", ("x**2",), 1.0),))
UNLIKELY = Findings(alike=(Finding("y", "a root of x", ("x**2",), 5.0),))
FAR = Findings(alike=(Finding("y", "a root of x", ("x**2",), 7.0),))


@pytest.mark.parametrize(
    ("change", "words", "fits"),
    [
        ({"rms": np.array([0.9, 0.05])}, "81 % of the variance of x is left", False),
        ({"rms": np.array([0.05, 0.08])}, "residuals of y are 1.6 times the noise", False),
        ({"memory": np.array([4.2, 0])}, r"residuals of x have a memory \(z = 4.2\)", False),
        ({"chance": np.array([1, 1e-5])}, "residuals of y have a pattern", False),
        ({"findings": OMITTED}, "x' seems to depend on the past of y .* delay", False),
        ({"findings": UNLIKELY}, r"root of x would do nearly as well as x\*\*2", True),
        ({"findings": ALIKE}, r"a root of x would do as well as x\*\*2 .* settle the form", True),
        ({"score": [0.2], "excess": [9.0]}, "departs from trajectory 0", True),
        (
            {"predicted": {0: 0.9, 1: 0.1}, "predicted_excess": {0: 1.0, 1: 8.0}},
            "does not predict trajectory 1",
            True,
        ),
        ({"confusions": ["x and y cannot be told apart."]}, "x and y cannot be told", True),
        ({"loose": ["Only the sum is known."]}, "Only the sum", True),
        ({"weight": 0.3}, "this one has 30 % of the weight", True),
        ({"condition": 1e6}, "barely tell the terms apart", True),
        ({"gains": np.array([100.0, 4.0])}, "Not clear of zero .*: y in y'", True),
        ({"data": 17}, "17 observed values for 6 fitted numbers", True),
        ({"cut": True}, "ended before it was complete", True),
    ],
)
def test_every_doubt_is_one_sentence(change, words, fits):
    import re

    judged = judge(replace(clean(), **change))
    assert len(judged.doubts) == 1
    assert re.search(words, judged.doubts[0])
    assert judged.doubts[0].endswith(".")
    assert judged.fits is fits


@pytest.mark.parametrize(
    "change",
    [
        {"sigma": None, "rms": np.array([0.05, 0.4])},  # noise that nobody knows
        {"rms": np.array([0.05, 0.06])},  # within what chance allows
        {"rms": np.array([1e-3, 1e-3]), "sigma": None, "memory": np.array([9.0, 9.0])},  # rounding
        {"score": [-3.0], "excess": [1.0]},  # a trajectory at rest: R2 is low, the error is noise
        {"predicted": {0: -3.0}, "predicted_excess": {0: 1.1}},
        {"findings": FAR},
        {"findings": UNLIKELY, "given": True},
        {"slow": ["x: sample faster."]},  # advice is no doubt
    ],
)
def test_what_is_no_reason(change):
    assert judge(replace(clean(), **change)).doubts == ()


def test_a_hopeless_fit_is_not_followed_by_a_comparison_of_structures():
    seen = replace(clean(), rms=np.array([0.99, 0.05]), confusions=["x and y."], findings=ALIKE)
    judged = judge(replace(seen, slow=["x: sample faster."]))
    assert judged.doubts[0].startswith("98 % of the variance")
    assert judged.doubts[1:] == ("x: sample faster.",)


def dataset_of(parts):
    trajectories = [
        Trajectory(np.arange(float(len(e))), e[:, None], np.zeros((len(e), 0))) for e in parts
    ]
    zero = tuple(np.zeros((len(e), 1)) for e in parts)
    one = tuple(np.ones((len(e), 1)) for e in parts)
    return Dataset(tuple(trajectories), ("x",)), zero, one


def test_white_residuals_pass_as_often_as_they_should():
    generator = np.random.default_rng(0)
    chances = [
        float(
            residuals.whiteness(*dataset_of([generator.standard_normal(80) for _ in range(2)]))[0]
        )
        for _ in range(400)
    ]
    # Uniform on [0, 1] up to the error of 400 draws, and no false alarm at the verdict's level.
    for level in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(np.array(chances) < level) == pytest.approx(level, abs=0.07)
    assert min(chances) > verdict.CHANCE


def test_patterns_that_the_first_lag_misses_are_found():
    e = np.tile([1.0, 1.0, -1.0, -1.0], 20) + 0.1 * np.random.default_rng(0).standard_normal(80)
    assert abs(residuals.memory(*dataset_of([e]))[0]) < 1
    assert residuals.whiteness(*dataset_of([e]))[0] < 1e-12


def test_missing_cells_and_the_ends_of_trajectories_make_no_pairs():
    e = np.array([3.0, -1.0, np.nan, 2.0])
    data, zero, one = dataset_of([e, np.array([5.0, 5.0])])
    square = 9 + 1 + 4 + 50
    assert residuals.memory(data, zero, one)[0] == pytest.approx(
        (-3 - 2 + 25) / square * np.sqrt(3)
    )


def test_the_limit_is_that_of_the_variance_ratio():
    from scipy.stats import f

    e = np.random.default_rng(0).standard_normal(60)
    data, zero, one = dataset_of([e])
    for share in (1.0, 3.0):  # the smoother's level as found, and one that leaves few degrees
        sigma = np.array([share * np.sqrt((e**2).mean())])
        limit = residuals.limits(data, zero, one, sigma)[0]
        assert limit == pytest.approx(np.sqrt(f.isf(residuals.RARE, 60, 60 / share**2)))
    assert limit > 2


def test_a_few_fast_rows_do_not_turn_a_right_answer_into_a_bad_fit(observe):
    """With 20 rows of two cycles the smoother's noise level is a guess, and is taken as one."""
    series = observe("lotka_volterra", 0.05, n=22, drop=0.0)
    equations = odekit.discover(series, degree=2)
    assert equations.diagnostics["fits"]
    assert not any("times the noise" in sentence for sentence in equations.warnings)


def test_what_makes_no_sense_is_called_so():
    y = np.random.default_rng(1).standard_normal(60)
    equations = odekit.discover(TimeSeries(np.arange(60.0), y), degree=2)
    assert not equations.confident
    assert not equations.diagnostics["fits"]
    assert any("hardly moves beyond its noise" in sentence for sentence in equations.warnings)
    assert any("samples per oscillation" in sentence for sentence in equations.warnings)
