"""PySINDy's optimizers as sources of candidate supports for the search."""

from __future__ import annotations

import numpy as np
import pysindy
import pytest

import odekit
from odekit import ProblemError
from odekit_sindy.selection import supports_of

NAMES = ["stlsq", "sr3", "ssr", "frols"]
LOTKA_VOLTERRA = {("x0", "x0"), ("x0", "x0*x1"), ("x1", "x1"), ("x1", "x0*x1")}


def regression(noise=0.1, seed=0):
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((300, 12)) * np.logspace(-4, 4, 12)
    unit = a / a.std(0)
    y = 3 * unit[:, 2] - unit[:, 5] + 0.3 * unit[:, 9]
    return a, 1e5 * (y + noise * generator.standard_normal(300))


@pytest.mark.parametrize("name", NAMES)
def test_the_true_support_is_among_them_whatever_the_units(name):
    a, y = regression()
    found = supports_of(name)(a, y)
    assert found[3] == (2, 5, 9)
    assert all(len(support) == k for k, support in found.items())
    assert list(found) == sorted(found)
    assert max(found) <= 10


@pytest.mark.parametrize(
    "optimizer",
    [
        pysindy.STLSQ(threshold=100.0),
        pysindy.SR3(regularizer="L1", reg_weight_lam=50.0),
        pysindy.SSR(),
    ],
)
def test_an_object_keeps_its_settings_but_for_the_threshold(optimizer):
    a, y = regression()
    before = optimizer.get_params()
    assert supports_of(optimizer)(a, y)[3] == (2, 5, 9)
    assert str(optimizer.get_params()) == str(before)
    assert not hasattr(optimizer, "coef_")


def test_an_optimizer_without_a_threshold_is_run_as_it_is():
    class Picky(pysindy.STLSQ):
        def get_params(self, deep=True):
            return {}

    a, y = regression()
    assert set(supports_of(Picky())(a, y)) <= set(range(1, 11))


def test_an_optimizer_that_drops_everything_leaves_the_best_single_term():
    class Nothing(pysindy.STLSQ):
        def _reduce(self, x, y):
            self.coef_ = np.zeros((y.shape[1], x.shape[1]))

    a, y = regression()
    assert supports_of(Nothing())(a, y) == {1: (2,)}


@pytest.mark.parametrize("candidates", ["stlsq", pysindy.SR3()])
def test_the_search_begins_from_them(observe, structure_of, candidates):
    equations = odekit.discover(
        observe("lotka_volterra", 0.05, seed=2, n=100), candidates=candidates
    )
    assert structure_of(equations) == LOTKA_VOLTERRA


def test_the_supports_that_are_proposed_are_those_that_are_fitted(observe, monkeypatch):
    from odekit_sindy import discovery

    seen = []

    def only_the_first(a, y):
        seen.append(a.shape[1])
        return {1: (0,)}

    monkeypatch.setattr("odekit_sindy.selection.supports_of", lambda _: only_the_first)
    chosen = discovery.Discovery(candidates="stlsq", library="polynomial", degree=2)
    chosen.discover(observe("lotka_volterra", 0.05, n=80))
    assert set(seen) == {6}  # the fit of all linear terms is hopeless beside that of all products


def test_unknown_candidates_are_named():
    with pytest.raises(ProblemError, match="did you mean 'stlsq'"):
        odekit.create("postprocessor", "discovery", candidates="stslq")
    with pytest.raises(ProblemError, match="unknown candidates 3"):
        odekit.create("postprocessor", "discovery", candidates=3)
