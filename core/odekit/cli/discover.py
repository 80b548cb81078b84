"""``odekit discover``: a file with columns in, equations with error bars and a report out."""

from __future__ import annotations

import enum
import shlex
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odekit.cli.interrupt import Interruption
from odekit.cli.options import Debug, Json, Out, Quiet, split_names
from odekit.cli.output import check_folder, print_json, progress_bar, write_folder
from odekit.cli.summary import print_summary, summary_json
from odekit.errors import DataWarning

if TYPE_CHECKING:
    from odekit.equations import Equations
    from odekit.report import Study
    from odekit.series import TimeSeries


class Noise(enum.StrEnum):
    """How the noise of the data is distributed."""

    AUTO = "auto"
    ADDITIVE = "additive"
    MULTIPLICATIVE = "multiplicative"
    LOG_NORMAL = "log-normal"


def discover(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="CSV files with a header, one trajectory each."),
    ],
    time_column: Annotated[
        str | None,
        typer.Option("--time", metavar="NAME", help="Column of time; the first by default."),
    ] = None,
    states: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Columns to model; by default all that remain."),
    ] = None,
    inputs: Annotated[
        str | None, typer.Option(metavar="U,V", help="Columns that drive the system.")
    ] = None,
    library: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Terms to choose from: auto, polynomial or trig."),
    ] = None,
    degree: Annotated[
        int | None, typer.Option(min=1, max=6, help="Highest degree of the polynomials.")
    ] = None,
    noise: Annotated[Noise, typer.Option(help="Distribution of the noise.")] = Noise.AUTO,
    out: Out = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    time_limit: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Begin no new search after this time."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the equations behind data.

    Without --out the folder is called after the first file: odekit-NAME. It receives report.html,
    equations.json, equations.tex (a document that compiles) and three pictures.
    """
    folder = out if out is not None else Path(f"odekit-{files[0].stem}")
    check_folder(folder)
    options = {"library": library, "degree": degree, "noise": noise.value, "time_limit": time_limit}
    given = {name: value for name, value in options.items() if value is not None}
    with _notes() as notes:
        series = [
            _read(path, time_column, split_names(states), split_names(inputs)) for path in files
        ]
    began = time.perf_counter()
    equations, stopped = _search(series, {**given, "seed": seed}, shown=not quiet)
    texts: dict[str, Any] = {"--time": time_column, "--states": states, "--inputs": inputs}
    if noise is Noise.AUTO:
        given.pop("noise")
    texts |= {f"--{name.replace('_', '-')}": value for name, value in given.items()}
    study = _study(
        equations,
        series,
        files,
        command=_command(files, {**texts, "--seed": seed or None}),
        seed=seed,
        seconds=time.perf_counter() - began,
        notes=[
            *notes,
            *(["Note: the search was stopped before it was complete."] if stopped else []),
        ],
    )
    if quiet and not as_json:
        typer.echo(str(equations))
    elif not as_json:
        print_summary(study)
    written = _write(study, folder, shown=not quiet)
    if as_json:
        print_json(summary_json(study, written))
    elif not quiet:
        typer.echo(f"Written to {folder}: {', '.join(path.name for path in written)}")


def _read(
    path: Path, time_column: str | None, states: list[str] | None, inputs: list[str] | None
) -> TimeSeries:
    from odekit.series import TimeSeries

    return TimeSeries.read(path, time=time_column, states=states, inputs=inputs)


@contextmanager
def _notes() -> Iterator[list[str]]:
    """Collects what the warnings about data say, and passes them on."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    for warning in caught:
        if issubclass(warning.category, DataWarning):
            notes.append(f"Note: {warning.message}.")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _search(
    series: Sequence[TimeSeries], options: dict[str, Any], *, shown: bool
) -> tuple[Equations, bool]:
    """The equations, and whether the search was stopped from the keyboard."""
    import odekit

    with Interruption() as interruption, progress_bar(shown=shown) as report:

        def progress(stage: str, fraction: float) -> bool:
            report(stage, fraction)
            return interruption.asked

        equations = odekit.discover(list(series), progress=progress, **options)
    return equations, interruption.asked


def _study(
    equations: Equations, series: Sequence[TimeSeries], files: Sequence[Path], **details: Any
) -> Study:
    from odekit.report import Study

    names = equations.names
    listed = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    title = f"Equations of {listed}" if len(names) <= 4 else f"Equations from {files[0].stem}"
    stems = [path.stem for path in files]
    labels = stems if len(set(stems)) == len(stems) else [str(path) for path in files]
    return Study(equations, series, labels, title, **details)


def _write(study: Study, folder: Path, *, shown: bool) -> list[Path]:
    from odekit.report import write_study

    with progress_bar(shown=shown) as report:
        report("drawing and writing", 0.5)
        return write_folder(folder, lambda temporary: write_study(study, temporary))


def _command(files: Sequence[Path], options: dict[str, Any]) -> str:
    """What to type to get the same again."""
    words = ["odekit", "discover", *map(str, files)]
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    return shlex.join(words)
