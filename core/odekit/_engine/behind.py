"""The tensors behind a field: in modules, containers and objects, and in what functions name.

Only what lies there is looked at; nothing is called, properties included. Of a function that is
what it closes over, its defaults, and the globals that its code names; of an object its
attributes, and what the methods name that a call of it reaches. The rest cannot be seen: what a
function imports or looks up by a computed name, and what lies deeper or further than is searched.
"""

from __future__ import annotations

import dis
import functools
import itertools
import sys
import types
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn

DEPTH = 8
"""Levels of things within things that are searched."""

COUNT = 16384
"""Things that are looked at, those nearest to the field first."""

SERIES = 4096
"""Those of them that may be in one list, so that a data set costs little and hides nothing."""

_ATOMS = frozenset(
    {int, float, complex, str, bytes, bool, type, range, slice, property}
    | {types.NoneType, types.EllipsisType, types.ModuleType, types.BuiltinFunctionType}
)
_CODE = frozenset(
    {types.FunctionType, property, staticmethod, classmethod, functools.cached_property}
    | {types.MemberDescriptorType, types.GetSetDescriptorType}
)
_LIBRARIES = (sys.stdlib_module_names | {"torch", "numpy", "scipy", "odekit"}) - {"__main__"}
"""Names there are no parameters of a field; what their functions close over may be."""

_HOLDERS = (types.SimpleNamespace, Namespace)
_SERIES: tuple[type[Iterable[Any]], ...] = (list, tuple, set, frozenset, deque)
_OWN = frozenset(nn.Module().__dict__)


class _Names(NamedTuple):
    """What a code names: globals, each with the attributes asked of it, and all attributes."""

    chains: tuple[tuple[str, ...], ...]
    attributes: frozenset[str]


_names: WeakKeyDictionary[types.CodeType, _Names] = WeakKeyDictionary()
_methods: WeakKeyDictionary[type, dict[str, tuple[types.FunctionType, ...]]] = WeakKeyDictionary()
_slots: WeakKeyDictionary[type, tuple[types.MemberDescriptorType, ...] | None] = WeakKeyDictionary()


def parameters_of(field: Any) -> list[Tensor]:
    """Tensors that ask for gradients and that the field depends on, as far as can be seen."""
    return [x for x in tensors_behind(field) if x.requires_grad]


def tensors_behind(field: Any) -> list[Tensor]:
    """Every tensor that is found there, constants included, each once and the nearest first."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    level, left = [field], COUNT
    for _ in range(DEPTH):
        following: list[Any] = []
        for thing in level:
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            kind = type(thing)  # not isinstance, which may ask the thing itself
            if issubclass(kind, Tensor):
                found[id(thing)] = thing
            elif issubclass(kind, nn.Module):
                _open_module(thing, found, seen, following)
            elif left > 0 and kind not in _ATOMS:
                inside = [*_inside(thing, kind), *_shared(kind, seen)]
                left -= len(inside)
                following += [x for x in inside if type(x) not in _ATOMS]
        if not following:
            break
        level = following
    return list(found.values())


def _open_module(
    module: nn.Module, found: dict[int, Tensor], seen: set[int], following: list[Any]
) -> None:
    """Parameters, buffers, and what its parts hold besides.

    A tensor that a module keeps as a plain attribute is taken only if it was not computed: it
    may as well be a result of the last call, whose graph is gone.
    """
    parts = list(module.modules())
    seen.update(map(id, parts))
    for store in ("_parameters", "_buffers"):
        for part in parts:
            for x in getattr(part, store).values():
                if x is not None:
                    found[id(x)] = x
    for part in parts:
        kind, own = type(part), part.__dict__
        if len(own) > len(_OWN):
            for name, value in own.items():
                if name in _OWN or type(value) in _ATOMS:
                    continue
                if not issubclass(type(value), Tensor) or value.is_leaf:
                    following.append(value)
        if not kind.__module__.startswith("torch."):
            following += _reached(kind, "forward")
            following += _shared(kind, seen)


def _shared(kind: type, seen: set[int]) -> Iterator[Any]:
    """The attributes of a class, once in a search; its functions are reached by name."""
    if id(kind) in seen:
        return
    seen.add(id(kind))
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] not in _LIBRARIES:
            for name, value in vars(base).items():
                if type(value) not in _CODE and not name.startswith("__"):
                    yield value


def _inside(thing: Any, kind: type) -> Iterable[Any]:
    """What a thing that is neither tensor nor module holds; of a long series the beginning."""
    if kind is types.FunctionType:
        return _captured(thing)
    if kind is types.MethodType:
        owner = thing.__self__
        reached = _reached(type(owner), getattr(thing.__func__, "__name__", ""))
        return (owner, thing.__func__, *reached)
    if issubclass(kind, functools.partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    for base in _SERIES:
        if issubclass(kind, base):
            return itertools.islice(base.__iter__(thing), SERIES)
    if issubclass(kind, dict):
        return itertools.islice(dict.values(thing), SERIES)
    return _held(thing, kind)


def _held(thing: Any, kind: type) -> Iterator[Any]:
    """The attributes of a plain object, and the functions that a call of it reaches."""
    if kind not in _slots:
        _slots[kind] = _slots_of(kind)
    slots = _slots[kind]
    if slots is None:
        return
    with suppress(AttributeError):
        yield from object.__getattribute__(thing, "__dict__").values()
    for slot in slots:
        with suppress(AttributeError):  # not set
            yield slot.__get__(thing)
    yield from _reached(kind, "__call__")


def _slots_of(kind: type) -> tuple[types.MemberDescriptorType, ...] | None:
    """Where objects of a class keep what is not in their ``__dict__``; None for those of others.

    What a library made is none of the user's, except where it is there to hold things or wraps
    a function.
    """
    root = kind.__module__.partition(".")[0]
    wraps = root == "functools" or issubclass(kind, staticmethod | classmethod)
    if root in _LIBRARIES - {"odekit"} and not issubclass(kind, _HOLDERS) and not wraps:
        return None
    members = (x for base in kind.__mro__ for x in vars(base).values())
    return tuple(x for x in members if isinstance(x, types.MemberDescriptorType))


def _captured(function: types.FunctionType) -> list[Any]:
    """Defaults, what a function closes over, its attributes, and the globals that it names."""
    found = list(function.__defaults__ or ())
    if function.__kwdefaults__:
        found += function.__kwdefaults__.values()
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that is bound later
            found.append(cell.cell_contents)
    found += function.__dict__.values()
    scope = function.__globals__
    if str(scope.get("__name__")).partition(".")[0] in _LIBRARIES:
        return found
    for first, *rest in _named(function.__code__).chains:
        value = scope.get(first)
        for name in rest:
            if type(value) is not types.ModuleType:
                break
            value = vars(value).get(name)
        found.append(value)
    return found


def _named(code: types.CodeType) -> _Names:
    names = _names.get(code)
    if names is None:
        names = _names[code] = _read(code)
    return names


def _read(code: types.CodeType) -> _Names:
    """The names in a code and in those nested in it."""
    chains: dict[tuple[str, ...], None] = {}
    attributes: set[str] = set()
    chain: tuple[str, ...] = ()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.add(instruction.argval)
            chain = (*chain, instruction.argval) if chain else ()
            continue
        if chain:
            chains[chain] = None
        named = instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
        chain = (instruction.argval,) if named else ()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _named(constant)
            chains |= dict.fromkeys(inner.chains)
            attributes |= inner.attributes
    return _Names(tuple(chains), frozenset(attributes))


def _reached(kind: type, entry: str) -> tuple[types.FunctionType, ...]:
    """The methods of a class that a call of ``entry`` may reach, itself included."""
    known = _methods.get(kind)
    if known is None:
        known = _methods[kind] = {}
    if entry not in known:
        known[entry] = tuple(_follow(kind, entry))
    return known[entry]


def _follow(kind: type, entry: str) -> Iterator[types.FunctionType]:
    members: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        members |= vars(base)
    waiting, seen = [entry], {entry}
    while waiting:
        method = members.get(waiting.pop())
        if isinstance(method, property):
            method = method.fget
        method = getattr(method, "__func__", method)
        if isinstance(method, types.FunctionType):
            yield method
            called = _named(method.__code__).attributes - seen
            seen |= called
            waiting += sorted(called)
