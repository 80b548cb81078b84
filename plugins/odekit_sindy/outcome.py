"""What a fit of parameters ends with, for the report and the verdict.

Shapes: ``d`` states of the model, ``k`` free parameters.
Units: scaled, but for the parameters, which are in the caller's units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from odekit_sindy.data import Dataset, Scales
from odekit_sindy.formula_dynamics import FormulaDynamics
from odekit_sindy.formula_model import FormulaModel
from odekit_sindy.layout import Layout
from odekit_sindy.models import Models
from odekit_sindy.shooting import Shooting
from odekit_sindy.smoothing import Smoothed


@final
@dataclass(frozen=True)
class Units:
    """The scaled problem's units, and which states of the model the data have."""

    scales: Scales
    observed: np.ndarray

    @property
    def hidden(self) -> np.ndarray:
        """Positions of the hidden states."""
        return np.setdiff1d(np.arange(len(self.scales.state)), self.observed)


@final
@dataclass(frozen=True)
class Tight:
    """A fit to the end.

    Attributes:
        models: one model.
        covariance: of its parameters, ``(k, k)``, in the caller's units; NaN where not known.
        at_bound: which of them ended at a bound, ``(k,)``.
        silent: which of them nothing in the data depends on, ``(k,)``.
        tied: which of them change nothing as long as they change together, ``(k,)``.
        condition: condition number of the columns of those that change something.
        inside: the problem of the parameters that are off their bounds, without bounds.
        free: the model in that problem.
    """

    models: Models
    covariance: np.ndarray
    at_bound: np.ndarray
    silent: np.ndarray
    tied: np.ndarray
    condition: float
    inside: Shooting[FormulaDynamics]
    free: Models


@final
@dataclass(frozen=True)
class Outcome:
    """What a fit ends with, in scaled units but for the parameters.

    Attributes:
        model: what was fitted.
        original: the data, in the caller's units.
        dataset: the same, scaled.
        smoothed: the data under the noise model that was kept.
        evidence: log evidence per noise model.
        units: of the scaled problem.
        shooting: the problem of the last fit.
        whole: the data with each trajectory in one piece.
        tight: the last fit.
        values: the parameters, ``(k,)``.
        rivals: parameter sets from other starts that fit as well, ``(m, k)``.
        cut: whether time ran out.
    """

    model: FormulaModel
    original: Dataset
    dataset: Dataset
    smoothed: Smoothed
    evidence: Mapping[str, float]
    units: Units
    shooting: Shooting[FormulaDynamics]
    whole: Layout
    tight: Tight
    values: np.ndarray
    rivals: np.ndarray
    cut: bool
