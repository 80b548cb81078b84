"""What a post-processor is: trained fields and their solutions in, equations out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from odekit.errors import IncompatibleError
from odekit.field import VectorField
from odekit.registry import create, resolve
from odekit.solution import Solution

if TYPE_CHECKING:
    from odekit.equations import Equations
    from odekit.series import TimeSeries


class PostProcessor(ABC):
    """Write down the equations of a field."""

    @abstractmethod
    def process(self, field: VectorField, solutions: Sequence[Solution]) -> Equations:
        """The equations of ``field`` in the region that ``solutions`` visit.

        Raises:
            DiscoveryError: nothing can be written down, and why.
        """


def postprocess(
    field: VectorField,
    solutions: Solution | Sequence[Solution],
    processor: str | PostProcessor = "sindy",
    **options: Any,
) -> Equations:
    """Turn a trained field into equations.

    Args:
        field: any field, usually one that was trained.
        solutions: one or several of its solutions; they say where the field can be trusted.
        processor: name of an installed post-processor, or an instance.
        **options: passed to its constructor when ``processor`` is a name. For ``"sindy"`` the
            most useful are ``names``, ``library`` (a degree, or a PySINDy library) and
            ``optimizer``; ``help(type(odekit.create("postprocessor", "sindy")))`` lists all.

    Raises:
        IncompatibleError: something else than solutions, or an unknown option.
        DiscoveryError: nothing can be written down, and why.
    """
    several = [solutions] if isinstance(solutions, Solution) else solutions
    if not isinstance(several, list | tuple) or not all(isinstance(s, Solution) for s in several):
        raise IncompatibleError(
            "solutions must be a Solution or a list of them, as odekit.solve returns; for data "
            "alone use odekit.discover"
        )
    chosen = resolve("postprocessor", processor, PostProcessor, **options)
    return chosen.process(field, several)  # type: ignore[no-any-return]


def discover(series: TimeSeries | Sequence[TimeSeries], **options: Any) -> Equations:
    """Find the equations behind observed data, with error bars and a verdict.

    Args:
        series: one `TimeSeries` or several of the same system; irregular times and missing
            values are fine.
        **options: options of the post-processor ``discovery``: ``names`` of the states,
            ``library`` (``"auto"``, ``"polynomial"``, ``"trig"``), ``degree``, ``smoother``
            (``"gp"``, or a trained field), ``noise`` (``"auto"``, ``"additive"``,
            ``"multiplicative"``, ``"log-normal"``), ``seed``, ``time_limit`` in seconds, and
            ``progress``, a function of stage and fraction;
            ``help(type(odekit.create("postprocessor", "discovery")))`` says more.

    Raises:
        DiscoveryError: the data do not allow any statement, and why.
    """
    return create("postprocessor", "discovery", **options).discover(series)  # type: ignore[no-any-return]
