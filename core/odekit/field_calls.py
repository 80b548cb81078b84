"""A field whose calls are counted, and which stops answering when time is up.

Units: seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import nn

from odekit.field import State, VectorField
from odekit.solver import Solver


@final
class TooSlow(RuntimeError):
    """A solve that would take longer than anybody waits."""


@contextmanager
def counted(
    field: Callable[..., State], solver: Solver, limit: float
) -> Iterator[tuple[Callable[..., State], list[int]]]:
    """A field like the given one, and a count of its calls, which end when time is up.

    A solver that calls parts of a field, rather than the field, is neither counted nor ended.

    Args:
        field: any field.
        solver: what will call it.
        limit: seconds from now on.

    Yields:
        The field, whose calls raise `TooSlow` when time is up, and a list with their count.
    """
    calls, start = [0], time.perf_counter()

    def note(*_: Any) -> None:
        calls[0] += 1
        if time.perf_counter() - start > limit:
            raise TooSlow(f"given up after {limit:.3g} s and {calls[0]} evaluations")

    if isinstance(field, nn.Module):
        handle = field.register_forward_pre_hook(note)
        try:
            yield field, calls
        finally:
            handle.remove()
        return

    def noted(*inputs: Any) -> State:
        note()
        return field(*inputs)

    yield (noted if type(solver).field_type is VectorField else field), calls
