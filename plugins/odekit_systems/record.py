"""One line of a table of systems: data only, cheap to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Record(NamedTuple):
    """A system as its table has it.

    Attributes:
        title: what it describes.
        right: right-hand sides in the states ``x0, x1, ...`` and the parameters.
        parameters: their names and values.
        starts: the starts, each ``(d,)``.
        source: where the equations come from.
    """

    title: str
    right: tuple[str, ...]
    parameters: Mapping[str, float]
    starts: tuple[tuple[float, ...], ...]
    source: str
