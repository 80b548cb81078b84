"""Time: how much is left, and whom to tell how far the work has come."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """A deadline and a listener.

    Args:
        seconds: how long the work may take; infinite is allowed.
        progress: called with the name of the stage and the fraction done, 0 to 1; if it answers
            true, no further work is begun.
    """

    def __init__(
        self, seconds: float, progress: Callable[[str, float], object] | None = None
    ) -> None:
        self._end = time.monotonic() + seconds
        self._progress = progress
        self._last = ("", 0.0)
        self.cut = False
        """Whether some work was left out for want of time, or because the listener asked."""

    @property
    def over(self) -> bool:
        """True once the time is up; remembers that somebody asked in vain."""
        if time.monotonic() > self._end:
            self.cut = True
        self.tell(*self._last)
        return self.cut

    def tell(self, stage: str, fraction: float) -> None:
        """Report progress; the listener may ask to stop."""
        self._last = (stage, min(max(fraction, 0.0), 1.0))
        if self._progress is not None and self._progress(*self._last):
            self.cut = True
