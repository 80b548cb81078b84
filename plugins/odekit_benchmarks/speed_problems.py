"""The problems of the speed benchmark: fields, starts, times, tolerances, and a tight reference.

Four problems are fixed: Van der Pol oscillators of growing stiffness (P1, solved with one step
size for all or with one for each), a small and a large neural ODE with its gradient (P2, P3) and
one long chaotic solve (P4). ``named`` is any system of the registry from 64 starts, to see that
the figures are not those of four problems that were tuned for. The memory of the backward pass
(P5) is in `odekit_benchmarks.speed_memory`.

Shapes: a start is ``(batch, dim)``, in P4 ``(3,)``; rows come time first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import odekit
from odekit import ProblemError, UnknownNameError

SYSTEM = "fitzhugh_nagumo"
STARTS = 64
REFERENCE = "dopri8"

Right = Callable[[Any, Any, Any, Any], Any]
"""``right(xp, t, y, args)``: the field in the array package ``xp``, for peers without torch."""


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes:
        name: what it is called on the command line.
        title: what it is, in words.
        field: ``(t, y)`` to ``dy/dt``.
        exact_field: the same in float64.
        right: the same for packages other than torch.
        args: arrays that ``right`` is given.
        y0: start.
        t: output times ``(n,)``.
        tolerance: relative and absolute.
        max_steps: attempts allowed.
        target: rows that a training step fits by least squares; None for a forward solve.
        per_sample: a step size for each sample.
        judged: output times of the solve that is compared with the reference, where that is not
            the one that is timed.
        plain: the field as a function of floats and lists of them.
    """

    name: str
    title: str
    field: Callable[..., Tensor]
    exact_field: Callable[..., Tensor]
    right: Right
    args: Any
    y0: Tensor
    t: Tensor
    tolerance: float
    max_steps: int
    target: Tensor | None = None
    per_sample: bool = False
    judged: Tensor | None = None
    plain: Callable[[float, Any], list[float]] | None = None

    @property
    def parameters(self) -> list[Tensor]:
        """What a training step differentiates by."""
        return list(self.field.parameters()) if isinstance(self.field, nn.Module) else []

    def loss(self, y: Tensor) -> Tensor:
        """Mean square of the distance to the target."""
        if self.target is None:
            raise ProblemError(f"{self.name} is a forward problem: it has no loss")
        return (y - self.target).square().mean()

    def reference(self) -> Tensor:
        """Rows, or the flat gradient, in float64 at tolerances of 1e-10 or tighter."""
        tight = min(1e-10, 1e-4 * self.tolerance)
        t = (self.t if self.judged is None else self.judged).double()
        options: dict[str, Any] = {"rtol": tight, "atol": tight, "max_steps": 10**6}
        y0 = self.y0.double()
        if self.target is None:
            with torch.no_grad():
                rows: Tensor = odekit.solve(self.exact_field, y0, t, solver=REFERENCE, **options).y
                return rows
        exact = self.exact_field
        if not isinstance(exact, nn.Module):
            raise ProblemError(f"{self.name}: a field that is trained is a module")
        solution = odekit.solve(exact, y0, t, solver=REFERENCE, gradient="discrete", **options)
        loss = replace(self, target=self.target.double()).loss(solution.y)
        return flat(torch.autograd.grad(loss, list(exact.parameters())))


def flat(tensors: Any) -> Tensor:
    """Tensors in one row."""
    return torch.cat([x.detach().reshape(-1) for x in tensors])


class Network(nn.Module):
    """A field without time: a network with tanh between its layers."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Slope ``(batch, dim)``."""
        return self.net(y)  # type: ignore[no-any-return]


def van_der_pol(mu: Tensor) -> Callable[[Any, Tensor], Tensor]:
    """The field of oscillators with a stiffness each."""

    def slope(t: Any, y: Tensor) -> Tensor:
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)

    return slope


def lorenz(t: Any, y: Tensor) -> Tensor:
    """The field of the Lorenz system."""
    x, v, z = y[..., 0], y[..., 1], y[..., 2]
    return torch.stack([10 * (v - x), x * (28 - z) - v, x * v - (8 / 3) * z], -1)


def oscillators(device: torch.device, *, per_sample: bool) -> Case:
    """P1: 256 Van der Pol oscillators, 200 output times."""
    torch.manual_seed(0)
    mu = torch.linspace(2, 10, 256)
    y0 = torch.randn(256, 2) * 0.5 + torch.tensor([2.0, 0.0])

    def right(xp: Any, t: Any, y: Any, args: Any) -> Any:
        x, v = y[..., 0], y[..., 1]
        return xp.stack([v, args * (1 - x * x) * v - x], -1)

    steps = "a step size for each" if per_sample else "one step size"
    return Case(
        name="P1-per-sample" if per_sample else "P1",
        title=f"256 Van der Pol oscillators, {steps}, 200 times",
        field=van_der_pol(mu.to(device)),
        exact_field=van_der_pol(mu.double().to(device)),
        right=right,
        args=mu.numpy(),
        y0=y0.to(device),
        t=torch.linspace(0, 10, 200).to(device),
        tolerance=1e-5,
        max_steps=4096,
        per_sample=per_sample,
    )


def training(device: torch.device, *, large: bool) -> Case:
    """P2 and P3: the gradient of a neural ODE with two hidden layers."""
    dim, width, batch, rows, end = (64, 512, 512, 10, 1.0) if large else (2, 64, 128, 30, 10.0)
    torch.manual_seed(0)
    net = Network(dim, width, width, dim)
    if not large:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(2.0)
    y0, target = torch.randn(batch, dim), torch.randn(rows, batch, dim) * 0.5
    exact = Network(dim, width, width, dim).double()
    exact.load_state_dict(net.state_dict())
    return Case(
        name="P3" if large else "P2",
        title=f"training step of a network {dim}-{width}-{width}-{dim}, batch {batch}",
        field=net.to(device),
        exact_field=exact.to(device),
        right=network,
        args=[p.detach().cpu().numpy().copy() for p in net.parameters()],
        y0=y0.to(device),
        t=torch.linspace(0, end, rows).to(device),
        tolerance=1e-5,
        max_steps=256,
        target=target.to(device),
    )


def network(xp: Any, t: Any, y: Any, args: Any) -> Any:
    """`Network` outside torch; ``args`` are weights and biases in turn."""
    last = len(args) // 2 - 1
    for i in range(last + 1):
        y = y @ args[2 * i].T + args[2 * i + 1]
        if i < last:
            y = xp.tanh(y)
    return y


def chaos(device: torch.device, end: float = 100.0) -> Case:
    """P4: the Lorenz system, final state only."""

    def right(xp: Any, t: Any, y: Any, args: Any) -> Any:
        a, b, c = y[..., 0], y[..., 1], y[..., 2]
        return xp.stack([10 * (b - a), a * (28 - c) - b, a * b - (8 / 3) * c], -1)

    def plain(t: float, y: Any) -> list[float]:
        a, b, c = y
        return [10 * (b - a), a * (28 - c) - b, a * b - (8 / 3) * c]

    return Case(
        name="P4",
        title=f"Lorenz system to t = {end:g}, final state only, error at t = 10",
        field=lorenz,
        exact_field=lorenz,
        right=right,
        args=(),
        y0=torch.ones(3, dtype=torch.float64, device=device),
        t=torch.tensor([0.0, end], dtype=torch.float64, device=device),
        tolerance=1e-9,
        max_steps=100_000,
        # Chaos makes an error at the end meaningless.
        judged=torch.tensor([0.0, 10.0], dtype=torch.float64, device=device),
        plain=plain,
    )


def named(device: torch.device, name: str = SYSTEM) -> Case:
    """A system of the registry from 64 starts within ten per cent of its own.

    Raises:
        ProblemError: there is no such system.
    """
    try:
        system = odekit.create("system", name)
    except UnknownNameError as error:
        raise ProblemError(str(error)) from None
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(STARTS, len(system.names), generator=generator, dtype=torch.float64)
    start = system.y0 * (0.9 + 0.2 * spread)
    module = system.field().to(device)
    first, last = system.span
    return Case(
        name="named",
        title=f"{name} from {STARTS} starts, 100 times",
        field=module,
        exact_field=module,
        right=_written_out(system),
        args=(),
        y0=start.to(device),
        t=torch.linspace(first, last, 100, dtype=torch.float64, device=device),
        tolerance=1e-6,
        max_steps=100_000,
    )


def _written_out(system: Any) -> Right:
    """The right-hand sides from sympy, compiled for an array package when first asked for."""
    import sympy

    symbols = [sympy.Symbol("t"), *map(sympy.Symbol, system.names)]
    known = {str(s): s for e in system.sympy().values() for s in e.free_symbols}
    symbols = [known.get(str(s), s) for s in symbols]
    made: dict[str, Any] = {}

    def right(xp: Any, t: Any, y: Any, args: Any) -> Any:
        package = "numpy" if xp is np else "jax"
        if package not in made:
            made[package] = sympy.lambdify(symbols, list(system.sympy().values()), package)
        parts = [y[..., i] for i in range(len(system.names))]
        return xp.stack([part + 0 * parts[0] for part in made[package](t, *parts)], -1)

    return right
