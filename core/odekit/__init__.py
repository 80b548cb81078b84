"""odekit: learn vector fields from data, solve them, and write down the equations.

>>> import torch, odekit
>>> solution = odekit.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0])
>>> solution.y.shape
torch.Size([2, 1])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from odekit.controller import Decision, StepController, error_norm
from odekit.errors import (
    BrokenPluginError,
    CompileWarning,
    DataWarning,
    DiscoveryError,
    GradientWarning,
    IncompatibleError,
    MissingDependencyError,
    NameConflictError,
    OdekitError,
    PluginError,
    PluginWarning,
    ProblemError,
    SolveError,
    Status,
    UnknownNameError,
)
from odekit.field import DiffusionField, Field, SeparableField, State, VectorField
from odekit.gradient import GradientMethod
from odekit.postprocess import PostProcessor, discover, postprocess, refine
from odekit.problem import Accepted, Integrate, Observer, Problem, Trajectory
from odekit.registry import components, create
from odekit.series import TimeSeries
from odekit.solution import DenseOutput, Solution, Stats
from odekit.solve import solve
from odekit.solver import FlatField, Pulled, Segment, Solver, Step, Trait
from odekit.tableau import ButcherTableau, advance, combine, weighted_sum
from odekit.training import Fit, Trainer, fit

if TYPE_CHECKING:
    from odekit.compilation import Compiled, compile
    from odekit.equations import Alternative, Equations, Term
    from odekit.gradient_comparison import compare_gradients
    from odekit.jacobian import flow_jacobian
    from odekit.many import discover_many
    from odekit.refined import Parameter, Refined

_LATE = {
    "Equations": "equations",
    "Alternative": "equations",
    "Term": "equations",
    "Parameter": "refined",
    "Refined": "refined",
    "Compiled": "compilation",
    "compare_gradients": "gradient_comparison",
    "compile": "compilation",
    "discover_many": "many",
    "flow_jacobian": "jacobian",
}


def __getattr__(name: str) -> Any:
    """Names that few programs need are imported when they are first used."""
    if name in _LATE:
        return getattr(importlib.import_module(f"odekit.{_LATE[name]}"), name)
    raise AttributeError(f"module 'odekit' has no attribute {name!r}")


__all__ = [
    "Accepted",
    "Alternative",
    "BrokenPluginError",
    "ButcherTableau",
    "CompileWarning",
    "Compiled",
    "DataWarning",
    "Decision",
    "DenseOutput",
    "DiffusionField",
    "DiscoveryError",
    "Equations",
    "Field",
    "Fit",
    "FlatField",
    "GradientMethod",
    "GradientWarning",
    "IncompatibleError",
    "Integrate",
    "MissingDependencyError",
    "NameConflictError",
    "Observer",
    "OdekitError",
    "Parameter",
    "PluginError",
    "PluginWarning",
    "PostProcessor",
    "Problem",
    "ProblemError",
    "Pulled",
    "Refined",
    "Segment",
    "SeparableField",
    "Solution",
    "SolveError",
    "Solver",
    "State",
    "Stats",
    "Status",
    "Step",
    "StepController",
    "Term",
    "TimeSeries",
    "Trainer",
    "Trait",
    "Trajectory",
    "UnknownNameError",
    "VectorField",
    "advance",
    "combine",
    "compare_gradients",
    "compile",
    "components",
    "create",
    "discover",
    "discover_many",
    "error_norm",
    "fit",
    "flow_jacobian",
    "postprocess",
    "refine",
    "solve",
    "weighted_sum",
]
