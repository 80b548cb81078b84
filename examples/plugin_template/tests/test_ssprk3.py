"""Everything odekit expects of a solver, measured; and of a plugin."""

from __future__ import annotations

import odekit_ssprk3.plugin
import torch
from odekit_ssprk3.ssprk3 import SSPRK3

import odekit
from odekit.testing import PluginConformance, SolverConformance


class TestSSPRK3(SolverConformance):
    """Order, dense output, lanes, purity, gradients and every claim of the solver."""

    def make(self):
        """A fresh solver."""
        return SSPRK3()


class TestPlugin(PluginConformance):
    """The announcement."""

    def make(self):
        """The module that the entry point names."""
        return odekit_ssprk3.plugin


def test_linear_decay_takes_the_factor_of_the_paper():
    """On y' = z y one step multiplies by 1 + z + z^2/2 + z^3/6."""
    y0 = torch.ones(1, dtype=torch.float64)
    solution = odekit.solve(lambda t, y: -y, y0, [0.0, 0.5], solver="ssprk3", step_size=0.5)
    factor = 1 - 0.5 + 0.5**2 / 2 - 0.5**3 / 6
    torch.testing.assert_close(solution.y[-1, 0].item(), factor, rtol=1e-14, atol=0.0)
