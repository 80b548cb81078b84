"""Generated source: random terms must give in Python and C what the field gives."""

from __future__ import annotations

import ctypes
import random
import subprocess

import numpy as np
import pytest
import torch

from odekit import Equations, ProblemError
from odekit.formulas import parse

FUNCTIONS = ["sin", "cos", "tanh", "exp", "sqrt", "log", "abs", "sign", "atan", "cosh", "tan"]
POINT = {"x": 0.7, "y": 1.3, "t": 0.4}


def random_formula(generator, depth):
    """Text without a parenthesis too many, so that binding is put to the test as well."""
    kind = generator.random()
    if depth == 0 or kind < 0.15:
        numbers = ["2", "3", "0.5", "1e-05", "7.25"]
        return generator.choice(["x", "y", "t", "x", "y", *numbers])
    left = random_formula(generator, depth - 1)
    if kind < 0.3:
        return f"{generator.choice(FUNCTIONS)}({left})"
    if kind < 0.4:
        return f"(-{left})"
    if kind < 0.55:
        return f"({left})^{generator.choice(['2', '3', '-1', '-2', '0.5', '(-0.5)', '1.5', 'x'])}"
    right = random_formula(generator, depth - 1)
    return f"({left}) {generator.choice('+-*/')} ({right})"


@pytest.fixture(scope="module")
def equations():
    """Two hundred equations in ``x``, ``y`` and ``t``, finite at `POINT`."""
    generator, terms = random.Random(0), {}
    while len(terms) < 200:
        text = random_formula(generator, 4)
        try:
            expression = parse(text, POINT.fromkeys(POINT))
            value = complex(expression.subs(POINT).evalf())
        except (ProblemError, TypeError):
            continue
        if expression.free_symbols and 1e-6 < abs(value) < 1e6 and value.imag == 0:
            terms.setdefault(expression, (f"z{len(terms)}", text, generator.uniform(-2, 2)))
    return Equations(["x", "y", *[term[0] for term in terms.values()]], terms.values())


@pytest.fixture(scope="module")
def expected(equations):
    y = torch.ones(202, dtype=torch.float64)
    y[0], y[1] = POINT["x"], POINT["y"]
    slope = equations.field()(torch.tensor(POINT["t"], dtype=torch.float64), y).detach().numpy()
    values = [e.subs(POINT).evalf() for e in equations.sympy().values()]
    np.testing.assert_allclose(slope, np.array(values, dtype=float), rtol=1e-9)
    return y.numpy(), slope


def test_python(equations, expected):
    names = {}
    exec(equations.code("python"), names)
    y, slope = expected
    np.testing.assert_allclose(names["f"](POINT["t"], y), slope, rtol=1e-9)


def test_c(equations, expected, tmp_path):
    (tmp_path / "field.c").write_text(equations.code("c"))
    command = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", "field.so", "field.c", "-lm"], cwd=tmp_path, check=True)
    y, slope = expected
    found = (ctypes.c_double * 202)()
    function = ctypes.CDLL(str(tmp_path / "field.so")).f
    function(ctypes.c_double(POINT["t"]), (ctypes.c_double * 202)(*y), found)
    np.testing.assert_allclose(found[:], slope, rtol=1e-9)


def test_julia_writes_the_same_right_hand_sides_as_python(equations):
    """No Julia here: its text, with operators put into Python's, must be Python's text."""
    julia = [line.split(" = ")[1] for line in equations.code("julia").splitlines() if "dy[" in line]
    python = [line.strip().rstrip(",") for line in equations.code("python").splitlines()]
    python = python[python.index("return np.array([") + 1 : python.index("])")]
    assert len(julia) == 202
    for ours, theirs in zip(julia, python, strict=True):
        ours = ours.replace("y[1]", "x").replace("y[2]", "y_").replace("^", "**")
        assert ours == theirs.replace("np.", "").replace("arctan", "atan")
