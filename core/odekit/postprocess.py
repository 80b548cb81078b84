"""What a post-processor is: trained fields and their solutions in, equations out.

Where there are data, they decide how many terms the equations have, and the field only proposes:
the error of a trained field is smooth and its own, so a field alone cannot tell a small term from
a flaw of the training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from odekit.errors import IncompatibleError
from odekit.field import VectorField
from odekit.registry import create, resolve
from odekit.series import TimeSeries
from odekit.solution import Solution
from odekit.training import Fit

if TYPE_CHECKING:
    from odekit.equations import Equations
    from odekit.refined import Refined

_OF_REFINE = ("noise", "seed", "time_limit", "progress")
"""Options of discovery that mean something to a fit without a search."""


class PostProcessor(ABC):
    """Write down the equations of a field."""

    @abstractmethod
    def process(self, field: VectorField, solutions: Sequence[Solution]) -> Equations:
        """The equations of ``field`` in the region that ``solutions`` visit.

        Raises:
            DiscoveryError: nothing can be written down, and why.
        """


@runtime_checkable
class DataPostProcessor(Protocol):
    """A post-processor that lets data decide between the equations that a field proposes."""

    def process_data(
        self,
        field: VectorField,
        series: Sequence[TimeSeries],
        solutions: Sequence[Solution] | None,
    ) -> Equations:
        """The equations of ``field`` that explain the data.

        Args:
            field: the field.
            series: observations of one system, what the field shows along its solutions.
            solutions: of the field; None solves it from the starts of the data.

        Raises:
            DiscoveryError: nothing can be written down, and why.
        """
        ...


def postprocess(
    field: VectorField | Fit,
    solutions: Solution | Sequence[Solution] | None = None,
    processor: str | PostProcessor = "sindy",
    *,
    series: TimeSeries | Sequence[TimeSeries] | None = None,
    **options: Any,
) -> Equations:
    """Turn a trained field into equations.

    Args:
        field: any field, usually one that was trained; or what `fit` returned, with the data that
            it was trained on.
        solutions: one or several of its solutions; they say where the field can be trusted. With
            data they may be left out: the field is solved from the starts of the data.
        processor: name of an installed post-processor, or an instance.
        series: data of the same system. They decide how many terms there are and what their
            coefficients are, and the field proposes the terms; without data the field alone is
            judge of both, which the result says.
        **options: passed to its constructor when ``processor`` is a name. For ``"sindy"`` the
            most useful are ``names``, ``library`` (a degree, or a PySINDy library) and
            ``optimizer``; ``help(type(odekit.create("postprocessor", "sindy")))`` lists all.

    Raises:
        IncompatibleError: neither solutions nor data, something else than those, an unknown
            option, or data for a post-processor that takes none.
        DiscoveryError: nothing can be written down, and why.

    Example:
        >>> import odekit
        >>> data = odekit.create("system", "logistic").series(n=40, noise=0.02, seed=0)
        >>> fit = odekit.fit(odekit.create("field", "mlp", dim=1, width=8, depth=1), data)
        >>> postprocess(fit).diagnostics["judged_by"]
        'data'
    """
    if isinstance(field, Fit):
        series = field.series if series is None else series
        field = field.field
    several = [solutions] if isinstance(solutions, Solution) else solutions
    if several is not None and not _all_are(Solution, several):
        raise IncompatibleError(
            "solutions must be a Solution or a list of them, as odekit.solve returns; data go into "
            "series=, and for data alone there is odekit.discover"
        )
    chosen = resolve("postprocessor", processor, PostProcessor, **options)
    if series is None:
        if several is None:
            raise IncompatibleError(
                "there is nothing to judge the field by: give solutions of the field, or data as "
                "series=, or both"
            )
        return chosen.process(field, several)  # type: ignore[no-any-return]
    data = [series] if isinstance(series, TimeSeries) else series
    if not _all_are(TimeSeries, data):
        raise IncompatibleError("series must be a TimeSeries or a list of them")
    if not isinstance(chosen, DataPostProcessor):
        raise IncompatibleError(
            f"{type(chosen).__name__} takes no data: leave series= out, or use 'sindy'"
        )
    return chosen.process_data(field, data, several)


def _all_are(kind: type, several: object) -> bool:
    return isinstance(several, list | tuple) and all(isinstance(one, kind) for one in several)


def discover(series: TimeSeries | Sequence[TimeSeries], **options: Any) -> Equations:
    """Find the equations behind observed data, with error bars and a verdict.

    Args:
        series: one `TimeSeries` or several of the same system; irregular times and missing
            values are fine.
        **options: options of the post-processor ``discovery``: ``names`` of the states,
            ``library`` (``"auto"``, ``"polynomial"``, ``"trig"``, ``"exp"``, ``"rational"``),
            ``degree``, ``smoother`` (``"auto"``, ``"gp"``, ``"spline"``, ``"node"``, or a trained
            field), ``candidates`` (``"best_subset"`` or a PySINDy optimizer), ``noise``
            (``"auto"``, ``"additive"``, ``"multiplicative"``, ``"log-normal"``), what is
            known (``known``, ``known_terms``, ``forbidden``, ``forced``, ``constraints``,
            ``terms``, ``units``, ``hidden``), ``holdout`` (trajectories to keep out and
            predict), ``seed``, ``time_limit`` in seconds, and ``progress``, a function of stage
            and fraction;
            ``help(type(odekit.create("postprocessor", "discovery")))`` says more.

    Raises:
        DiscoveryError: the data do not allow any statement, and why.
    """
    return create("postprocessor", "discovery", **options).discover(series)  # type: ignore[no-any-return]


def refine(
    model: Any,
    series: TimeSeries | Sequence[TimeSeries],
    *,
    start: Mapping[Any, float] | None = None,
    fix: Any = None,
    positive: Iterable[Any] = (),
    bounds: Mapping[Any, tuple[Any, Any]] | None = None,
    **options: Any,
) -> Equations | Refined:
    """Fit the parameters of a known model to data by multiple shooting, with error bars.

    Args:
        model: `Equations`, whose coefficients are fitted again, and with them the numbers in
            denominators, called ``("x", "y in the denominator")``; or formulas: a mapping from
            state to right-hand side (text or a sympy expression), lines such as ``"x' = -k*x"``,
            or a `Refined`.
            Every symbol that is no state, input or time of the series is a parameter. A state
            that the series does not have is hidden: its start is fitted as well.
        series: one trajectory or several of the same system; irregular times and missing values
            are fine.
        start: where to begin, for parameters and for hidden states at the first row. What is not
            given is drawn; the best of several starts is kept.
        fix: names of parameters to hold at their start, or a mapping to the values to hold.
        positive: names of parameters, or hidden states, that are not negative.
        bounds: lowest and highest value by name, None where there is none.
        **options: ``noise`` (``"auto"``, ``"additive"``, ``"multiplicative"``, ``"log-normal"``),
            ``seed``, ``time_limit`` in seconds and ``progress``, as in `discover`.

    Returns:
        `Equations` for `Equations`, with coefficients named by pairs of state and term in
        ``start``, ``fix``, ``positive`` and ``bounds``; otherwise `odekit.Refined`. Both are judged
        by the rules of `discover`: what else would explain the data is asked of functions that
        the model does not have, so a model that was given is doubted for the same reasons.

    Raises:
        ProblemError: a model that cannot be read, or a name that does not exist.
        DiscoveryError: too little data.
        IncompatibleError: an option of `discover` that has no meaning here.

    Example:
        >>> import numpy as np, odekit
        >>> t = np.linspace(0.0, 3.0, 40)
        >>> series = odekit.TimeSeries(t, 2.0 * np.exp(-0.7 * t), names=["x"])
        >>> odekit.refine({"x": "-k*x"}, series).parameters["value"].round(4).to_dict()
        {'k': 0.7}
    """
    unknown = sorted(set(options) - set(_OF_REFINE))
    if unknown:
        raise IncompatibleError(
            f"refine searches for nothing, so it does not take {unknown[0]}=: its options are "
            f"start, fix, positive, bounds, {', '.join(_OF_REFINE)}"
        )
    return create("postprocessor", "discovery", **options).refine(  # type: ignore[no-any-return]
        model, series, start=start, fix=fix, positive=positive, bounds=bounds
    )
