"""What each of PyTorch's core operations means for single numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import Graph, Node

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

_SAME = frozenset(
    ["clone", "detach", "alias", "lift_fresh_copy", "lift_fresh", "contiguous", "_to_copy"]
)
_RESHAPES = frozenset(["view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "expand"])
_COMPARES = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])
_SEVERAL = frozenset(["unbind", "split", "split_with_sizes", "chunk"])
_ROUNDS = frozenset(["floor", "ceil", "round", "trunc"])
_WHOLE = frozenset(["fmod", "remainder", "pow", "floor_divide"])
"""They may fail for whole numbers, as a division by zero does."""

_OPTIONS = frozenset(
    (
        *("dtype", "device", "layout", "pin_memory", "memory_format", "non_blocking", "implicit"),
        *("alpha", "beta", "rounding_mode", "dim", "keepdim", "min", "max", "value"),
        *("approximate", "ord"),
    )
)
"""Options that are looked at, or that change no number."""

_BLANK = frozenset(
    (
        *("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty"),
        *("empty_permuted", "empty_strided", "new_empty_strided"),
    )
)
PLAIN = frozenset(
    (
        *(ONE | TWO | _SAME | _RESHAPES | _BLANK | _SEVERAL),
        *("where", "clamp", "clamp_min", "clamp_max", "addcmul", "addcdiv", "lerp", "square"),
        *(
            "rsub",
            "nan_to_num",
            "isfinite",
            "permute",
            "transpose",
            "t",
            "select",
            "slice",
            "cat",
            "stack",
            "index_select",
        ),
        *("ones", "ones_like", "new_ones", "full", "full_like", "new_full", "scalar_tensor"),
        *("mm", "bmm", "mv", "dot", "addmm", "sum", "mean", "linalg_vector_norm"),
    )
)
"""Operations that are read as they are, whatever else they could be made of."""

_FOLDS = {"sum": "add", "prod": "mul", "amax": "maximum", "amin": "minimum", "any": "or_"}


class Interpreter:
    """Reads a graph of core operations once and writes its program.

    Args:
        program: where the lines go.
        tensors: what a tensor from outside of the function is.
    """

    def __init__(self, program: Program, tensors: Callable[[Tensor], Value]) -> None:
        self.program, self.tensors = program, tensors

    def run(self, graph: Graph, inputs: Sequence[Value]) -> list[Any]:
        """The values of the graph's outputs."""
        known: dict[Node, Any] = {}
        waiting = iter(inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                known[node] = next(waiting)
            elif node.op == "get_attr":
                tensor = node.meta["val"]
                lifted = all("lift_fresh" in str(user.target) for user in node.users)
                known[node] = (
                    self.program.constant(tensor.detach()) if lifted else self.tensors(tensor)
                )
            elif node.op == "output":
                outputs = node.args[0]
                return [known[x] if isinstance(x, Node) else x for x in outputs]
            else:
                known[node] = self._call(node, known)
        raise Unsupported("the graph has no output")

    def _call(self, node: Node, known: dict[Node, Any]) -> Any:
        def look(x: Any) -> Any:
            if isinstance(x, Node):
                return known[x]
            if isinstance(x, list | tuple):
                return [look(i) for i in x]
            return x

        args = [look(x) for x in node.args]
        options = {k: look(v) for k, v in node.kwargs.items()}
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        if name not in _SAME:  # a view that may be written to apart from its base
            name = name.removesuffix("_copy")
        seen = node.meta.get("val")
        if isinstance(seen, Tensor):
            shape, dtype = tuple(seen.shape), seen.dtype
            if dtype.is_complex:
                raise Unsupported("it has complex numbers")
            if not all(isinstance(n, int) for n in shape):
                raise Unsupported(f"the shape of {name} depends on numbers")
        elif name in _SEVERAL:
            shape, dtype = (), torch.float64
        else:
            raise Unsupported(f"it calls {name}, which has no such form")
        strange = sorted(set(options) - _OPTIONS)
        if strange:
            raise Unsupported(f"it calls {name} with {', '.join(strange)}")
        found = self._pointwise(name, args, options, shape, dtype)
        if found is None:
            found = self._moved(name, args, options, shape, dtype)
        if found is None:
            found = self._made(name, args, options, shape, dtype)
        if found is None:
            found = self._summed(name, args, options, shape, dtype)
        if found is None:
            raise Unsupported(f"it calls {name}, which has no such form")
        return found

    # Arithmetic.

    def _value(self, x: Any, dtype: torch.dtype) -> Value:
        if isinstance(x, Value):
            return x
        return self.program.filled((), x, dtype)

    def _pointwise(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value | None:
        program = self.program
        if name in _ROUNDS and not dtype.is_floating_point:
            return self._cast(args[0], dtype)
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
            return self._two(name, args, options, shape, dtype)
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
                    value = self._two(op, [value, bound], {}, shape, dtype)
            return value  # type: ignore[no-any-return]
        if name in ("addcmul", "addcdiv"):
            inner = self._two(name[-3:], args[1:3], {}, shape, dtype)
            factor = options.get("value", 1)
            return self._two("add", [args[0], inner], {"alpha": factor}, shape, dtype)
        if name == "lerp":
            gap = self._two("sub", [args[1], args[0]], {}, shape, dtype)
            return self._two(
                "add",
                [args[0], self._two("mul", [args[2], gap], {}, shape, dtype)],
                {},
                shape,
                dtype,
            )
        if name == "square":
            return self._two("mul", [args[0], args[0]], {}, shape, dtype)
        if name == "rsub":
            return self._two("sub", [args[1], args[0]], options, shape, dtype)
        if name == "nan_to_num":
            return self._without_nan(args, shape, dtype)
        if name == "isfinite":
            either = [self._pointwise(x, args, {}, shape, dtype) for x in ("isnan", "isinf")]
            either = [self._two("logical_or", either, {}, shape, dtype)]
            return self._pointwise("logical_not", either, {}, shape, dtype)
        return None

    def _two(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value:
        program = self.program
        mode = options.get("rounding_mode")
        risky = (mode or name in _WHOLE) and not dtype.is_floating_point
        if mode == "trunc" and not risky:
            whole = self._two("div", args, {}, shape, dtype)
            return cast("Value", self._pointwise("trunc", [whole], {}, shape, dtype))
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
            cube = self._two("pow", [x, 3], {}, shape, dtype)
            cube = self._two("add", [x, cube], {"alpha": 0.044715}, shape, dtype)
            inner = self._two("mul", [cube, 0.7978845608028654], {}, shape, dtype)
            inner = cast("Value", self._pointwise("tanh", [inner], {}, shape, dtype))
            half = self._two("mul", [x, 0.5], {}, shape, dtype)
            return self._two(
                "mul", [half, self._two("add", [inner, 1.0], {}, shape, dtype)], {}, shape, dtype
            )
        inner = self._two("mul", [x, 0.7071067811865476], {}, shape, dtype)
        erf = self._pointwise("erf", [inner], {}, shape, dtype)
        half = self._two("mul", [x, 0.5], {}, shape, dtype)
        return self._two(
            "mul", [half, self._two("add", [erf, 1.0], {}, shape, dtype)], {}, shape, dtype
        )

    def _without_nan(self, args: list[Any], shape: Any, dtype: torch.dtype) -> Value:
        x, nan, high, low = [*args, None, None, None][:4]
        info = torch.finfo(dtype)
        high, low = info.max if high is None else high, info.min if low is None else low
        is_nan = self._pointwise("isnan", [x], {}, shape, torch.bool)
        big = self._two("gt", [x, info.max], {}, shape, torch.bool)
        small = self._two("lt", [x, info.min], {}, shape, torch.bool)
        x = self._where([big, float(high), x], shape, dtype)
        x = self._where([small, float(low), x], shape, dtype)
        return self._where([is_nan, float(nan or 0.0), x], shape, dtype)

    # Moving data about.

    def _moved(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Any:
        if name in _SAME:
            return self._cast(args[0], dtype)
        if name in _RESHAPES:
            return _reshaped(args[0], shape)
        if name in ("permute", "transpose", "t", "numpy_T"):
            return _permuted(name, args, shape)
        if name == "select":
            return _taken(args[0], args[1], int(args[2]), shape)
        if name == "slice":
            dim, start, end, step = _filled(args[1:], (0, None, None, 1))
            return _sliced(args[0], dim, slice(start, end, step), shape)
        if name == "flip":
            value = args[0]
            for dim in args[1]:
                value = _sliced(value, dim, slice(None, None, -1), shape)
            return value
        if name in _SEVERAL:
            return self._pieces(name, args, options)
        if name in ("cat", "stack"):
            dim = args[1] if len(args) > 1 else options.get("dim", 0)
            return self._joined(name, [self._cast(x, dtype) for x in args[0]], dim, shape, dtype)
        if name in ("index_select", "index", "gather"):
            return self._indexed(name, args, shape)
        if name in ("select_scatter", "slice_scatter"):
            return self._scattered(name, args, shape, dtype)
        if name == "copy":
            return self._cast(_reshaped(args[1], shape), dtype)
        if name == "repeat":
            lines = np.tile(args[0].full(), args[1]) if args[0].loop is None else None
            return None if lines is None else Value(shape, lines, None, dtype)
        return None

    def _cast(self, value: Value, dtype: torch.dtype) -> Value:
        if value.dtype is dtype:
            return value
        cast = self.program.cast
        return self.program.pointwise(lambda a: cast(a, dtype), [value], value.shape, dtype)

    def _pieces(self, name: str, args: list[Any], options: dict[str, Any]) -> list[Value]:
        value = args[0]
        at = 1 if name == "unbind" else 2
        dim = (args[at] if len(args) > at else options.get("dim", 0)) % len(value.shape)
        length = value.shape[dim]
        if name == "unbind":
            shape = value.shape[:dim] + value.shape[dim + 1 :]
            return [_taken(value, dim, i, shape) for i in range(length)]
        sizes = args[1]
        if name == "chunk":
            sizes = -(-length // sizes)
        if isinstance(sizes, int):
            sizes = [min(sizes, length - i) for i in range(0, length, sizes)]
        found, begin = [], 0
        for size in sizes:
            shape = (*value.shape[:dim], size, *value.shape[dim + 1 :])
            found.append(_sliced(value, dim, slice(begin, begin + size), shape))
            begin += size
        return found

    def _joined(
        self, name: str, values: list[Value], dim: int, shape: Any, dtype: torch.dtype
    ) -> Value:
        rank = len(shape)
        dim %= rank
        parts, loop = [], None
        if name == "cat":
            values = [v for v in values if len(v.shape) == rank]
        for value in values:
            lines, here = value.full(), value.loop
            if name == "stack":
                lines = np.expand_dims(lines, dim)
                if here is not None and here >= dim:
                    here += 1
            if here is not None:
                if here == dim or loop not in (None, here):
                    raise Unsupported("samples are joined along the batch")
                loop = here
            parts.append(lines)
        if loop is not None:
            # What does not differ from sample to sample stands for all of them.
            for i, value in enumerate(values):
                if value.loop is None:
                    parts[i] = _collapsed(parts[i], loop)
        return Value(tuple(shape), np.concatenate(parts, dim), loop, dtype)

    def _indexed(self, name: str, args: list[Any], shape: Any) -> Value:
        value = args[0]
        if name == "index_select":
            index = self._numbers(args[2])
            return _sliced(value, args[1], index, shape)
        if name == "gather":
            raise Unsupported("it calls gather")
        places = [None if i is None else self._numbers(i) for i in args[1]]
        used = [i for i, p in enumerate(places) if p is not None]
        if value.loop in used:
            raise Unsupported("it picks samples by index")
        key = tuple(slice(None) if p is None else p for p in places)
        first = used[0]
        if used != list(range(first, first + len(used))):
            raise Unsupported("it indexes by tensors in separate axes")
        lines = value.full()[key]
        loop = value.loop
        if loop is not None and loop > first:
            loop += lines.ndim - value.lines.ndim
        return Value(tuple(shape), lines, loop, value.dtype)

    def _numbers(self, value: Value) -> Any:
        """The numbers of a tensor that is constant."""
        lines = [self.program.lines[i] for i in value.full().reshape(-1)]
        if value.loop is not None or any(line.op != "number" for line in lines):
            raise Unsupported("it indexes by numbers that are computed")
        kind = np.bool_ if value.dtype is torch.bool else np.int64
        return np.array([line.args[0] for line in lines], dtype=kind).reshape(value.shape)

    def _scattered(self, name: str, args: list[Any], shape: Any, dtype: torch.dtype) -> Value:
        """``args[0]`` with a part overwritten by ``args[1]``."""
        value, part = args[0], self._cast(args[1], dtype)
        dim = (args[2] if len(args) > 2 else 0) % len(shape)
        if name == "select_scatter":
            place: Any = slice(args[3], args[3] + 1) if args[3] != -1 else slice(-1, None)
            part = _reshaped(part, (*shape[:dim], 1, *shape[dim + 1 :]))
        else:
            start, end, step = _filled(args[3:], (None, None, 1))
            place = slice(start, end, step)
        loop = value.loop if value.loop is not None else part.loop
        if loop == dim or (part.loop is not None and part.loop != loop):
            raise Unsupported("it writes into single samples")
        lines = value.full()
        if value.loop is None and loop is not None:
            lines = _collapsed(lines, loop)
        lines = lines.copy()
        new = part.full()
        if part.loop is None and loop is not None:
            new = _collapsed(new, loop)
        lines[(slice(None),) * dim + (place,)] = new
        return Value(tuple(shape), lines, loop, dtype)

    # Making tensors.

    def _made(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value | None:
        program = self.program
        if name in _BLANK:
            return program.filled(shape, 0, dtype)
        if name in ("ones", "ones_like", "new_ones"):
            return program.filled(shape, 1, dtype)
        if name in ("full", "full_like", "new_full", "scalar_tensor"):
            number = args[0] if name == "scalar_tensor" else args[-1]
            if isinstance(number, Value):
                return _reshaped(self._cast(number, dtype), shape)
            return program.filled(shape, number, dtype)
        if name in ("arange", "eye", "linspace", "logspace"):
            return program.constant(getattr(torch, name)(*args, dtype=dtype))
        if name == "fill":
            return self._made("full_like", args, options, shape, dtype)
        if name == "constant_pad_nd":
            return self._padded(args, shape, dtype)
        return None

    def _padded(self, args: list[Any], shape: Any, dtype: torch.dtype) -> Value:
        """``args[0]`` with numbers before and behind it, the last axis first."""
        value, widths, number = _filled(args, (None, None, 0))
        for i in range(len(widths) // 2):
            dim = len(shape) - 1 - i
            parts = []
            for part in (widths[2 * i], None, widths[2 * i + 1]):
                if part is not None and part < 0:
                    raise Unsupported("it pads by less than nothing")
                size = (*value.shape[:dim], part, *value.shape[dim + 1 :])
                parts.append(value if part is None else self.program.filled(size, number, dtype))
            parts = [x for x in parts if x.shape[dim]]
            wide = (*value.shape[:dim], shape[dim], *value.shape[dim + 1 :])
            if len(parts) > 1:
                value = self._joined("cat", parts, dim, wide, dtype)
        return cast("Value", value)

    # Sums.

    def _summed(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value | None:
        program = self.program
        if name in ("mm", "bmm", "mv", "dot"):
            return self._product(name, args[0], args[1], shape, dtype)
        if name in ("addmm", "baddbmm"):
            inner = self._product(name[-2:], args[1], args[2], shape, dtype)
            beta, alpha = options.get("beta", 1), options.get("alpha", 1)
            first = self._two("mul", [args[0], beta], {}, shape, dtype) if beta != 1 else args[0]
            return self._two("add", [first, inner], {"alpha": alpha}, shape, dtype)
        if name in ("linalg_vector_norm", "norm"):
            return self._norm(name, args, options, shape, dtype)
        if name not in (*_FOLDS, "mean", "all", "sum"):
            return None
        value = args[0]
        axes = _axes(args[1] if len(args) > 1 else options.get("dim"), len(value.shape))
        if name in ("any", "all"):
            value = self._cast(value, torch.bool)
        op = "and_" if name == "all" else _FOLDS.get(name, "add")
        total = program.fold(op, value, axes, shape, dtype)
        if name == "mean":
            count = 1
            for axis in axes:
                count *= value.shape[axis]
            total = self._two("div", [total, count], {}, shape, dtype)
        return total

    def _norm(
        self, name: str, args: list[Any], options: dict[str, Any], shape: Any, dtype: torch.dtype
    ) -> Value:
        value, power = args[0], (args[1] if len(args) > 1 else options.get("ord", 2))
        at = args[2] if len(args) > 2 else options.get("dim")
        axes = _axes(at, len(value.shape))
        value = self._cast(value, dtype)
        if power in (2, 2.0, None):
            squares = self._two("mul", [value, value], {}, value.shape, dtype)
            total = self.program.fold("add", squares, axes, shape, dtype)
            found = self._pointwise("sqrt", [total], {}, shape, dtype)
        elif power in (1, float("inf")):
            sizes = self._pointwise("abs", [value], {}, value.shape, dtype)
            op = "add" if power == 1 else "maximum"
            found = self.program.fold(op, sizes, axes, shape, dtype)  # type: ignore[arg-type]
        else:
            raise Unsupported(f"it takes a norm of order {power}")
        return found  # type: ignore[return-value]

    def _product(self, name: str, a: Value, b: Value, shape: Any, dtype: torch.dtype) -> Value:
        """Products of matrices, as sums of products of numbers."""
        program = self.program
        if name == "dot":
            product = self._two("mul", [a, b], {}, a.shape, dtype)
            return program.fold("add", product, [0], shape, dtype)
        rank = len(a.shape)
        if name == "mv":
            b = _reshaped(b, (b.shape[0], 1))
        # (..., m, k, 1) times (..., 1, k, n), summed over k.
        left = _reshaped(a, (*a.shape, 1))
        right = _reshaped(b, (*b.shape[:-2], 1, *b.shape[-2:]))
        if left.loop == rank - 1 or (right.loop is not None and right.loop >= len(right.shape) - 2):
            raise Unsupported("a matrix product mixes samples")
        wide = tuple(np.broadcast_shapes(left.shape, right.shape))
        product = self._two("mul", [left, right], {}, wide, dtype)
        total = program.fold("add", product, [rank - 1], (*wide[:-2], wide[-1]), dtype)
        return _reshaped(total, shape) if name == "mv" else total


def _sketched(x: Any) -> Any:
    """Something of the same dtype and of as many axes, for PyTorch's rules of promotion."""
    if not isinstance(x, Value):
        return x
    return torch.empty((1,) * len(x.shape), dtype=x.dtype, device="meta")


def _filled(args: list[Any], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments, and the defaults of those that were left out."""
    return (*args, *defaults[len(args) :])


def _axes(given: Any, rank: int) -> list[int]:
    if given is None or given == []:
        return list(range(rank))
    return [given % rank] if isinstance(given, int) else [i % rank for i in given]


def _collapsed(lines: Any, axis: int) -> Any:
    """One entry of an axis along which all are the same.

    Raises:
        Unsupported: they are not, so that each sample would have code of its own.
    """
    first = np.take(lines, [0], axis)
    if lines.shape[axis] != 1 and not bool((lines == first).all()):
        raise Unsupported("a tensor with an entry for each sample is not read along the batch")
    return first


def _reshaped(value: Value, shape: Any) -> Value:
    """Reshape or expand, which broadcasting may hide in one another."""
    shape = tuple(shape)
    if value.shape == shape:
        return value
    count = int(np.prod(value.shape, dtype=np.int64))
    if count != int(np.prod(shape, dtype=np.int64)):  # an expansion
        lead = len(shape) - len(value.shape)
        loop = None if value.loop is None else value.loop + lead
        lines = value.lines.reshape((1,) * lead + value.lines.shape)
        return Value(shape, lines, loop, value.dtype)
    if value.loop is None:
        if value.lines.size == 1:
            return Value(shape, value.lines.reshape((1,) * len(shape)), None, value.dtype)
        return Value(shape, value.full().reshape(shape), None, value.dtype)
    before = int(np.prod(value.shape[: value.loop], dtype=np.int64))
    length = value.shape[value.loop]
    for place, size in enumerate(shape):
        if size == length and int(np.prod(shape[:place], dtype=np.int64)) == before:
            sizes = (*shape[:place], 1, *shape[place + 1 :])
            return Value(shape, value.full().reshape(sizes), place, value.dtype)
    raise Unsupported("a reshape mixes the batch with another axis")


def _permuted(name: str, args: list[Any], shape: Any) -> Value:
    value = args[0]
    rank = len(value.shape)
    if name == "permute":
        order = [i % rank for i in args[1]]
    else:
        order = list(range(rank))
        a, b = (args[1] % rank, args[2] % rank) if name == "transpose" else (0, rank - 1)
        if rank:
            order[a], order[b] = order[b], order[a]
    loop = None if value.loop is None else order.index(value.loop)
    return Value(tuple(shape), np.transpose(value.lines, order), loop, value.dtype)


def _taken(value: Value, dim: int, index: int, shape: Any) -> Value:
    dim %= len(value.shape)
    if value.loop == dim:
        raise Unsupported("it picks a sample by its number")
    place = index if value.lines.shape[dim] != 1 else 0
    loop = value.loop
    if loop is not None and loop > dim:
        loop -= 1
    return Value(tuple(shape), np.take(value.lines, place, dim), loop, value.dtype)


def _sliced(value: Value, dim: int, place: Any, shape: Any) -> Value:
    dim %= len(value.shape)
    if value.shape == tuple(shape) and isinstance(place, slice) and place.step in (None, 1):
        return value
    if value.loop == dim:
        raise Unsupported("it picks samples by their numbers")
    lines = value.lines
    if lines.shape[dim] != 1 or value.shape[dim] == 1:
        lines = lines[(slice(None),) * dim + (place,)]
    return Value(tuple(shape), lines, value.loop, value.dtype)
