"""Adds ``odekit benchmark`` to the command line; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from odekit.plugin import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def odekit_commands(app: typer.Typer) -> None:
    """Add the group of benchmarks."""
    from odekit_benchmarks.commands import build_group

    app.add_typer(build_group(), name="benchmark")
