"""The suite that fits an installed component, built as users build it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from odekit.controller import StepController
from odekit.plugin import Kind
from odekit.registry import Entry, default_registry
from odekit.solver import Trait
from odekit.testing.cases import DOUBLE
from odekit.testing.conformance import CheckResult, Conformance
from odekit.testing.controllers import ControllerConformance
from odekit.testing.fields import SAMPLES, FieldConformance
from odekit.testing.gradients import GradientConformance
from odekit.testing.plugins import announced
from odekit.testing.postprocessors import PostProcessorConformance
from odekit.testing.solvers import SolverConformance
from odekit.testing.systems import SystemConformance

SUITES: dict[Kind, Any] = {
    Kind.SOLVER: SolverConformance,
    Kind.CONTROLLER: ControllerConformance,
    Kind.GRADIENT: GradientConformance,
    Kind.FIELD: FieldConformance,
    Kind.POSTPROCESSOR: PostProcessorConformance,
    Kind.SYSTEM: SystemConformance,
}
"""Kinds without a suite of their own are held to their announcement."""


def check_component(kind: Kind | str, name: str) -> list[CheckResult]:
    """Run every check that fits an installed component.

    Args:
        kind: a `Kind` or its lower-case name.
        name: the component's name, bare or as ``plugin:name``.

    Returns:
        One result a check; a component that cannot be built gives one that says so.

    Raises:
        UnknownNameError, NameConflictError: the name leads nowhere, or to two plugins.

    Example:
        >>> all(result.passed for result in check_component("controller", "fixed"))
        True
    """
    return [result for suite in suites_of(kind, name) for result in suite.run()]


def suites_of(kind: Kind | str, name: str) -> list[Conformance]:
    """The announcement's suite and, where there is one, that of the kind.

    Raises:
        UnknownNameError, NameConflictError: the name leads nowhere, or to two plugins.
    """
    entry = default_registry().find(kind, name)
    found: list[Conformance] = [announced(entry)]
    if entry.kind in SUITES and not any(not result.passed for result in found[0].run()):
        found.append(_installed(entry))
    return found


def _installed(entry: Entry) -> Conformance:
    parent: Any = SUITES[entry.kind]
    needed = _needed(entry)
    options = {name: _EXAMPLES[name] for name in needed if name in _EXAMPLES}

    class Installed(parent):  # type: ignore[misc]
        def make(self) -> Any:
            return default_registry().create(entry.kind, entry.full_name, **options)

        def make_for(self, span: Tensor) -> StepController:
            given = {**options, **({"times": _grid(span)} if "times" in needed else {})}
            controller: StepController = default_registry().create(
                entry.kind, entry.full_name, **given
            )
            return controller

    suite: Conformance = Installed()
    if isinstance(suite, GradientConformance):
        _choose_solver(suite, entry)
    return suite


def _needed(entry: Entry) -> list[str]:
    """The arguments without which the component cannot be built."""
    parameters = inspect.signature(entry.load()).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]


def _grid(span: Tensor) -> Tensor:
    """Nine times along the span, for controllers that are built for certain times."""
    start, end = span[..., :1], span[..., -1:]
    return start + torch.linspace(0.0, 1.0, 9, dtype=DOUBLE) * (end - start)


class _Turn(nn.Module):
    """The smallest field with weights: ``dy/dt`` is a matrix times ``y``."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[-0.1, -rate], [rate, -0.1]]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix.to(y.dtype).mT


_EXAMPLES: dict[str, Any] = {
    "dim": FieldConformance.dim,
    "fields": [_Turn(1.0 + 0.3 * i) for i in range(SAMPLES)],
    "times": _grid(torch.tensor([0.0, 1.0], dtype=DOUBLE)),
}


def _choose_solver(suite: GradientConformance, entry: Entry) -> None:
    """Differentiate through the default solver, or through the first that the method can take."""
    needs = entry.load().solver_needs
    registry = default_registry()
    names = [suite.solver, *(e.full_name for e in registry.components(Kind.SOLVER))]
    for name in names:
        traits = registry.find(Kind.SOLVER, name).load().traits
        if needs in traits:
            suite.solver = name
            if Trait.ERROR_ESTIMATE not in traits:
                suite.options = {"step_size": 1e-3}
            return
