"""A flow on a line cannot turn -1 into 1 and 1 into -1; one extra dimension lets paths cross.

Run:  python examples/augmented.py [--out DIR]
Prints the mean squared error of both fields on {-1, 1} and draws their paths. A plain flow keeps
the order of its points, so the best it can do is to send both to 0: an error of exactly 1.
Source: E. Dupont, A. Doucet, Y. W. Teh, "Augmented Neural ODEs", NeurIPS 2019, arXiv:1904.01681.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch

import odekit

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENDS = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)


def paths(field, x, n=60):
    """Paths from the points ``x (k, 1)`` over one unit of time: ``(n, k, 1)``."""
    with torch.no_grad():
        return odekit.solve(field, x, torch.linspace(0.0, 1.0, n)).y


def error(field):
    """Mean squared error of the map ``x(0) -> x(1)`` on {-1, 1}."""
    return float((paths(field, ENDS, n=2)[-1] + ENDS).square().mean())


def train():
    """An augmented field, and the best of three plain ones, trained on the same data."""
    points = [x / 5 for x in range(-5, 6) if x]
    series = [odekit.TimeSeries([0.0, 1.0], [x, -x]) for x in points]
    augmented = odekit.create("field", "augmented", dim=1, extra=1, width=32)
    odekit.fit(augmented, series)
    plain = [odekit.create("field", "mlp", dim=1, width=32, seed=seed) for seed in range(3)]
    for field in plain:
        odekit.fit(field, series)
    return augmented, min(plain, key=error)


def draw(fields, path):
    """Paths of both fields, and the maps they make."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    starts = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)[:, None]
    t = torch.linspace(0.0, 1.0, 60)
    for axis, (name, field) in zip(axes[:2], fields.items(), strict=True):
        y = paths(field, starts)[..., 0]
        for k, x in enumerate(starts[:, 0].tolist()):
            axis.plot(t, y[:, k], color=plt.cm.coolwarm((x + 1) / 2))
        axis.set(title=f"{name}: paths", xlabel="time t (no unit)", ylabel="state x (no unit)")
        axis.set_ylim(-1.4, 1.4)
    grid = torch.linspace(-1.0, 1.0, 101, dtype=torch.float64)[:, None]
    for name, field in fields.items():
        axes[2].plot(grid, paths(field, grid, n=2)[-1], label=name)
    axes[2].plot(grid, -grid, "k:", label="target, g(x) = -x")
    axes[2].set(title="the map learned", xlabel="x(0) (no unit)", ylabel="x(1) (no unit)")
    axes[2].legend()
    figure.savefig(path, dpi=120)


def main():
    torch.set_num_threads(1)  # tensors this small only wait for one another on two
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("odekit-augmented"))
    out = parser.parse_args().out
    augmented, plain = train()
    fields = {"augmented": augmented, "plain mlp": plain}
    for name, field in fields.items():
        print(f"{name:>10}: mean squared error on {{-1, 1}} {error(field):.3g}")
    out.mkdir(parents=True, exist_ok=True)
    draw(fields, out / "augmented.png")
    print(f"picture: {out / 'augmented.png'}")


if __name__ == "__main__":
    main()
