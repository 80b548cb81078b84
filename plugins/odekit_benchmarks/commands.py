"""The group ``odekit benchmark``: one command for each benchmark."""

from __future__ import annotations

import typer

from odekit_benchmarks.discovery import discovery
from odekit_benchmarks.speed import speed


def build_group() -> typer.Typer:
    """The group with all its commands."""
    group = typer.Typer(
        help="Measure odekit, and others beside it, on known systems.",
        rich_markup_mode=None,
    )
    group.callback(invoke_without_command=True)(_group)
    group.command()(discovery)
    group.command()(speed)
    return group


def _group(context: typer.Context) -> None:
    """Measure odekit, and others beside it, on known systems."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
