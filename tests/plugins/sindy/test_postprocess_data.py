"""Trained fields with data: the field proposes, the data decide how many terms there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import odekit
from odekit import IncompatibleError, ProblemError, TimeSeries
from odekit_sindy.data import gather
from odekit_sindy.library import Library
from odekit_sindy.smoothing import smooth
from odekit_sindy.starts import start_models
from odekit_sindy.trained import follow

VAN_DER_POL = {("x0", "x1"), ("x1", "x0"), ("x1", "x1"), ("x1", "x0**2*x1")}
LOTKA_VOLTERRA = {("x0", "x0"), ("x0", "x0*x1"), ("x1", "x1"), ("x1", "x0*x1")}


class Flawed(torch.nn.Module):
    """A field with a smooth error of a given size, as a trained network has."""

    def __init__(self, field, size=0.1, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.field, self.size = field, size
        self.wave = torch.randn(2, 8, generator=generator, dtype=torch.float64)
        self.phase = 6 * torch.rand(8, generator=generator, dtype=torch.float64)
        self.mix = torch.randn(8, 2, generator=generator, dtype=torch.float64) / 2

    def forward(self, t, y):
        return self.field(t, y) + self.size * torch.sin(y @ self.wave + self.phase) @ self.mix


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, -x + 1.2 * v - 1.2 * x**2 * v], dim=-1)


def lotka_volterra(t, y):
    a, b = y.unbind(-1)
    return torch.stack([1.5 * a - a * b, -3 * b + a * b], dim=-1)


def solved(field, start, end, n=150):
    with torch.no_grad():
        return odekit.solve(
            field,
            torch.tensor(start, dtype=torch.float64),
            torch.linspace(0, end, n, dtype=torch.float64),
        )


CASES = {
    "van_der_pol": (van_der_pol, (2.2, 0.0), 20.0, VAN_DER_POL),
    "lotka_volterra": (lotka_volterra, (5.0, 2.0), 10.0, LOTKA_VOLTERRA),
}


@pytest.mark.parametrize("name", CASES)
def test_the_field_alone_gets_the_size_wrong_and_the_data_get_it_right(name, observe, structure_of):
    truth, start, end, terms = CASES[name]
    field = Flawed(truth)
    solution = solved(field, start, end)
    alone = odekit.postprocess(field, solution, "sindy", names=["x0", "x1"])
    assert structure_of(alone) > terms
    assert alone.diagnostics["judged_by"] == "field"
    assert not alone.confident
    assert any("judged by the field alone" in sentence for sentence in alone.warnings)
    series = observe(name, 0.05, n=120)
    solutions = None if name == "van_der_pol" else solution
    found = odekit.postprocess(field, solutions, "sindy", series=series, library=3)
    assert structure_of(found) == terms
    assert found.diagnostics["judged_by"] == "data"


def test_a_field_proposes_the_terms_where_a_smoother_cannot():
    """Four points an oscillation: the motion between them is lost on a smoother."""
    field = Flawed(van_der_pol, 0.05)
    t = torch.linspace(0, 50, 30, dtype=torch.float64)
    start = torch.tensor([2.0, 0.0], dtype=torch.float64)
    y = odekit.solve(van_der_pol, start, t, rtol=1e-9, atol=1e-9).y
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    series = TimeSeries(t, y + 0.03 * y.std(0) * noise)
    dataset = gather(series)
    library = Library(2, 3)
    names = library.terms(("x0", "x1"))

    def proposed(samples):
        start = start_models(samples, library, np.zeros((2, 1)))[0]  # size by cross-validation
        return {(f"x{q // library.size}", names[q % library.size]) for q in start.support}

    smoothed, _ = smooth(dataset, "additive")
    assert not proposed(smoothed[0].samples) >= VAN_DER_POL
    (samples,) = follow(field, [series], None).samples(*dataset.range)
    assert proposed(samples) >= VAN_DER_POL


def test_a_trained_network_and_the_data_it_was_trained_on(observe, structure_of):
    series = observe("lotka_volterra", 0.05, seed=1)
    fit = odekit.fit(odekit.create("field", "mlp", dim=2, width=12, depth=1), series)
    assert fit.series == (series,)
    found = odekit.postprocess(fit)
    assert structure_of(found) == LOTKA_VOLTERRA
    assert found.names == series.names


def test_a_hamiltonian_field_of_coordinate_and_momentum(structure_of):
    def energy(y):
        q, p = y[..., :1], y[..., 1:]
        return p**2 / 2 + q**2 / 2 + q**4 / 4 + 0.05 * torch.sin(2 * q + p)

    field = odekit.create("field", "hamiltonian", dim=1, energy=energy)

    def truth(t, y):
        q, p = y.unbind(-1)
        return torch.stack([p, -q - q**3], dim=-1)

    t = torch.linspace(0, 12, 60, dtype=torch.float64)
    y = odekit.solve(truth, torch.tensor([1.3, 0.0], dtype=torch.float64), t).y
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    series = TimeSeries(t, y + 0.05 * y.std(0) * noise, names=["q", "p"])
    terms = {("q", "p"), ("p", "q"), ("p", "q**3")}
    pair = tuple(part[None] for part in torch.tensor([1.3, 0.0], dtype=torch.float64))
    solution = odekit.solve(field, pair, t)  # a state of two tensors
    alone = odekit.postprocess(field, solution, "sindy", names=["q", "p"])
    assert structure_of(alone) != terms
    found = odekit.postprocess(field, solution, series=series, library=3)
    assert structure_of(found) == terms


def test_an_adapted_member_of_a_function_encoder(observe, structure_of):
    family = []
    for i, rate in enumerate((1.2, 1.35, 1.65, 1.8)):

        def member(t, y, rate=rate):
            a, b = y.unbind(-1)
            return torch.stack([rate * a - a * b, -3 * b + a * b], dim=-1)

        solution = solved(member, (5.0, 2.0 + 0.2 * i), 6.0, 60)
        family.append([TimeSeries(solution.t, solution.y)])
    encoder = odekit.create("field", "function_encoder", dim=2, basis=2, width=16, depth=1)
    fit = odekit.fit(encoder, family, steps=60)
    assert fit.series is None  # several systems, none of which is the field
    series = observe("lotka_volterra", 0.05, seed=2)
    adapted = fit.field.adapt(series)
    found = odekit.postprocess(adapted, series=series, library=2)
    assert structure_of(found) == LOTKA_VOLTERRA


def test_several_trajectories_and_missing_cells(observe, structure_of):
    parts = [
        observe("lotka_volterra", 0.05, seed=i, n=60, y0=y0)
        for i, y0 in enumerate([(5, 2), (2, 3)])
    ]
    y = parts[1].y.clone()
    y[:3, 0] = float("nan")
    y[::4, 1] = float("nan")
    parts[1] = TimeSeries(parts[1].t + 7.0, y)
    found = odekit.postprocess(Flawed(lotka_volterra), series=parts, library=2)
    assert structure_of(found) == LOTKA_VOLTERRA
    assert len(found.score) == 2


def test_the_optimizer_and_the_degree_are_taken_over(observe, structure_of):
    series = observe("lotka_volterra", 0.05, n=100)
    field = Flawed(lotka_volterra)
    found = odekit.postprocess(field, series=series, optimizer="stlsq", library=2)
    assert structure_of(found) == LOTKA_VOLTERRA
    assert "degree 2" in found.diagnostics["library"]
    found = odekit.postprocess(
        field, None, "discovery", series=series, library="polynomial", degree=2
    )
    assert structure_of(found) == LOTKA_VOLTERRA


def test_samples_stay_near_the_data(observe):
    series = observe("lotka_volterra", 0.02)

    def runs_away(t, y):
        return 0.5 * y

    trained = follow(runs_away, [series], None)
    low, high = series.y.numpy().min(0), series.y.numpy().max(0)
    assert max(trace.y.max() for trace in trained.traces) > 2 * high.max()
    (samples,) = trained.samples(low, high)
    assert (samples.x <= high + 0.5 * (high - low)).all()
    np.testing.assert_allclose(samples.dx, 0.5 * samples.x)


def test_what_does_not_fit_together_is_said(observe):
    series = observe("lotka_volterra", 0.05)
    driven = TimeSeries(series.t, series.y, u=torch.sin(series.t))
    field = odekit.create("field", "mlp", dim=3)
    with pytest.raises((IncompatibleError, ProblemError), match=r"3 states|2 \(x0|states"):
        odekit.postprocess(field, series=series)
    with pytest.raises(ProblemError, match="inputs"):
        odekit.postprocess(Flawed(lotka_volterra), series=driven)
    with pytest.raises(IncompatibleError, match="nothing to judge the field by"):
        odekit.postprocess(lotka_volterra)
    with pytest.raises(IncompatibleError, match="series must be a TimeSeries"):
        odekit.postprocess(lotka_volterra, series=[1, 2])
    import pysindy

    with pytest.raises(IncompatibleError, match="with series= the library is a degree"):
        odekit.postprocess(
            lotka_volterra, series=series, library=pysindy.PolynomialLibrary(degree=2)
        )


def test_a_post_processor_without_use_for_data_says_so(observe):
    class Plain(odekit.PostProcessor):
        def process(self, field, solutions):
            raise AssertionError

    with pytest.raises(IncompatibleError, match="Plain takes no data"):
        odekit.postprocess(
            lotka_volterra, processor=Plain(), series=observe("lotka_volterra", 0.05)
        )
