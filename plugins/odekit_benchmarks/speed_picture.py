"""The speed benchmark as a picture: for each problem, how many times faster than torchdiffeq."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odekit.report.style import COLOURS, INK, SOFT, draw, legend_above
from odekit_benchmarks.speed_tables import number

BASE = "torchdiffeq"
LOOK = {
    "odekit": (COLOURS[0], "o"),
    "torchdiffeq": (COLOURS[1], "s"),
    "torchode": (COLOURS[2], "D"),
    "diffrax": (COLOURS[3], "^"),
    "scipy": (COLOURS[4], "v"),
    "floor": (SOFT, "|"),
}
ROW = 0.25
"""Inches of a row."""


def draw_speed(path: Path, problems: Sequence[Mapping[str, Any]]) -> bool:
    """Write the picture; False where there is nothing to compare, and no file then.

    Args:
        path: the PNG file.
        problems: what `odekit_benchmarks.speed_runs.run` gave.
    """
    shown = [(problem, _values(problem)) for problem in problems]
    shown = [(problem, values) for problem, values in shown if values]
    if not shown:
        return False
    heights = [len(values) + 2.6 for _, values in shown]
    draw(path, 9.5, ROW * sum(heights) + 1.2, lambda figure: _fill(figure, shown, heights))
    return True


def _values(problem: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], float, float, float]]:
    """Line, how many times faster, and that for its quartiles; the fastest first."""
    found = []
    for line in problem["lines"]:
        times = line["faster_than"].get(BASE)
        if times is not None:
            low, high = (times * line["median"] / line[key] for key in ("high", "low"))
            found.append((line, times, low, high))
    if len(found) < 2:
        return []
    return sorted(found, key=lambda entry: -entry[1])


def _fill(figure: Any, shown: Sequence[Any], heights: Sequence[float]) -> None:
    panels = figure.subplots(
        len(shown), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    handles: dict[str, Any] = {}
    for axes, (problem, values) in zip(panels, shown, strict=True):
        axes.set_title(f"{problem['name']}: {problem['title']}", fontsize=10)
        axes.axvline(1, color=INK, linewidth=0.9)
        for row, (line, times, low, high) in enumerate(values):
            shade, mark = LOOK.get(line["package"], (INK, "o"))
            hollow = not line["compiled"] and line["package"] != "floor"
            handles[line["package"]] = _dot(axes, row, times, low, high, shade, mark, hollow=hollow)
        _finish(axes, values)
    figure.supxlabel(
        "times as fast as torchdiffeq in the same run (log scale; hollow: without a compiler)",
        fontsize=10,
    )
    present = [name for name in LOOK if name in handles]
    legend_above(figure, [handles[name] for name in present], present)


def _dot(
    axes: Any,
    row: int,
    times: float,
    low: float,
    high: float,
    shade: str,
    mark: str,
    *,
    hollow: bool,
) -> Any:
    axes.plot([low, high], [row, row], color=shade, linewidth=1.4)
    axes.plot([times], [row], mark, color=shade, markersize=6.5, markerfacecolor="white"
              if hollow else shade, markeredgewidth=1.4)  # fmt: skip
    axes.annotate(
        number(times), (max(high, times), row), xytext=(7, 0), textcoords="offset points",
        va="center", fontsize=8, color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip
    return axes.plot([], [], mark, color=shade, markersize=6.5)[0]


def _finish(axes: Any, values: Sequence[Any]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelbottom=True)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_yticks(range(len(values)), [line["method"] for line, *_ in values])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
