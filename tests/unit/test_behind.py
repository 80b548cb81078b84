"""Which tensors are found behind a field, and that looking for them runs no code of the user's."""

from __future__ import annotations

import functools
import sys
import time
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

from odekit.solve import parameters_of


def new() -> Tensor:
    return torch.zeros((), requires_grad=True)


W = new()
LISTED = [new(), new()]
NAMED = {"a": new(), "b": {"c": (new(),)}}
SPACE = types.SimpleNamespace(inner=types.SimpleNamespace(w=new()))


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return {id(x) for x in found} == {id(x) for x in expected} and len(found) == len(expected)


def helper(y: Tensor) -> Tensor:
    return NAMED["a"] * y


@dataclass
class Held:
    w: Any


class Slotted:
    __slots__ = ("unset", "w")

    def __init__(self, w: Any) -> None:
        self.w = w


class Called:
    """Its parts are reached through methods and globals alone."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.slope(y)

    def slope(self, y: Tensor) -> Tensor:
        return LISTED[0] * self.gain * y

    @property
    def gain(self) -> Tensor:
        return SPACE.inner.w

    def other(self) -> Tensor:
        return W


def test_globals_that_the_code_names() -> None:
    assert same(parameters_of(lambda t, y: LISTED[0 if t < 0.5 else 1] * y), LISTED)
    assert same(parameters_of(lambda t, y: SPACE.inner.w * y), [SPACE.inner.w])
    deepest = NAMED["b"]["c"][0]  # type: ignore[call-overload, index]
    assert same(parameters_of(lambda t, y: NAMED["a"] * y), [NAMED["a"], deepest])  # type: ignore[list-item]
    assert same(parameters_of(lambda t, y: sum(w * y for w in LISTED)), LISTED)
    assert same(parameters_of(lambda t, y: helper(y)), [NAMED["a"], deepest])  # type: ignore[list-item]
    # An attribute of that name is another thing.
    assert parameters_of(lambda t, y: y.W) == []
    assert parameters_of(lambda t, y: -y) == []


def test_globals_of_a_module_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("weights")
    module.used, module.unused = [new()], new()  # type: ignore[attr-defined]
    monkeypatch.setitem(globals(), "weights", module)
    found = parameters_of(lambda t, y: weights.used[0] * y)  # type: ignore[name-defined] # noqa: F821
    assert same(found, module.used)


@pytest.mark.parametrize(
    "hold",
    [
        lambda w: [w],
        lambda w: (1, {"a": [w]}),
        lambda w: {w},
        lambda w: deque([w]),
        Held,
        Slotted,
        lambda w: Held(Slotted([Held(w)])),
        lambda w: types.SimpleNamespace(w=w),
        lambda w: functools.partial(lambda t, y, w: w * y, w=w),
        lambda w: lambda t, y: w * y,
        lambda w: functools.lru_cache(lambda: w),
    ],
)
def test_containers_and_objects(hold: Callable[[Tensor], Any]) -> None:
    w = new()
    held = hold(w)

    def default(t: Tensor, y: Tensor, *, kept: Any = held) -> Tensor:
        return y

    module = nn.Linear(1, 1)
    module.kept = held
    assert same(parameters_of(lambda t, y: held), [w])
    assert same(parameters_of(default), [w])
    assert same(parameters_of(held), [w])
    assert same(parameters_of(functools.partial(default, 1.0)), [w])
    assert same(parameters_of(nn.Sequential(module)), [*module.parameters(), w])


def test_objects_that_are_called_and_methods() -> None:
    expected = [*LISTED, SPACE.inner.w]
    assert same(parameters_of(Called()), expected)
    assert same(parameters_of(Called().slope), expected)
    assert any(x is W for x in parameters_of(Called().other))

    class Net(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return W * y

    assert same(parameters_of(Net()), [W])
    net = Net()
    assert same(parameters_of(lambda t, y: net(t, y)), [W])


def test_attributes_of_a_class() -> None:
    class Shared:
        parts = (new(), new())

        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return self.parts[0] * y

    class Net(nn.Linear, Shared):
        pass

    assert same(parameters_of(Shared()), list(Shared.parts))
    net = Net(1, 1)
    assert same(parameters_of(net), [*net.parameters(), *Shared.parts])


def test_a_module_keeps_results_of_its_last_call() -> None:
    net = nn.Linear(1, 1)
    net.last = net(torch.ones(1))
    assert same(parameters_of(net), list(net.parameters()))


def test_nothing_is_called() -> None:
    def fail(*_: Any) -> NoReturn:
        raise AssertionError

    class Trap:
        __getattr__ = __iter__ = __len__ = __eq__ = __bool__ = fail  # type: ignore[assignment]
        __hash__ = __call__ = __instancecheck__ = fail  # type: ignore[assignment]
        __class__ = property(fail)  # type: ignore[assignment]
        value = property(fail)

        def __init__(self) -> None:
            self.w = new()

    trap = Trap()
    assert same(parameters_of(lambda t, y: trap), [vars(trap)["w"]])


def test_cycles_and_crowds_end() -> None:
    w = new()
    ring = Held([w])
    ring.w.append(ring)
    assert same(parameters_of(lambda t, y: ring), [w])
    # A data set beside the parameters does not hide them, nor is it gone through.
    crowd = Held([[float(i) for i in range(1_000_000)], [Held(i) for i in range(100_000)], [w]])
    start = time.process_time()
    assert same(parameters_of(lambda t, y: crowd), [w])
    assert time.process_time() - start < 0.1
    assert parameters_of(lambda t, y: sys) == []


def test_a_library_is_not_searched() -> None:
    field = torch.vmap(lambda y: W * y)
    assert same(parameters_of(field), [W])
    assert (
        parameters_of(nn.functional.gelu)
        == parameters_of(nn.functional.multi_head_attention_forward)
        == []
    )
