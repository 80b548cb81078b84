"""Butcher tableaux that have been checked: row sums and every order condition.

Shapes: ``c, b, e`` have one entry a stage, ``a`` one row a stage, ``dense`` one row a stage and
    one column a power of the relative time ``x``, from ``x`` on.
Source: E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd
    ed., 1993, section II.2 (trees, densities and order conditions) and II.6 (dense output),
    doi:10.1007/978-3-540-78862-1. Stability functions: E. Hairer, G. Wanner, "Solving Ordinary
    Differential Equations II", 2nd ed., 1996, section IV.2, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from odekit.errors import ProblemError

Numbers: TypeAlias = tuple[float, ...]
Tree: TypeAlias = tuple["Tree", ...]
"""A rooted tree: the subtrees that hang from its root, sorted."""


@dataclass(frozen=True)
class ButcherTableau:
    """The numbers of an explicit Runge-Kutta method, validated when it is made.

    Args:
        order: claimed order of ``b``; every rooted tree up to it is checked.
        c: nodes; ``c[0]`` is 0.
        a: lower triangle, row ``i`` with ``i`` entries.
        b: weights.
        e: weights of the error estimate, ``b`` minus those of the embedded formula; empty if
            there is none. The embedded formula must have order ``order - 1``.
        dense: dense output, ``b_i(x) = sum_j dense[i][j] x^(j+1)``; empty for cubic Hermite.
        dense_order: claimed order of ``dense``.
        tolerance: how exactly the conditions must hold; coefficients published with fewer
            digits than a double need more room.

    Raises:
        ProblemError: the numbers do not fit together, with the condition that fails.
    """

    order: int
    c: Numbers
    a: tuple[Numbers, ...]
    b: Numbers
    e: Numbers = ()
    dense: tuple[Numbers, ...] = ()
    dense_order: int = 3
    tolerance: float = 1e-13

    def __post_init__(self) -> None:
        self._check_shapes()
        rows = np.array([sum(row) for row in self.a])
        worst = int(np.argmax(np.abs(rows - self.c)))
        if abs(rows[worst] - self.c[worst]) > self.tolerance:
            raise ProblemError(
                f"row {worst} of a sums to {rows[worst]!r}, but its node c[{worst}] is "
                f"{self.c[worst]!r}; time-dependent fields would lose their order"
            )
        self._check_order(np.array(self.b), self.order, "b", 1.0)
        if self.e:
            self._check_order(np.array(self.b) - np.array(self.e), self.order - 1, "b - e", 1.0)
        if self.dense:
            powers = np.array(self.dense)
            for x in (0.25, 0.5, 0.8, 1.0):
                weights = powers @ x ** np.arange(1, powers.shape[1] + 1)
                self._check_order(weights, self.dense_order, f"dense at x = {x}", x)

    @property
    def stages(self) -> int:
        """The number of stages."""
        return len(self.c)

    @functools.cached_property
    def fsal(self) -> bool:
        """Whether the last stage sits on the solution, so that it is the next step's first."""
        return self.c[-1] == 1 and self.b[-1] == 0 and self.a[-1] == self.b[:-1]

    @functools.cached_property
    def distinct_nodes(self) -> tuple[Numbers, tuple[int, ...]]:
        """The nodes that are not zero, each once; each stage's place there, -1 for zero."""
        nodes = tuple(dict.fromkeys(node for node in self.c if node))
        return nodes, tuple(nodes.index(node) if node else -1 for node in self.c)

    @functools.cached_property
    def sparse(self) -> tuple[tuple[tuple[int, float], ...], ...]:
        """The rows of ``a``, then ``b``: places and values of what is not zero."""
        return tuple(tuple((i, w) for i, w in enumerate(row) if w) for row in (*self.a, self.b))

    @functools.cached_property
    def _sparse_error(self) -> tuple[tuple[int, float], ...]:
        return tuple((i, w) for i, w in enumerate(self.e) if w)

    def estimate(self, h: Any, k: Sequence[Tensor]) -> Tensor:
        """The error estimate ``h * sum_i e[i] * k[i]``; ``h`` is a float or a tensor."""
        if isinstance(h, Tensor):
            return h * _sum(self._sparse_error, k)
        return _sum(self._sparse_error, k, h)

    @functools.cached_property
    def stability_limit(self) -> float:
        """The largest ``s`` such that steps of ``y' = -s y`` up to ``h = 1`` never grow.

        That is ``|R(-x)| <= 1`` for all ``x`` in ``[0, s]``, where
        ``R(z) = 1 + z b^T (I - z A)^-1 1`` is the stability function, here a polynomial.
        """
        a = _square(self.a)
        power, coefficients = np.ones(self.stages), [1.0]
        for sign in itertools.islice(itertools.cycle((-1.0, 1.0)), self.stages):
            coefficients.append(sign * float(np.array(self.b) @ power))
            power = a @ power
        growth = np.polynomial.Polynomial(coefficients)
        # Where |R| may cross one; the factor x of R - 1 is left out, for it is zero there anyway.
        roots = [*(growth + 1).roots(), *np.polynomial.Polynomial(coefficients[1:]).roots()]
        crossings = sorted(x.real for x in roots if x.real > 0 and abs(x.imag) <= 1e-9 * abs(x))
        for here, there in itertools.pairwise([*crossings, 2 * crossings[-1]]):
            if abs(growth((here + there) / 2)) > 1:
                return float(here)
        raise ProblemError("an explicit method that is stable everywhere is none")

    def _check_shapes(self) -> None:
        stages = self.stages
        if [len(row) for row in self.a] != list(range(stages)):
            raise ProblemError(
                f"a must have rows of 0, 1, ..., {stages - 1} entries for {stages} nodes, got "
                f"{[len(row) for row in self.a]}"
            )
        for name in ("b", "e", "dense"):
            found = len(getattr(self, name))
            if found != stages and (name == "b" or found):
                raise ProblemError(f"{name} must have {stages} entries, one a stage, got {found}")

    def _check_order(self, weights: Any, order: int, name: str, x: float) -> None:
        a = _square(self.a)
        for tree in rooted_trees(order):
            size = tree_order(tree)
            want = x**size / tree_density(tree)
            got = float(weights @ _stage_weights(tree, a))
            if abs(got - want) > self.tolerance * max(1.0, float(np.abs(weights).sum())):
                raise ProblemError(
                    f"{name} misses a condition of order {size}: tree {tree} gives {got!r} "
                    f"instead of {want!r}; claimed order {order}"
                )


def _square(rows: tuple[Numbers, ...]) -> Any:
    """The lower triangle with zeros beside it, ``(stages, stages)``."""
    a = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        a[i, :i] = row
    return a


def rooted_trees(order: int) -> Iterator[Tree]:
    """All rooted trees with at most ``order`` vertices; 200 of them for order 8."""
    return itertools.chain.from_iterable(_trees_of(n) for n in range(1, order + 1))


@functools.cache
def _trees_of(n: int) -> tuple[Tree, ...]:
    return tuple(_forests(n - 1, n - 1))


@functools.cache
def _forests(n: int, largest: int) -> tuple[Tree, ...]:
    """Multisets of trees with ``n`` vertices together, none with more than ``largest``."""
    if n == 0:
        return ((),)
    found = set()
    for size in range(1, min(n, largest) + 1):
        for first in _trees_of(size):
            for rest in _forests(n - size, size):
                found.add(tuple(sorted((first, *rest))))
    return tuple(sorted(found))


@functools.cache
def tree_order(tree: Tree) -> int:
    """The number of vertices."""
    return 1 + sum(map(tree_order, tree))


@functools.cache
def tree_density(tree: Tree) -> int:
    """The density: the order of the tree times the densities of its subtrees."""
    density = tree_order(tree)
    for branch in tree:
        density *= tree_density(branch)
    return density


def _stage_weights(tree: Tree, a: Any) -> Any:
    """The elementary weight of the tree at every stage, ``(stages,)``."""
    weights = np.ones(len(a))
    for branch in tree:
        weights = weights * (a @ _stage_weights(branch, a))
    return weights


def advance(y: Tensor, h: Any, weights: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    """``y + h * sum_i weights[i] * k[i]`` over the non-zero weights.

    The weights are Python floats on purpose: they need no device, no dtype and no gradient.
    With a float ``h`` each term is one fused multiply-add of which autograd keeps nothing, in
    place from the second on where there is no graph; a tensor ``h`` must broadcast against ``y``.
    """
    pairs = [(i, w) for i, w in enumerate(weights) if w]
    return combine(y, h, pairs, k)


def combine(y: Tensor, h: Any, pairs: Sequence[tuple[int, float]], k: Sequence[Tensor]) -> Tensor:
    """`advance` with the non-zero weights and their places, as `ButcherTableau.sparse` has them."""
    if not pairs:
        return y
    if h.__class__ is not float and isinstance(h, Tensor):
        return y + h * _sum(pairs, k)
    i, w = pairs[0]
    total = torch.add(y, k[i], alpha=w * h)
    if torch.is_grad_enabled():  # as `_accumulate`, without the price of a call for every stage
        for i, w in pairs[1:]:
            total = torch.add(total, k[i], alpha=w * h)
    else:
        for i, w in pairs[1:]:
            total.add_(k[i], alpha=w * h)
    return total


def weighted_sum(weights: Sequence[float], k: Sequence[Tensor], h: float = 1.0) -> Tensor:
    """``h * sum_i weights[i] * k[i]`` over the non-zero weights; at least one must be non-zero."""
    return _sum([(i, w) for i, w in enumerate(weights) if w], k, h)


def _sum(pairs: Sequence[tuple[int, float]], k: Sequence[Tensor], h: float = 1.0) -> Tensor:
    """`weighted_sum` by the non-zero weights and their places."""
    (i, w), *rest = pairs
    return _accumulate(w * h * k[i], h, rest, k)


def _accumulate(
    total: Tensor, h: float, pairs: Sequence[tuple[int, float]], k: Sequence[Tensor]
) -> Tensor:
    """``total``, which nobody else holds, plus all terms."""
    if torch.is_grad_enabled():
        for i, w in pairs:
            total = torch.add(total, k[i], alpha=w * h)
    else:
        add = total.add_
        for i, w in pairs:
            add(k[i], alpha=w * h)
    return total
