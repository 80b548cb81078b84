"""The criterion by hand, and the regression in trajectory space against plain least squares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from odekit_sindy.budget import Budget
from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.search import Linear, Start, SubsetSearch, ebic, prices, project_out
from odekit_sindy.shooting import FLOOR, Shooting

TRUE = (1, 4, 6 + 2, 6 + 4)


def search(noise=0.02, seconds=60.0):
    t = np.linspace(0, 10, 80)
    x = solve_ivp(
        lambda s, x: [1.5 * x[0] - x[0] * x[1], -3 * x[1] + x[0] * x[1]],
        (0, 10),
        (5, 2),
        t_eval=t,
        rtol=1e-10,
        atol=1e-12,
    ).y.T
    x = x / x.std(0)
    y = x + noise * np.random.default_rng(0).standard_normal(x.shape)
    data = Dataset((Trajectory(t, y, np.zeros((80, 0))),), ("x", "y"))
    layout = arrange(data, (np.ones_like(y),))
    return SubsetSearch(Shooting(layout, Library(2, 2), 4), Budget(seconds)), layout.starts((x,))


def test_ebic_by_hand():
    finder, _ = search()
    layout = finder.shooting.layout
    rss, gaps = np.array([0.8, 0.2]), np.array([0.01, 0.0])
    expected = (
        80 * np.log(0.8 / 80 + FLOOR**2 + 10 * 0.01 / 80) + 80 * np.log(0.2 / 80 + FLOOR**2) + 21.5
    )
    assert ebic(layout, rss, gaps, 21.5) == pytest.approx(expected, rel=1e-12)


def test_a_term_costs_the_same_in_every_library_that_holds_it():
    layout = search()[0].shooting.layout
    linear, quadratic, waves = (prices(layout, Library(2, p, trig=p == 3)) for p in (1, 2, 3))
    each = np.log(160) + 2 * np.log([3, 3, 3, 6, 6, 6])
    assert quadratic == pytest.approx(np.tile(each, 2))
    assert linear == pytest.approx(np.tile(each[:3], 2))
    assert waves[:6] == pytest.approx(each)
    assert waves[6:14] == pytest.approx(np.log(160) + 2 * np.log([10] * 4 + [14] * 4))


def test_the_shape_of_the_noise_enters_the_criterion():
    data = Dataset((Trajectory(np.arange(10.0), np.ones((10, 1)), np.zeros((10, 0))),), ("x",))
    h = np.linspace(0.5, 2, 10)[:, None]
    plain, shaped = (arrange(data, (s,)) for s in (np.ones((10, 1)), h))
    args = (np.array([1.0]), np.array([0.0]), 10.0)
    assert ebic(shaped, *args) - ebic(plain, *args) == pytest.approx(2 * np.log(h).sum())


def test_projecting_out_is_fitting_freely():
    generator = np.random.default_rng(0)
    a, y = generator.standard_normal((50, 6)), generator.standard_normal(50)
    linear = Linear(a.T @ a, a.T @ y, float(y @ y), 1.0, 1.0)
    gram, right, square = project_out(linear, np.array([0, 1, 2]), [3, 5])
    c = np.linalg.solve(gram, right)
    rss = np.linalg.lstsq(a[:, [0, 1, 2, 3, 5]], y, rcond=None)[1][0]
    assert square - c @ right == pytest.approx(rss, rel=1e-7)


def test_the_linear_problem_predicts_the_refit():
    finder, start = search()
    (fitted,) = finder.fit_starts([Start(TRUE, np.array([1.5, -1.0, -3.0, 1.0]), start)])
    linear = finder.linearise(fitted)
    wider = (*TRUE[:2], 5, *TRUE[2:])
    (refit,) = finder.verify(fitted, [wider], linear)
    predicted = linear.residual(wider) / linear.residual(TRUE)
    assert float((refit.rms**2).sum() / (fitted.rms**2).sum()) == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize(
    "begin",
    [
        (1, 4, 6 + 4),  # one term short
        (1, 2, 4, 6 + 0, 6 + 2, 6 + 4),  # two too many
        (1, 5, 6 + 2, 6 + 4),  # one wrong
    ],
)
def test_climbing_reaches_the_truth_from_wrong_supports(begin):
    finder, start = search()
    (fitted,) = finder.fit_starts([Start(begin, np.zeros(len(begin)), start)])
    assert fitted.support != TRUE
    best = finder.climb(fitted)
    assert best.support == TRUE
    assert best.ebic < fitted.ebic
    np.testing.assert_allclose(best.rms, 0.02, rtol=0.25)
    assert finder.visited[TRUE].ebic <= best.ebic + 1e-9


def test_proposals_differ_in_one_equation_only():
    finder, start = search()
    (fitted,) = finder.fit_starts([Start(TRUE, np.array([1.5, -1.0, -3.0, 1.0]), start)])
    proposals = [s for _, s in finder.propose(TRUE, finder.linearise(fitted))]
    first, second = set(TRUE[:2]), set(TRUE[2:])
    for support in proposals:
        same_first = {q for q in support if q < 6} == first
        same_second = {q for q in support if q >= 6} == second
        assert same_first != same_second
    drops = {TRUE[1:], (TRUE[0], *TRUE[2:]), (*TRUE[:2], TRUE[3]), TRUE[:3]}
    assert drops <= set(proposals)


def test_no_time_means_no_more_rounds():
    visited = []
    for seconds in (1e-9, 60.0):
        finder, start = search(seconds=seconds)
        (fitted,) = finder.fit_starts([Start(TRUE[:3], np.array([1.5, -1.0, -3.0]), start)])
        finder.climb(fitted)
        assert finder.budget.cut == (seconds < 1)
        visited.append(len(finder.visited))
    assert visited[0] <= 1 + 16  # the start, and the one group of candidates that was under way
    assert visited[1] > visited[0]
