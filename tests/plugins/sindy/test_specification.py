"""Probes outside of the library: their columns, what they find, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import odekit
from odekit import TimeSeries
from odekit_sindy.budget import Budget
from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.probes import _behind, _times
from odekit_sindy.search import Start, SubsetSearch
from odekit_sindy.shooting import Shooting
from odekit_sindy.specification import examine


def found(field, end, y0, support, noise=0.03, seed=0, degree=3, seen=2):
    """Findings for a structure fitted to the first states of a solution of ``field``."""
    rows = 90
    t = np.linspace(0, end, rows)
    x = solve_ivp(field, (0, end), y0, t_eval=t, rtol=1e-10, atol=1e-12).y.T[:, :seen]
    x = x / x.std(0)
    y = x + noise * np.random.default_rng(seed).standard_normal(x.shape)
    names = ("x", "y")[: x.shape[1]]
    data = Dataset((Trajectory(t, y, np.zeros((rows, 0))),), names)
    layout = arrange(data, (np.ones_like(y),))
    library = Library(x.shape[1], degree)
    search = SubsetSearch(Shooting(layout, library, 4), Budget(60.0))
    (fitted,) = search.fit_starts([Start(support, np.zeros(len(support)), layout.starts((x,)))])
    texts = library.terms(names)
    labels = [texts[q % library.size] for q in fitted.support]
    price = float(search.prices.max())
    return examine(search.shooting, fitted, names, labels, texts, price)


def test_a_right_answer_stands():
    result = found(lambda t, x: [0.8 * x[0] - 0.1 * x[0] ** 2], 10, (0.3,), (1, 2), 0.05)
    assert result.omitted == ()
    assert min(f.change for f in result.alike) > 6


def test_a_parabola_is_not_mistaken_for_a_logarithm():
    """Gompertz growth: a parabola fits to the noise, and so does the truth, with fewer terms."""
    result = found(
        lambda t, x: [0.5 * x[0] * np.log(10 / x[0])], 12, (0.3,), (0, 1, 2), 0.05, seed=1
    )
    best = result.alike[0]
    assert best.change < 2
    assert "logarithm" in best.probe
    assert best.kind == "form"


def test_dry_friction_looks_like_a_sign():
    size, x, y = 10, 1, 2
    result = found(
        lambda t, x: [x[1], -4 * x[0] - 0.4 * np.sign(x[1])],
        10,
        (2, 0),
        (y, size + x, size + y),
        0.01,
    )
    assert any(f.equation == "y" and "sign of y" in f.probe for f in result.omitted)


def test_a_drift_in_time_and_a_delay_are_named():
    size, x, y = 10, 1, 2
    drift = found(lambda t, x: [x[1], -(1 + 0.02 * t) * x[0]], 20, (1, 0), (y, size + x), 0.05)
    assert drift.omitted[0].kind == "time"
    assert drift.omitted[0].equation == "y"

    past = found(lambda t, x: [-x[1], x[0] - x[1]], 10, (1, 1), (1,), 0.03, seen=1)
    assert past.omitted[0].kind == "past"
    assert past.omitted[0].probe == "the past of x"


def test_every_doubled_column_is_left_out():
    """On data of one sign ``x |x|`` is ``x**2``: nothing is said about it."""
    result = found(lambda t, x: [0.8 * x[0] - 0.1 * x[0] ** 2], 10, (0.3,), (1, 2), 0.05)
    assert not any("|x|" in f.probe for f in result.alike)


def test_the_lag_is_exact_for_straight_lines():
    t = np.sort(np.random.default_rng(0).uniform(0, 5, 30))
    x = np.stack([2 * t, np.ones(30)], axis=1)
    lagged = _behind(t, x, 0.7)
    since = t - t[0]
    expected = 2 * t - 2 * 0.7 * (1 - np.exp(-since / 0.7))
    np.testing.assert_allclose(lagged[:, 0], expected, atol=1e-10)
    np.testing.assert_allclose(lagged[:, 1], 1.0)


def test_times_run_on_through_the_segments_of_a_trajectory():
    parts = [np.sort(np.random.default_rng(i).uniform(0, 9, 23)) for i in range(2)]
    data = Dataset(
        tuple(Trajectory(t - t[0], t[:, None] ** 0, np.zeros((23, 0))) for t in parts), ("x",)
    )
    layout = arrange(data, tuple(np.ones((23, 1)) for _ in parts))
    for rows, t in zip(layout.at_rows(_times(layout)[:, None]), parts, strict=True):
        np.testing.assert_allclose(rows[:, 0], t - t[0], atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_outside_of_the_library_nothing_is_certain(seed):
    t = np.linspace(0, 10, 75)
    y = solve_ivp(
        lambda s, x: [1 - np.sqrt(abs(x[0]))], (0, 10), (4.0,), t_eval=t, rtol=1e-9, atol=1e-11
    ).y.T
    y = y + 0.05 * y.std() * np.random.default_rng(seed).standard_normal(y.shape)
    equations = odekit.discover(TimeSeries(t, y, names=["level"]))
    assert not equations.confident
    assert equations.diagnostics["lookalikes"] or equations.diagnostics["omitted"]
