"""From Python functions of tensors to stages of C."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph

from odekit._engine.c_code import Array, Stage
from odekit._engine.compiled import decompositions
from odekit._engine.recording import NumbersUnread, Recording, SharedWrite
from odekit._engine.scalar_ops import PLAIN, Interpreter
from odekit._engine.scalars import Program, Unsupported, Value


@functools.cache
def _decompositions() -> Any:
    aten = torch.ops.aten
    return decompositions((aten.elu, aten.leaky_relu, aten._softmax, aten._log_softmax))


def _decomposition(operation: Any) -> Callable[..., Any] | None:
    """The operation in terms of others, down to those that `Interpreter` knows.

    The table takes a while to load, so that nobody looks who need not.
    """
    name = str(operation).split(".")[1].removesuffix("_")
    return None if name in PLAIN else _decompositions().get(operation)


AMBIGUOUS = 4
"""Tensors as long as the batch for which it is tried both to read them along it and not to."""


class Given(NamedTuple):
    """An input of a stage: an example, where C has it, and the axis of samples or lanes.

    ``where`` is an array, or the text of a single number.
    """

    example: Tensor
    where: Array | str
    loop: int | None = None


class Wanted(NamedTuple):
    """An output of a stage: the text of each of its numbers, and whether samples have their own."""

    places: list[str]
    dtype: torch.dtype
    looped: bool


def trace(function: Callable[..., Any], args: Sequence[Tensor]) -> Graph:
    """The graph of core operations of a function of tensors.

    Raises:
        Unsupported: it does something that a graph cannot say.
    """
    failures = []
    # What is written into views of a tensor is told apart by PyTorch, which takes its time.
    for pure in (function, torch.func.functionalize(function, remove="mutations_and_views")):
        given = [x.detach().clone() for x in args]
        recording = Recording(given, _decomposition)
        try:
            with torch.no_grad(), torch.random.fork_rng([]), NumbersUnread(), recording:
                outputs = pure(*given)
            return recording.end(outputs)
        except SharedWrite as error:
            failures.append(str(error))
        except Unsupported:
            raise
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            failures.append(f"it cannot be traced: {type(error).__name__}: {text}")
    raise Unsupported(failures[0])


class Outside:
    """Tensors from outside of all traced functions, which the code reads anew in every call.

    Attributes:
        tensors: those that were there when the code was made; `forget` drops them.
        kinds: the shape and dtype of each.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.kinds: list[tuple[tuple[int, ...], torch.dtype]] = []
        self.names: dict[int, str] = {}

    def name_of(self, tensor: Tensor) -> str:
        """Its name in C."""
        if id(tensor) not in self.names:
            self.names[id(tensor)] = f"x{len(self.tensors)}"
            self.tensors.append(tensor)
            self.kinds.append((tuple(tensor.shape), tensor.dtype))
        return self.names[id(tensor)]

    def forget(self) -> None:
        """Let go of the tensors; others will take their places."""
        self.tensors = []

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The numbers of these in their places, one after another in memory.

        Raises:
            Unsupported: one is of another kind than the code was made for.
        """
        for x, (shape, dtype) in zip(tensors, self.kinds, strict=True):
            same = x.shape == shape and x.dtype is dtype and x.layout is torch.strided
            if not same or x.device.type != "cpu":
                raise Unsupported(
                    f"a tensor that was {dtype} {list(shape)} is {x.dtype} {list(x.shape)} on "
                    f"{x.device} now"
                )
        return [x.detach().resolve_neg().contiguous() for x in tensors]


class _Reader:
    """Reads tensors from outside in one program.

    Args:
        program: that reads them.
        outside: where they are kept.
        still: which of those that are as long as the batch are not read along it, in the order
            in which they are met; the others are.
    """

    def __init__(self, program: Program, outside: Outside, still: Sequence[bool]) -> None:
        self.program, self.outside, self.still = program, outside, still
        self.met: list[str] = []
        self.places: dict[str, tuple[tuple[int, ...], int | None]] = {}

    def value(self, tensor: Tensor) -> Value:
        """The tensor as the program has it; whole numbers are part of the code.

        Raises:
            Unsupported: it is none that code could read.
        """
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise Unsupported(f"it reads a tensor that is {tensor.layout} on {tensor.device}")
        if not tensor.dtype.is_floating_point or tensor.numel() == 0:
            return self.program.constant(tensor.detach())
        name, shape, loop = self.outside.name_of(tensor), tuple(tensor.shape), None
        if self.program.length > 1 and self.program.length in shape:
            if name not in self.met:
                self.met.append(name)
            place = self.met.index(name)
            if place >= len(self.still) or not self.still[place]:
                loop = shape.index(self.program.length)
        self.places[name] = shape, loop
        return self.program.input(name, shape, tensor.dtype, loop=loop)

    def text(self, name: str, place: int) -> str:
        """How C reads one number."""
        shape, loop = self.places[name]
        index: list[int] = []
        for i in reversed(range(len(shape))):
            size = 1 if i == loop else shape[i]
            index.insert(0, place % size)
            place //= size
        offset = 0
        for i, n in zip(index, shape, strict=True):
            offset = offset * n + i
        if loop is None:
            return f"{name}[{offset}]"
        return f"{name}[{offset} + b * {math.prod(shape[loop + 1 :])}]"


def make_stage(
    function: Callable[..., Any],
    given: Sequence[Given],
    wanted: Callable[[list[Value]], list[Wanted]],
    outside: Outside,
    *,
    length: int,
    count: str | None,
) -> Stage:
    """Trace a function and write it as a stage.

    Args:
        function: of tensors, to a list of tensors.
        given: its inputs.
        wanted: from the values of its outputs to where they go.
        outside: collects other tensors that it reads.
        length: of the axis of samples or lanes; 1 for none.
        count: the length of the loop in C; None where the code is inside of it already.

    Raises:
        Unsupported: it cannot be written this way.
    """
    graph = trace(function, [x.example for x in given])
    first: Unsupported | None = None
    waiting: list[tuple[bool, ...]] = [(), (True,) * AMBIGUOUS]
    for still in waiting:
        program = Program(length)
        reader = _Reader(program, outside, still)
        arrays = {x.where.name: x.where for x in given if isinstance(x.where, Array)}
        try:
            values = [_entered(program, x) for x in given]
            outputs = Interpreter(program, reader.value).run(graph, values)
            targets = wanted(outputs)
            stores = _stores(program, outputs, targets, straight=count is None)
        except Unsupported as error:
            first = first or error
            if not reader.met:
                break
            if len(waiting) == 2 and still and len(reader.met) <= AMBIGUOUS:
                waiting += itertools.product((False, True), repeat=AMBIGUOUS)
            continue

        def read(
            name: str,
            place: int | None = None,
            arrays: dict[str, Array] = arrays,
            reader: _Reader = reader,
        ) -> str:
            if place is None:
                return name
            return arrays[name].at(place) if name in arrays else reader.text(name, place)

        return Stage(program, stores, read, count)
    raise first or Unsupported("it cannot be interpreted")


def _entered(program: Program, x: Given) -> Value:
    shape, dtype = tuple(x.example.shape), x.example.dtype
    if isinstance(x.where, str):
        return program.input(x.where, shape, dtype, loop=x.loop, scalar=True)
    return program.input(x.where.name, shape, dtype, loop=x.loop)


def _stores(
    program: Program, outputs: list[Value], targets: list[Wanted], *, straight: bool
) -> list[tuple[int, str, bool]]:
    stores = []
    for value, target in zip(outputs, targets, strict=True):
        lines = value.full()
        if lines.size != len(target.places):
            # What does not differ between samples stands for all of them.
            axis = next((i for i, n in enumerate(value.shape) if n == program.length), None)
            if axis is None or value.loop is not None:
                raise Unsupported("a result has another shape than expected")
            lines = lines.take([0], axis) if bool((lines == lines.take([0], axis)).all()) else lines
        flat = lines.reshape(-1)
        if len(flat) != len(target.places):
            raise Unsupported("a result has another shape than expected")
        for line, place in zip(flat, target.places, strict=True):
            cast = program.cast(line, target.dtype)
            if program.lines[cast].looped and not (target.looped or straight):
                raise Unsupported("something that differs between samples is kept for all at once")
            stores.append((cast, place, target.looped and not straight))
    return stores
