"""The mixed precision under which a solve was started, for the evaluations on its way back.

A backward pass may be called outside of the ``torch.autocast`` block of its forward pass, and
usually is. Where the field is evaluated again there, it has to be the same field.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch


@final
@dataclass(frozen=True)
class Ambient:
    """What autocast was when this was made.

    Attributes:
        device: kind of device, such as ``"cpu"``.
        dtype: that of mixed precision; None where it was off.
    """

    device: str
    dtype: torch.dtype | None

    @classmethod
    def now(cls, device: torch.device) -> Ambient:
        """As it is now."""
        return cls(device.type, _autocast_dtype(device.type))

    def restored(self) -> AbstractContextManager[Any]:
        """A block in which it is as it was."""
        if _autocast_dtype(self.device) == self.dtype:
            return nullcontext()
        return torch.autocast(
            self.device, dtype=self.dtype, enabled=self.dtype is not None, cache_enabled=False
        )


def _autocast_dtype(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
