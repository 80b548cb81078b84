"""All fits of a benchmark, one after another or side by side; each is on disk when it is done.

Rows are appended to a file of JSON lines in the order in which they finish and handed back in
the order of the tasks, so that serial and parallel runs give the same.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from odekit import ProblemError
from odekit_benchmarks.fits import Row, Task, run

KEY = ("system", "method", "noise", "drop", "seed", "trajectories", "time_limit")

Listener = Callable[[Sequence[Row]], None]
"""Called with all rows so far each time one is added."""


def run_all(
    tasks: Sequence[Task],
    file: Path,
    *,
    jobs: int = 1,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    listen: Listener = lambda rows: None,
) -> list[Row]:
    """Run what is not on disk yet.

    Args:
        tasks: what to run.
        file: the JSON lines; its folder is made where it is missing.
        jobs: processes side by side; 1 stays in this one.
        resume: take rows that are in ``file`` from there. Otherwise a file that is there is
            kept as ``results.previous.jsonl`` beside the new one.
        stop: asked before each fit; once it says true, no further one is begun.
        listen: told of all rows so far.

    Returns:
        The rows of the tasks that are done, in the order of the tasks.

    Raises:
        ProblemError: a case is impossible, or the file cannot be read or written.
    """
    done: dict[str, Row] = {}
    wanted = {_key(task.key) for task in tasks}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if resume:
            done = {key: row for row in read(file) if (key := _key(row)) in wanted}
        elif file.exists():
            os.replace(file, file.with_name(f"{file.stem}.previous{file.suffix}"))
        listen(list(done.values()))
        todo = [task for task in tasks if _key(task.key) not in done]
        with file.open("a", encoding="utf-8") as out:
            for row in _rows(todo, jobs, stop):
                out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                out.flush()
                done[_key(row)] = row
                listen(list(done.values()))
    except OSError as error:
        raise ProblemError(
            f"--out: cannot write {str(file)!r}: {error.strerror or error}"
        ) from None
    return [done[key] for task in tasks if (key := _key(task.key)) in done]


def read(file: Path) -> list[Row]:
    """The rows of a file, without a last line that was cut off; none where there is no file.

    A line that was cut off is also taken out of the file, so that rows can be appended.

    Raises:
        ProblemError: some other line is no row.
    """
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        file.write_text("".join(lines), encoding="utf-8")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not set(KEY) <= set(row):
            raise ProblemError(
                f"{file}: line {number} is no row of this benchmark: run without --resume"
            )
        rows.append(row)
    return rows


def _key(row: Row) -> str:
    return json.dumps([row[name] for name in KEY])


def _rows(tasks: Sequence[Task], jobs: int, stop: Callable[[], bool]) -> Iterator[Row]:
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            if stop():
                return
            yield run(task)
        return
    import joblib

    def asked() -> Iterator[Any]:
        for task in tasks:
            if stop():
                return
            yield joblib.delayed(_run_aside)(task)

    parallel = joblib.Parallel(
        n_jobs=jobs,
        backend="loky",
        return_as="generator_unordered",
        batch_size=1,
        pre_dispatch="n_jobs",
    )
    yield from parallel(asked())


def _run_aside(task: Task) -> Row:
    """In a process of its own, which leaves Ctrl-C to the one that hands out the work."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return run(task)
