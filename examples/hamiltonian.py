"""A spring, twice: a Hamiltonian field keeps its energy, a plain network drifts away from it.

Run:  python examples/hamiltonian.py [--out DIR]
Both fields are trained by the same trainer on the same noisy data. Printed is the mean square of
the change of the true energy along paths that are thirty times longer than the data.
Source: S. Greydanus, M. Dzamba, J. Yosinski, "Hamiltonian Neural Networks", NeurIPS 2019,
    arXiv:1906.01563.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib
import torch

import odekit

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NOISE = 0.02  # of position (m) and of momentum (kg m/s); mass 1 kg, stiffness 1 N/m


def observe(trajectories=25, points=30, seed=0):
    """Noisy turns of the spring, amplitudes 0.1 to 1 m, three seconds each."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.linspace(0.0, 3.0, points, dtype=torch.float64)
    series = []
    for _ in range(trajectories):
        size, phase = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        angle, radius = t + 2 * math.pi * phase, 0.1 + 0.9 * size
        y = radius * torch.stack([angle.cos(), -angle.sin()], dim=-1)
        y = y + NOISE * torch.randn(y.shape, generator=generator, dtype=torch.float64)
        series.append(odekit.TimeSeries(t, y, names=["q", "p"]))
    return series


def energy(y):
    """Energy of the true spring in joules: ``(..., 2)`` to ``(...)``."""
    return 0.5 * y.square().sum(-1)


@torch.no_grad()
def turn(field, seconds=100.0):
    """Long paths from three starts at rest: times and ``(n, 3, 2)``."""
    starts = torch.tensor([[0.3, 0.0], [0.6, 0.0], [0.9, 0.0]], dtype=torch.float64)
    t = torch.linspace(0.0, seconds, 1001, dtype=torch.float64)
    return t, odekit.solve(field, starts, t, rtol=1e-9, atol=1e-11).y


def drift(field):
    """Mean squared change of the true energy along long paths, in J^2."""
    _, y = turn(field)
    return float((energy(y) - energy(y[:1])).square().mean())


def draw(fields, path):
    """Energy over time and one path in phase space, for each field."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for name, field in fields.items():
        t, y = turn(field)
        axes[0].plot(t, energy(y[:, 0]), label=name)
        axes[1].plot(y[:, 0, 0], y[:, 0, 1], lw=0.7, label=name)
    axes[0].axhline(0.5 * 0.3**2, color="k", ls=":", label="truth")
    axes[0].set(title="energy along a path from 0.3 m", xlabel="time (s)", ylabel="energy (J)")
    axes[0].legend()
    axes[1].set(title="the same path", xlabel="position q (m)", ylabel="momentum p (kg m/s)")
    axes[1].set_aspect("equal")
    axes[1].legend()
    figure.savefig(path, dpi=120)


def main():
    torch.set_num_threads(1)  # tensors this small only wait for one another on two
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("odekit-hamiltonian"))
    out = parser.parse_args().out
    series = observe()
    fields = {
        "hamiltonian": odekit.create("field", "hamiltonian", dim=1, width=32),
        "mlp": odekit.create("field", "mlp", dim=2, width=32),
    }
    change = {}
    for name, field in fields.items():
        odekit.fit(field, series)
        change[name] = drift(field)
        print(f"{name:>11}: mean squared change of energy {change[name]:.3g} J^2")
    print(f"the mlp changes {change['mlp'] / change['hamiltonian']:.0f} times as much")
    out.mkdir(parents=True, exist_ok=True)
    draw(fields, out / "hamiltonian.png")
    print(f"picture: {out / 'hamiltonian.png'}")


if __name__ == "__main__":
    main()
