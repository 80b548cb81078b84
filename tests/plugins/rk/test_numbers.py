"""Coefficients against SciPy, torchdiffeq and the published formulas, and the orders they have."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.integrate import DOP853, RK23, RK45

import odekit
from odekit import ButcherTableau, ProblemError, Trait
from odekit.tableau import rooted_trees, tree_density, tree_order

NAMES = [
    "euler",
    "midpoint",
    "heun",
    "ralston",
    "rk4",
    "rk38",
    "bosh3",
    "dopri5",
    "tsit5",
    "dopri8",
]


def lower(a, stages):
    matrix = np.zeros((stages, stages))
    for i, row in enumerate(a[:stages]):
        matrix[i, :i] = row
    return matrix


@pytest.mark.parametrize("name", NAMES)
def test_claims_follow_from_the_tableau(name):
    solver = odekit.create("solver", name)
    tableau = solver.tableau
    assert solver.order == tableau.order
    assert (Trait.FSAL in solver.traits) == tableau.fsal
    assert (Trait.ERROR_ESTIMATE in solver.traits) == (name not in ("euler", "rk4", "rk38"))
    with pytest.raises(ProblemError, match=f"condition of order {solver.order + 1}"):
        dataclasses.replace(tableau, order=solver.order + 1, e=(), dense=())


@pytest.mark.parametrize("name", ["midpoint", "heun", "ralston", "bosh3", "dopri5", "tsit5"])
def test_embedded_formulas_have_no_more_than_their_order(name):
    tableau = odekit.create("solver", name).tableau
    embedded = tuple(b - e for b, e in zip(tableau.b, tableau.e, strict=True))
    assert sum(tableau.e) == pytest.approx(0, abs=1e-16)
    with pytest.raises(ProblemError, match=f"b misses a condition of order {tableau.order}"):
        dataclasses.replace(tableau, b=embedded, e=(), dense=())


@pytest.mark.parametrize(("name", "peer"), [("bosh3", RK23), ("dopri5", RK45)])
def test_pairs_are_those_of_scipy(name, peer):
    tableau = odekit.create("solver", name).tableau
    stages = peer.n_stages
    np.testing.assert_allclose(tableau.c[:stages], peer.C, rtol=1e-15, atol=0)
    np.testing.assert_allclose(lower(tableau.a, stages)[:, : peer.A.shape[1]], peer.A, rtol=1e-15)
    np.testing.assert_allclose(tableau.b[:stages], peer.B, rtol=1e-15)
    # SciPy's sign is the other way round: it writes the embedded weights minus b.
    np.testing.assert_allclose(tableau.e, -peer.E, rtol=1e-15)


def test_dopri5_interpolates_like_scipy():
    powers = odekit.create("solver", "dopri5").tableau.dense
    np.testing.assert_allclose(powers, RK45.P, rtol=1e-15, atol=0)


def test_dopri5_keeps_the_original_error_weights():
    assert odekit.create("solver", "dopri5").tableau.e[-1] == -1 / 40


def test_dopri8_is_dop853():
    from odekit_rk import dop853

    coefficients = pytest.importorskip("scipy.integrate._ivp.dop853_coefficients")
    np.testing.assert_array_equal(dop853.NODES, coefficients.C)
    np.testing.assert_array_equal(lower(dop853.STAGES, 16), coefficients.A)
    np.testing.assert_array_equal(dop853.WEIGHTS, DOP853.B)
    np.testing.assert_array_equal(dop853.FIFTH, DOP853.E5)
    np.testing.assert_allclose(dop853.THIRD, DOP853.E3, rtol=0, atol=1e-16)
    corrections = np.zeros((4, 16))
    corrections[:, list(dop853.USED)] = dop853.CORRECTIONS
    np.testing.assert_array_equal(corrections, DOP853.D)


@pytest.mark.parametrize(("weights", "order"), [("FIFTH", 5), ("THIRD", 3)])
def test_dopri8_compares_with_formulas_of_order_five_and_three(weights, order):
    from odekit_rk import dop853
    from odekit_rk.dopri8 import Dopri8

    tableau = Dopri8.tableau
    errors = getattr(dop853, weights)
    embedded = tuple(b - e for b, e in zip(tableau.b, errors, strict=True))
    assert ButcherTableau(order=order, c=tableau.c, a=tableau.a, b=embedded).order == order
    with pytest.raises(ProblemError, match=f"condition of order {order + 1}"):
        ButcherTableau(order=order + 1, c=tableau.c, a=tableau.a, b=embedded)


def test_dopri8_dense_output_has_order_seven_and_not_eight():
    from odekit_rk.dopri8 import Dopri8

    with pytest.raises(ProblemError, match=r"dense at x = 0\.25 misses a condition of order 8"):
        dataclasses.replace(Dopri8.extended, dense_order=8)


def test_tsit5_interpolates_with_the_published_factors():
    published = [
        lambda x: (
            -1.0530884977290216
            * x
            * (x - 1.3299890189751412)
            * (x * x - 1.4364028541716351 * x + 0.7139816917074209)
        ),
        lambda x: 0.1017 * x * x * (x * x - 2.1966568338249754 * x + 1.2949852507374631),
        lambda x: (
            2.490627285651252793 * x * x * (x * x - 2.38535645472061657 * x + 1.57803468208092486)
        ),
        lambda x: (
            -16.54810288924490272 * (x - 1.21712927295533244) * (x - 0.61620406037800089) * x * x
        ),
        lambda x: (
            47.37952196281928122 * (x - 1.203071208372362603) * (x - 0.658047292653547382) * x * x
        ),
        lambda x: -34.87065786149660974 * (x - 1.2) * (x - 0.666666666666666667) * x * x,
        lambda x: 2.5 * (x - 1) * (x - 0.6) * x * x,
    ]
    tableau = odekit.create("solver", "tsit5").tableau
    for x in np.linspace(0, 1, 11):
        want = [weight(x) for weight in published]
        got = np.array(tableau.dense) @ x ** np.arange(1, 5)
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-14)
    np.testing.assert_allclose(np.sum(tableau.dense, axis=1), tableau.b, rtol=0, atol=3e-14)


def test_tsit5_has_the_published_weights():
    tableau = odekit.create("solver", "tsit5").tableau
    b = (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081,
         2.324710524099774, 0)  # fmt: skip
    e = (0.001780011052226, 0.000816434459657, -0.007880878010262, 0.144711007173263,
         -0.582357165452555, 0.458082105929187, -1 / 66)  # fmt: skip
    np.testing.assert_allclose(tableau.b, b, rtol=2e-16)
    np.testing.assert_allclose(tableau.e, e, rtol=0, atol=1e-15)
    np.testing.assert_allclose(tableau.c[4], 0.9800255409045097, rtol=1e-16)


def test_tsit5_is_more_accurate_than_dopri5_at_order_six():
    # The norm of the conditions of order six, weighted by the symmetry of the trees, is what the
    # pair was optimised for.
    norms = {}
    for name in ("dopri5", "tsit5"):
        tableau = odekit.create("solver", name).tableau
        a = lower(tableau.a, tableau.stages)
        total = 0.0
        for tree in rooted_trees(6):
            if tree_order(tree) == 6:
                miss = np.array(tableau.b) @ stage_weights(tree, a) - 1 / tree_density(tree)
                total += (miss / symmetry(tree)) ** 2
        norms[name] = math.sqrt(total)
    assert norms["dopri5"] == pytest.approx(3.99e-4, rel=0.01)
    assert norms["tsit5"] < norms["dopri5"] / 2


def stage_weights(tree, a):
    weights = np.ones(len(a))
    for branch in tree:
        weights = weights * (a @ stage_weights(branch, a))
    return weights


def symmetry(tree):
    product = 1
    for branch in set(tree):
        count = tree.count(branch)
        product *= math.factorial(count) * symmetry(branch) ** count
    return product


@pytest.mark.parametrize(("name", "module"), [("dopri5", "dopri5"), ("bosh3", "bosh3")])
def test_stages_are_those_of_torchdiffeq(name, module):
    pytest.importorskip("torchdiffeq")
    import importlib

    peer = importlib.import_module(f"torchdiffeq._impl.{module}")
    (numbers,) = [v for v in vars(peer).values() if type(v).__name__ == "_ButcherTableau"]
    tableau = odekit.create("solver", name).tableau
    np.testing.assert_allclose(tableau.c[1:], numbers.alpha.numpy(), rtol=1e-15)
    for row, other in zip(tableau.a[1:], numbers.beta, strict=True):
        np.testing.assert_allclose(row, other.numpy(), rtol=1e-15)
    np.testing.assert_allclose(tableau.b, numbers.c_sol.numpy(), rtol=1e-15)
