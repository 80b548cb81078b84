"""``compile=True`` with fields as people write them: right, and in step with what changes."""

from __future__ import annotations

import math
import random
from array import array as plain_array
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import odekit

DOUBLE = torch.float64
TIMES = torch.linspace(0, 1, 4, dtype=DOUBLE)
RATE = 0.5
TABLE = {"rate": 0.5}


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


class _Network(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 5), *parts, nn.Tanh(), nn.Linear(5, 2))
        self.register_buffer("scale", torch.tensor([0.5, 2.0]))
        self.gain, self.sign = 1.0, {"of": [1.0]}

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        bent = self.layers(y) * self.scale * self.gain * self.sign["of"][0]
        return bent if self.training else 2 * bent


class _Oscillator:
    """No module; its method is the field."""

    def __init__(self, stiffness: float) -> None:
        self.stiffness = stiffness

    @property
    def damping(self) -> float:
        return RATE

    def damped(self, t: Tensor, y: Tensor) -> Tensor:
        return self.slope(t, y) - self.damping * y

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[..., 1], -self.stiffness * y[..., 0]], -1)


def _network(*parts: nn.Module) -> _Network:
    torch.manual_seed(0)
    return _Network(*parts).double()


def _energy(y: Tensor) -> Tensor:
    q, p = y.chunk(2, -1)
    return (0.5 * p**2 + torch.cosh(q) + q**4).sum()


MATRIX, WEIGHTS, ROW, TALL = _numbers(3, 3), _numbers(3, 3, seed=1), _numbers(3), _numbers(3, 1)
WHICH = torch.tensor([1, 0, 2])
MASK = torch.tensor([True, False, True])

NATIVE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradient of an energy": lambda t, y: torch.func.grad(_energy)(y),
    "square matrix": lambda t, y: torch.tanh(y @ MATRIX),
    "square matrix, turned": lambda t, y: torch.tanh(y @ MATRIX.T) @ WEIGHTS,
    "weights by entry": lambda t, y: -y * WEIGHTS,
    "weights by entry, turned": lambda t, y: -y * WEIGHTS.T,
    "weights of all kinds": lambda t, y: torch.sin(y @ MATRIX) * ROW + TALL - WEIGHTS[0],
    "weights by sample": lambda t, y: -y * TALL,
    "mean field": lambda t, y: y.mean(0) - y + 0 * t,
    "mean of all": lambda t, y: y.mean() - y,
    "order of entries": lambda t, y: -y[:, WHICH] * torch.flip(y, [1]).cos(),
    "some entries": lambda t, y: torch.where(MASK, -y, y.cos()),
    "written parts": lambda t, y: _assembled(y),
    "neighbours": lambda t, y: torch.roll(y, 1, -1) - 2 * y + torch.roll(y, -1, -1),
    "einsum": lambda t, y: torch.einsum("bi,ij->bj", y, MATRIX).sin(),
    "cross product": lambda t, y: torch.linalg.cross(y, ROW.expand_as(y)),
    "norm of each": lambda t, y: -y / (1 + y.norm(dim=-1, keepdim=True)),
    "switch": lambda t, y: torch.where(t > 0.5, -y, y.sin()),
    "softmax": lambda t, y: torch.softmax(y, -1) - y,
    "samples by number": lambda t, y: torch.tanh(y[[1, 0, 2]] * y[0]) - y,
    "array": lambda t, y: -y * float(np.array([0.25, 4.0])[1]),
}


def _assembled(y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    out[..., 0] = y[..., 1]
    out[..., 1:] = -y[..., :2].sin()
    out[..., 2] += 0.25
    return out


@pytest.mark.parametrize("name", [*NATIVE])
def test_fields_of_three_samples_of_three(name, compare) -> None:
    """As many samples as entries, so that nothing can be told by its length."""
    compare(NATIVE[name], _numbers(3, 3, seed=5), TIMES)


@pytest.mark.parametrize(
    "name",
    ["square matrix, turned", "weights by entry", "weights by sample", "weights of all kinds"],
)
def test_fields_of_three_lanes_of_three(name, compare) -> None:
    compare(NATIVE[name], _numbers(3, 3, seed=5), TIMES, per_sample=True)


def test_lanes_that_see_each_other_run_otherwise(compare) -> None:
    compare(NATIVE["mean of all"], _numbers(3, 3), TIMES, per_sample=True, tier="eager")


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (1, 1), (1,), (), (2, 3, 2), (40,)])
def test_shapes(shape, compare) -> None:
    compare(lambda t, y: -y.sin() + 0.1 * t, _numbers(*shape), TIMES)


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (1, 1), (2, 3, 2), (4,)])
def test_shapes_of_lanes(shape, compare) -> None:
    compare(lambda t, y: -y.sin() + 0.1 * y**2, _numbers(*shape), TIMES, per_sample=True)


def test_a_long_state_of_its_own_entries(compare) -> None:
    compare(lambda t, y: -y.sin(), _numbers(1000), TIMES)


@pytest.mark.parametrize(("length", "tier"), [(12, "native"), (40, "native"), (2000, "eager")])
def test_a_ring(length, tier, compare) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.roll(y, 1, 0) - 2 * y + torch.roll(y, -1, 0)

    compare(field, _numbers(length), TIMES, tier=tier)


def test_starts_of_all_strides(compare) -> None:
    y0 = _numbers(2, 3)
    for start in (y0.T, y0[:, ::2], y0[:, :1].expand(2, 2), y0.T.contiguous().T):
        matrix = _numbers(2 * start.shape[1], start.shape[1])[::2].T
        for per_sample in (False, True):
            compare(lambda t, y, a=matrix: torch.tanh(y @ a), start, TIMES, per_sample=per_sample)


def test_numbers_of_parameters_may_change(compare) -> None:
    field, y0 = _network(), _numbers(6, 2)
    first = compare(field, y0, TIMES)
    with torch.no_grad():
        for x in field.parameters():
            x.mul_(1.5)
    second = compare(field, y0, TIMES)
    field.layers[0].weight.data = _numbers(5, 2, seed=9)
    third = compare(field, y0, TIMES)
    field.scale = torch.tensor([1.0, -1.0], dtype=DOUBLE)
    fourth = compare(field, y0, TIMES)

    ends = [x.y[-1] for x in (first, second, third, fourth)]
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in pairwise(ends))


def test_settings_may_change(compare) -> None:
    field, y0 = _network(), _numbers(6, 2)
    compare(field, y0, TIMES)
    for change in (
        lambda: field.eval(),
        lambda: setattr(field, "gain", 0.25),
        lambda: field.sign.update(of=[-1.0]),
        lambda: field.layers.__setitem__(1, nn.Sigmoid()),
        lambda: field.register_forward_hook(lambda module, given, out: out + 1),
    ):
        change()
        compare(field, y0, TIMES)


def test_numbers_of_all_kinds_may_change(compare, monkeypatch) -> None:
    y0, k, array, whole = _numbers(6, 2), 0.5, np.array([0.5]), torch.tensor(2)
    oscillator, plain = _Oscillator(1.0), plain_array("d", [0.5])

    def field(t: Tensor, y: Tensor, factor: float = 1.0) -> Tensor:
        rate = k * RATE * TABLE["rate"] * float(array[0]) * plain[0]
        return -factor * rate * y**whole - oscillator.damped(t, y)

    for change in (
        lambda: None,
        lambda: monkeypatch.setitem(TABLE, "rate", 0.9),
        lambda: monkeypatch.setitem(globals(), "RATE", 0.9),
        lambda: array.__setitem__(0, 0.9),
        lambda: plain.__setitem__(0, 0.9),
        lambda: whole.fill_(3),
        lambda: setattr(field, "__defaults__", (2.0,)),
        lambda: monkeypatch.setattr(_Oscillator, "damping", 0.1),
    ):
        change()
        compare(field, y0, TIMES)
    k = 0.9
    compare(field, y0, TIMES)
    for stiffness in (1.0, 3.0):
        oscillator.stiffness = stiffness
        compare(oscillator.slope, y0, TIMES)
        compare(partial(lambda a, t, y: -a * y, stiffness), y0, TIMES)
        compare(partial(lambda t, y, a: -a * y, a=stiffness), y0, TIMES)


def test_fields_made_anew_need_no_code_of_their_own(compare, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(
        "odekit._engine.tiers.find_machine",
        lambda *args, find=odekit._engine.tiers.find_machine: made.append(1) or find(*args),
    )
    oscillator, y0 = _Oscillator(1.0), _numbers(6, 2)

    for seed in range(3):
        matrix = _numbers(2, 2, seed=seed)
        compare(lambda t, y, a=matrix: torch.tanh(y @ a), y0, TIMES)
        compare(lambda t, y: matrix[0] - y, y0, TIMES)  # noqa: B023
        compare(oscillator.slope, y0, TIMES)

    assert len(made) == 3


def test_arguments_may_be_others_in_every_call(compare) -> None:
    y0 = _numbers(6, 2)

    def field(t: Tensor, y: Tensor, args: Any) -> Tensor:
        a, (b, k, whole) = args["a"], args["rest"]
        return k * torch.tanh(y @ a) * b + whole

    for seed, k, whole in ((0, 1.0, 2), (1, 1.0, 2), (1, 0.5, 2), (1, 0.5, 3)):
        a, b = _numbers(2, 2, seed=seed), _numbers(2, seed=seed)
        args = {"a": a, "rest": (b, k, torch.tensor(whole))}
        compare(field, y0, TIMES, args=args)
        compare(field, y0, TIMES, args=args, per_sample=True)


def test_arguments_that_are_one_tensor_at_first(compare) -> None:
    y0, held = _numbers(6, 2), _numbers(2)

    def field(t: Tensor, y: Tensor, args: Any) -> Tensor:
        return args[0] - y * args[1] + held

    one, other = _numbers(2, seed=1), _numbers(2, seed=2)

    for args in ((one, one), (one, other), (held, other), (one, held)):
        compare(field, y0, TIMES, args=args)


def test_a_network_in_arguments(compare) -> None:
    network, y0 = _network(), _numbers(6, 2)

    for _ in range(2):
        compare(lambda t, y, net: net(t, y), y0, TIMES, args=network)
        network = _network(nn.Softplus())


REFUSED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a question of time": lambda t, y: -y if t > 0.5 else y,
    "time as a number": lambda t, y: -y * math.cos(float(t)),
    "time by NumPy": lambda t, y: -y * np.cos(t.numpy()),
    "a question of state": lambda t, y: -y if bool((y > 0).all()) else y,
    "a tensor's number": lambda t, y: -y * float(ROW[0]),
    "a tensor's numbers": lambda t, y: -y * ROW.tolist()[0],
    "a tensor's array": lambda t, y: -y * float(ROW.numpy()[0]),
    "a tensor's data": lambda t, y: -y * ROW.data[0],
    "a tensor of numbers": lambda t, y: -y * torch.tensor([ROW[0], ROW[1], ROW[2]]),
    "sorted": lambda t, y: torch.sort(y, -1).values,
}


@pytest.mark.parametrize("name", [*REFUSED])
def test_fields_that_run_otherwise(name, compare) -> None:
    found = compare(REFUSED[name], _numbers(3, 3), TIMES, tier="eager")

    assert found.success


def test_tensors_that_change_unseen(compare) -> None:
    row = ROW.clone()

    for _ in range(2):
        compare(lambda t, y: -y * row.tolist()[0] * row, _numbers(3, 3), TIMES, tier="eager")
        row.data.mul_(2)


def test_chance_is_left_to_the_ordinary_loop(code_folder, native_alone) -> None:
    generator = random.Random(0)
    fields = {
        "torch": lambda t, y: -y + 0.1 * torch.randn_like(y),
        "dropout": lambda t, y: nn.functional.dropout(-y, 0.5),
    }
    for field in fields.values():
        with torch.no_grad():
            found = odekit.solve(field, _numbers(3, 3), TIMES, step_size=0.1, compile=True)
        assert found.stats.tier == "eager"
    with torch.no_grad(), pytest.warns(odekit.CompileWarning, match="other numbers"):
        found = odekit.solve(
            lambda t, y: -y * generator.random(), _numbers(3, 3), TIMES, step_size=0.1, compile=True
        )
    assert found.stats.tier == "eager"


def test_fields_that_count_their_calls(compare) -> None:
    class Counted(nn.Module):
        calls = 0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return -y

    field = Counted()
    for _ in range(2):
        compare(field, _numbers(3, 3), TIMES, tier="eager")

    seen: list[Tensor] = []
    compare(lambda t, y: seen.append(t) or -y, _numbers(3, 3), TIMES, tier="eager")
    assert all(type(t) is Tensor for t in seen)


def test_complex_states_run_otherwise(compare) -> None:
    compare(lambda t, y: 1j * y, torch.complex(ROW, ROW), TIMES, tier="eager")


def test_parameters_without_gradients(compare) -> None:
    field = _network()
    with torch.inference_mode():
        y0 = _numbers(6, 2)
        found = odekit.solve(field, y0, TIMES, compile=True)
    with torch.no_grad():
        want = odekit.solve(field, _numbers(6, 2), TIMES)

    assert found.stats.tier == "native"
    torch.testing.assert_close(found.y, want.y)


def test_the_default_dtype_is_part_of_the_code(compare, monkeypatch) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -(y * torch.tensor(0.1)).to(y) * torch.full((), 0.1).to(y)

    before = torch.get_default_dtype()
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            compare(field, _numbers(3, 3), TIMES, rounding=1e-13)
    finally:
        torch.set_default_dtype(before)


def test_states_of_one_length_and_other_parts(compare) -> None:
    def field(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        first, second = y
        return torch.sin(first) * second.sum(), -second

    for cut in (1, 2, 3):
        numbers = _numbers(5)
        compare(field, (numbers[:cut], numbers[cut:]), TIMES)


def test_mixed_precision_is_left_to_the_ordinary_loop(compare) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare(lambda t, y: -y, _numbers(3, 3), TIMES, tier="eager")


def test_the_bits_of_numbers_are_left_to_the_ordinary_loop(compare) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y - (y.view(torch.int64) > torch.tensor(0.5, dtype=y.dtype).view(torch.int64)) * 0.3

    compare(field, torch.tensor([1.5, 0.9, 2.0], dtype=torch.float64), [0.0, 1.0], tier="eager")


def test_a_last_step_that_is_stretched_is_judged_like_any_other(compare) -> None:
    """The check looks at the first steps and at the seventeenth: that is the last one here."""
    y0 = torch.tensor([0.3, -0.7, 0.9], dtype=torch.float64)
    options = {"rtol": 1e-10, "atol": 1e-10}
    for i in range(15, 19):

        def field(t: Tensor, y: Tensor, rate: float = 1 + i / 100) -> Tensor:
            return -rate * y  # code that is known already is not checked again

        free = odekit.solve(field, y0, [0.0, 5.0], save="steps", **options).t
        end = float(free[i] + 1.08 * (free[i + 1] - free[i]))
        compare(field, y0, [0.0, end], tier="native", **options)
