"""The rows of odekit in the speed benchmark: eager, compiled, per sample, every lean gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import odekit
from odekit import Solution
from odekit_benchmarks.speed_problems import Case, flat
from odekit_benchmarks.speed_timing import Method, Reading

PACKAGE = "odekit"
LEAN = ("discrete", "interpolated", "adjoint")
"""Gradient methods that do without the activations of the forward solve."""
OTHERS = {
    ("unrolled", False): {"tolerance*5/4": 1.25},
    ("unrolled", True): {"tolerance*5/4": 1.25, "tolerance/2": 0.5},
    ("discrete", True): {"tolerance/2": 0.5},
}
"""Tolerances at which dopri5 is timed as well, by gradient method and whether it is compiled.

At one tolerance the accuracies differ: the error estimate of torchdiffeq and diffrax is two thirds
of the original pair's, which is ours, so that they take fewer steps. From 1.1 to 1.4 times the
tolerance P2 takes as many evaluations as with torchdiffeq, and its states are nearer to the truth;
5/4 is the middle. That its gradient is nearer as well is so there and not around it.
"""


def rows(case: Case, *, compiled: bool) -> list[Method]:
    """The methods for one problem, those that compile only where asked for."""
    return (_forward if case.target is None else _training)(case, compiled=compiled)


def synchronised(device: torch.device, call: Callable[[], Any]) -> Callable[[], Any]:
    """The call, which returns when the device is done."""
    if device.type != "cuda":
        return call

    def waiting() -> Any:
        result = call()
        torch.cuda.synchronize(device)
        return result

    return waiting


def read(solution: Solution, value: Tensor) -> Reading:
    """Counts of the sample with the most, and the tier that the solve says it used."""
    stats = solution.stats
    return Reading(
        value=value,
        evaluations=int(stats.evaluations.max()),
        accepted=int(stats.accepted.max()),
        rejected=int(stats.rejected.max()),
        tier=str(getattr(stats, "tier", "")),
    )


def settings(case: Case, solver: str) -> dict[str, Any]:
    """Keyword arguments of a solve."""
    return {
        "solver": solver,
        "rtol": case.tolerance,
        "atol": case.tolerance,
        "max_steps": case.max_steps,
        "per_sample": case.per_sample,
    }


def _forward(case: Case, *, compiled: bool) -> list[Method]:
    methods = []
    for solver in ("dopri5", "tsit5"):
        methods.append(_solve(case, f"odekit {solver}", solver))
        if compiled:
            name = f"odekit {solver} compiled"
            methods.append(_solve(case, name, solver, compile=True))
            methods.append(_object(case, f"{name} object", solver))
    return methods


def _solve(case: Case, name: str, solver: str, **extra: Any) -> Method:
    options = {**settings(case, solver), **extra}

    @torch.no_grad()
    def solve(t: Tensor) -> Solution:
        return odekit.solve(case.field, case.y0, t, **options)

    return _method(case, name, solve, compiled=bool(extra))


def _object(case: Case, name: str, solver: str) -> Method:
    """A solve that was compiled once, for programs that call it again and again."""
    made: list[Callable[..., Solution]] = []

    @torch.no_grad()
    def solve(t: Tensor) -> Solution:
        if not made:
            made.append(odekit.compile(case.field, case.y0, case.t, **settings(case, solver)))
        return made[0](case.y0, t)

    return _method(case, name, solve, compiled=True)


def _method(
    case: Case, name: str, solve: Callable[[Tensor], Solution], *, compiled: bool
) -> Method:
    def reading(solution: Solution) -> Reading:
        judged = solution if case.judged is None else solve(case.judged)
        return read(solution, judged.y)

    return Method(
        name,
        PACKAGE,
        synchronised(case.y0.device, lambda: solve(case.t)),
        reading,
        floor="compiled" if compiled else "eager",
        compiled=compiled,
    )


def _training(case: Case, *, compiled: bool) -> list[Method]:
    methods = []
    for solver, gradients in (("dopri5", ("unrolled", *LEAN)), ("tsit5", ("unrolled",))):
        for gradient in gradients:
            name = f"odekit {solver}" + ("" if gradient == "unrolled" else f" {gradient}")
            kinds: dict[str, dict[str, Any]] = {name: {}}
            if compiled and gradient in ("unrolled", "discrete"):
                kinds[f"{name} compiled"] = {"compile": True}
            for kind, options in kinds.items():
                methods.append(_gradient(case, kind, solver, gradient=gradient, **options))
                if solver == "dopri5":
                    for words, factor in OTHERS.get((gradient, bool(options)), {}).items():
                        row, tolerance = f"{kind}, {words}", factor * case.tolerance
                        more = {"rtol": tolerance, "atol": tolerance, "gradient": gradient}
                        methods.append(_gradient(case, row, solver, **options, **more))
    return methods


def _gradient(case: Case, name: str, solver: str, **extra: Any) -> Method:
    options = {**settings(case, solver), **extra}
    parameters = case.parameters

    def step() -> tuple[Solution, tuple[Tensor, ...]]:
        solution = odekit.solve(case.field, case.y0, case.t, **options)
        return solution, torch.autograd.grad(case.loss(solution.y), parameters)

    compiled = "compile" in extra
    return Method(
        name,
        PACKAGE,
        synchronised(case.y0.device, step),
        lambda result: read(result[0], flat(result[1])),
        floor="compiled" if compiled else "eager",
        compiled=compiled,
    )
