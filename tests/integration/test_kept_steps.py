"""Compiled steps from disk: found by what they do, in another process, and not when damaged."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import odekit
from odekit._engine import tiers
from odekit._engine.compiled import Joint
from odekit._engine.kept_steps import sketched

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")

PROGRAM = """
import sys
import torch, odekit

def gradients(compiled):
    generator = torch.Generator().manual_seed(0)
    # Of one shape, so that only their order tells them apart.
    first, second = (torch.randn(3, 3, generator=generator).requires_grad_() for _ in "12")
    shift = torch.randn(3, generator=generator).requires_grad_()
    def field(t, y):
        return torch.tanh(y @ first + shift) @ second * torch.cos(t)
    y0 = torch.randn(4, 3, generator=generator).requires_grad_()
    found = odekit.solve(field, y0, [0.0, 1.0, 2.0], compile=compiled)
    found.y.square().sum().backward()
    return found.stats.tier, [x.grad for x in (first, second, shift, y0)]

tier, found = gradients(True)
early = [x for x in ("torch._dynamo", "torch._inductor") if x in sys.modules]
_, want = gradients(False)
apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, want))
print(tier, apart < 1e-4, *early)
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is known, in memory or on disk."""
    found = tmp_path / "code"
    monkeypatch.setenv("ODEKIT_CACHE_DIR", str(found))
    monkeypatch.setattr(tiers, "_known", type(tiers._known)())
    return found


def run() -> list[str]:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_another_process_needs_no_compiler(folder: Path) -> None:
    assert run() == ["step", "True", "torch._dynamo", "torch._inductor"]
    kept = {x.name: x.stat().st_mtime_ns for x in folder.iterdir()}
    assert sorted(x.split(".", 1)[1] for x in kept) == ["json", "so"]
    assert run() == ["step", "True"]
    assert {x.name: x.stat().st_mtime_ns for x in folder.iterdir()} == kept


@pytest.mark.parametrize("damage", ["so", "json"])
def test_what_is_damaged_is_compiled_again(
    damage: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def solve() -> Tensor:
        y0 = torch.tensor([[0.5, 1.0]], requires_grad=True)
        found = odekit.solve(lambda t, y: -(y**3), y0, [0.0, 1.0], compile=True)
        assert found.stats.tier == "step"
        found.y.sum().backward()
        assert y0.grad is not None
        return y0.grad

    want = solve()
    (damaged,) = folder.glob(f"*.{damage}")
    size = damaged.stat().st_size
    damaged.unlink()
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(tiers, "_known", type(tiers._known)())
    assert torch.equal(solve(), want)
    assert damaged.stat().st_size == size


class Straight(torch.autograd.Function):
    """Says that its derivative is one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clone()


class Bent(Straight):
    """The same forwards."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


WEIGHT = torch.ones(3)
STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "sine": lambda x: x.sin(),
    "cosine": lambda x: x.cos(),
    "a number": lambda x: x * 2.0,
    "another number": lambda x: x * 2.5,
    "a whole number": lambda x: x * 2,
    "a tensor": lambda x: x * WEIGHT,
    "one derivative": lambda x: Straight.apply(x),  # type: ignore[no-untyped-call]
    "another derivative": lambda x: Bent.apply(x),  # type: ignore[no-untyped-call]
    "an order": lambda x: (x - WEIGHT).sin(),
    "another order": lambda x: (WEIGHT - x).sin(),
}


def key_of(step: Callable[[Tensor], Tensor], x: Tensor, *, wanted: bool = True) -> str:
    def taken(inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [step(inputs[0])], []

    sketch = sketched(Joint(taken, [wanted], []), [x])
    assert sketch is not None
    return sketch.key


def test_steps_are_told_apart_by_what_they_do() -> None:
    x = torch.linspace(0, 1, 3)
    keys = {name: key_of(step, x) for name, step in STEPS.items()}
    keys["doubles"] = key_of(STEPS["sine"], x.double())
    keys["more of them"] = key_of(STEPS["sine"], torch.linspace(0, 1, 4))
    keys["no derivative"] = key_of(STEPS["sine"], x, wanted=False)
    assert len(set(keys.values())) == len(keys)
    assert keys["sine"] == key_of(lambda y: torch.sin(y), x + 1)


def test_a_look_changes_nothing() -> None:
    buffer = torch.zeros(3)
    torch.manual_seed(0)
    before = torch.get_rng_state()

    def writes(inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        buffer.add_(1)
        return [inputs[0] * buffer], []

    def guesses(inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [inputs[0] * torch.rand(3)], []

    assert sketched(Joint(writes, [True], []), [torch.ones(3)]) is None
    assert float(buffer.abs().max()) == 0
    sketched(Joint(guesses, [True], []), [torch.ones(3)])
    assert torch.equal(torch.get_rng_state(), before)


def compiled_end(field: Callable[[Tensor, Tensor], Tensor], y0: Tensor) -> tuple[str, Tensor]:
    found = odekit.solve(field, y0.clone().requires_grad_(), [0.0, 1.0], compile=True)
    return found.stats.tier, found.y[-1].detach()


@pytest.mark.filterwarnings("ignore::odekit.CompileWarning")
def test_numbers_read_out_of_a_tensor_are_not_part_of_the_code() -> None:
    factor, y0 = torch.tensor([2.0]), torch.tensor([0.3, -0.7])
    for value in (2.0, 3.0):
        factor.fill_(value)
        for read in (factor.item, lambda: factor.tolist()[0], lambda: float(factor.numpy()[0])):
            tier, end = compiled_end(lambda t, y, read=read: -y * read(), y0)
            assert tier == "eager"
            assert torch.allclose(end, y0 * torch.exp(-factor), rtol=1e-4)


@pytest.mark.filterwarnings("ignore::odekit.CompileWarning")
def test_the_default_dtype_is_part_of_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y * torch.tensor(0.1)

    y0 = torch.tensor([0.3, -0.7], dtype=torch.float64)
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            want = odekit.solve(field, y0, [0.0, 1.0]).y[-1]
            end = compiled_end(field, y0)[1]
            assert torch.allclose(end, want, rtol=1e-12, atol=0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_has_no_pure_form_is_refused_with_a_warning() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        own = y.detach() * 0.0 + 0.5
        return -y * own.floor_divide_(0.5)

    with pytest.warns(odekit.CompileWarning):
        assert compiled_end(field, torch.tensor([0.3, -0.7]))[0] == "eager"
