"""Eager speed of a shared step size against torchdiffeq: four problems, errors beside times.

Both libraries take Dormand-Prince 5(4) steps with the same tolerances, in turn in one process
on one thread. Ratios are what counts; pin the process to one core for quiet figures:

    taskset -c 0 python examples/benchmarks/speed_against_torchdiffeq.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

import odekit


class Contest(NamedTuple):
    """One problem: the two calls to time, and their errors against a tight reference."""

    ours: Callable[[], object]
    peer: Callable[[], object]
    our_error: float
    peer_error: float


def largest(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def forward(field: Callable[..., Tensor], y0: Tensor, t: Tensor, tolerance: float) -> Contest:
    """A solve without gradients."""

    @torch.no_grad()
    def ours() -> Tensor:
        return odekit.solve(
            field, y0, t, solver="dopri5", rtol=tolerance, atol=tolerance, max_steps=10**6
        ).y

    @torch.no_grad()
    def peer() -> Tensor:
        return odeint(field, y0, t, method="dopri5", rtol=tolerance, atol=tolerance)

    with torch.no_grad():
        truth = odekit.solve(
            field,
            y0.double(),
            t.double(),
            solver="dopri8",
            rtol=1e-13,
            atol=1e-13,
            max_steps=10**6,
        ).y
    return Contest(ours, peer, largest(ours(), truth), largest(peer(), truth))


def van_der_pol() -> Contest:
    """P1: 256 oscillators of growing stiffness, 200 output times."""
    torch.manual_seed(0)
    mu = torch.linspace(2, 10, 256)
    y0 = torch.randn(256, 2) * 0.5 + torch.tensor([2.0, 0.0])

    def field(t: Tensor, y: Tensor) -> Tensor:
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, mu.to(y.dtype) * (1 - x * x) * v - x], -1)

    return forward(field, y0, torch.linspace(0, 10, 200), 1e-5)


def lorenz() -> Contest:
    """P4: one long chaotic solve in float64, final state only."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y[..., 0], y[..., 1], y[..., 2]
        return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - (8 / 3) * c], -1)

    y0 = torch.ones(3, dtype=torch.float64)
    long = forward(field, y0, torch.tensor([0.0, 100.0], dtype=torch.float64), 1e-9)
    short = forward(field, y0, torch.tensor([0.0, 10.0], dtype=torch.float64), 1e-9)
    # Chaos makes the error at t = 100 meaningless; the one at t = 10 is comparable.
    return long._replace(our_error=short.our_error, peer_error=short.peer_error)


def training(width: int, dim: int, batch: int, rows: int, end: float, boost: float) -> Contest:
    """A training step of a network with two hidden layers: forward and backward."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(dim, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, dim),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(boost)
    y0, target = torch.randn(batch, dim), torch.randn(rows, batch, dim) * 0.5
    t = torch.linspace(0, end, rows)

    class Autonomous(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y)

    field = Autonomous()

    def gradient(loss: Tensor) -> Tensor:
        field.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in field.parameters()])

    def ours(tolerance: float = 1e-5) -> Tensor:
        solution = odekit.solve(
            field, y0, t, solver="dopri5", rtol=tolerance, atol=tolerance, max_steps=10**6
        )
        return gradient((solution.y - target).square().mean())

    def peer() -> Tensor:
        y = odeint(field, y0, t, method="dopri5", rtol=1e-5, atol=1e-5)
        return gradient((y - target).square().mean())

    def error(found: Tensor) -> float:
        return float((found.double() - truth).norm() / truth.norm())

    found = [ours(), peer()]
    field.double()
    y0, target, t = y0.double(), target.double(), t.double()
    truth = ours(1e-10)
    field.float()
    y0, target, t = y0.float(), target.float(), t.float()
    return Contest(ours, peer, error(found[0]), error(found[1]))


PROBLEMS: dict[str, tuple[str, Callable[[], Contest], int]] = {
    "P1": ("Van der Pol, 256 x 2, forward", van_der_pol, 9),
    "P2": ("MLP 2-64-64-2, training step", lambda: training(64, 2, 128, 30, 10.0, 2.0), 7),
    "P3": ("MLP 64-512-512-64, training step", lambda: training(512, 64, 512, 10, 1.0, 1.0), 5),
    "P4": ("Lorenz to t = 100, forward", lorenz, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", help="P1 P2 P3 P4; all by default")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    print(f"{'':34}{'odekit ms':>18}{'torchdiffeq ms':>20}{'ratio':>8}   error odekit, torchdiffeq")
    for name in options.problems or PROBLEMS:
        label, make, rounds = PROBLEMS[name]
        contest = make()
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(rounds):
            for who, call in (("ours", contest.ours), ("peer", contest.peer)):
                start = time.perf_counter()
                call()
                times[who].append(1e3 * (time.perf_counter() - start))
        ratios = [b / a for a, b in zip(times["ours"], times["peer"], strict=True)]
        ours, peer = (statistics.median(times[who]) for who in ("ours", "peer"))
        table[name] = {
            "ours_ms": times["ours"],
            "torchdiffeq_ms": times["peer"],
            "ratio": statistics.median(ratios),
            "error": contest.our_error,
            "torchdiffeq_error": contest.peer_error,
        }
        print(
            f"{name} {label:31}{ours:9.1f} ±{spread(times['ours']):6.1f}"
            f"{peer:12.1f} ±{spread(times['peer']):6.1f}{statistics.median(ratios):7.2f}x"
            f"   {contest.our_error:.1e}, {contest.peer_error:.1e}",
            flush=True,
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(table, file, indent=1)


def spread(values: list[float]) -> float:
    """Half the range."""
    return (max(values) - min(values)) / 2


if __name__ == "__main__":
    main()
