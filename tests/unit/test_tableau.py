"""Rooted trees, validation of tableaux, and the sums that every stage is made of."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import odekit
from odekit import ButcherTableau, ProblemError, advance, weighted_sum
from odekit.tableau import rooted_trees, tree_density, tree_order


def bosh3(**changes):
    numbers = dict(
        order=3,
        c=(0, 1 / 2, 3 / 4, 1),
        a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        e=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    )
    return ButcherTableau(**{**numbers, **changes})


def test_there_are_as_many_trees_of_each_order_as_otter_counted():
    counts = [0] * 8
    for tree in rooted_trees(8):
        counts[tree_order(tree) - 1] += 1
    assert counts == [1, 1, 2, 4, 9, 20, 48, 115]
    assert len(set(rooted_trees(8))) == 200


def test_densities_of_the_trees_up_to_order_four():
    leaf = ()
    assert tree_density(leaf) == 1
    assert tree_density((leaf,)) == 2
    assert tree_density((leaf, leaf)) == 3
    assert tree_density(((leaf,),)) == 6
    assert sorted(tree_density(t) for t in rooted_trees(4) if tree_order(t) == 4) == [4, 8, 12, 24]


def test_a_right_tableau_is_accepted():
    tableau = bosh3()
    assert tableau.stages == 4
    assert tableau.fsal


def test_stages_that_do_not_end_on_the_solution_are_not_fsal():
    rk4 = ButcherTableau(
        order=4,
        c=(0, 1 / 2, 1 / 2, 1),
        a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    )
    assert not rk4.fsal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # 2/9 + 1/3 + 4/9 is one; moving weight from one stage to another breaks order two.
        ({"b": (2 / 9 + 0.01, 1 / 3 - 0.01, 4 / 9, 0)}, r"b misses a condition of order 2"),
        ({"b": (2 / 9 + 0.01, 1 / 3, 4 / 9, 0)}, r"b misses a condition of order 1: tree \(\)"),
        ({"c": (0, 1 / 2, 0.7, 1)}, r"row 2 of a sums to .*0\.75.*c\[2\] is 0\.7.*time-dependent"),
        (
            {"a": ((), (1 / 2,), (0, 3 / 4), (2 / 9, 7 / 9))},
            r"rows of 0, 1, \.\.\., 3 .*0, 1, 2, 2",
        ),
        ({"b": (2 / 9, 1 / 3, 4 / 9)}, r"b must have 4 entries, one a stage, got 3"),
        ({"e": (0.0, 0.0, 0.0)}, r"e must have 4 entries, one a stage, got 3"),
        ({"dense": ((1,), (0,))}, r"dense must have 4 entries, one a stage, got 2"),
        ({"order": 4}, r"b misses a condition of order 4: tree .* claimed order 4"),
        ({"e": (-5 / 72, 1 / 12, 1 / 9, 1 / 8)}, r"b - e misses a condition of order 1"),
        ({"e": (0.0, 0.1, -0.1, 0.0)}, r"b - e misses a condition of order 2"),
    ],
)
def test_wrong_numbers_are_refused_by_the_condition_that_fails(changes, message):
    with pytest.raises(ProblemError, match=message):
        bosh3(**changes)


def test_dense_output_is_held_to_its_claim_between_the_ends():
    # The cubic through both ends with both slopes, written as weights of the four stages.
    b = (2 / 9, 1 / 3, 4 / 9, 0)
    rows = tuple(
        ((i == 0), 3 * w - 2 * (i == 0) - (i == 3), -2 * w + (i == 0) + (i == 3))
        for i, w in enumerate(b)
    )
    assert bosh3(dense=rows, dense_order=3).dense_order == 3
    with pytest.raises(ProblemError, match=r"dense at x = 0\.25 misses a condition of order 4"):
        bosh3(dense=rows, dense_order=4)
    bent = (rows[0], (rows[1][0], rows[1][1] + 0.1, rows[1][2] - 0.1), *rows[2:])
    with pytest.raises(ProblemError, match=r"dense at x = 0\.25 misses a condition of order 1"):
        bosh3(dense=bent, dense_order=3)


def test_tolerance_makes_room_for_short_decimals():
    rounded = tuple(round(w, 6) for w in (2 / 9, 1 / 3, 4 / 9, 0))
    with pytest.raises(ProblemError, match="order 1"):
        bosh3(b=rounded, e=())
    assert bosh3(b=rounded, e=(), tolerance=1e-5).b == rounded


def test_tableaux_cannot_be_changed_without_being_checked_again():
    with pytest.raises(dataclasses.FrozenInstanceError):
        bosh3().order = 4
    with pytest.raises(ProblemError, match="claimed order 4"):
        dataclasses.replace(bosh3(), order=4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_sums_over_stages_agree_with_a_contraction(dtype):
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(5, 2, dtype=dtype, generator=generator)
    k = torch.randn(4, 5, 2, dtype=dtype, generator=generator)
    weights = (0.3, 0, -1.7, 2.5)
    want = torch.einsum("s,sij->ij", torch.tensor(weights, dtype=dtype), k)
    torch.testing.assert_close(weighted_sum(weights, list(k)), want, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(
        advance(y, -0.2, weights, list(k)), y - 0.2 * want, rtol=1e-14, atol=1e-14
    )
    h = torch.linspace(0.1, 0.5, 5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        advance(y, h, weights, list(k)), y + h * want, rtol=1e-14, atol=1e-14
    )


def test_stages_without_weight_are_not_touched():
    poison = torch.full((2,), torch.nan, dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    assert torch.equal(weighted_sum((0, 2.0), [poison, one]), 2 * one)
    assert torch.equal(advance(one, 0.5, (0, 2.0), [poison, one]), 2 * one)


@pytest.mark.parametrize(
    ("tableau", "limit"),
    [
        (ButcherTableau(order=1, c=(0,), a=((),), b=(1,)), 2.0),
        (ButcherTableau(order=2, c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2)), 2.0),
        (bosh3(), 2.51274532661833),
        (odekit.create("solver", "rk4").tableau, 2.78529356340528),
        (odekit.create("solver", "dopri5").tableau, 3.3066),
        (odekit.create("solver", "tsit5").tableau, 3.5068),
    ],
)
def test_the_limit_of_stability_is_that_of_the_textbooks(tableau, limit):
    assert tableau.stability_limit == pytest.approx(limit, abs=1e-4)


@pytest.mark.parametrize("name", ["euler", "rk4", "bosh3", "dopri5", "tsit5", "dopri8"])
def test_below_the_limit_of_stability_a_decay_never_grows_and_above_it_does(name):
    solver = odekit.create("solver", name)
    limit = solver.tableau.stability_limit
    rates = limit * torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    rates = torch.cat([rates, torch.tensor([1.001 * limit], dtype=torch.float64)])
    start, now = torch.ones_like(rates), torch.zeros((), dtype=torch.float64)

    def field(t, y):
        return -rates * y

    growth = solver.step(field, now, 1.0, start, solver.init(field, now, start)).y.abs()
    assert bool((growth[:-1] <= 1).all())
    assert float(growth[-1]) > 1
