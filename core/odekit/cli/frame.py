"""The frame of the command line: commands in, one exit code and no traceback out.

Exit codes: 0 when it worked, 1 when it could not be done, 2 when the arguments were wrong. What
went wrong is one line on the standard error stream; ``--debug`` lets the traceback through.
Plugins add commands with the hook ``odekit_commands``; one that fails there is left out with a
warning, and so is a command whose name is taken.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any, TextIO

import typer

from odekit.cli.check import check
from odekit.cli.discover import discover
from odekit.cli.gradients import gradients
from odekit.cli.options import as_options
from odekit.cli.plugins import plugins
from odekit.cli.solve import solve
from odekit.errors import DataWarning, GradientWarning, OdekitError, PluginWarning
from odekit.registry import default_registry

PROG = "odekit"
INTERRUPTED = 130
STOPPED = "stopped before there was anything to show"


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: what follows the program's name.

    Returns:
        The exit code.
    """
    debug = "--debug" in arguments
    with _lines_for_warnings(debug=debug):
        try:
            if "plugins" in arguments[:1]:
                _load_quietly()
            command = typer.main.get_command(build_app())
            code = command.main(list(arguments), prog_name=PROG, standalone_mode=False)
        except (typer.Abort, KeyboardInterrupt):
            return _fail(STOPPED, 1)
        except Exception as error:
            if debug:
                raise
            return _explain(error)
    # Some versions of typer raise on Ctrl-C, which is met above, and some give a shell's code.
    return _fail(STOPPED, 1) if code == INTERRUPTED else int(code or 0)


def _load_quietly() -> None:
    """Load the plugins for a command that lists the broken ones itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        _ = default_registry().broken


def build_app() -> typer.Typer:
    """The application with its own commands and those of the installed plugins."""
    app = typer.Typer(
        help="Learn vector fields from data, solve them, and write down the equations.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for command in (discover, solve, gradients, plugins, check):
        app.command()(command)
    for plugin in default_registry().hook.odekit_commands.get_hookimpls():
        _add_commands(app, plugin)
    return app


def _root(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.")
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"{PROG} {version(PROG)}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _add_commands(app: typer.Typer, plugin: Any) -> None:
    """Let one plugin add commands; what it breaks is taken out again."""
    before = list(app.registered_commands)
    groups = list(app.registered_groups)
    try:
        plugin.function(*[app for _ in plugin.argnames])
    except Exception as error:
        app.registered_commands[:], app.registered_groups[:] = before, groups
        warnings.warn(
            f"the commands of plugin {plugin.plugin_name!r} were left out: "
            f"{type(error).__name__}: {error}",
            PluginWarning,
            stacklevel=2,
        )
        return
    taken = {_name(command) for command in before}
    for command in app.registered_commands[len(before) :]:
        if _name(command) in taken:
            app.registered_commands.remove(command)
            warnings.warn(
                f"plugin {plugin.plugin_name!r} offers a command {_name(command)!r}, a name that "
                "is taken: it was left out",
                PluginWarning,
                stacklevel=2,
            )


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__.replace("_", "-"))


def _explain(error: Exception) -> int:
    """One line for an exception, and its exit code."""
    # Typer has carried its own copy of click for some versions and not for others: the shape of
    # the exception is the same, its class is not.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        where = f" (see {context.command_path} --help)" if context is not None else ""
        return _fail(f"{error.format_message().rstrip('.')}{where}", error.exit_code)
    if isinstance(error, OdekitError):
        return _fail(as_options(str(error)), 1)
    return _fail(f"{type(error).__name__}: {error}; --debug shows where", 1)


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


@contextmanager
def _lines_for_warnings(*, debug: bool) -> Iterator[None]:
    """This package's warnings as one line each; those of others only for ``--debug``."""
    seen = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = " ".join(str(message).split())
        mine = issubclass(category, DataWarning | PluginWarning | GradientWarning)
        if (mine or debug) and text not in seen:
            seen.add(text)
            origin = "" if mine else f" ({category.__name__}, {filename}:{lineno})"
            print(f"warning: {text}{origin}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield
