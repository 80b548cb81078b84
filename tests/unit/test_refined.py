"""Formulas with fitted parameters: every reading says the same."""

from __future__ import annotations

import ctypes
import subprocess

import numpy as np
import pytest
import sympy
import torch
from scipy.stats import norm

from odekit import Parameter, ProblemError, Refined

FORMULAS = {"s": "-vmax*s/(km + s) + u^1.5", "p": "vmax*s/(km + s) - k*p*sin(t)"}
VALUES = {"vmax": 1.5, "km": 1 / 3, "k": 2.5e-3}


@pytest.fixture
def refined():
    rows = [("vmax", 1.5, 0.1), ("km", 1 / 3, None), ("k", 2.5e-3, 0.0, True)]
    return Refined(
        FORMULAS, rows, inputs=["u"], covariance=np.diag([0.01, np.nan, 0]),
        starts=[[1.0, 0.1]], score=[0.99], warnings=["doubtful"], diagnostics={"n": np.int64(3)},
    )  # fmt: skip


def slope(t, y, u):
    s, p = y
    rate = 1.5 * s / (1 / 3 + s)
    return np.array([-rate + u[0] ** 1.5, rate - 2.5e-3 * p * np.sin(t)])


def test_text(refined):
    assert str(refined).splitlines() == [
        "s' = -s*vmax/(km + s) + u^(3/2)",
        "p' = -k*p*sin(t) + s*vmax/(km + s)",
        "vmax = 1.5 +- 0.1",
        "km = 0.3333",
        "k = 0.0025 (held)",
    ]


def test_parameters(refined):
    table = refined.parameters
    assert list(table) == ["value", "stderr", "low", "high", "held"]
    assert list(table.index) == list(VALUES)
    assert table["value"].to_dict() == refined.values == VALUES
    assert table.loc["vmax", "high"] == pytest.approx(1.5 + norm.ppf(0.975) * 0.1)
    assert table.loc["km", ["stderr", "low", "high"]].isna().all()
    assert table["held"].tolist() == [False, False, True]


def test_sympy(refined):
    s, km, vmax = sympy.symbols("s km vmax")
    assert refined.sympy()["s"].subs({"s": 1.0, "u": 0.0}) == pytest.approx(-1.5 / (4 / 3))
    assert refined.sympy(values=False)["s"].diff(vmax) == -s / (km + s)


def test_every_reading_gives_the_same_slope(refined, tmp_path):
    y, u, t = np.array([0.7, 1.9]), np.array([1.3]), 0.4
    expected = slope(t, y, u)
    np.testing.assert_allclose(refined.function()(t, y, u), expected, rtol=1e-14)
    tensors = [torch.tensor(v, dtype=torch.float64) for v in (t, y, u)]
    np.testing.assert_allclose(refined.field()(*tensors).detach(), expected, rtol=1e-14)
    path = tmp_path / "field.c"
    path.write_text(refined.code("c"))
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "field.so", path, "-lm"], check=True)
    found = (ctypes.c_double * 2)()
    ctypes.CDLL(str(tmp_path / "field.so")).f(
        ctypes.c_double(t), (ctypes.c_double * 2)(*y), (ctypes.c_double * 1)(*u), found
    )
    np.testing.assert_allclose(found[:], expected, rtol=1e-14)


def test_the_field_is_trainable(refined):
    field = refined.field()
    y = torch.tensor([0.7, 1.9], dtype=torch.float64)
    field(torch.tensor(0.4), y, torch.ones(1)).sum().backward()
    assert {name for name, p in field.named_parameters() if p.grad is not None} == {
        f"parameter_{name}" for name in VALUES
    }


def test_simulates(refined):
    t = np.linspace(0, 2, 11)
    solution = refined.simulate(refined.starts[0], t, np.zeros(11))
    assert solution.success
    assert float(solution.y[-1, 0]) < 1.0
    with pytest.raises(ProblemError, match=r"y0 must have 2 components \(s, p\)"):
        refined.simulate([1.0], t, np.zeros(11))


def test_latex(refined):
    text = refined.latex()
    assert text.startswith("\\begin{aligned}")
    assert r"\frac{d s}{d t} &=" in text


def test_saves_and_loads_exactly(refined, tmp_path):
    path = tmp_path / "m.json"
    refined.save(path)
    again = Refined.load(path)
    assert str(again) == str(refined)
    assert again.values == refined.values
    np.testing.assert_array_equal(again.covariance, refined.covariance)
    np.testing.assert_array_equal(again.starts, refined.starts)
    keys = ("formulas", "inputs", "time", "score", "warnings", "confident", "diagnostics")
    assert all(getattr(again, key) == getattr(refined, key) for key in keys)
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no refined formulas: name a file that odekit.Refined.save wrote"),
        ('{"format": "odekit.equations"}', "equations, which odekit.Equations.load reads"),
        ('{"format": "odekit.refined", "version": 9}', "has version 9 of the format"),
        ('{"format": "odekit.refined", "version": 1}', "is damaged: the file lacks 'formulas', 'p"),
    ],
)
def test_load_refuses(tmp_path, text, message):
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(ProblemError) as refused:
        Refined.load(path)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("formulas", "rows", "options", "message"),
    [
        ({}, [], {}, "there is no state"),
        ({"x": "k*x"}, [], {}, "'k' is not known"),
        ({"x": "k*x"}, [("x", 1.0)], {}, "'x' names two things"),
        ({"x": "k*x"}, [Parameter("k", float("nan"))], {}, "k is nan"),
        ({"x": "k*x"}, [Parameter("k", 1.0, -1.0)], {}, "the standard error of k is -1.0"),
        ({"x": "k*x"}, [("k", 1.0)], {"covariance": [1.0]}, "covariance must have shape (1, 1)"),
    ],
)
def test_refuses(formulas, rows, options, message):
    with pytest.raises(ProblemError) as refused:
        Refined(formulas, rows, **options)
    assert message in str(refused.value)
