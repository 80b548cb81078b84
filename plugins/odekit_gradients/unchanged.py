"""Whether the field on the way back is the field of the solve.

Its parameters are watched by autograd; a buffer, a frozen weight, ``train()`` against ``eval()`` or
anything else that a field reads is not. One evaluation, compared with that of the solve, sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from odekit import FlatField
from odekit_gradients.ambient import Ambient


@final
@dataclass(frozen=True)
class Witness:
    """The slope at the start, to be found again on the way back.

    Attributes:
        field: the field.
        t: the start time, as the field is given it.
        y: the start.
        slope: what it gave there.
        ambient: what the solve ran under.
    """

    field: FlatField
    t: Tensor
    y: Tensor
    slope: Tensor
    ambient: Ambient

    def check(self) -> None:
        """Look again; one evaluation.

        Raises:
            RuntimeError: the slope is another one.
        """
        with torch.no_grad(), self.ambient.restored():
            again = self.field(self.t, self.y)
        if is_other(self.slope, again):
            raise RuntimeError(
                "the field is not what it was in the solve, so the gradient would belong to "
                "neither: something it reads has changed since (a weight or buffer in place, "
                "train() or eval()); call backward before that, or solve again"
            )


def is_other(once: Tensor, again: Tensor) -> bool:
    """Whether two slopes differ by more than rounding."""
    if not once.numel():
        return False
    off, size = (once - again).abs(), once.abs()
    size = torch.where(size.isfinite(), size, 0).amax()
    return bool((off > torch.finfo(once.dtype).eps ** 0.5 * size).any())
