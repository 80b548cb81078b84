"""``odekit discover``: a file with columns in, equations with error bars and a report out."""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odekit.cli.batch import Batch, run_batch
from odekit.cli.claims import (
    Constraint,
    Forbid,
    Force,
    Hidden,
    Known,
    KnownTerms,
    Offer,
    UnitOf,
    claimed,
)
from odekit.cli.interrupt import Interruption
from odekit.cli.options import Debug, Json, Out, Quiet, split_names
from odekit.cli.output import check_folder, print_json, progress_bar, write_folder
from odekit.cli.study import Columns, command_line, make_study, noted
from odekit.cli.summary import print_summary, summary_json

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
        typer.Argument(
            metavar="FILE",
            help="CSV files with a header: trajectories of one system, or, with --each, a system "
            "each.",
        ),
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
        typer.Option(metavar="NAME", help="Terms: auto, polynomial, trig, exp or rational."),
    ] = None,
    degree: Annotated[
        int | None, typer.Option(min=1, max=6, help="Highest degree of the polynomials.")
    ] = None,
    noise: Annotated[Noise, typer.Option(help="Distribution of the noise.")] = Noise.AUTO,
    known: Known = None,
    known_terms: KnownTerms = None,
    forbid: Forbid = None,
    force: Force = None,
    constraint: Constraint = None,
    term: Offer = None,
    unit: UnitOf = None,
    hidden: Hidden = None,
    out: Out = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    time_limit: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Begin no new search after this time."),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Take every file as a system of its own.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", help="Processes, -1 for one per core; implies --each."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Work on a Dask cluster, such as tcp://host:8786; implies --each.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Skip the files that an earlier run finished; implies --each."
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the equations behind data.

    Without --out the folder is called after the first file: odekit-NAME. It receives report.html,
    equations.json, equations.tex (a document that compiles) and three pictures.

    Several files are several trajectories of one system, unless --each, --jobs, --cluster or
    --resume is given: then each file is a system of its own with its own --time-limit, and
    --out, odekit-discover by default, receives a folder for each, index.html, summary.csv and
    summary.json. A file that fails does so alone; exit code 1 tells that there was one.
    """
    options = {"library": library, "degree": degree, "noise": noise.value, "time_limit": time_limit}
    given = {name: value for name, value in options.items() if value is not None}
    typed = {name: value for name, value in given.items() if value != Noise.AUTO.value}
    texts: dict[str, Any] = {"--time": time_column, "--states": states, "--inputs": inputs}
    texts |= {f"--{name.replace('_', '-')}": value for name, value in typed.items()}
    claims, typed_claims = claimed(
        known, known_terms, forbid, force, constraint, term, unit, hidden
    )
    given |= claims
    texts |= typed_claims
    texts["--seed"] = seed or None
    columns = Columns(time_column, split_names(states), split_names(inputs))
    if each or resume or jobs is not None or cluster is not None:
        folder = out if out is not None else Path("odekit-discover")
        batch = Batch(
            files, folder, columns, given, texts, seed, jobs, cluster, resume=resume, debug=debug
        )
        run_batch(batch, quiet=quiet, as_json=as_json)
        return
    folder = out if out is not None else Path(f"odekit-{files[0].stem}")
    check_folder(folder)
    with noted() as notes:
        series = [columns.read(path) for path in files]
    began = time.perf_counter()
    equations, stopped = _search(series, {**given, "seed": seed}, shown=not quiet)
    study = make_study(
        equations,
        series,
        files,
        command=command_line(files, texts),
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
        if len(files) > 1:
            typer.echo(
                f"The {len(files)} files were taken as trajectories of one system; with --each, "
                "every file is a system of its own."
            )


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


def _write(study: Study, folder: Path, *, shown: bool) -> list[Path]:
    from odekit.report import write_study

    with progress_bar(shown=shown) as report:
        report("drawing and writing", 0.5)
        return write_folder(folder, lambda temporary: write_study(study, temporary))
