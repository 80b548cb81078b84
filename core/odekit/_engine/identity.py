"""What a field is made of, as something that two calls can compare.

Code is made for a field as it was, and for solvers and controllers of certain settings. Tensors are read anew in every call, but numbers, settings and
functions have become part of the code; if one of them is another now, so must be the code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from odekit._engine import behind
from odekit.controller import StepController
from odekit.solver import Solver

LARGE = 1 << 16
"""Bytes of an array that are compared."""


class Identity:
    """The things behind a field, by value where they are plain and by identity where not.

    Attributes:
        marks: hashable; equal for two fields that do the same.
        kept: what the marks name, held so that nothing else can take its place.
        complete: whether everything was seen.
    """

    def __init__(self, *things: Any) -> None:
        self.marks: list[Any] = []
        self.kept: list[Any] = []
        self.complete = True
        seen: dict[int, int] = {}
        level: list[Any] = list(things)
        left = behind.COUNT
        for _ in range(behind.DEPTH):
            following: list[Any] = []
            for thing in level:
                left -= 1
                following += self._mark(thing, seen)
            if left < 0:
                self.complete = False
                return
            if not following:
                return
            level = following
        self.complete = False

    @property
    def key(self) -> tuple[Any, ...]:
        """All marks."""
        return tuple(self.marks)

    def _mark(self, thing: Any, seen: dict[int, int]) -> list[Any]:
        kind = type(thing)
        if kind in behind._ATOMS and kind not in (range, slice, property):
            plain = kind in (int, float, complex, str, bytes, bool)
            self.marks.append((kind, repr(thing)) if plain else id(thing))
            if not plain:
                self.kept.append(thing)
            return []
        if id(thing) in seen:
            self.marks.append(("again", seen[id(thing)]))
            return []
        seen[id(thing)] = len(seen)
        self.kept.append(thing)
        if issubclass(kind, Tensor):
            version = thing._version if not thing.dtype.is_floating_point else 0
            self.marks.append((id(thing), tuple(thing.shape), thing.dtype, version))
            return []
        if issubclass(kind, np.ndarray):
            self.complete = self.complete and thing.nbytes <= LARGE
            self.marks.append((id(thing), thing.tobytes() if thing.nbytes <= LARGE else b""))
            return []
        if issubclass(kind, Solver | StepController):
            self.marks.append((kind, tuple(vars(thing))))
            return list(vars(thing).values())
        if kind in (list, tuple, dict):
            self.marks.append(kind)
        else:
            self.marks.append((kind, id(thing)))
        if issubclass(kind, nn.Module):
            return self._module(thing)
        if issubclass(kind, dict):
            self.marks.append(tuple(map(repr, dict.keys(thing))))
        inside = list(behind._inside(thing, kind))
        self.marks.append(len(inside))
        if len(inside) >= behind.SERIES:
            self.complete = False
        return [*inside, *behind._shared(kind, set())]

    def _module(self, module: nn.Module) -> list[Any]:
        following: list[Any] = []
        for name, value in module.__dict__.items():
            self.marks.append(name)
            if isinstance(value, dict):
                self.marks.append(tuple(map(str, value)))
                following += value.values()
            else:
                following.append(value)
        kind = type(module)
        if not kind.__module__.startswith("torch."):
            following += behind._reached(kind, "forward")
            following += behind._shared(kind, set())
        return following
