"""Parameters that only later calls of the field use, wherever they are kept."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import odekit

F64 = torch.float64
LATE: dict[str, Any] = {}


class Plain:
    """An object with attributes, a method, and a call."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ choose(t, self.parts))

    __call__ = slope


class Slotted:
    __slots__ = ("parts",)


class Secret:
    """Out of reach of any search."""

    def __init__(self, parts: list[Tensor]) -> None:
        self._read = types.MethodType(lambda self: None, self)
        HIDDEN[id(self)] = parts

    @property
    def parts(self) -> list[Tensor]:
        return globals()["HIDDEN"][id(self)]


HIDDEN: dict[int, list[Tensor]] = {}


def choose(t: Tensor, parts: Any) -> Tensor:
    late = t.flatten()[0] >= 0.4
    return parts[1 if late else 0]


def by_dict(parts: list[Tensor]) -> Any:
    LATE["a"], LATE["b"] = parts
    return lambda t, y: torch.tanh(y @ LATE["b" if t.flatten()[0] >= 0.4 else "a"])


def by_list(parts: list[Tensor]) -> Any:
    return lambda t, y: torch.tanh(y @ choose(t, parts))


def by_attributes(parts: list[Tensor]) -> Any:
    held = Plain(a=Plain(b=Plain(c=Plain(parts=tuple(parts)))))
    return lambda t, y: torch.tanh(y @ choose(t, held.a.b.c.parts))


def by_slots(parts: list[Tensor]) -> Any:
    held = Slotted()
    held.parts = parts
    return lambda t, y: torch.tanh(y @ choose(t, held.parts))


def by_method(parts: list[Tensor]) -> Any:
    return Plain(parts=parts).slope


def by_call(parts: list[Tensor]) -> Any:
    return Plain(parts=parts)


def by_partial(parts: list[Tensor]) -> Any:
    return functools.partial(
        lambda parts, t, y: torch.tanh(y @ choose(t, parts)), {0: parts[0], 1: parts[1]}
    )


def by_default(parts: list[Tensor]) -> Any:
    def field(t: Tensor, y: Tensor, *, kept: Any = parts) -> Tensor:
        return torch.tanh(y @ choose(t, kept))

    return field


def by_module(parts: list[Tensor]) -> Any:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = parts

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(y @ choose(t, self.parts))

    return Net()


def by_secret(parts: list[Tensor]) -> Any:
    """Only the look at the end finds it."""
    held = Secret(parts)
    return lambda t, y: torch.tanh(y @ choose(t, held.parts))


PLACES = [
    by_dict,
    by_list,
    by_attributes,
    by_slots,
    by_method,
    by_call,
    by_partial,
    by_default,
    by_module,
    by_secret,
]
METHODS = ["discrete", "checkpointed", "forward", "interpolated", "adjoint", "auto", "reversible"]


def weights(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(3, 3, dtype=F64, generator=generator) for _ in range(count)]


def gradients(
    field: Any, parts: list[Tensor], method: str, jumps: list[float], *, per_sample: bool
) -> list[Tensor]:
    y0 = torch.tensor([[0.3, -0.2, 0.5]], dtype=F64, requires_grad=True)
    options: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
    options["controller"] = odekit.create("controller", "integral", jump_times=jumps)
    if method == "reversible":
        options["solver"] = odekit.create("solver", "reversible", solver="dopri5")
        options |= {"rtol": 1e-7, "atol": 1e-9}
    solution = odekit.solve(
        field, y0, [0.0, 0.3, 1.0], gradient=method, per_sample=per_sample, **options
    )
    loss = solution.y.square().sum() + solution.y[-1].sum()
    return list(torch.autograd.grad(loss, [y0, *parts], allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", PLACES)
def test_a_late_parameter_has_its_gradient(
    place: Callable[[list[Tensor]], Any], method: str
) -> None:
    parts = [w.requires_grad_() for w in weights(2)]
    field = place(parts)
    true = gradients(field, parts, "unrolled", [0.4], per_sample=False)
    found = gradients(field, parts, method, [0.4], per_sample=False)
    assert all(bool(x.any()) for x in true)
    torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_what_lies_between_two_jumps_is_seen(method: str, per_sample: bool) -> None:
    parts = [w.requires_grad_() for w in weights(3)]
    held = Secret(parts)

    def field(t: Tensor, y: Tensor) -> Tensor:
        now = float(t.flatten()[0])
        return torch.tanh(y @ held.parts[(now >= 0.4) + (now >= 0.7)])

    true = gradients(field, parts, "unrolled", [0.4, 0.7], per_sample=False)
    found = gradients(field, parts, method, [0.4, 0.7], per_sample=per_sample)
    torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_late_weight_that_was_computed(method: str) -> None:
    """Calls after the jump share its graph, which no call at the start shows."""
    first, code = (w.requires_grad_() for w in weights(2))
    parts = [first, (code * 0.5).tanh()]
    held = Secret(parts)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ choose(t, held.parts))

    true = gradients(field, [first, code], "unrolled", [0.4], per_sample=False)
    parts[1] = (code * 0.5).tanh()
    found = gradients(field, [first, code], method, [0.4], per_sample=False)
    torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-7)
