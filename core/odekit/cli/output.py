"""What a command leaves behind: a folder that is written whole, lines, tables and JSON."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from odekit.errors import ProblemError

WIDTH = 140
"""Columns when the output goes to a file or a pipe, where nothing has to be wrapped."""

ProgressCallback = Callable[[str, float], None]


def check_folder(folder: Path) -> None:
    """Raise `ProblemError` unless files can be written into ``folder``; creates nothing."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ProblemError(f"--out: {str(nearest)!r} is a file: name a folder")
    if not os.access(nearest, os.W_OK):
        raise ProblemError(f"--out: {str(nearest)!r} cannot be written to: name another folder")


def write_folder(folder: Path, write: Callable[[Path], None]) -> list[Path]:
    """Let ``write`` fill a temporary folder, then move its files into ``folder``.

    Nothing of ``folder`` is touched until every file is complete; files of the same names are
    replaced, others are left alone.

    Returns:
        The files, in the order of their names.

    Raises:
        ProblemError: the folder cannot be written.
    """
    check_folder(folder)
    made = [p for p in (folder.absolute(), *folder.absolute().parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".odekit-") as temporary:
            write(Path(temporary))
            names = sorted(path.name for path in Path(temporary).iterdir())
            for name in names:
                os.replace(Path(temporary, name), folder / name)
    except BaseException as error:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise ProblemError(
                f"--out: cannot write {str(folder)!r}: {error.strerror or error}"
            ) from None
        raise
    return [folder / name for name in names]


def plain_json(value: Any) -> Any:
    """The value with everything that JSON does not know replaced: NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_json(item) for item in value]
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numbers and arrays of numpy and torch
        return plain_json(value.tolist())
    return str(value)


def print_json(value: Any) -> None:
    """One JSON document on the standard output."""
    print(json.dumps(plain_json(value), indent=2, ensure_ascii=False, allow_nan=False))


def console() -> Any:
    """A rich console for the standard output; wide when that is not a terminal."""
    from rich.console import Console

    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, soft_wrap=False, width=None if terminal else WIDTH)


def table(*columns: str, numeric: tuple[str, ...] = ()) -> Any:
    """An empty rich table, plain enough to paste into a mail."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in numeric else "left", overflow="fold")
    return made


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[ProgressCallback]:
    """A bar on the standard error stream, gone when it is done; gives ``f(stage, fraction)``."""
    if not (shown and sys.stderr.isatty()):
        yield lambda stage, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<36}"),
        BarColumn(bar_width=32),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=1.0)

        def report(stage: str, fraction: float) -> None:
            progress.update(task, description=stage, completed=min(max(fraction, 0.0), 1.0))

        yield report
