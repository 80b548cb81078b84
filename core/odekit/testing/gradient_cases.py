"""Problems whose gradients are known from central differences, for gradient methods.

Each gives a loss as a function of named inputs: the start ``y0``, the parameters, ``args`` and
the output times ``t``, whose first entry is the start time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odekit.field import State
from odekit.gradient import GradientMethod
from odekit.solve import solve
from odekit.solver import Solver
from odekit.testing.cases import DOUBLE

RTOL, ATOL = 1e-10, 1e-12
REFERENCE = "dopri8"
"""The solver behind the differences; where another is tested the two check one another."""

STEP = 2e-3
"""Of the fourth-order central difference, whose own error is then below 1e-10."""

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class GradientCase:
    """An initial value problem with inputs that gradients must reach.

    Attributes:
        name: for the list of checks.
        inputs: names to start values; ``t`` and ``y0...`` among them.
        pose: inputs to ``(field, y0, args)``.
        per_sample: whether every sample has its own steps.
    """

    name: str
    inputs: Inputs
    pose: Callable[[Mapping[str, Tensor]], tuple[Any, State, Any]]
    per_sample: bool

    def loss(
        self,
        inputs: Mapping[str, Tensor],
        solver: str | Solver,
        gradient: str | GradientMethod,
        **options: Any,
    ) -> Tensor:
        """One number that depends on every row of the solution."""
        field, y0, args = self.pose(inputs)
        solution = solve(
            field,
            y0,
            inputs["t"],
            solver=solver,
            gradient=gradient,
            args=args,
            rtol=RTOL,
            atol=ATOL,
            per_sample=self.per_sample,
            **options,
        )
        rows = [torch.view_as_real(y) if y.is_complex() else y for y in _tensors(solution.y)]
        parts = []
        for leaf in rows:
            weights = torch.arange(1, leaf.numel() + 1, dtype=DOUBLE).cos().reshape(leaf.shape)
            parts.append((weights * (leaf + 0.3 * leaf.square())).sum())
        return torch.stack(parts).sum()

    def gradients(
        self, solver: str | Solver, gradient: str | GradientMethod, **options: Any
    ) -> Inputs:
        """The gradient of the loss by a method, None taken as zero."""
        inputs = {name: x.clone().requires_grad_() for name, x in self.inputs.items()}
        loss = self.loss(inputs, solver, gradient, **options)
        found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
        return {
            name: torch.zeros_like(x) if g is None else g
            for (name, x), g in zip(inputs.items(), found, strict=True)
        }

    @torch.no_grad()
    def differences(self) -> Inputs:
        """The gradient of the loss by central differences of fourth order."""
        return {name: self._difference(name) for name in self.inputs}

    def _difference(self, name: str) -> Tensor:
        start = self.inputs[name]
        flat = torch.view_as_real(start) if start.is_complex() else start
        result = torch.zeros_like(flat)
        for i in range(flat.numel()):
            values = []
            for shift in (2, 1, -1, -2):
                moved = flat.clone()
                moved.view(-1)[i] += shift * STEP
                value = torch.view_as_complex(moved) if start.is_complex() else moved
                loss = self.loss({**self.inputs, name: value}, REFERENCE, "unrolled")
                values.append(float(loss))
            far, near, back, opposite = values
            result.view(-1)[i] = (8 * (near - back) - (far - opposite)) / (12 * STEP)
        return torch.view_as_complex(result) if start.is_complex() else result


def gradient_case(name: str, per_sample: bool) -> GradientCase:
    """One of the five problems, by its name."""
    inputs, pose = _CASES[name]()
    return GradientCase(name, inputs, pose, per_sample)


@functools.cache
def truth(name: str, per_sample: bool) -> Inputs:
    """The differences of a problem, computed once per process."""
    return gradient_case(name, per_sample).differences()


def _linear() -> tuple[Inputs, Any]:
    """``y' = A y`` with ``A`` the weight of a module."""
    inputs = {
        "y0": _double([[1.0, 0.3], [-0.5, 0.8]]),
        "weight": _double([[-0.3, 1.1], [-0.9, 0.1]]),
        "t": _double([0.1, 0.6, 1.2]),
    }

    def pose(x: Mapping[str, Tensor]) -> tuple[Any, State, Any]:
        return Linear(x["weight"]), x["y0"], None

    return inputs, pose


def _time_dependent() -> tuple[Inputs, Any]:
    """``y' = p0 cos(t) y - p1 y^3``, the parameters captured by a function."""
    inputs = {
        "y0": _double([[1.0], [0.6]]),
        "p": _double([0.9, 0.4]),
        "t": _double([0.2, 0.7, 1.5]),
    }

    def pose(x: Mapping[str, Tensor]) -> tuple[Any, State, Any]:
        p = x["p"]

        def field(t: Tensor, y: Tensor) -> Tensor:
            return p[0] * _beside(t).cos() * y - p[1] * y**3

        return field, x["y0"], None

    return inputs, pose


def _pytree() -> tuple[Inputs, Any]:
    """A damped pendulum whose state is a dict and whose args are a tuple."""
    inputs = {
        "y0_angle": _double([[0.7], [1.4]]),
        "y0_speed": _double([[0.1], [-0.4]]),
        "stiffness": _double([2.0]),
        "damping": _double([0.3]),
        "t": _double([0.0, 0.5, 1.1]),
    }

    def pose(x: Mapping[str, Tensor]) -> tuple[Any, State, Any]:
        def field(t: Tensor, y: Any, args: Any) -> Any:
            angle, speed = y["angle"], y["speed"]
            return {"angle": speed, "speed": -args[0] * angle.sin() - args[1] * speed}

        state = {"angle": x["y0_angle"], "speed": x["y0_speed"]}
        return field, state, (x["stiffness"], x["damping"])

    return inputs, pose


def _times_per_sample() -> tuple[Inputs, Any]:
    """A forced oscillator, each sample with output times of its own."""
    inputs = {
        "y0": _double([[1.0, 0.0], [0.2, -0.7]]),
        "p": _double([1.3, 0.5]),
        "t": _double([[0.0, 0.4, 1.0], [0.3, 0.9, 1.6]]),
    }

    def pose(x: Mapping[str, Tensor]) -> tuple[Any, State, Any]:
        p = x["p"]

        def field(t: Tensor, y: Tensor) -> Tensor:
            position, speed = y[..., :1], y[..., 1:]
            force = p[1] * _beside(t).sin() - p[0] * position - 0.2 * position**3
            return torch.cat([speed, force], -1)

        return field, x["y0"], None

    return inputs, pose


def _complex() -> tuple[Inputs, Any]:
    """``z' = (i w - g |z|^2) z`` with complex states and a dict of args."""
    start = torch.tensor([[0.8 + 0.2j], [0.3 - 0.6j]], dtype=torch.complex128)
    inputs = {"y0": start, "w": _double([1.7]), "g": _double([0.4]), "t": _double([0.0, 0.4, 0.9])}

    def pose(x: Mapping[str, Tensor]) -> tuple[Any, State, Any]:
        def field(t: Tensor, z: Tensor, args: Any) -> Tensor:
            slope: Tensor = (1j * args["w"] - args["g"] * (z * z.conj()).real) * z
            return slope

        return field, x["y0"], {"w": x["w"], "g": x["g"]}

    return inputs, pose


_CASES: dict[str, Callable[[], tuple[Inputs, Any]]] = {
    "linear": _linear,
    "time_dependent": _time_dependent,
    "pytree": _pytree,
    "times_per_sample": _times_per_sample,
    "complex": _complex,
}


class Linear(nn.Module):
    """``y' = A y``; ``weight`` may be any tensor, and ``unused`` is a parameter without effect."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.unused = nn.Parameter(torch.ones(2, dtype=weight.dtype))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``(..., d)`` to ``(..., d)``."""
        slope: Tensor = y @ self.weight.mT
        return slope


def _double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def _beside(t: Tensor) -> Tensor:
    """``t`` so that it broadcasts against ``(samples, d)``."""
    return t[:, None] if t.dim() else t


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [
        x for part in (tree.values() if isinstance(tree, dict) else tree) for x in _tensors(part)
    ]
