"""The kit itself: right solvers pass it, and each wrong one fails at what is wrong with it."""

from __future__ import annotations

import pytest
import torch

import odekit
from odekit import SeparableField, Solver, Step, Trait
from odekit.testing import ConformanceError, NotApplicable, SolverConformance


class Heun(Solver):
    """A right solver in the fewest lines; the wrong ones below differ in one place each."""

    order = 2
    traits = Trait.ERROR_ESTIMATE

    def init(self, field, t, y):
        return field(t, y)

    def step(self, field, t, h, y, state):
        k1 = field(t + h, y + h * state)
        y1 = y + 0.5 * h * (state + k1)
        last = field(t + h, y1)
        return Step(y1, (0.5 * h * (k1 - state)).detach(), last, (state, last))


class ReversibleHeun(Solver):
    """Reversible Heun (P. Kidger et al., NeurIPS 2021, arXiv:2105.13493), without noise."""

    order = 2
    traits = Trait.REVERSIBLE

    def init(self, field, t, y):
        return y, field(t, y)

    def step(self, field, t, h, y, state):
        other, slope = state
        other = 2 * y - other + h * slope
        last = field(t + h, other)
        return Step(y + 0.5 * h * (slope + last), None, (other, last), (slope, last))


class Leapfrog(Solver):
    """Stoermer and Verlet's method on a separable field."""

    order = 2
    traits = Trait.SYMPLECTIC | Trait.REVERSIBLE
    field_type = SeparableField

    def step(self, field, t, h, y, state):
        q, p = y.chunk(2, -1)
        p = p + 0.5 * h * field.force(q)
        q = q + h * field.velocity(p)
        p = p + 0.5 * h * field.force(q)
        y1 = torch.cat([q, p], -1)
        return Step(y1, None, None, (field(t, y), field(t + h, y1)))


class ImplicitMidpoint(Solver):
    """The implicit midpoint rule by Newton's method, for one flat state."""

    order = 2
    traits = Trait.IMPLICIT | Trait.SYMPLECTIC

    def step(self, field, t, h, y, state):
        def residual(k):
            return k - field(t + 0.5 * h, y + 0.5 * h * k)

        k = field(t, y)
        for _ in range(8):
            k = k - torch.linalg.solve(torch.func.jacrev(residual)(k), residual(k))
        return Step(y + h * k, None, None, (k, k))


class WrongWeight(Solver):
    """The classical method, two of whose weights are off by a thousandth."""

    order = 4

    def init(self, field, t, y):
        return field(t, y)

    def step(self, field, t, h, y, state):
        k0 = state
        k1 = field(t + h / 2, y + h / 2 * k0)
        k2 = field(t + h / 2, y + h / 2 * k1)
        k3 = field(t + h, y + h * k2)
        y1 = y + h * ((1 / 6 + 1e-3) * k0 + k1 / 3 + k2 / 3 + (1 / 6 - 1e-3) * k3)
        last = field(t + h, y1)
        return Step(y1, None, last, (k0, last))


class WrongNode(Solver):
    """Bogacki and Shampine's method, whose second node is 0.45 instead of 1/2."""

    order = 3

    def init(self, field, t, y):
        return field(t, y)

    def step(self, field, t, h, y, state):
        k0 = state
        k1 = field(t + 0.45 * h, y + h / 2 * k0)
        k2 = field(t + 0.75 * h, y + 0.75 * h * k1)
        y1 = y + h * (2 / 9 * k0 + k1 / 3 + 4 / 9 * k2)
        last = field(t + h, y1)
        return Step(y1, None, last, (k0, last))


class MemoryOnSelf(Solver):
    """Heun's method, which keeps its slope on the object instead of in the state."""

    order = 2

    def init(self, field, t, y):
        self.slope = field(t, y)

    def step(self, field, t, h, y, state):
        k0 = self.slope
        y1 = y + 0.5 * h * (k0 + field(t + h, y + h * k0))
        self.slope = field(t + h, y1)
        return Step(y1, None, None, (k0, self.slope))


class MixedLanes(Heun):
    """Heun's method, whose error estimate is the largest one of all lanes."""

    order = 2

    def step(self, field, t, h, y, state):
        step = super().step(field, t, h, y, state)
        return step._replace(error=step.error.abs().amax().to(y.dtype).expand_as(y))


class FalselyReversible(Heun):
    traits = Trait.ERROR_ESTIMATE | Trait.REVERSIBLE


class FalselySymplectic(Heun):
    traits = Trait.ERROR_ESTIMATE | Trait.SYMPLECTIC


class FalselyImplicit(Heun):
    traits = Trait.ERROR_ESTIMATE | Trait.IMPLICIT


class FalselyFsal(Heun):
    """It claims to know the slope at the start, and asks for it all the same."""

    traits = Trait.ERROR_ESTIMATE | Trait.FSAL

    def step(self, field, t, h, y, state):
        return super().step(field, t, h, y, field(t, y))


class FalselyStochastic(Heun):
    traits = Trait.ERROR_ESTIMATE | Trait.STOCHASTIC


class SilentlyEstimating(Heun):
    traits = Trait.NONE


class WrongErrorOrder(Heun):
    error_order = 3


class WrongDense(Heun):
    def interpolate(self, segment, t):
        x = ((t - segment.t) / segment.h).to(segment.y0.dtype)
        return segment.y0 + x * (segment.y1 - segment.y0)


class InPlace(Heun):
    """It adds to the memory it was handed."""

    def step(self, field, t, h, y, state):
        step = super().step(field, t, h, y, state.clone())
        with torch.no_grad():
            state.mul_(0.5)
        return step


class ReadsBack(Heun):
    """It looks at its numbers, which costs a transfer a step and cannot be compiled."""

    def step(self, field, t, h, y, state):
        if float(y.detach().abs().max()) > 1e6:
            h = 0.5 * h
        return super().step(field, t, h, y, state)


class Detached(Heun):
    """It cuts the graph at the slope."""

    def step(self, field, t, h, y, state):
        return super().step(field, t, h, y, state.detach())


class HidesNaN(Heun):
    def step(self, field, t, h, y, state):
        step = super().step(field, t, h, y, state)
        return step._replace(y=step.y.nan_to_num(0.0, 0.0, 0.0), error=step.error.nan_to_num(0.0))


class SinglePrecision(Heun):
    """It computes everything in single precision."""

    def step(self, field, t, h, y, state):
        step = super().step(field, t, h, y, state)
        kind = torch.complex64 if y.is_complex() else torch.float32
        return step._replace(y=step.y.to(kind))


class SpoiltBatch(Heun):
    """In a batch the last lane comes back as NaN, which ``max`` in Python may drop."""

    def step(self, field, t, h, y, state):
        step = super().step(field, t, h, y, state)
        if isinstance(h, float) or len(y) < 2:
            return step
        spoilt = torch.cat([step.y[:-1], step.y[-1:] * torch.nan])
        return step._replace(y=spoilt)


class NoEstimate(Heun):
    """Its error estimate is zero, so every step is accepted."""

    def step(self, field, t, h, y, state):
        step = super().step(field, t, h, y, state)
        return step._replace(error=torch.zeros_like(y))


class Diverging(Heun):
    """Whatever the step, the result is infinite."""

    def step(self, field, t, h, y, state):
        step = super().step(field, t, h, y, state)
        return step._replace(y=step.y * torch.inf)


ORDERS = {"order_autonomous", "order_autonomous_backwards"}
ORDERS_IN_TIME = {"order_time_dependent", "order_time_dependent_backwards"}
LANES = {"lanes_step", "lanes_neighbours", "lanes_solve", "lanes_failure"}

WRONG = [
    # solver, checks that it must fail, others that it may fail
    (WrongWeight, ORDERS | ORDERS_IN_TIME, {"dense_order"}),
    (WrongNode, ORDERS_IN_TIME, {"dense_order"}),
    (MemoryOnSelf, {"purity", "interleaved"}, set()),
    (MixedLanes, LANES - {"lanes_failure"}, {"lanes_failure"}),
    (FalselyReversible, {"trait_reversible"}, set()),
    (FalselySymplectic, {"trait_symplectic"}, set()),
    (FalselyImplicit, {"trait_implicit"}, set()),
    (FalselyFsal, {"trait_fsal"}, set()),
    (FalselyStochastic, {"traits_known"}, set()),
    (SilentlyEstimating, {"trait_error_estimate"}, set()),
    (WrongErrorOrder, {"error_order"}, set()),
    (SpoiltBatch, LANES, None),
    (NoEstimate, {"error_order"}, {"lanes_failure", "nan_solve"}),
    (Diverging, ORDERS | ORDERS_IN_TIME, None),
    (WrongDense, {"dense_order"}, set()),
    (InPlace, {"purity"}, {"interleaved", "gradcheck", "traced", "lanes_solve", "lanes_failure"}),
    (ReadsBack, {"traced"}, set()),
    (Detached, {"gradcheck"}, set()),
    (HidesNaN, {"nan_step", "nan_solve"}, {"lanes_failure"}),
    (SinglePrecision, {"dtypes", "gradcheck"}, None),
]


def suite(solver: type[Solver]) -> SolverConformance:
    class Suite(SolverConformance):
        def make(self):
            return solver()

    return Suite()


@pytest.mark.parametrize("solver", [Heun, ReversibleHeun, Leapfrog], ids=lambda s: s.__name__)
def test_right_solver_passes(solver):
    results = suite(solver).run()
    assert {r.check: r.detail for r in results if not r.passed} == {}
    assert sum(r.applies for r in results) >= 8


def test_claims_of_right_solvers_are_measured():
    for solver, check in (
        (ReversibleHeun, "trait_reversible"),
        (Leapfrog, "trait_reversible"),
        (Leapfrog, "trait_symplectic"),
        (ImplicitMidpoint, "trait_symplectic"),
        (ImplicitMidpoint, "trait_implicit"),
    ):
        [result] = suite(solver).run(check)
        assert result.passed, (solver, check, result.detail)
        assert result.applies
        assert result.figure


@pytest.mark.parametrize(("solver", "must", "may"), WRONG, ids=[w[0].__name__ for w in WRONG])
def test_wrong_solver_fails_where_it_is_wrong(solver, must, may):
    failed = {result.check for result in suite(solver).run() if not result.passed}
    assert must <= failed
    if may is not None:
        assert failed <= must | may


def test_messages_name_what_was_measured():
    [result] = suite(WrongNode).run("order_time_dependent")
    assert result.figure.startswith("slope 1.")
    assert "claims order 3" in result.detail
    [result] = suite(MemoryOnSelf).run("purity")
    assert "Step.state" in result.detail
    with pytest.raises(ConformanceError, match="claims order 3") as raised:
        suite(WrongNode).test_order_time_dependent()
    assert raised.value.figure.startswith("slope 1.")
    assert isinstance(raised.value, AssertionError)
    assert isinstance(raised.value, odekit.OdekitError)


def test_what_is_not_claimed_is_skipped():
    with pytest.raises(NotApplicable, match="REVERSIBLE is not claimed"):
        suite(Heun).test_trait_reversible()
    [result] = suite(Heun).run("trait_reversible")
    assert result.passed
    assert not result.applies


def test_a_solver_that_raises_is_a_result():
    class Raises(Heun):
        def step(self, field, t, h, y, state):
            raise RuntimeError("first line\nsecond line")

    [result] = suite(Raises).run("shapes")
    assert not result.passed
    assert result.detail == "RuntimeError: first line"
