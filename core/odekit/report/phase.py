"""Phase portraits: where the system goes from where.

One state is drawn as slope against state with its rest points, two as a plane with the vector
field and its nullclines, three or more as projections on pairs of states. A field that depends
on time or on inputs has no one picture; then only trajectories are drawn.

Source: S. H. Strogatz, "Nonlinear Dynamics and Chaos", 2nd edition, Westview 2015, chapters 2
    and 6.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odekit.report.style import FAINT, INK, SOFT, colour, draw, legend_above
from odekit.report.trajectories import (
    WHITE_EDGE,
    data_and_model_legend,
    told_apart,
    trajectory_legend,
)

MOST_STATES = 4
ARROWS = 19
FINE = 241

Slope = Callable[[Any], Any]
"""The autonomous field on arrays: ``(k, d)`` to ``(k, d)``."""


@dataclass(frozen=True)
class Orbit:
    """What is drawn of one trajectory.

    Attributes:
        label: its name.
        model: states along the simulation, ``(m, d)``.
        data: observed states, ``(n, d)``; None for a simulation alone.
        t: times of the data, ``(n,)``.
        times: times of the simulation, ``(m,)``.
    """

    label: str
    model: Any
    data: Any = None
    t: Any = None
    times: Any = None


def draw_phase_portrait(
    path: Path, names: Sequence[str], paths: Sequence[Orbit], slope: Slope | None
) -> None:
    """The portrait that fits to the number of states.

    Args:
        path: the PNG file.
        names: the states.
        paths: trajectories, each a model curve with or without data.
        slope: the field, None when it depends on more than the states.
    """
    if len(names) == 1:
        draw(path, 6.4, 4.4, lambda figure: _fill_line(figure, names[0], paths, slope))
    elif len(names) == 2:
        draw(path, 6.4, 6.4, lambda figure: _fill_plane(figure, names, paths, slope))
    else:
        count = min(len(names), MOST_STATES)
        size = (8.0, 7.6) if count == 3 else (9.0, 6.6)
        draw(path, *size, lambda figure: _fill_pairs(figure, names[:count], paths))


def _window(paths: Sequence[Orbit], j: int, margin: float = 0.12) -> tuple[float, float]:
    """The range of one state over data, or over curves where there are none, with a margin."""
    # A hidden state has no data, whatever the trajectory.
    parts = [
        p.model[:, j] if p.data is None or np.isnan(p.data[:, j]).all() else p.data[:, j]
        for p in paths
    ]
    values = np.concatenate(parts)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = (high - low) or abs(high) or 1.0
    for p in paths:  # curves may leave the data a little, not run away with the picture
        curve = p.model[np.isfinite(p.model).all(axis=1), j]
        if len(curve):
            low = max(min(low, float(curve.min())), low - 0.5 * room)
            high = min(max(high, float(curve.max())), high + 0.5 * room)
    room = (high - low) or room
    bottom = low - margin * room
    if low >= 0 > bottom:  # populations and concentrations have nothing to show below zero
        bottom = -0.015 * room
    return bottom, high + margin * room


def _fill_line(figure: Any, name: str, paths: Sequence[Orbit], slope: Slope | None) -> None:
    axes = figure.subplots()
    low, high = _window(paths, 0)
    axes.axhline(0, color=SOFT, linewidth=1.0)
    labels: list[str] = []
    handles: list[Any] = []
    for p in paths:
        if p.data is not None:
            seen = np.isfinite(p.data[:, 0])
            x, t = p.data[seen, 0], p.t[seen]
            if len(x) > 1:
                middle, quotient = (x[1:] + x[:-1]) / 2, np.diff(x) / np.diff(t)
                style = {"color": colour(0), "alpha": 0.55, "markersize": 5, **WHITE_EDGE}
                handles += axes.plot(middle, quotient, "o", **style)
                labels.append("slopes between neighbouring data")
    if slope is not None:
        x = np.linspace(low, high, FINE)
        values = slope(x[:, None])[:, 0]
        handles += axes.plot(x, values, color=colour(1), linewidth=2.2)
        labels.append("model")
        _draw_rest_points(axes, x, values, handles, labels)
        _limit(axes, values, handles)
    else:
        for p in paths:
            if p.times is not None:
                rates = np.gradient(p.model[:, 0], p.times)
                handles += axes.plot(p.model[:, 0], rates, color=colour(1))
                labels.append("model along its trajectory")
    axes.set_xlim(low, high)
    axes.set_xlabel(name)
    axes.set_ylabel(f"{name}'   (rate of change)")
    legend_above(figure, handles, labels)


def _limit(axes: Any, values: Any, handles: Sequence[Any]) -> None:
    """The curve decides the range; scattered slopes may add as much again."""
    low, high = min(float(np.nanmin(values)), 0.0), max(float(np.nanmax(values)), 0.0)
    room = (high - low) or 1.0
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - 0.5 * room), min(top, high + 0.5 * room))


def _draw_rest_points(
    axes: Any, x: Any, values: Any, handles: list[Any], labels: list[str]
) -> None:
    """Zeros of the slope, filled where neighbours come in, and arrows of the flow between."""
    change = np.flatnonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0)
    for i in change:
        share = values[i] / (values[i] - values[i + 1])
        stable = values[i] > 0
        face = INK if stable else "white"
        point = x[i] + share * (x[i + 1] - x[i])
        style = {"markerfacecolor": face, "markeredgecolor": INK, "markersize": 8, "zorder": 5}
        handles += axes.plot([point], [0], "o", clip_on=False, **style)
        labels.append("stable rest point" if stable else "unstable rest point")
    reach = (x[-1] - x[0]) / 26
    for centre in np.linspace(x[0], x[-1], 11)[1:-1]:
        value = float(np.interp(centre, x, values))
        if np.abs(x[change] - centre).min(initial=np.inf) > reach and value:
            towards = centre + np.sign(value) * reach
            arrow = {"arrowstyle": "-|>", "color": SOFT, "linewidth": 1.2}
            axes.annotate("", (towards, 0), (centre, 0), arrowprops=arrow)


def _fill_plane(
    figure: Any, names: Sequence[str], paths: Sequence[Orbit], slope: Slope | None
) -> None:
    axes = figure.subplots()
    axes.set_box_aspect(1)
    window = [_window(paths, j) for j in range(2)]
    handles: list[Any] = []
    labels: list[str] = []
    axes.grid(visible=False)
    if slope is not None:
        _draw_field(axes, window, slope)
        # Next to trajectories in colours of their own, nullclines stay grey.
        shades = (SOFT, SOFT) if told_apart(paths) else (colour(2), colour(3))
        _draw_nullclines(axes, window, slope, names, shades, handles, labels)
    _draw_curves(axes, paths, (0, 1), handles, labels)
    axes.set_xlim(*window[0])
    axes.set_ylim(*window[1])
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    legend_above(figure, handles, labels)


def _on_grid(window: Sequence[tuple[float, float]], count: int, slope: Slope) -> tuple[Any, ...]:
    margin = 0.5 / count
    ticks = [
        np.linspace(low + margin * (high - low), high - margin * (high - low), count)
        for low, high in window
    ]
    x, y = np.meshgrid(*ticks)
    rates = slope(np.stack([x.ravel(), y.ravel()], axis=1))
    return x, y, rates[:, 0].reshape(x.shape), rates[:, 1].reshape(x.shape)


def _draw_field(axes: Any, window: Sequence[tuple[float, float]], slope: Slope) -> None:
    """Arrows of one length, darker where the system is faster."""
    from matplotlib.colors import LinearSegmentedColormap

    x, y, u, v = _on_grid(window, ARROWS, slope)
    # The panel is square, so rates over the panel's ranges point as trajectories are seen to go.
    u, v = u / (window[0][1] - window[0][0]), v / (window[1][1] - window[1][0])
    speed = np.hypot(u, v)
    good = np.isfinite(speed) & (speed > 0)
    if not good.any():
        return
    u, v = (np.divide(a, speed, out=np.zeros_like(a), where=good) for a in (u, v))
    shade = np.where(good, np.log(np.where(good, speed, 1.0)), np.nan)
    axes.quiver(
        x,
        y,
        u,
        v,
        shade,
        cmap=LinearSegmentedColormap.from_list("speed", [FAINT, "#98a3ae"]),
        pivot="mid",
        angles="uv",
        scale=ARROWS * 1.45,
        scale_units="width",
        width=0.0034,
        headwidth=4.2,
        headlength=4.6,
        headaxislength=4.2,
        zorder=1,
    )


def _draw_nullclines(
    axes: Any,
    window: Sequence[tuple[float, float]],
    slope: Slope,
    names: Sequence[str],
    shades: Sequence[str],
    handles: list[Any],
    labels: list[str],
) -> None:
    from matplotlib.lines import Line2D

    x, y, *rates = _on_grid(window, FINE, slope)
    for name, rate, line, shade in zip(names, rates, ("--", ":"), shades, strict=True):
        finite = rate[np.isfinite(rate)]
        if len(finite) and finite.min() < 0 < finite.max():
            axes.contour(x, y, rate, [0.0], colors=shade, linestyles=line, linewidths=1.5)
            handles.append(Line2D([], [], color=shade, linestyle=line, linewidth=1.5))
            labels.append(f"{name}' = 0")


def _draw_curves(
    axes: Any,
    paths: Sequence[Orbit],
    pair: tuple[int, int],
    handles: list[Any],
    labels: list[str],
) -> None:
    """Model curves with their starts, and observations."""
    i, j = pair
    first: list[Any] = []
    for k, p in enumerate(paths):
        line, dots = _shades(paths, k)
        first += axes.plot(p.model[:, i], p.model[:, j], color=line, zorder=3)
        if p.data is not None:
            size = 6 if len(p.data) <= 120 else 4
            style = {"color": dots, "markersize": size, "zorder": 4, **WHITE_EDGE}
            first += axes.plot(p.data[:, i], p.data[:, j], "o", **style)
    diamond = {"marker": "D", "linestyle": "", "color": "white", "markeredgecolor": INK}
    starts = [
        axes.plot(p.model[:1, i], p.model[:1, j], markersize=7, zorder=5, **diamond)[0]
        for p in paths
    ]
    with_data = paths[0].data is not None
    if told_apart(paths):
        made = data_and_model_legend(with_data=with_data)
        shown = trajectory_legend([p.label for p in paths])
        handles[:0], labels[:0] = made[0] + shown[0], made[1] + shown[1]
    else:
        handles[:0] = first[: 1 + with_data][::-1]
        labels[:0] = ["data", "model"] if with_data else ["solution"]
    handles.append(starts[0])
    labels.append("start")


def _shades(paths: Sequence[Orbit], k: int) -> tuple[str, str]:
    """Colours of the k-th curve and of its data: one for both where there are several."""
    if told_apart(paths):
        return colour(k), colour(k)
    return (colour(0) if paths[k].data is None else colour(1)), colour(0)


def _fill_pairs(figure: Any, names: Sequence[str], paths: Sequence[Orbit]) -> None:
    pairs = list(itertools.combinations(range(len(names)), 2))
    spatial = len(names) == 3
    rows, columns = (2, 2) if spatial else (2, 3)
    handles: list[Any] = []
    labels: list[str] = []
    for place, pair in enumerate(pairs, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_box_aspect(1)
        handles, labels = [], []
        _draw_curves(axes, paths, pair, handles, labels)
        axes.set_xlim(*_window(paths, pair[0]))
        axes.set_ylim(*_window(paths, pair[1]))
        axes.set_xlabel(names[pair[0]])
        axes.set_ylabel(names[pair[1]])
    if spatial:
        _draw_space(figure.add_subplot(2, 2, 4, projection="3d"), names, paths)
    legend_above(figure, handles, labels)


def _draw_space(axes: Any, names: Sequence[str], paths: Sequence[Orbit]) -> None:
    for k, p in enumerate(paths):
        line, dots = _shades(paths, k)
        axes.plot(*p.model.T[:3], color=line, linewidth=1.3)
        if p.data is not None:
            axes.scatter(*p.data.T[:3], color=dots, s=10, depthshade=False)
    axes.set_xlabel(names[0], labelpad=-4)
    axes.set_ylabel(names[1], labelpad=-4)
    axes.set_zlabel(names[2], labelpad=-4)
    axes.tick_params(labelsize=7.5, pad=-2)
    axes.set_box_aspect((1, 1, 0.9), zoom=0.9)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((0.97, 0.975, 0.98, 1.0))
