"""Options that several commands share, spelt once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder for what is written.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the equations and nothing else.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


_ARGUMENTS = {
    "names": "states",
    "forbidden": "forbid",
    "forced": "force",
    "constraints": "constraint",
    "terms": "term",
    "units": "unit",
}
_LONG = (
    "time|states|inputs|names|library|degree|noise|seed|solver|rtol|atol|max_steps|time_limit|"
    "cluster|known|known_terms|forbidden|forced|constraints|terms|units|hidden|"
    "reference|methods|step_size"
)


def as_options(text: str) -> str:
    """A message of the library with its arguments spelt as options of the command line.

    Example:
        >>> as_options("states: none; leave it out with names=, or raise time_limit")
        '--states: none; leave it out with --states, or raise --time-limit'
    """

    def option(match: re.Match[str]) -> str:
        name = _ARGUMENTS.get(match[1], match[1])
        return f"--{name.replace('_', '-')}{match[2]}"

    text = re.sub(r"^path(?=: )", "FILE", text)
    text = re.sub(rf"^({_LONG})(: )", option, text)
    text = re.sub(rf"\b({_LONG})=(?!\w)()", option, text)
    return re.sub(r"\b(time_limit|max_steps)()\b", option, text)


def split_names(text: str | None) -> list[str] | None:
    """``"a, b"`` as ``["a", "b"]``; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",")]


def split_numbers(option: str, text: str) -> list[float]:
    """``"1, 0.5"`` as ``[1.0, 0.5]``.

    Raises:
        typer.BadParameter: something in it is no finite number.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise typer.BadParameter(
            f"{option} takes finite numbers with commas between them, such as 1,0.5; got {text!r}"
        )
    return numbers


def split_assignments(option: str, texts: Sequence[str]) -> dict[str, float]:
    """``["mu=2", "k=1"]`` as ``{"mu": 2.0, "k": 1.0}``.

    Raises:
        typer.BadParameter: no assignment of a number, or two for one name.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise typer.BadParameter(f"{option} takes name=number, such as mu=2; got {text!r}")
        if name in found:
            raise typer.BadParameter(f"{option} gives {name!r} twice: keep one of them")
        found[name] = split_numbers(option, value)[0] if "," not in value else _refuse(option, text)
    return found


def _refuse(option: str, text: str) -> float:
    raise typer.BadParameter(f"{option} takes one number for a name, such as mu=2; got {text!r}")
