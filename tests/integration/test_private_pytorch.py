"""What is used of PyTorch without a promise: there now, and a word where it is not."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
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


def test_graphs_that_do_not_go_into_one_library_are_compiled_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiled, "joined", lambda texts: "not C++")
    assert solved(gradients=True) == ("step", [])
    assert not list((tmp_path / "code").glob("*.json"))


def test_where_libraries_are_loaded_in_another_way_none_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usual = compiled._instead
    monkeypatch.setattr(
        compiled,
        "_instead",
        lambda module, owner, name, other: usual(
            module, owner, "gone" if name == "load_async" else name, other
        ),
    )
    assert solved(gradients=True) == ("step", [])
    assert not list((tmp_path / "code").glob("*.json"))


def test_a_compiler_that_fails_leaves_steps_eager(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config, cpp_builder

    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\ntest "$1" = --version && echo broken 1.0\n')
    broken.chmod(0o755)
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: str(broken))
    with config.patch({"cpp.cxx": (str(broken),)}):
        tier, said = solved(gradients=True)
    assert tier == "eager"
    assert len(said) == 1
    assert "compiler failed" in said[0]


TWO = [
    """
#include <cmath>
extern "C"  double  kernel_0(const double x);
static double times() { return 2; }
double entry(double x) { return kernel_0(x); }
#include <cstdlib>
extern "C"  double  kernel_0(const double x)
{
    return times() * std::floor(x);
}
""",
    """
#include <cmath>
extern "C"  double  kernel_0(const double x);
static double times() { return 3; }
double entry(double x) { return kernel_0(x); }
extern "C"  double  kernel_0(const double x)
{
    return times() * std::ceil(x);
}
""",
]


def test_files_of_one_form_become_one(tmp_path: Path) -> None:
    (tmp_path / "both.cpp").write_text(compiled.joined(TWO))
    command = ["g++", "-shared", "-fPIC", "both.cpp", "-o", "both.so"]
    subprocess.run(command, check=True, cwd=tmp_path)
    library = ctypes.CDLL(str(tmp_path / "both.so"))
    for name, want in (("kernel_0", 4.0), ("kernel_0_1", 9.0)):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
        assert function(2.5) == want
