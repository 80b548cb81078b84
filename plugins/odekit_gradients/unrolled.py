"""Unrolled differentiation: autograd through the accepted steps, step sizes held constant.

Exact for the numbers that were computed, second derivatives included, and the fastest method
where it fits: memory grows with the number of steps. Where it does not fit take ``adjoint``.

Source: the discretise-then-optimise side of A. Gholami, K. Keutzer, G. Biros, "ANODE:
    Unconditionally Accurate Memory-Efficient Gradients for Neural ODEs", IJCAI 2019,
    arXiv:1902.10298.
"""

from __future__ import annotations

from typing import final

from odekit import GradientMethod, Integrate, Problem, Trajectory


@final
class Unrolled(GradientMethod):
    """Let autograd record the solve."""

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """The engine's trajectory as it is; ``no_grad`` around it records nothing."""
        return integrate(problem)
