"""The bytes of all tensors that are alive at a time, whoever holds them.

Hooks on saved tensors see what autograd saves; what a method keeps beside the graph, and what a
backward pass makes and drops again, they do not. Here every operation is watched from below, the
backward pass included, and every storage that it makes counts until it is freed. What is no
tensor, such as the nodes of the graph, some kilobyte each, does not count: the heap, and the
resident set of a process of its own, tell about that.

Units: bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from odekit.trees import leaves_of


@final
class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, the bytes of the tensors that were made since.

    Attributes:
        alive: bytes at this moment.
        peak: the largest that ``alive`` has been.

    Example:
        >>> import torch
        >>> with LiveBytes() as memory:
        ...     kept = torch.zeros(10)
        ...     dropped = torch.ones(20) + 1
        ...     del dropped
        >>> memory.alive, memory.peak
        (40, 200)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and take note of what it made."""
        kwargs = kwargs or {}
        for x in leaves_of((args, kwargs)):
            if isinstance(x, Tensor):
                self._note(x, 0)  # what was there before
        result = func(*args, **kwargs)
        for x in leaves_of(result):
            if isinstance(x, Tensor):
                self._note(x, None)
        self.peak = max(self.peak, self.alive)
        return result

    def _note(self, x: Tensor, size: int | None) -> None:
        try:
            storage = x.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse, for example: it has none
            return
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if size is None else size
        self.alive += size

        def forget(reference: Any) -> None:
            if self._known.pop(key, None) is not None:
                self.alive -= size

        self._known[key] = weakref.ref(storage, forget)


def synchronise(x: Tensor) -> None:
    """Wait for the device of ``x``, so that a clock tells the truth."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
