"""Van der Pol for every damping: a learned basis predicts an unseen system from sixty points.

Run:  python examples/function_encoder.py [--out DIR]
A function encoder is trained on twelve dampings mu between 0.1 and 3; one plain network is trained
on all of the same data. Both then meet eight dampings they have not seen. Printed are the rollout
errors, how straight the coefficients run in mu, and the time of an adaptation, which takes no
gradient step.
Source: T. Ingebrand, A. J. Thorpe, U. Topcu, "Zero-shot transfer of neural ODEs", NeurIPS 2024,
    arXiv:2405.08954.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib
import torch

import odekit

matplotlib.use("Agg")
import matplotlib.pyplot as plt

START = torch.tensor([1.5, 0.5], dtype=torch.float64)
HORIZON = torch.linspace(0.0, 4.0, 201, dtype=torch.float64)


def van_der_pol(mu):
    """The field of one damping."""

    def field(t, y):
        x, v = y[..., :1], y[..., 1:]
        return torch.cat([v, mu * (1 - x**2) * v - x], dim=-1)

    return field


def observe(mu, generator, points=80, span=6.0):
    """One trajectory from a random start."""
    y0 = (2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1) * 3
    t = torch.linspace(0.0, span, points, dtype=torch.float64)
    return odekit.TimeSeries(t, odekit.solve(van_der_pol(mu), y0, t, rtol=1e-8, atol=1e-10).y)


@torch.no_grad()
def roll(field):
    """The path from ``START`` over ``HORIZON``."""
    return odekit.solve(field, START, HORIZON, rtol=1e-6, atol=1e-8).y


def straightness(mus, coefficients):
    """R2 of ``coefficients (m, K)`` as affine functions of ``mus (m,)``."""
    line = torch.stack([torch.ones_like(mus), mus], dim=1)
    found = line @ torch.linalg.lstsq(line, coefficients).solution
    spread = (coefficients - coefficients.mean(0)).square().sum()
    return 1 - float((coefficients - found).square().sum() / spread)


def train(generator):
    """The encoder and the plain network, from the same series."""
    dampings = torch.linspace(0.1, 3.0, 12).tolist()
    systems = [[observe(mu, generator) for _ in range(6)] for mu in dampings]
    encoder = odekit.create("field", "function_encoder", dim=2, basis=4, width=48)
    odekit.fit(encoder, systems, steps=2500)
    plain = odekit.create("field", "mlp", dim=2, width=48)
    everything = [series for system in systems for series in system]
    odekit.fit(plain, everything, trainer="adam", steps=100)
    return encoder, plain


def draw(mus, table, coefficients, example, path):
    """Rollout errors, one rollout, and the coefficients against mu."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for name, errors in table.items():
        axes[0].semilogy(mus, errors, "o-", label=name)
    axes[0].set(title="rollout error, unseen systems", xlabel="damping μ", ylabel="RMSE of x, v")
    for name, y in example.items():
        axes[1].plot(HORIZON, y[:, 0], "k:" if name == "truth" else "-", label=name)
    axes[1].set(title=f"rollout at μ = {mus[-1]:.2f}", xlabel="time t", ylabel="state x")
    for k in range(coefficients.shape[1]):
        axes[2].plot(mus, coefficients[:, k], ".-", label=f"c{k + 1}")
    axes[2].set(title="coefficients found", xlabel="damping μ", ylabel="coefficient")
    axes[2].legend(ncols=2, fontsize=7)
    for axis in axes[:2]:
        axis.legend()
    figure.savefig(path, dpi=120)


def main():
    torch.set_num_threads(1)  # tensors this small only wait for one another on two
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("odekit-function_encoder"))
    out = parser.parse_args().out
    generator = torch.Generator().manual_seed(0)
    encoder, plain = train(generator)
    mus = torch.linspace(0.2, 2.9, 8, dtype=torch.float64)
    table, found, seconds = {"function encoder": [], "plain network": []}, [], []
    for mu in mus.tolist():
        series = observe(mu, generator, points=60, span=5.0)
        begin = time.perf_counter()
        field = encoder.adapt(series)
        seconds.append(time.perf_counter() - begin)
        found.append(field.coefficients.detach())
        truth = roll(van_der_pol(mu))
        example = {"truth": truth, "function encoder": roll(field), "plain network": roll(plain)}
        for name, errors in table.items():
            errors.append(float((example[name] - truth).square().mean().sqrt()))
        print(f"mu {mu:.2f}: " + ", ".join(f"{name} {e[-1]:.4f}" for name, e in table.items()))
    mean = {name: sum(errors) / len(errors) for name, errors in table.items()}
    print(
        f"plain network / function encoder: {mean['plain network'] / mean['function encoder']:.1f}"
    )
    print(f"coefficients affine in mu: R2 {straightness(mus, torch.stack(found)):.4f}")
    print(f"one adaptation: {sorted(seconds)[len(seconds) // 2] * 1e3:.0f} ms, no backward pass")
    out.mkdir(parents=True, exist_ok=True)
    draw(mus, table, torch.stack(found), example, out / "function_encoder.png")
    print(f"picture: {out / 'function_encoder.png'}")


if __name__ == "__main__":
    main()
