"""Gradient descent through the solver: it learns, it resumes bit for bit, it stops early."""

from __future__ import annotations

import math

import pytest
import torch

import odekit

DOUBLE = torch.float64


def decay(n, end, y0=1.0, noise=0.0, seed=0):
    """dx/dt = -0.7 x at irregular times."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(n - 1, generator=generator, dtype=DOUBLE).sort().values * end
    t = torch.cat([torch.zeros(1, dtype=DOUBLE), times])
    y = y0 * torch.exp(-0.7 * t)
    y = y + noise * torch.randn(n, generator=generator, dtype=DOUBLE)
    return odekit.TimeSeries(t, y)


SERIES = [decay(12, 2.0), decay(7, 3.0, y0=-2.0, seed=1)]


def small(**options):
    return odekit.create("field", "mlp", dim=1, width=5, depth=1, **options)


def train(field, **options):
    return odekit.fit(field, SERIES, trainer="adam", **{"steps": 12, "every": 3, **options})


def test_the_rate_is_learned_from_trajectories_of_different_lengths_and_times():
    field = odekit.create("field", "linear", dim=1)
    fit = odekit.fit(field, SERIES, trainer="adam", match=False, steps=120, rate=0.05)
    assert field.weight.item() == pytest.approx(-0.7, abs=0.01)
    assert fit.loss < 1e-3
    assert fit.history["loss"].iloc[-1] < 0.01 * fit.history["loss"].iloc[0]
    assert fit.history["horizon"].is_monotonic_increasing


def test_gradients_of_the_first_step_match_finite_differences():
    from odekit_training.adam import Adam, _Descent
    from odekit_training.observations import observe

    field = small(dtype="float64")
    options = Adam(match=False, rtol=1e-9, atol=1e-11)
    run = _Descent(options, field, observe(SERIES), lambda *state: None)
    loss, _ = run._losses(1.0)
    loss.backward()
    for weight in [*field.parameters(), run.shift]:
        flat, grad = weight.detach().view(-1), weight.grad.view(-1)
        values = []
        for step in (1e-5, -1e-5):
            flat[0] += step
            values.append(float(run._losses(1.0)[0].detach()))
            flat[0] -= step
        assert float(grad[0]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_an_interrupted_run_resumes_to_the_same_numbers(tmp_path):
    path = tmp_path / "run.pt"
    whole = train(small())

    class Enough(Exception):
        pass

    def stop(done, total, loss):
        if done == 7:
            raise Enough

    with pytest.raises(Enough):
        train(small(), checkpoint=path, progress=stop)
    again = train(small(seed=5), checkpoint=path, resume=True)  # its own weights do not count
    assert again.loss == whole.loss
    assert again.history.equals(whole.history)
    for a, b in zip(whole.field.parameters(), again.field.parameters(), strict=True):
        assert torch.equal(a, b)


def test_resuming_with_other_options_or_from_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(small(), checkpoint=path)
    with pytest.raises(odekit.ProblemError, match="made with other steps"):
        train(small(), checkpoint=path, resume=True, steps=50)
    foreign = tmp_path / "text.pt"
    foreign.write_text("nothing")
    with pytest.raises(odekit.ProblemError, match="no file of weights"):
        train(small(), checkpoint=foreign, resume=True)
    with pytest.raises(odekit.ProblemError, match="needs checkpoint=PATH"):
        train(small(), resume=True)


def test_resuming_without_a_file_starts_at_the_beginning(tmp_path):
    fit = train(small(), checkpoint=tmp_path / "new.pt", resume=True)
    assert len(fit.history) == 12
    assert (tmp_path / "new.pt").exists()


def test_training_stops_when_the_held_out_values_stop_improving_and_keeps_the_best():
    field = odekit.create("field", "linear", dim=1)
    noisy = decay(40, 3.0, noise=0.05, seed=4)
    fit = odekit.fit(
        field, noisy, trainer="adam", steps=400, patience=15, rate=0.03, held_out=0.3, match=False
    )
    assert len(fit.history) < 400
    full = fit.history[fit.history["horizon"] == 1.0]
    assert full["held_out"].min() > (1 - 2e-3) * full["held_out"].iloc[-16]
    assert field.weight.item() == pytest.approx(-0.7, abs=0.1)


def test_hidden_states_are_lifted_and_dropped():
    field = odekit.create("field", "second_order", dim=1, velocity="learned", width=5)
    fit = train(field)
    assert math.isfinite(fit.loss)
    assert all(p.isfinite().all() for p in field.parameters())


def test_a_field_that_blows_up_is_survived():
    class Explode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.size = torch.nn.Parameter(torch.tensor(30.0, dtype=DOUBLE))

        def forward(self, t, y):
            return self.size * y**2

    field = Explode()
    fit = train(field, match=False, steps=5)
    assert field.size.isfinite()
    assert len(fit.history) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer"),
        ({"held_out": 1.0}, "held_out must lie in"),
        ({"rate": -1.0}, "rate must be positive"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(odekit.ProblemError, match=message):
        train(small(), **options)
