"""How the speed benchmark measures: one core, one thread, methods in turn, first calls apart.

Every method has its turn in every round, so that slow drifts of the machine hit all alike, and
every round has an order of its own, so that nobody always follows the same one with its cold
caches; a turn is one call, or several of a method that is over in milliseconds, so that a single
hiccup does not count. What is told are medians and quartiles of the rounds, and ratios of medians
within one run. The first call of a method is timed by itself, since it may compile.

Units: seconds.
"""

from __future__ import annotations

import datetime
import gc
import os
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LEAST = 3
"""Rounds that every method gets, however slow it is."""

SHORT, MOST = 0.25, 20
"""A turn has as many calls as go into these seconds, one at least and at most so many."""

PACKAGES = (
    "odekit", "torch", "torchdiffeq", "torchode", "diffrax", "jax", "numpy", "scipy",
)  # fmt: skip

THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


@dataclass(frozen=True)
class Reading:
    """What one call of a method gave.

    Attributes:
        value: rows of the solution, or the flat gradient.
        evaluations: calls of the field with the whole batch, of the forward solve.
        accepted: steps kept, of the sample with the most.
        rejected: steps thrown away, likewise.
        tier: how much of the solve ran compiled, where the method says so.
    """

    value: Tensor
    evaluations: int | None = None
    accepted: int | None = None
    rejected: int | None = None
    tier: str = ""


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
        name: what it is called there.
        package: whose it is.
        call: what is timed; it returns when the device is done. That of a floor looks at the clock
            itself and returns the seconds of one evaluation of the field.
        read: from what ``call`` returned to a reading; None for a floor.
        floor: which floor bounds it: ``"eager"``, ``"compiled"`` or ``"jax"``.
        compiled: whether its first call compiles.
    """

    name: str
    package: str
    call: Callable[[], Any]
    read: Callable[[Any], Reading] | None = None
    floor: str = "eager"
    compiled: bool = False


@dataclass
class Timing:
    """What was measured of a method.

    Attributes:
        method: which.
        first: seconds of its first call.
        seconds: of a call in each round, the median where a round has several; of a floor, of
            one evaluation.
        spent: seconds of all later calls.
        reading: what the last call gave.
    """

    method: Method
    first: float
    seconds: list[float] = field(default_factory=list)
    spent: float = 0.0
    reading: Reading | None = None

    def add(self, calls: Sequence[float], result: Any) -> None:
        """Take note of the calls of one round."""
        floor = self.method.read is None
        self.seconds.append(float(result) if floor else statistics.median(calls))
        self.spent += sum(calls)


def measure(
    methods: Sequence[Method],
    *,
    rounds: int,
    limit: float,
    stop: Callable[[], bool] = lambda: False,
    listen: Callable[[str, float], None] = lambda name, share: None,
) -> tuple[list[Timing], list[str]]:
    """Time methods in turn.

    Args:
        methods: which; the order of first calls. Those of rounds are shuffled, always alike.
        rounds: calls of each, after those that warm it up.
        limit: seconds for all of them, shared equally: a method that has used its part gets no
            further round once it has had three. First calls do not count.
        stop: asked before each call; once it says true, no further one is made.
        listen: told the method's name and the part of the rounds that is done.

    Returns:
        What was measured, and a note for each method that failed and is left out.
    """
    timings: dict[str, Timing] = {}
    notes: list[str] = []
    last: dict[str, Any] = {}
    paces: dict[str, float] = {}
    budget = limit / max(len(methods), 1)
    for method in methods:
        if stop():
            break
        listen(method.name, 0.0)
        try:
            with _warnings_as_notes(method, notes):
                first, last[method.name] = _timed(method)
            timing = Timing(method, first)
            paces[method.name] = first
            if method.compiled or first < limit / 20:
                paces[method.name], _ = _timed(method)
            elif first > budget:  # nothing to warm up that would show in a call this long
                timing.add([first], last[method.name])
            timings[method.name] = timing
        except Exception as error:
            notes.append(_note(method, error))
    gc.collect()
    shuffle = random.Random(0).shuffle
    for i in range(rounds):
        turns = list(timings.values())
        shuffle(turns)
        for timing in turns:
            if stop():
                break
            name, taken = timing.method.name, len(timing.seconds)
            if taken >= rounds or (taken >= LEAST and timing.spent > budget):
                continue
            listen(name, i / rounds)
            try:
                calls, last[name] = _round(timing.method, paces[name])
                timing.add(calls, last[name])
            except Exception as error:
                notes.append(_note(timing.method, error))
                del timings[name]
    return _read(timings, last, notes), notes


@contextmanager
def _warnings_as_notes(method: Method, notes: list[str]) -> Iterator[None]:
    """What this package warns of in a first call, such as a tier that could not be had."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if warning.category.__module__.startswith("odekit"):
            text = f"{method.name}: {' '.join(str(warning.message).split())}"
            if text not in notes:
                notes.append(text)


def _round(method: Method, pace: float) -> tuple[list[float], Any]:
    """Seconds of the calls of one round: several of a method that is over at once."""
    count = 1 if method.read is None else max(1, min(MOST, int(SHORT / max(pace, 1e-9))))
    calls, result = [], None
    for _ in range(count):
        wall, result = _timed(method)
        calls.append(wall)
    return calls, result


def _timed(method: Method) -> tuple[float, Any]:
    """Seconds of one call, and what it gave."""
    start = time.perf_counter()
    result = method.call()
    return time.perf_counter() - start, result


def _read(timings: dict[str, Timing], last: dict[str, Any], notes: list[str]) -> list[Timing]:
    done = []
    for name, timing in timings.items():
        if not timing.seconds:  # stopped before
            continue
        try:
            if timing.method.read is not None:
                timing.reading = timing.method.read(last[name])
        except Exception as error:
            notes.append(_note(timing.method, error))
            continue
        done.append(timing)
    return done


def _note(method: Method, error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{method.name}: {type(error).__name__}: {text[:200]}"


def middle(timing: Timing) -> float:
    """Median of the rounds."""
    return statistics.median(timing.seconds)


def quartiles(timing: Timing) -> tuple[float, float]:
    """Lower and upper quartile, of one round twice itself."""
    if len(timing.seconds) < 2:
        return timing.seconds[0], timing.seconds[0]
    low, _, high = statistics.quantiles(timing.seconds, n=4, method="inclusive")
    return low, high


@contextmanager
def one_core() -> Iterator[int | None]:
    """One thread on one core, where the system allows it; gives the core, or None."""
    threads = torch.get_num_threads()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    environment = {name: os.environ.get(name) for name in THREADS}
    core = max(allowed) if allowed else None
    try:
        # For packages that are imported, and processes that are started, from here on.
        os.environ.update(THREADS)
        torch.set_num_threads(1)
        if core is not None:
            try:
                os.sched_setaffinity(0, {core})
            except OSError:
                core = None
        yield core
    finally:
        if core is not None:
            os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def machine(device: torch.device, core: int | None) -> dict[str, Any]:
    """What the figures depend on: processor, device, versions, threads, date."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "core": core,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
