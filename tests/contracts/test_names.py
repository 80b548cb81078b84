"""Public names, entry points and docstrings: what scripts and plugin authors rely on."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import odekit
import odekit.errors
import odekit.plugin
import odekit.testing
from odekit.errors import OdekitError, Status

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_entry_points_equal_the_folders_of_plugins():
    folders = {p.name for p in (ROOT / "plugins").iterdir() if (p / "plugin.py").exists()}
    declared = PROJECT["entry-points"]["odekit"]
    assert declared == {f.removeprefix("odekit_"): f"{f}.plugin" for f in folders}
    others = {p.name for p in (ROOT / "plugins").iterdir() if p.is_dir()} - folders
    assert others <= {"__pycache__"}


def test_installed_entry_points_are_the_declared_ones():
    installed = {
        p.name: p.value
        for p in entry_points(group="odekit")
        if p.dist is not None and p.dist.name == "odekit"
    }
    assert installed == PROJECT["entry-points"]["odekit"]


@pytest.mark.parametrize("module", [odekit, odekit.testing], ids=lambda m: m.__name__)
def test_public_names_are_listed_in_order(module):
    assert list(module.__all__) == sorted(
        module.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n)
    )
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize(
    ("module", "name"),
    [(m, n) for m in (odekit, odekit.testing) for n in m.__all__],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
def test_public_names_are_there_and_documented(module, name):
    thing = getattr(module, name)
    if thing is Any:
        return  # State: a type alias, documented where it is defined
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert thing.__module__.startswith("odekit.")
        own = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
        assert own, f"{name} has no docstring of its own"
        assert own.strip()[0].isupper() or own.strip()[0] == "`"
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and inspect.isfunction(value):
                assert inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute}"


@pytest.mark.parametrize(
    "name",
    [
        "Controller", "Solver", "Gradient", "Field", "PostProcessor", "System", "Plugin",
    ],
)  # fmt: skip
def test_every_suite_is_public_and_abstract(name):
    suite = getattr(odekit.testing, f"{name}Conformance")
    assert inspect.isabstract(suite)
    assert suite.__abstractmethods__ == {"make"}
    assert len(suite.checks()) >= 3


def test_names_that_solver_authors_import():
    for name in ("Solver", "Step", "Segment", "Trait", "ButcherTableau"):
        assert name in odekit.__all__
    for name in ("hookimpl", "Component", "Kind"):
        assert hasattr(odekit.plugin, name)


def test_errors_inherit_what_a_careful_caller_catches():
    bases = {
        "ProblemError": ValueError,
        "IncompatibleError": TypeError,
        "SolveError": RuntimeError,
        "DiscoveryError": RuntimeError,
        "MissingDependencyError": ImportError,
        "BrokenPluginError": ImportError,
        "UnknownNameError": LookupError,
        "NameConflictError": LookupError,
    }
    for name, base in bases.items():
        error = getattr(odekit, name)
        assert issubclass(error, base)
        assert issubclass(error, OdekitError)
    for name in ("UnknownNameError", "NameConflictError", "BrokenPluginError"):
        assert issubclass(getattr(odekit, name), odekit.PluginError)


def test_every_status_has_a_meaning_and_an_advice():
    assert Status.SUCCESS == 0
    for status in Status:
        assert status.meaning
        assert status.advice


def test_unknown_attributes_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'slove'"):
        odekit.slove  # noqa: B018 - the look-up is the test


def _modules():
    found = ["odekit"]
    for info in pkgutil.walk_packages(odekit.__path__, "odekit."):
        found.append(info.name)
    for folder in sorted((ROOT / "plugins").glob("*/plugin.py")):
        package = folder.parent.name
        found += [f"{package}.{path.stem}" for path in sorted(folder.parent.glob("[!_]*.py"))]
    return [name for name in found if not name.endswith("__main__")]


@pytest.mark.parametrize("name", _modules())
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_the_examples_are_found():
    attempted = sum(
        len(example.examples)
        for name in ("odekit.solve", "odekit.plugin", "odekit.series", "odekit.testing.solvers")
        for example in doctest.DocTestFinder().find(importlib.import_module(name))
    )
    assert attempted >= 10
