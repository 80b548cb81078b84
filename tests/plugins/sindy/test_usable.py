"""Trajectories that say nothing are left out by name, and the others are counted as before."""

from __future__ import annotations

import math

import numpy as np
import pytest

import odekit
from odekit import Equations, TimeSeries

SHORT = TimeSeries([0.0, 1.0, 2.0], [[1.0, 2.0], [1.1, np.nan], [np.nan] * 2], names=["x", "y"])
REST = TimeSeries(np.linspace(0, 9, 30), np.full((30, 2), [3.0, 1.5]), names=["x", "y"])


def swing(start: list[float], seed: int) -> TimeSeries:
    system = odekit.create("system", "lotka_volterra")
    series = system.series(n=80, noise=0.02, drop=0.0, seed=seed, y0=start)
    return TimeSeries(series.t, series.y, names=["x", "y"])


@pytest.fixture(scope="module")
def found() -> Equations:
    series = [SHORT, swing([5.0, 2.0], 0), REST, swing([2.0, 3.0], 1)]
    return odekit.discover(series, degree=2, holdout=3)


def test_they_are_named_and_their_places_kept(found):
    notes = [sentence for sentence in found.warnings if sentence.startswith("Note: series")]
    assert notes == [
        "Note: series[0] has 2 rows with observed states and was left out.",
        "Note: series[2] is constant and was left out.",
    ]
    assert found.diagnostics["left_out"] == [0, 2]
    assert [math.isnan(value) for value in found.score] == [True, False, True, False]


def test_the_trajectory_to_predict_is_the_callers(found):
    assert found.diagnostics["holdout"]["trajectories"] == [3]
    assert {(term.equation, term.term) for term in found.terms} == {
        ("x", "x"),
        ("x", "x*y"),
        ("y", "y"),
        ("y", "x*y"),
    }


def test_the_result_survives_the_file(found, tmp_path):
    found.save(tmp_path / "found.json")
    again = Equations.load(tmp_path / "found.json")
    assert np.isnan(again.score[0])
    assert again.score[1] == found.score[1]


def test_one_that_cannot_be_predicted_is_named_and_the_others_go_on():
    found = odekit.discover([SHORT, swing([5.0, 2.0], 0), REST], degree=2, holdout=[0, 2])
    notes = [sentence for sentence in found.warnings if sentence.startswith("Note: series")]
    assert notes == ["Note: series[2] is constant and was left out."]
    assert found.diagnostics["holdout"]["trajectories"] == [0]  # three values, two for its start
    single = TimeSeries([0.0, 1.0, 2.0], [[1.0, 2.0], [np.nan] * 2, [np.nan] * 2], names=["x", "y"])
    found = odekit.discover([swing([5.0, 2.0], 0), single], degree=2, holdout=1)
    assert [sentence for sentence in found.warnings if "series[1]" in sentence] == [
        "Note: series[1] was to be predicted, but its 2 observed values go into its start and "
        "leave nothing to compare with, so it was left out."
    ]
    assert "holdout" not in found.diagnostics
    assert math.isnan(found.score[1])


def test_nothing_but_rest_is_still_an_error():
    with pytest.raises(odekit.DiscoveryError, match="constant"):
        odekit.discover([REST])
