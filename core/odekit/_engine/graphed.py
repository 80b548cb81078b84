"""The tier ``graph``: chunks of steps that were captured once, found again for the same field.

A captured chunk reads tensors where they lay when it was captured, so it serves a field as long
as that holds the same tensors, whose values may change in place.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from odekit._engine.captured import EXECUTORS, Executor, is_capturing
from odekit._engine.chunk_start import Beginning, check_scope
from odekit._engine.chunks import Chunk, run_chunks
from odekit._engine.identity import Identity
from odekit._engine.scalars import Mismatch, Unsupported
from odekit.problem import Problem, Trajectory

KEPT = 8
"""Captured chunks that are remembered, each with memory of its own on the device."""


@final
@dataclass(frozen=True)
class _Entry:
    """A chunk and what runs it, or None where there is none; and what its key names."""

    made: tuple[Chunk, Executor] | None
    held: Any


_known: OrderedDict[Any, _Entry] = OrderedDict()
_lock = threading.RLock()


def takes(device: torch.device) -> bool:
    """Whether solves there are run in chunks."""
    return device.type in EXECUTORS


def solve_graphed(
    problem: Problem, leaves: list[Any], identity: Identity, is_restless: Callable[[], bool]
) -> Trajectory | None:
    """Solve by a captured chunk; None where that was refused before, or does not end well.

    Args:
        problem: what is to be solved, without gradients.
        leaves: of the caller's ``args``.
        identity: what the field is made of, now.
        is_restless: whether calls of the field change that.

    Raises:
        Unsupported: for the first time, why another tier has to.
        Mismatch: likewise.
    """
    if is_capturing(problem.y0.device):
        return None
    key = _key(problem, leaves, identity)
    with _lock:
        refused = _known.get(key)
    if refused is not None and refused.made is None:
        return None
    try:
        with torch.no_grad():
            return _solved(key, problem, (identity, leaves), is_restless)
    except (Unsupported, Mismatch):
        _remember(key, _Entry(None, (identity.kept, leaves)))
        raise


def _solved(
    key: Any, problem: Problem, seen: tuple[Identity, list[Any]], is_restless: Callable[[], bool]
) -> Trajectory | None:
    identity, leaves = seen
    check_scope(problem)
    begin = Beginning(problem)
    key = key, begin.like()
    with _lock:
        entry = _known.get(key)
    if entry is None or entry.made is None:
        if is_restless():
            raise Unsupported("a call of the field changes something that it is made of")
        entry = _Entry(_made(problem, begin), (identity.kept, leaves))
        if _is_lasting(problem, identity, leaves):
            _remember(key, entry)
    if entry.made is None:
        return None
    return run_chunks(*entry.made, problem, begin)


def _made(problem: Problem, begin: Beginning) -> tuple[Chunk, Executor]:
    """A chunk and what runs it."""
    try:
        chunk = Chunk(problem, begin)
        buffers = chunk.buffers
        seen = [buffers.t, buffers.h, buffers.y, buffers.attempts, buffers.status]
        run = EXECUTORS[problem.y0.device.type]
        return chunk, run(chunk.run, chunk.flags, lambda: chunk.load(begin), seen)
    except (Unsupported, Mismatch):
        raise
    except Exception as error:  # the tiers after this one will say what is wrong with it
        text = str(error).strip().split("\n")[0]
        raise Unsupported(
            f"steps cannot be taken in chunks: {type(error).__name__}: {text[:200]}"
        ) from error


def _key(problem: Problem, leaves: list[Any], identity: Identity) -> Any:
    given = [x for x in leaves if isinstance(x, Tensor)]
    modes = (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.is_inference_mode_enabled(),
    )
    return (
        *(identity.key, identity.marks_of(leaves), tuple(map(id, given))),
        *(tuple(map(_address, (*identity.tensors, *given))), modes),
        *(getattr(problem.field, "layout", None), problem.per_sample, problem.save),
        *(problem.dense, problem.controlled, problem.observer is not None),
        *(tuple(problem.y0.shape), problem.y0.dtype, problem.y0.device, tuple(problem.t.shape)),
        *(_tolerance(x) for x in (problem.rtol, problem.atol)),
    )


def _address(x: Tensor) -> Any:
    return (x.data_ptr(), x.stride()) if x.layout is torch.strided else id(x)


def _tolerance(x: Any) -> Any:
    return tuple(x.shape) if isinstance(x, Tensor) else x


def _is_lasting(problem: Problem, identity: Identity, leaves: list[Any]) -> bool:
    """Whether a look at the field would tell if the captured chunk no longer is that field."""
    given = [x for x in leaves if isinstance(x, Tensor)]
    return identity.complete and all(
        x.device == problem.y0.device and x.layout is torch.strided
        for x in (*identity.tensors, *given)
    )


def _remember(key: Any, entry: _Entry) -> None:
    with _lock:
        _known[key] = entry
        _known.move_to_end(key)
        while len(_known) > KEPT:
            _known.popitem(last=False)
