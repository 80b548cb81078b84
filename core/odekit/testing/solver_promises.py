"""What every solver promises beside its order: dtypes, shapes, purity, tracing, gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from odekit.solver import Solver, Trait
from odekit.testing.attempts import (
    attempt,
    coupled,
    elementwise,
    four_lanes,
    real_dtype,
    rounding,
    unrestricted,
)
from odekit.testing.cases import DOUBLE
from odekit.testing.conformance import (
    Conformance,
    ConformanceError,
    check,
    require,
    require_close,
)
from odekit.testing.convergence import clock, distance, largest, leaves, same, snapshot

SHAPES: tuple[tuple[int, ...], ...] = ((), (3,), (2, 3), (2, 3, 4))


class PromiseChecks(Conformance):
    """Everything that does not depend on the method behind the step."""

    @check
    def test_declarations(self) -> str:
        """Order, traits and protocol are declared with the right types."""
        solver = self.make()
        require(isinstance(solver, Solver), f"{type(solver).__name__} is not an odekit.Solver")
        for name in ("order", "error_order", "dense_order"):
            value = getattr(solver, name, None)
            require(
                type(value) is int and value >= 1,
                f"{name} must be a positive integer on the class, got {value!r}",
            )
        require(isinstance(solver.traits, Trait), f"traits must be a Trait, got {solver.traits!r}")
        require(
            isinstance(solver.field_type, type),
            f"field_type must be a protocol, got {solver.field_type!r}",
        )
        return f"order {solver.order}"

    @check
    def test_dtypes(self) -> str:
        """Every dtype of the state is kept, in the proposal, its error and dense output."""
        solver = unrestricted(self.make())
        dtypes = [torch.float32, torch.float64]
        if Trait.IMPLICIT not in solver.traits:
            dtypes += [torch.complex64, torch.complex128]
        for dtype in dtypes:
            start = torch.tensor([[0.4, 0.9], [0.7, 0.2]], dtype=dtype)
            for y, t, h in (
                (start, clock(0.1), 0.05),
                (
                    start,
                    torch.full((2, 1), 0.1, dtype=DOUBLE),
                    _column(0.05, 2).to(real_dtype(dtype)),
                ),
            ):
                step, inside = attempt(solver, elementwise, t, h, y)
                found = [step.y, inside, *step.dense, *([] if step.error is None else [step.error])]
                for x in found:
                    require(
                        x.dtype == dtype and x.shape == y.shape,
                        f"a state of {dtype} and shape {tuple(y.shape)} comes back as {x.dtype} "
                        f"of shape {tuple(x.shape)}",
                    )
        return f"{len(dtypes)} dtypes"

    @check
    def test_shapes(self) -> str:
        """States of any shape, 0-d included, step like their entries one by one."""
        solver = unrestricted(self.make())
        worst = 0.0
        for shape in SHAPES:
            count = math.prod(shape)
            y = torch.linspace(0.3, 1.4, count, dtype=DOUBLE).reshape(shape)
            step, inside = attempt(solver, elementwise, clock(0.2), 0.1, y)
            alone = [
                attempt(solver, elementwise, clock(0.2), 0.1, entry) for entry in y.reshape(-1)
            ]
            for whole, parts in (
                (step.y, [one.y for one, _ in alone]),
                (inside, [mid for _, mid in alone]),
            ):
                require(
                    whole.shape == shape,
                    f"a state of shape {shape} comes back with shape {tuple(whole.shape)}",
                )
                worst = largest(worst, distance(whole, torch.stack(parts).reshape(shape)))
        return require_close(worst, rounding(solver), "states of several shapes")

    @check
    def test_purity(self) -> str:
        """A step writes nothing on the solver or its arguments; the same input, the same output."""
        solver = unrestricted(self.make())
        t, h, y = four_lanes()
        before, random = snapshot(vars(solver)), torch.get_rng_state()
        memory = solver.init(coupled, t, y)
        given = snapshot((t, h, y, memory))
        first = snapshot(solver.step(coupled, t, h, y, memory))
        require(same(given, (t, h, y, memory)), "the step changes its arguments in place")
        solver.step(elementwise, t + 1, 0.3 * h, 2 * y, solver.init(elementwise, t + 1, 2 * y))
        again = solver.step(coupled, t, h, y, memory)
        require(
            same(before, snapshot(vars(solver))),
            "the step writes on self; what a solver remembers belongs in Step.state",
        )
        require(same(first, snapshot(again)), "the same step gives another result the second time")
        require(
            torch.equal(random, torch.get_rng_state()), "the step draws from the global generator"
        )
        return ""

    @check
    def test_interleaved(self) -> str:
        """Two solves that take turns on one solver do not disturb one another."""
        shared = unrestricted(self.make())
        starts = [torch.tensor(y, dtype=DOUBLE) for y in ([0.4, 0.9], [-0.7, 0.2])]
        apart = [_several(self.make(), y) for y in starts]
        runs = [_Run(shared, y) for y in starts]
        for _ in range(5):
            for run in runs:
                run.advance()
        require(
            all(same(run.y, y) for run, y in zip(runs, apart, strict=True)),
            "two solves that take turns on one solver get other values than apart",
        )
        return ""

    @check
    def test_traced(self) -> str:
        """The step is traced whole by ``torch.compile``, without a graph break."""
        solver = unrestricted(self.make())
        t, h, y = four_lanes()

        def one_step(t: Tensor, h: Tensor, y: Tensor) -> Any:
            step = solver.step(coupled, t, h, y, solver.init(coupled, t, y))
            return step.y, step.error, step.dense

        torch.compiler.reset()
        try:
            traced = torch.compile(one_step, fullgraph=True, backend="eager", dynamic=False)(
                t, h, y
            )
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ConformanceError(
                f"torch.compile(fullgraph=True) cannot trace the step: {(lines or [''])[0]}"
            ) from error
        finally:
            torch.compiler.reset()
        eager = one_step(t, h, y)
        pairs = zip(leaves(traced), leaves(eager), strict=True)
        worst = largest(*(distance(a, b) for a, b in pairs))
        return require_close(worst, rounding(solver), "the traced step and the step")

    @check
    def test_gradcheck(self) -> str:
        """Gradients of a step, of state, parameter, time and length, agree with differences."""
        solver = unrestricted(self.make())
        t, h, y = (x[:2].clone().requires_grad_() for x in four_lanes())
        p = torch.tensor([0.8, 1.3], dtype=DOUBLE, requires_grad=True)

        def lanes(t: Tensor, h: Tensor, y: Tensor, p: Tensor) -> Any:
            return _outputs(solver, lambda t, y: p * coupled(t, y), t, h, y)

        def shared(y: Tensor, p: Tensor) -> Any:
            return _outputs(solver, lambda t, y: p * coupled(t, y), clock(0.3), 0.1, y)

        for function, inputs in ((lanes, (t, h, y, p)), (shared, (y, p))):
            try:
                torch.autograd.gradcheck(function, inputs)
            except RuntimeError as error:
                raise ConformanceError(
                    f"gradcheck of a {function.__name__} step: {str(error).splitlines()[0]}"
                ) from error
        return ""

    @check
    def test_nan_step(self) -> str:
        """A field that returns NaN or infinity gives a proposal that shows it, and no exception."""
        solver = unrestricted(self.make())
        t, h, y = four_lanes()
        for value in (math.nan, math.inf):
            for time, length, state in ((t, h, y), (clock(0.1), 0.1, y[0])):
                step, _ = attempt(
                    solver, lambda t, y, v=value: torch.full_like(y, v), time, length, state
                )
                failed = step.failed is not None and bool(step.failed.all())
                require(
                    failed or not bool(torch.isfinite(step.y).any()),
                    f"a field that returns {value} gives a finite proposal",
                )
        return ""


def _column(value: float, lanes: int) -> Tensor:
    return torch.full((lanes, 1), value, dtype=DOUBLE)


def _outputs(solver: Solver, field: Any, t: Tensor, h: Any, y: Tensor) -> tuple[Tensor, ...]:
    step, inside = attempt(solver, field, t, h, y)
    return step.y, inside, *(x for x in step.dense if x.requires_grad)


class _Run:
    """A solve that can be interrupted."""

    def __init__(self, solver: Solver, y: Tensor) -> None:
        self.solver, self.y, self.i = solver, y, 0
        self.state = solver.init(coupled, clock(0.0), y)

    def advance(self) -> None:
        step = self.solver.step(coupled, clock(0.1 * self.i), 0.1, self.y, self.state)
        self.y, self.state, self.i = step.y, step.state, self.i + 1


def _several(solver: Solver, y: Tensor) -> Tensor:
    run = _Run(solver, y)
    for _ in range(5):
        run.advance()
    return run.y
