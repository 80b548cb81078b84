"""Error control: integral, PI and PID rules on the scaled error of one step.

With the scaled error norm ``q`` of this step and those of the two before it, the next step is
``h * safety * q0^(-(P+I+D)/k) * q1^((P+2D)/k) * q2^(-D/k)``, where ``k`` is the power of ``h``
with which the error shrinks. ``integral`` is the textbook rule and what most codes do; ``pi``
rejects less where stability limits the step; ``pid`` leaves all three gains to the caller.

Source: E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd
    ed., 1993, section II.4 (norm, first step, integral rule); G. Soderlind, "Automatic control
    and adaptive time-stepping", Numerical Algorithms 31, 2002, pp. 281-310,
    doi:10.1023/A:1021160023092 (PI and PID); D. R. Reynolds et al., "ARKODE: A flexible IVP
    solver infrastructure for one-step methods", ACM Transactions on Mathematical Software 49,
    2023, doi:10.1145/3594632 (default gains of PID: exponents 0.58, 0.21 and 0.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from odekit import (
    Decision,
    FlatField,
    ProblemError,
    Solver,
    StepController,
    Trait,
    error_norm,
)

SMALLEST = 1e-10
"""Norms below this are taken as this, so that a perfect step does not lead to infinity."""

SHORT = 1e-6
"""The first guess where the state says nothing about the scale of time."""


class _Memory(NamedTuple):
    q1: Any
    q2: Any


class ErrorController(StepController):
    """Keep the error of every step below tolerance; a subclass gives the three gains.

    Args:
        rtol: relative tolerance; None for that of ``solve``.
        atol: absolute tolerance; None for that of ``solve``.
        safety: how far below tolerance to aim; a step may be ``1 / safety`` times as long where
            that ends it on a stop or on the end, unless there is a ``max_step``.
        factor_min: a step never shrinks by more than this.
        factor_max: a step never grows by more than this.
        min_step: steps never get shorter; an attempt of this length is accepted as it is.
        max_step: steps never get longer.
        first_step: length of the first attempt; None to estimate it.
        step_times: times that a step must end on.
        jump_times: the same, where the field jumps.

    Raises:
        ProblemError: an option out of range.
    """

    solver_needs = Trait.ERROR_ESTIMATE
    gains: ClassVar[tuple[float, float, float]]

    def __init__(
        self,
        rtol: Any = None,
        atol: Any = None,
        safety: float = 0.9,
        factor_min: float = 0.2,
        factor_max: float = 10.0,
        min_step: float = 0.0,
        max_step: float = math.inf,
        first_step: float | None = None,
        step_times: Sequence[float] = (),
        jump_times: Sequence[float] = (),
    ) -> None:
        if not (0 < safety <= 1 and 0 < factor_min < 1 < factor_max):
            raise ProblemError(
                "need 0 < safety <= 1 and 0 < factor_min < 1 < factor_max, got "
                f"{safety!r}, {factor_min!r}, {factor_max!r}"
            )
        if not 0 <= min_step <= max_step or max_step <= 0:
            raise ProblemError(
                f"need 0 <= min_step <= max_step, max_step > 0, got {min_step!r}, {max_step!r}"
            )
        if first_step is not None and not 0 < first_step < math.inf:
            raise ProblemError(
                f"first_step must be positive and finite, got {first_step!r}; the direction "
                "comes from t"
            )
        self.rtol, self.atol = rtol, atol
        self.safety, self.factor_min, self.factor_max = safety, factor_min, factor_max
        self.min_step, self.max_step, self.first_step = min_step, max_step, first_step
        # As far as the tolerance is expected to reach where nobody plays safe.
        self.stretch = max(1 / safety, type(self).stretch) if max_step == math.inf else self.stretch
        self.step_times = tuple(map(float, step_times))
        self.jump_times = tuple(map(float, jump_times))

    def with_tolerances(self, rtol: Any, atol: Any) -> Self:
        """A copy that takes these tolerances where it was given none of its own."""
        bound = copy(self)
        bound.rtol = rtol if self.rtol is None else self.rtol
        bound.atol = atol if self.atol is None else self.atol
        return bound

    def init(
        self, solver: Solver, field: FlatField, t: Tensor, y: Tensor, span: Tensor
    ) -> tuple[Any, Any]:
        """The first step, by estimate unless ``first_step`` says it; up to two evaluations."""
        ends = span[..., -1] - span[..., 0]
        if t.dim() == 0:
            reach = float(ends)
            length = self.first_step or self._first_step(solver, field, t, y, reach)
            if math.isfinite(length):
                length = min(max(length, self.min_step), self.max_step, abs(reach))
            return math.copysign(length, reach), _Memory(1.0, 1.0)
        if self.first_step is None:
            h = self._first_steps(solver, field, t, y, ends)
        else:
            h = torch.full_like(ends, self.first_step)
        h = torch.minimum(h.clamp(self.min_step, self.max_step), ends.abs())
        ones = torch.ones_like(ends)
        return torch.copysign(h, ends), _Memory(ones, ones)

    def decide(
        self, solver: Solver, h: Any, y0: Tensor, y1: Tensor, error: Tensor | None, state: Any
    ) -> Decision:
        """Accept when the norm is at most one; one transfer with a shared step size."""
        if error is None:
            raise ProblemError(f"{type(solver).__name__} returned no error estimate")
        if isinstance(h, Tensor):
            return self._decide_lanes(solver, h, y0, y1, error, state)
        q = self._norm(error, y0, y1, lanes=False)
        forced = abs(h) <= self.min_step and math.isfinite(q)
        accept = q <= 1 or forced
        factor = self._factor(max(q, SMALLEST), state, solver.error_order)
        if q > 1:  # an attempt that repeats the one before would be rejected for ever
            factor = min(factor, self.safety * q ** (-1 / solver.error_order))
        if not math.isfinite(factor):
            factor = self.factor_min
        factor = min(max(factor, self.factor_min), self.factor_max)
        factor = max(factor, 1.0) if q <= 1 else factor
        length = min(max(abs(h) * factor, self.min_step), self.max_step)
        if self.min_step and not math.isfinite(q) and abs(h) <= self.min_step:
            length = 0.0  # the shortest step that is allowed, and it leads nowhere: give up
        memory = _Memory(max(q, SMALLEST), state.q1) if accept else state
        return Decision(accept, math.copysign(length, h), memory)

    def _decide_lanes(
        self, solver: Solver, h: Tensor, y0: Tensor, y1: Tensor, error: Tensor, state: _Memory
    ) -> Decision:
        q = self._norm(error, y0, y1, lanes=True)
        forced = (h.abs() <= self.min_step) & torch.isfinite(q)
        small = q <= 1
        accept = small | forced
        q = q.clamp(min=SMALLEST)
        factor = self._factor(q, state, solver.error_order)
        shorter = torch.minimum(factor, self.safety * q ** (-1 / solver.error_order))
        factor = torch.where(small, factor, shorter)
        factor = factor.nan_to_num(self.factor_min, self.factor_min, self.factor_min)
        factor = factor.clamp(self.factor_min, self.factor_max)
        factor = torch.where(small, factor.clamp(min=1.0), factor)
        length = (h.abs() * factor).clamp(self.min_step, self.max_step)
        if self.min_step:
            length = torch.where(~torch.isfinite(q) & (h.abs() <= self.min_step), 0.0, length)
        memory = _Memory(torch.where(accept, q, state.q1), torch.where(accept, state.q1, state.q2))
        return Decision(accept, torch.copysign(length, h), memory)

    def _norm(self, error: Tensor, y0: Tensor, y1: Tensor, *, lanes: bool) -> Any:
        """`error_norm`; ``atol=0`` leaves room enough for an entry that is and stays zero."""
        atol = self.atol
        if not isinstance(atol, Tensor):
            atol = atol or torch.finfo(y0.dtype).tiny
        return error_norm(error, y0, y1, self.rtol, atol, lanes=lanes)

    def _first_norm(self, x: Tensor, y: Tensor, *, lanes: bool) -> Any:
        """The size of ``x`` beside ``y``; with ``atol=0`` an entry at zero has nothing to say."""
        atol = self.atol
        if not isinstance(atol, Tensor) and not atol:
            size = y.abs()
            atol = torch.zeros_like(size).masked_fill_(size == 0, math.inf)
        return error_norm(x, y, torch.zeros_like(y), self.rtol, atol, lanes=lanes)

    def _factor(self, q: Any, state: _Memory, order: int) -> Any:
        p, i, d = self.gains
        factor = self.safety * q ** (-(p + i + d) / order)
        if p or d:
            factor = factor * state.q1 ** ((p + 2 * d) / order)
        if d:
            factor = factor * state.q2 ** (-d / order)
        return factor

    def _first_step(
        self, solver: Solver, field: FlatField, t: Tensor, y: Tensor, reach: float
    ) -> float:
        """Hairer, Norsett and Wanner, section II.4: compare the state, its slope and its bend."""
        slope = field(t, y)
        d0 = self._first_norm(y, y, lanes=False)
        d1 = self._first_norm(slope, y, lanes=False)
        if not (math.isfinite(d0) and math.isfinite(d1)):
            return SHORT if bool((torch.isfinite(slope) & torch.isfinite(y)).all()) else math.nan
        h0 = SHORT if min(d0, d1) < 1e-5 else 0.01 * d0 / d1
        h0 = min(h0, abs(reach))
        signed = math.copysign(h0, reach)
        bend = field(t + signed, torch.add(y, slope, alpha=signed)) - slope
        d2 = self._first_norm(bend, y, lanes=False) / h0
        steepest = max(d1, d2) if math.isfinite(d2) else d1
        if steepest <= 1e-15:
            h1 = max(1e-6, h0 * 1e-3)
        else:
            h1 = (0.01 / steepest) ** (1 / solver.error_order)
        return min(100 * h0, h1)

    def _first_steps(
        self, solver: Solver, field: FlatField, t: Tensor, y: Tensor, reach: Tensor
    ) -> Tensor:
        """`_first_step` for every lane, without a transfer."""
        real = y.dtype.to_real() if y.dtype.is_complex else y.dtype
        slope = field(t, y)
        d0 = self._first_norm(y, y, lanes=True)
        d1 = self._first_norm(slope, y, lanes=True)
        h0 = torch.where(torch.minimum(d0, d1) < 1e-5, SHORT, 0.01 * d0 / d1)
        h0 = torch.minimum(h0, reach.abs())
        signed = torch.copysign(h0, reach)[:, None]
        bend = field(t + signed, y + signed.to(real) * slope) - slope
        d2 = self._first_norm(bend, y, lanes=True) / h0
        steepest = torch.where(torch.isfinite(d2), torch.maximum(d1, d2), d1)
        h1 = torch.where(
            steepest <= 1e-15,
            (h0 * 1e-3).clamp(min=1e-6),
            (0.01 / steepest) ** (1 / solver.error_order),
        )
        h = torch.minimum(100 * h0, h1)
        blind = torch.where((torch.isfinite(slope) & torch.isfinite(y)).all(-1), SHORT, torch.nan)
        return torch.where(torch.isfinite(d0) & torch.isfinite(d1), h, blind)


@final
class Integral(ErrorController):
    """The textbook rule: the next step depends on the current error alone."""

    gains = (0.0, 1.0, 0.0)


@final
class PI(ErrorController):
    """Proportional-integral control, gains 0.4 and 0.3, for smoother step sequences."""

    gains = (0.4, 0.3, 0.0)


@final
class PID(ErrorController):
    """Proportional-integral-derivative control; the defaults are those of SUNDIALS.

    Args:
        proportional: gain on the change of the error; larger damps the step sequence.
        integral: gain on the error itself; 1 alone is the textbook rule.
        derivative: gain on the change of the change.
        **options: those of `ErrorController`.
    """

    def __init__(
        self,
        proportional: float = 0.01,
        integral: float = 0.47,
        derivative: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.gains = (proportional, integral, derivative)  # type: ignore[misc]
