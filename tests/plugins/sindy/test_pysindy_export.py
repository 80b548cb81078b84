"""`Equations.to_pysindy`: PySINDy says what we say."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from odekit import DiscoveryError, Equations

VOLTERRA = Equations(
    ["hare", "lynx"],
    [
        ("hare", "hare", 0.561),
        ("hare", "2*hare*lynx", -0.0145),
        ("lynx", "lynx", -0.779),
        ("lynx", "hare*lynx", 0.0237),
        ("lynx", "1", 1e-3),
    ],
)
MIXED = Equations(
    ["x", "y"],
    [
        ("x", "sin(x)*u", 1.5),
        ("x", "1", 2.0),
        ("x", "x^2*y", -0.1),
        ("y", "exp(-y)/(1 + x^2)", 1.0),
        ("y", "x^2*y", -0.3),
    ],
    inputs=["u"],
)


def slopes(equations, rows, inputs=None):
    function = equations.function()
    if inputs is None:
        return np.array([function(0.0, row) for row in rows])
    return np.array([function(0.0, row, u) for row, u in zip(rows, inputs, strict=True)])


def test_polynomials():
    model = VOLTERRA.to_pysindy()
    rows = np.random.default_rng(0).uniform(1, 40, (30, 2))
    np.testing.assert_allclose(model.predict(rows), slopes(VOLTERRA, rows), rtol=1e-12)
    assert model.get_feature_names() == ["1", "hare", "lynx", "hare^2", "hare lynx", "lynx^2"]
    assert model.equations(3) == [" 0.561 hare + -0.029 hare lynx",
                                  " 0.001 1 + -0.779 lynx +  0.024 hare lynx"]  # fmt: skip
    assert model.coefficients().shape == (2, 6)
    assert model.coefficients()[0, 4] == 2 * -0.0145
    assert model.complexity == 5


def test_simulates_as_we_do():
    t = np.linspace(0, 5, 21)
    ours = VOLTERRA.simulate([30.0, 4.0], t).y.numpy()
    np.testing.assert_allclose(VOLTERRA.to_pysindy().simulate([30.0, 4.0], t), ours, rtol=1e-5)


def test_prints(capsys):
    VOLTERRA.to_pysindy().print()
    assert capsys.readouterr().out.splitlines()[0] == "(hare)' =  0.561 hare + -0.029 hare lynx"
    MIXED.to_pysindy().print(precision=2)
    assert capsys.readouterr().out.splitlines() == [
        "(x)' =  1.50 sin(x)*u +  2.00 1 + -0.10 x^2*y",
        "(y)' = -0.30 x^2*y +  1.00 exp(-y)/(1 + x^2)",
    ]


@pytest.mark.parametrize("equations", [VOLTERRA, MIXED], ids=["polynomial", "custom"])
def test_shows_itself(equations, capsys):
    model = equations.to_pysindy()
    for text in (repr(model), str(model)):
        assert text.startswith("SINDy(")
        assert f"feature_library={type(model.feature_library).__name__}(" in text
        assert "optimizer=STLSQ(" in text
    print(model)
    assert capsys.readouterr().out.startswith("SINDy(")
    assert model.get_params()["feature_library"] is model.feature_library


def test_scores_and_pickles():
    rows = np.random.default_rng(1).uniform(1, 40, (30, 2))
    model = pickle.loads(pickle.dumps(VOLTERRA.to_pysindy()))
    score = model.score(rows, t=np.arange(30.0), x_dot=slopes(VOLTERRA, rows))
    assert score == pytest.approx(1.0)


def test_other_terms_and_inputs():
    model = MIXED.to_pysindy()
    generator = np.random.default_rng(2)
    rows, inputs = generator.normal(size=(30, 2)), generator.normal(size=(30, 1))
    np.testing.assert_allclose(
        model.predict(rows, u=inputs), slopes(MIXED, rows, inputs), rtol=1e-12, atol=1e-12
    )
    assert model.get_feature_names() == ["sin(x)*u", "1", "x^2*y", "exp(-y)/(1 + x^2)"]
    score = model.score(rows, np.arange(30.0), slopes(MIXED, rows, inputs), inputs)
    assert score == pytest.approx(1.0)
    t = np.linspace(0, 2, 11)
    drive = lambda s: np.array([np.cos(s)])  # noqa: E731
    ours = MIXED.simulate([0.5, 0.2], t, lambda s: s.cos()[..., None]).y.numpy()
    np.testing.assert_allclose(model.simulate([0.5, 0.2], t, u=drive), ours, rtol=1e-5)


def test_polynomials_with_inputs_keep_the_polynomial_library():
    driven = Equations(["x"], [("x", "x*u^2", -1.0)], inputs=["u"])
    model = driven.to_pysindy()
    assert type(model.feature_library).__name__ == "PolynomialLibrary"
    found = model.predict(np.array([[2.0], [3.0]]), u=np.array([[3.0], [1.0]]))
    np.testing.assert_allclose(found, [[-18.0], [-3.0]])


def test_refuses_time_and_emptiness():
    with pytest.raises(DiscoveryError, match=r"PySINDy has no time .* x' has the term sin"):
        Equations(["x"], [("x", "sin(t)", 1.0)]).to_pysindy()
    with pytest.raises(DiscoveryError, match="no model without terms"):
        Equations(["x"], []).to_pysindy()
