"""Data against model over time, and what is left between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odekit.report.comparison import Comparison
from odekit.report.style import COLOURS, INK, SOFT, colour, draw, legend_above, set_time_axis

WHITE_EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.6}
MANY = 60
"""Points beyond which the white edges that keep dots apart would swallow them."""


def draw_data_and_model(
    path: Path, names: Sequence[str], time: str, comparisons: Sequence[Comparison]
) -> None:
    """One panel per state: observations as dots, the simulation as a line, its 95 % band."""
    height = 0.9 + max(len(names) * 2.1, 2.6)

    def fill(figure: Any) -> None:
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for j, (axes, name) in enumerate(zip(panels, names, strict=True)):
            for i, comparison in enumerate(comparisons):
                _draw_state(axes, comparison, j, colour(i if told_apart(comparisons) else j))
            axes.set_ylabel(name)
            axes.margins(x=0.02)
            _keep_in_sight(axes, comparisons, j)
        set_time_axis(panels[-1], time, np.concatenate([c.t for c in comparisons]))
        figure.align_ylabels(panels)
        legend_above(figure, *_legend(comparisons))

    draw(path, 8.0, height, fill)


def draw_time_series(path: Path, names: Sequence[str], time: str, t: Any, y: Any) -> None:
    """One panel per state of a solution, ``t (n,)`` and ``y (n, d)``."""

    def fill(figure: Any) -> None:
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for j, (axes, name) in enumerate(zip(panels, names, strict=True)):
            axes.plot(t, y[:, j], color=colour(j))
            axes.set_ylabel(name)
            axes.margins(x=0.02)
        set_time_axis(panels[-1], time, (t[0], t[-1]))
        figure.align_ylabels(panels)

    draw(path, 8.0, 0.7 + max(len(names) * 1.8, 2.8), fill)


def told_apart(trajectories: Sequence[Any]) -> bool:
    """Whether each trajectory gets a colour of its own: several, and no more than there are."""
    return 1 < len(trajectories) <= len(COLOURS)


def _draw_state(axes: Any, comparison: Comparison, j: int, shade: str) -> None:
    if comparison.half_width is not None:
        middle, half = comparison.model[:, j], comparison.half_width[:, j]
        axes.fill_between(
            comparison.times, middle - half, middle + half, color=shade, alpha=0.16, linewidth=0
        )
    axes.plot(comparison.times, comparison.model[:, j], color=shade, zorder=2.5)
    size = 5.5 if len(comparison.t) <= 120 else 3.5
    axes.plot(
        comparison.t,
        comparison.y[:, j],
        "o",
        color=shade,
        markersize=size,
        zorder=3,
        **WHITE_EDGE,
    )


def _keep_in_sight(axes: Any, comparisons: Sequence[Comparison], j: int) -> None:
    """The data decide the range; a model that runs away leaves the picture."""
    values = np.concatenate([c.y[:, j] for c in comparisons])
    if np.isnan(values).all():  # a hidden state
        return
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = (high - low) or abs(high) or 1.0
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - 0.6 * room), min(top, high + 0.6 * room))


def _legend(comparisons: Sequence[Comparison]) -> tuple[list[Any], list[str]]:
    from matplotlib.patches import Patch

    handles, labels = data_and_model_legend(with_data=True)
    if any(c.half_width is not None for c in comparisons):
        handles.append(Patch(facecolor=INK, alpha=0.16))
        labels.append("95 % band of the model")
    if told_apart(comparisons):
        more = trajectory_legend([c.label for c in comparisons])
        handles, labels = handles + more[0], labels + more[1]
    return handles, labels


def data_and_model_legend(*, with_data: bool) -> tuple[list[Any], list[str]]:
    """A dot and a line in ink, for pictures whose colours mean trajectories or states."""
    from matplotlib.lines import Line2D

    dot = Line2D([], [], marker="o", linestyle="", color=INK, markersize=5.5, **WHITE_EDGE)
    line = Line2D([], [], color=INK)
    return ([dot, line], ["data", "model"]) if with_data else ([line], ["model"])


def trajectory_legend(labels: Sequence[str]) -> tuple[list[Any], list[str]]:
    """A bar in the colour of each trajectory."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=colour(i), linewidth=4) for i in range(len(labels))], list(labels)


def draw_residuals(
    path: Path,
    names: Sequence[str],
    time: str,
    comparisons: Sequence[Comparison],
    kind: str = "additive",
    noise: Sequence[float | None] = (),
) -> None:
    """Standardised residuals per state: against time, the normal distribution, and themselves.

    Args:
        path: of the picture.
        names: the states.
        time: name of time.
        comparisons: one per trajectory.
        kind: the noise model.
        noise: the noise level over the residuals', per state; None where it is not known.
    """
    height = 0.7 + max(len(names) * 2.2, 2.6)
    several = told_apart(comparisons)

    def fill(figure: Any) -> None:
        grid = figure.subplots(
            len(names), 3, squeeze=False, sharex="col", gridspec_kw={"width_ratios": (2.1, 1, 1)}
        )
        for j, (row, name) in enumerate(zip(grid, names, strict=True)):
            row[0].axhspan(-1.96, 1.96, color=SOFT, alpha=0.09, linewidth=0)
            row[0].axhline(0, color=SOFT, linewidth=0.9)
            _draw_level(row[0], noise[j] if j < len(noise) else None)
            for i, comparison in enumerate(comparisons):
                shade = colour(i if several else j)
                _draw_over_time(row[0], comparison, j, shade)
            shade = SOFT if several else colour(j)
            parts = [c.residuals[:, j] for c in comparisons]
            _draw_quantiles(row[1], parts, shade)
            _draw_memory(row[2], parts, shade)
            row[0].set_ylabel(f"{name}\nresidual / σ")
        grid[0, 0].set_title(f"{_NOISE.get(kind, 'Residuals')} over time")
        grid[0, 1].set_title("Normal plot")
        grid[0, 2].set_title("Memory")
        set_time_axis(grid[-1, 0], time, np.concatenate([c.t for c in comparisons]))
        grid[-1, 1].set_xlabel("normal quantile")
        grid[-1, 2].set_xlabel("rows apart")
        figure.align_ylabels(grid[:, 0])
        if several:
            legend_above(figure, *trajectory_legend([c.label for c in comparisons]))

    draw(path, 8.0, height, fill)


def _draw_level(axes: Any, level: float | None) -> None:
    """Where 95 % of the noise lies, if it is known."""
    if level is not None and np.isfinite(level) and level > 0:
        for sign in (-1.96, 1.96):
            axes.axhline(sign * level, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))


def memory_of(parts: Sequence[Any], most: int = 12) -> tuple[list[float], list[float]]:
    """Correlations of residuals so many rows apart, and where 95 % of white ones lie.

    Args:
        parts: residuals of one state, one array ``(n,)`` per trajectory, NaN where missing.
        most: largest distance in rows.

    Returns:
        Correlation and half width of the strip for distances 1, 2, ...
    """
    seen = [part[np.isfinite(part)] for part in parts]
    longest = max((len(e) for e in seen), default=0)
    square = sum(float(e @ e) for e in seen)
    found: list[float] = []
    strip: list[float] = []
    for lag in range(1, min(most, longest // 4) + 1):
        pairs = sum(max(len(e) - lag, 0) for e in seen)
        if pairs == 0 or square <= 0:
            break
        found.append(sum(float(e[lag:] @ e[:-lag]) for e in seen if len(e) > lag) / square)
        strip.append(1.96 / float(np.sqrt(pairs)))
    return found, strip


def _draw_memory(axes: Any, parts: Sequence[Any], shade: str) -> None:
    found, strip = memory_of(parts)
    lags = np.arange(1, len(found) + 1)
    axes.axhline(0, color=SOFT, linewidth=0.9)
    axes.set_ylim(-1, 1)
    if not found:
        return
    axes.fill_between(
        [0.4, *lags[1:-1], len(found) + 0.6] if len(found) > 1 else [0.4, 1.6],
        [-strip[0], *[-s for s in strip[1:-1]], -strip[-1]],
        [strip[0], *strip[1:-1], strip[-1]],
        color=SOFT,
        alpha=0.09,
        linewidth=0,
    )
    axes.bar(lags, found, width=0.55, color=shade)
    axes.set_xlim(0.4, len(found) + 0.6)


_NOISE = {
    "additive": "Residuals",
    "multiplicative": "Relative residuals",
    "log-normal": "Residuals of the logarithm",
}


def _draw_over_time(axes: Any, comparison: Comparison, j: int, shade: str) -> None:
    residuals = comparison.residuals[:, j]
    axes.vlines(comparison.t, 0, residuals, color=shade, linewidth=1.1, alpha=0.55)
    axes.plot(comparison.t, residuals, "o", color=shade, markersize=4.5, **WHITE_EDGE)
    axes.margins(x=0.03)
    extent = max(2.6, 1.12 * float(np.nanmax(np.abs(residuals), initial=0.0)))
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, -extent), max(top, extent))


def _draw_quantiles(axes: Any, parts: Sequence[Any], shade: str) -> None:
    """Ordered residuals against the normal quantiles of Blom's plotting positions."""
    values = np.sort(np.concatenate([part[np.isfinite(part)] for part in parts]))
    if len(values) == 0:
        return
    ranks = torch.arange(1, len(values) + 1, dtype=torch.float64)
    quantiles = torch.special.ndtri((ranks - 0.375) / (len(values) + 0.25)).numpy()
    extent = 1.12 * max(2.3, float(np.abs(values).max()), float(quantiles[-1]))
    axes.plot([-extent, extent], [-extent, extent], color=SOFT, linewidth=1.0)
    many = {"markersize": 3, "alpha": 0.6, "markeredgewidth": 0}
    few = {"markersize": 4.5, **WHITE_EDGE}
    axes.plot(quantiles, values, "o", color=shade, **(many if len(values) > MANY else few))
    axes.set_ylim(-extent, extent)
    axes.set_xlim(-extent, extent)
