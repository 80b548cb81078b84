"""The operations of a function of tensors, written down while it runs once.

PyTorch's own tracers load its compiler first, which takes longer than all the rest of a solve
from the cache on disk. What is needed here is less: shapes are known, nothing is differentiated,
and what the code can be made of is looked at afterwards.

Shapes: those of the examples.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from odekit._engine.scalars import Unsupported
from odekit.trees import leaves_of, map_leaves

_OF_NUMBERS = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
_INDEXED = frozenset(("index", "index_put", "_unsafe_index"))
"""They only depend on numbers where a mask is the index."""


class SharedWrite(Unsupported):
    """Something is written into a tensor, and maybe others see it."""


@final
class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, operations run and are written down.

    Args:
        inputs: the tensors that the function is given.
        decompose: from an operation to a function of others, which are written down in its
            place; None where it is written down itself.

    Attributes:
        graph: what was written down; each operation has its result in ``meta["val"]``, each
            tensor from outside is a ``get_attr`` that has it there.
    """

    def __init__(
        self, inputs: Sequence[Tensor], decompose: Callable[[Any], Callable[..., Any] | None]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph, self.decompose = Graph(), decompose
        self._known: dict[int, Node] = {}
        self._kept: list[Tensor] = []  # an address names a tensor only while that is there
        self._sharing: dict[int, set[int]] = {}
        self._foreign: set[int] = set()
        for i, x in enumerate(inputs):
            node = self.graph.placeholder(f"x{i}")
            node.meta["val"] = x
            self._name(x, node, foreign=True)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch's compiler is not to be kept from this, for which it would be loaded first."""
        return False

    def end(self, outputs: Sequence[Any]) -> Graph:
        """The graph, with these outputs and without what they do not need."""
        self.graph.output([self._found(x) for x in outputs])
        self.graph.eliminate_dead_code()
        return self.graph

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and write it down.

        Raises:
            Unsupported: what it gives depends on numbers, or others see what it writes.
        """
        kwargs = kwargs or {}
        for others in (self.decompose(func), func.decompose):
            if others is not None:
                with self:
                    result = others(*args, **kwargs)
                if result is not NotImplemented:
                    return result
        name = str(func).split(".")[1]
        if _OF_NUMBERS & set(func.tags) and (name not in _INDEXED or _has_mask(args[1])):
            raise Unsupported(f"it calls {name}, whose result depends on numbers")
        target = self._pure(func, name, args) if func._schema.is_mutable else func
        node = self.graph.call_function(
            target, map_leaves(self._found, args), map_leaves(self._found, kwargs)
        )
        result = func(*args, **kwargs)
        node.meta["val"] = result
        if isinstance(result, Tensor):
            self._name(result, node)
        elif isinstance(result, list | tuple) and all(isinstance(x, Tensor) for x in result):
            for i, x in enumerate(result):
                part = self.graph.call_function(operator.getitem, (node, i))
                part.meta["val"] = x
                self._name(x, part)
        elif result is not None and not isinstance(result, torch.device | torch.dtype):
            raise Unsupported(f"it calls {name}, which gives no tensor")
        return result

    def _pure(self, func: Any, name: str, args: tuple[Any, ...]) -> Any:
        """The operation that gives what this one writes into a tensor made by another.

        Raises:
            SharedWrite: there is none, or others would see what is written.
        """
        changed, pure = args[0], getattr(torch.ops.aten, name.removesuffix("_"), None)
        overload = getattr(pure, func._schema.overload_name or "default", None)
        if not isinstance(changed, Tensor) or overload is None or not name.endswith("_"):
            raise SharedWrite(f"it writes into a tensor by {name}")
        storage = changed.untyped_storage().data_ptr()
        if self._sharing.get(storage) != {id(changed)} or storage in self._foreign:
            raise SharedWrite(f"it writes by {name} into a tensor that others see")
        return overload

    def _name(self, x: Tensor, node: Node, *, foreign: bool = False) -> None:
        self._known[id(x)] = node
        self._kept.append(x)
        if x.layout is torch.strided:
            storage = x.untyped_storage().data_ptr()
            self._sharing.setdefault(storage, set()).add(id(x))
            if foreign:
                self._foreign.add(storage)

    def _found(self, x: Any) -> Any:
        """The node of a tensor, a new one if it comes from outside; anything else as it is."""
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self._known:
            node = self.graph.create_node("get_attr", f"outside{len(self._kept)}")
            node.meta["val"] = x
            self._name(x, node, foreign=True)
        return self._known[id(x)]


def _has_mask(indices: Any) -> bool:
    return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices)


_READS = {
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.data_ptr),
    *(Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.__index__, Tensor.__complex__),
    Tensor.data.__get__,  # type: ignore[attr-defined]
}
_COPIES = {torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, Tensor.new_tensor}


class NumbersUnread(TorchFunctionMode):
    """Refuses what would make the numbers of a tensor part of the code, unseen by the tracer."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call it, if it reads no number out of a tensor."""
        name = getattr(function, "__name__", str(function))
        if function in _READS:
            raise Unsupported(f"it reads numbers out of a tensor: Tensor.{name}")
        if function in _COPIES:
            data = args[1 if function is Tensor.new_tensor else 0 :][:1]
            whole = isinstance(data[0], Tensor) if data else False
            keeps = function in (torch.as_tensor, torch.asarray)
            if any(isinstance(x, Tensor) for x in leaves_of(data)) and not (whole and keeps):
                raise Unsupported(f"it makes a tensor of the numbers of others: {name}")
        return function(*args, **(kwargs or {}))
