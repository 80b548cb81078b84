"""What a gradient method is: a solve, plus the calculus that differentiates it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from odekit.problem import Integrate, Problem, Trajectory
from odekit.solver import Trait


class GradientMethod(ABC):
    """Solve a problem so that gradients can flow back through it.

    Attributes:
        solver_needs: traits without which the method cannot work.
        solver_advice: what to type where the solver lacks them.
        for_few: whether its cost grows with how many numbers ask for gradients.
    """

    solver_needs: ClassVar[Trait] = Trait.NONE
    solver_advice: ClassVar[str] = "another solver"
    at_rest: ClassVar[bool] = False
    for_few: ClassVar[bool] = False

    @abstractmethod
    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """The trajectory of ``problem``, attached to the graph in the method's own way.

        Args:
            problem: what to solve; its ``y0``, ``t`` and ``params`` are what gradients reach.
            integrate: the engine. It may be called as often as needed, on changed problems.
        """
