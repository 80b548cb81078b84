"""How much memory a process holds: on its heap now, and at most while something runs in it.

Units: bytes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import gc
import multiprocessing
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from odekit.errors import IncompatibleError

BLOCK = 90
"""Bytes of a small object of Python, on average over what stored steps consist of."""


def resident_growth(work: Callable[[], Any], warm: Callable[[], Any]) -> int:
    """Bytes by which the peak of a fresh process grows when it does ``work``.

    The process is a copy of this one, so ``work`` may be any function. It runs on one thread.
    ``warm`` is run there first, something like ``work`` but small: code that is used for the first
    time counts as memory as well. The growth is what the allocator asked of the system, which may
    be twice what tensors hold.

    Raises:
        IncompatibleError: processes cannot be copied here, or not with a device in use.
        RuntimeError: ``work`` failed there.
    """
    if not sys.platform.startswith("linux"):
        raise IncompatibleError(f"processes=True needs Linux, this is {sys.platform}: leave it out")
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise IncompatibleError(
            "processes=True cannot copy a process that uses a CUDA device: leave it out"
        )
    gc.collect()
    _trim()  # what was freed but not returned would hide a growth
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads that are not used in there
        child = context.Process(target=_grow, args=(work, warm, send))
        child.start()
    send.close()
    try:
        answer = receive.recv()
    except EOFError:
        answer = "the process ended early, perhaps for lack of memory"
    child.join()
    receive.close()
    if not isinstance(answer, int):
        raise RuntimeError(str(answer))  # noqa: TRY004 - what came is the message of an error
    return answer


def _grow(work: Callable[[], Any], warm: Callable[[], Any], send: Connection) -> None:
    """In the child: the peak, which begins at what it has in common with its parent."""
    try:
        torch.set_num_threads(1)
        warm()
        before = _peak()
        work()
        send.send(_peak() - before)
    except Exception as error:
        send.send(f"{type(error).__name__}: {error}")


def _peak() -> int:
    import resource  # where there is one

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _trim() -> None:
    """Give freed memory back, where the C library can."""
    library = _c_library()
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@functools.cache
def _c_library() -> Any:
    name = ctypes.util.find_library("c")
    return ctypes.CDLL(name) if name else None


class _Heap(ctypes.Structure):
    """``struct mallinfo2`` of the GNU C library."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def heap_bytes() -> int | None:
    """Bytes that this process has on its heap and uses; None where the C library cannot tell.

    What is freed and kept by the allocator does not count, and garbage is collected first. Small
    objects of Python have a place of their own and are counted as `BLOCK` bytes each.

    Source: mallinfo2 in the GNU C Library Reference Manual, "Statistics for Memory Allocation with
        malloc".
    """
    library = _c_library()
    if library is None or not hasattr(library, "mallinfo2"):
        return None
    gc.collect()
    library.mallinfo2.restype = _Heap
    heap = library.mallinfo2()
    return int(heap.uordblks + heap.hblkhd) + BLOCK * sys.getallocatedblocks()
