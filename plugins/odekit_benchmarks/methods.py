"""The methods that a benchmark of discovery compares, by name.

``odekit`` is `odekit.discover` with its defaults. The others are PySINDy with a polynomial
library of degree 3 and no search over hyper-parameters: ``pysindy-default`` is what a plain
install does; each of the others changes what its name says. A name that is the beginning of
several, ``pysindy``, means all of them.

A method takes series and gives `odekit.Equations`, whose simulation and structure are then judged
alike for all.

Source: A. A. Kaptanoglu et al., "PySINDy: A comprehensive Python package for robust sparse system
    identification", JOSS 7(69), 2022, doi:10.21105/joss.03994.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

import odekit
from odekit import Equations, IncompatibleError, ProblemError, Term, TimeSeries

Fit: TypeAlias = Callable[[Sequence[TimeSeries], float], Equations]
"""``fit(series, time_limit)``; only some methods know of a time limit."""

THRESHOLD = 0.1
SEED = 0


@dataclass(frozen=True)
class Method:
    """A way from data to equations.

    Attributes:
        name: what users type.
        fit: from series and a time limit in seconds to equations.
        calls: evaluations of the found right-hand side that one simulation may take.
        intervals: whether its equations come with error bars and a verdict.
    """

    name: str
    fit: Fit
    calls: int = 6000
    intervals: bool = False


def chosen(names: Sequence[str]) -> list[Method]:
    """The methods of these names, in the order given, none twice.

    Raises:
        ProblemError: a name that begins none, and the nearest that there is.
    """
    found: dict[str, Method] = {}
    for name in names:
        matches = [m for m in METHODS if m.name == name or m.name.startswith(f"{name}-")]
        if not matches:
            known = [m.name for m in METHODS]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ProblemError(f"unknown method {name!r}: {hint}there are {', '.join(known)}")
        for method in matches:
            found.setdefault(method.name, method)
    return list(found.values())


def _discover(series: Sequence[TimeSeries], time_limit: float) -> Equations:
    return odekit.discover(list(series), time_limit=time_limit)


def _pysindy(
    differentiation: Callable[[Any], Any] | None = None,
    optimizer: Callable[[Any], Any] | None = None,
    library: Callable[[Any, Sequence[TimeSeries]], Any] | None = None,
) -> Fit:
    """A fit with PySINDy; each part is made from the module, so that nothing is imported early."""

    def fit(series: Sequence[TimeSeries], time_limit: float) -> Equations:
        import pysindy

        model = pysindy.SINDy(
            differentiation_method=(differentiation or _finite_difference)(pysindy),
            optimizer=(optimizer or _stlsq)(pysindy),
            feature_library=(library or _polynomial)(pysindy, series),
        )
        names = list(series[0].names)
        with _seeded():
            model.fit(
                [one.y.numpy() for one in series],
                t=[one.t.numpy() for one in series],
                feature_names=names,
            )
        return read(model.get_feature_names(), np.asarray(model.coefficients()), names)

    return fit


def read(features: Sequence[str], coefficients: np.ndarray, names: Sequence[str]) -> Equations:
    """PySINDy's result as equations.

    Args:
        features: its names of the functions, such as ``x^2 y`` and ``sin(1 x)``.
        coefficients: ``(d, features)``.
        names: the states.
    """
    texts = [
        re.sub(r"\s+", "*", re.sub(r"\((1 )", "(", feature.strip()).replace("^", "**"))
        for feature in features
    ]
    return Equations(
        names,
        [
            Term(name, text, float(value))
            for name, row in zip(names, coefficients, strict=True)
            for text, value in zip(texts, row, strict=True)
            if value != 0
        ],
    )


@contextmanager
def _seeded() -> Iterator[None]:
    """NumPy's global generator, from which PySINDy draws, at a known place; put back after."""
    before = np.random.get_state()
    np.random.seed(SEED)
    try:
        yield
    finally:
        np.random.set_state(before)


def _finite_difference(pysindy: Any) -> Any:
    return pysindy.FiniteDifference()


def _smoothed(pysindy: Any) -> Any:
    return pysindy.SmoothedFiniteDifference()


def _spline(pysindy: Any) -> Any:
    return pysindy.SINDyDerivative(kind="spline", s=0.01)


def _kalman(pysindy: Any) -> Any:
    return pysindy.SINDyDerivative(kind="kalman", alpha=0.05)


def _stlsq(pysindy: Any) -> Any:
    return pysindy.STLSQ(threshold=THRESHOLD)


def _normalised(pysindy: Any) -> Any:
    return pysindy.STLSQ(threshold=THRESHOLD, normalize_columns=True)


def _ensemble(pysindy: Any) -> Any:
    return pysindy.EnsembleOptimizer(pysindy.STLSQ(threshold=THRESHOLD), bagging=True, n_models=20)


def _ssr(pysindy: Any) -> Any:
    return pysindy.SSR()


def _polynomial(pysindy: Any, series: Sequence[TimeSeries]) -> Any:
    return pysindy.PolynomialLibrary(degree=3)


def _fourier(pysindy: Any, series: Sequence[TimeSeries]) -> Any:
    return pysindy.PolynomialLibrary(degree=3) + pysindy.FourierLibrary(n_frequencies=1)


def _weak(pysindy: Any, series: Sequence[TimeSeries]) -> Any:
    if any(not np.array_equal(one.t, series[0].t) for one in series):
        # PySINDy would take the first grid for all where the lengths happen to be equal.
        raise IncompatibleError("the weak form takes one grid of times for all trajectories")
    return pysindy.WeakPDELibrary(
        function_library=pysindy.PolynomialLibrary(degree=3),
        spatiotemporal_grid=series[0].t.numpy(),
        K=100,
        is_uniform=False,
    )


METHODS = (
    Method("odekit", _discover, calls=8000, intervals=True),
    Method("pysindy-default", _pysindy()),
    Method("pysindy-kalman", _pysindy(_kalman)),
    Method("pysindy-spline", _pysindy(_spline)),
    Method("pysindy-weak", _pysindy(library=_weak)),
    Method("pysindy-smoothed", _pysindy(_smoothed)),
    Method("pysindy-normalised", _pysindy(_smoothed, _normalised)),
    Method("pysindy-ensemble", _pysindy(_smoothed, _ensemble)),
    Method("pysindy-ssr", _pysindy(_smoothed, _ssr)),
    Method("pysindy-fourier", _pysindy(_smoothed, library=_fourier)),
)
"""All methods, in the order of the table."""
