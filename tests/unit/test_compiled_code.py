"""Compilers that are missing or fail, code on disk, and many solves at a time."""

from __future__ import annotations

import copy
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import odekit
from odekit._engine import c_library, tiers

DOUBLE = torch.float64
TIMES = torch.linspace(0, 1, 4, dtype=DOUBLE)
Y0 = torch.tensor([[1.0, 0.5], [0.2, -0.3], [2.0, 1.0]], dtype=DOUBLE)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y.sin() * torch.cos(t).reshape(-1, 1)


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch, native_alone: None, tmp_path: Path) -> Iterator[None]:
    """Nothing is known: no compiler, no code, in memory or on disk."""
    monkeypatch.setenv("ODEKIT_CACHE_DIR", str(tmp_path / "code"))
    monkeypatch.setattr(tiers, "_known", type(tiers._known)())
    monkeypatch.setattr(c_library, "_loaded", {})
    c_library.c_compiler.cache_clear()
    yield
    c_library.c_compiler.cache_clear()


def _solve(**options: object) -> odekit.Solution:
    with torch.no_grad():
        return odekit.solve(decay, Y0, TIMES, compile=True, **options)


def _eager() -> Tensor:
    with torch.no_grad():
        return odekit.solve(decay, Y0, TIMES).y


def _script(folder: Path, text: str) -> Path:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_no_compiler_is_said_once(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)

    with pytest.warns(odekit.CompileWarning, match="no C compiler was found; install") as seen:
        found = _solve()
    again = _solve()  # a warning would be an error

    assert len(seen) == 1
    assert found.stats.tier == again.stats.tier == "eager"
    assert torch.equal(found.y, _eager())


@pytest.mark.parametrize("text", ["exit 1", "exec /nowhere", "sleep 0; kill -9 $$"])
def test_compilers_that_do_not_work_are_passed_over(text, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CC", str(_script(tmp_path, text)))

    assert _solve().stats.tier == "native"


def test_a_compiler_that_fails_on_the_code(monkeypatch, tmp_path) -> None:
    answers = (
        'case "$*" in *-dM*) echo "#define X 1";; *) echo "error: no space" >&2; exit 1;; esac'
    )
    monkeypatch.setenv("CC", str(_script(tmp_path, answers)))

    with pytest.warns(odekit.CompileWarning, match="cc failed: error: no space"):
        found = _solve()

    assert found.stats.tier == "eager"
    assert torch.equal(found.y, _eager())


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("ODEKIT_CACHE_DIR", str(blocked / "code"))
    monkeypatch.setattr(c_library.tempfile, "gettempdir", lambda: str(tmp_path))

    assert _solve().stats.tier == "native"

    monkeypatch.setattr(tiers, "_known", type(tiers._known)())
    monkeypatch.setattr(c_library, "_loaded", {})
    monkeypatch.setattr(c_library.tempfile, "gettempdir", lambda: str(blocked))
    with pytest.warns(odekit.CompileWarning, match="neither written nor loaded"):
        assert _solve().stats.tier == "eager"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have no owner there")
def test_a_cache_that_others_may_write_is_not_used(monkeypatch, tmp_path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("ODEKIT_CACHE_DIR", str(shared))
    monkeypatch.setattr(c_library.tempfile, "gettempdir", lambda: str(tmp_path))

    assert _solve().stats.tier == "native"
    assert not list(shared.iterdir())


@pytest.mark.parametrize("damage", [b"", b"no library", None])
def test_damaged_code_is_compiled_again(damage, monkeypatch, tmp_path) -> None:
    _solve()
    (path,) = (tmp_path / "code").glob("*.so")
    whole = path.read_bytes()
    path = tmp_path / "other" / path.name  # what was loaded once is not read again
    path.parent.mkdir()
    path.write_bytes(whole[:200] if damage is None else damage)
    monkeypatch.setenv("ODEKIT_CACHE_DIR", str(path.parent))
    monkeypatch.setattr(tiers, "_known", type(tiers._known)())
    monkeypatch.setattr(c_library, "_loaded", {})

    assert _solve().stats.tier == "native"
    assert len(path.read_bytes()) > 1000


def test_code_is_found_on_disk(monkeypatch, tmp_path) -> None:
    _solve()
    monkeypatch.setattr(tiers, "_known", type(tiers._known)())
    monkeypatch.setattr(c_library, "_loaded", {})
    monkeypatch.setattr(c_library, "_compile", lambda *_: pytest.fail("it was compiled again"))

    assert _solve().stats.tier == "native"


PROGRAM = """
import torch, odekit
y0 = torch.tensor([[1.0, 0.5], [0.2, -0.3]], dtype=torch.float64)
with torch.no_grad():
    found = odekit.solve(lambda t, y: -y.sin(), y0, [0.0, 1.0], compile=True)
print(found.stats.tier, found.y[-1].sum().item())
"""


def test_two_processes_at_once(tmp_path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
        for _ in "12"
    ]
    said = [process.communicate(timeout=100)[0] for process in running]

    assert said[0] == said[1]
    assert said[0].startswith("native")
    assert len(list((tmp_path / "code").iterdir())) == 1


def test_two_threads_at_once() -> None:
    with torch.no_grad():
        fast = odekit.compile(decay, Y0, TIMES, rtol=1e-10)
        starts = [Y0 * (1 + i) for i in range(4)]
        want = [odekit.solve(decay, y0, TIMES, rtol=1e-10).y for y0 in starts]
    wrong: list[object] = []

    def work(i: int) -> None:
        with torch.no_grad():
            for _ in range(50):
                found = fast(starts[i], TIMES)
                if not torch.allclose(found.y, want[i], rtol=1e-9, atol=1e-9):
                    wrong.append(i)
                if found.stats.tier != "native":
                    wrong.append(found.stats.tier)
            odekit.solve(decay, starts[i], TIMES, compile=True, rtol=1e-10)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_goes_on_with_the_code() -> None:
    with torch.no_grad():
        fast = odekit.compile(decay, Y0, TIMES)
        want = fast(Y0, TIMES).y
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(fast(Y0, TIMES).y, want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(again) -> None:
    with torch.no_grad():
        fast = odekit.compile(decay, Y0, TIMES, per_sample=True)
        copied = again(fast)

        assert copied.tier == "native"
        assert torch.equal(copied(2 * Y0, TIMES).y, fast(2 * Y0, TIMES).y)


def test_other_shapes_and_structures_are_refused() -> None:
    with torch.no_grad():
        fast = odekit.compile(lambda t, y: {"a": -y["a"], "b": -y["b"]}, {"a": Y0, "b": Y0}, TIMES)

        for y0 in ({"a": Y0, "c": Y0}, (Y0, Y0), {"a": Y0, "b": Y0.float()}, {"a": Y0, "b": Y0[0]}):
            with pytest.raises(odekit.ProblemError, match="compiled for"):
                fast(y0, TIMES)
        with pytest.raises(odekit.ProblemError, match="compiled for"):
            fast({"a": Y0, "b": Y0}, TIMES[1:])


@pytest.mark.parametrize("name", ["rtoll", "compile", "engine"])
def test_options_that_solve_does_not_have_are_named(name: str) -> None:
    message = rf"odekit\.compile\(\) got an unexpected keyword argument '{name}'"
    with pytest.raises(TypeError, match=message):
        odekit.compile(decay, Y0, TIMES, **{name: None})


def test_a_tensor_of_another_shape_is_noticed() -> None:
    weight = torch.nn.Parameter(torch.ones(2, dtype=DOUBLE))
    with torch.no_grad():
        fast = odekit.compile(lambda t, y: -y * weight, Y0, TIMES)
        weight.data = torch.ones(1, dtype=DOUBLE)
        with pytest.warns(odekit.CompileWarning, match="a tensor that was"):
            found = fast(Y0, TIMES)

    assert found.stats.tier == "eager"


def test_memory_stays_as_it_is() -> None:
    with torch.no_grad():
        fast = odekit.compile(decay, Y0.repeat(50, 1), TIMES)
        for _ in range(200):
            fast(Y0.repeat(50, 1), TIMES)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(2000):
            fast(Y0.repeat(50, 1), TIMES)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert grown < 4096  # kilobytes; what each returns would be 20 times that


def test_what_is_known_is_limited(monkeypatch) -> None:
    monkeypatch.setattr(tiers, "KEPT", 3)
    with torch.no_grad():
        for i in range(5):
            odekit.solve(lambda t, y, k: -k * y, Y0, [0.0, 0.1], args=float(i), compile=True)

    assert len(tiers._known) == 3


def test_ctrl_c_ends_a_long_solve() -> None:
    def interrupt() -> None:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    with torch.no_grad():
        fast = odekit.compile(decay, Y0, [0.0, 1.0], step_size=1e-3, max_steps=1 << 40)
        thread = threading.Thread(target=interrupt)
        thread.start()
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            fast(Y0, [0.0, 1e7])
        thread.join()

    assert time.perf_counter() - start < 5
