"""How a chunk of steps is run: directly, or as a CUDA graph that was captured once.

A graph does again what was queued while it was captured, on the same addresses, for the price of
one launch. So all that a chunk reads and writes stays in place, and nothing in it may wait for
the device, copy from the host or depend on a value there.

Source: PyTorch's notes on CUDA semantics, section "CUDA Graphs" (capture on a side stream after
    a warm-up there, static inputs, private memory pool, what must not happen during capture).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from odekit._engine.scalars import Mismatch, Unsupported

ROUNDING = 1e4
"""Units in the last place by which a graph and what it was captured from may differ."""

READING = frozenset(
    getattr(torch.ops.aten, name)
    for name in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal")
)
"""Operations that wait for values, or for the shape of a result."""


@final
class NoReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, tensors cannot be read, nor be copied between host and device.

    Raises:
        Unsupported: by what does, at once and before a capture has begun.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Let an operation through, or not."""
        packet = func.overloadpacket
        masked = packet is torch.ops.aten.index and any(
            x is not None and x.dtype is torch.bool for x in args[1]
        )
        if packet in READING or masked:
            raise Unsupported(
                f"a step reads a value ({packet.__name__}), for which the device would have to be "
                "waited for; use torch.where in place of if, and no .item()"
            )
        result = func(*args, **(kwargs or {}))
        if packet is torch.ops.aten.lift_fresh and result.device.type != "cpu":
            raise Unsupported(
                "a step makes a tensor of numbers on the host; make it once, outside of the field"
            )
        if packet in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            places = {x.device.type for x in (*args[:2], result) if isinstance(x, Tensor)}
            if len(places) > 1:
                raise Unsupported("a step copies between host and device; keep it all on one")
        return result


class Executor(ABC):
    """Runs a chunk, again and again.

    Args:
        chunk: one chunk of steps, on buffers that stay in place.
        flags: what it says at its end, a tensor of integers.
        reset: puts the buffers back to where the solve begins.
        seen: the buffers by which two runs of the chunk are compared.
    """

    def __init__(
        self,
        chunk: Callable[[], None],
        flags: Tensor,
        reset: Callable[[], None],
        seen: Sequence[Tensor],
    ) -> None:
        self.chunk, self.flags = chunk, flags
        self._lock = threading.Lock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes into the buffers meanwhile."""
        with self._lock:
            yield

    @abstractmethod
    def launch(self) -> None:
        """Queue the next chunk."""

    @abstractmethod
    def post(self) -> Any:
        """Ask for the flags of the latest chunk, without waiting for them."""

    @abstractmethod
    def read(self, asked: Any) -> list[int]:
        """Wait for the flags that were asked for."""


@final
class Direct(Executor):
    """The chunk as it is; what it launches is in order, and that is all."""

    def launch(self) -> None:
        self.chunk()

    def post(self) -> Tensor:
        return self.flags.clone()

    def read(self, asked: Tensor) -> list[int]:
        return asked.tolist()


@final
class Captured(Executor):
    """The chunk as a CUDA graph, compared once with the chunk itself.

    Raises:
        Unsupported: it cannot be captured.
        Mismatch: the graph does something else.
    """

    def __init__(
        self,
        chunk: Callable[[], None],
        flags: Tensor,
        reset: Callable[[], None],
        seen: Sequence[Tensor],
    ) -> None:
        super().__init__(chunk, flags, reset, seen)
        self.device = flags.device
        self.slots = [(pinned(flags), _event()) for _ in "12"]
        self.turn = 0
        self.used: Any = None
        with torch.cuda.device(self.device):
            side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            here = torch.cuda.current_stream(self.device)
            side.wait_stream(here)
            try:
                # Around the capture's own, which stays current when a capture fails.
                with torch.cuda.stream(side):
                    want = self._warmed(reset, seen)
                    self.graph = self._captured(side)
            finally:
                here.wait_stream(side)
            reset()
            self.graph.replay()
        _compare(want, seen)
        self.chunk = _done

    def _warmed(self, reset: Callable[[], None], seen: Sequence[Tensor]) -> list[Tensor]:
        """What a chunk gives, after a run in which libraries get ready too."""
        reset()
        with NoReads():  # type: ignore[no-untyped-call]
            self.chunk()
        return [x.clone() for x in seen]

    def _captured(self, side: Any) -> Any:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may allocate meanwhile: they have streams and pools of their own.
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                self.chunk()
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            raise Unsupported(
                f"a step cannot be captured as a CUDA graph: {type(error).__name__}: {text[:200]}"
            ) from error
        return graph

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Likewise, on the device as well: solves on other streams come one after the other."""
        with super().alone(), torch.cuda.device(self.device):
            here = torch.cuda.current_stream(self.device)
            if self.used is not None:
                here.wait_event(self.used)
            try:
                yield
            finally:
                self.used = _event()
                self.used.record(here)

    def launch(self) -> None:
        self.graph.replay()

    def post(self) -> Any:
        slot = self.slots[self.turn]
        self.turn = 1 - self.turn
        slot[0].copy_(self.flags, non_blocking=True)
        slot[1].record()
        return slot

    def read(self, asked: Any) -> list[int]:
        asked[1].synchronize()
        return asked[0].tolist()  # type: ignore[no-any-return]


EXECUTORS: dict[str, type[Executor]] = {"cuda": Captured}
"""How chunks are run, by type of device; on others they are not."""


def pinned(like: Tensor) -> Tensor:
    """Memory of the host that the device writes to by itself."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


def _event() -> Any:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def is_capturing(device: torch.device) -> bool:
    """Whether somebody else captures a graph around this."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _compare(want: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Raises:
    Mismatch: a difference that is more than rounding, or of numbers that are not rounded.
    """  # noqa: D205 - nothing to say beyond the error
    for a, b in zip(want, found, strict=True):
        if not (a.is_floating_point() or a.is_complex()):
            if not torch.equal(a, b):
                raise Mismatch("a graph of steps takes others than the steps themselves")
            continue
        finite = torch.isfinite(a)
        a, b = a[finite], b[finite]
        gap = float((a - b).abs().max()) if a.numel() else 0.0
        scale = float(a.abs().max()) if a.numel() else 0.0
        if not gap <= ROUNDING * torch.finfo(a.dtype).eps * scale:
            raise Mismatch(f"a graph of steps differs by {gap:.3g} where they reach {scale:.3g}")


def _done() -> None:
    raise RuntimeError("a chunk that was captured before")
