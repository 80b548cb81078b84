"""From files to a `Study`, as ``odekit discover`` needs it for one system and for many."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odekit.errors import DataWarning

if TYPE_CHECKING:
    from odekit.equations import Equations
    from odekit.report import Study
    from odekit.series import TimeSeries


@dataclass(frozen=True)
class Columns:
    """Which columns of a file are what; None stands for the default of `TimeSeries.read`."""

    time: str | None
    states: list[str] | None
    inputs: list[str] | None

    def read(self, path: Path) -> TimeSeries:
        """The columns of one file."""
        from odekit.series import TimeSeries

        return TimeSeries.read(path, time=self.time, states=self.states, inputs=self.inputs)


@contextmanager
def noted(*, aloud: bool = True) -> Iterator[list[str]]:
    """Collects what the warnings about data say; ``aloud``, they are passed on as well."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    for warning in caught:
        if issubclass(warning.category, DataWarning):
            notes.append(f"Note: {warning.message}.")
            if not aloud:
                continue
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def make_study(
    equations: Equations, series: Sequence[TimeSeries], files: Sequence[Path], **details: Any
) -> Study:
    """A study with the headline and the labels that its files suggest."""
    from odekit.report import Study

    names = equations.names
    listed = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    title = f"Equations of {listed}" if len(names) <= 4 else f"Equations from {files[0].stem}"
    stems = [path.stem for path in files]
    labels = stems if len(set(stems)) == len(stems) else [str(path) for path in files]
    return Study(equations, series, labels, title, **details)


def command_line(files: Sequence[Path], options: Mapping[str, Any]) -> str:
    """What to type to get the same again; options that are None are left out, True is a flag.

    A list repeats its option.
    """
    words = ["odekit", "discover", *map(str, files)]
    for name, value in options.items():
        if value is True:
            words.append(name)
        elif isinstance(value, list):
            for item in value:
                words += [name, str(item)]
        elif value is not None and value is not False:
            words += [name, str(value)]
    return shlex.join(words)
