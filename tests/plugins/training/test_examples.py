"""The example scripts at full size, as a reader runs them: the figures they claim, one picture."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
NUMBER = r"(-?\d+\.?\d*(?:e[-+]?\d+)?)"


def run(name, folder):
    """The script's words; a warning or a missing picture is a failure."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", "--out", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (picture,) = folder.glob("*.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    return done.stdout


def figures(words, pattern):
    return [float(found) for found in re.findall(pattern + NUMBER, words)]


@pytest.mark.slow
def test_augmented(tmp_path):
    words = run("augmented", tmp_path)
    (crossed,) = figures(words, r"augmented: mean squared error on \{-1, 1\} ")
    (plain,) = figures(words, r"plain mlp: mean squared error on \{-1, 1\} ")
    assert crossed <= 1e-2
    assert 0.99 <= plain < 1.1


@pytest.mark.slow
def test_second_order(tmp_path):
    found = figures(run("second_order", tmp_path), "R2 of the acceleration ")
    assert len(found) == 3
    assert min(found) > 0.99


@pytest.mark.slow
def test_hamiltonian(tmp_path):
    (ratio,) = figures(run("hamiltonian", tmp_path), "the mlp changes ")
    assert ratio >= 50


@pytest.mark.slow
def test_function_encoder(tmp_path):
    words = run("function_encoder", tmp_path)
    (ratio,) = figures(words, "plain network / function encoder: ")
    (straight,) = figures(words, "affine in mu: R2 ")
    assert ratio >= 10
    assert straight > 0.99


@pytest.mark.slow
def test_spiral_to_equations(tmp_path):
    words = run("spiral_to_equations", tmp_path)
    rows = re.findall(rf"^\s*([xy]) +(\S+) +{NUMBER}", words, re.MULTILINE)
    found = {(equation, term): float(value) for equation, term, value in rows}
    truth = {("x", "x**3"): -0.1, ("x", "y**3"): 2.0, ("y", "x**3"): -2.0, ("y", "y**3"): -0.1}
    assert found == pytest.approx(truth, rel=0.05)
