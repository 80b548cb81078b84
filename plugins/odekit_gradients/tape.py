"""How many bytes a solve leaves on autograd's graph, seen from the graph itself.

Hooks on saved tensors would tell as well, but ``torch.func.grad`` inside a field refuses them,
and what passes through them is no longer checked for changes in place. A look at the nodes costs
no evaluation of the field and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from torch import Tensor

NODE = 1024
"""Bytes of a node beside its tensors: its own memory, its edges, and what the allocator adds."""


@final
class Gauge:
    """Measures what came onto the graph since it was last asked.

    What had been reached before does not count again, so that parameters, and whatever they were
    computed from, do so at most the first time.

    Args:
        known: tensors that do not count at all, nor what they were computed from.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        known = list(known)
        self._nodes: set[Any] = {x.grad_fn for x in known}
        self._storages = {x.untyped_storage().data_ptr() for x in known}
        self._names: dict[type, tuple[str, ...]] = {}

    def added(self, tensors: Iterable[Tensor]) -> int:
        """Bytes behind ``tensors`` that are new; what only other tensors lead to is not seen."""
        waiting = [x.grad_fn for x in tensors]
        nodes = found = 0
        while waiting:
            node = waiting.pop()
            if node is None or node in self._nodes:
                continue
            self._nodes.add(node)
            nodes += 1
            found += sum(map(self._count, self._saved(node)))
            waiting += [following for following, _ in node.next_functions]
        return found + NODE * nodes

    def _saved(self, node: Any) -> Iterable[Tensor]:
        kind = type(node)
        if kind not in self._names:
            names = [name for name in dir(node) if name.startswith("_saved_")]
            self._names[kind] = (*names, *(["saved_tensors"] if hasattr(kind, "apply") else []))
        for name in self._names[kind]:
            try:
                value = getattr(node, name)
            except RuntimeError:  # freed by a backward pass in between
                continue
            for x in value if isinstance(value, tuple | list) else (value,):
                if isinstance(x, Tensor):
                    yield x

    def _count(self, x: Tensor) -> int:
        storage = x.untyped_storage()
        if storage.data_ptr() in self._storages:
            return 0
        self._storages.add(storage.data_ptr())
        return storage.nbytes()
