"""Every installed component, held to every promise of its kind."""

from __future__ import annotations

import pytest

import odekit
from odekit.testing import SUITES, Conformance, PluginConformance, suites_of


def _cases():
    for entry in odekit.components():
        for suite in suites_of(entry.kind, entry.full_name):
            for check in suite.checks():
                label = f"{entry.kind}-{entry.full_name}-{check}"
                yield pytest.param(suite, check, id=label)


@pytest.mark.parametrize(("suite", "check"), list(_cases()))
def test_component(suite: Conformance, check: str) -> None:
    getattr(suite, f"test_{check}")()


def test_every_plugin_is_seen():
    plugins = {entry.plugin for entry in odekit.components()}
    assert {"control", "gradients", "rk"} <= plugins
    assert {entry.kind for entry in odekit.components()} >= set(SUITES)


@pytest.mark.parametrize("plugin", sorted({entry.plugin for entry in odekit.components()}))
@pytest.mark.parametrize("check", PluginConformance.checks())
def test_plugin(plugin: str, check: str) -> None:
    from importlib.metadata import entry_points

    [point] = {point.value: point for point in entry_points(group="odekit", name=plugin)}.values()

    class Installed(PluginConformance):
        def make(self):
            return point.load()

    getattr(Installed(), f"test_{check}")()
