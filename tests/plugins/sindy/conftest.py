"""Data that several tests of this plugin share."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import odekit

SYSTEMS = {
    "lotka_volterra": (
        lambda t, x: [1.5 * x[0] - x[0] * x[1], -3 * x[1] + x[0] * x[1]],
        10,
        (5, 2),
    ),
    "van_der_pol": (lambda t, x: [x[1], -x[0] + 1.2 * x[1] - 1.2 * x[0] ** 2 * x[1]], 20, (2.2, 0)),
    "damped": (lambda t, x: [x[1], -4.5 * x[0] - 0.43 * x[1]], 10, (1.2, 0.4)),
    "logistic": (lambda t, x: [0.8 * x[0] - 0.1067 * x[0] ** 2], 10, (0.3,)),
    "sir": (lambda t, x: [-0.9 * x[0] * x[1], 0.9 * x[0] * x[1] - 0.3 * x[1]], 25, (0.98, 0.02)),
}


def observed(name, noise, seed=0, n=150, drop=0.5, y0=None, names=None):
    """A series of a system: equidistant times, some dropped, additive noise."""
    field, end, start = SYSTEMS[name]
    t = np.linspace(0, end, n)
    start = start if y0 is None else y0
    clean = solve_ivp(field, (0, end), start, t_eval=t, rtol=1e-10, atol=1e-12).y.T
    generator = np.random.default_rng(seed)
    kept = np.sort(generator.permutation(n)[: n - int(drop * n)])
    rows = generator.standard_normal((len(kept), clean.shape[1]))
    return odekit.TimeSeries(t[kept], clean[kept] + noise * clean.std(0) * rows, names=names)


def structure(equations):
    """The terms as a set of pairs."""
    return {(term.equation, term.term) for term in equations.terms}


@pytest.fixture
def observe():
    return observed


@pytest.fixture
def structure_of():
    return structure


@pytest.fixture(scope="session")
def right_hand_side():
    return {name: row[0] for name, row in SYSTEMS.items()}
