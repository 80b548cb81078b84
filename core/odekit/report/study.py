"""What was found, in what, and how: everything that a report tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from odekit.formulas import parse
from odekit.report.comparison import Comparison, compare

if TYPE_CHECKING:
    from odekit.equations import Equations
    from odekit.series import TimeSeries


@dataclass(frozen=True)
class Study:
    """A discovery with its data and its circumstances.

    Args:
        equations: what was found.
        series: the trajectories it was found in.
        labels: a short name for each trajectory, usually the name of its file.
        title: the headline.
        command: what to type to get the same again, if a command was typed.
        seed: of everything random in the search.
        seconds: how long the search took.
        notes: what was changed in the data on the way in, one sentence each.
    """

    equations: Equations
    series: Sequence[TimeSeries]
    labels: Sequence[str]
    title: str
    command: str = ""
    seed: int | None = None
    seconds: float | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @cached_property
    def autonomous(self) -> bool:
        """Whether the derivatives depend on the states alone."""
        known = (*self.equations.names, self.equations.time, *self.equations.inputs)
        terms = {term.term for term in self.equations.terms}
        used = {str(symbol) for term in terms for symbol in parse(term, known).free_symbols}
        return used <= set(self.equations.names)

    @property
    def time(self) -> str:
        """The name of time in the data."""
        return self.series[0].time_name

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The model's simulation beside each trajectory."""
        pairs = zip(self.series, self.labels, strict=True)
        return tuple(compare(self.equations, series, label) for series, label in pairs)
