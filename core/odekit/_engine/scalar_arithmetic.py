"""Arithmetic on single numbers: what PyTorch's pointwise operations mean."""

from __future__ import annotations

from typing import Any, cast

import torch

from odekit._engine.scalars import Program, Unsupported, Value

ONE = frozenset(
    [
        "neg",
        "abs",
        "exp",
        "expm1",
        "exp2",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "sigmoid",
        "floor",
        "ceil",
        "round",
        "trunc",
        "sign",
        "erf",
        "erfc",
        "relu",
        "logical_not",
        "bitwise_not",
        "isnan",
        "isinf",
    ]
)
"""Of one number."""

TWO = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "maximum",
        "minimum",
        "pow",
        "atan2",
        "fmod",
        "remainder",
        "copysign",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "logical_and",
        "logical_or",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "hypot",
        "floor_divide",
    ]
)
"""Of two numbers."""

_COMPARES = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])
_ROUNDS = frozenset(["floor", "ceil", "round", "trunc"])
_WHOLE = frozenset(["fmod", "remainder", "pow", "floor_divide"])
"""They may fail for whole numbers, as a division by zero does."""


class Arithmetic:
    """Writes operations on numbers into a program.

    Args:
        program: where the lines go.
    """

    def __init__(self, program: Program) -> None:
        self.program = program

    def _value(self, x: Any, dtype: torch.dtype) -> Value:
        if isinstance(x, Value):
            return x
        return self.program.filled((), x, dtype)

    def pointwise(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value | None:
        """The value of an operation on each number; None if it is none of that kind."""
        program = self.program
        if name in _ROUNDS and not dtype.is_floating_point:
            return self.cast(args[0], dtype)
        if name == "bitwise_not" and dtype is not torch.bool:
            name = "invert"
        if (name in ONE or name == "invert") and len(args) == 1:
            kind = args[0].dtype if name in ("isnan", "isinf", "logical_not") else dtype

            def one(a: int) -> int:
                return program.add(name, (program.cast(a, kind),), dtype)

            return program.pointwise(one, [args[0]], shape, dtype)
        if name == "gelu":
            return self._gelu(args[0], options, shape, dtype)
        if name in TWO:
            return self.two(name, args, options, shape, dtype)
        if name == "where":
            return self._where(args, shape, dtype)
        if name in ("clamp", "clamp_min", "clamp_max", "hardtanh"):
            low, high = [*args[1:], None, None][:2]
            if name == "clamp_max":
                low, high = None, low
            low, high = options.get("min", low), options.get("max", high)
            value = args[0]
            for bound, op in ((low, "maximum"), (high, "minimum")):
                if bound is not None:
                    value = self.two(op, [value, bound], {}, shape, dtype)
            return value  # type: ignore[no-any-return]
        if name in ("addcmul", "addcdiv"):
            inner = self.two(name[-3:], args[1:3], {}, shape, dtype)
            factor = options.get("value", 1)
            return self.two("add", [args[0], inner], {"alpha": factor}, shape, dtype)
        if name == "lerp":
            gap = self.two("sub", [args[1], args[0]], {}, shape, dtype)
            return self.two(
                "add",
                [args[0], self.two("mul", [args[2], gap], {}, shape, dtype)],
                {},
                shape,
                dtype,
            )
        if name == "square":
            return self.two("mul", [args[0], args[0]], {}, shape, dtype)
        if name == "rsub":
            return self.two("sub", [args[1], args[0], *args[2:]], options, shape, dtype)
        if name == "nan_to_num":
            return self._without_nan(args, shape, dtype)
        if name == "isfinite":
            either = [self.pointwise(x, args, {}, shape, dtype) for x in ("isnan", "isinf")]
            either = [self.two("logical_or", either, {}, shape, dtype)]
            return self.pointwise("logical_not", either, {}, shape, dtype)
        return None

    def two(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value:
        """An operation on two numbers each, promoted as PyTorch does."""
        program = self.program
        mode = options.get("rounding_mode")
        risky = (mode or name in _WHOLE) and not dtype.is_floating_point
        if mode == "trunc" and not risky:
            whole = self.two("div", args, {}, shape, dtype)
            return cast("Value", self.pointwise("trunc", [whole], {}, shape, dtype))
        if mode == "floor":
            name = "floor_divide"
        if dtype is torch.bool:
            name = {"add": "or_", "mul": "and_"}.get(name, name)
        alpha = options.get("alpha", 1)
        if len(args) > 2 and name in ("add", "sub"):
            alpha = args[2]
        compares = name in _COMPARES
        kind = dtype
        if compares:
            kind = torch.result_type(*map(_sketched, args[:2]))
        elif name.startswith("logical"):
            kind = torch.bool
        left, right = (self._value(x, kind) for x in args[:2])
        scale = None if alpha == 1 else program.number(alpha, kind)
        power = args[1] if name == "pow" and not isinstance(args[1], Value) else None

        def two(a: int, b: int) -> int:
            a, b = program.cast(a, kind), program.cast(b, kind)
            if not kind.is_floating_point:
                known = self._whole(name, a, b, options, dtype)
                if known is not None:
                    return known
            if risky:
                raise Unsupported(f"it calls {name} on whole numbers")
            if power is not None:
                return self._power(a, power, b, dtype)
            if scale is not None:
                b = program.add("mul", (b, scale), kind)
            return program.add(name, (a, b), dtype)

        return program.pointwise(two, [left, right], shape, dtype)

    def _whole(
        self, name: str, a: int, b: int, options: dict[str, Any], dtype: torch.dtype
    ) -> int | None:
        """What PyTorch makes of two constant whole numbers, such as places that an index names."""
        lines = [self.program.lines[i] for i in (a, b)]
        function = getattr(torch, "div" if options.get("rounding_mode") else name, None)
        if function is None or any(line.op != "number" for line in lines):
            return None
        left, right = (torch.tensor(line.args[0], dtype=line.dtype) for line in lines)
        return self.program.number(function(left, right, **options).item(), dtype)

    def _power(self, a: int, power: Any, b: int, dtype: torch.dtype) -> int:
        """Small whole powers by products, as PyTorch has them up to the third."""
        program = self.program
        if power in (1, 2, 3):
            total = a
            for _ in range(int(power) - 1):
                total = program.add("mul", (total, a), dtype)
            return total
        if power == 0.5:
            return program.add("sqrt", (a,), dtype)
        if power == -1:
            return program.add("reciprocal", (a,), dtype)
        return program.add("pow", (a, b), dtype)

    def _where(self, args: list[Any], shape: Any, dtype: torch.dtype) -> Value:
        program = self.program
        values = [args[0], *(self._value(x, dtype) for x in args[1:])]

        def choose(c: int, a: int, b: int) -> int:
            lines = program.cast(c, torch.bool), program.cast(a, dtype), program.cast(b, dtype)
            return lines[1] if lines[1] == lines[2] else program.add("where", lines, dtype)

        return program.pointwise(choose, values, shape, dtype)

    def _gelu(self, x: Value, options: dict[str, Any], shape: Any, dtype: torch.dtype) -> Value:
        if options.get("approximate", "none") != "none":
            cube = self.two("pow", [x, 3], {}, shape, dtype)
            cube = self.two("add", [x, cube], {"alpha": 0.044715}, shape, dtype)
            inner = self.two("mul", [cube, 0.7978845608028654], {}, shape, dtype)
            inner = cast("Value", self.pointwise("tanh", [inner], {}, shape, dtype))
            half = self.two("mul", [x, 0.5], {}, shape, dtype)
            return self.two(
                "mul", [half, self.two("add", [inner, 1.0], {}, shape, dtype)], {}, shape, dtype
            )
        inner = self.two("mul", [x, 0.7071067811865476], {}, shape, dtype)
        erf = self.pointwise("erf", [inner], {}, shape, dtype)
        half = self.two("mul", [x, 0.5], {}, shape, dtype)
        return self.two(
            "mul", [half, self.two("add", [erf, 1.0], {}, shape, dtype)], {}, shape, dtype
        )

    def _without_nan(self, args: list[Any], shape: Any, dtype: torch.dtype) -> Value:
        x, nan, high, low = [*args, None, None, None][:4]
        info = torch.finfo(dtype)
        high, low = info.max if high is None else high, info.min if low is None else low
        is_nan = self.pointwise("isnan", [x], {}, shape, torch.bool)
        big = self.two("gt", [x, info.max], {}, shape, torch.bool)
        small = self.two("lt", [x, info.min], {}, shape, torch.bool)
        x = self._where([big, float(high), x], shape, dtype)
        x = self._where([small, float(low), x], shape, dtype)
        return self._where([is_nan, float(nan or 0.0), x], shape, dtype)

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """The same numbers in another dtype."""
        if value.dtype is dtype:
            return value
        cast = self.program.cast
        return self.program.pointwise(lambda a: cast(a, dtype), [value], value.shape, dtype)


def _sketched(x: Any) -> Any:
    """Something of the same dtype and of as many axes, for PyTorch's rules of promotion."""
    if not isinstance(x, Value):
        return x
    return torch.empty((1,) * len(x.shape), dtype=x.dtype, device="meta")
