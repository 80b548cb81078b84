"""The checks of a named system: field, expressions and data say the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit.series import TimeSeries
from odekit.solve import solve
from odekit.testing.cases import DOUBLE
from odekit.testing.conformance import Conformance, check, require, require_close
from odekit.testing.convergence import distance


class SystemConformance(Conformance):
    """Everything a named system promises. Subclass it and say in ``make`` how to build it."""

    @check
    def test_attributes(self) -> str:
        """Names, parameters, start and span fit to one another."""
        system = self.make()
        names, y0, (start, end) = tuple(system.names), system.y0, system.span
        require(
            isinstance(y0, Tensor) and y0.shape == (len(names),) and y0.dtype == DOUBLE,
            f"y0 must be float64 of shape ({len(names)},), got {y0!r}",
        )
        require(float(start) < float(end), f"the span {system.span!r} does not run forwards")
        require(
            all(isinstance(name, str) and name.isidentifier() for name in names)
            and len(set(names)) == len(names),
            f"names must be different identifiers, got {names!r}",
        )
        require(isinstance(system.parameters, dict), "parameters must be a dict")
        return f"{len(names)} states"

    @check
    def test_field(self) -> str:
        """The field works in float64, for one state, for a batch and for times per sample."""
        system = self.make()
        field, points = system.field(), self._points()
        start, end = map(float, system.span)
        t = torch.linspace(start, end, len(points), dtype=DOUBLE)
        whole = field(t, points)
        require(
            whole.shape == points.shape and whole.dtype == DOUBLE,
            f"a batch {tuple(points.shape)} has a slope of {whole.dtype}, {tuple(whole.shape)}",
        )
        alone = torch.stack([field(s, y) for s, y in zip(t, points, strict=True)])
        require(bool(torch.isfinite(whole).all()), "the slope is not finite near the start")
        return require_close(_relative(whole, alone), 1e-12, "slopes in a batch and alone")

    @check
    def test_sympy(self) -> str:
        """The expressions give the same slopes as the field."""
        import sympy

        system = self.make()
        expressions = system.sympy()
        require(
            list(expressions) == list(system.names),
            f"sympy() has the states {list(expressions)}, names are {list(system.names)}",
        )
        symbols = [sympy.Symbol("t"), *map(sympy.Symbol, system.names)]
        function = sympy.lambdify(symbols, list(expressions.values()), modules="math")
        points = self._points()
        wanted = torch.tensor([function(0.7, *y.tolist()) for y in points], dtype=DOUBLE)
        found = torch.stack([system.field()(torch.tensor(0.7, dtype=DOUBLE), y) for y in points])
        return require_close(_relative(found, wanted), 1e-10, "the field and the expressions")

    @check
    def test_series(self) -> str:
        """Data are a `TimeSeries` of the asked size, the same for the same seed."""
        system = self.make()
        series = system.series(n=40, noise=0.05, drop=0.5, seed=3)
        require(isinstance(series, TimeSeries), f"series() gives {type(series).__name__}")
        require(series.names == tuple(system.names), f"the series names its states {series.names}")
        require(abs(len(series) - 20) <= 1, f"n=40 and drop=0.5 leave {len(series)} rows")
        again, other = (system.series(n=40, noise=0.05, drop=0.5, seed=seed) for seed in (3, 4))
        require(
            torch.equal(series.t, again.t) and torch.equal(series.y, again.y),
            "the same seed gives other data the second time",
        )
        require(
            series.y.shape != other.y.shape or not torch.equal(series.y, other.y),
            "another seed gives the same data",
        )
        return f"{len(series)} rows"

    @check
    def test_noise(self) -> str:
        """The noise has the asked size, as a fraction of each state's standard deviation."""
        system = self.make()
        clean = system.series(n=120, noise=0.0, drop=0.0, seed=0)
        noisy = system.series(n=120, noise=0.1, drop=0.0, seed=0)
        spread = clean.y.std(0)
        ratio = ((noisy.y - clean.y).std(0) / spread)[spread > 0]
        figure = f"{float(ratio.min()):.3f} to {float(ratio.max()):.3f} for 0.1"
        require(bool(((ratio > 0.07) & (ratio < 0.13)).all()), f"noise is {figure}", figure)
        return figure

    @check
    def test_truth(self) -> str:
        """Without noise the data lie on the solution of the field."""
        system = self.make()
        series = system.series(n=400, noise=0.0, drop=0.0, seed=0)
        times = series.t[:3]
        solution: Any = solve(system.field(), system.y0, times, rtol=1e-9, atol=1e-12)
        return require_close(_relative(solution.y, series.y[:3]), 1e-6, "data and solution")

    def _points(self) -> Tensor:
        y0: Tensor = self.make().y0
        factors = torch.tensor([[1.0], [0.9], [1.1], [0.7]], dtype=DOUBLE)
        return y0 * factors + 0.01 * factors


def _relative(a: Tensor, b: Tensor) -> float:
    return distance(a, b) / max(float(b.abs().max()), 1e-12)
