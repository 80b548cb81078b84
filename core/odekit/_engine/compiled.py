"""The one module that names compilers: what there is, and how code becomes a function.

Nothing here is imported before somebody asks for ``compile=True``.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FLAGS = (
    *("-x", "c", "-std=gnu11", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno"),
    *("-fno-trapping-math", "-shared", "-fPIC"),
)
"""Nothing among them lets the compiler treat NaN or infinity as impossible, or reorder sums."""

_loaded: dict[str, Any] = {}
_lock = threading.Lock()


class NoCompiler(Exception):
    """There is none that works; the text says what was tried."""


@functools.cache
def c_compiler() -> tuple[str, str]:
    """The command of a C compiler, and what tells it and the processor from others.

    Raises:
        NoCompiler: none is installed.
    """
    wanted = [os.environ.get("CC"), "cc", "gcc", "clang", os.environ.get("CXX"), "g++", "clang++"]
    for name in wanted:
        found = shutil.which(name) if name else None
        if found is None:
            continue
        with _quiet():
            asked = subprocess.run(
                [found, "-march=native", "-Q", "--help=target", "--version"],
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
        return found, asked.stdout
    raise NoCompiler("no C compiler was found; install gcc or clang, or set CC")


class _quiet:
    """Translated messages would make one compiler look like several."""

    def __enter__(self) -> None:
        self.before = os.environ.get("LC_ALL")
        os.environ["LC_ALL"] = "C"

    def __exit__(self, *_: object) -> None:
        if self.before is None:
            del os.environ["LC_ALL"]
        else:
            os.environ["LC_ALL"] = self.before


def cache_folder() -> Path:
    """Where compiled code is kept: ``ODEKIT_CACHE_DIR``, or the user's own cache."""
    chosen = os.environ.get("ODEKIT_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "odekit"


def build(source: str, name: str = "solve") -> Callable[..., None]:
    """The function ``name`` of a file of C, from memory, from disk, or compiled now.

    The file on disk is named after the source, the compiler, its flags and the processor, so
    that it is never taken for another; several processes may build it at a time.

    Raises:
        NoCompiler: there is none, or it failed, with its first complaint.
    """
    command, identity = c_compiler()
    content = "\0".join((source, command, identity, *FLAGS, platform.machine(), sys.platform))
    key = hashlib.sha256(content.encode()).hexdigest()[:32]
    with _lock:
        library = _loaded.get(key)
        if library is None:
            library = _loaded[key] = _load(source, command, key)
    function = getattr(library, name)
    function.restype = None
    return function  # type: ignore[no-any-return]


def _load(source: str, command: str, key: str) -> Any:
    for folder in (cache_folder(), Path(tempfile.gettempdir()) / f"odekit-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = folder / f"{key}.so"
            if not path.exists():
                _compile(source, command, path)
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    raise NoCompiler(f"compiled code can be neither written nor loaded in {cache_folder()}")


def _compile(source: str, command: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        text, library = Path(folder) / "solve.c", Path(folder) / "solve.so"
        text.write_text(source)
        done = subprocess.run(
            [command, *FLAGS, str(text), "-o", str(library), "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            complaint = next((x for x in done.stderr.splitlines() if "error" in x), done.stderr)
            raise NoCompiler(f"{command} failed: {complaint.strip()[:200]}")
        library.replace(path)


def is_transformed() -> bool:
    """Whether this runs inside a transform of ``torch.func``."""
    return torch._C._functorch.peek_interpreter_stack() is not None
