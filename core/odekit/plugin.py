"""What the author of a plugin imports: the two hooks, `Kind` and `Component`.

A plugin is a module named by an entry point of the group ``odekit``. It announces components and
may add commands; the classes themselves are imported only when somebody asks for them.

Example:
    >>> from odekit.plugin import Component, Kind, hookimpl
    >>> @hookimpl
    ... def odekit_components():
    ...     return [
    ...         Component(
    ...             kind=Kind.SOLVER,
    ...             name="mymethod",
    ...             path="my_package.mymethod:MyMethod",
    ...             summary="One line for `odekit plugins`.",
    ...         )
    ...     ]
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer

GROUP = "odekit"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Kind(enum.StrEnum):
    """The kinds of component that a plugin may bring."""

    SOLVER = "solver"
    CONTROLLER = "controller"
    GRADIENT = "gradient"
    FIELD = "field"
    MODEL = "model"
    TRAINER = "trainer"
    POSTPROCESSOR = "postprocessor"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Component:
    """The announcement of one class: cheap to make, imports nothing.

    Args:
        kind: what it is.
        name: what users type, lower case with underscores.
        path: ``"package.module:Class"``, imported on first use.
        summary: one line for listings.
        needs: import names of optional packages that must be there.
        extra: the extra of the distribution that brings those packages.
    """

    kind: Kind
    name: str
    path: str
    summary: str
    needs: tuple[str, ...] = ()
    extra: str | None = None

    def __post_init__(self) -> None:
        """Take ``kind`` by its lower-case name too; an unknown one is refused here."""
        object.__setattr__(self, "kind", Kind(self.kind))


@hookspec
def odekit_components() -> Iterable[Component]:  # type: ignore[empty-body]
    """Announce components; called once, at the first look-up. Import nothing heavy here."""


@hookspec
def odekit_commands(app: typer.Typer) -> None:
    """Add subcommands to the command line's ``typer`` application."""
