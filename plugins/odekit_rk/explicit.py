"""The kernel of every explicit Runge-Kutta method; a method is this and its numbers.

The slope at the start of a step is the solver's memory, so neither a rejection nor the next
step repeats it: methods whose last stage is the next step's first (FSAL) get it for nothing,
the others evaluate it at the end of the step, where the next one would have evaluated it anyway.

Shapes: those of `odekit.Solver`; every stage slope is like the state.
Units: slopes are state per time, the error estimate is a state.
Source: E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd
    ed., 1993, sections II.1 to II.6, doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from odekit import (
    ButcherTableau,
    FlatField,
    Segment,
    Solver,
    Step,
    Trait,
    combine,
    weighted_sum,
)


class ExplicitRungeKutta(Solver):
    """Any explicit method with a tableau. A subclass gives ``order`` and ``tableau``.

    Attributes:
        tableau: the numbers of the method.
        kept: the stages whose slopes dense output needs.
        blend: dense output, one row for each of these slopes, one column a function of the
            basis; empty for cubic Hermite.
        basis: the factor, ``"x"`` or ``"1 - x"``, by which each function of the relative time
            differs from the one before; the first is ``x`` itself.
    """

    tableau: ClassVar[ButcherTableau]
    basis: ClassVar[tuple[str, ...]] = ()
    blend: ClassVar[tuple[tuple[float, ...], ...]] = ()
    kept: ClassVar[tuple[int, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tableau = cls.__dict__.get("tableau")
        if tableau is None:
            return
        if tableau.dense:
            cls.dense_order = tableau.dense_order
            cls.kept = tuple(i for i, powers in enumerate(tableau.dense) if any(powers))
            cls.blend = tuple(tableau.dense[i] for i in cls.kept)
            cls.basis = ("x",) * len(tableau.dense[0])
        if "traits" not in cls.__dict__:
            fsal = Trait.FSAL if tableau.fsal else Trait.NONE
            cls.traits = Trait.ONE_STEP | fsal
            if tableau.e:
                cls.traits |= Trait.ERROR_ESTIMATE

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Tensor:
        """The slope at the start; one evaluation."""
        return field(t, y)

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Tensor) -> Step:
        """Attempt ``t`` to ``t + h``; as many evaluations as there are stages, less one if FSAL.

        Never raises: a field that returns NaN gives a NaN proposal.
        """
        tableau = self.tableau
        k, y1, now = evaluate_stages(tableau, field, t, h, y, [state])
        if not tableau.fsal:
            y1 = combine(y, h, tableau.sparse[-1], k)
        error = None
        if Trait.ERROR_ESTIMATE in self.traits:
            # Step control is never differentiated.
            error = self._undifferentiated(h, k) if torch.is_grad_enabled() else self.estimate(h, k)
        last = k[-1] if tableau.fsal else field(now if tableau.c[-1] == 1 else t + h, y1)
        dense = tuple(k[i] for i in self.kept) if self.kept else (state, last)
        return Step(y1, error, last, dense)

    def _undifferentiated(self, h: Any, k: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return self.estimate(h, k)

    def estimate(self, h: Any, k: Sequence[Tensor]) -> Tensor:
        """The error estimate of one step, like the state; called without gradients."""
        return self.tableau.estimate(h, k)

    def interpolate(self, segment: Segment, t: Tensor) -> Tensor:
        """The method's own dense output, or the cubic Hermite where it has none.

        One fused multiply-add on the state for each slope; the polynomials are evaluated in the
        precision of ``t``, because theirs is what single precision would spoil.
        """
        if not self.blend:
            return super().interpolate(segment, t)
        x = (t - segment.t) / segment.h
        factors, grown = {"x": x, "1 - x": 1 - x}, [x]
        for name in self.basis[1:]:
            grown.append(grown[-1] * factors[name])
        if x.is_cuda:  # a copy from the host would wait for all that is queued
            matrix = _on_device(self.blend, x.device).to(x.dtype)
        else:
            matrix = torch.tensor(self.blend, dtype=x.dtype, device=x.device)
        weights = torch.stack(grown, -1) @ matrix.T * segment.h.unsqueeze(-1)
        y = segment.y0
        real = y.dtype.to_real() if y.dtype.is_complex else y.dtype
        for weight, slope in zip(weights.to(real).unbind(-1), segment.dense, strict=True):
            y = torch.addcmul(y, weight, slope)
        return y


def evaluate_stages(
    tableau: ButcherTableau, field: FlatField, t: Tensor, h: Any, y: Tensor, k: list[Tensor]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The slopes of all stages, of which ``k`` brings the first; where and when the last one is."""
    first = len(k)
    place, now = y, t
    times = stage_times(tableau, t, h, getattr(field, "time_dtype", None))
    for now, row in zip(times[first:], tableau.sparse[first:-1], strict=True):
        place = combine(y, h, row, k)
        k.append(field(now, place))
    return k, place, now


def stage_times(
    tableau: ButcherTableau, t: Tensor, h: Any, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """When each stage is; stages at one time share its tensor, the first has ``t`` itself.

    Computed in double precision, and rounded to ``dtype`` where the field rounds them anyway.
    """
    nodes, places = tableau.distinct_nodes
    if isinstance(h, Tensor):
        times = [t + node * h for node in nodes]
    else:  # all of them in one operation
        rows = torch.add(t, _on_device(nodes, t.device), alpha=h)
        times = list((rows if dtype is None else rows.to(dtype)).unbind())
    times.append(t)
    return [times[place] for place in places]


@functools.lru_cache
def _on_device(numbers: tuple[Any, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.tensor(numbers, dtype=torch.float64, device=device)


def scaled_sum(h: Any, weights: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    """``h * sum_i weights[i] * k[i]``; a float ``h`` is folded into the weights."""
    if isinstance(h, Tensor):
        return h * weighted_sum(weights, k)
    return weighted_sum(weights, k, h)
