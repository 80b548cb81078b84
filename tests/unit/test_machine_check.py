"""Code that is wrong is found out before it is used, wherever it is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import odekit
from odekit._engine import c_code, machine, tiers

DOUBLE = torch.float64
TIMES = torch.linspace(0, 1, 6, dtype=DOUBLE)
Y0 = torch.tensor([[1.0, 0.5], [0.2, -0.3], [2.0, 1.0]], dtype=DOUBLE)


def field(t: Tensor, y: Tensor) -> Tensor:
    return torch.tanh(y[:, [1, 0]]) - y * torch.cos(t)[..., None].expand_as(y)


@pytest.fixture(autouse=True)
def _afresh(code_folder: None, native_alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_known", type(tiers._known)())


def _falls_back(match: str, **options: object) -> None:
    with torch.no_grad():
        with pytest.warns(odekit.CompileWarning, match=match):
            found = odekit.solve(field, Y0, TIMES, compile=True, **options)
        again = odekit.solve(field, Y0, TIMES, compile=True, **options)  # said once is enough
        want = odekit.solve(field, Y0, TIMES, **options)
    assert found.stats.tier == again.stats.tier == "eager"
    assert torch.equal(found.y, want.y)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    ("op", "text"),
    [("mul", "({0} * {1} * 1.00001)"), ("add", "({0} + {1} * 1.00001)"), ("sub", "({0} + {1})")],
)
def test_a_wrong_operation(op, text, per_sample, monkeypatch) -> None:
    monkeypatch.setitem(c_code._TWO, op, text)

    _falls_back("compiled code gave other numbers", per_sample=per_sample)


def _with_stage(monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> None:
    """Code in which one stage of the loop is another than it was."""
    seen = []

    def source(parts: c_code.Parts, save: str) -> str:
        stage, whole = parts.stages[name].text("        "), c_code.source(parts, save)
        assert old in stage
        seen.append(name)
        return whole.replace(stage, stage.replace(old, new))

    monkeypatch.setattr(machine, "source", source)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_wrong_row_inside_a_step(per_sample, monkeypatch) -> None:
    _with_stage(monkeypatch, "interpolate", "= v", "= 1.0001 * v")

    _falls_back("the inside of a step", per_sample=per_sample)


@pytest.mark.parametrize("what", [{}, {"dense": True}])
def test_a_wrong_completion(what, monkeypatch) -> None:
    _with_stage(monkeypatch, "complete", "] = v", "] = 1.01 * v")

    _falls_back("the inside of a step", solver="dopri8", **what)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    ("old", "new"), [("next = ", "next = 1.5 * "), ("accept = ", "accept = 1 || ")]
)
def test_a_wrong_decision(old, new, per_sample, monkeypatch) -> None:
    _with_stage(monkeypatch, "decide", old, new)
    control = odekit.create("controller", "integral", first_step=0.9)

    _falls_back("is judged otherwise", per_sample=per_sample, controller=control)


def test_a_solver_without_an_estimate(monkeypatch) -> None:
    monkeypatch.setitem(c_code._ONE, "neg", "(-{0} * 1.0001)")
    monkeypatch.setitem(c_code._TWO, "sub", "({0} - {1} * 1.0001)")

    _falls_back("leads .* away", solver="rk4", step_size=0.05)
