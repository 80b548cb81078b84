"""What a named system is: equations, parameters, a start, a span, and data made from them.

The equations of a system are written once, as formulas. Its field in torch, its expressions in
sympy and the truth behind its data all come from them. For a system of your own, hand formulas
to `odekit.symbolic_field.FormulaField`, or any function to ``solve``.

Shapes: a state is ``(..., d)`` in the order of ``names``.
Units: those of the system's source; most of these systems are dimensionless.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from odekit import ProblemError, TimeSeries
from odekit.formulas import parse
from odekit.symbolic_field import FormulaField

Parameter: TypeAlias = float | Tensor
"""A number, or a tensor ``(lanes,)`` with a value for each sample."""


class System(ABC):
    """A system of ordinary differential equations with a name.

    A subclass gives the class attributes and a constructor that names its parameters.

    Attributes:
        formulas: the right-hand side of each state.
        positive: parameters that must be greater than zero; the others must be finite.
        start: the default start.
        others: further starts that are used with this system.
        span: the default first and last time.
        method: the method of ``scipy.integrate.solve_ivp`` behind `truth`.
        parameters: the values.
    """

    formulas: ClassVar[Mapping[str, str]]
    positive: ClassVar[tuple[str, ...]] = ()
    start: ClassVar[tuple[float, ...]]
    others: ClassVar[tuple[tuple[float, ...], ...]] = ()
    span: ClassVar[tuple[float, float]]
    method: ClassVar[str] = "DOP853"

    @abstractmethod
    def __init__(self, **parameters: Parameter) -> None:
        self.parameters: dict[str, Parameter] = {
            name: self._checked(name, value) for name, value in parameters.items()
        }

    def _checked(self, name: str, value: Parameter) -> Parameter:
        if isinstance(value, Tensor):
            if not value.is_floating_point() or value.dim() > 1:
                raise ProblemError(
                    f"{name} must be a number or a floating tensor (lanes,), got {value.dtype} of "
                    f"shape {tuple(value.shape)}"
                )
            if value.dim() == 0:
                return self._checked(name, value.item())
            least, finite = float(value.min()), bool(value.isfinite().all())
        else:
            try:
                value = least = float(value)
            except (TypeError, ValueError):
                raise ProblemError(
                    f"{name} must be a number or a tensor (lanes,), got {value!r}"
                ) from None
            finite = math.isfinite(value)
        if not finite or (name in self.positive and least <= 0):
            wanted = "positive and finite" if name in self.positive else "finite"
            raise ProblemError(f"{name} must be {wanted}, got {value}")
        return value

    @property
    def names(self) -> tuple[str, ...]:
        """The states, in the order of the state's components."""
        return tuple(self.formulas)

    @property
    def y0(self) -> Tensor:
        """The default start, ``(d,)`` in float64."""
        return torch.tensor(self.start, dtype=torch.float64)

    @property
    def starts(self) -> tuple[tuple[float, ...], ...]:
        """The default start and the others, each ``(d,)``."""
        return (self.start, *self.others)

    def field(self) -> FormulaField:
        """The vector field: ``(t, y)`` to ``dy/dt``, parameters as buffers in float64."""
        return FormulaField(self.formulas, self.parameters)

    def sympy(self) -> dict[str, Any]:
        """From each state's name to the expression of its derivative, parameters put in.

        Raises:
            ProblemError: a parameter differs from sample to sample.
        """
        import sympy

        known = {name: sympy.Float(value) for name, value in self._numbers().items()}
        symbols = {**dict.fromkeys((*self.names, "t")), **known}
        return {name: parse(text, symbols) for name, text in self.formulas.items()}

    def _numbers(self) -> dict[str, float]:
        varied = [name for name, value in self.parameters.items() if isinstance(value, Tensor)]
        if varied:
            raise ProblemError(
                f"{varied[0]} has a value for each sample: make one system for each value"
            )
        return {name: float(value) for name, value in self.parameters.items()}

    def truth(self, t: Any, y0: Any = None) -> Tensor:
        """The solution from SciPy at tight tolerance (1e-10 relative, 1e-12 absolute).

        Args:
            t: times, ``(n,)``, increasing; the start is at ``t[0]``.
            y0: start, ``(d,)``; the default start when not given.

        Returns:
            ``(n, d)`` in float64.

        Raises:
            ProblemError: the solution does not reach the last time, or a parameter differs from
                sample to sample.
        """
        from scipy.integrate import solve_ivp

        times = np.asarray(t, dtype=np.float64)
        start = np.asarray(self.start if y0 is None else y0, dtype=np.float64)
        if start.shape != (len(self.names),) or not np.isfinite(start).all():
            raise ProblemError(
                f"y0 must be {len(self.names)} finite numbers ({', '.join(self.names)}), got {y0!r}"
            )
        numbers = self._numbers()
        slope = _compile(("t", *self.names, *numbers), tuple(self.formulas.values()))
        try:
            solution = solve_ivp(
                lambda s, y: slope(s, *y.tolist(), *numbers.values()),
                (times[0], times[-1]),
                start,
                method=self.method,
                t_eval=times,
                rtol=1e-10,
                atol=1e-12,
            )
            reason = solution.message
            reached = solution.success and np.isfinite(solution.y).all()
        except (OverflowError, ZeroDivisionError, ValueError) as error:
            reason, reached = str(error), False
        if not reached:
            raise ProblemError(
                f"the solution from y0 = {start.tolist()} does not reach t = {times[-1]:.6g} "
                f"({reason}): choose another y0 or other parameters"
            )
        return torch.from_numpy(np.ascontiguousarray(solution.y.T))

    def series(
        self,
        n: int = 150,
        noise: float = 0.05,
        drop: float = 0.5,
        seed: int = 0,
        y0: Any = None,
    ) -> TimeSeries:
        """Synthetic data: irregular in time and noisy, the same for the same arguments.

        The truth at ``n`` equidistant times of the span; of these ``int(drop * n)`` rows are
        taken out at random, the first and last not excepted; then normal noise is added.

        Args:
            n: number of times before the drop.
            noise: standard deviation of the noise, as a fraction of each state's standard
                deviation over all ``n`` clean points.
            drop: fraction of the rows that is taken out.
            seed: of NumPy's default generator.
            y0: start, ``(d,)``; the default start when not given.

        Raises:
            ProblemError: an argument out of range, or fewer than two rows left.
        """
        if not noise >= 0 or not math.isfinite(noise):
            raise ProblemError(f"noise must be zero or more, got {noise}")
        if not 0 <= drop < 1 or n - int(drop * n) < 2:
            raise ProblemError(
                f"n = {n} and drop = {drop} leave fewer than two rows: raise n or lower drop"
            )
        generator = np.random.default_rng(seed)
        times = np.linspace(*self.span, n)
        clean = self.truth(times, y0).numpy()
        keep = np.sort(generator.permutation(n)[: n - int(drop * n)])
        kept = clean[keep]
        observed = kept + noise * clean.std(axis=0) * generator.standard_normal(kept.shape)
        return TimeSeries(times[keep], observed, names=self.names)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{type(self).__name__}({values})"


@functools.cache
def _compile(names: tuple[str, ...], formulas: tuple[str, ...]) -> Callable[..., list[float]]:
    """The formulas as one function of the names' values, made once."""
    import sympy

    expressions = [parse(text, names) for text in formulas]
    symbols = [sympy.Symbol(name) for name in names]
    compiled: Callable[..., list[float]] = sympy.lambdify(symbols, expressions, modules="math")
    return compiled
