"""Files of equations and of refined formulas: back to the last digit, or one clear line."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

from odekit import Equations, ProblemError, Refined, Term
from odekit.equations import Alternative


def equations():
    plain = Equations(["x"], [("x", "x", -1 / 3)])
    return Equations(
        ["x", "y"], [Term("x", "x*y", 0.1, 1e-3, 0.9), Term("y", "1/(1 + 2*x)", -2e-17)],
        inputs=["u"], time="year", covariance=[[1e-6, np.nan], [0.0, np.inf]], score=[0.9],
        degrees_of_freedom=20 / 3, confident=True, warnings=["a"],
        alternatives=[Alternative(plain, 0.25, -3.5)],
        diagnostics={"range": {"x": [0.1, 2]}, "n": np.int64(3), "all": np.arange(2)},
    )  # fmt: skip


def refined():
    return Refined(
        {"x": "-k*x + u", "y": "k/(1 + b*year)"}, [("k", 1 / 3, 0.1), ("b", 2.0, None, True)],
        inputs=["u"], time="year", covariance=np.eye(2), starts=[[0.1, np.nan]], score=[0.9],
        degrees_of_freedom=20 / 3, confident=True, warnings=["a"],
        diagnostics={"all": np.arange(2)},
    )  # fmt: skip


MAKE = {Equations: equations, Refined: refined}


@pytest.mark.parametrize("kind", [Equations, Refined])
def test_round_trip(kind, tmp_path):
    path = tmp_path / "m.json"
    MAKE[kind]().save(path)
    first = path.read_bytes()
    again = kind.load(path)
    again.save(path)
    assert path.read_bytes() == first
    assert str(again) == str(MAKE[kind]())
    assert again.confident
    np.testing.assert_array_equal(again.covariance, MAKE[kind]().covariance)
    assert again.degrees_of_freedom == 20 / 3


@pytest.mark.parametrize("kind", [Equations, Refined])
def test_files_from_before_the_degrees_of_freedom_are_read(kind, tmp_path):
    path = tmp_path / "m.json"
    MAKE[kind]().save(path)
    content = json.loads(path.read_text())
    del content["degrees_of_freedom"]
    for alternative in content.get("alternatives", []):
        del alternative["equations"]["degrees_of_freedom"]
    path.write_text(json.dumps(content))
    again = kind.load(path)
    assert again.degrees_of_freedom is None
    assert str(again) == str(MAKE[kind]())


@pytest.mark.parametrize("kind", [Equations, Refined])
def test_every_entry_that_is_missing_is_named(kind, tmp_path):
    path = tmp_path / "m.json"
    MAKE[kind]().save(path)
    whole = json.loads(path.read_text())
    assert len(whole) > 10
    newer = ("format", "version", "degrees_of_freedom")
    for name in [name for name in whole if name not in newer]:
        path.write_text(json.dumps({key: v for key, v in whole.items() if key != name}))
        with pytest.raises(ProblemError) as refused:
            kind.load(path)
        message = str(refused.value)
        assert str(path) in message
        assert f"the file lacks {name!r}" in message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (Equations, lambda c: c["terms"][1].pop("value"), "term 1 lacks 'value'"),
        (Equations, lambda c: c.update(terms="x"), "terms must be a list, got 'x'"),
        (Equations, lambda c: c.update(terms=[3]), "term 0 must be an object, got '3'"),
        (Equations, lambda c: c["alternatives"][0].pop("weight"), "alternative 0 lacks 'weight'"),
        (
            Equations,
            lambda c: c["alternatives"][0]["equations"].pop("names"),
            "alternative 0 lacks 'names'",
        ),
        (Equations, lambda c: c.update(covariance=[[1.0]]), "covariance must have shape (2, 2)"),
        (Equations, lambda c: c.update(names=[]), "at least one state"),
        (Equations, lambda c: c["terms"][0].update(value="many"), "damaged"),
        (
            Equations,
            lambda c: c.update(degrees_of_freedom=0),
            "degrees_of_freedom must be a finite number above 0, got 0",
        ),
        (Refined, lambda c: c.update(degrees_of_freedom="many"), "finite number above 0"),
        (Refined, lambda c: c["parameters"][0].pop("held"), "parameter 0 lacks 'held'"),
        (Refined, lambda c: c.update(parameters={}), "parameters must be a list"),
        (Refined, lambda c: c["formulas"].update(x="exec(1)"), "is not a known function"),
        (Refined, lambda c: c.update(formulas=3), "damaged"),
        (Refined, lambda c: c.update(starts=[[1.0]]), "damaged"),
    ],
)
def test_what_is_damaged_is_told_in_one_line(kind, change, words, tmp_path):
    path = tmp_path / "m.json"
    MAKE[kind]().save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ProblemError) as refused:
        kind.load(path)
    message = str(refused.value)
    assert message.startswith(f"path: {str(path)!r} is damaged: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", [Equations, Refined])
def test_a_file_that_was_cut_short(kind, tmp_path):
    path = tmp_path / "m.json"
    MAKE[kind]().save(path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ProblemError, match="is not JSON"):
        kind.load(path)


@pytest.mark.parametrize("kind", [Equations, Refined])
def test_what_json_cannot_hold(kind, tmp_path):
    made = MAKE[kind]()
    made.diagnostics["bad"] = {1, 2}
    with pytest.raises(ProblemError, match=r"diagnostics: .*keep to numbers"):
        made.save(tmp_path / "m.json")
    assert not list(tmp_path.iterdir())


def test_both_are_simulated_alike():
    first, second = (inspect.signature(kind.simulate) for kind in (Equations, Refined))
    assert first == second
    t = np.linspace(0, 2, 5)
    one = Equations(["x"], [("x", "x", -0.5), ("x", "u", 1.0)], inputs=["u"])
    two = Refined({"x": "-k*x + u"}, [("k", 0.5)], inputs=["u"])
    np.testing.assert_array_equal(*(e.simulate([2.0], t, np.sin(t)).y for e in (one, two)))
