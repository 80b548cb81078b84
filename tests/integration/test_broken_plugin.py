"""A plugin that cannot be loaded, installed for real, harms nobody else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def _install(site, name, code, value=None):
    """A distribution with one entry point of the group, as an installer leaves it behind."""
    package = f"odekit_{name}"
    (site / f"{package}.py").write_text(code)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: odekit-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[odekit]\n{name} = {value or package}\n")


def _python(site, program, *options, **environment):
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(site), **environment},
    )  # fmt: skip


PROGRAM = """
import odekit, torch, warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    names = [e.name for e in odekit.components("solver")]
    odekit.components()
    y = odekit.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], solver="bosh3").y
assert "bosh3" in names and "euler" in names
assert abs(float(y[-1]) - 0.367879) < 1e-4
broken = odekit.registry.default_registry().broken
print(sorted(broken), type(broken["crash"]).__name__)
for w in seen:
    if issubclass(w.category, odekit.PluginWarning):
        print(w.message)
"""


@pytest.mark.parametrize(
    ("code", "value", "error"),
    [
        ("raise ZeroDivisionError('at import')", None, "ZeroDivisionError"),
        ("import a_package_that_is_not_there", None, "ModuleNotFoundError"),
        ("def f(:", None, "SyntaxError"),
        ("x = 1", "odekit_crash:missing", "AttributeError"),
        (
            "from odekit.plugin import hookimpl\n@hookimpl\ndef odekit_components():\n    1 / 0\n",
            None,
            "ZeroDivisionError",
        ),
    ],
)
def test_the_rest_works_and_the_fault_is_named_once(tmp_path, code, value, error):
    _install(tmp_path, "crash", code, value)
    done = _python(tmp_path, PROGRAM)
    assert done.returncode == 0, done.stderr
    first, *warned = done.stdout.splitlines()
    assert first == f"['crash'] {error}"
    assert len(warned) == 1
    assert "plugin 'crash'" in warned[0]
    assert error in warned[0]


def test_the_command_line_lists_the_rest_and_the_fault(tmp_path):
    _install(tmp_path, "crash", "raise ZeroDivisionError('at import')")
    program = "import sys; from odekit.cli import main; sys.argv[1:] = ['plugins']; main()"
    done = _python(tmp_path, program, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "tsit5" in done.stdout
    assert "adjoint" in done.stdout
    assert "crash" in done.stdout + done.stderr
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_disabled_plugin_is_not_even_imported(tmp_path):
    _install(tmp_path, "crash", "raise ZeroDivisionError('at import')")
    program = (
        "import odekit, sys; odekit.components(); print('odekit_crash' in sys.modules, "
        "odekit.registry.default_registry().broken)"
    )
    done = _python(tmp_path, program, "-W", "error", ODEKIT_DISABLE_PLUGINS="other, crash")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False {}"


def test_a_clash_is_refused_and_resolved_by_full_names(tmp_path):
    _install(
        tmp_path,
        "rival",
        "from odekit.plugin import Component, Kind, hookimpl\n"
        "@hookimpl\n"
        "def odekit_components():\n"
        "    return [Component(Kind.SOLVER, 'heun', 'odekit_rk.bosh3:Bosh3', 'another heun')]\n",
    )
    program = """
import odekit
try:
    odekit.create("solver", "heun")
except odekit.NameConflictError as error:
    print(error)
print(odekit.create("solver", "rk:heun").order, odekit.create("solver", "rival:heun").order)
"""
    done = _python(tmp_path, program)
    assert done.returncode == 0, done.stderr
    message, orders = done.stdout.splitlines()
    assert "'rk:heun'" in message
    assert "'rival:heun'" in message
    assert orders == "2 3"
