"""The checks of a gradient method, against central differences in double precision."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch import Tensor

from odekit.solve import solve
from odekit.testing.cases import DOUBLE
from odekit.testing.conformance import (
    Conformance,
    NotApplicable,
    check,
    require,
    require_close,
)
from odekit.testing.convergence import largest
from odekit.testing.gradient_cases import Linear, gradient_case, truth

ALLOWED = 1e-6
"""How far a gradient may be from the differences, relative to its own norm."""


class GradientConformance(Conformance):
    """Everything a gradient method promises.

    Subclass it and say in ``make`` how to build the method.

    Attributes:
        solver: name of the solver to differentiate through; a method that asks for a trait
            names one that has it.
        options: more options of ``solve``, such as ``step_size``.
    """

    solver: str = "tsit5"
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed

    @check
    def test_linear(self) -> str:
        """Start, weight and times of a linear field, shared step size."""
        return self._compare("linear")

    @check
    def test_linear_per_sample(self) -> str:
        """Start, weight and times of a linear field, steps per sample."""
        return self._compare("linear", per_sample=True)

    @check
    def test_time_dependent(self) -> str:
        """Start, parameters and times of a nonlinear field that depends on time, shared."""
        return self._compare("time_dependent")

    @check
    def test_time_dependent_per_sample(self) -> str:
        """Start, parameters and times of a nonlinear field that depends on time, per sample."""
        return self._compare("time_dependent", per_sample=True)

    @check
    def test_pytree(self) -> str:
        """A state that is a dict, with args that are a tuple, shared step size."""
        return self._compare("pytree")

    @check
    def test_pytree_per_sample(self) -> str:
        """A state that is a dict, with args that are a tuple, steps per sample."""
        return self._compare("pytree", per_sample=True)

    @check
    def test_times_per_sample(self) -> str:
        """Samples with output times and start times of their own."""
        return self._compare("times_per_sample", per_sample=True)

    @check
    def test_complex(self) -> str:
        """Complex states with a dict of args, shared step size."""
        return self._compare("complex")

    @check
    def test_complex_per_sample(self) -> str:
        """Complex states with a dict of args, steps per sample."""
        return self._compare("complex", per_sample=True)

    @check
    def test_unused_parameters(self) -> str:
        """A parameter without effect gets no gradient, or zero; the others get theirs."""
        field = Linear(torch.eye(2, dtype=DOUBLE).requires_grad_())
        y0 = torch.ones(3, 2, dtype=DOUBLE)
        self._solve(field, y0, [0.0, 0.5]).y.sum().backward()
        grad = field.unused.grad
        require(grad is None or not bool(grad.any()), f"a parameter without effect gets {grad}")
        require(field.weight.grad is not None, "the weight of the field gets no gradient")
        return ""

    @check
    def test_dtypes(self) -> str:
        """Gradients have the dtype and the shape of what they belong to."""
        weight = torch.eye(2).requires_grad_()
        y0 = torch.ones(3, 2).requires_grad_()
        t = torch.tensor([0.0, 0.5], dtype=DOUBLE).requires_grad_()
        self._solve(Linear(weight), y0, t, rtol=1e-4, atol=1e-6).y.sum().backward()
        for name, x in (("y0", y0), ("weight", weight), ("t", t)):
            require(
                x.grad is not None and x.grad.dtype == x.dtype and x.grad.shape == x.shape,
                f"the gradient of {name}, {x.dtype}, is {None if x.grad is None else x.grad.dtype}",
            )
        return ""

    @check
    def test_repeatable(self) -> str:
        """The same solve twice gives the same gradients bit for bit."""
        self._require_motion()
        case = gradient_case("time_dependent", per_sample=True)
        method = self.make()
        first, second = (case.gradients(self.solver, method, **self.options) for _ in range(2))
        require(
            all(torch.equal(first[name], second[name]) for name in first),
            "the same solve gives other gradients the second time",
        )
        return ""

    @check
    def test_no_grad(self) -> str:
        """Where no gradient is asked for, nothing is recorded and the values are the same."""
        field = Linear(torch.eye(2, dtype=DOUBLE))
        y0 = torch.ones(3, 2, dtype=DOUBLE)
        with torch.no_grad():
            quiet = self._solve(field, y0.clone().requires_grad_(), [0.0, 0.5]).y
        require(not quiet.requires_grad, "under no_grad the solution carries a graph")
        recorded = self._solve(field, y0.clone().requires_grad_(), [0.0, 0.5]).y
        require(recorded.requires_grad, "the solution is not attached to its start")
        return require_close(
            float((recorded.detach() - quiet).abs().max()), 1e-12, "values with and without a graph"
        )

    @check
    def test_nothing_kept_alive(self) -> str:
        """Once solution and loss are gone, so are the field, the start and the method."""
        field, method = Linear(torch.eye(2, dtype=DOUBLE).requires_grad_()), self.make()
        y0 = torch.ones(3, 2, dtype=DOUBLE, requires_grad=True)
        solution = self._solve(field, y0, [0.0, 0.5], method=method)
        solution.y.sum().backward()
        watched: dict[str, weakref.ref[Any]] = {
            "field": weakref.ref(field),
            "start": weakref.ref(y0),
            "method": weakref.ref(method),
        }
        del field, y0, solution, method
        gc.collect()
        alive = [name for name, reference in watched.items() if reference() is not None]
        require(not alive, f"kept alive after the solve: {', '.join(alive)}")
        return ""

    @check
    def test_failed_samples(self) -> str:
        """A sample that blows up does not spoil the gradients of the others."""

        def run(starts: list[list[float]]) -> tuple[Tensor, Tensor]:
            y0 = torch.tensor(starts, dtype=DOUBLE, requires_grad=True)
            rate = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
            solution = self._solve(
                lambda t, y: rate * y * y,
                y0,
                [0.0, 0.5, 1.0],
                per_sample=True,
                throw=False,
                max_steps=400,
            )
            loss = solution.y[:, 0].square().sum()
            a, b = torch.autograd.grad(loss, (y0, rate))
            return a[0], b

        beside, alone = run([[0.5], [5.0]]), run([[0.5]])
        gaps = (float(((a - b) / b).abs().max()) for a, b in zip(beside, alone, strict=True))
        worst = largest(*gaps)
        return require_close(worst, ALLOWED, "gradients beside a sample that blows up")

    @check
    def test_rest(self) -> str:
        """Start, parameters and times of a balance that has come to rest, shared step size."""
        return self._compare_rest(per_sample=False)

    @check
    def test_rest_per_sample(self) -> str:
        """Start, parameters and times of a balance that has come to rest, steps per sample."""
        return self._compare_rest(per_sample=True)

    def _compare_rest(self, *, per_sample: bool) -> str:
        """``y' = a - b y^2`` rests at ``sqrt(a / b)``."""
        if not self.make().at_rest:
            raise NotApplicable("it differentiates the whole solve, and not only its end")
        a, b = (torch.tensor(x, dtype=DOUBLE, requires_grad=True) for x in (1.8, 0.7))
        y0 = torch.tensor([[1.0], [2.0]], dtype=DOUBLE, requires_grad=True)
        t = torch.tensor([0.0, 30.0], dtype=DOUBLE, requires_grad=True)
        end = self._solve_any(lambda t, y: a - b * y * y, y0, t, per_sample=per_sample).y[-1].mean()
        found = torch.autograd.grad(end, (a, b, y0, t), allow_unused=True)
        root = (a / b).sqrt().detach()
        want = (
            0.5 * root / a.detach(),
            -0.5 * root / b.detach(),
            torch.zeros_like(y0),
            torch.zeros_like(t),
        )
        gaps = (
            float((w if g is None else g - w).abs().max()) for g, w in zip(found, want, strict=True)
        )
        return require_close(largest(*gaps), ALLOWED, "the gradient of a point of rest")

    def _require_motion(self) -> None:
        if self.make().at_rest:
            raise NotApplicable("it differentiates only the end of a solve that is at rest")

    def _compare(self, name: str, per_sample: bool = False) -> str:
        self._require_motion()
        case = gradient_case(name, per_sample)
        found = case.gradients(self.solver, self.make(), **self.options)
        errors = {
            key: float((found[key] - wanted).norm() / wanted.norm())
            for key, wanted in truth(name, per_sample).items()
        }
        error = largest(*errors.values())
        worst = next(key for key in errors if errors[key] == error or errors[key] != errors[key])
        return require_close(
            error, ALLOWED, f"the gradient of {worst} (relative to central differences)"
        )

    def _solve(self, field: Any, y0: Tensor, t: Any, method: Any = None, **options: Any) -> Any:
        self._require_motion()
        return self._solve_any(field, y0, t, method, **options)

    def _solve_any(self, field: Any, y0: Tensor, t: Any, method: Any = None, **options: Any) -> Any:
        given: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10, **self.options, **options}
        return solve(field, y0, t, solver=self.solver, gradient=method or self.make(), **given)
