"""What a step costs as the batch, the state or the number of steps grows, tier by tier.

The field is that of Lorenz 96, a ring of any size in which every state drives its neighbours; the
solve is forward, in float32, with Dormand-Prince 5(4) and one step size. The cost of a step is the
time of a whole solve by the number of attempts, so what a solve costs once is in it. A compiled
tier stops paying where it is less than a tenth faster than the eager one. Against the number of
steps its first call counts too: there a tier begins to pay where the seconds that it saved have
made up for those of compilation.

Cells that would take longer than their part of the time limit are left out.

Units: seconds; of a step, seconds per attempt.
Source: E. N. Lorenz, "Predictability: a problem partly solved", ECMWF Seminar on Predictability,
    1996, vol. 1, pp. 1-18.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import odekit
from odekit import Solution
from odekit.cli.output import console, table
from odekit_benchmarks.speed_odekit import synchronised
from odekit_benchmarks.speed_peers import Counted
from odekit_benchmarks.speed_tables import number

TOLERANCE = 1e-4
FORCING = 8.0
PAYS = 1.1
"""How much faster than eager a tier has to be to pay."""
ROUNDS = 5
LONG = 1.0
"""Seconds from which one round has to do."""

GROWING = {
    "batch": (1, 10, 100, 1000, 10_000),
    "dimension": (2, 10, 40, 100, 300, 1000),
    "steps": (10, 100, 1000, 10_000, 100_000),
}
WORDS = {"batch": "batch", "dimension": "dimension", "steps": "number of steps"}
BATCH, DIMENSION, END = 64, 40, 1.0
"""What stays as it is while something else grows."""

EAGER, COMPILED, PEER = "odekit eager", "odekit compiled", "torchdiffeq"


Solve = Callable[[Tensor], tuple[int, str]]
"""From the output times to the number of attempts, and what ran."""


@dataclass(frozen=True)
class Cell:
    """One solve.

    Attributes:
        batch: samples.
        dimension: states of each.
        end: last time; the first is 0.
    """

    batch: int = BATCH
    dimension: int = DIMENSION
    end: float = END


def ring(t: Any, y: Tensor) -> Tensor:
    """The field of Lorenz 96, ``(batch, dimension)``."""
    before = torch.cat([y[..., -1:], y[..., :-1]], -1)
    second = torch.cat([y[..., -2:], y[..., :-2]], -1)
    after = torch.cat([y[..., 1:], y[..., :1]], -1)
    return (after - second) * before - y + FORCING


def start(cell: Cell, device: torch.device) -> Tensor:
    """Near the unstable point of rest, the same on every run."""
    generator = torch.Generator().manual_seed(0)
    return (FORCING + torch.randn(cell.batch, cell.dimension, generator=generator)).to(device)


def tiers(peers: Sequence[str], *, compiled: bool) -> dict[str, Callable[[Tensor, Tensor], Solve]]:
    """From the name of a tier to a maker of its solve, from a start and output times."""
    found: dict[str, Callable[[Tensor, Tensor], Solve]] = {EAGER: _ours}
    if compiled:
        found[COMPILED] = _compiled
    if PEER in peers:
        found[PEER] = _torchdiffeq
    return found


def _options() -> dict[str, Any]:
    return {"solver": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE, "max_steps": 10**6}


def _ours(y0: Tensor, t: Tensor) -> Solve:
    @torch.no_grad()
    def solve(t: Tensor) -> tuple[int, str]:
        return _counts(odekit.solve(ring, y0, t, **_options()))

    return solve


def _counts(solution: Solution) -> tuple[int, str]:
    stats = solution.stats
    return int(stats.attempts), str(getattr(stats, "tier", ""))


def _compiled(y0: Tensor, t: Tensor) -> Solve:
    with torch.no_grad():
        fast = odekit.compile(ring, y0, t, **_options())

    @torch.no_grad()
    def solve(t: Tensor) -> tuple[int, str]:
        return _counts(fast(y0, t))

    return solve


def _torchdiffeq(y0: Tensor, t: Tensor) -> Solve:
    from torchdiffeq import odeint

    counted = Counted(ring)

    @torch.no_grad()
    def solve(t: Tensor) -> tuple[int, str]:
        counted.reset()
        odeint(counted, y0, t, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)
        return counted.accepted + counted.rejected, ""

    return solve


def study(
    device: torch.device,
    *,
    peers: Sequence[str],
    compiled: bool,
    limit: float,
    growing: dict[str, tuple[int, ...]] = GROWING,
    stop: Callable[[], bool] = lambda: False,
    listen: Callable[[str, float], None] = lambda name, share: None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure all panels.

    Args:
        device: where torch computes.
        peers: torchdiffeq takes part if it is among them.
        compiled: whether the compiled tier takes part.
        limit: seconds for a panel, shared equally by its tiers and cells; first calls of a
            compiled tier do not count.
        growing: from what grows to its values.
        stop: asked before each cell.
        listen: told what is being measured, and the part that is done.

    Returns:
        A panel for each thing that grows: its name, its points and where the compiled tier
        stops or begins to pay; and notes.
    """
    chosen = tiers(peers, compiled=compiled)
    notes: list[str] = []
    panels = []
    for i, (what, values) in enumerate(growing.items()):
        part = limit / (len(values) * len(chosen))
        found: list[dict[str, Any]] = []
        pace = _pace(device) if what == "steps" else 0.0
        for j, value in enumerate(values):
            for tier, make in chosen.items():
                listen(f"{what} {value:,}: {tier}", (i + j / len(values)) / len(growing))
                if stop() or _too_long(found, tier, what, value, part):
                    continue
                cell = Cell(end=value / pace) if what == "steps" else Cell(**{what: value})
                point = _point(tier, make, cell, device, part, notes)
                if point is not None:
                    found.append({what: value, "tier": tier, **point})
        panels.append({"what": what, "points": found, "crossing": crossing(what, found)})
    return panels, notes


def _pace(device: torch.device) -> float:
    """Attempts in a unit of time."""
    y0 = start(Cell(), device)
    attempts, _ = _ours(y0, torch.zeros(0))(torch.tensor([0.0, 10.0], device=device))
    return attempts / 10.0


def _too_long(found: Sequence[Any], tier: str, what: str, value: int, part: float) -> bool:
    """Whether a cell, judged by the last one of its tier, would take more than its part."""
    before = [point for point in found if point["tier"] == tier]
    if not before or what != "steps":
        return bool(before) and bool(before[-1]["solve"] > part)
    return bool(before[-1]["solve"] * value / before[-1]["steps"] > 2 * part)


def _point(
    tier: str,
    make: Callable[[Tensor, Tensor], Solve],
    cell: Cell,
    device: torch.device,
    part: float,
    notes: list[str],
) -> dict[str, Any] | None:
    """One cell of one tier; None, and a note, where it fails."""
    y0 = start(cell, device)
    t = torch.tensor([0.0, cell.end], device=device)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            began = time.perf_counter()
            solve = make(y0, t)
            run = synchronised(device, lambda: solve(t))
            attempts, ran = run()
            first = time.perf_counter() - began
        seconds = _rounds(run, part)
    except Exception as error:
        _add(notes, f"{tier}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return None
    for warning in caught:
        if warning.category.__module__.startswith("odekit"):
            _add(notes, f"{tier}: {' '.join(str(warning.message).split())}")
    if tier == COMPILED and ran == "eager":  # what the eager tier takes is known already
        return None
    middle = statistics.median(seconds)
    return {
        "attempts": attempts,
        "ran": ran,
        "first": first,
        "solve": middle,
        "seconds": seconds,
        "step": middle / attempts,
    }


def _rounds(run: Callable[[], Any], part: float) -> list[float]:
    seconds: list[float] = []
    while len(seconds) < ROUNDS:
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
        if sum(seconds) > part or seconds[-1] > LONG:
            break
    return seconds


def _add(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)


def crossing(what: str, points: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Where the compiled tier stops paying; against steps, where it begins to.

    Returns:
        ``{"at": value, "step": seconds per step of the eager tier there}``, or None where there
        is no such value within what was measured.
    """
    eager = {point[what]: point for point in points if point["tier"] == EAGER}
    fast = {point[what]: point for point in points if point["tier"] == COMPILED}
    both = sorted(eager.keys() & fast.keys())
    if what == "steps":
        return _made_up(eager, fast, both)
    before = None
    for value in both:
        gain = math.log(eager[value]["step"] / fast[value]["step"] / PAYS)
        if gain <= 0:
            share = 1.0 if before is None else before[1] / (before[1] - gain)
            low = value if before is None else before[0]
            at = math.exp(math.log(low) + share * (math.log(value) - math.log(low)))
            return {"at": at, "step": _between(eager, low, value, share)}
        before = (value, gain)
    return None


def _between(points: dict[int, Any], low: int, high: int, share: float) -> float:
    a, b = math.log(points[low]["step"]), math.log(points[high]["step"])
    return math.exp(a + share * (b - a))


def _made_up(
    eager: dict[int, Any], fast: dict[int, Any], both: list[int]
) -> dict[str, float] | None:
    """Steps after which the time that compilation took is made up for."""
    if not both:
        return None
    last = both[-1]
    saved = eager[last]["step"] - fast[last]["step"]
    extra = max(fast[value]["first"] for value in both) - fast[both[0]]["solve"]
    if saved <= 0:
        return None
    return {"at": max(extra, 0.0) / saved, "step": eager[last]["step"]}


def show(panel: Mapping[str, Any]) -> None:
    """Print one panel as a table: microseconds of a step, a row for each value."""
    what, points = panel["what"], panel["points"]
    names = list(dict.fromkeys(point["tier"] for point in points))
    listing = table(what, *names, numeric=(what, *names))
    for value in sorted({point[what] for point in points}):
        cells = {point["tier"]: point["step"] for point in points if point[what] == value}
        listing.add_row(f"{value:,}", *(number(cells.get(name), 1e6) for name in names))
    screen = console()
    screen.print(f"Microseconds of a step as the {WORDS[what]} grows", markup=False, style="bold")
    screen.print(listing)
    screen.print(said(panel), markup=False)
    screen.print()


def said(panel: Mapping[str, Any]) -> str:
    """Where the compiled tier stops or begins to pay, in words."""
    what, crossed = panel["what"], panel["crossing"]
    if COMPILED not in {point["tier"] for point in panel["points"]}:
        return "The compiled tier was not measured."
    if what == "steps":
        if crossed is None:
            return "Compilation is never made up for."
        return f"Compilation is made up for after about {_rough(crossed['at'])} steps."
    if crossed is None:
        return "The compiled tier pays everywhere here."
    return f"The compiled tier stops paying at a {what} of about {_rough(crossed['at'])}."


def _rough(value: float) -> str:
    """Two digits, more than such a crossing is known to."""
    return f"{float(f'{value:.2g}'):,.0f}"
