"""The checks of a solver, put together."""

from __future__ import annotations

from odekit.testing.solver_lanes import LaneChecks
from odekit.testing.solver_order import OrderChecks
from odekit.testing.solver_promises import PromiseChecks
from odekit.testing.solver_traits import TraitChecks


class SolverConformance(PromiseChecks, TraitChecks, LaneChecks, OrderChecks):
    """Everything a solver promises. Subclass it and say in ``make`` how to build the solver.

    Example:
        >>> import odekit
        >>> from odekit.testing import SolverConformance
        >>> class TestHeun(SolverConformance):
        ...     def make(self):
        ...         return odekit.create("solver", "heun")
        >>> [result] = TestHeun().run("order_autonomous")
        >>> result.passed, result.figure
        (True, 'slope 2.01')
    """
