"""Many files at once: every file a system of its own, each with its report, and an index of all.

A worker gets data and gives back finished files, so it needs no disk in common with this
computer. Each folder is written whole as soon as its file is done; what Ctrl-C or a crash leaves
behind can be resumed.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from odekit.cli.interrupt import Interruption
from odekit.cli.options import as_options
from odekit.cli.output import (
    check_folder,
    console,
    plain_json,
    print_json,
    progress_bar,
    table,
    write_folder,
)
from odekit.cli.records import (
    RECORD,
    Mark,
    Row,
    fingerprint,
    finite,
    folder_names,
    forget,
    recall,
    record_text,
    redone,
)
from odekit.cli.study import Columns, command_line, make_study, noted
from odekit.cli.summary import right_hand_sides
from odekit.errors import DataWarning, DiscoveryError, OdekitError

if TYPE_CHECKING:
    from odekit.series import TimeSeries

INDEX, TABLE, SUMMARY = "index.html", "summary.csv", "summary.json"
CSV_COLUMNS = (
    "file",
    "name",
    "status",
    "equations",
    "confident",
    "complete",
    "r2",
    "points",
    "seconds",
    "error",
    "report",
)


@dataclass(frozen=True)
class Batch:
    """What was asked for.

    Attributes:
        files: one system each.
        folder: where everything goes.
        columns: which columns are what.
        options: arguments of `odekit.discover`.
        texts: the same as options of the command line, for the reports.
        seed: of everything random.
        jobs: processes of this computer.
        cluster: address of a Dask scheduler.
        resume: whether to skip what an earlier run finished.
        debug: whether to print where a file failed.
    """

    files: Sequence[Path]
    folder: Path
    columns: Columns
    options: Mapping[str, Any]
    texts: Mapping[str, Any]
    seed: int
    jobs: int | None
    cluster: str | None
    resume: bool
    debug: bool

    @property
    def command(self) -> str:
        """What to type to get the same again."""
        how = {"--each": self.jobs is None and self.cluster is None, "--jobs": self.jobs}
        return command_line(
            self.files, {**self.texts, **how, "--cluster": self.cluster, "--out": self.folder}
        )


@dataclass(frozen=True, eq=False)
class Order:
    """What a worker needs to know about one file."""

    row: Row
    series: TimeSeries
    options: Mapping[str, Any]
    seed: int
    command: str
    notes: Sequence[str]


@dataclass(frozen=True)
class Delivery:
    """What a worker gives back: the row, and the content of each file of the report."""

    row: Row
    files: Mapping[str, bytes]


def run_batch(batch: Batch, *, quiet: bool, as_json: bool) -> None:
    """Work through all files, write and print what was found.

    Raises:
        DiscoveryError: some files failed, or the work was stopped; the others are written.
        ProblemError: nothing could be begun, and why.
    """
    from odekit.many import check_engine

    check_engine(batch.jobs, batch.cluster)
    check_folder(batch.folder)
    names = folder_names(batch.files, (INDEX, TABLE, SUMMARY))
    rows = {name: Row(str(path), name) for name, path in zip(names, batch.files, strict=True)}
    began = time.perf_counter()
    stopped = False
    try:
        _work(batch, rows, shown=not (quiet or as_json))
    except KeyboardInterrupt:
        stopped = True
    seconds = time.perf_counter() - began
    done = [row for row in rows.values() if row.status == "done"]
    if stopped and not done:
        raise KeyboardInterrupt
    summary = _summary(batch, list(rows.values()), seconds)
    _write_summary(batch, list(rows.values()), summary)
    if as_json:
        print_json(summary)
    elif quiet:
        _print_equations(done)
    else:
        _print_table(batch, list(rows.values()), seconds)
    _conclude(batch, list(rows.values()), stopped=stopped, told=not (quiet or as_json))


def _work(batch: Batch, rows: dict[str, Row], *, shown: bool) -> None:
    """Bring every row to its end; the rows are up to date whenever this is left."""
    from odekit.many import connected, crowding, run_each

    marks: dict[str, Mark] = {}
    with connected(batch.cluster) as client:
        if shown and crowding(client):
            print(f"note: {crowding(client)}", file=sys.stderr)
        orders = _orders(batch, rows, marks)
        for line in redone(list(rows.values())) if shown else ():
            print(f"note: {line}", file=sys.stderr)
        with progress_bar(shown=shown) as report:
            _report(report, rows)
            results = run_each(investigate, orders, jobs=batch.jobs, cluster=client)
            with closing(results):
                for name, outcome in results:
                    with _unbroken():
                        rows[name] = _finish(batch, rows[name], marks[name], outcome)
                    orders.pop(name)
                    _report(report, rows)


def _report(report: Any, rows: Mapping[str, Row]) -> None:
    ended = [row for row in rows.values() if row.status != "not done"]
    failed = sum(row.status == "failed" for row in ended)
    also = f", {failed} failed" if failed else ""
    report(f"{len(ended)} of {len(rows)} files{also}", len(ended) / len(rows))


def _orders(batch: Batch, rows: dict[str, Row], marks: dict[str, Mark]) -> dict[str, Order]:
    """What is left to do: neither finished by an earlier run nor impossible to read."""
    orders: dict[str, Order] = {}
    for path, (name, row) in zip(batch.files, list(rows.items()), strict=True):
        try:
            columns = [batch.columns.time, batch.columns.states, batch.columns.inputs]
            options = {**batch.options, "seed": batch.seed, "columns": columns}
            marks[name] = fingerprint(path, options)
            kept = recall(batch.folder / name, row, marks[name]) if batch.resume else ""
            if isinstance(kept, Row):
                rows[name] = kept
                continue
            rows[name] = row = replace(row, redone=kept)
            with noted(aloud=False) as notes:
                series = batch.columns.read(path)
        except Exception as error:
            rows[name] = _failed(batch, row, error)
            continue
        for note in notes:
            warnings.warn(f"{path}: {note[6:-1]}", DataWarning, stacklevel=2)
        command = command_line([path], batch.texts)
        orders[name] = Order(row, series, batch.options, batch.seed, command, tuple(notes))
    return orders


def investigate(order: Order) -> Delivery:
    """One file from data to finished report; this is what workers do."""
    from odekit.postprocess import discover
    from odekit.report import write_study

    began = time.perf_counter()
    with noted(aloud=False) as notes:
        equations = discover([order.series], **order.options, seed=order.seed)
    seconds = time.perf_counter() - began
    study = make_study(
        equations,
        [order.series],
        [Path(order.row.file)],
        command=order.command,
        seed=order.seed,
        seconds=seconds,
        notes=[*order.notes, *notes],
    )
    row = replace(
        order.row,
        status="done",
        text=str(equations),
        equations=right_hand_sides(equations),
        confident=equations.confident,
        complete=bool(equations.diagnostics.get("complete", True)),
        r2=finite(equations.score[0]) if equations.score else None,
        points=len(order.series),
        seconds=seconds,
    )
    with tempfile.TemporaryDirectory(prefix="odekit-") as folder:
        write_study(study, Path(folder))
        return Delivery(row, {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())})


def _finish(batch: Batch, row: Row, mark: Mark, outcome: Delivery | Exception) -> Row:
    """Write what came back; the row that results."""
    if isinstance(outcome, Exception):
        return _failed(batch, row, outcome)

    def write(temporary: Path) -> None:
        for name, content in outcome.files.items():
            (temporary / name).write_bytes(content)
        text = record_text(outcome.row, mark, outcome.files)
        (temporary / RECORD).write_text(text, encoding="utf-8")

    write_folder(batch.folder / row.name, write)
    return outcome.row


def _failed(batch: Batch, row: Row, error: Exception) -> Row:
    if batch.debug:
        traceback.print_exception(error)
    forget(batch.folder / row.name)
    line = " ".join(str(error).split())
    known = isinstance(error, OdekitError)
    return replace(
        row,
        status="failed",
        error=as_options(line) if known else f"{type(error).__name__}: {line}",
    )


@contextmanager
def _unbroken() -> Iterator[None]:
    """Ctrl-C inside waits until the block is done."""
    with Interruption() as interruption:
        yield
    if interruption.asked:
        raise KeyboardInterrupt


def _summary(batch: Batch, rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    """Everything about the batch, for programs."""
    return {
        "files": len(rows),
        "done": sum(row.status == "done" for row in rows),
        "failed": sum(row.status == "failed" for row in rows),
        "not_done": sum(row.status == "not done" for row in rows),
        "resumed": sum(row.resumed for row in rows),
        "seconds": seconds,
        "command": batch.command,
        "folder": str(batch.folder),
        "rows": [
            {**vars(row), "verdict": row.verdict, "report": row.report or None} for row in rows
        ],
    }


def _write_summary(batch: Batch, rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
    import csv
    import json

    from odekit.report.index import Line, index_page

    def write(temporary: Path) -> None:
        with open(temporary / TABLE, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(CSV_COLUMNS)
            for row in rows:
                cells = {**vars(row), "equations": "; ".join(row.text.splitlines())}
                cells["report"] = row.report
                if row.status != "done":
                    cells |= {"confident": None, "complete": None}
                writer.writerow([cells[name] for name in CSV_COLUMNS])
        text = json.dumps(plain_json(summary), indent=1, ensure_ascii=False, allow_nan=False)
        (temporary / SUMMARY).write_text(text + "\n", encoding="utf-8")
        lines = [
            Line(
                row.name,
                row.file,
                row.report,
                row.text.splitlines(),
                row.verdict,
                row.status == "done" and row.confident,
                row.r2,
                row.seconds,
            )
            for row in rows
        ]
        page = index_page(lines, summary["seconds"], batch.command)
        (temporary / INDEX).write_text(page, encoding="utf-8")

    write_folder(batch.folder, write)


def _print_equations(rows: Sequence[Row]) -> None:
    for row in rows:
        for line in row.text.splitlines():
            typer.echo(f"{row.name}: {line}")


def _print_table(batch: Batch, rows: Sequence[Row], seconds: float) -> None:
    screen = console()
    again = sum(row.resumed for row in rows)
    kept = f", {again} of them finished earlier" if again else ""
    many = "1 file, a system" if len(rows) == 1 else f"{len(rows)} files, each a system"
    screen.print(f"{many} of its own{kept}; {seconds:.1f} s.", markup=False)
    listing = table("file", "equations", "verdict", "R²", "seconds", numeric=("R²", "seconds"))
    for row in rows:
        style = {"done": "green" if row.confident else "yellow", "failed": "bold red"}
        listing.add_row(
            _plain(row.name),
            _plain(row.text),
            _plain(row.verdict, style.get(row.status, "")),
            "" if row.r2 is None else f"{row.r2:.3f}",
            "" if row.seconds is None else f"{row.seconds:.1f}",
        )
    screen.print(listing)
    typer.echo(f"Written to {batch.folder}: {INDEX}, {TABLE}, {SUMMARY} and a folder per file")


def _plain(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(text, style=style)


def _conclude(batch: Batch, rows: Sequence[Row], *, stopped: bool, told: bool) -> None:
    """The end of a batch that did not get everything done."""
    failed = [row for row in rows if row.status == "failed"]
    if not told:
        for row in failed:
            print(f"warning: {row.file} failed: {row.error}", file=sys.stderr)
    if stopped:
        done = sum(row.status == "done" for row in rows)
        raise DiscoveryError(
            f"stopped with {done} of {len(rows)} files done; the same command with --resume does "
            "the rest"
        )
    if failed:
        raise DiscoveryError(
            f"{len(failed)} of {len(rows)} files failed, {failed[0].file} for one; --resume tries "
            "them again and skips the others"
        )
