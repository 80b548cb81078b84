"""Options of ``odekit discover`` that say what is known in advance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

Known = Annotated[
    list[str] | None,
    typer.Option("--known", metavar="EQUATION", help='A whole equation: "x\' = v". Repeatable.'),
]
KnownTerms = Annotated[
    list[str] | None,
    typer.Option(
        "--known-terms",
        metavar="EQUATION",
        help='Terms that are certainly there, with their values: "v\' = -9.81". Repeatable.',
    ),
]
Forbid = Annotated[
    list[str] | None,
    typer.Option("--forbid", metavar="TERM", help='A term that is not there: "x^3 in v", "x*y".'),
]
Force = Annotated[
    list[str] | None,
    typer.Option("--force", metavar="TERM", help='A term that is there: "x in v".'),
]
Constraint = Annotated[
    list[str] | None,
    typer.Option(
        "--constraint",
        metavar="RELATION",
        help='A sign, a value or a ratio: "c[x, x^3] < 0", "c[x, x*y] == -c[y, x*y]".',
    ),
]
Offer = Annotated[
    list[str] | None,
    typer.Option("--term", metavar="FORMULA", help='A formula to offer: "sin(2*t)", "x/(1+x)".'),
]
UnitOf = Annotated[
    list[str] | None,
    typer.Option("--unit", metavar="NAME=UNIT", help="A unit: x=m, v=m/s, t=s. Repeatable."),
]
Hidden = Annotated[
    str | None,
    typer.Option(
        metavar="V,W",
        help="States that were not observed, derivatives of observed ones by --known.",
    ),
]


def claimed(
    known: Sequence[str] | None,
    known_terms: Sequence[str] | None,
    forbid: Sequence[str] | None,
    force: Sequence[str] | None,
    constraint: Sequence[str] | None,
    term: Sequence[str] | None,
    unit: Sequence[str] | None,
    hidden: str | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `odekit.discover`, and the same as options of the command line.

    Raises:
        ProblemError: text that is no equation.
        typer.BadParameter: a unit without a name.
    """
    from odekit.cli.options import split_names

    options = {
        "known": _equations(known),
        "known_terms": _equations(known_terms),
        "forbidden": list(forbid or ()),
        "forced": list(force or ()),
        "constraints": list(constraint or ()),
        "terms": list(term or ()),
        "units": _units(unit or ()),
        "hidden": split_names(hidden) or [],
    }
    texts = {
        "--known": known,
        "--known-terms": known_terms,
        "--forbid": forbid,
        "--force": force,
        "--constraint": constraint,
        "--term": term,
        "--unit": unit,
        "--hidden": hidden,
    }
    return (
        {name: value for name, value in options.items() if value},
        {name: value for name, value in texts.items() if value},
    )


def _equations(lines: Sequence[str] | None) -> dict[str, str]:
    from odekit.formulas import read_formulas

    return read_formulas(lines) if lines else {}


def _units(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, unit = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise typer.BadParameter(f"--unit takes name=unit, such as v=m/s; got {text!r}")
        if name in found:
            raise typer.BadParameter(f"--unit gives {name!r} twice: keep one of them")
        found[name] = unit.strip()
    return found
