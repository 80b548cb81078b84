"""What a solver is: one pure step, and what the framework may ask of it.

A solver never sees the loop. It is handed a field, a time, a step and a state, and answers with
a proposal; accepting, rejecting, saving and differentiating are somebody else's work. The same
step serves one system with a Python float for ``h`` and a batch of lanes with a tensor for it.

Shapes: ``y`` is one tensor. ``t`` and ``h`` broadcast against it: with a shared step size ``t``
    is 0-d and ``h`` a Python float; with a step size per sample ``y`` is ``(lanes, dim)`` and
    both are ``(lanes, 1)``.
Units: ``t`` and ``h`` in the caller's unit of time, ``y`` in the caller's unit of state, slopes
    in state per time.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

from torch import Tensor

from odekit.errors import IncompatibleError
from odekit.field import VectorField

FlatField: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A field as plugins see it: time and one state tensor to the slope, a tensor like the state.

One that rounds the time says so in an attribute ``time_dtype``; a solver with many stages then
rounds their times together and hands them over as they will be.
"""


class Trait(enum.Flag):
    """What a solver claims to be; the conformance kit holds each claim to the test.

    ``ONE_STEP``: the memory follows from time and state alone, so that ``init`` at the end of a
    step gives what the step left behind, and a solve can go on from a stored state.
    ``REVERSIBLE``: ``reverse`` gives back the numbers from which a step started.
    """

    NONE = 0
    ERROR_ESTIMATE = enum.auto()
    REVERSIBLE = enum.auto()
    IMPLICIT = enum.auto()
    SYMPLECTIC = enum.auto()
    STOCHASTIC = enum.auto()
    FSAL = enum.auto()
    ONE_STEP = enum.auto()


class Step(NamedTuple):
    """One attempt to go from ``t`` to ``t + h``.

    Attributes:
        y: the proposal, like the state.
        error: the local error estimate, like the state, or None.
        state: the solver's memory for the next step, a pytree of tensors.
        dense: tensors like the state that `Solver.interpolate` will want back.
        failed: a bool that broadcasts like ``t``, True where no proposal could be made.
    """

    y: Tensor
    error: Tensor | None
    state: Any
    dense: tuple[Tensor, ...]
    failed: Tensor | None = None


class Segment(NamedTuple):
    """One accepted step, from ``(t, y0)`` to ``(t + h, y1)``; all fields broadcast together."""

    t: Tensor
    h: Tensor
    y0: Tensor
    y1: Tensor
    dense: tuple[Tensor, ...]


class Pulled(NamedTuple):
    """Cotangents of what a step was made of; None where there is none.

    Attributes:
        t, y: of the time and the state.
        state: of the leaves of the solver's memory.
        params: of tensors that the field reads, each with its own.
    """

    t: Tensor | None
    y: Tensor | None
    state: list[Tensor | None]
    params: list[tuple[Tensor, Tensor]]


class Solver(ABC):
    """Advance a state by one step.

    Attributes:
        order: the order of convergence of the numbers it returns.
        error_order: the power of ``h`` with which the error estimate of one step shrinks;
            ``order`` when not given.
        dense_order: the order of convergence of dense output; at most 3 for the default.
        traits: what the solver claims.
        field_type: the protocol that it asks of the field.
    """

    order: ClassVar[int]
    error_order: ClassVar[int]
    dense_order: ClassVar[int]
    traits: ClassVar[Trait] = Trait.NONE
    field_type: ClassVar[type] = VectorField

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "order" in cls.__dict__:
            cls.error_order = cls.__dict__.get("error_order", cls.order)
            cls.dense_order = cls.__dict__.get("dense_order", min(cls.order, 3))

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Any:
        """The memory before the first step: a pytree of tensors, or None."""
        return None

    @abstractmethod
    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
        """Attempt ``t`` to ``t + h``. Pure: writes nothing on ``self``, reads no value back."""

    def reverse(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Any
    ) -> tuple[Tensor, Any]:
        """State and memory before the step that led from ``t`` to ``y`` at ``t + h``.

        Only solvers with `Trait.REVERSIBLE` can; by default by a step of ``-h``.
        """
        back = self.step(field, t + h, -h, y, state)
        return back.y, back.state

    def pull_back(
        self,
        field: FlatField,
        t: Tensor,
        h: Any,
        y: Tensor,
        state: Any,
        cotangents: Sequence[Tensor | None],
    ) -> Pulled | None:
        """A vector-Jacobian product of `step`, for solvers that have one of their own.

        By default None, which leaves it to autograd. ``cotangents`` are those of the step's
        ``(y, *dense, *leaves of state)``, with None for zeros.
        """
        return None

    def complete(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, step: Step
    ) -> tuple[Tensor, ...]:
        """The ``dense`` of an accepted step that will be interpolated.

        For methods whose dense output needs evaluations of its own; they are spent only on
        steps that somebody looks into. By default what the step brought.
        """
        return step.dense

    def interpolate(self, segment: Segment, t: Tensor) -> Tensor:
        """The state at ``t`` inside the segment, elementwise over whatever broadcasts.

        By default the cubic through both ends with ``dense=(k0, k1)``, the slopes there; its
        error shrinks like ``h**4``. Outside the segment it extrapolates without warning.

        Raises:
            IncompatibleError: the step brought no slopes.
        """
        if len(segment.dense) != 2:
            raise IncompatibleError(
                f"{type(self).__name__} offers no dense output: return dense=(k0, k1), the slopes "
                "at both ends of the step, or override interpolate"
            )
        k0, k1 = segment.dense
        y0, y1, h = segment.y0, segment.y1, segment.h
        x = (t - segment.t) / h
        x, h = x.to(_real(y0)), h.to(_real(y0))
        chord = y1 - y0
        bend = (1 - 2 * x) * chord + (x - 1) * h * k0 + x * h * k1
        return (1 - x) * y0 + x * y1 + x * (x - 1) * bend


def _real(y: Tensor) -> Any:
    return y.dtype.to_real() if y.dtype.is_complex else y.dtype
