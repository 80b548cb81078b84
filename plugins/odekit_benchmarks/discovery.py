"""``odekit benchmark discovery``: known systems, observed badly, to a table of who finds them."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odekit.cli.interrupt import Interruption
from odekit.cli.options import Debug, Json, Out, split_names, split_numbers
from odekit.cli.output import (
    ProgressCallback,
    check_folder,
    console,
    plain_json,
    print_json,
    progress_bar,
    table,
    write_folder,
)
from odekit.errors import ProblemError

if TYPE_CHECKING:
    from odekit_benchmarks.fits import Row, Task
    from odekit_benchmarks.suites import Case

FOLDER = "odekit-benchmark-discovery"
PACKAGES = ("odekit", "torch", "numpy", "scipy", "sympy", "pysindy", "scikit-learn")


def discovery(
    suite: Annotated[
        str, typer.Option(metavar="NAMES", help="shown, odebench, or names of systems.")
    ] = "shown",
    noise: Annotated[
        str, typer.Option(metavar="LEVELS", help="Levels of the noise, as fractions.")
    ] = "0.01,0.05",
    drop: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=0.99, help="Fraction of the points taken out at random."
        ),
    ] = 0.5,
    seeds: Annotated[
        str, typer.Option(metavar="SEEDS", help="Seeds of the drop and the noise.")
    ] = "0",
    trajectories: Annotated[
        int, typer.Option(metavar="N", min=1, max=2, help="Starts that are trained on.")
    ] = 1,
    methods: Annotated[
        str, typer.Option(metavar="NAMES", help="Methods; pysindy means all of its variants.")
    ] = "odekit,pysindy",
    time_limit: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Of one fit of odekit.")
    ] = 60.0,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Fits that run side by side.")] = 1,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip what the folder has already.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the table alone.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Count how often the equations of known systems are found.

    Each system is solved, points are dropped at random and noise is added; then every method
    looks for the equations. The folder, odekit-benchmark-discovery without --out, receives
    results.jsonl, a line for each fit as it is done, and at the end results.json and
    benchmark.png.
    """
    from odekit_benchmarks.methods import chosen
    from odekit_benchmarks.runner import run_all
    from odekit_benchmarks.suites import cases
    from odekit_benchmarks.tally import tally

    folder = out if out is not None else Path(FOLDER)
    check_folder(folder)
    listed = _listed("--suite", suite)
    settings = {
        "suite": listed,
        "noise": _levels(noise),
        "drop": drop,
        "seeds": _seeds(seeds),
        "trajectories": trajectories,
        "methods": [method.name for method in chosen(_listed("--methods", methods))],
        "time_limit": time_limit,
    }
    tasks = _tasks(cases(listed), settings)
    with _reporting(len(tasks), shown=not (quiet or as_json)) as (listen, stop):
        rows = run_all(
            tasks, folder / "results.jsonl", jobs=jobs, resume=resume, stop=stop, listen=listen
        )
    if not rows:
        raise ProblemError("stopped before any fit was done")
    lines = tally(rows)
    document = {
        "benchmark": "discovery",
        "settings": settings,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "complete": len(rows) == len(tasks),
        "table": lines,
        "rows": rows,
    }
    written = write_folder(folder, lambda temporary: _write(temporary, document))
    if as_json:
        print_json(document)
        return
    _show(lines)
    if not document["complete"]:
        typer.echo(f"{len(rows)} of {len(tasks)} fits are done: --resume goes on with the rest.")
    if not quiet:
        names = ", ".join(["results.jsonl", *(path.name for path in written)])
        typer.echo(f"Written to {folder}: {names}")


def _listed(option: str, text: str) -> list[str]:
    names = [name for name in split_names(text) or [] if name]
    if not names:
        raise typer.BadParameter(f"{option} takes names with commas between them; got {text!r}")
    return list(dict.fromkeys(names))


def _levels(text: str) -> list[float]:
    levels = list(dict.fromkeys(split_numbers("--noise", text)))
    if min(levels) < 0:
        raise typer.BadParameter(f"--noise takes levels of zero or more, such as 0.05; got {text}")
    return levels


def _seeds(text: str) -> list[int]:
    seeds = list(dict.fromkeys(split_numbers("--seeds", text)))
    if not all(seed.is_integer() and seed >= 0 for seed in seeds):
        raise typer.BadParameter(f"--seeds takes whole numbers of zero or more; got {text!r}")
    return [int(seed) for seed in seeds]


def _tasks(found: Sequence[Case], settings: dict[str, Any]) -> list[Task]:
    """Everything to run; a first seed of all comes before a second."""
    from odekit_benchmarks.fits import Task

    drop, trajectories = settings["drop"], settings["trajectories"]
    for case in found:
        kept = case.points - int(drop * case.points)
        if kept < 2:
            raise ProblemError(f"--drop {drop:g} leaves {kept} points of {case.name}: lower it")
        if len(case.starts) < trajectories:
            raise ProblemError(
                f"{case.name} has one start: leave it out, or write --trajectories 1"
            )
    return [
        Task(case, method, level, drop, seed, trajectories, settings["time_limit"])
        for seed in settings["seeds"]
        for level in settings["noise"]
        for case in found
        for method in settings["methods"]
    ]


@contextmanager
def _reporting(total: int, *, shown: bool) -> Iterator[tuple[Any, Any]]:
    """What to tell of each row, and what to ask before each fit."""
    with Interruption() as interruption, progress_bar(shown=shown) as report:

        def listen(rows: Sequence[Row]) -> None:
            _tell(report, rows, total)

        yield listen, lambda: interruption.asked


def _tell(report: ProgressCallback, rows: Sequence[Row], total: int) -> None:
    exact = sum(row["exact"] for row in rows)
    rec = sum(row["rec"] for row in rows)
    failed = sum(row["failure"] is not None for row in rows)
    counts = f"{len(rows)}/{total}: {exact} exact, {rec} rec, {failed} failed"
    report(counts, len(rows) / max(total, 1))


def _write(folder: Path, document: dict[str, Any]) -> None:
    from odekit_benchmarks.picture import draw_table

    text = json.dumps(plain_json(document), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(f"{text}\n", encoding="utf-8")
    draw_table(folder / "benchmark.png", document["table"])


def _show(lines: Sequence[dict[str, Any]]) -> None:
    from odekit_benchmarks.tally import COLUMNS

    headings = [name for name, _ in COLUMNS]
    listing = table(*headings, numeric=tuple(headings[2:]))
    before = math.nan
    for line in lines:
        if not math.isnan(before) and line["noise"] != before:
            listing.add_section()
        before = line["noise"]
        listing.add_row(*(cell(line) for _, cell in COLUMNS))
    screen = console()
    screen.print(listing)
    systems, seeds = max(line["systems"] for line in lines), max(line["seeds"] for line in lines)
    screen.print(
        f"{systems} systems, {seeds} seed{'s' if seeds > 1 else ''}. exact: of polynomials, waves "
        "and products of waves; other: of all else, such as fractions.\nrec, gen: simulations "
        "with R² > 0.9 from the same and from another start.\ncovered: 95 % intervals that hold "
        "the truth, where the structure is exact. sure, wrong: confident verdicts, and those of "
        "them whose structure is not exact.",
        markup=False,
    )
