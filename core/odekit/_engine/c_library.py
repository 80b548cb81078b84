"""A C compiler: whether there is one, and how C becomes a function, kept on disk.

Nothing here is imported before somebody asks for ``compile=True``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAGS = (
    *("-x", "c", "-std=gnu11", "-march=native", "-fopenmp-simd", "-fno-math-errno"),
    *("-fno-trapping-math", "-shared", "-fPIC", "-Werror=implicit-function-declaration"),
)
"""Nothing among them lets the compiler treat NaN or infinity as impossible, or reorder sums."""

LONG = 4000
"""Lines of code for which the compiler takes its time; more than that it may not."""

_loaded: dict[str, Any] = {}
_lock = threading.Lock()


class NoCompiler(Exception):
    """There is none that works; the text says what was tried."""


@functools.cache
def c_compiler() -> tuple[str, str]:
    """The command of a C compiler, and what tells it and the processor from others.

    Raises:
        NoCompiler: none works.
    """
    wanted = [os.environ.get("CC"), "cc", "gcc", "clang", os.environ.get("CXX"), "g++", "clang++"]
    untranslated = {**os.environ, "LC_ALL": "C"}
    for name in wanted:
        found = shutil.which(name) if name else None
        if found is None:
            continue
        command = [found, "-march=native", "-dM", "-E", "-x", "c", os.devnull]
        try:
            # All that is defined beforehand: the version, and what the processor can do.
            asked = subprocess.run(
                command, capture_output=True, text=True, timeout=30, env=untranslated, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return found, asked.stdout
    raise NoCompiler("no C compiler was found; install gcc or clang, or set CC")


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
    level = "-O3" if source.count("\n") < LONG else "-O1"
    content = "\0".join(
        (source, command, identity, level, *FLAGS, platform.machine(), sys.platform)
    )
    key = hashlib.sha256(content.encode()).hexdigest()[:32]
    with _lock:
        library = _loaded.get(key)
        if library is None:
            library = _loaded[key] = _load(source, (command, level), key)
    function = getattr(library, name)
    function.restype = None
    return function  # type: ignore[no-any-return]


def _load(source: str, command: tuple[str, str], key: str) -> Any:
    for folder in (cache_folder(), Path(tempfile.gettempdir()) / f"odekit-{_user()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _is_own(folder):
                continue
            path = folder / f"{key}.so"
            if path.exists():
                with contextlib.suppress(OSError):  # damaged, and written once more
                    return ctypes.CDLL(str(path))
            _compile(source, command, path)
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    raise NoCompiler(f"compiled code can be neither written nor loaded in {cache_folder()}")


def own_folder() -> Path | None:
    """The folder of compiled code, if there is one into which nobody else can put code."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder if _is_own(folder) else None
    except OSError:
        return None


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _is_own(folder: Path) -> bool:
    """Whether nobody else can put code there, which would run here."""
    if not hasattr(os, "getuid"):
        return True
    seen = folder.stat()
    return seen.st_uid in (os.getuid(), 0) and not seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _compile(source: str, command: tuple[str, str], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        text, library = Path(folder) / "solve.c", Path(folder) / "solve.so"
        text.write_text(source)
        done = subprocess.run(
            [*command, *FLAGS, str(text), "-o", str(library), "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            complaint = next((x for x in done.stderr.splitlines() if "error" in x), done.stderr)
            raise NoCompiler(f"{command[0]} failed: {complaint.strip()[:200]}")
        library.replace(path)
