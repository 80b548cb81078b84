"""The cost of a step against batch, dimension and number of steps: one panel each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odekit.report.style import COLOURS, INK, draw, legend_above
from odekit_benchmarks.speed_growth import BATCH, COMPILED, DIMENSION, EAGER, PEER, WORDS, said

LOOK = {EAGER: (COLOURS[0], "o", "--"), COMPILED: (COLOURS[0], "o", "-"),
        PEER: (COLOURS[1], "s", "-")}  # fmt: skip
KEPT = {
    "batch": f"{DIMENSION} states",
    "dimension": f"batch {BATCH}",
    "steps": f"{DIMENSION} states, batch {BATCH}",
}


def draw_growth(path: Path, panels: Sequence[Mapping[str, Any]]) -> None:
    """Write the picture.

    Args:
        path: the PNG file.
        panels: what `odekit_benchmarks.speed_growth.study` gave.
    """
    draw(path, 4.3 * len(panels) + 0.4, 4.6, lambda figure: _fill(figure, panels))


def _fill(figure: Any, panels: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, panel in zip(row, panels, strict=True):
        what = panel["what"]
        for tier, (shade, mark, dash) in LOOK.items():
            points = [point for point in panel["points"] if point["tier"] == tier]
            if points:
                x = [point[what] for point in points]
                y = [1e6 * point["step"] for point in points]
                face = shade if dash == "-" else "white"
                [line] = axes.plot(
                    x, y, dash, marker=mark, color=shade, markersize=5, markerfacecolor=face
                )
                handles[tier] = line
        _mark(axes, panel)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"{WORDS[what]}  ({KEPT[what]})")
        axes.set_title(_title(panel), fontsize=9)
    row[0].set_ylabel("microseconds per step")
    if handles:
        legend_above(figure, list(handles.values()), list(handles))


def _title(panel: Mapping[str, Any]) -> str:
    """The sentence about the crossing, in two lines where it is long."""
    words = said(panel).split()
    half = len(words) // 2
    text = " ".join(words)
    return text if len(text) < 42 else f"{' '.join(words[:half])}\n{' '.join(words[half:])}"


def _mark(axes: Any, panel: Mapping[str, Any]) -> None:
    crossed = panel["crossing"]
    if crossed is None or crossed["at"] <= 0:
        return
    axes.axvline(crossed["at"], color=INK, linewidth=0.9, linestyle=":")
    axes.plot([crossed["at"]], [1e6 * crossed["step"]], "D", color=INK, markersize=6)
