"""``odekit plugins``: every component that is installed, and every plugin that is broken."""

from __future__ import annotations

from typing import Annotated

import typer

from odekit.cli.options import Debug, Json
from odekit.cli.output import console, print_json, table
from odekit.plugin import Kind
from odekit.registry import default_registry, shorten


def plugins(
    kind: Annotated[Kind | None, typer.Option("--kind", help="Show one kind only.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List what is installed.

    Every component, and below them the plugins that could not be loaded. Components that differ
    by a number only share a row; --kind lists them one by one.
    """
    registry = default_registry()
    rows = [
        {
            "kind": entry.kind.value,
            "name": entry.name,
            "plugin": entry.plugin,
            "distribution": entry.distribution,
            "summary": entry.component.summary,
        }
        for entry in registry.components(kind)
    ]
    broken = [
        {"plugin": name, "error": f"{type(error).__name__}: {error}"}
        for name, error in sorted(registry.broken.items())
    ]
    if as_json:
        print_json({"components": rows, "broken": broken})
        return
    screen = console()
    if rows:
        listing = table("kind", "name", "plugin", "distribution", "summary")
        for row in rows if kind else _folded(rows):
            listing.add_row(*row.values())
        screen.print(listing)
    else:
        screen.print("no component is installed" + (f" of kind {kind.value}" if kind else ""))
    for each in broken:
        screen.print(f"broken: {each['plugin']}: {' '.join(each['error'].split())}", markup=False)


def _folded(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """One row for each numbered family of components."""
    groups: dict[tuple[str, str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        stem = row["name"].rstrip("0123456789")
        groups.setdefault((row["kind"], row["plugin"], row["distribution"], stem), []).append(row)
    found = []
    for (kind, *_), group in groups.items():
        names = shorten(row["name"] for row in group)
        if len(names) == len(group):
            found += group
        else:
            summary = f"{len(group)} of them: odekit plugins --kind {kind}"
            found.append({**group[0], "name": names[0], "summary": summary})
    return found
