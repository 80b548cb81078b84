"""A controller that looks at a part of the state, and steps as if there were nothing else.

What travels along with a state must not change its steps: not by its error, nor by its size, from
which a first step is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, final

from torch import Tensor

from odekit import Decision, FlatField, Solver, StepController


@final
class Beheld(StepController):
    """The decisions of another controller about a part of the state.

    Args:
        inner: decides; its tolerances are bound.
        split: a state to the part that is seen, and to what travels along.
        join: the two to the state.
    """

    def __init__(
        self,
        inner: StepController,
        split: Callable[[Tensor], tuple[Tensor, Tensor]],
        join: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.inner, self.split, self.join = inner, split, join
        self.step_times, self.jump_times = inner.step_times, inner.jump_times
        self.stretch = inner.stretch
        self.solver_needs = inner.solver_needs  # type: ignore[misc]

    def with_tolerances(self, rtol: Any, atol: Any) -> Self:
        """Itself: the tolerances have been bound."""
        return self

    def init(
        self, solver: Solver, field: FlatField, t: Tensor, y: Tensor, span: Tensor
    ) -> tuple[Any, Any]:
        """The first step of the inner controller, which calls the field on its part."""
        seen, rest = self.split(y)

        def part(at: Tensor, here: Tensor) -> Tensor:
            # The very tensors that were handed in are recognised, and cost no evaluation.
            return self.split(field(at, y if here is seen else self.join(here, rest)))[0]

        return self.inner.init(solver, part, t, seen, span)

    def decide(
        self, solver: Solver, h: Any, y0: Tensor, y1: Tensor, error: Tensor | None, state: Any
    ) -> Decision:
        """What the inner controller says of its part."""
        part = None if error is None else self.split(error)[0]
        return self.inner.decide(solver, h, self.split(y0)[0], self.split(y1)[0], part, state)
