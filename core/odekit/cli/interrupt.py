"""Ctrl-C that asks before it takes: once to stop with what there is, twice to leave at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self, final


@final
class Interruption:
    """While it is entered, the first Ctrl-C sets `asked`; a second one raises.

    Work that can end early looks at `asked` from time to time. Outside the main thread, where
    Python lets nobody listen to signals, nothing changes.

    Attributes:
        asked: whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None
        self._listening = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._listening:
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._listening:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print(
            "stopping with what there is; Ctrl-C again leaves at once", file=sys.stderr, flush=True
        )
