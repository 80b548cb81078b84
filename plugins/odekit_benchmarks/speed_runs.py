"""One problem of the speed benchmark from its name to the lines of its table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from odekit import ProblemError
from odekit_benchmarks import speed_memory, speed_odekit, speed_peers
from odekit_benchmarks.speed_floors import floors
from odekit_benchmarks.speed_problems import SYSTEM, Case, chaos, named, oscillators, training
from odekit_benchmarks.speed_tables import BASES, lines, timing_line
from odekit_benchmarks.speed_timing import Method, measure

PROBLEMS = ("P1", "P1-per-sample", "P2", "P3", "P4", "P5", "named")


@dataclass(frozen=True)
class Settings:
    """How all problems are run.

    Attributes:
        peers: those that take part.
        rounds: at most.
        limit: seconds for a problem.
        compiled: whether methods that compile take part.
        device: where torch computes.
        system: the system of the problem ``named``.
        stop: asked before each call.
        listen: told what is being measured, and the part of the problem that is done.
    """

    peers: Sequence[str]
    rounds: int
    limit: float
    compiled: bool
    device: torch.device
    system: str = SYSTEM
    stop: Callable[[], bool] = lambda: False
    listen: Callable[[str, float], None] = lambda name, share: None


def build(name: str, settings: Settings) -> Case:
    """The problem of a name, P5 excepted."""
    device = settings.device
    if name in ("P1", "P1-per-sample"):
        return oscillators(device, per_sample=name != "P1")
    if name in ("P2", "P3"):
        return training(device, large=name == "P3")
    return chaos(device) if name == "P4" else named(device, settings.system)


def run(name: str, settings: Settings) -> dict[str, Any]:
    """Measure one problem: name, title, lines and notes."""
    if name == "P5":
        return _memory(settings)
    case = build(name, settings)
    settings.listen("reference", 0.0)
    reference = case.reference()
    methods, notes = _methods(case, settings)
    timings, failed = measure(
        methods,
        rounds=settings.rounds,
        limit=settings.limit,
        stop=settings.stop,
        listen=settings.listen,
    )
    return {
        "name": case.name,
        "title": case.title,
        "kind": "training" if case.target is not None else "forward",
        "tolerance": case.tolerance,
        "device": settings.device.type,
        "dtype": str(case.y0.dtype).removeprefix("torch."),
        "lines": lines(case, timings, reference),
        "notes": notes + failed,
    }


def _methods(case: Case, settings: Settings) -> tuple[list[Method], list[str]]:
    """Everything that is timed; what cannot even be set up becomes a note."""
    compiled = settings.compiled
    methods, notes = speed_odekit.rows(case, compiled=compiled), []
    joined = set()
    for peer in settings.peers:
        try:
            methods += speed_peers.rows(case, peer, compiled=compiled)
            joined.add(peer)
        except ProblemError as error:
            notes.append(str(error))
        except Exception as error:
            notes.append(f"{peer} is left out: {type(error).__name__}: {error}")
    return [*methods, *floors(case, compiled=compiled, jax="diffrax" in joined)], notes


def _memory(settings: Settings) -> dict[str, Any]:
    device = settings.device
    found = speed_memory.contenders(list(settings.peers), compiled=settings.compiled)
    notes: list[str] = []
    memory: dict[str, dict[str, int]] = {}
    for i, contender in enumerate(found):
        settings.listen(f"memory, {contender.name}", i / len(found))
        try:
            memory[contender.name] = speed_memory.peaks(
                contender, device, speed_memory.STEPS, limit=settings.limit, stop=settings.stop
            )
        except Exception as error:
            notes.append(f"{contender.name}, memory: {type(error).__name__}: {error}")
    timings, failed = measure(
        speed_memory.methods(device, found, speed_memory.TIMED),
        rounds=settings.rounds,
        limit=settings.limit,
        stop=settings.stop,
        listen=settings.listen,
    )
    truth = speed_memory.reference(device).cpu()
    known = {timing.method.name: timing for timing in timings}
    base = {name: known[name] for name in BASES if name in known}
    made = []
    for contender in found:
        timing = known.get(contender.name)
        if timing is None or timing.reading is None:
            continue
        value = timing.reading.value.cpu().double()
        made.append(
            {
                **timing_line(timing, base),
                "memory": memory.get(contender.name, {}),
                "error": float((value - truth).norm() / truth.norm()),
                "inexact": speed_memory.inexactness(contender, speed_memory.EXACT),
            }
        )
    return {
        "name": "P5",
        "title": speed_memory.TITLE.format(steps=speed_memory.TIMED),
        "kind": "memory",
        "device": device.type,
        "dtype": "float32",
        "lines": made,
        "notes": notes + failed,
    }
