"""Telling how training goes: a bar, a function of the caller's, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from odekit.errors import IncompatibleError

Report: TypeAlias = Callable[[int, int, float], None]
"""``report(done, total, loss)``, called once per step of a trainer."""


@contextmanager
def reporting(progress: bool | Report, title: str) -> Iterator[Report]:
    """A function to report to.

    Args:
        progress: True for a bar on the terminal, a function to be called, or False.
        title: what stands before the bar.

    Raises:
        IncompatibleError: something else.
    """
    if callable(progress):
        yield progress
    elif progress is False:
        yield lambda done, total, loss: None
    elif progress is True:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3g}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns) as bar:
            task = bar.add_task(title, loss=float("nan"))

            def report(done: int, total: int, loss: float) -> None:
                bar.update(task, completed=done, total=total, loss=loss)

            yield report
    else:
        raise IncompatibleError(
            f"progress must be True, False or a function of (done, total, loss), got {progress!r}"
        )
