"""Best subsets against brute force with NumPy's least squares."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from odekit_sindy.candidates import (
    backward_path,
    best_by_size,
    best_subsets,
    choose_size,
    coefficients,
    residual,
    time_blocks,
)


def problem(seed=0, rows=60, columns=7):
    generator = np.random.default_rng(seed)
    scale = 10.0 ** generator.integers(-4, 5, columns)
    a = generator.standard_normal((rows, columns)) * scale
    y = a[:, [1, 4]] @ (np.array([2.0, -3.0]) / scale[[1, 4]])
    return a, y + 0.5 * generator.standard_normal(rows)


def brute_force(a, y, k):
    best = None
    for columns in itertools.combinations(range(a.shape[1]), k):
        c = np.linalg.lstsq(a[:, columns], y, rcond=None)[0]
        rss = float(((y - a[:, columns] @ c) ** 2).sum())
        best = min(best, (rss, columns)) if best else (rss, columns)
    return best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_best_subset_of_each_size_is_the_true_best(seed, k):
    a, y = problem(seed)
    rss, columns = brute_force(a, y, k)
    found = best_subsets(a.T @ a, a.T @ y, float(y @ y), largest=4)
    exhaustive = next(item for item in found if len(item[1]) == k)
    assert exhaustive[1] == columns
    assert exhaustive[0] == pytest.approx(rss, rel=1e-6)


def test_the_backward_path_drops_the_cheapest_column_each_time():
    a, y = problem()
    path = best_subsets(a.T @ a, a.T @ y, float(y @ y), largest=0)
    assert [len(s) for _, s in path] == list(range(7, 0, -1))
    for (_, large), (rss, small) in itertools.pairwise(path):
        costs = []
        for q in large:
            rest = [c for c in large if c != q]
            c = np.linalg.lstsq(a[:, rest], y, rcond=None)[0]
            costs.append(float(((y - a[:, rest] @ c) ** 2).sum()))
        assert rss == pytest.approx(min(costs), rel=1e-5)
        assert set(small) < set(large)


def test_residual_and_coefficients_are_those_of_least_squares():
    a, y = problem(5)
    support = (0, 2, 4)
    c, rss, *_ = np.linalg.lstsq(a[:, support], y, rcond=None)
    gram, g = a.T @ a, a.T @ y
    np.testing.assert_allclose(coefficients(gram, g, support), c, rtol=1e-6)
    assert residual(gram, g, float(y @ y), support) == pytest.approx(rss[0], rel=1e-6)


def test_columns_of_zeros_are_never_chosen_by_enumeration():
    a, y = problem()
    a[:, 3] = 0.0
    assert all(3 not in s for _, s in best_subsets(a.T @ a, a.T @ y, float(y @ y), 4))


def test_scaling_a_column_changes_nothing():
    a, y = problem(1)
    b = a * 10.0 ** np.arange(-9, 12, 3)
    assert best_by_size(a, y) == best_by_size(b, y)


def test_cross_validation_takes_the_true_size():
    sizes = []
    for seed in range(8):
        a, y = problem(seed, rows=200)
        sizes.append(choose_size(a, y, best_by_size(a, y), time_blocks(len(y))))
    assert sizes.count(2) >= 7


def test_time_blocks_are_contiguous_and_even():
    np.testing.assert_array_equal(time_blocks(7, 3), [0, 0, 0, 1, 1, 2, 2])


def test_columns_that_rounding_makes_indefinite_are_dear_and_no_error():
    unit = np.array([[1.0, 1.0 + 1e-6], [1.0 + 1e-6, 1.0]])  # one eigenvalue is negative
    path = backward_path(unit, np.array([1e3, -1e3]), 1e6, [0, 1])
    assert [len(support) for _, support in path] == [2, 1]
