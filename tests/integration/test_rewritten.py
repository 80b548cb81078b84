"""Operations in other terms: as accurate as PyTorch's own, and wherever they should be."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from odekit._engine.compiled import (
    Joint,
    _is_built_for,
    _own_ways,
    c_compiler,
    inductor,
    trace_joint,
)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def compiled(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, str]:
    """What compiled code brings, and the operations that were compiled."""
    joint = Joint(lambda given: ([function(*given)], []), [False] * len(inputs), [])
    graph, captured = trace_joint(joint, inputs)
    assert not captured
    code = str(graph.code)
    (run,), _ = inductor(graph, len(inputs), 1)
    return run(list(inputs))[0], code


def ulps(found: Tensor, want: Tensor) -> Tensor:
    """Distances from float64 numbers in units in the last place of ``found``."""
    size = want.abs().to(found.dtype)
    unit = torch.nextafter(size, torch.full_like(size, torch.inf)) - size
    return (found.double() - want).abs() / unit.double()


def test_tanh_of_all_sizes_is_right_to_two_units_in_the_last_place() -> None:
    small = torch.logspace(-37, 1.2, 400_001, dtype=torch.float64)
    even = torch.linspace(-10, 10, 1_000_001, dtype=torch.float64)
    x = torch.cat([small, -small, even]).float()
    found, _ = compiled(torch.tanh, x)
    error = ulps(found, torch.tanh(x.double()))
    assert float(error.max()) < 2
    assert float(error.mean()) < 0.25
    assert float(found.abs().max()) == 1
    assert bool((found.diff()[-1_000_000:] >= -(2.0**-23)).all())
    assert not torch.equal(found, torch.tanh(x))  # it is another computation, after all


def test_tanh_of_numbers_that_are_none() -> None:
    special = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45, -1e-45, 9.02, 3e38]
    x = torch.tensor(special * 32)
    found, _ = compiled(torch.tanh, x)
    want = torch.tanh(x)
    torch.testing.assert_close(found, want, rtol=0, atol=0, equal_nan=True)
    there = ~torch.isnan(want)
    assert torch.equal(torch.signbit(found[there]), torch.signbit(want[there]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tanh_in_other_precisions(dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 1000, dtype=torch.float64).to(dtype)
    found, _ = compiled(torch.tanh, x)
    assert found.dtype == dtype
    assert float(ulps(found, torch.tanh(x.double())).max()) < 1.5


def test_what_others_compile_stays_as_it_is() -> None:
    from torch._inductor.codecache import CppCodeCache
    from torch._inductor.codegen.cpp import CppVecOverrides
    from torch._inductor.cpu_vec_isa import VecISA

    def ways() -> list[object]:
        changed = (CppVecOverrides, "tanh"), (VecISA, "check_build"), (CppCodeCache, "load_async")
        return [vars(owner)[name] for owner, name in changed]

    before = ways()
    compiled(torch.tanh, torch.ones(64))
    assert ways() == before


@pytest.mark.parametrize("lost", ["torch._inductor.codegen.cpp", None])
def test_tanh_where_the_compiler_is_another(
    lost: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.codegen.cpp import CppVecOverrides

    if lost is None:
        monkeypatch.delattr(CppVecOverrides, "tanh")
    else:
        monkeypatch.setitem(sys.modules, lost, None)
    before = dict(vars(CppVecOverrides))
    with _own_ways([]):
        assert dict(vars(CppVecOverrides)) == before


def test_instructions_are_known_without_a_trial() -> None:
    from torch._inductor.cpu_vec_isa import supported_vec_isa_list

    code = "int odekit_has_a_compiler() { return 1; }"
    known = c_compiler()[1]
    for isa in supported_vec_isa_list:
        if all(x.startswith("-m") and "=" not in x for x in isa.build_arch_flags().split()):
            # Beyond a trial, which only builds, the processor itself must have them.
            assert not _is_built_for(isa, code) or isa.check_build(code)
    assert ("__AVX2__" in known) == any(
        _is_built_for(x, code) for x in supported_vec_isa_list if type(x).__name__ == "VecAVX2"
    )


def products() -> list[tuple[str, Callable[..., Tensor], tuple[Tensor, ...], bool]]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    h, y, w, b = drawn(37, 65), drawn(37, 3), drawn(3, 65), drawn(3)
    return [
        ("layer", lambda b, h, w: torch.addmm(b, h, w.t()), (b, h, w), True),
        ("by its input", lambda h, w: h @ w, (h, drawn(65, 2)), True),
        ("by its weight", lambda h, y: h.t() @ y, (h, y), True),
        ("in double precision", lambda h, w: h @ w.t(), (h.double(), w.double()), True),
        ("wide", lambda h, w: h @ w, (h, drawn(65, 5)), False),
        ("scaled", lambda b, h, w: torch.addmm(b, h, w.t(), alpha=2), (b, h, w), False),
        ("long", lambda h, y: h.t() @ y, (drawn(5000, 8), drawn(5000, 2)), False),
        ("first layer", lambda y, w: y @ w, (y, w), False),
        ("strided", lambda h, w: h[:, ::2] @ w.t(), (drawn(37, 130), w), False),
        ("one row", lambda h, w: h @ w.t(), (h[:1], w), False),
        ("a column", lambda h, w: h @ w, (h, drawn(65, 1)), True),
    ]


@pytest.mark.parametrize("case", products(), ids=lambda case: case[0])
def test_products_with_few_columns(
    case: tuple[str, Callable[..., Tensor], tuple[Tensor, ...], bool],
) -> None:
    _, function, inputs, apart = case
    found, code = compiled(function, *inputs)
    assert ("aten.sum" in code) == apart
    assert ("mm.default" in code) != apart
    want = function(*(x.double() for x in inputs))
    assert found.dtype == inputs[0].dtype
    eps = torch.finfo(found.dtype).eps
    terms = max(max(x.shape) for x in inputs)
    bound = terms**0.5 * eps * float(want.abs().max())
    assert found.shape == want.shape
    assert float((found.double() - want).abs().max()) < bound
