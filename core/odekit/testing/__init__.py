"""The conformance kit: what every component promises, as checks to inherit.

An author subclasses the suite of the component's kind and says in ``make`` how to build it; pytest
collects the rest. `check_component` runs the same checks on what is installed, and so does
``odekit check NAME``.

Example:
    >>> import odekit
    >>> from odekit.testing import SolverConformance
    >>> class TestBosh3(SolverConformance):
    ...     def make(self):
    ...         return odekit.create("solver", "bosh3")
    >>> TestBosh3().run("trait_fsal")[0].figure
    '3 evaluations a step'
"""

from __future__ import annotations

from odekit.testing.components import SUITES, check_component, suites_of
from odekit.testing.conformance import (
    CheckResult,
    Conformance,
    ConformanceError,
    NotApplicable,
    check,
    require,
    require_close,
)
from odekit.testing.controllers import ControllerConformance
from odekit.testing.fields import FieldConformance
from odekit.testing.gradients import GradientConformance
from odekit.testing.plugins import ComponentConformance, PluginConformance
from odekit.testing.postprocessors import PostProcessorConformance
from odekit.testing.solvers import SolverConformance
from odekit.testing.systems import SystemConformance

__all__ = [
    "SUITES",
    "CheckResult",
    "ComponentConformance",
    "Conformance",
    "ConformanceError",
    "ControllerConformance",
    "FieldConformance",
    "GradientConformance",
    "NotApplicable",
    "PluginConformance",
    "PostProcessorConformance",
    "SolverConformance",
    "SystemConformance",
    "check",
    "check_component",
    "require",
    "require_close",
    "suites_of",
]
