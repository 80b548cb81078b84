"""Data that are ordinary in a laboratory and hard on numerics: offsets, rest, sparse rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import odekit
from odekit import TimeSeries
from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.holdout import kept_out
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.shooting import Shooting


def structure(equations: odekit.Equations) -> set[tuple[str, str]]:
    return {(term.equation, term.term) for term in equations.terms}


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_a_state_at_rest_in_noise_is_no_confident_structure(seed):
    noise = 0.1 * np.random.default_rng(seed).standard_normal((60, 1))
    found = odekit.discover(TimeSeries(np.linspace(0, 10, 60), 2 + noise))
    assert not found.confident


def test_inputs_between_the_observed_rows_are_followed():
    t = np.linspace(0, 20, 401)
    u = np.sin(6 * t)
    solved = solve_ivp(
        lambda s, y: -y + 2 * np.sin(6 * s), (0, 20), [1.0], t_eval=t, rtol=1e-10, atol=1e-12
    )
    y = np.full((401, 1), np.nan)
    y[::8, 0] = solved.y[0, ::8] + 0.002 * np.random.default_rng(0).standard_normal(51)
    found = odekit.discover(TimeSeries(t, y, u, names=["x"], input_names=["u"]), degree=2)
    assert structure(found) == {("x", "x"), ("x", "u")}
    for term, truth in zip(found.terms, (-1.0, 2.0), strict=True):
        # Straight lines between the rows cut a sine's crests by (6 * 0.05)**2 / 12.
        assert term.value == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_a_state_far_from_zero_keeps_its_small_terms(offset):
    t = np.linspace(0, 12, 150)
    solved = solve_ivp(
        lambda s, y: [y[1], -4 * (y[0] - offset) - 0.3 * y[1]],
        (0, 12),
        [offset + 30, 0.0],
        t_eval=t,
        rtol=1e-10,
        atol=1e-10,
    )
    clean = solved.y.T
    noise = 0.02 * clean.std(0) * np.random.default_rng(0).standard_normal(clean.shape)
    found = odekit.discover(TimeSeries(t, clean + noise, names=["p", "v"]), degree=1)
    wanted = {("p", "v"), ("v", "p"), ("v", "v")}
    assert structure(found) == (wanted | {("v", "1")} if offset else wanted)
    assert found.confident


def test_a_prediction_that_is_far_off_is_doubted_and_numbered_as_given():
    def fall(rate: float, start: float, seed: int) -> TimeSeries:
        t = np.linspace(0, 8, 60)
        clean = 50 + (start - 50) * np.exp(-rate * t)
        noise = 0.1 * np.random.default_rng(seed).standard_normal(60)
        return TimeSeries(t, clean + noise, names=["v"])

    rest = TimeSeries(np.linspace(0, 8, 60), np.full(60, 50.0), names=["v"])
    series = [rest, fall(1.0, 10.0, 0), fall(1.0, 80.0, 1), fall(1.6, 20.0, 2)]
    found = odekit.discover(series, holdout=3, degree=1, noise="additive")
    assert not found.confident
    assert any("does not predict trajectory 3" in sentence for sentence in found.warnings)


def test_errors_of_predictions_are_in_units_of_the_noise():
    """Far from zero the noise models agree on every level, so they must agree on the errors."""
    t = np.linspace(0, 6, 60)
    learned, other = ((50 + k * np.exp(-t))[:, None] for k in (5.0, 8.0))
    wrong = other + 0.3 * np.sin(5 * t)[:, None]
    parts = [Trajectory(t, y, np.zeros((60, 0))) for y in (learned, wrong)]
    shooting = Shooting(
        arrange(Dataset((parts[0],), ("x",)), (np.ones_like(learned),)), Library(1, 1), 4
    )
    c, held = np.array([50.0, -1.0]), Dataset((parts[1],), ("x",))
    errors = [
        kept_out(shooting, (0, 1), c, held, kind, [0], np.ones(1), np.zeros((2, 2)))
        for kind in ("additive", "multiplicative", "log-normal")
    ]
    assert errors[0].error[0, 0] == pytest.approx(0.3 / np.sqrt(2), rel=0.2)
    for other in errors[1:]:
        assert other.error[0, 0] == pytest.approx(errors[0].error[0, 0], rel=0.1)
