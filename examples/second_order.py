"""A damped oscillator from noisy positions alone: the second-order field learns its acceleration.

Run:  python examples/second_order.py [--out DIR]
Trains from three seeds and prints R2 of the learned acceleration against the true one at the states
visited. The velocity is never observed; every trajectory is released from rest.
Source: A. Norcliffe et al., "On Second Order Behaviour in Augmented Neural ODEs", NeurIPS 2020,
    arXiv:2006.07220.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch

import odekit

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STIFFNESS, DAMPING, NOISE = 1.5, 0.3, 0.01  # 1/s^2, 1/s, m


def oscillator(t, y):
    """Position in m and velocity in m/s to their slopes."""
    q, v = y[..., :1], y[..., 1:]
    return torch.cat([v, -STIFFNESS * q - DAMPING * v], dim=-1)


def observe(seed, trajectories=8, points=50):
    """Irregular, noisy positions of several trajectories, and the true states along them."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.linspace(-2.0, 2.0, trajectories, dtype=torch.float64)
    series, states = [], []
    for q in starts.tolist():
        times = torch.rand(points - 1, generator=generator, dtype=torch.float64) * 8
        t = torch.cat([torch.zeros(1, dtype=torch.float64), times.sort().values])
        y = odekit.solve(oscillator, torch.tensor([q, 0.0], dtype=torch.float64), t).y
        noise = NOISE * torch.randn(len(t), 1, generator=generator, dtype=torch.float64)
        series.append(odekit.TimeSeries(t, y[:, :1] + noise, names=["position"]))
        states.append(y)
    return series, torch.cat(states)


@torch.no_grad()
def score(field, states):
    """R2 of the acceleration over ``states (n, 2)``."""
    found = field.acceleration(torch.tensor(0.0), states)
    truth = oscillator(None, states)[:, 1:]
    return 1 - float((found - truth).square().sum() / (truth - truth.mean()).square().sum())


def draw(field, series, path):
    """Data and model over time, and the acceleration learned."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    one = series[-1]
    t = torch.linspace(0.0, 8.0, 200, dtype=torch.float64)
    with torch.no_grad():
        q = odekit.solve(field, torch.tensor([2.0], dtype=torch.float64), t).y
    truth = odekit.solve(oscillator, torch.tensor([2.0, 0.0], dtype=torch.float64), t).y
    axes[0].plot(one.t, one.y, "o", ms=3, label="observed position")
    axes[0].plot(t, q, label="model")
    axes[0].plot(t, truth[:, 0], "k:", label="truth")
    axes[0].set(title="released from rest at 2 m", xlabel="time (s)", ylabel="position (m)")
    axes[0].legend()
    with torch.no_grad():
        found = field.acceleration(torch.tensor(0.0), truth)
    axes[1].plot(t, oscillator(None, truth)[:, 1], "k:", label="truth")
    axes[1].plot(t, found, label="learned")
    axes[1].set(
        title="acceleration along that path", xlabel="time (s)", ylabel="acceleration (m/s²)"
    )
    axes[1].legend()
    figure.savefig(path, dpi=120)


def main():
    torch.set_num_threads(1)  # tensors this small only wait for one another on two
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("odekit-second_order"))
    out = parser.parse_args().out
    for seed in range(3):
        series, states = observe(seed)
        field = odekit.create("field", "second_order", dim=1, velocity="zero", width=32, seed=seed)
        odekit.fit(field, series)
        print(f"seed {seed}: R2 of the acceleration {score(field, states):.4f}")
    out.mkdir(parents=True, exist_ok=True)
    draw(field, series, out / "second_order.png")
    print(f"picture: {out / 'second_order.png'}")


if __name__ == "__main__":
    main()
