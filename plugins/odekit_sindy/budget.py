"""Time: how much is left, and whom to tell how far the work has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

GRACE = 0.4
"""Seconds beyond the end that the last fit of the best model found so far may still take."""

Stop: TypeAlias = Callable[[], bool]
"""Asked before each piece of work; once it says true, what there is has to do."""


def never() -> bool:
    """No reason to stop: for work that nobody has set a limit to."""
    return False


class Budget:
    """A deadline and a listener.

    Args:
        seconds: how long the work may take; infinite is allowed.
        progress: called with the name of the stage and the fraction done, 0 to 1; if it answers
            true, no further work is begun.
        clock: seconds since some fixed moment.
    """

    def __init__(
        self,
        seconds: float,
        progress: Callable[[str, float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._begin = clock()
        self._seconds = seconds
        self._progress = progress
        self._last = ("", 0.0)
        self._asked = False
        self.cut = False
        """Whether some work was left out for want of time, or because the listener asked."""

    @property
    def over(self) -> bool:
        """True once the time is up; remembers that somebody asked in vain."""
        self.tell(*self._last)
        if self._asked or self._used() > self._seconds:
            self.cut = True
            return True
        return False

    def spent(self) -> bool:
        """`over`, as a function to hand to work that knows of no budget."""
        return self.over

    def beyond(self, share: float) -> Stop:
        """A function that says true once ``share``, 0 to 1, of all the time is gone."""

        def gone() -> bool:
            if self._used() > share * self._seconds:
                self.cut = True
                return True
            return self.over

        return gone

    def late(self) -> bool:
        """True once `GRACE` has gone by too: even the last fit has to end."""
        late = self._used() > self._seconds + GRACE
        self.cut = self.cut or late
        return late

    def tell(self, stage: str, fraction: float) -> None:
        """Report progress; the listener may ask to stop."""
        self._last = (stage, min(max(fraction, 0.0), 1.0))
        if self._progress is not None and self._progress(*self._last) and not self._asked:
            self._asked = self.cut = True
            self._seconds = min(self._seconds, self._used())

    def _used(self) -> float:
        return self._clock() - self._begin
