"""What is shipped works: the built wheel, installed elsewhere, brings core and every plugin."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys, torch, odekit
assert odekit.__file__.startswith(sys.argv[1]), odekit.__file__
hooks = odekit.registry.default_registry().hook
found = {entry.plugin for entry in odekit.components()}
found |= {hook.plugin_name for hook in hooks.odekit_commands.get_hookimpls()}
print(*sorted(found))
print(float(odekit.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0]).y[-1]))
"""


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT))
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_core_and_plugins_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"odekit", *(p.name for p in (ROOT / "plugins").iterdir() if p.is_dir())}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "odekit/py.typed" in names


def test_the_wheel_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(target)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plugins, value = done.stdout.splitlines()
    expected = {p.name.removeprefix("odekit_") for p in (ROOT / "plugins").iterdir() if p.is_dir()}
    assert set(plugins.split()) == expected
    assert float(value) == pytest.approx(0.367879, abs=1e-5)
