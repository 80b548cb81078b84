"""What a solver's numbers converge to, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from odekit.solver import Segment, Solver, Trait
from odekit.testing.cases import Case, autonomous_for, time_dependent_for
from odekit.testing.conformance import (
    Conformance,
    ConformanceError,
    NotApplicable,
    check,
    require,
    require_close,
)
from odekit.testing.convergence import (
    clock,
    distance,
    global_slope,
    largest,
    local_slope,
    single_step,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ORDER, ERROR_ORDER, DENSE_ORDER = 0.2, 0.4, 0.4
"""How far a measured slope may be from the claim."""


class OrderChecks(Conformance):
    """Order of the solution, of the error estimate and of dense output, both ways in time."""

    @check
    def test_order_autonomous(self) -> str:
        """On a nonlinear autonomous problem the error shrinks with the claimed order."""
        return self._order(autonomous_for)

    @check
    def test_order_time_dependent(self) -> str:
        """On a problem that depends on time the error shrinks with the claimed order."""
        return self._order(time_dependent_for)

    @check
    def test_order_autonomous_backwards(self) -> str:
        """Backwards in time the order is the same, on a nonlinear autonomous problem."""
        return self._order(autonomous_for, backwards=True)

    @check
    def test_order_time_dependent_backwards(self) -> str:
        """Backwards in time the order is the same, on a problem that depends on time."""
        return self._order(time_dependent_for, backwards=True)

    @check
    def test_error_order(self) -> str:
        """The error estimate of one step shrinks with the power ``error_order``."""
        solver = self.make()
        if Trait.ERROR_ESTIMATE not in solver.traits:
            raise NotApplicable("ERROR_ESTIMATE is not claimed")
        _case(solver, autonomous_for)

        def size(case: Case) -> Callable[[float], float]:
            return lambda h: _largest(single_step(solver, case, h)[1].error)

        try:
            return _slopes(
                solver, size, solver.error_order, ERROR_ORDER, "the error estimate of a step"
            )
        except NotApplicable:
            raise ConformanceError("the error estimate is zero, whatever the step") from None

    @check
    def test_dense_order(self) -> str:
        """Inside one step dense output is off by a power ``dense_order + 1`` of its length."""
        solver = self.make()

        def size(case: Case) -> Callable[[float], float]:
            return lambda h: _inside(solver, case, h)

        return _slopes(solver, size, solver.dense_order + 1, DENSE_ORDER, "dense output")

    @check
    def test_dense_ends(self) -> str:
        """At both ends of a step dense output gives the step's own values."""
        solver: Solver = self.make()
        case = _case(solver, autonomous_for)
        segment = _segment(solver, case, 0.1)
        off = largest(
            distance(solver.interpolate(segment, segment.t), segment.y0),
            distance(solver.interpolate(segment, segment.t + segment.h), segment.y1),
        )
        return require_close(off, 1e-12, "dense output at the ends of a step")

    def _order(self, choose: Callable[[type], Case | None], backwards: bool = False) -> str:
        """One problem may be kinder than the claim, as where errors cancel; not all of them."""
        solver = self.make()
        case = _case(solver, choose)
        measured = global_slope(solver, case.reversed() if backwards else case)
        figure = f"slope {measured:.2f}"
        shown = measured
        if measured > solver.order + ORDER:
            shown = min(global_slope(solver, each) for each in _all_cases(solver))
        require(
            abs(shown - solver.order) <= ORDER and measured >= solver.order - ORDER,
            f"claims order {solver.order}, but halving the step shows order {shown:.2f}",
            figure,
        )
        return figure


def _all_cases(solver: Solver) -> list[Case]:
    cases = [choose(type(solver).field_type) for choose in (autonomous_for, time_dependent_for)]
    return [each for case in cases if case is not None for each in (case, case.reversed())]


def _case(solver: Solver, choose: Callable[[type], Case | None]) -> Case:
    case = choose(type(solver).field_type)
    if case is None:
        raise NotApplicable(f"asks for a {type(solver).field_type.__name__}")
    return case


def _slopes(
    solver: Solver,
    size: Callable[[Case], Callable[[float], float]],
    claimed: int,
    tolerance: float,
    what: str,
) -> str:
    """Local slopes on both problems; the smaller one is the order."""
    cases = [choose(type(solver).field_type) for choose in (autonomous_for, time_dependent_for)]
    measured = [local_slope(size(case)) for case in cases if case is not None]
    if not measured:
        raise NotApplicable(f"asks for a {type(solver).field_type.__name__}")
    figure = "slope " + ", ".join(f"{value:.2f}" for value in measured)
    require(
        abs(min(measured) - claimed) <= tolerance,
        f"{what} should shrink like h^{claimed} by its claims, but shrinks like "
        f"h^{min(measured):.2f}",
        figure,
    )
    return figure


def _segment(solver: Solver, case: Case, h: float) -> Segment:
    y0, step = single_step(solver, case, h)
    signed = h if case.span[1] > case.span[0] else -h
    t = clock(case.span[0])
    dense = solver.complete(case.field, t, signed, y0, step)
    return Segment(t, clock(signed), y0, step.y, dense)


def _inside(solver: Solver, case: Case, h: float) -> float:
    segment = _segment(solver, case, h)
    places = (0.13, 0.37, 0.5, 0.71, 0.9)
    return largest(
        *(
            distance(
                solver.interpolate(segment, segment.t + x * segment.h),
                case.exact(float(segment.t + x * segment.h)),
            )
            for x in places
        )
    )


def _largest(error: Tensor | None) -> float:
    return float("nan") if error is None else float(error.abs().max())
