"""What a trainer is: a field and observed data in, a fitted field and its history out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from odekit.registry import resolve

if TYPE_CHECKING:
    from odekit.series import TimeSeries


@dataclass(frozen=True)
class Fit:
    """A trained field with the record of its training."""

    field: nn.Module
    loss: float
    history: Any


class Trainer(ABC):
    """Fit the parameters of a field to observed data."""

    @abstractmethod
    def fit(self, field: nn.Module, series: Sequence[Any]) -> Fit:
        """Train ``field`` in place on one or several series."""


def fit(
    field: nn.Module,
    series: TimeSeries | Sequence[Any],
    *,
    trainer: str | Trainer | None = None,
    **options: Any,
) -> Fit:
    """Train a field on observed data."""
    chosen = resolve("trainer", trainer or "shooting", Trainer, **options)
    several = list(series) if isinstance(series, list | tuple) else [series]
    return chosen.fit(field, several)  # type: ignore[no-any-return]
