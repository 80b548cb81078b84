"""``odekit check``: does a component keep the promises of its kind?"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated

import typer

from odekit.cli.options import Debug, Json
from odekit.cli.output import console, print_json, table
from odekit.errors import UnknownNameError
from odekit.plugin import Kind
from odekit.registry import Entry, components

if TYPE_CHECKING:
    from odekit.testing import CheckResult


def check(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A component, or a plugin for all of its components."),
    ],
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="Needed only if two kinds share the name.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Test components against their promises.

    Exit code 1 if one of them is broken.
    """
    from odekit.testing import check_component

    entries = _entries(name, kind)
    outcome = [(entry, check_component(entry.kind.value, entry.full_name)) for entry in entries]
    failed = sum(not result.passed for _, results in outcome for result in results)
    if as_json:
        print_json(
            [
                {
                    "kind": entry.kind.value,
                    "name": entry.name,
                    "check": result.check,
                    "passed": result.passed,
                    "figure": result.figure,
                    "detail": result.detail,
                }
                for entry, results in outcome
                for result in results
            ]
        )
    else:
        for entry, results in outcome:
            _print(entry, results)
    if failed:
        raise typer.Exit(1)


def _entries(name: str, kind: Kind | None) -> list[Entry]:
    """The components of this name, of one kind or of all; else those of the plugin so called.

    Raises:
        UnknownNameError: there is none.
    """
    known = components(kind)
    found = [entry for entry in known if name in (entry.name, entry.full_name)]
    found = found or [entry for entry in known if entry.plugin == name]
    if found:
        return found
    names = sorted({entry.name for entry in known})
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    what = kind.value if kind else "component"
    raise UnknownNameError(f"unknown {what} {name!r}: {hint}odekit plugins lists what is installed")


def _print(entry: Entry, results: list[CheckResult]) -> None:
    screen = console()
    screen.print(f"{entry.kind.value} {entry.full_name} ({entry.distribution})", style="bold")
    listing = table("check", "result", "figure", "detail")
    for result in results:
        listing.add_row(result.check, _verdict(result), str(result.figure), result.detail)
    screen.print(listing)
    failed = sum(not result.passed for result in results)
    passed = len(results) - failed
    screen.print(f"{passed} passed, {failed} failed" if failed else f"all {passed} passed")


def _verdict(result: CheckResult) -> str:
    if not result.passed:
        return "[bold red]failed[/]"
    return "[green]passed[/]" if result.applies else "does not apply"
