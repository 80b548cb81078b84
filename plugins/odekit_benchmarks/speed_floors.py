"""The floors of the speed benchmark: what the field alone would take.

No solver that makes the same calls can be faster than their number times the time of one. Of a
training step a call is an evaluation and its pull-back. Compiled, what counts is what one more
evaluation adds to a graph that holds several in a row: entering a graph from Python costs more
than a small field, and a solver that is compiled as a whole enters it rarely.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odekit_benchmarks.speed_odekit import synchronised
from odekit_benchmarks.speed_problems import Case
from odekit_benchmarks.speed_timing import Method

LASTING = 0.02
"""Seconds that the evaluations between two looks at the clock should take."""

CHAINS = {False: (8, 24), True: (2, 6)}
"""Evaluations in the two compiled graphs, of a forward problem and of a training one."""


def floors(case: Case, *, compiled: bool, jax: bool) -> list[Method]:
    """The floors that can be measured here, each by the name of its kind.

    Their calls give the seconds of one evaluation.
    """
    found = [Method("eager", "floor", _eager(case))]
    if compiled:
        found.append(Method("compiled", "floor", _Compiled(case), floor="compiled", compiled=True))
    if jax:
        from odekit_benchmarks.speed_jax import floor

        found.append(floor(case))
    return found


def repeated(call: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    """Seconds of one call, from as many in a row as the clock needs."""
    counts: list[int] = []

    def many(count: int) -> Callable[[], Any]:
        def calls() -> None:
            for _ in range(count):
                call()

        return synchronised(device, calls)

    def seconds() -> float:
        if not counts:
            many(1)()
            counts.append(max(1, int(LASTING / max(_clock(many(1)), 1e-6))))
        return _clock(many(counts[0])) / counts[0]

    return seconds


def _clock(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _eager(case: Case) -> Callable[[], float]:
    """One evaluation, of a training problem with its pull-back."""
    t, y0 = case.t[0], case.y0
    if case.target is None:

        @torch.no_grad()
        def evaluate() -> Tensor:
            return case.field(t, y0)

        return repeated(evaluate, y0.device)
    parameters = case.parameters
    leaf = y0.detach().clone().requires_grad_()

    def pull() -> Any:
        return torch.autograd.grad(case.field(t, leaf), [leaf, *parameters], y0)

    return repeated(pull, y0.device)


class _Compiled:
    """What one more evaluation adds to a graph."""

    def __init__(self, case: Case) -> None:
        trains = case.target is not None
        self.short, self.long = CHAINS[trains]
        self.calls = [self._chain(case, count) for count in (self.short, self.long)]

    def __call__(self) -> float:
        short, long = (call() for call in self.calls)
        added = (long - short) / (self.long - self.short)
        return added if added > 0 else long / self.long

    def _chain(self, case: Case, count: int) -> Callable[[], float]:
        t, y0 = case.t[0], case.y0

        def chain(y: Tensor) -> Tensor:
            for _ in range(count):
                y = y + 1e-3 * case.field(t, y)
            return y

        run = torch.compile(chain, dynamic=False)
        parameters = case.parameters
        leaf = y0.detach().clone().requires_grad_(bool(parameters))

        @torch.no_grad()
        def forward() -> Any:
            return run(y0)

        def training() -> Any:
            return torch.autograd.grad(run(leaf), [leaf, *parameters], y0)

        return repeated(forward if case.target is None else training, y0.device)
