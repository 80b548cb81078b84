"""Fields that lift: velocities that nobody observed, and hidden states that mean nothing."""

from __future__ import annotations

import numpy as np
import pysindy
import pytest
import torch

import odekit
from odekit import ProblemError, TimeSeries
from odekit_sindy import pipeline, velocities
from odekit_sindy.data import Scales, gather, scaled
from odekit_sindy.kinematics import Kinematic
from odekit_sindy.layout import arrange
from odekit_sindy.neural import Network
from odekit_sindy.search import ebic
from odekit_sindy.trained import follow
from odekit_sindy.velocities import with_velocities

DUFFING = {("q", "v_q"), ("v_q", "q"), ("v_q", "v_q"), ("v_q", "q**3")}


def duffing(t, y):
    q, v = y.unbind(-1)
    return torch.stack([v, -q - q**3 - 0.2 * v], dim=-1)


def flawed(t, y):
    """The Duffing acceleration with a smooth error."""
    q, v = y[..., :1], y[..., 1:]
    return -q - q**3 - 0.2 * v + 0.3 * (torch.sin(1.2 * q + 0.5 * v) + torch.cos(0.7 * v - q))


def positions(seed=0, noise=0.05, start=2.0, n=100, unit=1.0, end=15.0):
    t = torch.linspace(0, end, n, dtype=torch.float64)
    first = torch.tensor([start, 0.0], dtype=torch.float64)
    y = odekit.solve(duffing, first, t, rtol=1e-9, atol=1e-9).y[:, :1]
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return TimeSeries(t, unit * (y + noise * y.std(0) * e), names=["q"])


def second_order(velocity="zero", acceleration=flawed):
    return odekit.create(
        "field", "second_order", dim=1, velocity=velocity, acceleration=acceleration
    )


def values(equations):
    return {(term.equation, term.term): term.value for term in equations.terms}


def test_positions_alone_decide_the_terms_of_a_field_of_second_order(structure_of):
    field, series = second_order(), positions()
    solution = odekit.solve(field, series.y[0], series.t)
    alone = odekit.postprocess(field, solution, "sindy", names=["q", "v_q"])
    assert structure_of(alone) > DUFFING
    for solutions in (None, solution):
        found = odekit.postprocess(field, solutions, series=series, library=3)
        assert structure_of(found) == DUFFING
        assert found.names == ("q", "v_q")
        assert found.diagnostics["judged_by"] == "data"
        assert found.diagnostics["hidden"] == ["v_q"]
        assert found.diagnostics["values"] == 100
        assert set(found.diagnostics["rms"]) == {"q"}
    truth = {("v_q", "q"): -1.0, ("v_q", "v_q"): -0.2, ("v_q", "q**3"): -1.0}
    for term in found.terms:
        if term.equation == "q":
            assert (term.value, term.stderr) == (pytest.approx(1.0), None)
        else:
            apart = abs(term.value - truth[term.equation, term.term])
            assert apart < 3 * term.stderr
    assert found.score[0] > 0.99


def test_units_change_nothing_but_the_numbers(structure_of):
    def acceleration(t, y):
        return 1e4 * flawed(t, 1e-4 * y)

    plain = odekit.postprocess(second_order(), series=positions(1), library=3)
    field = second_order(acceleration=acceleration)
    twin = odekit.postprocess(field, series=positions(1, unit=1e4), library=3)
    assert structure_of(plain) == structure_of(twin) == DUFFING
    assert values(twin)["v_q", "q"] == pytest.approx(values(plain)["v_q", "q"], rel=1e-3)
    cube = values(plain)["v_q", "q**3"]
    assert values(twin)["v_q", "q**3"] == pytest.approx(1e-8 * cube, rel=1e-3)


def test_two_trajectories_with_missing_cells_and_names(structure_of):
    one, two = positions(2, n=60), positions(3, n=60, start=1.0)
    y = two.y.clone()
    y[[0, 7, 8, 30]] = float("nan")
    series = [one, TimeSeries(two.t, y, names=["q"])]
    found = odekit.postprocess(second_order(), series=series, library=3, names=["x", "speed"])
    assert structure_of(found) == {
        ("x", "speed"),
        ("speed", "x"),
        ("speed", "speed"),
        ("speed", "x**3"),
    }
    assert len(found.score) == 2


def test_a_trained_field_of_second_order(structure_of):
    field = odekit.create("field", "second_order", dim=1, velocity="zero", width=12, depth=1)
    found = odekit.postprocess(odekit.fit(field, positions(3)))
    assert structure_of(found) == DUFFING


def test_velocities_that_were_observed_are_states_like_others(structure_of):
    t = torch.linspace(0, 15, 60, dtype=torch.float64)
    y = odekit.solve(duffing, torch.tensor([2.0, 0.0], dtype=torch.float64), t).y
    e = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    series = TimeSeries(t, y + 0.03 * y.std(0) * e, names=["q", "v_q"])
    found = odekit.postprocess(second_order("given"), series=series, library=3)
    assert structure_of(found) == DUFFING
    assert "hidden" not in found.diagnostics


def test_kinematics_are_recognised_and_coincidences_are_not():
    trained = follow(second_order(), [positions()], None)
    assert trained.lifted
    assert trained.velocities() == {0: 1}

    def turn(t, y):  # along a circle the slope of x is y, elsewhere it is not
        x, v = y.unbind(-1)
        return torch.stack([v * (x**2 + v**2), -x], dim=-1)

    field = odekit.create("field", "augmented", dim=1, extra=1, field=turn)
    start = torch.tensor([1.0], dtype=torch.float64)
    t = torch.linspace(0, 6, 50, dtype=torch.float64)
    solution = odekit.solve(field, start, t)
    series = TimeSeries(t, solution.y + 1e-3 * torch.cos(7 * t)[:, None], names=["x"])
    assert follow(field, [series], [solution]).velocities() is None


def test_hidden_states_with_coordinates_of_their_own_are_not_judged_by_data(structure_of):
    def inner(t, y):
        x, h = y.unbind(-1)
        return torch.stack([x - x * h, x - h], dim=-1)

    field = odekit.create("field", "augmented", dim=1, extra=1, field=inner)
    t = torch.linspace(0, 8, 40, dtype=torch.float64)
    solution = odekit.solve(field, torch.tensor([3.0], dtype=torch.float64), t)
    series = TimeSeries(t, solution.y + 0.01 * torch.sin(50 * t)[:, None], names=["x"])
    found = odekit.postprocess(field, series=series, library=2)
    assert structure_of(found) == {
        ("x", "x"),
        ("x", "x*hidden0"),
        ("hidden0", "x"),
        ("hidden0", "hidden0"),
    }
    assert found.diagnostics["judged_by"] == "field"
    assert not found.confident
    assert any("coordinates of the training's own choice" in text for text in found.warnings)


def test_the_criterion_takes_gaps_of_hidden_states_but_no_data_of_theirs():
    data = gather(positions())
    whole = with_velocities(data, ["q", "v"])
    layout = arrange(whole, tuple(np.ones_like(part.y) for part in whole.trajectories))
    plain = arrange(data, tuple(np.ones_like(part.y) for part in data.trajectories))
    assert layout.counts.tolist() == [100, 0]
    rss, gaps = np.array([0.3, 0.0]), np.array([0.01, 0.02])
    expected = ebic(plain, rss[:1], np.array([0.03]), 4.0)
    assert ebic(layout, rss, gaps, 4.0) == pytest.approx(expected)
    assert layout.mean_square(rss) == pytest.approx([0.003, 0.003])
    assert np.isfinite(layout.low).all()


def test_what_cannot_be_asked_of_positions_is_said():
    known = odekit.create("postprocessor", "discovery", forbidden=["q**2"])
    with pytest.raises(ProblemError, match="a field of second order"):
        known.process_data(second_order(), [positions()], None)


def test_names_that_do_not_name_the_states_of_the_field_are_refused(observe):
    series = observe("lotka_volterra", 0.05, names=["a", "b"])

    def field(t, y):
        return -y

    for names, message in (
        (["b", "a"], "keep the field's states"),
        (["a"], "keep the field's states"),
    ):
        with pytest.raises(ProblemError, match=message):
            odekit.postprocess(field, series=series, names=names)


def test_scaled_data_keep_their_empty_columns():
    whole = with_velocities(gather(positions()), ["q", "v"])
    half = scaled(whole, Scales(np.array([2.0, 3.0]), np.zeros(0), 1.0))
    assert np.isnan(half.stacked[:, 1]).all()
    low, high = half.range
    assert (low[1], high[1]) == (-3.0, 3.0)


def positions_of(noise, seed=0, proportional=False):
    """Positions of the Duffing oscillator with noise of one size, or in proportion to them."""
    series = positions(seed, 0.0)
    q = series.y[:, 0]
    e = torch.randn(len(q), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TimeSeries(
        series.t, (q + noise * e * (q if proportional else q.std()))[:, None], names=["q"]
    )


def test_residuals_settle_the_noise_of_positions_too(monkeypatch, structure_of):
    """Where the smoother speaks for the wrong noise model, the fitted model is asked again."""
    smooth = velocities.smooth

    def misled(*args):
        models, evidence = smooth(*args)
        return sorted(models, key=lambda model: model.kind != "additive"), evidence

    monkeypatch.setattr(velocities, "smooth", misled)
    series = positions_of(0.05, proportional=True)
    found = odekit.discover(series, hidden=["v_q"], known={"q": "v_q"}, degree=3)
    assert found.diagnostics["noise"] == "multiplicative"
    assert structure_of(found) == DUFFING
    plain = odekit.discover(positions_of(0.05), hidden=["v_q"], known={"q": "v_q"}, degree=3)
    assert plain.diagnostics["noise"] == "additive"


def test_candidates_of_positions_come_from_where_they_are_asked_for(monkeypatch, structure_of):
    seen = []

    class Watched(pysindy.STLSQ):
        def fit(self, x, y, **options):
            seen.append(x.shape)
            return super().fit(x, y, **options)

    asked = {"hidden": ["v_q"], "known": {"q": "v_q"}, "degree": 3}
    found = odekit.discover(positions(), candidates=Watched(alpha=1e-8), **asked)
    assert structure_of(found) == DUFFING
    assert 10 in {columns for _, columns in seen}  # functions of the rung that holds the cube


def test_a_network_of_positions_and_velocities_gives_further_starts(monkeypatch):
    given = []
    climb = pipeline.climb

    def watched(*args):
        given.append(args[-1])
        return climb(*args)

    monkeypatch.setattr(pipeline, "climb", watched)
    asked = {"hidden": ["v_q"], "known": {"q": "v_q"}, "degree": 3}
    odekit.discover(positions(), smoother="node", **asked)
    odekit.discover(positions(), **asked)
    (samples,), nothing = given[0], given[-1]
    assert not nothing
    q, v = samples.x.T
    assert np.abs(samples.dx[:, 0] - v).max() < 1e-9 * np.abs(v).max()
    force = -q - q**3 - 0.2 * v
    assert np.sqrt(np.mean((samples.dx[:, 1] - force) ** 2)) < 0.15 * force.std()


def test_slopes_that_are_known_are_passed_on_with_their_tangents():
    network = Network(np.zeros(2), np.ones(2), np.ones(2), 3)
    c = network.draw(np.random.default_rng(0), 2)
    models = network.models(c, np.zeros((2, 2, 1)))
    held = Kinematic(network, {0: (1, 2.5)})
    generator = np.random.default_rng(1)
    point, z = generator.normal(size=(2, 2, 4)), generator.normal(size=(2, 2, 2 + network.size, 4))
    (f, dz), (free, dfree) = (one.bind(models, True)(point, z) for one in (held, network))
    np.testing.assert_allclose(f[:, 0], 2.5 * point[:, 1])
    np.testing.assert_allclose(dz[:, 0], 2.5 * z[:, 1])
    np.testing.assert_allclose(f[:, 1], free[:, 1])
    np.testing.assert_allclose(dz[:, 1], dfree[:, 1])
    np.testing.assert_allclose(held.bind(models, False)(point, None)[0], f)
