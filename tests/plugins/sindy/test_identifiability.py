"""What the data leave open, in words: rivals, loose directions, sampling, and where to start."""

from __future__ import annotations

import numpy as np
import pytest

import odekit
from odekit import TimeSeries
from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.identifiability import (
    Rival,
    Setting,
    advised,
    candidate_starts,
    disagreement,
    is_monotone,
    loose_directions,
    sentences,
    too_slow,
    turning,
    undecided,
)

OWN = [("x", "x"), ("x", "x*y"), ("y", "y")]


def setting(trajectories=1, **changes):
    known = {
        "names": ("x", "y"),
        "turning": np.array([20.0, 20.0]),
        "monotone": False,
        "range": {"x": (0.0, 2.0), "y": (1.0, 3.0)},
    }
    return Setting(trajectories=trajectories, **{**known, **changes})


def swapped(distance, term="x", start=None):
    return Rival((("x", "x"), ("x", term), ("y", "y")), distance, start)


def test_what_lacks_a_term_must_be_far_and_what_has_more_need_not():
    more = Rival((*OWN, ("y", "x")), 3.0)
    fewer = Rival((OWN[0], OWN[2]), 5.0)
    other = swapped(5.9, "y**2")
    far = swapped(6.1, "x**2")
    found = undecided(OWN, [far, more, other, fewer])
    assert found == [fewer, other]
    assert undecided(OWN, [Rival(more.pairs, 1.9)])


def test_a_swap_is_told_with_its_price_and_a_start_that_would_help():
    rival = swapped(0.8, "y**2", {"x": 1.234, "y": 25.0})
    (text,) = sentences(OWN, [rival], setting())
    assert text == (
        "x*y and y**2 in x' cannot be told apart on this trajectory (swapping them changes EBIC "
        "by 0.8); a second start, for example near x = 1.2, y = 25, would separate them."
    )


def test_rivals_that_replace_the_same_terms_share_a_sentence():
    rivals = [swapped(0.5, "y**2"), swapped(1.5, "x**2"), swapped(1.8, "1")]
    (text,) = sentences(OWN, rivals, setting(2))
    assert "x*y and y**2, x**2 or 1 in x' cannot be told apart on these trajectories" in text
    assert "as little as 0.5" in text
    assert "where none of the trajectories has been" in text


def test_every_group_has_its_own_advice_and_none_is_repeated():
    first = swapped(0.5, "y**2", {"x": 1.0, "y": 2.0})
    other = Rival((*OWN[:2], ("y", "x")), 0.9, {"x": 0.1, "y": 7.0})
    texts = sentences(OWN, [first, other], setting())
    assert "; a second start, for example near x = 1, y = 2, would separate them." in texts[0]
    assert "; a second start, for example near x = 0.1, y = 7, would separate them." in texts[1]
    alike = Rival(other.pairs, 0.9, {"x": 1.001, "y": 2.0})
    texts = sentences(OWN, [first, alike], setting())
    assert "a second start" in texts[0]
    assert texts[1].endswith("(swapping them changes EBIC by 0.9).")
    assert [rival.start for rival in advised(OWN, [first, swapped(0.7, "1"), other])] == [
        first.start,
        other.start,
    ]


def test_the_range_of_one_monotone_state_is_said_once():
    own = [("x", "x"), ("x", "1")]
    rivals = [
        Rival((("x", "x**2"), ("x", "1")), 1.0, {"x": 9.0}),
        Rival((("x", "x"), ("x", "x**3")), 1.5, {"x": 0.1}),
    ]
    case = setting(names=("x",), monotone=True, range={"x": (0.3, 7.4)})
    one, two = sentences(own, rivals, case)
    assert "; x was seen only on its way between 0.3 and 7.4: a start outside of that" in one
    assert two.endswith(
        "; a start outside of that range, for example near x = 0.1, would separate them."
    )


def test_rivals_that_change_more_than_a_nearer_one_are_not_told():
    first = swapped(0.5, "y**2")
    more = Rival((*first.pairs, ("y", "x")), 1.0)
    assert len(sentences(OWN, [first, more], setting())) == 1


def test_other_differences_are_told_in_words():
    rival = Rival((OWN[0], OWN[2]), 1.0)
    (text,) = sentences(OWN, [rival], setting())
    assert "Another structure is as good on this trajectory (without x*y in x'; EBIC" in text
    (text,) = sentences(OWN, [Rival(rival.pairs, 4.0)], setting())
    assert "is not ruled out" in text


def test_one_monotone_state_is_advised_to_leave_its_range():
    own, rival = [("x", "x")], Rival((("x", "x**2"),), 1.0)
    case = setting(names=("x",), monotone=True, range={"x": (0.3, 7.4)})
    (text,) = sentences(own, [rival], case)
    assert "x was seen only on its way between 0.3 and 7.4: a start outside of that range" in text


def test_the_start_is_where_the_models_disagree_and_nobody_was():
    visited = np.column_stack([np.linspace(0, 1, 50), np.linspace(0, 1, 50)])
    points = np.array([[1.0, 1.0], [0.9, 0.1], [0.1, 0.3]])
    difference = points[:, 0] ** 2 * 10  # largest at a point that was visited
    slopes = [np.stack([difference, difference * 0]), np.zeros((2, 3))]
    assert disagreement(slopes, points, visited, np.ones(2)) == 1
    assert disagreement([slopes[1], slopes[1]], points, visited, np.ones(2)) is None


def test_candidate_starts_stay_in_the_box_and_keep_the_sign():
    visited = np.random.default_rng(0).uniform([0.5, -1], [2, 1], (100, 2))
    points = candidate_starts(visited)
    assert np.all(points >= visited.min(0))
    assert np.all(points <= visited.max(0))
    single = candidate_starts(np.linspace(0.5, 4.0, 20)[:, None])
    assert single.min() > 0
    assert single.max() > 5


def test_two_coefficients_that_are_known_only_together():
    """The data are a u + b v with v = 2 u + little: only a + 2 b is known."""
    u = np.linspace(0, 1, 200)
    v = 2 * u + 0.002 * np.random.default_rng(0).standard_normal(200)
    design = np.column_stack([u, v])
    covariance = 0.01**2 * np.linalg.inv(design.T @ design)
    values = np.array([0.3, 0.5])
    (text,) = loose_directions(values, covariance, [("x", "u"), ("x", "v")])
    assert text.startswith("Only the combination c[x', u] + 2 c[x', v] = 1.3 ±")
    assert loose_directions(values, np.diag([0.01, 0.01]) ** 2, [("x", "u"), ("x", "v")]) == []


def trajectories(*columns):
    parts = [
        Trajectory(np.arange(float(len(y))), np.asarray(y)[:, None], np.zeros((len(y), 0)))
        for y in columns
    ]
    return Dataset(tuple(parts), ("x",))


@pytest.mark.parametrize("per_turn", [4.0, 20.0])
def test_samples_per_oscillation_are_counted(per_turn):
    t = np.arange(400.0)
    data = trajectories(np.sin(np.pi * t / per_turn + 0.1))
    found = turning(data)
    assert found[0] == pytest.approx(per_turn, rel=0.06)
    slow = too_slow(setting(names=("x",), turning=found / 2))
    assert bool(slow) == (per_turn == 4.0)
    if slow:
        assert "about 4 samples per oscillation" in slow[0]


def test_monotone_is_one_state_on_one_way():
    up, back = np.linspace(0, 1, 9), np.r_[0.0, 1, 0.5, 2]
    data = trajectories(up, -up)
    assert is_monotone(data, [up[:, None], -up[:, None]])
    assert not is_monotone(data, [up[:, None], back[:, None]])


def decay(level, seed):
    """``x' = -0.4 x y`` while ``y`` falls slowly: nearly ``x' = -0.4 level x``."""
    t = np.linspace(0, 6, 60)
    y = level * np.exp(-0.03 * t)
    x = 3 * np.exp(-0.4 * (level - y) / 0.03)
    noise = 0.05 * np.random.default_rng(seed).standard_normal((60, 2)) * [1, 0.3]
    return TimeSeries(t, np.column_stack([x, y]) + noise, names=["x", "y"])


def test_a_second_start_does_separate_what_one_trajectory_cannot():
    one = odekit.discover(decay(1.0, 0), degree=2)
    assert not one.confident
    told = [s for s in one.warnings if "in x'" in s and "be told apart" in s]
    assert told
    assert {"x", "x*y"} <= set(told[0].replace(",", " ").split())
    assert "a second start" in told[0]
    two = odekit.discover([decay(1.0, 0), decay(2.0, 1)], degree=2)
    assert {term.term for term in two.terms if term.equation == "x"} == {"x*y"}
    left = [item["difference"] for item in two.diagnostics["undecided"]]
    assert not any("x instead of x*y in x'" in text for text in left)
