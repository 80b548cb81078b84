"""What a field is made of, as something that two calls can compare.

Code is made for a field as it was, and for solvers and controllers of certain settings. Tensors
are read anew in every call, but numbers, settings and functions have become part of the code; if
one of them is another now, so must be the code.
"""

from __future__ import annotations

import array
import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odekit._engine import behind
from odekit.controller import StepController
from odekit.solver import Solver

LARGE = 1 << 16
"""Bytes of an array that are compared."""

DEPTH = 32
"""Levels of things within things that are looked at."""


class Identity:
    """The things behind a field, by value where they are plain and by identity where not.

    Attributes:
        marks: hashable; equal for two fields that do the same with the tensors that they hold.
        kept: what the marks name, held so that nothing else can take its place.
        tensors: those that are held, in the order of sight.
        places: where each of them is in that order, by its ``id``.
        complete: whether everything was seen.
    """

    def __init__(self, *things: Any) -> None:
        self.marks: list[Any] = []
        self.kept: list[Any] = []
        self.complete = True
        self.tensors: list[Tensor] = []
        self.places: dict[int, int] = {}
        seen: dict[int, int] = {}
        level: list[Any] = list(things)
        left = behind.COUNT
        for _ in range(DEPTH):
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
        """All marks, and which tensors they are."""
        return (*self.marks, *self.places)

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
            self.places[id(thing)] = len(self.tensors)
            self.tensors.append(thing)
            self.marks.append(self._tensor(thing))
            return []
        if issubclass(kind, np.generic):
            self.marks.append((kind, thing.tobytes()))
            return []
        if issubclass(kind, bytearray | memoryview | array.array):
            self.marks.append((kind, bytes(thing)))
            return []
        if issubclass(kind, np.ndarray):
            self.complete = self.complete and thing.nbytes <= LARGE
            content = thing.tobytes() if thing.nbytes <= LARGE else b""
            self.marks.append((id(thing), thing.shape, thing.dtype.str, content))
            return []
        if issubclass(kind, Solver | StepController):
            self.marks.append((kind, tuple(vars(thing))))
            return list(vars(thing).values())
        if kind is types.FunctionType:  # made anew by every run of the code around it
            self.marks.append((kind, id(thing.__code__), id(thing.__globals__)))
        elif kind is functools.partial:
            self.marks.append((kind, len(thing.args), *thing.keywords))
        elif kind in (list, tuple, dict, types.MethodType) or issubclass(kind, nn.Module):
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
        return [*inside, *behind._shared(kind, set()), *_methods_of(kind)]

    def _tensor(self, x: Tensor) -> tuple[Any, ...]:
        """What code takes for granted; whole numbers and truths become part of it."""
        if x.dtype.is_floating_point or x.dtype.is_complex or x.layout is not torch.strided:
            return tuple(x.shape), x.dtype
        small = x.numel() * x.element_size() <= LARGE and x.device.type == "cpu"
        self.complete = self.complete and small
        content = x.detach().contiguous().numpy().tobytes() if small else b""
        return tuple(x.shape), x.dtype, content

    def marks_of(self, leaves: Iterable[Any]) -> tuple[Any, ...]:
        """What code takes for granted about tensors that are given anew in every call.

        A tensor that is given twice, or that the field holds as well, is one for the code.
        """
        first: dict[int, int] = {}
        found: list[Any] = []
        for i, x in enumerate(leaves):
            if isinstance(x, Tensor):
                first.setdefault(id(x), i)
                found.append((*self._tensor(x), first[id(x)], self.places.get(id(x))))
        return tuple(found)

    def _module(self, module: nn.Module) -> list[Any]:
        following: list[Any] = []
        for name, value in module.__dict__.items():
            if isinstance(value, dict):
                if value:
                    self.marks.append((name, *map(str, value)))
                    following += value.values()
            elif value.__class__ is bool:
                self.marks.append((name, value))
            elif name not in behind._OWN or value:
                self.marks.append(name)
                following.append(value)
        kind = type(module)
        if not kind.__module__.startswith("torch."):
            following += behind._shared(kind, set())
            following += _methods_of(kind)
        return following


def _methods_of(kind: type) -> Iterator[types.FunctionType]:
    """The functions of a class that is no library's; a field may call any, by any way."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in behind._LIBRARIES:
            continue
        for value in vars(base).values():
            for name in ("fget", "__func__", "func"):  # of properties, and of what is bound to none
                value = getattr(value, name, value)
            if value.__class__ is types.FunctionType:
                yield value
