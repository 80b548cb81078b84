"""What each of PyTorch's core operations means for single numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from odekit._engine.scalar_arithmetic import ONE, TWO, Arithmetic
from odekit._engine.scalar_moves import BLANK, RESHAPES, SAME, SEVERAL, Moves
from odekit._engine.scalar_sums import Sums
from odekit._engine.scalars import Program, Unsupported, Value

_OPTIONS = frozenset(
    (
        *("dtype", "device", "layout", "pin_memory", "memory_format", "non_blocking", "implicit"),
        *("alpha", "beta", "rounding_mode", "dim", "keepdim", "min", "max", "value"),
        *("approximate", "ord"),
    )
)
"""Options that are looked at, or that change no number."""

PLAIN = frozenset(
    (
        *(ONE | TWO | SAME | RESHAPES | BLANK | SEVERAL),
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


class Interpreter:
    """Reads a graph of core operations once and writes its program.

    Args:
        program: where the lines go.
        tensors: what a tensor from outside of the function is.
    """

    def __init__(self, program: Program, tensors: Callable[[Tensor], Value]) -> None:
        self.program, self.tensors = program, tensors
        self.arithmetic = Arithmetic(program)
        self.moves, self.sums = Moves(self.arithmetic), Sums(self.arithmetic)

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
        if name not in SAME:  # a view that may be written to apart from its base
            name = name.removesuffix("_copy")
        seen = node.meta.get("val")
        if isinstance(seen, Tensor):
            shape, dtype = tuple(seen.shape), seen.dtype
            if dtype.is_complex:
                raise Unsupported("it has complex numbers")
            if not all(isinstance(n, int) for n in shape):
                raise Unsupported(f"the shape of {name} depends on numbers")
        elif name in SEVERAL:
            shape, dtype = (), torch.float64
        else:
            raise Unsupported(f"it calls {name}, which has no such form")
        strange = sorted(set(options) - _OPTIONS)
        if strange:
            raise Unsupported(f"it calls {name} with {', '.join(strange)}")
        found = self.arithmetic.pointwise(name, args, options, shape, dtype)
        if found is None:
            found = self.moves.moved(name, args, options, shape, dtype)
        if found is None:
            found = self.moves.made(name, args, options, shape, dtype)
        if found is None:
            found = self.sums.summed(name, args, options, shape, dtype)
        if found is None:
            raise Unsupported(f"it calls {name}, which has no such form")
        return found
