"""Gradient methods side by side: memory, seconds of a training step, leaks, diffusion.

Four parts, all by default or those that are named:

    memory     resident set of one backward pass over N rk4 steps, a process a cell
    training   seconds and error of a training step, beside torchdiffeq
    flat       memory over 200 solves and backward passes
    burgers    a strongly dissipative field: which gradients are right

Ratios are what counts; pin the process to one core for quiet figures:

    taskset -c 0 python examples/benchmarks/gradients.py --json figures.json
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import odekit

RESOLUTION = 256 * 1024
"""Bytes below which an allocator hides a growth of the resident set."""

PEERS = ("torchdiffeq.odeint", "torchdiffeq.odeint_adjoint")
METHODS = (
    *("unrolled", "auto", "discrete", "checkpointed", "interpolated", "adjoint", "reversible"),
    *PEERS,
)


class Net(nn.Module):
    """A field without time: tanh layers between the given widths, weights times ``boost``."""

    def __init__(self, *widths: int, boost: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.Tanh()]
        self.net = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(boost)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope, ``(..., dim)``."""
        return self.net(y)


def solve_with(
    method: str, field: Any, y0: Tensor, t: Tensor, solver: str, **options: Any
) -> Tensor:
    """The rows, by one of ``METHODS``; ``options`` are those of ``odekit.solve``."""
    if method in PEERS:
        import torchdiffeq

        call = getattr(torchdiffeq, method.partition(".")[2])
        if "step_size" in options:
            return call(field, y0, t, method=solver, options={"step_size": options["step_size"]})
        return call(field, y0, t, method=solver, rtol=options["rtol"], atol=options["atol"])
    stepper: Any = solver
    if method == "reversible":
        stepper = odekit.create("solver", "reversible", solver=solver)
    return odekit.solve(field, y0, t, solver=stepper, gradient=method, max_steps=10**6, **options).y


def flat_gradient(loss: Tensor, sources: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, sources)
    return torch.cat([x.flatten().double() for x in found])


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def peak() -> int:
    """Largest resident set so far, in bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# memory


def memory_cell(method: str, steps: int) -> dict[str, float]:
    """Growth of the resident set by one solve and backward pass, after a warm-up of two steps."""
    field = Net(16, 64, 16)
    y0, t = torch.randn(32, 16), torch.tensor([0.0, 10.0])
    sources = list(field.parameters())

    def run(count: int) -> None:
        y = solve_with(method, field, y0, t, "rk4", step_size=10 / count)[-1]
        flat_gradient(y.square().mean(), sources)

    for _ in range(3):
        run(2)
    gc.collect()
    before, start = peak(), time.process_time()
    run(steps)
    return {"bytes": peak() - before, "seconds": time.process_time() - start}


def slope(steps: list[int], sizes: list[float]) -> float:
    """The exponent of growth by least squares; what is below the resolution counts as that."""
    x = [math.log(n) for n in steps]
    y = [math.log(max(size, RESOLUTION)) for size in sizes]
    mx, my = statistics.mean(x), statistics.mean(y)
    over = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return over / sum((a - mx) ** 2 for a in x)


def memory(options: argparse.Namespace) -> dict[str, Any]:
    steps = [10**k for k in range(1, 1 + round(math.log10(options.steps)))]
    print(f"Memory of one backward pass, MLP 16-64-16, batch 32, rk4, steps {steps}")
    table: dict[str, Any] = {}
    for method in options.methods:
        cells = []
        for n in steps:
            command = [sys.executable, __file__, "--cell", method, str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            cells.append(json.loads(done.stdout.splitlines()[-1]))
        sizes = [cell["bytes"] for cell in cells]
        grows = slope(steps, sizes) if len(steps) > 1 else math.nan
        table[method] = {"steps": steps, "cells": cells, "slope": grows}
        shown = "".join(f"{size / 1e6:10.2f} MB" for size in sizes)
        print(f"{method:28}{shown}   slope {grows:5.2f}   {cells[-1]['seconds']:.2f} s", flush=True)
    return table


# training


PROBLEMS: dict[str, dict[str, Any]] = {
    "P2": {"widths": (2, 64, 64, 2), "batch": 128, "rows": 30, "end": 10.0, "boost": 2.0},
    "P3": {"widths": (64, 512, 512, 64), "batch": 512, "rows": 10, "end": 1.0, "boost": 1.0},
}


def training(options: argparse.Namespace) -> dict[str, Any]:
    return {name: train(name, options) for name in options.problems}


def train(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of solve and backward pass, methods in turn, and errors of their gradients."""
    problem = PROBLEMS[name]
    field = Net(*problem["widths"], boost=problem["boost"])
    dim, batch, rows = problem["widths"][0], problem["batch"], problem["rows"]
    y0, target = torch.randn(batch, dim), torch.randn(rows, batch, dim) * 0.5
    t = torch.linspace(0, problem["end"], rows)
    sources = list(field.parameters())

    def gradient(method: str, solver: str = "dopri5", tolerance: float = 1e-5) -> Tensor:
        y = solve_with(method, field, y0, t, solver, rtol=tolerance, atol=tolerance)
        return flat_gradient((y - target).square().mean(), sources)

    found = {method: gradient(method) for method in options.methods}
    field.double()
    y0, target, t = y0.double(), target.double(), t.double()
    truth = gradient("checkpointed", "dopri8", 1e-11)
    field.float()
    y0, target, t = y0.float(), target.float(), t.float()
    spent: dict[str, list[float]] = {method: [] for method in found}
    for _ in range(options.rounds):
        for method, seconds in spent.items():
            start = time.perf_counter()
            gradient(method)
            seconds.append(time.perf_counter() - start)
    base = spent.get(PEERS[0])
    print(f"{name}: one training step, {options.rounds} rounds")
    table = {}
    for method, seconds in spent.items():
        error = relative(found[method], truth)
        ratio = (
            statistics.median(b / a for a, b in zip(seconds, base, strict=True)) if base else None
        )
        table[method] = {"seconds": seconds, "error": error, "times_faster_than_odeint": ratio}
        beside = f"{ratio:7.2f}x" if ratio else ""
        middle, least = statistics.median(seconds), min(seconds)
        print(
            f"{method:28}{1e3 * middle:10.1f} ms (least {1e3 * least:.1f}){beside}   {error:.1e}",
            flush=True,
        )
    return table


# flat


def flat(options: argparse.Namespace) -> dict[str, Any]:
    """Growth of the resident set from the tenth solve and backward pass to the last."""
    field = Net(16, 64, 16)
    y0, t = torch.randn(32, 16), torch.tensor([0.0, 1.0])
    sources = list(field.parameters())
    print(f"Growth of the resident set over {options.solves} solves and backward passes")
    table = {}
    for method in options.methods:
        before = 0
        for i in range(options.solves):
            if i == min(10, options.solves - 1):
                gc.collect()
                before = peak()
            y = solve_with(method, field, y0, t, "dopri5", rtol=1e-5, atol=1e-5)
            flat_gradient(y[-1].square().mean(), sources)
        table[method] = peak() - before
        print(f"{method:28}{table[method] / 1e6:10.2f} MB", flush=True)
    return table


# burgers


def burgers_field(points: int, viscosity: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Burgers' equation on a circle of length 2 pi, central differences in conservation form."""
    h = 2 * math.pi / points

    def field(t: Tensor, u: Tensor) -> Tensor:
        right, left = u.roll(-1), u.roll(1)
        return viscosity * (right - 2 * u + left) / h**2 - (right**2 - left**2) / (4 * h)

    return field


def burgers(options: argparse.Namespace) -> dict[str, Any]:
    """Gradients by start and viscosity; backwards in time this field amplifies without bound."""
    points = options.points
    x = torch.arange(points, dtype=torch.float64) * (2 * math.pi / points)
    y0 = (1 + 0.5 * torch.sin(x)).requires_grad_()
    viscosity = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    field = burgers_field(points, viscosity)
    methods = {m: m for m in options.methods if m not in PEERS and m != "reversible"}
    if "reversible" in options.methods:
        stepper = odekit.create("solver", "reversible", solver="tsit5")
        methods["reversible"] = {"gradient": "reversible", "solver": stepper}
    table = odekit.compare_gradients(
        field,
        y0,
        [0.0, 2.0],
        lambda y: y[-1].square().mean(),
        methods=methods,
        rounds=options.rounds,
        max_steps=10**5,
    )
    print(f"Burgers' equation, {points} points, viscosity 0.1, t = 2")
    print(table.drop(columns=["process_bytes"], errors="ignore").to_string(index=False))
    print(f"{table.attrs['advice']}; reference {table.attrs['reference']}")
    return {"methods": json.loads(table.to_json(orient="records")), **table.attrs}


PARTS = {"memory": memory, "training": training, "flat": flat, "burgers": burgers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"{' '.join(PARTS)}; all by default")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--problems", type=lambda text: text.split(","), default=list(PROBLEMS))
    parser.add_argument("--steps", type=int, default=10_000, help="most steps of the memory part")
    parser.add_argument("--rounds", type=int, default=5, help="how often a step is timed")
    parser.add_argument("--solves", type=int, default=200, help="solves of the flat part")
    parser.add_argument("--points", type=int, default=64, help="grid of the Burgers part")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    parser.add_argument("--cell", nargs=2, metavar=("METHOD", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cell:
        print(json.dumps(memory_cell(options.cell[0], int(options.cell[1]))))
        return
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}: choose from {' '.join(PARTS)}")
    figures = {part: PARTS[part](options) for part in options.parts or PARTS}
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
