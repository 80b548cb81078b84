"""What a search gives: a rung for every library that was searched, and the one that is chosen.

Shapes: ``d`` states.
Units: everything in scaled units; `Found.scales` leads back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from odekit_sindy.search import Fitted, Start, SubsetSearch

if TYPE_CHECKING:
    from odekit_sindy.data import Dataset, Scales
    from odekit_sindy.library import Library
    from odekit_sindy.smoothing import Smoothed

RESTART = 1.3
"""Residuals over the noise up to which a model comes near it."""

AGREE = 1e-2


@dataclass(frozen=True)
class Rung:
    """What one library gave.

    Attributes:
        search: the search, with all models visited.
        best: the best of them.
        others: fitted starts from which nobody climbed yet, best first.
    """

    search: SubsetSearch
    best: Fitted
    others: tuple[Fitted, ...] = ()

    @property
    def library(self) -> Library:
        """The rung's library."""
        return self.search.shooting.dynamics

    def reaches(self, noise: np.ndarray, factor: float) -> bool:
        """Whether the residuals of every state are within ``factor`` of the noise ``(d,)``."""
        return bool(np.all(self.best.rms < factor * noise))

    def carried(self, library: Library) -> Start:
        """The best model as a start in another library, as far as that has its functions."""
        values: dict[int, float] = {}
        for q, value in zip(self.best.support, self.best.c, strict=True):
            for p in library.embed((q,), self.library):
                values[p] = value * library.conversion(p, q, self.library)
        support = tuple(sorted(values))
        return Start(support, np.array([values[q] for q in support]), self.best.start)

    def fits_in(self, library: Library) -> bool:
        """Whether another library has all functions of the best model."""
        return len(self.carried(library).support) == len(self.best.support)


@dataclass(frozen=True)
class Found:
    """The outcome of the search, in scaled units.

    Attributes:
        dataset: scaled data.
        scales: the units.
        smoothed: the smoother's output under the noise model that was kept.
        evidence: log evidence per noise model.
        rungs: every library searched under that noise model, in order.
        chosen: the rung whose best model is the answer.
        floor: smallest noise level.
    """

    dataset: Dataset
    scales: Scales
    smoothed: Smoothed
    evidence: dict[str, float]
    rungs: tuple[Rung, ...]
    chosen: int
    floor: float

    @property
    def best(self) -> Fitted:
        """The answer."""
        return self.rungs[self.chosen].best

    @property
    def noise(self) -> np.ndarray:
        """Noise level of each state ``(d,)`` that a right model reaches."""
        return np.asarray(np.maximum(self.smoothed.sigma, self.floor))

    @property
    def at_noise(self) -> bool:
        """Whether the answer comes near the noise."""
        return self.rungs[self.chosen].reaches(self.noise, RESTART)


def choose(rungs: Sequence[Rung]) -> int:
    """The rung whose best model has the lowest EBIC; the lower one of two that agree."""
    values = [rung.best.ebic for rung in rungs]
    return next(i for i, value in enumerate(values) if value <= min(values) + AGREE)
