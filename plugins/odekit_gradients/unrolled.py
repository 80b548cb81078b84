"""Unrolled differentiation: autograd through the accepted steps, step sizes held constant.

Exact for the numbers that were computed, second derivatives included, and the fastest method
where it fits: memory grows with the number of steps and with all that the field computes on its
way. Where that does not fit take ``discrete`` or ``checkpointed``, which give the same numbers.

Nothing is put between autograd and the solver, so this is also the method for ``torch.func``:
``grad``, ``jacrev``, ``jacfwd``, ``jvp`` and what is made of them go through any solve, ``vmap``
through one whose steps do not depend on the values, that is with ``step_size``. Rejected attempts,
error estimates and the choice of steps leave nothing behind. Where steps are too long for the
derivative a ``GradientWarning`` says so on the way back, for which the field is asked a few times.

Source: the discretise-then-optimise side of A. Gholami, K. Keutzer, G. Biros, "ANODE:
    Unconditionally Accurate Memory-Efficient Gradients for Neural ODEs", IJCAI 2019,
    arXiv:1902.10298.
"""

from __future__ import annotations

from typing import final

from odekit import GradientMethod, Integrate, Problem, Trajectory
from odekit_gradients.watched import watched


@final
class Unrolled(GradientMethod):
    """Let autograd record the solve."""

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """The engine's trajectory as it is; ``no_grad`` around it records nothing."""
        return watched(problem, integrate, "unrolled")
