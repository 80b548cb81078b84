"""The table of a benchmark of discovery as a picture: three panels of bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odekit.report.style import INK, SOFT, colour, draw, legend_above
from odekit_benchmarks.tally import Line

PANELS = (
    ("exact", "Exact structure"),
    ("rec", "Same start, R² > 0.9"),
    ("gen", "Other start, R² > 0.9"),
)
BAR = 0.8
"""Part of a method's row that its bars fill."""


def draw_table(path: Path, lines: Sequence[Line]) -> None:
    """Write the picture: a row for each method, a bar in it for each noise level.

    Whiskers on the exact structures reach from the least to the greatest count over the seeds.

    Args:
        path: the PNG file.
        lines: what `odekit_benchmarks.tally.tally` gave.
    """
    methods = list(dict.fromkeys(line["method"] for line in lines))
    levels = sorted({line["noise"] for line in lines})
    height = 1.2 + len(methods) * max(0.32, 0.17 * len(levels))
    draw(path, 11.0, height, lambda figure: _fill(figure, lines, methods, levels))


def _fill(
    figure: Any, lines: Sequence[Line], methods: Sequence[str], levels: Sequence[float]
) -> None:
    panels = figure.subplots(1, len(PANELS), sharey=True)
    handles: dict[str, Any] = {}
    for axes, (name, title) in zip(panels, PANELS, strict=True):
        axes.set_title(title)
        for i, level in enumerate(levels):
            picked = {line["method"]: line for line in lines if line["noise"] == level}
            label = f"noise {100 * level:g} %"
            handles[label] = _bars(axes, name, picked, methods, i, len(levels))
        _finish(axes, methods)
    legend_above(figure, list(handles.values()), list(handles))


def _bars(
    axes: Any, name: str, picked: dict[str, Line], methods: Sequence[str], i: int, count: int
) -> Any:
    """The bars of one noise level in one panel."""
    width = BAR / count
    places, values, texts, reach = [], [], [], []
    for row, method in enumerate(methods):
        if method not in picked:
            continue
        value, text, low, high = _value(picked[method], name)
        if value is None:
            continue
        places.append(row - BAR / 2 + (i + 0.5) * width)
        values.append(value)
        texts.append(text)
        reach.append((value - low, high - value))
    bars = axes.barh(places, values, height=0.92 * width, color=colour(i))
    if any(a or b for a, b in reach):
        axes.errorbar(
            values, places, xerr=list(zip(*reach, strict=True)), fmt="none",
            ecolor=INK, elinewidth=0.9, capsize=1.5,
        )  # fmt: skip
    for place, value, text, (_, above) in zip(places, values, texts, reach, strict=True):
        axes.annotate(
            text, (value + above, place), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=7.5, color=SOFT,
        )  # fmt: skip
    return bars


def _value(line: Line, name: str) -> tuple[float | None, str, float, float]:
    """Per cent, what stands beside the bar, and the least and greatest over the seeds."""
    if name != "exact":
        value = line[name]
        return value, "" if value is None else f"{value:.0f} %", value or 0.0, value or 0.0
    total = line["representable"]
    if not total:
        return None, "", 0.0, 0.0
    value, low, high = (100 * line[key] / total for key in ("exact", "exact_low", "exact_high"))
    return value, f"{line['exact']:.3g}/{total}", low, high


def _finish(axes: Any, methods: Sequence[str]) -> None:
    axes.set_xlim(0, 118)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_yticks(range(len(methods)), methods)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
