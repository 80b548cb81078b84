"""P5: what a backward pass over many fixed steps holds in memory, and what it costs.

A network 16-64-16 is solved with 10 to 10,000 steps of a fourth-order Runge-Kutta method and its
gradient taken. Memory is by how much the peak of the resident set of a fresh process grows, on
CUDA the peak that the allocator reports; time and error are those of 1000 steps. ``off exact`` is
the relative distance, at 200 steps in float64, to the gradient that autograd gets through the same
steps of the same package. The ``rk4`` of torchdiffeq is the 3/8 rule.

Units: bytes, seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import odekit
from odekit import IncompatibleError
from odekit.resident import resident_growth
from odekit_benchmarks.speed_odekit import PACKAGE, synchronised
from odekit_benchmarks.speed_problems import Network, flat
from odekit_benchmarks.speed_timing import Method, Reading

TITLE = "training step of a network 16-64-16 over fixed rk4 steps; times at {steps} steps"
END = 10.0
STEPS = (10, 100, 1000, 10_000)
TIMED = 1000
EXACT = 200

Solve = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""``solve(field, y0, t, steps)`` to rows."""


@dataclass(frozen=True)
class Contender:
    """One way to the gradient.

    Attributes:
        name: of the method.
        package: whose it is.
        solve: the solve that autograd goes through.
        plain: the solve that stands for exactness.
        compiled: whether it compiles; the memory of such a process is that of the compiler.
    """

    name: str
    package: str
    solve: Solve
    plain: Solve
    compiled: bool = False


@dataclass(frozen=True)
class Work:
    """A field, a start and a clock in one precision.

    Attributes:
        field: the network.
        y0: ``(32, 16)``.
        t: start and end.
    """

    field: nn.Module
    y0: Tensor
    t: Tensor

    def gradient(self, solve: Solve, steps: int) -> Tensor:
        """By all parameters, of the mean square of the final state."""
        loss = solve(self.field, self.y0, self.t, steps)[-1].square().mean()
        return flat(torch.autograd.grad(loss, list(self.field.parameters())))


def work(device: torch.device, dtype: torch.dtype = torch.float32) -> Work:
    """The problem; in float64 from the same numbers."""
    torch.manual_seed(0)
    net, y0 = Network(16, 64, 16), torch.randn(32, 16)
    t = torch.tensor([0.0, END])
    return Work(net.to(device, dtype), y0.to(device, dtype), t.to(device, dtype))


def reference(device: torch.device) -> Tensor:
    """The gradient in float64 at tolerances of 1e-10."""

    def solve(field: nn.Module, y0: Tensor, t: Tensor, steps: int) -> Tensor:
        rows: Tensor = odekit.solve(field, y0, t, solver="dopri8", rtol=1e-10, atol=1e-10).y
        return rows

    return work(device, torch.float64).gradient(solve, 0)


def _odekit(**options: Any) -> Solve:
    def solve(field: nn.Module, y0: Tensor, t: Tensor, steps: int) -> Tensor:
        rows: Tensor = odekit.solve(
            field, y0, t, solver="rk4", step_size=END / steps, max_steps=2 * steps, **options
        ).y
        return rows

    return solve


def _torchdiffeq(name: str) -> Solve:
    import torchdiffeq

    call = getattr(torchdiffeq, name)

    def solve(field: nn.Module, y0: Tensor, t: Tensor, steps: int) -> Tensor:
        y: Tensor = call(field, y0, t, method="rk4", options={"step_size": END / steps})
        return y

    return solve


def contenders(peers: list[str], *, compiled: bool) -> list[Contender]:
    """All that can take part."""
    plain = _odekit()
    found = [
        Contender(f"odekit {name}", PACKAGE, _odekit(gradient=name), plain)
        for name in ("unrolled", "discrete", "checkpointed")
    ]
    if compiled:
        found += [
            Contender(
                f"odekit {name} compiled",
                PACKAGE,
                _odekit(gradient=name, compile=True),
                plain,
                compiled=True,
            )
            for name in ("unrolled", "checkpointed")
        ]
    if "torchdiffeq" in peers:
        same = _torchdiffeq("odeint")
        found.append(Contender("torchdiffeq", "torchdiffeq", same, same))
        adjoint = _torchdiffeq("odeint_adjoint")
        found.append(Contender("torchdiffeq adjoint", "torchdiffeq", adjoint, same))
    return found


def methods(device: torch.device, found: list[Contender], steps: int) -> list[Method]:
    """What is timed, at one number of steps."""
    problem = work(device)

    def make(contender: Contender) -> Method:
        call = synchronised(device, lambda: problem.gradient(contender.solve, steps))
        return Method(contender.name, contender.package, call, Reading, compiled=contender.compiled)

    return [make(contender) for contender in found]


def inexactness(contender: Contender, steps: int) -> float:
    """Relative distance to autograd through the same steps, in float64."""
    problem = work(torch.device("cpu"), torch.float64)
    mine = problem.gradient(contender.solve, steps)
    plain = problem.gradient(contender.plain, steps)
    return float((mine - plain).norm() / plain.norm())


def peaks(
    contender: Contender,
    device: torch.device,
    steps: tuple[int, ...],
    *,
    limit: float,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, int]:
    """Bytes at each number of steps; one that would take longer than ``limit`` is left out.

    Raises:
        IncompatibleError: the resident set cannot be measured here.
    """
    problem = work(device)
    found: dict[str, int] = {}
    if contender.compiled:
        return found
    step = _seconds(problem, contender, steps[0])
    for count in steps:
        if stop() or count * step > limit:
            break
        if device.type == "cuda":
            found[str(count)] = _cuda_peak(problem, contender, count)
        elif torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise IncompatibleError("the resident set cannot be measured beside CUDA: run P5 alone")
        else:
            found[str(count)] = resident_growth(
                lambda count=count: problem.gradient(contender.solve, count),  # type: ignore[misc]
                lambda: problem.gradient(contender.solve, 3),
            )
    return found


def _seconds(problem: Work, contender: Contender, steps: int) -> float:
    """Of one step, forward and backward."""
    problem.gradient(contender.solve, steps)
    start = time.perf_counter()
    problem.gradient(contender.solve, steps)
    return (time.perf_counter() - start) / steps


def _cuda_peak(problem: Work, contender: Contender, steps: int) -> int:
    device = problem.y0.device
    problem.gradient(contender.solve, 3)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    problem.gradient(contender.solve, steps)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
