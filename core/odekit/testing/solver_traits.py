"""A trait is a claim: each is held to its own test, and one without a test is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit.field import SeparableField, VectorField
from odekit.solver import Solver, Trait
from odekit.testing.cases import DOUBLE, HenonHeiles, autonomous_for
from odekit.testing.conformance import Conformance, NotApplicable, check, require, require_close
from odekit.testing.convergence import clock, distance, largest, leaves, same, single_step

TESTED = (
    Trait.ERROR_ESTIMATE
    | Trait.FSAL
    | Trait.ONE_STEP
    | Trait.REVERSIBLE
    | Trait.SYMPLECTIC
    | Trait.IMPLICIT
)


class TraitChecks(Conformance):
    """The claims of ``traits``."""

    @check
    def test_traits_known(self) -> str:
        """Every claimed trait has a check in this kit."""
        claimed = self.make().traits
        unknown = claimed & ~TESTED
        require(not unknown, f"claims {unknown}, for which this kit has no check")
        return ", ".join(str(t.name) for t in claimed) or "none"

    @check
    def test_trait_error_estimate(self) -> str:
        """An error estimate, like the state, comes exactly from solvers that claim one."""
        solver = self.make()
        case = autonomous_for(type(solver).field_type)
        if case is None:
            raise NotApplicable(f"asks for a {type(solver).field_type.__name__}")
        y, step = single_step(solver, case, 0.1)
        claimed = Trait.ERROR_ESTIMATE in solver.traits
        require(
            claimed == (step.error is not None),
            "claims ERROR_ESTIMATE, but Step.error is None"
            if claimed
            else "returns an error, but does not claim ERROR_ESTIMATE",
        )
        require(
            step.error is None or step.error.shape == y.shape,
            "Step.error must have the shape of the state",
        )
        return ""

    @check
    def test_trait_fsal(self) -> str:
        """FSAL: the memory is the slope at the end of the step, and no slope is asked for twice."""
        solver = self._claiming(Trait.FSAL)
        case = autonomous_for(VectorField)
        if case is None or type(solver).field_type is not VectorField:
            raise NotApplicable(f"asks for a {type(solver).field_type.__name__}")
        calls: list[tuple[Tensor, Tensor]] = []

        def field(t: Tensor, y: Tensor) -> Tensor:
            calls.append((t, y))
            return case.field(t, y) * (1 + 0.1 * t)

        t, y = clock(0.3), case.exact(0.3)
        memory = solver.init(field, t, y)
        calls.clear()
        step = solver.step(field, t, 0.1, y, memory)
        count = len(calls)
        slope = field(clock(0.4), step.y)
        gaps = [distance(x, slope) for x in leaves(step.state) if x.shape == slope.shape]
        require(
            bool(gaps) and min(gaps) <= 1e-12,
            "claims FSAL, but its memory after a step is not the slope at the step's end",
        )
        repeated = sum(same(y, asked) and bool(t == at) for at, asked in calls[:count])
        require(
            repeated == 0, "claims FSAL, but evaluates the slope at the start of the step again"
        )
        stages = getattr(getattr(solver, "tableau", None), "stages", None)
        require(
            stages is None or count == stages - 1,
            f"claims FSAL, but a step of {stages} stages takes {count} evaluations",
        )
        return f"{count} evaluations a step"

    @check
    def test_trait_reversible(self) -> str:
        """REVERSIBLE: steps taken and taken back end where they began, memory included."""
        solver = self._claiming(Trait.REVERSIBLE)
        case = autonomous_for(type(solver).field_type)
        if case is None:
            raise NotApplicable(f"asks for a {type(solver).field_type.__name__}")
        y = start = case.exact(0.0)
        memory = first = solver.init(case.field, clock(0.0), y)
        for i in range(5):
            step = solver.step(case.field, clock(0.1 * i), 0.1, y, memory)
            y, memory = step.y, step.state
        moved = distance(y, start)
        for i in reversed(range(5)):
            y, memory = solver.reverse(case.field, clock(0.1 * i), 0.1, y, memory)
        gaps = [distance(a, b) for a, b in zip(leaves(memory), leaves(first), strict=True)]
        require(moved > 1e-3, "the steps lead nowhere")
        return require_close(
            largest(distance(y, start), *gaps), 1e-12, "claims REVERSIBLE, but there and back is"
        )

    @check
    def test_trait_one_step(self) -> str:
        """ONE_STEP: the memory after a step is what ``init`` makes of its end."""
        solver = self._claiming(Trait.ONE_STEP)
        case = autonomous_for(type(solver).field_type)
        if case is None:
            raise NotApplicable(f"asks for a {type(solver).field_type.__name__}")
        y = case.exact(0.0)
        step = solver.step(case.field, clock(0.0), 0.1, y, solver.init(case.field, clock(0.0), y))
        afresh = solver.init(case.field, clock(0.1), step.y)
        gaps = [distance(a, b) for a, b in zip(leaves(step.state), leaves(afresh), strict=True)]
        return require_close(
            largest(*gaps, 0.0), 1e-12, "claims ONE_STEP, but its memory differs from init's by"
        )

    @check
    def test_trait_symplectic(self) -> str:
        """SYMPLECTIC: the Jacobian of a step keeps the symplectic form."""
        solver = self._claiming(Trait.SYMPLECTIC)
        if type(solver).field_type not in (VectorField, SeparableField):
            raise NotApplicable(f"asks for a {type(solver).field_type.__name__}")
        field: Any = HenonHeiles()
        y = torch.tensor([0.3, -0.2, 0.25, 0.15], dtype=DOUBLE)

        def flow(y: Tensor) -> Tensor:
            return solver.step(field, clock(0.0), 0.2, y, solver.init(field, clock(0.0), y)).y

        jacobian = torch.autograd.functional.jacobian(flow, y)  # type: ignore[no-untyped-call]
        eye, zero = torch.eye(2, dtype=DOUBLE), torch.zeros(2, 2, dtype=DOUBLE)
        form = torch.cat([torch.cat([zero, eye], 1), torch.cat([-eye, zero], 1)])
        off = distance(jacobian.T @ form @ jacobian, form)
        # Iterations leave their tolerance in the Jacobian; a method that is not symplectic is
        # off by a power of the step's length.
        allowed = 1e-8 if Trait.IMPLICIT in solver.traits else 1e-12
        return require_close(off, allowed, "claims SYMPLECTIC, but the symplectic form is")

    @check
    def test_trait_implicit(self) -> str:
        """IMPLICIT: decay of any stiffness is damped, whatever the length of the step."""
        solver = self._claiming(Trait.IMPLICIT)
        if type(solver).field_type is not VectorField:
            raise NotApplicable(f"asks for a {type(solver).field_type.__name__}")
        rates = torch.tensor([1.0, 10.0, 1e3, 1e6], dtype=DOUBLE)

        def field(t: Tensor, y: Tensor) -> Tensor:
            return -rates * y

        y = torch.ones(4, dtype=DOUBLE)
        step = solver.step(field, clock(0.0), 1.0, y, solver.init(field, clock(0.0), y))
        growth = float(step.y.abs().max())
        figure = f"growth {growth:.3g}"
        require(
            growth <= 1 + 1e-6,
            f"claims IMPLICIT, but a step on stiff decay multiplies the state by {growth:.3g}",
            figure,
        )
        return figure

    def _claiming(self, trait: Trait) -> Solver:
        solver: Solver = self.make()
        if trait not in solver.traits:
            raise NotApplicable(f"{trait.name} is not claimed")
        return solver
