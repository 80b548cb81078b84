"""Fits on disk: what is saved is what is loaded, and nothing in a file is run."""

from __future__ import annotations

import pickle

import pytest
import torch

import odekit

FIELDS = {
    "mlp": {"dim": 2, "width": 5, "time": True},
    "linear": {"dim": 2},
    "augmented": {"dim": 2, "lift": "learned", "width": 5},
    "second_order": {"dim": 1, "width": 5},
    "hamiltonian": {"dim": 1, "separable": True, "width": 5},
}


def fitted(name):
    t = torch.linspace(0.0, 2.0, 12, dtype=torch.float64)
    series = odekit.TimeSeries(t, 40 + 10 * torch.stack([t.cos(), -t.sin()], dim=1))
    return odekit.fit(odekit.create("field", name, **FIELDS[name]), series, iterations=2)


@pytest.mark.parametrize("name", FIELDS)
def test_a_loaded_fit_is_the_saved_one_units_included(name, tmp_path):
    fit = fitted(name)
    fit.save(tmp_path / "fit.pt")
    again = odekit.Fit.load(tmp_path / "fit.pt")
    assert type(again.field) is type(fit.field)
    assert again.loss == fit.loss
    assert again.history.equals(fit.history)
    x = torch.tensor([[41.0, 43.0]], dtype=torch.float64)
    t = torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(again.field(t, again.field.lift(x)), fit.field(t, fit.field.lift(x)))


def test_a_field_of_your_own_receives_its_weights(tmp_path):
    energy = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    field = odekit.create("field", "hamiltonian", dim=1, energy=energy)
    t = torch.linspace(0.0, 2.0, 12, dtype=torch.float64)
    fit = odekit.fit(field, odekit.TimeSeries(t, torch.stack([t.cos(), -t.sin()], 1)), iterations=2)
    fit.save(tmp_path / "fit.pt")
    with pytest.raises(odekit.ProblemError, match=r"Fit\.load\(path, field=\.\.\.\)"):
        odekit.Fit.load(tmp_path / "fit.pt")
    other = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    target = odekit.create("field", "hamiltonian", dim=1, energy=other)
    again = odekit.Fit.load(tmp_path / "fit.pt", field=target)
    assert again.field is target
    assert torch.equal(other[0].weight, energy[0].weight)
    wrong = odekit.create("field", "mlp", dim=2)
    with pytest.raises(odekit.ProblemError, match="does not fit"):
        odekit.Fit.load(tmp_path / "fit.pt", field=wrong)


def test_files_that_are_no_fits_are_refused_and_never_run(tmp_path):
    path = tmp_path / "fit.pt"
    with pytest.raises(odekit.ProblemError, match="there is no file"):
        odekit.Fit.load(path)
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(odekit.ProblemError, match="no file of weights"):
        odekit.Fit.load(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(odekit.ProblemError, match=r"not written by Fit\.save"):
        odekit.Fit.load(path)


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    fit = fitted("linear")
    with pytest.raises(odekit.ProblemError, match="cannot write"):
        fit.save(tmp_path / "missing" / "fit.pt")
    assert not list(tmp_path.iterdir())
