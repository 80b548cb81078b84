"""Who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "odekit"
LINTER = Path(sys.executable).with_name("lint-imports")
LATE = {"pandas", "scipy", "sympy", "matplotlib", "rich", "typer", "joblib", "threadpoolctl"}
OPTIONAL = {"dask", "distributed"}
ALWAYS = {"torch", "pluggy", "numpy", "odekit"}


def plugin_folders():
    return sorted(path.parent.name for path in (ROOT / "plugins").glob("*/plugin.py"))


def _lint(config, tmp_path, path=None):
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    return subprocess.run(
        [str(LINTER), "--no-cache", "--config", str(config)],
        check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment,
    )  # fmt: skip


def test_contracts_of_import_linter_are_kept(tmp_path):
    done = _lint(ROOT / ".importlinter", tmp_path)
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout


def test_import_linter_sees_every_plugin():
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")

    def listed(section, key):
        return sorted(config[section][key].split())

    assert listed("importlinter", "root_packages") == ["odekit", *plugin_folders()]
    assert listed("importlinter:contract:core", "forbidden_modules") == plugin_folders()
    assert listed("importlinter:contract:plugins", "modules") == plugin_folders()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("odekit_control/spoilt.py", "from odekit_rk.bosh3 import Bosh3"),
        ("odekit_control/spoilt.py", "from odekit._engine.lean import integrate_lean"),
    ],
)
def test_import_linter_would_notice(tmp_path, file, line):
    copy = tmp_path / "plugins"
    for folder in plugin_folders():
        (copy / folder).mkdir(parents=True)
        for source in (ROOT / "plugins" / folder).glob("*.py"):
            (copy / folder / source.name).write_text(source.read_text())
    (copy / file).write_text(line + "\n")
    done = _lint(ROOT / ".importlinter", tmp_path, path=copy)
    assert done.returncode == 1
    assert "2 kept, 1 broken" in done.stdout


def _imports(tree):
    """Imports that run when the module is imported: not in functions, not for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(ast.Module(body=node.orelse, type_ignores=[]))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(node)


def _everywhere(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


SOURCES = sorted(CORE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CORE)))
def test_core_imports_few_packages(path):
    allowed = ALWAYS | set(sys.stdlib_module_names)
    tree = ast.parse(path.read_text())
    command_line = path.is_relative_to(CORE / "cli")
    at_import = {name.partition(".")[0] for name in _imports(tree)}
    assert at_import <= allowed | (LATE if command_line else set())
    assert {name.partition(".")[0] for name in _everywhere(tree)} <= allowed | LATE | OPTIONAL


def _python(program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_odekit_imports_nothing_heavy_and_no_plugin():
    seen = _python(
        "import json, sys, torch; before = set(sys.modules); import odekit; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    tops = {name.partition(".")[0] for name in seen}
    heavy = {"sympy", "pandas", "matplotlib", "pysindy", "scipy", "sklearn", "typer", "rich"}
    assert not tops & heavy
    assert not tops & set(plugin_folders())
    assert not [name for name in seen if name.startswith(("odekit.cli", "odekit.testing"))]
    assert "odekit.solve" in seen


def test_importing_odekit_loads_no_entry_point_until_a_name_is_looked_up():
    before, announced, after = _python(
        "import json, sys; from importlib.metadata import EntryPoint\n"
        "loaded = []; load = EntryPoint.load\n"
        "EntryPoint.load = lambda self: (loaded.append(self.group), load(self))[1]\n"
        "import odekit; before = list(loaded)\n"
        "odekit.components(); announced = 'odekit_rk.bosh3' in sys.modules\n"
        "odekit.create('solver', 'bosh3')\n"
        "print(json.dumps([before, announced, loaded]))"
    )
    assert "odekit" not in before
    assert announced is False
    assert after.count("odekit") == len(plugin_folders())
