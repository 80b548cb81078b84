"""`odekit.discover`: observed data in, equations with error bars and a verdict out.

The pipeline scales the data, chooses a noise model, smooths, proposes supports, and decides
between them in trajectory space by multiple shooting and EBIC. It expects every state to be
observed; hidden states give wrong equations. For the equations of a trained field use the
post-processor ``sindy``, which is faster and needs no noise model.

Shapes: see `odekit.TimeSeries`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, final

from odekit import Equations, PostProcessor, ProblemError, Solution, TimeSeries, VectorField
from odekit_sindy import pipeline
from odekit_sindy.budget import Budget
from odekit_sindy.data import gather
from odekit_sindy.library import ladder
from odekit_sindy.sampling import Sampler, Trace, traces
from odekit_sindy.shooting import FLOOR
from odekit_sindy.smoothing import MODELS
from odekit_sindy.summary import summarise

LIBRARIES = ("auto", "polynomial", "trig")
SMOOTHERS = ("auto", "gp")
FIELD_FLOOR = 1e-2
"""Noise floor for solutions of a trained field, whose errors are smooth and not white."""


@final
class Discovery(PostProcessor):
    """Find equations in data, or behind the solutions of a trained field.

    Args:
        library: ``"auto"`` tries polynomials of rising degree, then sine and cosine;
            ``"polynomial"`` leaves the waves out; ``"trig"`` uses one library with everything.
        degree: highest degree of the polynomials, 3 by default; asking for one leaves the waves
            out of ``"auto"``.
        smoother: ``"auto"`` or ``"gp"`` (a Gaussian process), or a trained field, whose slopes
            along the smoothed states give further starts of the search.
        noise: ``"auto"``, or ``"additive"``, ``"multiplicative"``, ``"log-normal"``.
        names: the states to model, or new names for all of them.
        seed: for smoothers that draw random numbers; the built-in stages draw none.
        time_limit: seconds after which no new search is begun.
        progress: called with the stage and the fraction done; if it answers true, the search
            ends with what it has.

    Raises:
        ProblemError: an option that does not exist, and what to write instead.
    """

    def __init__(
        self,
        library: str = "auto",
        degree: int | None = None,
        smoother: str | VectorField = "auto",
        noise: str = "auto",
        names: Sequence[str] | None = None,
        seed: int = 0,
        time_limit: float = 60.0,
        progress: Callable[[str, float], object] | None = None,
    ) -> None:
        self.library = _one_of("library", library, LIBRARIES)
        self.smoother = smoother if callable(smoother) else _one_of("smoother", smoother, SMOOTHERS)
        self.noise = _one_of("noise", noise, ("auto", *MODELS))
        if degree is not None and not (isinstance(degree, int) and 1 <= degree <= 6):
            raise ProblemError(f"degree must be an integer from 1 to 6, got {degree!r}")
        if not time_limit > 0:
            raise ProblemError(f"time_limit must be positive seconds, got {time_limit!r}")
        self.degree = degree
        self.names = names
        self.seed = seed
        self.time_limit = float(time_limit)
        self.progress = progress

    def discover(self, series: TimeSeries | Sequence[TimeSeries]) -> Equations:
        """The equations behind observed data.

        Args:
            series: one trajectory or several of the same system; irregular times, different
                lengths and missing values are fine.

        Raises:
            ProblemError: the series do not fit together.
            DiscoveryError: too little data, or a state without information.
        """
        return self._run(series, None, FLOOR, known_noise=True)

    def process(self, field: VectorField, solutions: Sequence[Solution]) -> Equations:
        """The equations of a trained field: its solutions are the data, its slopes the starts.

        Raises:
            DiscoveryError: the solutions hold too little, or did not reach their end.
        """
        found, sampler = traces(field, solutions)
        series = [TimeSeries(trace.t, trace.y, names=_named(trace, self.names)) for trace in found]
        return self._run(series, sampler, FIELD_FLOOR, known_noise=False)

    def _run(
        self,
        series: TimeSeries | Sequence[TimeSeries],
        slope: Sampler | None,
        floor: float,
        *,
        known_noise: bool,
    ) -> Equations:
        budget = Budget(self.time_limit, self.progress)
        budget.tell("reading", 0.0)
        dataset = gather(series, self.names)
        if slope is None and not isinstance(self.smoother, str):
            slope = Sampler.of(self.smoother, dataset.dim)
        libraries = ladder(dataset.dim, len(dataset.inputs), dataset.std, self.library, self.degree)
        found = pipeline.run(dataset, libraries, budget, self.noise, floor, slope)
        budget.tell("final fit", 0.0)
        equations = summarise(found, dataset, known_noise=known_noise, cut=budget.cut)
        budget.tell("done", 1.0)
        return equations


def _named(trace: Trace, names: Sequence[str] | None) -> list[str] | None:
    return list(names) if names is not None and len(names) == trace.y.shape[1] else None


def _one_of(argument: str, value: Any, choices: Sequence[str]) -> str:
    if value in choices:
        return str(value)
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ProblemError(f"unknown {argument} {value!r}: {hint}write one of {', '.join(choices)}")
