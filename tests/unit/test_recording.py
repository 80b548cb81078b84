"""Operations written down while a function runs: what is kept, and what is refused untouched."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from odekit._engine.c_library import NoCompiler, c_compiler
from odekit._engine.scalars import Unsupported
from odekit._engine.tracing import trace

X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)


def names(function: object, *args: Tensor) -> list[str]:
    graph = trace(function, args or (X,))  # type: ignore[arg-type]
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def test_what_is_written_into_a_tensor_of_its_own_is_a_new_one() -> None:
    def function(x: Tensor) -> list[Tensor]:
        total = x.sin()
        total.add_(x, alpha=2.0).mul_(3.0)
        return [total]

    assert names(function) == ["aten.sin.default", "aten.add.Tensor", "aten.mul.Tensor"]


def test_what_is_written_into_a_part_reaches_the_whole() -> None:
    def function(x: Tensor) -> list[Tensor]:
        whole = torch.zeros_like(x)
        whole[1:] = x[1:] * 2
        return [whole + 1]

    found = names(function)
    assert not any(".copy_" in name for name in found)
    assert any("slice_scatter" in name for name in found)


def test_what_is_not_needed_is_left_out() -> None:
    def function(x: Tensor) -> list[Tensor]:
        torch.cumsum(x.sin(), 0)
        return [x + 1]

    assert names(function) == ["aten.add.Tensor"]


def test_tensors_from_outside_are_named_and_stay_as_they_are() -> None:
    outside = torch.ones(3, dtype=torch.float64)
    graph = trace(lambda x: [x * outside], (X,))
    (node,) = (node for node in graph.nodes if node.op == "get_attr")
    assert node.meta["val"] is outside
    with pytest.raises(Unsupported, match="writes"):
        trace(lambda x: [outside.add_(x)], (X,))
    assert bool((outside == 1).all())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x[x > 0].sum()],
        lambda x: [x.nonzero().sum()],
        lambda x: [x if torch.equal(x, -x) else -x],
        lambda x: [x if x.sum() > 0 else -x],
        lambda x: [x * float(x[0])],
        lambda x: [torch.masked_select(x, x > 0).sum()],
    ],
)
def test_what_depends_on_numbers_is_refused(function: object) -> None:
    with pytest.raises(Unsupported):
        names(function)


def test_chance_is_as_it_was() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    trace(lambda x: [x + torch.randn(3, dtype=x.dtype)], (X,))
    assert bool((torch.get_rng_state() == before).all())


def test_inside_of_inference_mode() -> None:
    with torch.inference_mode():
        assert names(lambda x: [torch.nn.functional.linear(x[None], x[None])]) != []


def test_the_compiler_of_pytorch_is_not_loaded() -> None:
    """It takes longer than all the rest of a solve whose code is on disk."""
    try:
        c_compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    code = """
import sys, torch, odekit
def field(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, (1 - x * x) * v - x], -1)
y = odekit.solve(field, torch.ones(5, 2), torch.linspace(0, 1, 5), compile=True)
assert y.stats.tier == "native", y.stats
late = [name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules]
assert not late, late
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
