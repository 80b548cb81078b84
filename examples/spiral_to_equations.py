"""From data to a trained network to equations: the cubic spiral, written down.

Run:  python examples/spiral_to_equations.py [--out DIR]
A network learns dx/dt = -0.1 x^3 + 2 y^3, dy/dt = -2 x^3 - 0.1 y^3 from one trajectory;
``odekit.postprocess`` reads the equations off the network, and the equations are solved again.
Source: the spiral is the demonstration problem of R. T. Q. Chen, "torchdiffeq", 2018, which writes
    it as y**3 @ A; here the matrix stands on the left.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch

import odekit

matplotlib.use("Agg")
import matplotlib.pyplot as plt

A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
START = torch.tensor([2.0, 0.0], dtype=torch.float64)


def spiral(t, y):
    """``A y^3``, the cube taken entry by entry."""
    return y**3 @ A.T


def draw(series, fields, path):
    """Data, network and equations over time and in the plane."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    t = torch.linspace(0.0, 10.0, 600, dtype=torch.float64)
    axes[0].plot(series.t, series.y[:, 0], ".", ms=4, color="0.6", label="data, x")
    axes[1].plot(*series.y.T, ".", ms=4, color="0.6", label="data")
    for (name, field), style in zip(fields.items(), ("-", "--"), strict=True):
        with torch.no_grad():
            y = odekit.solve(field, START, t).y
        axes[0].plot(t, y[:, 0], style, label=f"{name}, x")
        axes[1].plot(*y.T, style, lw=1, label=name)
    axes[0].set(title="over time", xlabel="time t (no unit)", ylabel="state x (no unit)")
    axes[1].set(title="in the plane", xlabel="x (no unit)", ylabel="y (no unit)")
    for axis in axes:
        axis.legend()
    figure.savefig(path, dpi=120)


def main():
    torch.set_num_threads(1)  # tensors this small only wait for one another on two
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("odekit-spiral_to_equations"))
    out = parser.parse_args().out
    t = torch.linspace(0.0, 10.0, 300, dtype=torch.float64)
    y = odekit.solve(spiral, START, t, rtol=1e-9, atol=1e-11).y
    series = odekit.TimeSeries(t, y, names=["x", "y"])
    field = odekit.create("field", "mlp", dim=2, width=50, depth=1)
    fit = odekit.fit(field, series)
    print(f"network: mean squared residual {fit.loss:.2g} (states in standard deviations)")
    with torch.no_grad():
        solution = odekit.solve(field, START, t, rtol=1e-8, atol=1e-10)
    equations = odekit.postprocess(field, solution, "sindy", names=["x", "y"])
    print(equations)
    print(equations.coefficients.to_string(index=False))
    again = odekit.solve(equations.field(), START, t, rtol=1e-8, atol=1e-10).y
    print(f"equations solved again: largest distance from the data {(again - y).abs().max():.3g}")
    out.mkdir(parents=True, exist_ok=True)
    draw(series, {"network": field, "equations": equations.field()}, out / "spiral.png")
    print(f"picture: {out / 'spiral.png'}")


if __name__ == "__main__":
    main()
