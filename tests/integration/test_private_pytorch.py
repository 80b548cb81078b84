"""What is used of PyTorch without a promise: there now, and a word where it is not."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import odekit
from odekit._engine import compiled, tiers, tracing

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")

Y0 = torch.tensor([0.4, -0.2, 1.5], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is known, in memory or on disk."""
    monkeypatch.setenv("ODEKIT_CACHE_DIR", str(tmp_path / "code"))
    monkeypatch.setattr(tiers, "_known", type(tiers._known)())


def field(t: Tensor, y: Tensor) -> Tensor:
    return -functional.softplus(y) * torch.cos(t)


def solved(*, gradients: bool) -> tuple[str, list[str]]:
    """The tier that ran, with the right numbers, and what was said."""
    y0 = Y0.clone().requires_grad_(gradients)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = odekit.solve(field, y0, [0.0, 1.0], compile=True)
    want = odekit.solve(field, Y0, [0.0, 1.0])
    torch.testing.assert_close(found.y.detach(), want.y, rtol=1e-9, atol=1e-12)
    said = [str(x.message) for x in caught if issubclass(x.category, odekit.CompileWarning)]
    return found.stats.tier, said


@pytest.mark.parametrize("name", compiled.PRIVATE)
def test_all_of_it_is_there(name: str) -> None:
    assert compiled.probed(compiled.PRIVATE[name]) is not None
    assert compiled.probed(compiled.PRIVATE[name] + "_of_old") is None


@pytest.mark.parametrize("gradients", [False, True])
def test_without_a_word_on_transforms_all_is_eager(
    gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compiled.private, "transforms", None)
    tier, said = solved(gradients=gradients)
    assert tier == "eager"
    assert len(said) == 1
    assert "torch.func" in said[0]


@pytest.mark.parametrize("name", ["lend", "take", "address"])
def test_without_a_way_to_call_libraries_none_are_kept(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(compiled.private, name, None)
    assert solved(gradients=True) == ("step", [])
    assert not list((tmp_path / "code").glob("*.json"))


@pytest.mark.parametrize(
    "module",
    [
        "torch._inductor.decomposition",
        "torch.fx.experimental.proxy_tensor",
        "torch._functorch.partitioners",
        "torch._guards",
        "torch._inductor.compile_fx",
    ],
)
def test_without_its_compiler_steps_are_eager(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    tier, said = solved(gradients=True)
    assert tier == "eager"
    assert len(said) == 1
    assert module.split(".")[1] in said[0]


def test_without_its_table_such_fields_are_no_machine_code(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(tracing._decompositions.cache_clear)
    tracing._decompositions.cache_clear()
    assert solved(gradients=False) == ("native", [])
    tracing._decompositions.cache_clear()
    monkeypatch.setattr(tiers, "_known", type(tiers._known)())
    monkeypatch.setitem(sys.modules, "torch._decomp", None)
    assert solved(gradients=False)[0] != "native"
