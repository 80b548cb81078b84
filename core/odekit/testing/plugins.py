"""The checks of a whole plugin, and of the announcement of one component."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pluggy

from odekit import plugin as hookspecs
from odekit.controller import StepController
from odekit.gradient import GradientMethod
from odekit.plugin import GROUP, Component, Kind
from odekit.postprocess import PostProcessor
from odekit.registry import Entry
from odekit.solver import Solver
from odekit.testing.conformance import (
    Conformance,
    ConformanceError,
    NotApplicable,
    check,
    require,
)
from odekit.training import Trainer

BASES: dict[Kind, type] = {
    Kind.SOLVER: Solver,
    Kind.CONTROLLER: StepController,
    Kind.GRADIENT: GradientMethod,
    Kind.POSTPROCESSOR: PostProcessor,
    Kind.TRAINER: Trainer,
}
"""What a component of each kind must inherit from; the other kinds are protocols."""

HEAVY = ("matplotlib", "pandas", "pysindy", "scipy", "sklearn", "sympy")

_PROBE = """
import importlib, json, sys
import odekit
before = set(sys.modules)
components = importlib.import_module({name!r}).odekit_components()
print(json.dumps([sorted(set(sys.modules) - before), [c.path for c in components]]))
"""


class ComponentConformance(Conformance):
    """The announcement of one component; ``make`` gives its registry entry."""

    @check
    def test_announcement(self) -> str:
        """Name, summary and path are well formed, and a missing package is named as such."""
        component = self.make().component
        require(isinstance(component.kind, Kind), f"kind must be a Kind, got {component.kind!r}")
        require(
            component.name.isidentifier() and component.name == component.name.lower(),
            f"the name {component.name!r} must be lower case with underscores",
        )
        require(
            bool(component.summary.strip()) and "\n" not in component.summary,
            f"the summary must be one line, got {component.summary!r}",
        )
        require(
            component.path.count(":") == 1, f"the path {component.path!r} must be 'module:Class'"
        )
        return ""

    @check
    def test_class(self) -> str:
        """The class is there, inherits what its kind asks for, and is documented."""
        entry: Entry = self.make()
        loaded: Any = entry.load()
        base = BASES.get(entry.kind)
        require(callable(loaded), f"{entry.component.path} is not callable")
        if base is not None:
            require(
                isinstance(loaded, type) and issubclass(loaded, base),
                f"{entry.component.path} is not a subclass of odekit.{base.__name__}",
            )
        require(bool((loaded.__doc__ or "").strip()), f"{entry.component.path} has no docstring")
        return str(loaded.__name__)


class PluginConformance(Conformance):
    """Everything a plugin promises; ``make`` gives the module that the entry point names."""

    @check
    def test_hooks(self) -> str:
        """Its hooks exist and take the arguments they are given."""
        module, manager = self._module(), pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(module, module.__name__)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise ConformanceError(f"pluggy refuses the plugin: {error}") from error
        found = sorted(caller.name for caller in manager.get_hookcallers(module) or ())
        require(bool(found), "it has no hook: mark odekit_components with @hookimpl")
        return ", ".join(found)

    @check
    def test_components(self) -> str:
        """Every component is well formed, can be imported, and none is announced twice."""
        components = self._components()
        names = [(c.kind, c.name) for c in components]
        twice = {str(name) for kind, name in names if names.count((kind, name)) > 1}
        require(not twice, f"announced twice: {', '.join(sorted(twice))}")
        for component in components:
            name = self._module().__name__
            entry = Entry(component, name, EntryPoint(name, name, GROUP))
            for result in announced(entry).run():
                require(result.passed, f"{component.kind} {component.name!r}: {result.detail}")
        return f"{len(components)} components"

    @check
    def test_light(self) -> str:
        """Announcing imports neither the components nor anything heavy."""
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE.format(name=self._module().__name__)],
            capture_output=True,
            text=True,
            check=False,
        )
        require(probe.returncode == 0, f"importing it ends with: {probe.stderr.strip()[-300:]}")
        imported, paths = json.loads(probe.stdout.splitlines()[-1])
        modules = {path.partition(":")[0] for path in paths}
        early = sorted(modules.intersection(imported))
        require(not early, f"announcing imports {', '.join(early)}; give the path only")
        heavy = sorted(set(HEAVY).intersection(imported))
        require(not heavy, f"announcing imports {', '.join(heavy)}")
        return f"{len(imported)} modules"

    def _module(self) -> ModuleType:
        module: ModuleType = self.make()
        return module

    def _components(self) -> list[Component]:
        if not hasattr(self._module(), "odekit_components"):
            raise NotApplicable("it announces no components")
        return list(self._module().odekit_components())


def announced(entry: Entry) -> ComponentConformance:
    """The checks of one announcement."""

    class Announced(ComponentConformance):
        def make(self) -> Entry:
            return entry

    return Announced()
