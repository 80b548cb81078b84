"""The third-party plugin of examples/plugin_template, installed elsewhere and used from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[2] / "examples" / "plugin_template"

SOLVE = """
import json
import torch, odekit
y0 = torch.ones(1, dtype=torch.float64)
solution = odekit.solve(lambda t, y: -y, y0, [0.0, 1.0], solver="ssprk3", step_size=0.01)
entry = odekit.registry.default_registry().find("solver", "ssprk3")
from odekit.testing import check_component
results = check_component("solver", "ssprk3")
print(json.dumps({
    "y": solution.y[-1].item(),
    "distribution": entry.distribution,
    "full_name": entry.full_name,
    "file": __import__("odekit_ssprk3").__file__,
    "failed": [r.check for r in results if not r.passed],
    "slope": [r.figure for r in results if r.check == "order_autonomous"],
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy of the template, installed into a directory of its own without the network."""
    root = tmp_path_factory.mktemp("third_party")
    source, target = root / "source", root / "site"
    shutil.copytree(TEMPLATE, source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [*command, "--target", str(target), str(source)],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return source, target


def _run(target, *command, cwd):
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        check=False, capture_output=True, text=True, timeout=300, env=environment, cwd=cwd,
    )  # fmt: skip


def test_it_solves_and_is_listed_with_its_distribution(installed, tmp_path):
    _, target = installed
    done = _run(target, "-W", "error", "-c", SOLVE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["y"] == pytest.approx(0.36787944117144233, abs=1e-7)
    assert answer["distribution"] == "odekit-ssprk3 0.1.0"
    assert answer["full_name"] == "ssprk3:ssprk3"
    assert Path(answer["file"]).is_relative_to(target)
    assert answer["failed"] == []
    assert abs(float(answer["slope"][0].removeprefix("slope ")) - 3) <= 0.2


def test_its_own_tests_pass_where_it_is_installed(installed):
    source, target = installed
    done = _run(
        target, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "tests", cwd=source
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout.splitlines()[-1]


def test_without_it_the_name_is_unknown(tmp_path):
    program = "import odekit; odekit.create('solver', 'ssprk3')"
    done = _run(tmp_path, "-c", program, cwd=tmp_path)
    assert done.returncode == 1
    assert "unknown solver 'ssprk3'" in done.stderr
