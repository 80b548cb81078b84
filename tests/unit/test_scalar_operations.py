"""Operations on single numbers: each gives what PyTorch gives, special numbers included."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from odekit._engine.c_code import TYPES, Array, prelude
from odekit._engine.c_library import build
from odekit._engine.scalar_arithmetic import ONE, TWO
from odekit._engine.scalars import Unsupported
from odekit._engine.tracing import Given, Outside, Wanted, make_stage

Function = Callable[[Tensor, Tensor], Tensor]

NUMBERS = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.5, 0.3, -7.3, 40.0, -40.0, 1e-9, 3e5]
NUMBERS += [math.inf, -math.inf, math.nan]

REAL: dict[str, Function] = {
    name: lambda x, _, name=name: getattr(torch, name)(x)
    for name in sorted(ONE - {"relu", "bitwise_not", "logical_not", "isnan", "isinf"})
}
REAL |= {
    name: lambda x, y, name=name: getattr(torch, name)(x, y)
    for name in sorted(TWO)
    if not name.startswith(("bitwise", "logical"))
    and name not in ("eq", "ne", "lt", "le", "gt", "ge")
}
REAL |= {
    "relu": lambda x, _: torch.relu(x),
    "where": lambda x, y: torch.where(x > y, x, y),
    "where number": lambda x, y: torch.where(x > 0, 1.0, y),
    "clamp": lambda x, _: x.clamp(-1, 1.25),
    "clamp low": lambda x, _: x.clamp(min=0.25),
    "clamp high": lambda x, _: x.clamp(max=0.25),
    "clamp tensors": lambda x, y: torch.clamp(x, min=y, max=y + 1),
    "square": lambda x, _: x.square(),
    "cube": lambda x, _: x**3,
    "fourth": lambda x, _: x**4,
    "root": lambda x, _: x.abs() ** 0.5,
    "inverse power": lambda x, _: x**-1,
    "inverse square": lambda x, _: x**-2,
    "odd power": lambda x, _: x**1.7,
    "number to a power": lambda x, _: 2.0**x,
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.3),
    "addcdiv": lambda x, y: torch.addcdiv(x, x, y, value=0.3),
    "lerp": lambda x, y: torch.lerp(x, y, 0.25),
    "rsub": lambda x, _: 3 - x,
    "rsub scaled": lambda x, _: torch.rsub(x, 2.0, alpha=0.3),
    "rsub of tensors scaled": lambda x, y: torch.rsub(x, y, alpha=0.3),
    "sub scaled": lambda x, y: torch.sub(x, y, alpha=0.7),
    "divide floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "divide trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "divide by number": lambda x, _: x // 0.1,
    "remainder of number": lambda x, _: x % 0.1,
    "nan to num": lambda x, _: torch.nan_to_num(x, 1.0, 2.0, 3.0),
    "nan to largest": lambda x, _: torch.nan_to_num(x),
    "gelu": lambda x, _: functional.gelu(x.clamp(-50, 50)),
    "gelu by tanh": lambda x, _: functional.gelu(x, approximate="tanh"),
    "silu": lambda x, _: functional.silu(x),
    "softplus": lambda x, _: functional.softplus(x),
    "elu": lambda x, _: functional.elu(x),
    "leaky relu": lambda x, _: functional.leaky_relu(x),
    "hardtanh": lambda x, _: functional.hardtanh(x),
    "relu6": lambda x, _: functional.relu6(x),
    "mish": lambda x, _: functional.mish(x),
    "logsigmoid": lambda x, _: functional.logsigmoid(x),
    "sinc": lambda x, _: torch.sinc(x),
    "xlogy": lambda x, y: torch.xlogy(x, y),
    "logaddexp": lambda x, y: torch.logaddexp(x, y),
    "heaviside": lambda x, y: torch.heaviside(x, y),
    "degrees": lambda x, _: torch.rad2deg(x),
    "mixed with integers": lambda x, _: x * torch.arange(len(x)) + torch.tensor(2),
    "mixed with booleans": lambda x, y: x * (x > y) + (x <= y).sum(),
    "rounded to integers": lambda x, _: x.clamp(-9, 9).nan_to_num().int() * 0.5,
    "long way round": lambda x, _: x.clamp(-9, 9).nan_to_num().long().double().to(x.dtype) / 4,
    "boolean sums": lambda x, y: ((x > 0) + (y > 0)).to(x.dtype) + (x > 0).sum() * 1.0,
    "boolean products": lambda x, y: ((x > 0) * (y > 0)).to(x.dtype),
    "single in double": lambda x, _: x * torch.full((), 0.1, dtype=torch.float32).double().to(x),
    "compared with double": lambda x, _: x * (x > torch.tensor(0.3, dtype=torch.float64)),
    "compared with number": lambda x, _: x * (x >= 0.3),
    "compared with whole": lambda x, _: x * (x.nan_to_num().clamp(-5, 5).int() > 0.5),
    "softmax": lambda x, _: torch.softmax(x[:8], 0).repeat(3)[: len(x)],
    "max": lambda x, y: x * torch.amax(y[2:9]),
    "least and sum": lambda x, y: x * torch.amin(y[2:9]) + y[2:9].sum(),
    "product and mean": lambda x, y: x * y[2:9].prod() + y[2:9].mean(),
    "norms": lambda x, y: x * torch.linalg.vector_norm(y[2:9]) + y[2:9].norm(1),
    "greatest norm": lambda x, y: x * torch.linalg.vector_norm(y[2:9], ord=math.inf),
    "any and all": lambda x, y: x * torch.any(y > 0) + torch.all(y > 0),
    "stack and take": lambda x, y: torch.stack([x, y], -1)[:, 1] + torch.stack([x, y])[0],
    "join": lambda x, y: torch.cat([x[3:], y[:3]]),
    "pick": lambda x, _: x[torch.tensor([2, 0, -1] + [1] * (len(x) - 3))],
    "every third": lambda x, _: x.repeat(3)[torch.arange(len(x)) * 3 % 7],
    "every other": lambda x, _: torch.cat([x[::2], x[1::2]]),
    "roll": lambda x, _: torch.roll(x, 2, 0) - torch.roll(x, -1),
    "flip": lambda x, _: x.flip(0),
    "reshape": lambda x, y: torch.cat([x[:6].view(2, 3).T.reshape(-1), y[6:]]),
    "permute": lambda x, y: torch.cat([x[:8].view(2, 2, 2).permute(2, 0, 1).flatten(), y[8:]]),
    "expand": lambda x, y: x * y[:1].expand(len(x)),
    "split": lambda x, _: torch.cat([*torch.split(x, 5)[::-1]]),
    "chunk": lambda x, _: torch.cat([*torch.chunk(x, 4)[::-1]]),
    "unbind": lambda x, _: torch.stack([*x.unbind()][::-1]),
    "matrix product": lambda x, _: torch.cat(
        [(x[:4].view(2, 2) @ x[4:8].view(2, 2)).flatten(), x[8:]]
    ),
    "matrix by vector": lambda x, _: torch.cat([x[:4].view(2, 2) @ x[4:6], x[6:]]),
    "dot": lambda x, y: x * torch.dot(x[:7], y[:7]),
    "einsum": lambda x, _: torch.cat(
        [torch.einsum("ij,jk->ki", x[:4].view(2, 2), x[4:8].view(2, 2)).flatten(), x[8:]]
    ),
    "outer": lambda x, y: torch.outer(x[:3], y[:6]).flatten()[: len(x)],
    "cross": lambda x, y: torch.cat([torch.linalg.cross(x[2:5], y[2:5]), x[3:]]),
    "differences": lambda x, _: torch.cat([torch.diff(x), x[:1]]),
    "pad": lambda x, _: functional.pad(x[2:], (1, 1), value=2.5),
    "grid": lambda x, _: (
        x * torch.linspace(0, 1, len(x), dtype=x.dtype) + torch.eye(len(x)).to(x)[0]
    ),
    "written into": lambda x, y: _written(x, y),
    "masked": lambda x, y: x.masked_fill(y > 0, 7.0),
    "full": lambda x, y: torch.full_like(x, 0.1) + torch.ones_like(x) * y + x.new_zeros(1),
    "added in place": lambda x, y: (x * 1).add_(y).mul_(2),
    "triangle": lambda x, _: torch.cat([x[:9].view(3, 3).tril().flatten(), x[9:]]),
}
BOOLEAN: dict[str, Function] = {
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "logical_not": lambda x, _: torch.logical_not(x),
    "bitwise_and": lambda x, y: (x > 0) & (y > 0),
    "bitwise_or": lambda x, y: (x > 0) | (y > 0),
    "bitwise_xor": lambda x, y: (x > 0) ^ (y > 0),
    "bitwise_not": lambda x, _: ~(x > 0),
    "isnan": lambda x, _: torch.isnan(x),
    "isinf": lambda x, _: torch.isinf(x),
    "isfinite": lambda x, _: torch.isfinite(x),
    "signbit of integers": lambda x, _: ~x.nan_to_num().clamp(-5, 5).int() > 0,
}
REFUSED: dict[str, Function] = {
    "read": lambda x, _: x * float(x[0]),
    "asked": lambda x, _: x if x[0] > 0 else -x,
    "listed": lambda x, _: x * x.tolist()[0],
    "random": lambda x, _: x + torch.randn_like(x),
    "dropout": lambda x, _: functional.dropout(x, 0.5),
    "mask": lambda x, _: x.repeat(2)[torch.arange(2 * len(x)) % 2 == 0],
    "sorted": lambda x, _: torch.sort(x).values,
    "decimals": lambda x, _: torch.round(x, decimals=1),
    "half": lambda x, _: x.half().to(x.dtype),
    "complex": lambda x, _: torch.complex(x, x).real,
    "computed index": lambda x, _: x[x.nan_to_num().clamp(0, 1).long()],
    "whole division": lambda x, _: x.nan_to_num().clamp(1, 3).long() // 2 * x,
}


def _written(x: Tensor, y: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[0] = y[-1]
    out[1:5] = x[:4]
    out[5:] = 0
    out[5::2] += y[5::2]
    return out


def _listed(function: Function) -> Callable[[Tensor, Tensor], list[Tensor]]:
    return lambda x, y: [function(x, y)]


def _pairs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Every number, beside another one; together all that matter."""
    x = torch.tensor(NUMBERS, dtype=dtype)
    return x, x.roll(5)


class _Batch:
    """Many functions as one file of C, so that the compiler runs once."""

    def __init__(self, functions: dict[str, Function], dtype: torch.dtype) -> None:
        x, y = _pairs(dtype)
        self.args, self.wrong, texts = (x, y), dict[str, str](), ""
        self.want = {name: f(x, y) for name, f in functions.items()}
        for i, (name, f) in enumerate(functions.items()):
            given = [
                Given(v, Array(n, dtype, len(v), looped=False)) for v, n in ((x, "x"), (y, "y"))
            ]
            out, count = self.want[name].dtype, self.want[name].numel()

            def wanted(_: list[object], out: torch.dtype = out, n: int = count) -> list[Wanted]:
                return [Wanted([f"o[{k}]" for k in range(n)], out, looped=False)]

            try:
                stage = make_stage(_listed(f), given, wanted, Outside(), length=1, count=None)
            except Unsupported as reason:
                self.wrong[name] = str(reason)
                continue
            real = TYPES[dtype]
            texts += f"void f{i}(const {real} *x, const {real} *y, {TYPES[out]} *o) {{\n"
            texts += stage.text("  ") + "}\n"
        self.source, self.names = prelude(dtype) + texts, list(functions)

    def found(self, name: str) -> Tensor:
        function = build(self.source, f"f{self.names.index(name)}")
        out = torch.empty_like(self.want[name])
        pointers = (ctypes.c_void_p(v.data_ptr()) for v in (*self.args, out))
        function(*pointers)
        return out


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., _Batch]]:
    made: dict[tuple[int, torch.dtype], _Batch] = {}

    def batch(functions: dict[str, Function], dtype: torch.dtype) -> _Batch:
        key = id(functions), dtype
        if key not in made:
            made[key] = _Batch(functions, dtype)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ODEKIT_CACHE_DIR", str(tmp_path_factory.mktemp("code")))
        yield batch


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("name", [*REAL])
def test_numbers_are_those_of_pytorch(name, dtype, batches) -> None:
    batch = batches(REAL, dtype)
    assert name not in batch.wrong, batch.wrong[name]

    found, want = batch.found(name), batch.want[name]

    few = 40 * torch.finfo(dtype).eps
    scale = want.abs().nan_to_num(0.0, 0.0, 0.0).max() if name in ("norms",) else 0.0
    torch.testing.assert_close(found, want, rtol=few, atol=float(scale) * few, equal_nan=True)


@pytest.mark.parametrize("name", [*BOOLEAN])
def test_truths_are_those_of_pytorch(name, batches) -> None:
    batch = batches(BOOLEAN, torch.float64)
    assert name not in batch.wrong, batch.wrong[name]

    assert torch.equal(batch.found(name), batch.want[name])


@pytest.mark.parametrize("name", [*REFUSED])
def test_what_cannot_be_said_is_refused(name) -> None:
    x, y = _pairs(torch.float64)
    given = [Given(v, Array(n, v.dtype, len(v), looped=False)) for v, n in ((x, "x"), (y, "y"))]

    with pytest.raises(Unsupported):
        make_stage(
            _listed(REFUSED[name]),
            given,
            lambda _: [Wanted([f"o[{k}]" for k in range(len(x))], x.dtype, looped=False)],
            Outside(),
            length=1,
            count=None,
        )


def test_every_operation_is_tried() -> None:
    assert set(REAL) | set(BOOLEAN) >= ONE | TWO


ALONG = sorted(
    set(ONE | TWO) & {x for x in REAL if x.isidentifier()} - {"floor_divide", "remainder", "fmod"}
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_numbers_side_by_side(dtype, batches) -> None:
    """In a loop over samples the compiler takes several numbers at a time."""
    x, y = (v.repeat(4) for v in _pairs(dtype))
    functions = [REAL[name] for name in ALONG]
    want = torch.stack([f(x, y) for f in functions])
    given = [Given(v, Array(n, dtype, 1, looped=True), 0) for v, n in ((x, "x"), (y, "y"))]
    places = [Array("o", dtype, len(functions), looped=True).at(i) for i in range(len(functions))]

    def wanted(_: list[object]) -> list[Wanted]:
        return [Wanted([place], dtype, looped=True) for place in places]

    stage = make_stage(
        lambda a, b: [f(a, b) for f in functions],
        given,
        wanted,
        Outside(),
        length=len(x),
        count="COUNT",
    )
    real = TYPES[dtype]
    head = f"void f(const {real} *restrict x, const {real} *restrict y, {real} *restrict o)"
    function = build(
        f"{prelude(dtype)}{head} {{\nconst int64_t COUNT = {len(x)};\n{stage.text('  ')}}}\n", "f"
    )
    found = torch.empty_like(want)
    function(*(ctypes.c_void_p(v.data_ptr()) for v in (x, y, found)))

    for name, a, b in zip(ALONG, found, want, strict=True):
        few = 40 * torch.finfo(dtype).eps
        torch.testing.assert_close(
            a, b, rtol=few, atol=0, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )
