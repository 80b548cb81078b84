"""The checks of a post-processor: fields whose equations are known."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odekit.equations import Equations
from odekit.errors import DiscoveryError, ProblemError
from odekit.solution import Solution
from odekit.solve import solve
from odekit.testing.cases import DOUBLE
from odekit.testing.conformance import (
    Conformance,
    ConformanceError,
    NotApplicable,
    check,
    require,
    require_close,
)

ALLOWED = 1e-3
"""How far the slopes of the equations may be from the field's, relative to their size."""


class PostProcessorConformance(Conformance):
    """Everything a post-processor promises. Subclass it and say in ``make`` how to build it."""

    @check
    def test_linear(self) -> str:
        """A linear field is written down to a thousandth."""
        return self._recovered(_spring, [[2.0, 0.0], [-1.0, 1.5]])

    @check
    def test_polynomial(self) -> str:
        """A field of second degree is written down to a thousandth."""
        return self._recovered(_predators, [[3.0, 1.0], [1.0, 2.0]])

    @check
    def test_single_solution(self) -> str:
        """One solution is enough where it visits enough."""
        return self._recovered(_spring, [[2.0, 0.0]])

    @check
    def test_names(self) -> str:
        """States are called what the caller calls them, where ``names`` is an option."""
        maker = type(self.make())
        if "names" not in inspect.signature(maker).parameters:
            raise NotApplicable("it has no option names")
        equations = maker(names=["angle", "speed"]).process(
            _spring, _solutions(_spring, [[2.0, 0.0]])
        )
        require(
            tuple(equations.names) == ("angle", "speed") and "speed" in str(equations),
            f"names=['angle', 'speed'] gives {equations.names}: {equations}",
        )
        return ", ".join(equations.names)

    @check
    def test_repeatable(self) -> str:
        """The same solutions give the same equations."""
        solutions = _solutions(_spring, [[2.0, 0.0]])
        first, second = (self.make().process(_spring, solutions) for _ in range(2))
        require(str(first) == str(second), f"first {first}, then {second}")
        return ""

    @check
    def test_refuses_nothing(self) -> str:
        """Without a solution it says so in an error of its own."""
        return self._refused([], "no solution")

    @check
    def test_refuses_lost_rows(self) -> str:
        """Of a solution that was lost at its first step it says so in an error of its own."""
        lost = solve(
            lambda t, y: y * torch.nan, torch.ones(2, dtype=DOUBLE), [0.0, 1.0, 2.0], throw=False
        )
        return self._refused([lost], "a solution without rows")

    def _refused(self, solutions: list[Solution], what: str) -> str:
        try:
            found = self.make().process(_spring, solutions)
        except (DiscoveryError, ProblemError) as error:
            return type(error).__name__
        except Exception as error:
            raise ConformanceError(
                f"{what} ends in {type(error).__name__}: {error}; raise DiscoveryError"
            ) from error
        raise ConformanceError(f"{what} gives equations: {found}")

    def _recovered(self, field: Callable[[Tensor, Tensor], Tensor], starts: Any) -> str:
        solutions = _solutions(field, starts)
        equations = self.make().process(field, solutions)
        require(isinstance(equations, Equations), f"process gives {type(equations).__name__}")
        require(len(equations.names) == 2, f"two states come back as {equations.names}")
        points = torch.cat([solution.y for solution in solutions])
        t = torch.tensor(0.0, dtype=DOUBLE)
        wanted = field(t, points)
        found = equations.field()(t, points).detach()
        error = float((found - wanted).norm() / wanted.norm())
        return require_close(error, ALLOWED, f"slopes of\n{equations}\nrelative to the field's")


def _spring(t: Tensor, y: Tensor) -> Tensor:
    x, v = y[..., 0], y[..., 1]
    return torch.stack([v, -2.0 * x - 0.3 * v], -1)


def _predators(t: Tensor, y: Tensor) -> Tensor:
    x, z = y[..., 0], y[..., 1]
    return torch.stack([x - 0.5 * x * z, 0.25 * x * z - 0.75 * z], -1)


def _solutions(field: Any, starts: Any) -> list[Solution]:
    t = torch.linspace(0.0, 8.0, 161, dtype=DOUBLE)
    return [solve(field, torch.tensor(y0, dtype=DOUBLE), t, rtol=1e-9, atol=1e-11) for y0 in starts]
