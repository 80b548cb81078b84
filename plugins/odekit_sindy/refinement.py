"""Fitting the parameters of a known model to data by multiple shooting.

The model may be rational, parametric, driven, depend on time, and have states that were not
observed. A first guess comes from the slopes of the smoothed data (`first_guess`); from there
segments are joined ever more tightly, so chaotic and badly started models are no special case.
The best of several starts is kept. For the structure itself use `odekit.discover`.

Shapes: ``d`` states of the model, ``k`` free parameters, ``M`` segments, ``n`` rows.
Units: scaled inside, the caller's outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from odekit import DiscoveryError, Equations, ProblemError, Refined, TimeSeries
from odekit_sindy.budget import Budget
from odekit_sindy.data import Dataset, gather
from odekit_sindy.formula_model import FormulaModel
from odekit_sindy.formula_reading import read_equations, read_formulas_of
from odekit_sindy.parameter_fit import ParameterFit
from odekit_sindy.refined_report import RefinedReport


def refine(
    model: Any,
    series: TimeSeries | Sequence[TimeSeries],
    *,
    start: Mapping[Any, float] | None = None,
    fix: Any = None,
    positive: Iterable[Any] = (),
    bounds: Mapping[Any, tuple[Any, Any]] | None = None,
    noise: str = "auto",
    seed: int = 0,
    time_limit: float = 60.0,
    progress: Callable[[str, float], object] | None = None,
) -> Equations | Refined:
    """Fit a model's parameters; see `odekit.refine`.

    Args:
        model: `Equations`, or formulas.
        series: one trajectory or several of the same system.
        start: where to begin.
        fix: what to hold.
        positive: what is not negative.
        bounds: lowest and highest values.
        noise: ``"auto"``, or one of `odekit_sindy.smoothing.MODELS`.
        seed: for the starts that are drawn.
        time_limit: seconds after which no further stage is begun.
        progress: called with the stage and the fraction done; a true answer ends the fit.

    Raises:
        ProblemError: a model that cannot be read, or a name that does not exist.
        DiscoveryError: too little data.
    """
    several = [series] if isinstance(series, TimeSeries) else list(series)
    if not several or not all(isinstance(item, TimeSeries) for item in several):
        raise ProblemError(
            "series must be a TimeSeries or a list of them: write odekit.TimeSeries(t, y)"
        )
    budget = Budget(time_limit, progress)
    budget.tell("reading", 0.0)
    first = several[0]
    known = {"start": start, "fix": fix, "positive": positive, "bounds": bounds}
    if isinstance(model, Equations):
        formulas = read_equations(model, **known)
        _check_equations(model, first)
    else:
        formulas = read_formulas_of(model, first.names, first.input_names, first.time_name, **known)
    dataset = _gathered(formulas, several)
    _check_amount(formulas, dataset)
    outcome = ParameterFit(formulas, dataset, budget, noise, seed).run()
    budget.tell("verdict", 0.95)
    report = RefinedReport(outcome)
    budget.tell("done", 1.0)
    return report.as_equations(model) if isinstance(model, Equations) else report.as_formulas()


def _check_equations(equations: Equations, first: TimeSeries) -> None:
    lacking = [name for name in equations.inputs if name not in first.input_names]
    if lacking:
        raise ProblemError(
            f"series: the equations have the input {lacking[0]!r}: give it with u= and input_names="
        )
    if not set(equations.names) & set(first.names):
        raise ProblemError(
            f"model: none of its states ({', '.join(equations.names)}) is in the series, which has "
            f"{', '.join(first.names)}"
        )


def _gathered(model: FormulaModel, several: Sequence[TimeSeries]) -> Dataset:
    """The model's states and inputs out of the series; time as a further input if it occurs."""
    names = [name for name in model.states if name in several[0].names]
    driven = list(model.driven)
    timed = model.timed
    items = []
    for item in several:
        if tuple(item.names) != tuple(several[0].names):
            raise ProblemError(
                f"all series must have the same states: {list(several[0].names)} and "
                f"{list(item.names)} differ"
            )
        columns = []
        for name in driven:
            if item.u is None or name not in item.input_names:
                raise ProblemError(f"series: one of them lacks the input {name!r}")
            columns.append(item.u[:, item.input_names.index(name)].to(item.t.dtype))
        if timed:
            columns.append(item.t)
        u = np.stack([c.numpy() for c in columns], axis=1) if columns else None
        taken = {*item.names, *driven, model.time}
        clock = next(name for name in ("clock", "clock_", "clock__") if name not in taken)
        items.append(
            TimeSeries(
                item.t, item.y, u, item.names,
                input_names=[*driven, model.time] if timed else driven if columns else None,
                time_name=clock if timed else model.time,
            )
        )  # fmt: skip
    return gather(items, names)


def _check_amount(model: FormulaModel, dataset: Dataset) -> None:
    numbers = len(model.free) + len(model.states) * len(dataset.trajectories)
    values = int(dataset.counts.sum())
    if values <= numbers:
        raise DiscoveryError(
            f"series: {values} observed values cannot settle {numbers} numbers "
            f"({len(model.free)} parameters, and the start of each state in every trajectory): "
            "give more rows, or hold parameters with fix="
        )
