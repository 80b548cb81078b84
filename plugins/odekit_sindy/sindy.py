"""A trained field, written down: sampled along its solutions, through PySINDy, into equations.

States come from the solutions and slopes from the field itself, never from differences, so the
noise of the data is no longer in play; what remains is the error of the field, which averaging
along the trajectories reduces. Sampling stays *on* the trajectories, because a trained field is
arbitrary beside them. A regression cannot tell a small term from a flaw of the field, though: where
there are data, give them, and the field only proposes terms to `odekit_sindy.discovery`.

Shapes: every sample of every solution is a trace ``t (n,)``, ``y (n, d)``.
Units: those of the solutions.
Source: S. L. Brunton, J. L. Proctor, J. N. Kutz, "Discovering governing equations from data by
    sparse identification of nonlinear dynamical systems", PNAS 113(15), 2016,
    doi:10.1073/pnas.1517384113; PySINDy: A. A. Kaptanoglu et al., JOSS 7(69), 2022,
    doi:10.21105/joss.03994.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from odekit import (
    DiscoveryError,
    Equations,
    IncompatibleError,
    MissingDependencyError,
    PostProcessor,
    ProblemError,
    Solution,
    Term,
    TimeSeries,
    VectorField,
)
from odekit_sindy.averaging import Averaging, average
from odekit_sindy.discovery import Discovery
from odekit_sindy.sampling import FIELD_ALONE, ITSELF, Trace, densify, traces

OPTIMIZERS = ("auto", "best_subset", "stlsq", "sr3", "ssr")
PER_WINDOW = 8
"""Samples wanted in each stretch that is averaged over."""

ROUGH = 0.1
"""Relative residual of an equation above which the library does not describe the field."""

FOLLOWS = 0.9
"""R2 below which the equations do not reproduce the solutions."""


@final
class Sindy(PostProcessor):
    """Sparse equations of a field in the region that its solutions visit.

    Args:
        library: highest degree of a polynomial library, or a PySINDy feature library; None is
            degree 3, and with data the ladder of libraries of `odekit_sindy.discovery`.
        optimizer: ``"auto"`` (best subsets, see `odekit_sindy.selection`), one of PySINDy's
            ``"stlsq"``, ``"sr3"``, ``"ssr"`` on columns of unit size, or a PySINDy optimizer,
            which is then used as it is, on the samples as they are. With data it proposes, over
            a path of thresholds.
        threshold: for the named optimizers, as a share of the slope's size; not used with data.
        average: time over which both sides are averaged; None chooses the time in which the
            state changes by its own size, 0 takes the samples as they are; not used with data.
        densify: samples per interval of the solution; None chooses enough for the averages; not
            used with data.
        names: names of the states.

    Raises:
        ProblemError: an option that cannot be, and what to write instead.
    """

    def __init__(
        self,
        library: Any = None,
        optimizer: Any = "auto",
        threshold: float = 0.02,
        average: float | None = None,
        densify: int | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        if isinstance(library, bool) or not (
            library is None
            or (isinstance(library, int) and 1 <= library <= 10)
            or hasattr(library, "fit_transform")
        ):
            raise ProblemError(
                "library must be a degree from 1 to 10 or a PySINDy feature library, "
                f"got {library!r}"
            )
        if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
            close = difflib.get_close_matches(optimizer, OPTIMIZERS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ProblemError(
                f"unknown optimizer {optimizer!r}: {hint}write one of {', '.join(OPTIMIZERS)}"
            )
        if not isinstance(optimizer, str) and not hasattr(optimizer, "fit"):
            raise IncompatibleError(
                f"optimizer must be a name or a PySINDy optimizer, got {optimizer!r}"
            )
        for name, value in (("threshold", threshold), ("average", average)):
            if value is not None and not value >= 0:
                raise ProblemError(f"{name} must not be negative, got {value!r}")
        if densify is not None and not (isinstance(densify, int) and densify >= 1):
            raise ProblemError(f"densify must be an integer from 1 on, got {densify!r}")
        self.library, self.optimizer, self.threshold = library, optimizer, float(threshold)
        self.average, self.densify, self.names = average, densify, names

    def process(self, field: VectorField, solutions: Sequence[Solution]) -> Equations:
        """The equations of ``field`` along ``solutions``.

        Raises:
            DiscoveryError: no solution has rows enough, the field is not finite or does nothing,
                or the library has terms that cannot be written down.
            IncompatibleError: states that are not real tensors.
        """
        found, sampler = traces(field, solutions)
        names = self._names(found[0].y.shape[1])
        slopes = [sampler(trace.t, trace.y) for trace in found]
        length = self._length(found, slopes)
        finer = self.densify or needed(found, length)
        if finer > 1:
            found = [densify(sampler, trace, finer) for trace in found]
            slopes = [sampler(trace.t, trace.y) for trace in found]
        averaging = average([trace.t for trace in found], length)
        library, coef = self._fit(found, slopes, averaging, names)
        return self._write(library, coef, found, slopes, averaging, names)

    def process_data(
        self,
        field: VectorField,
        series: Sequence[TimeSeries],
        solutions: Sequence[Solution] | None = None,
    ) -> Equations:
        """The equations of ``field`` that explain the data, see `Discovery.process_data`.

        Raises:
            ProblemError: the series do not fit together, or have inputs.
            IncompatibleError: the field is not one of the observed states, or the library is an
                object of PySINDy.
            DiscoveryError: too little data, or a state without information.
        """
        library = "auto" if self.library is None else "polynomial"
        if not (self.library is None or isinstance(self.library, int)):
            raise IncompatibleError(
                "with series= the library is a degree, since trajectories are fitted with "
                "derivatives that a PySINDy library does not have: write library=3, or leave "
                "series= out"
            )
        best = isinstance(self.optimizer, str) and self.optimizer == "auto"
        judge = Discovery(
            library=library,
            degree=self.library,
            names=self.names,
            candidates="best_subset" if best else self.optimizer,
        )
        return judge.process_data(field, series, solutions)

    def to_pysindy(self, equations: Equations) -> Any:
        """Equations as a fitted ``pysindy.SINDy``, see `odekit.Equations.to_pysindy`.

        Raises:
            DiscoveryError: a term that PySINDy's libraries cannot have.
            MissingDependencyError: PySINDy is not installed.
        """
        try:
            from odekit_sindy.pysindy_export import export
        except ImportError as error:
            raise MissingDependencyError(
                f"to_pysindy needs PySINDy ({error}); try: pip install 'pysindy>=2.1'"
            ) from error
        return export(equations)

    def _names(self, dim: int) -> tuple[str, ...]:
        if self.names is None:
            return tuple(f"x{i}" for i in range(dim))
        if isinstance(self.names, str) or len(self.names) != dim:
            raise ProblemError(f"names must be a list of {dim} names, got {self.names!r}")
        return tuple(self.names)

    def _length(self, found: Sequence[Trace], slopes: Sequence[np.ndarray]) -> float:
        x = np.abs(np.concatenate([trace.y for trace in found]))
        dx = np.abs(np.concatenate(list(slopes)))
        moving = dx > 1e-12 * max(float(dx.max()), 1e-300)
        if not moving.any() or float(dx.max()) == 0.0:
            raise DiscoveryError(
                "the field is zero along all solutions: start them where something happens"
            )
        if self.average is not None or not isinstance(self.optimizer, str):
            return float(self.average or 0.0)
        span = max(float(trace.t[-1] - trace.t[0]) for trace in found)
        return min(float(np.median(x[moving] / dx[moving])), span / 10)

    def _fit(
        self,
        found: Sequence[Trace],
        slopes: Sequence[np.ndarray],
        averaging: Averaging,
        names: tuple[str, ...],
    ) -> tuple[Any, np.ndarray]:
        import pysindy

        from odekit_sindy import selection

        library = self.library
        if library is None or isinstance(library, int):
            library = pysindy.PolynomialLibrary(degree=library or 3)
        optimizer = self.optimizer
        if isinstance(optimizer, str):
            name = "best_subset" if optimizer == "auto" else optimizer
            optimizer = selection.named(name, self.threshold, averaging)
        model = pysindy.SINDy(feature_library=library, optimizer=optimizer)
        model.fit(
            [trace.y for trace in found],
            t=[trace.t for trace in found],
            x_dot=list(slopes),
            feature_names=list(names),
        )
        return library, np.asarray(model.coefficients(), dtype=np.float64)

    def _write(
        self,
        library: Any,
        coef: np.ndarray,
        found: Sequence[Trace],
        slopes: Sequence[np.ndarray],
        averaging: Averaging,
        names: tuple[str, ...],
    ) -> Equations:
        texts = [readable(name) for name in library.get_feature_names(list(names))]
        theta = np.concatenate([np.asarray(library.transform(trace.y)) for trace in found])
        a = averaging.matrix @ theta
        y = averaging.matrix @ np.concatenate(list(slopes))
        terms, blocks, rough = [], [], {}
        for j, name in enumerate(names):
            kept = np.flatnonzero(coef[j])
            error = y[:, j] - a[:, kept] @ coef[j, kept]
            size = float(np.sqrt((y[:, j] ** 2).mean()))
            rough[name] = float(np.sqrt((error**2).mean())) / size if size > 0 else 0.0
            block = covariance(a[:, kept], error, averaging.independent)
            blocks.append(block)
            for i, q in enumerate(kept):
                spread = None if block is None else float(np.sqrt(block[i, i]))
                terms.append(Term(name, texts[q], float(coef[j, q]), spread, None))
        try:
            draft = Equations(names, terms)
        except ProblemError as error_of_names:
            raise DiscoveryError(
                f"the library's terms cannot be written down ({error_of_names}): give its "
                "functions names such as 'sin(x)'"
            ) from error_of_names
        score = [_r2(draft, trace) for trace in found]
        reasons = _doubts(rough, score, coef, names)
        if max(rough.values()) > ITSELF:
            reasons.append(FIELD_ALONE)
        return Equations(
            names,
            terms,
            covariance=_joined(blocks),
            degrees_of_freedom=_least_free(blocks, averaging.independent),
            score=score,
            warnings=reasons,
            confident=not reasons,
            diagnostics={
                "judged_by": "field",
                "residual": rough,
                "samples": len(theta),
                "averages": int(a.shape[0]),
                "independent": averaging.independent,
                "library": f"{len(texts)} functions",
                "trajectories": len(found),
            },
        )


def needed(found: Sequence[Trace], length: float) -> int:
    """Samples per interval so that a stretch of ``length`` holds `PER_WINDOW`."""
    if length <= 0:
        return 1
    steps = np.concatenate([np.diff(trace.t) for trace in found])
    return int(np.clip(np.ceil(PER_WINDOW * np.median(steps) / length), 1, 50))


def readable(name: str) -> str:
    """PySINDy's name of a term as text that sympy reads: ``x^2 y`` becomes ``x**2*y``."""
    return re.sub(r"\s+", "*", name.strip().replace("^", "**"))


def covariance(a: np.ndarray, error: np.ndarray, independent: float) -> np.ndarray | None:
    """Covariance of least squares with ``independent`` observations; None where there are too few.

    Args:
        a: columns of the terms, ``(windows, k)``.
        error: residual, ``(windows,)``.
        independent: averages that do not overlap.
    """
    k = a.shape[1]
    if not k or independent <= k + 1:
        return None if k else np.zeros((0, 0))
    length = np.linalg.norm(a, axis=0)
    unit = a / length
    inverse = np.linalg.pinv(unit.T @ unit, hermitian=True)
    variance = float(error @ error) / (independent - k)
    return np.asarray(variance * inverse / np.outer(length, length))


def _least_free(blocks: Sequence[np.ndarray | None], independent: float) -> float | None:
    """Degrees of freedom of the equation with the fewest, at least 1; None if no error is known."""
    known = [
        max(independent - len(block), 1.0) for block in blocks if block is not None and len(block)
    ]
    return min(known, default=None)


def _joined(blocks: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [block for block in blocks if block is not None]
    if len(known) < len(blocks):
        return None
    total = sum(len(block) for block in known)
    out, at = np.zeros((total, total)), 0
    for block in known:
        out[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return out


def _r2(equations: Equations, trace: Trace) -> float:
    """R2 of the equations' own solution against the trace; minus infinity if it breaks down."""
    simulated = equations.simulate(trace.y[0], trace.t)
    y = simulated.y.detach().cpu().numpy()
    if not np.isfinite(y).all():
        return float("-inf")
    scale = np.maximum(trace.y.std(0), 1e-300)
    error = (((y - trace.y) / scale) ** 2).sum()
    around = (((trace.y - trace.y.mean(0)) / scale) ** 2).sum()
    return float(1 - error / around) if around > 0 else float("-inf")


def _doubts(
    rough: dict[str, float], score: Sequence[float], coef: np.ndarray, names: tuple[str, ...]
) -> list[str]:
    out = [
        f"The equation of {name} leaves {100 * value:.3g} % of the field's slope: the library "
        "lacks a function, or the field is not well trained."
        for name, value in rough.items()
        if value > ROUGH
    ]
    empty = [name for j, name in enumerate(names) if not coef[j].any()]
    if empty:
        out.append(f"No term was found for {', '.join(empty)}.")
    poor = [i for i, value in enumerate(score) if not value > FOLLOWS]
    if poor:
        out.append(
            f"Solved again, the equations depart from solution {', '.join(map(str, poor[:5]))} "
            f"(R2 = {min(score):.2f})."
        )
    return out
