"""Every gradient method on every kind of solver, field and step: against central differences.

Unrolled differentiation is held against fourth-order differences of the loss, and every other
method against unrolled: to rounding where it is exact, to the tolerance where it is not.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit

DOUBLE = torch.float64
RTOL = 1e-9
EXACT = {"checkpointed": 1e-12, "discrete": 1e-12, "forward": 1e-12, "reversible": 1e-9}
CONTINUOUS = {"adjoint": 100 * RTOL, "interpolated": 100 * RTOL}

SOLVERS: dict[str, dict[str, Any]] = {
    "tsit5": {},
    "dopri8": {},
    "rk4": {"step_size": 0.05},
    "midpoint": {"step_size": 0.05},
}
MODES = {"shared": False, "per sample": True}


class Network(nn.Module):
    """A small network that sees time."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.inner = nn.Parameter(0.6 * torch.randn(3, 4, generator=generator, dtype=DOUBLE))
        self.outer = nn.Parameter(0.6 * torch.randn(4, 2, generator=generator, dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        clock = t.reshape(-1, 1).expand(*y.shape[:-1], 1)
        return torch.tanh(torch.cat([y, clock], -1) @ self.inner) @ self.outer


class Linear(nn.Module):
    """Rotation and decay."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([[-0.2, 1.1], [-0.9, -0.1]], dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.rates.T


class Energy(nn.Module):
    """A Hamiltonian field: it calls autograd itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(1.3, dtype=DOUBLE))
        self.quartic = nn.Parameter(torch.tensor(0.2, dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            z = y if y.requires_grad else y.detach().requires_grad_()
            q, p = z.unbind(-1)
            energy = (0.5 * p**2 + 0.5 * self.stiffness * q**2 + self.quartic * q**4).sum()
            (slope,) = torch.autograd.grad(energy, z, create_graph=True)
        force, velocity = slope.unbind(-1)
        return torch.stack([velocity, -force], -1)


FIELDS: dict[str, type[nn.Module]] = {"network": Network, "linear": Linear, "energy": Energy}


def loss(field: nn.Module, y0: Tensor, t: Tensor, solver: str, mode: str, gradient: Any) -> Tensor:
    chosen: Any = solver
    if gradient == "reversible" or isinstance(gradient, tuple):
        chosen = odekit.create("solver", "reversible", solver=solver)
        gradient = gradient[1] if isinstance(gradient, tuple) else gradient
    solution = odekit.solve(
        field,
        y0,
        t,
        solver=chosen,
        gradient=gradient,
        rtol=RTOL,
        atol=1e-2 * RTOL,
        per_sample=MODES[mode],
        **SOLVERS[solver],
    )
    weights = torch.arange(1.0, solution.y.numel() + 1, dtype=DOUBLE).cos()
    return (weights * solution.y.reshape(-1).square()).sum()


def inputs() -> tuple[Tensor, Tensor]:
    y0 = torch.tensor([[0.4, -0.2], [1.1, 0.3]], dtype=DOUBLE)
    return y0, torch.tensor([0.0, 0.4, 0.9, 1.5], dtype=DOUBLE)


@functools.cache
def gradient_of(field: str, solver: str, mode: str, gradient: Any) -> Tensor:
    y0, t = (x.requires_grad_() for x in inputs())
    made = FIELDS[field]()
    value = loss(made, y0, t, solver, mode, gradient)
    found = torch.autograd.grad(value, [y0, t, *made.parameters()])
    return torch.cat([x.reshape(-1) for x in found])


TIMES = slice(4, 8)
"""Where the output times stand in a gradient."""


def grid(*methods: str) -> Any:
    axes = (("mode", MODES), ("solver", SOLVERS), ("field", FIELDS), ("method", methods))

    def decorate(test: Any) -> Any:
        for name, values in axes:
            test = pytest.mark.parametrize(name, list(values))(test)
        return test

    return decorate


@grid("unrolled")
def test_unrolled_against_central_differences(
    method: str, field: str, solver: str, mode: str
) -> None:
    found, step = gradient_of(field, solver, mode, method), 2e-3
    y0, t = inputs()
    made = FIELDS[field]().requires_grad_(False)
    places = [(x, i) for x in (y0, t, *made.parameters()) for i in range(x.numel())]
    want = []
    with torch.no_grad():
        for x, i in places:
            before, values = float(x.view(-1)[i]), []
            for shift in (2, 1, -1, -2):
                x.view(-1)[i] = before + shift * step
                values.append(float(loss(made, y0, t, solver, mode, method)))
            x.view(-1)[i] = before
            want.append((8 * (values[1] - values[2]) - (values[0] - values[3])) / (12 * step))
    reference = torch.tensor(want, dtype=DOUBLE)
    if "step_size" in SOLVERS[solver]:
        # Moving a time changes the number of steps, which the gradient holds constant.
        apart = (found[TIMES] - reference[TIMES]).norm() / reference[TIMES].norm()
        assert float(apart) < 1e-2
        found = torch.cat([found[: TIMES.start], reference[TIMES], found[TIMES.stop :]])
    # Adaptive steps differ between the shifted solves, each right to about the tolerance.
    allowed = 1e-8 if "step_size" in SOLVERS[solver] else 1e-6
    assert float((found - reference).norm() / reference.norm()) < allowed


@grid(*EXACT)
def test_exact_methods(method: str, field: str, solver: str, mode: str) -> None:
    base: Any = ("reversible", "unrolled") if method == "reversible" else "unrolled"
    want = gradient_of(field, solver, mode, base)
    found = gradient_of(field, solver, mode, method)
    if method == "forward":  # the output times take the slope of the field: that of the true flow
        true = gradient_of(field, "dopri8", mode, "unrolled")[TIMES]
        truncation = float((want[TIMES] - true).norm() / true.norm())
        assert float((found[TIMES] - true).norm() / true.norm()) < max(10 * truncation, 100 * RTOL)
        found = torch.cat([found[: TIMES.start], want[TIMES], found[TIMES.stop :]])
    assert float((found - want).norm() / want.norm()) < EXACT[method]


@grid(*CONTINUOUS)
def test_continuous_methods(method: str, field: str, solver: str, mode: str) -> None:
    want = gradient_of(field, "dopri8", mode, "unrolled")
    found = gradient_of(field, solver, mode, method)
    # Fixed steps have no tolerance: there it is the error of the solver itself that counts.
    own = gradient_of(field, solver, mode, "unrolled")
    truncation = float((own - want).norm() / want.norm())
    allowed = 10 * truncation if "step_size" in SOLVERS[solver] else CONTINUOUS[method]
    assert float((found - want).norm() / want.norm()) < max(allowed, CONTINUOUS[method])
