"""`odekit.discover`: observed data in, equations with error bars and a verdict out.

The pipeline scales the data, chooses a noise model, smooths, proposes supports, and decides
between them in trajectory space by multiple shooting and EBIC. It expects every state to be
observed, but for velocities that are named as ``hidden``; other hidden states give wrong
equations. A trained field can propose terms, with its slopes as ``smoother=``, or through
`odekit.postprocess` with ``series=``. For the equations of a trained field without data use the
post-processor ``sindy``, which is faster and needs no noise model.

Shapes: see `odekit.TimeSeries`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np

from odekit import (
    Equations,
    PostProcessor,
    ProblemError,
    Refined,
    Solution,
    TimeSeries,
    VectorField,
)
from odekit_sindy import pipeline, velocities
from odekit_sindy.budget import Budget
from odekit_sindy.candidates import best_by_size
from odekit_sindy.claims import Claims, Named
from odekit_sindy.claims_reader import read_claims
from odekit_sindy.data import Dataset, gather
from odekit_sindy.flows import FLOWS
from odekit_sindy.found import Found
from odekit_sindy.holdout import check, choose, named
from odekit_sindy.knowledge import describe
from odekit_sindy.known_libraries import informed, observed
from odekit_sindy.ladder import ladder
from odekit_sindy.sampling import FIELD_ALONE, ITSELF, Sampler, Trace, traces
from odekit_sindy.shooting import FLOOR
from odekit_sindy.smoothing import CURVES, MODELS
from odekit_sindy.starts import Paths
from odekit_sindy.summary import Kept, summarise
from odekit_sindy.trained import OWN_COORDINATES, Trained, follow
from odekit_sindy.usable import Usable, usable

LIBRARIES = ("auto", "polynomial", "trig", "exp", "rational")
SMOOTHERS = ("auto", *CURVES, "node")
CANDIDATES = ("best_subset", "stlsq", "sr3", "ssr", "frols")
PER_OBSERVED = ("sigma", "rms", "rms_over_sigma", "residual_memory", "residual_chance")
"""Diagnostics of which a state without data has none."""

FIELD_FLOOR = 1e-2
"""Noise floor for solutions of a trained field, whose errors are smooth and not white."""


@final
class Discovery(PostProcessor):
    """Find equations in data, or behind the solutions of a trained field.

    Args:
        library: ``"auto"`` tries polynomials of rising degree, then sine and cosine, then
            exponentials, then, for one or two states, products of waves such as
            ``sin(x)*cos(y)`` and ``x*sin(y)``, then fractions; ``"polynomial"`` leaves these four
            out; ``"trig"``, ``"exp"`` and ``"rational"`` use one library, polynomials with
            waves, with exponentials or with a fraction per equation.
        degree: highest degree of the polynomials, 3 by default; asking for one leaves the waves,
            exponentials and fractions out of ``"auto"``.
        smoother: ``"gp"``, a Gaussian process, or ``"spline"``, which takes over from it under
            ``"auto"`` where series are long; ``"node"``, a neural ODE that gives further starts
            beside them, for a second or more of work; or a trained field, whose slopes along the
            smoothed states give further starts of the search.
        noise: ``"auto"``, or ``"additive"``, ``"multiplicative"``, ``"log-normal"``.
        names: the states to model, or new names for all of them.
        seed: for ``"node"``, which draws random weights; the other stages draw nothing.
        time_limit: seconds after which nothing new is begun; the best so far is fitted once more
            and described, and the verdict says that the search was cut short.
        progress: called with the stage and the fraction done; if it answers true, the search
            ends with what it has.
        candidates: where the supports come from that the search begins with: ``"best_subset"``,
            or one of PySINDy's optimizers over a path of thresholds, ``"stlsq"``, ``"sr3"``,
            ``"ssr"``, ``"frols"`` or an object.
        holdout: ``"auto"`` leaves, of several trajectories, each out of the last fit in turn and
            predicts it; an index, a list of indices, or a fraction of trajectories drawn with
            ``seed``, keeps these out of the search altogether and predicts them; None does
            neither. What is fitted to a predicted trajectory is its start; the R2 is in
            ``diagnostics["holdout"]`` and, for trajectories kept out, in ``score``.
        known: whole equations, ``{"x": "v"}``: exactly this, nothing is searched in them.
        known_terms: parts that are certainly there with these values, ``{"v": "-9.81"}``; the
            rest of the equation is searched.
        forbidden: terms that must not occur: ``["x**3 in v", "x*y"]``, in one equation or in
            all, or pairs ``("v", "x**3")``.
        forced: terms that stay whatever the criterion says; their coefficients are fitted.
        constraints: signs, ratios and values of coefficients: ``["c[x, x**3] < 0",
            "c[x, x*y] == -c[y, x*y]", "c[x, x] == 1.5"]``.
        terms: formulas offered beside the functions of every library, such as
            ``["sin(2*t)", "x/(1 + x) in v"]``; time has the name of the series' time.
        units: of states, inputs and time, ``{"x": "m", "v": "m/s", "t": "s"}``. Formulas must
            balance, waves and exponentials of states with a unit are left out, and
            ``diagnostics["units"]`` has the unit of each coefficient.
        hidden: states that were not observed because they are the derivatives of observed ones:
            ``hidden=["v"]`` together with ``known={"x": "v"}``.

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
        candidates: Any = "best_subset",
        holdout: Any = "auto",
        known: Mapping[str, str] | None = None,
        known_terms: Mapping[str, str] | None = None,
        forbidden: Sequence[Named] = (),
        forced: Sequence[Named] = (),
        constraints: Sequence[str] = (),
        terms: Sequence[Named] = (),
        units: Mapping[str, str] | None = None,
        hidden: Sequence[str] = (),
    ) -> None:
        self.claims = Claims.of(
            known=known,
            known_terms=known_terms,
            forbidden=forbidden,
            forced=forced,
            constraints=constraints,
            terms=terms,
            units=units,
        )
        self.library = _one_of("library", library, LIBRARIES)
        self.smoother = smoother if callable(smoother) else _one_of("smoother", smoother, SMOOTHERS)
        self.noise = _one_of("noise", noise, ("auto", *MODELS))
        fits = hasattr(candidates, "fit") and hasattr(candidates, "get_params")
        self.candidates = candidates if fits else _one_of("candidates", candidates, CANDIDATES)
        if degree is not None and not (isinstance(degree, int) and 1 <= degree <= 6):
            raise ProblemError(f"degree must be an integer from 1 to 6, got {degree!r}")
        if not time_limit > 0:
            raise ProblemError(f"time_limit must be positive seconds, got {time_limit!r}")
        self.holdout = check(holdout)
        self.hidden = [hidden] if isinstance(hidden, str) else [str(name) for name in hidden]
        if self.hidden and (self.holdout not in ("auto", None) or callable(smoother)):
            raise ProblemError(
                "hidden states go with smoothers by name and without a holdout: leave "
                "smoother= and holdout= out, or write smoother='node'"
            )
        self.degree = degree
        self.names = names
        self.seed = seed
        self.time_limit = float(time_limit)
        self.progress = progress

    def discover(self, series: TimeSeries | Sequence[TimeSeries]) -> Equations:
        """The equations behind observed data.

        Args:
            series: one trajectory or several of the same system; irregular times, different
                lengths and missing values are fine. Among several, one that is constant or too
                short is left out, and named.

        Raises:
            ProblemError: the series do not fit together.
            DiscoveryError: too little data, or a state without information.
        """
        return self._run(series, None, FLOOR, known_noise=True)

    def refine(
        self,
        model: Any,
        series: TimeSeries | Sequence[TimeSeries],
        *,
        start: Mapping[Any, float] | None = None,
        fix: Any = None,
        positive: Iterable[Any] = (),
        bounds: Mapping[Any, tuple[Any, Any]] | None = None,
    ) -> Equations | Refined:
        """The parameters of a known model, see `odekit.refine`; nothing is searched for.

        Raises:
            ProblemError: a model that cannot be read, or a name that does not exist.
            DiscoveryError: too little data.
        """
        from odekit_sindy.refinement import refine

        return refine(
            model,
            series,
            start=start,
            fix=fix,
            positive=positive,
            bounds=bounds,
            noise=self.noise,
            seed=self.seed,
            time_limit=self.time_limit,
            progress=self.progress,
        )

    def process(self, field: VectorField, solutions: Sequence[Solution]) -> Equations:
        """The equations of a trained field: its solutions are the data, its slopes the starts.

        Raises:
            DiscoveryError: the solutions hold too little, or did not reach their end.
        """
        found, sampler = traces(field, solutions)
        return self._alone(found, sampler, _named(found[0], self.names))

    def _alone(
        self, found: Sequence[Trace], sampler: Sampler, names: Sequence[str] | None
    ) -> Equations:
        series = [TimeSeries(trace.t, trace.y, names=names) for trace in found]
        equations = self._run(series, sampler, FIELD_FLOOR, known_noise=False)
        if not min(equations.score) > 1 - ITSELF**2:
            equations.warnings.append(FIELD_ALONE)
            equations.confident = False
        return equations

    def process_data(
        self,
        field: VectorField,
        series: Sequence[TimeSeries],
        solutions: Sequence[Solution] | None = None,
    ) -> Equations:
        """The equations of a trained field that explain the data.

        The field's slopes, along its solutions and along the smoothed data, propose terms; size
        and coefficients are decided by the trajectories, as in `discover`. A field of second order
        needs the positions alone; where a field has hidden states that are no velocities, its
        equations come from its solutions, and the result says that the data had no part in them.

        Args:
            field: a field of the observed states, or one that lifts them.
            series: the data, with the states in the order of the field's.
            solutions: of the field; None solves it from the starts of the data.

        Raises:
            ProblemError: the series do not fit together, or have inputs.
            IncompatibleError: the field is not one of the observed states.
            DiscoveryError: too little data, or a state without information.
        """
        _check_order(self.names, series[0].names)
        trained = follow(field, series, solutions)
        if not trained.lifted:
            return self._run(series, trained.sampler, FLOOR, known_noise=True, trained=trained)
        chain = trained.velocities()
        if chain is not None:
            return self._second_order(series, trained, chain)
        hidden = trained.traces[0].y.shape[1] - trained.width
        names = [*series[0].names, *(f"hidden{i}" for i in range(hidden))]
        named = _named(trained.traces[0], self.names)
        equations = self._alone(trained.traces, trained.sampler, named or names)
        equations.warnings.append(OWN_COORDINATES)
        equations.confident = False
        return equations

    def _second_order(
        self, series: Sequence[TimeSeries], trained: Trained, chain: dict[int, int]
    ) -> Equations:
        """Equations of positions and velocities where positions were observed."""
        if not self.claims.empty:
            raise ProblemError(
                "what is known about terms cannot be told to a search after a field of second "
                "order: leave the field out, and write odekit.discover(series, hidden=['v'], "
                "known={'x': 'v'}, ...)"
            )
        budget = Budget(self.time_limit, self.progress)
        whole = _named(trained.traces[0], self.names)
        dataset = gather(series, self.names if whole is None else whole[: trained.width])
        names = whole or [*dataset.names, *(f"v_{dataset.names[i]}" for i in sorted(chain))]
        found, whole_data = velocities.search(
            dataset,
            chain,
            names,
            budget,
            library=self.library,
            degree=self.degree,
            noise=self.noise,
            smoother=self._curve(),
            paths=self._paths(),
            network=self.smoother == "node",
            seed=self.seed,
            slope=trained.sampler,
            further=trained.samples(*dataset.range),
        )
        return _summarised(found, whole_data, budget, list(names[trained.width :]))

    def _with_hidden(self, series: TimeSeries | Sequence[TimeSeries]) -> Equations:
        """Equations of positions and velocities where the user says what was not observed."""
        budget = Budget(self.time_limit, self.progress)
        budget.tell("reading", 0.0)
        dataset = gather(series, self.names)
        taken = [name for name in self.hidden if name in (*dataset.names, *dataset.inputs)]
        if taken:
            raise ProblemError(f"hidden: {taken[0]!r} is in the series, so it is not hidden")
        names = [*dataset.names, *self.hidden]
        knowledge = read_claims(self.claims, names, dataset.inputs, dataset.time)
        if knowledge.timed:
            dataset = gather(series, self.names, clock=True)
        found, whole = velocities.search(
            dataset,
            knowledge.chain(self.hidden),
            names,
            budget,
            library=self.library,
            degree=self.degree,
            noise=self.noise,
            smoother=self._curve(),
            knowledge=knowledge,
            paths=self._paths(),
            network=self.smoother == "node",
            seed=self.seed,
        )
        equations = _summarised(found, whole, budget, list(self.hidden))
        describe(equations, knowledge)
        return equations

    def _curve(self) -> str:
        """Name of the smoother in time; other smoothers come beside it."""
        name = self.smoother
        return name if isinstance(name, str) and name in CURVES else "auto"

    def _run(
        self,
        series: TimeSeries | Sequence[TimeSeries],
        slope: Sampler | None,
        floor: float,
        *,
        known_noise: bool,
        trained: Trained | None = None,
    ) -> Equations:
        several = [series] if isinstance(series, TimeSeries) else list(series)
        chosen = usable(several, named(self.holdout, len(several)), self.names)
        if self.hidden:
            return chosen.restore(self._with_hidden(chosen.series))
        budget = Budget(self.time_limit, self.progress)
        budget.tell("reading", 0.0)
        dataset, kept = self._parted(chosen)
        knowledge = None
        if not self.claims.empty:
            knowledge = read_claims(self.claims, dataset.names, dataset.inputs, dataset.time)
            if knowledge.timed:
                dataset, kept = self._parted(chosen, clock=True)
        if slope is None and not isinstance(self.smoother, str):
            slope = Sampler.of(self.smoother, dataset.dim)
        libraries = ladder(
            dataset.dim,
            len(dataset.drives),
            dataset.std,
            self.library,
            self.degree,
            np.stack(dataset.range, axis=1),
        )
        if knowledge is not None:
            libraries, notes = informed(libraries, knowledge, *observed(dataset))
            dataset = replace(dataset, notes=(*dataset.notes, *notes))
        found = pipeline.run(
            dataset,
            libraries,
            budget,
            self.noise,
            floor,
            slope,
            smoother=self._curve(),
            paths=self._paths(),
            further=() if trained is None else trained.samples(*dataset.range),
            flows=FLOWS if self.smoother == "node" else ("library",),
            seed=self.seed,
        )
        budget.tell("final fit", 0.0)
        equations = summarise(
            found,
            dataset,
            known_noise=known_noise,
            cut=budget.cut,
            kept=kept,
            predict=self.holdout is not None and not budget.cut,
            places=chosen.kept,
        )
        budget.tell("done", 1.0)
        equations.diagnostics["judged_by"] = "data" if known_noise else "field"
        if knowledge is not None:
            describe(equations, knowledge)
        return chosen.restore(equations)

    def _parted(self, chosen: Usable, *, clock: bool = False) -> tuple[Dataset, Kept | None]:
        """The data to learn from, and those to predict."""
        several = chosen.series
        whole = gather(several, self.names, clock=clock)
        out = choose(chosen.holdout(self.holdout), len(several), self.seed)
        if not out:
            return whole, None
        rest = [item for i, item in enumerate(several) if i not in out]
        held = gather([several[i] for i in out], self.names, clock=clock, learn=False)
        return gather(rest, self.names, clock=clock), Kept(held, out)

    def _paths(self) -> Paths:
        if isinstance(self.candidates, str) and self.candidates == "best_subset":
            return best_by_size
        from odekit_sindy.selection import supports_of

        return supports_of(self.candidates)


def _summarised(found: Found, whole: Dataset, budget: Budget, hidden: Sequence[str]) -> Equations:
    """The result of a search with hidden states, which have no residuals to report."""
    budget.tell("final fit", 0.0)
    equations = summarise(found, whole, cut=budget.cut, predict=False)
    equations.diagnostics["judged_by"] = "data"
    equations.diagnostics["hidden"] = list(hidden)
    for table in PER_OBSERVED:
        for name in hidden:
            equations.diagnostics[table].pop(name, None)
    budget.tell("done", 1.0)
    return equations


def _check_order(names: Sequence[str] | None, states: Sequence[str]) -> None:
    """A field has its states in one order, so names may rename them but not choose among them."""
    if names is not None and set(names) <= set(states) and list(names) != list(states):
        raise ProblemError(
            f"names must keep the field's states and their order, {list(states)}, got "
            f"{list(names)}: leave names out, or give new ones"
        )


def _named(trace: Trace, names: Sequence[str] | None) -> list[str] | None:
    return list(names) if names is not None and len(names) == trace.y.shape[1] else None


def _one_of(argument: str, value: Any, choices: Sequence[str]) -> str:
    if value in choices:
        return str(value)
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ProblemError(f"unknown {argument} {value!r}: {hint}write one of {', '.join(choices)}")
