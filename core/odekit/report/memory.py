"""Error of gradient methods against the memory that they take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odekit.report.style import COLOURS, INK, SOFT, colour, draw

SHAPES = "os^Dv"
"""Dots of one colour differ by these."""

SIZE = 9.0
"""Of a dot, in points; those on one place lie on one another, each smaller than the last."""

PLACES = tuple(
    (x, y) for r in (1, 2, 3, 4, 5) for x, y in ((8 * r, 6 * r), (8 * r, -6 * r - 8), (0, 12 * r))
)
"""Where a label may stand, in points from its dot; on the left as well, with its end there."""

LEADER: dict[str, Any] = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkB": 4}
"""The line to a label that stands far off."""


def draw_memory(
    path: Path,
    methods: Sequence[str],
    size: Sequence[float],
    error: Sequence[float],
    floor: float,
    *,
    title: str,
    measure: str,
) -> None:
    """One dot per method, both axes logarithmic; lower left is better.

    Dots on one place, as of methods that give the same numbers, share a label and are drawn inside
    one another.

    Args:
        path: of the PNG.
        methods: labels.
        size: bytes, positive.
        error: relative errors; those at or below ``floor`` are drawn there.
        floor: what the reference itself may be off by.
        title: of the picture.
        measure: what ``size`` counts, in words.
    """
    low = max(floor, 1e-16)
    heights = [max(e, low) for e in error]

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(title)
        left, right = min(size) / 3, max(size) * 3
        axes.set_xlim(left, right)
        near = low > min(heights) / 300
        axes.set_ylim((low if near else min(heights)) / 5, max(heights) * 6)
        if near:
            _mark_uncertainty(axes, low)
        axes.set_xlabel(f"{measure} (bytes)")
        axes.set_ylabel("error of the gradient (relative)")
        figure.draw_without_rendering()  # the layout settles, so that places are final
        figure.set_layout_engine("none")
        places = list(zip(size, heights, strict=True))
        groups = _together(axes.transData.transform(places), SIZE / 2 * figure.dpi / 72)
        for group in groups:
            for inside, i in enumerate(group):
                _dot(axes, places[i], i, SIZE * (1 - inside / len(group)))
        names = [", ".join(methods[i] for i in group) for group in groups]
        _label(figure, axes, names, *zip(*(places[group[0]] for group in groups), strict=True))

    draw(path, 7.0, 4.6, fill)


def _dot(axes: Any, place: tuple[float, float], i: int, width: float) -> None:
    shape = SHAPES[i // len(COLOURS) % len(SHAPES)]
    axes.plot(*place, shape, color=colour(i), markersize=width, markeredgecolor="white", zorder=3)


def _together(dots: Any, near: float) -> list[list[int]]:
    """Indices of dots, in groups that lie within ``near`` of the first of each."""
    groups: list[list[int]] = []
    for i, dot in enumerate(dots):
        for group in groups:
            if float(((dots[group[0]] - dot) ** 2).sum()) < near**2:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _mark_uncertainty(axes: Any, low: float) -> None:
    axes.axhline(low, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        "uncertainty of the reference",
        (1.0, low),
        xycoords=("axes fraction", "data"),
        xytext=(-3, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
        color=SOFT,
    )


def _label(
    figure: Any, axes: Any, methods: Sequence[str], xs: Sequence[float], ys: Sequence[float]
) -> None:
    """A name beside each dot, where it covers neither another name nor a dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = axes.get_window_extent(renderer)
    dots = axes.transData.transform(list(zip(xs, ys, strict=True)))
    reach = 6 * figure.dpi / 72
    taken = [Bbox([[x - reach, y - reach], [x + reach, y + reach]]) for x, y in dots]
    for i, name in sorted(enumerate(methods), key=lambda pair: (xs[pair[0]], ys[pair[0]])):
        best: tuple[float, Any, Any] | None = None
        for x, y in PLACES:
            for side in (1, -1):
                text = axes.annotate(
                    name,
                    (xs[i], ys[i]),
                    xytext=(side * x, y),
                    textcoords="offset points",
                    ha="center" if x == 0 else ("left" if side > 0 else "right"),
                    color=INK,
                    fontsize=9.5,
                    arrowprops=LEADER if max(abs(x), abs(y)) > 14 else None,
                    zorder=4,
                )
                box = text.get_window_extent(renderer)
                inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
                inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
                others = [b for j, b in enumerate(taken) if j != i]
                cost = sum(_overlap(box, b) for b in others) + (0 if inside else 1e6)
                if best is None or cost < best[0]:
                    if best is not None:
                        best[1].remove()
                    best = (cost, text, box)
                else:
                    text.remove()
                if best[0] == 0:
                    break
            if best is not None and best[0] == 0:
                break
        if best is not None:
            taken.append(best[2])


def _overlap(a: Any, b: Any) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(width * height) if width > 0 and height > 0 else 0.0
