"""How pictures look: one palette, one set of sizes, no global state of matplotlib.

The colours are those of Okabe and Ito, which people with the common colour deficiencies tell
apart; on white, the yellow is left out.

Source: M. Okabe, K. Ito, "Color Universal Design", 2008, https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from odekit.report.notation import MINUS, superscript

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#1f2933"
SOFT = "#6b7785"
FAINT = "#d5dbe1"
DPI = 200

SETTINGS: dict[str, Any] = {
    # Not as one family: only then may a later font have the characters that an earlier one lacks.
    "font.family": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 10,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
    "axes.unicode_minus": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def draw(path: Path, width: float, height: float, fill: Callable[[Any], None]) -> None:
    """A PNG picture of ``width`` by ``height`` inches, filled by ``fill(figure)``."""
    import logging

    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A font of the list that is not installed is no news: the next one is taken.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        fill(figure)
        for axes in figure.axes:
            for name in ("xaxis", "yaxis", "zaxis"):
                if hasattr(axes, name):
                    _raise_powers(getattr(axes, name).get_major_formatter())
        # Figure.savefig would draw everything twice, the first time for the layout alone.
        figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
        figure.set_layout_engine("none")
        canvas.print_png(path)


def _raise_powers(formatter: Any) -> None:
    """Let it write ``1e6`` as ``×10⁶``.

    With matplotlib's own option for that, every number on every axis is typeset as a formula,
    which takes longer than everything else in a picture.
    """
    plain = formatter.get_offset
    formatter.get_offset = lambda: re.sub(
        "1e([\N{MINUS SIGN}-]?[0-9]+)",
        lambda found: f"×10{superscript(int(found[1].replace(MINUS, '-')))}",
        plain(),
    )


def colour(i: int) -> str:
    """The i-th colour, beginning again after the last."""
    return COLOURS[i % len(COLOURS)]


def set_time_axis(axes: Any, name: str, times: Iterable[float]) -> None:
    """Label and ticks; whole numbers where all times are, as years for example."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(name)
    whole = all(float(t).is_integer() for t in times)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=whole, steps=[1, 2, 2.5, 5, 10]))


def legend_above(figure: Any, handles: list[Any], labels: list[str]) -> None:
    """One legend for the whole picture, in a row above it."""
    unique = dict(zip(labels, handles, strict=True))
    room = int(figure.get_figwidth() * 11)  # letters in a row, about
    widest = max(len(label) for label in unique) + 6
    fits = sum(len(label) + 6 for label in unique) <= room
    columns = len(unique) if fits else max(min(room // widest, len(unique)), 1)
    figure.legend(
        list(unique.values()),
        list(unique),
        loc="outside upper left",
        ncols=columns,
        handlelength=1.8,
        columnspacing=1.6,
        borderaxespad=0.4,
    )
