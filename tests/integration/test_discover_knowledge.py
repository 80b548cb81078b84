"""``odekit discover`` with what the user knows: options, report, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import odekit
from odekit.cli.frame import run
from odekit.report.notation import mathml


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a damped oscillator, whole and with its positions alone."""
    monkeypatch.chdir(tmp_path)
    t = np.linspace(0, 12, 60)
    x = np.exp(-0.2 * t) * np.cos(1.5 * t)
    v = np.gradient(x, t, edge_order=2)
    x += 0.01 * np.random.default_rng(0).standard_normal(len(t))
    odekit.TimeSeries(t, np.c_[x, v], names=["x", "v"]).write("whole.csv")
    odekit.TimeSeries(t, x, names=["x"]).write("positions.csv")
    return tmp_path


QUICK = ("--library", "polynomial", "--degree", "1", "--noise", "additive")
UNITS = ("--unit", "x=m", "--unit", "v=m/s", "--unit", "t=s")


def test_what_is_known_reaches_the_search_and_the_report(folder, capsys):
    options = ["--known", "x' = v", "--force", "v in v", "--constraint", "c[v, x] < 0", *UNITS]
    assert run(["discover", "whole.csv", *QUICK, *options, "--out", "out"]) == 0
    shown = capsys.readouterr().out
    assert "given" in shown
    assert "1/s^2" in shown
    page = (folder / "out/report.html").read_text("utf-8")
    assert ">given<" in page.replace("<span>", "").replace("</span>", "")
    assert "1/s^2" in page
    assert "--force &#x27;v in v&#x27;" in page
    equations = odekit.Equations.load(folder / "out/equations.json")
    assert [(t.term, t.value) for t in equations.terms if t.equation == "x"] == [("v", 1.0)]
    assert {t.term for t in equations.terms if t.equation == "v"} == {"x", "v"}


def test_velocities_may_be_hidden(folder, capsys):
    options = ["--hidden", "v", "--known", "dx/dt = v", *QUICK]
    assert run(["discover", "positions.csv", *options, "--json", "--out", "out"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["diagnostics"]["hidden"] == ["v"]
    values = {(c["equation"], c["term"]): c["value"] for c in found["coefficients"]}
    assert values["v", "x"] == pytest.approx(-(1.5**2 + 0.2**2), rel=0.05)
    assert values["v", "v"] == pytest.approx(-0.4, rel=0.1)
    assert len(list((folder / "out").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["--known", "x = v"], "'x = v' is no equation", 1),
        (["--known", "y' = x"], "--known: there is no state 'y'", 1),
        (["--forbid", "x in w"], "--forbid: there is no state 'w'", 1),
        (["--constraint", "c[x, x] < 2"], "--constraint: 'c[x, x] < 2' is neither", 1),
        (["--term", "sin(z)"], "--term: ", 1),
        (["--unit", "x"], "--unit takes name=unit", 2),
        (["--unit", "x=m", "--unit", "x=s"], "--unit gives 'x' twice", 2),
        ([*UNITS, "--term", "sin(x)"], "takes x in m, but needs a plain number", 1),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(folder, capsys, options, message, code):
    before = sorted(folder.iterdir())
    assert run(["discover", "whole.csv", *options]) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(folder.iterdir()) == before


def test_a_given_coefficient_of_one_is_not_written():
    equations = odekit.Equations(["x", "v"], [("x", "v", 1.0), ("v", "x", -1.0, 0.1)])
    first, second = mathml(equations, "t").split("</mtr>")[:2]
    assert "<mn>1</mn>" not in first
    assert "<mn>1.00</mn>" in second
