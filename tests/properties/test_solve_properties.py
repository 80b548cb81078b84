"""For all inputs: linear systems against the matrix exponential, pytrees, permuted samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from odekit import solve

F64 = torch.float64
SOLVERS = ["bosh3", "dopri5", "tsit5", "dopri8"]
quick = settings(max_examples=25, deadline=None, derandomize=True)


def matrix(seed: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(dim, dim, dtype=F64, generator=generator)


@quick
@given(
    seed=st.integers(0, 2**16),
    dim=st.integers(1, 5),
    solver=st.sampled_from(SOLVERS),
    start=st.floats(-3, 3),
    span=st.floats(-2, 2).filter(lambda x: abs(x) > 0.01),
)
def test_linear_systems_follow_the_matrix_exponential(
    seed: int, dim: int, solver: str, start: float, span: float
) -> None:
    a = matrix(seed, dim)
    y0 = torch.ones(dim, dtype=F64)
    t = start + span * torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    solution = solve(
        lambda t, y: y @ a.T, y0, t, solver=solver, rtol=1e-8, atol=1e-10, max_steps=10**5
    )
    for row, time in zip(solution.y, t, strict=True):
        want = torch.linalg.matrix_exp(a * (time - start)) @ y0
        scale = float(want.abs().max()) + 1
        assert float((row - want).abs().max()) < 1e-5 * scale


@quick
@given(seed=st.integers(0, 2**16), solver=st.sampled_from(SOLVERS), lanes=st.integers(1, 6))
def test_samples_do_not_know_their_neighbours(seed: int, solver: str, lanes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y0 = torch.randn(lanes, 2, dtype=F64, generator=generator)
    rate = torch.rand(lanes, 1, dtype=F64, generator=generator) * 20
    t = torch.linspace(0, 1, 5, dtype=F64) * (
        1 + torch.rand(lanes, 1, dtype=F64, generator=generator)
    )
    order = torch.randperm(lanes, generator=generator)

    def run(chosen: Tensor) -> Any:
        r = rate[chosen]
        return solve(
            lambda t, y: torch.sin(t[:, None]) - r * y,
            y0[chosen],
            t[chosen],
            solver=solver,
            per_sample=True,
        )

    straight, mixed = run(torch.arange(lanes)), run(order)
    assert torch.equal(mixed.stats.attempts, straight.stats.attempts[order])
    torch.testing.assert_close(mixed.y, straight.y[:, order], rtol=1e-12, atol=1e-12)


def trees() -> st.SearchStrategy[Any]:
    shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
    leaves = shapes.map(lambda shape: torch.ones(shape, dtype=F64))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3),
            st.lists(inner, min_size=1, max_size=3).map(tuple),
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
        ),
        max_leaves=5,
    )


def each(function: Any, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: each(function, leaf) for name, leaf in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(each(function, leaf) for leaf in tree)
    return function(tree)


@quick
@given(tree=trees())
def test_any_pytree_is_solved_leaf_by_leaf(tree: Any) -> None:
    solution = solve(lambda t, y: each(lambda leaf: -leaf, y), tree, [0.0, 1.0])
    want = each(
        lambda leaf: torch.stack([leaf, leaf * torch.exp(-torch.ones((), dtype=F64))]), tree
    )

    def compare(a: Any, b: Any) -> None:
        assert type(a) is type(b)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for name in a:
                compare(a[name], b[name])
        elif isinstance(a, list | tuple):
            for x, y in zip(a, b, strict=True):
                compare(x, y)
        else:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

    compare(solution.y, want)


@quick
@given(
    times=st.lists(st.floats(0.001, 1), min_size=1, max_size=30),
    backwards=st.booleans(),
    per_sample=st.booleans(),
)
def test_output_times_do_not_change_the_steps(
    times: list[float], backwards: bool, per_sample: bool
) -> None:
    t = torch.tensor([0.0, *times], dtype=F64).cumsum(0)
    t = -t if backwards else t
    ends = t[[0, -1]]
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[..., 1], -y[..., 0] * (1 + 0.3 * torch.cos(t).reshape(-1))], -1)

    many = solve(field, y0, t, per_sample=per_sample, rtol=1e-7)
    few = solve(field, y0, ends, per_sample=per_sample, rtol=1e-7)
    assert torch.equal(many.stats.attempts, few.stats.attempts)
    assert torch.equal(many.y[-1], few.y[-1])
    dense = solve(field, y0, ends, per_sample=per_sample, rtol=1e-7, dense=True)
    torch.testing.assert_close(dense(t), many.y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_results_repeat_bit_for_bit(solver: str) -> None:
    a, y0 = matrix(3, 4), torch.ones(4, dtype=F64)
    runs = [solve(lambda t, y: y @ a.T, y0, [0.0, 3.0], solver=solver).y for _ in range(2)]
    assert torch.equal(*runs)
