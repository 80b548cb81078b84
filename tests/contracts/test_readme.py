"""What the README says is true: its Python runs, its commands and pictures exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(code: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_runs_and_prints_what_is_shown() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.S))
    shown = re.findall(r"```text\n(.*?)```", README, re.S)
    assert code
    assert shown
    assert run(code).split() == shown[0].split()


def test_the_quickstart_runs() -> None:
    text = (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")
    printed = run(text)
    assert "x' =" in printed or "prey' =" in printed
    assert "tsit5" in printed
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 20


def test_files_and_commands_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "odekit" in project["project"]["scripts"]
    for path in re.findall(r"(?:examples|docs)/[\w./]+", README):
        assert (ROOT / path.rstrip(".")).exists(), path
    for marker in ("try", "test"):
        assert re.search(rf"<!-- {marker} -->\n```bash\n.*constraints\.txt", README), marker
