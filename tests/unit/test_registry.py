"""The policies of the registry, each on entry points made here and no global."""

from __future__ import annotations

import sys
import types
import warnings
from importlib.metadata import EntryPoint

import pytest

import odekit
from odekit import (
    BrokenPluginError,
    IncompatibleError,
    MissingDependencyError,
    NameConflictError,
    PluginWarning,
    ProblemError,
    Solver,
    Step,
    UnknownNameError,
)
from odekit.plugin import Component, Kind, hookimpl
from odekit.registry import DISABLE, Registry, default_registry, resolve


class Mine(Solver):
    """A solver with an option."""

    order = 1

    def __init__(self, damping: float = 0.0) -> None:
        self.damping = damping

    def step(self, field, t, h, y, state):
        return Step(y + h * field(t, y), None, None, ())


@pytest.fixture
def point(monkeypatch):
    """Make an entry point for a plugin with these components; its import is counted."""

    def make(name, *components, raises=None, module=None):
        path = module or f"registry_test_{name}"

        class Module(types.ModuleType):
            def __getattribute__(self, attribute):
                if attribute == "odekit_components":
                    loaded.append(name)
                return super().__getattribute__(attribute)

        plugin = Module(path)

        @hookimpl
        def odekit_components():
            if raises is not None:
                raise raises
            return list(components)

        plugin.odekit_components = odekit_components
        plugin.Mine = Mine
        monkeypatch.setitem(sys.modules, path, plugin)
        return EntryPoint(name, path, "odekit")

    loaded = []
    make.loaded = loaded
    return make


def solver(name="mine", path=None, **options):
    return Component(Kind.SOLVER, name, path or "registry_test_a:Mine", "a solver", **options)


# Discovery ---------------------------------------------------------------------------------


def test_nothing_is_loaded_before_the_first_look_up(point):
    registry = Registry(points=(point("a", solver()),))
    assert point.loaded == []
    registry.components()
    assert "a" in point.loaded


def test_plugins_are_loaded_in_the_order_of_their_names(point):
    points = (point("b", solver("two")), point("a", solver("one")))
    Registry(points=points).components()
    assert list(dict.fromkeys(point.loaded)) == ["a", "b"]


def test_components_are_sorted_by_kind_and_name(point):
    made = point(
        "a",
        solver("zeta"),
        Component(Kind.FIELD, "alpha", "x:Y", "a field"),
        solver("beta"),
    )
    registry = Registry(points=(made,))
    assert [e.name for e in registry.components()] == ["beta", "zeta", "alpha"]
    assert [e.name for e in registry.components("field")] == ["alpha"]
    assert [e.name for e in registry.components(Kind.SYSTEM)] == []


def test_the_class_is_imported_when_it_is_asked_for(point):
    made = point("a", solver("late", path="a_module_that_is_not_there:Mine"), solver())
    registry = Registry(points=(made,))
    assert [e.name for e in registry.components()] == ["late", "mine"]
    assert isinstance(registry.create("solver", "mine"), Mine)
    with pytest.raises(BrokenPluginError, match="a_module_that_is_not_there"):
        registry.create("solver", "late")


def test_a_path_to_a_missing_class_says_so(point):
    registry = Registry(points=(point("a", solver(path="registry_test_a:Yours")),))
    with pytest.raises(BrokenPluginError, match="registry_test_a:Yours") as raised:
        registry.find("solver", "mine").load()
    assert isinstance(raised.value, ImportError)


# First-party plugins -----------------------------------------------------------------------


def test_without_entry_points_core_offers_nothing():
    assert Registry(points=()).components() == []


def test_first_party_components_come_through_entry_points():
    assert {e.plugin for e in odekit.components()} >= {"rk", "control", "gradients"}
    assert all(e.distribution.startswith("odekit ") for e in odekit.components("gradient"))


# Broken plugins ----------------------------------------------------------------------------


def test_a_broken_plugin_is_left_out_with_one_warning(point):
    broken = EntryPoint("bad", "a_module_that_is_not_there", "odekit")
    raising = point("worse", raises=ZeroDivisionError("in the hook"))
    registry = Registry(points=(broken, raising, point("a", solver())))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert [e.name for e in registry.components()] == ["mine"]
        registry.components()
        registry.find("solver", "mine")
    assert [w.category for w in seen] == [PluginWarning, PluginWarning]
    assert "'bad'" in str(seen[0].message)
    assert set(registry.broken) == {"bad", "worse"}
    assert isinstance(registry.broken["bad"], ModuleNotFoundError)
    assert isinstance(registry.broken["worse"], ZeroDivisionError)


def test_broken_alone_looks_too():
    registry = Registry(points=(EntryPoint("bad", "a_module_that_is_not_there", "odekit"),))
    with pytest.warns(PluginWarning, match="left out"):
        assert set(registry.broken) == {"bad"}


def test_a_plugin_that_breaks_half_way_offers_nothing(point):
    def announce():
        yield solver("first")
        raise RuntimeError("half way")

    made = point("a", solver())
    module = sys.modules["registry_test_a"]
    module.odekit_components = hookimpl(announce)
    registry = Registry(points=(made,))
    with pytest.warns(PluginWarning, match="half way"):
        assert registry.components() == []


def test_a_hook_that_does_not_return_components_breaks_the_plugin(point):
    made = point("a")
    sys.modules["registry_test_a"].odekit_components = hookimpl(lambda: None)
    with pytest.warns(PluginWarning, match="TypeError"):
        assert Registry(points=(made,)).components() == []


# Missing optional packages -----------------------------------------------------------------


def test_a_missing_package_is_named_with_what_to_type(point):
    needs = {"needs": ("a_package_that_is_not_there",)}
    registry = Registry(
        points=(point("a", solver("one", extra="demo", **needs), solver("two", **needs)),)
    )
    with pytest.raises(MissingDependencyError) as raised:
        registry.create("solver", "one")
    message = str(raised.value)
    assert "solver 'one' needs a_package_that_is_not_there" in message
    assert "pip install 'odekit[demo]'" in message
    with pytest.raises(MissingDependencyError, match="pip install a_package_that_is_not_there"):
        registry.create("solver", "two")
    assert isinstance(raised.value, ImportError)


def test_a_package_that_is_there_is_no_obstacle(point):
    registry = Registry(points=(point("a", solver(needs=("json", "torch"))),))
    assert isinstance(registry.create("solver", "mine"), Mine)


# Clashes -----------------------------------------------------------------------------------


def test_a_clash_keeps_both_and_refuses_to_guess(point):
    registry = Registry(points=(point("a", solver()), point("b", solver())))
    assert [e.full_name for e in registry.components("solver")] == ["a:mine", "b:mine"]
    with pytest.raises(NameConflictError, match="'a:mine', 'b:mine'") as raised:
        registry.create("solver", "mine")
    assert isinstance(raised.value, LookupError)
    assert registry.find("solver", "b:mine").plugin == "b"


def test_one_name_in_two_kinds_is_no_clash(point):
    field = Component(Kind.FIELD, "mine", "registry_test_a:Mine", "a field")
    registry = Registry(points=(point("a", solver(), field),))
    assert registry.find("solver", "mine").kind is Kind.SOLVER
    assert registry.find("field", "mine").kind is Kind.FIELD


def test_a_distribution_that_is_seen_twice_is_no_clash(point):
    made = point("a", solver())
    registry = Registry(points=(made, made))
    assert [e.full_name for e in registry.components()] == ["a:mine"]


def test_two_plugins_with_one_entry_point_name_do_not_pass_in_silence(point):
    first, second = point("a", solver("one")), point("b", solver("two"))
    second = EntryPoint("a", second.value, "odekit")
    registry = Registry(points=(first, second))
    with pytest.warns(PluginWarning, match="has the entry point 'a' already"):
        assert [e.name for e in registry.components()] == ["one"]
    [(name, error)] = registry.broken.items()
    assert name == "a (registry_test_b)"
    assert isinstance(error, NameConflictError)


def test_a_kind_may_be_given_by_its_name(point):
    made = point("a", Component("solver", "mine", "registry_test_a:Mine", "a solver"))
    assert [e.name for e in Registry(points=(made,)).components("solver")] == ["mine"]
    with pytest.raises(ValueError, match="solvre"):
        Component("solvre", "mine", "registry_test_a:Mine", "a solver")


# Unknown names -----------------------------------------------------------------------------


def test_an_unknown_name_gets_a_suggestion_and_the_list(point):
    registry = Registry(points=(point("a", solver("tsit5"), solver("euler")),))
    with pytest.raises(UnknownNameError) as raised:
        registry.create("solver", "tsti5")
    message = str(raised.value)
    assert "unknown solver 'tsti5'" in message
    assert "did you mean 'tsit5'?" in message
    assert "installed: euler, tsit5" in message
    with pytest.raises(UnknownNameError) as raised:
        registry.create("solver", "zzz")
    assert "did you mean" not in str(raised.value)
    with pytest.raises(UnknownNameError, match="installed: none"):
        registry.create("field", "mlp")


def test_an_unknown_kind_lists_the_kinds(point):
    with pytest.raises(ProblemError, match=r"unknown kind 'slover'.*solver, controller"):
        Registry(points=(point("a", solver()),)).components("slover")


# Blocking ----------------------------------------------------------------------------------


def test_disabled_plugins_are_not_loaded(point, monkeypatch):
    monkeypatch.setenv(DISABLE, " b ,c")
    registry = Registry(points=tuple(point(n, solver(n)) for n in "abc"))
    assert [e.name for e in registry.components()] == ["a"]
    assert set(point.loaded) == {"a"}
    assert registry.broken == {}


# No globals --------------------------------------------------------------------------------


def test_registries_do_not_meet(point):
    one = Registry(points=(point("a", solver("one")),))
    two = Registry(points=(point("b", solver("two")),))
    assert [e.name for e in one.components()] == ["one"]
    assert [e.name for e in two.components()] == ["two"]
    assert "one" not in {e.name for e in default_registry().components()}
    assert default_registry() is default_registry()


# Building ----------------------------------------------------------------------------------


def test_options_reach_the_constructor(point):
    registry = Registry(points=(point("a", solver()),))
    assert registry.create("solver", "mine", damping=0.5).damping == 0.5
    with pytest.raises(IncompatibleError, match="its options are: damping"):
        registry.create("solver", "mine", dumping=0.5)


def test_an_error_inside_the_constructor_is_not_disguised(point, monkeypatch):
    def raises(self, damping=0.0):
        raise TypeError("inside")

    monkeypatch.setattr(Mine, "__init__", raises)
    with pytest.raises(TypeError, match="inside") as raised:
        Registry(points=(point("a", solver()),)).create("solver", "mine")
    assert not isinstance(raised.value, IncompatibleError)


def test_a_class_instead_of_an_instance_is_named():
    with pytest.raises(IncompatibleError, match="the class Mine"):
        odekit.solve(lambda t, y: -y, [1.0], [0.0, 1.0], solver=Mine)


def test_an_unknown_name_tells_what_was_left_out(monkeypatch):
    monkeypatch.setenv(DISABLE, "rk")
    with pytest.raises(UnknownNameError, match="ODEKIT_DISABLE_PLUGINS leaves out rk"):
        Registry().find("solver", "tsit5")


def test_a_wrong_choice_is_shown_on_one_line():
    class Long:
        def __repr__(self) -> str:
            return "Long(\n" + "x\n" * 500 + ")"

    with pytest.raises(IncompatibleError) as info:
        resolve("solver", Long(), Solver)
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 300


def test_an_option_that_must_be_given_is_named():
    with pytest.raises(IncompatibleError, match=r"missing a required argument: 'dim'.*options are"):
        odekit.create("field", "mlp")


def test_postprocess_says_what_it_wants():
    for wrong in ([1], 3, odekit.TimeSeries([0.0, 1.0], [1.0, 2.0])):
        with pytest.raises(IncompatibleError, match="solutions must be a Solution"):
            odekit.postprocess(lambda t, y: -y, wrong)
