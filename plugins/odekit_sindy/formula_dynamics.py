"""Any right-hand side that a formula can say, for multiple shooting: values and exact tangents.

Formulas in states, inputs and parameters become numpy code once, with their derivatives and
common subexpressions, by sympy. A library with linear coefficients is faster in
`odekit_sindy.library`; this is for everything else: rational, parametric, forced.

Bounds on parameters are kept by a change of variables, as in MINUIT, so that the fit itself is
unconstrained and the bound is reached at a finite value.

Shapes: ``B`` models, ``d`` states, ``v = d + m`` variables (states, then inputs), ``k`` free
    parameters, ``M`` points.
Units: points are scaled states and inputs; parameters are in the caller's units.
Source: the change of variables is F. James, M. Roos, "MINUIT: a system for function minimization
    and analysis of the parameter errors and correlations", Computer Physics Communications 10(6),
    1975, doi:10.1016/0010-4655(75)90039-9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from odekit_sindy.data import Scales
from odekit_sindy.models import Models

if TYPE_CHECKING:
    from odekit_sindy.dynamics import Slope

INSIDE = 0.1
"""Least distance from a bound at which a fit begins, in units of the parameter."""

AT_BOUND = 1e-3
"""Distance from a bound, in units of the parameter, at which it counts as reached."""


@final
@dataclass(frozen=True)
class Box:
    """Bounds of the free parameters, and the unconstrained numbers behind them.

    Attributes:
        low: ``(k,)``, minus infinity where there is none.
        high: ``(k,)``, infinity where there is none.
        unit: typical size of each parameter, ``(k,)``, positive.
    """

    low: np.ndarray
    high: np.ndarray
    unit: np.ndarray

    @property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        below, above = np.isfinite(self.low), np.isfinite(self.high)
        return below & above, below & ~above, above & ~below

    def values(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Parameters and their derivatives, each ``(B, k)``, at unconstrained ``c (B, k)``."""
        both, lower, upper = self._kinds
        root = np.sqrt(c**2 + 1)
        p, slope = self.unit * c, np.broadcast_to(self.unit, c.shape).copy()
        with np.errstate(invalid="ignore"):
            p = np.where(lower, self.low + self.unit * (root - 1), p)
            p = np.where(upper, self.high - self.unit * (root - 1), p)
            slope = np.where(
                lower | upper, np.where(upper, -1.0, 1.0) * self.unit * c / root, slope
            )
            width = np.where(both, self.high - self.low, 0.0)
            p = np.where(both, self.low + width * (np.sin(c) + 1) / 2, p)
            slope = np.where(both, width * np.cos(c) / 2, slope)
        return p, slope

    def unconstrained(self, p: np.ndarray) -> np.ndarray:
        """Unconstrained numbers ``(B, k)`` of parameters; those at a bound are moved inside."""
        both, lower, upper = self._kinds
        c = p / self.unit
        with np.errstate(invalid="ignore"):
            away = np.where(upper, self.high - p, p - self.low) / self.unit
            away = np.maximum(np.where(lower | upper, away, 1.0), INSIDE)
            c = np.where(lower | upper, np.sqrt((away + 1) ** 2 - 1), c)
            share = (p - self.low) / np.where(both, self.high - self.low, 1.0)
            share = np.clip(np.where(both, share, 0.5), 0.01, 0.99)
            c = np.where(both, np.arcsin(2 * share - 1), c)
        return np.asarray(c)

    def clipped(self, p: np.ndarray) -> np.ndarray:
        """Parameters moved into the bounds."""
        return np.asarray(np.clip(p, self.low, self.high))

    def reached(self, p: np.ndarray) -> np.ndarray:
        """Which parameters of ``p (k,)`` lie at a bound, ``(k,)``."""
        width = np.where(self._kinds[0], self.high - self.low, self.unit)
        return np.asarray(
            (p - self.low < AT_BOUND * width) | (self.high - p < AT_BOUND * width), dtype=bool
        )


@final
class FormulaDynamics:
    """Right-hand sides with parameters as a family for `odekit_sindy.shooting.Shooting`.

    Args:
        rights: sympy expressions, one per state.
        states: names of the states.
        inputs: names of the inputs; time may be one of them.
        free: names of the parameters to fit.
        held: values of the parameters that are not fitted.
        scales: units of states, inputs and time.
        box: bounds of the free parameters.
    """

    def __init__(
        self,
        rights: Sequence[Any],
        states: Sequence[str],
        inputs: Sequence[str],
        free: Sequence[str],
        held: Mapping[str, float],
        scales: Scales,
        box: Box,
    ) -> None:
        self.names = (tuple(states), tuple(inputs), tuple(free), tuple(held))
        self.rights, self.held = tuple(rights), dict(held)
        self.scales, self.box = scales, box
        self._code = _Code(rights, *self.names)
        self._constants = tuple(float(value) for value in held.values())

    @property
    def dim(self) -> int:
        """Number of states ``d``."""
        return len(self.names[0])

    @property
    def size(self) -> int:
        """Number of free parameters ``k``."""
        return len(self.names[2])

    def rescaled(self, scales: Scales, box: Box) -> FormulaDynamics:
        """The same formulas in other units, without generating the code again."""
        out = object.__new__(FormulaDynamics)
        out.__dict__.update(self.__dict__)
        out.scales, out.box = scales, box
        return out

    def models(self, parameters: np.ndarray, start: np.ndarray) -> Models:
        """Parameter sets ``(B, k)`` with segment states ``(B, d, M)``, as shooting takes them.

        A model without free parameters has one that is not used.
        """
        c = self.box.unconstrained(parameters)
        if not self.size:
            empty = np.zeros((len(c), 1))
            return Models(empty.astype(int), empty.astype(bool), empty, start, 1)
        flat = np.tile(np.arange(self.size), (len(c), 1))
        return Models(flat, np.ones_like(flat, dtype=bool), c, start, self.size)

    def parameters(self, models: Models) -> np.ndarray:
        """The parameters of these models, ``(B, k)``."""
        return self.box.values(models.c[:, : self.size])[0]

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """Slopes of these models, see `odekit_sindy.dynamics.Dynamics`."""
        p, change = self.box.values(models.c[:, : self.size])
        d, k = self.dim, self.size

        def slope(point: np.ndarray, z: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
            if z is None:
                return self.slopes(p, point), None
            f, jac, own = self.tangents(p, point)
            dz = np.matmul(jac.transpose(0, 3, 1, 2), z.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
            dz[:, :, d : d + k] += own * change[:, None, :, None]
            return f, dz

        return slope

    def slopes(self, p: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Scaled slopes ``(B, d, M)`` of parameters ``(B, k)`` at scaled points ``(B, v, M)``."""
        values = self._code.slopes(self._arguments(p, point))
        out = np.empty((len(point), self.dim, point.shape[2]))
        for i, value in enumerate(values):
            out[:, i] = value
        out *= self._per_slope[:, None]
        return out

    def tangents(
        self, p: np.ndarray, point: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slopes, ``df/dx (B, d, d, M)`` and ``df/dp (B, d, k, M)``.

        Derivatives that are not finite, as of a root at zero, count as zero.
        """
        d, k = self.dim, self.size
        code = self._code
        values = code.everything(self._arguments(p, point))
        count, points = len(point), point.shape[2]
        f = np.empty((count, d, points))
        jac = np.zeros((count, d, d + k, points))
        for i in range(d):
            f[:, i] = values[i]
        for (i, j), value in zip(code.places, values[d:], strict=True):
            jac[:, i, j] = value
        f *= self._per_slope[:, None]
        jac *= self._per_slope[:, None, None]
        jac[:, :, :d] *= self.scales.state[:, None]
        jac[~np.isfinite(jac)] = 0.0
        return f, jac[:, :, :d], jac[:, :, d:]

    @property
    def _per_slope(self) -> np.ndarray:
        return np.asarray(self.scales.time / self.scales.state)

    def _arguments(self, p: np.ndarray, point: np.ndarray) -> list[Any]:
        unit = np.concatenate([self.scales.state, self.scales.input])
        variables = [point[:, i] * unit[i] for i in range(point.shape[1])]
        return [*variables, *(p[:, i, None] for i in range(p.shape[1])), *self._constants]


@final
class _Code:
    """Numpy functions of slopes, and of slopes with every derivative that is not zero.

    Attributes:
        places: equation and column (states, then parameters) of each derivative.
    """

    def __init__(
        self,
        rights: Sequence[Any],
        states: Sequence[str],
        inputs: Sequence[str],
        free: Sequence[str],
        held: Sequence[str],
    ) -> None:
        import sympy

        names = (*states, *inputs, *free, *held)
        # Derivatives of real symbols are free of real parts and conjugates.
        symbols = [sympy.Symbol(f"v{i}", real=True) for i in range(len(names))]
        known = {sympy.Symbol(name): symbol for name, symbol in zip(names, symbols, strict=True)}
        formulas = [sympy.sympify(right).xreplace(known) for right in rights]
        columns = [*symbols[: len(states)], *(known[sympy.Symbol(name)] for name in free)]
        places, derivatives = [], []
        for i, formula in enumerate(formulas):
            for j, symbol in enumerate(columns):
                value = sympy.diff(formula, symbol).replace(sympy.DiracDelta, _nothing)
                if value != 0:
                    places.append((i, j))
                    derivatives.append(value)
        self.places = tuple(places)
        self._slopes = sympy.lambdify(symbols, formulas, modules="numpy", cse=True)
        self._everything = sympy.lambdify(
            symbols, [*formulas, *derivatives], modules="numpy", cse=True
        )

    def slopes(self, arguments: Sequence[Any]) -> list[Any]:
        """Values of the formulas."""
        return _quiet(self._slopes, arguments)

    def everything(self, arguments: Sequence[Any]) -> list[Any]:
        """Values of the formulas, then of their derivatives."""
        return _quiet(self._everything, arguments)


def _nothing(*_: Any) -> Any:
    """The slope of a jump, which no integrator sees."""
    import sympy

    return sympy.Integer(0)


def _quiet(function: Callable[..., list[Any]], arguments: Sequence[Any]) -> list[Any]:
    # Values that are not finite are dealt with by the integrator.
    with np.errstate(all="ignore"):
        return function(*arguments)
