"""A small neural network as a family of right-hand sides, with exact derivatives in numpy.

One hidden layer of hyperbolic tangents, ``f(x) = vs * (W2 tanh(W1 (x - mu) / sd + b1) + b2)``;
inputs are further columns of ``x``. With a hundred parameters Gauss-Newton is at home, so
`odekit_sindy.neural_training` can fit it to trajectories by the multiple shooting that fits
libraries. It is a denoiser between the data: outside of their range it knows nothing, and it
names no terms. For networks of other shapes train a field with `odekit.fit` and hand it in as
the smoother.

Shapes: ``B`` networks, ``v = d + m`` variables (states, then inputs), ``w`` hidden units, ``M``
    points. The ``k = w (v + 1) + d (w + 1)`` parameters are the rows of ``[W1, b1]``, then the
    rows of ``[W2, b2]``.
Units: scaled; ``mu`` and ``sd`` are those of the variables, ``vs`` that of the slopes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from odekit_sindy.models import Models

if TYPE_CHECKING:
    from odekit_sindy.dynamics import Slope

SPREAD = 1.2
"""Standard deviation of a hidden unit's argument over the data, when weights are drawn."""


@dataclass(frozen=True)
class Network:
    """The shape of a network and its units.

    Args:
        centre: mean of the variables, ``(v,)``.
        width: standard deviation of the variables, ``(v,)``.
        speed: size of the slopes, ``(d,)``.
        hidden: number of hidden units ``w``.
    """

    centre: np.ndarray
    width: np.ndarray
    speed: np.ndarray
    hidden: int

    @property
    def dim(self) -> int:
        """Number of states ``d``."""
        return len(self.speed)

    @property
    def size(self) -> int:
        """Number of parameters ``k``."""
        return self.hidden * (len(self.centre) + 1) + self.dim * (self.hidden + 1)

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Random parameters of ``count`` networks, ``(count, k)``.

        Hidden units bend at different places within the data; outputs are small.
        """
        v, w = len(self.centre), self.hidden
        inner = SPREAD / np.sqrt(v) * generator.standard_normal((count, w, v))
        shift = generator.uniform(-1.5, 1.5, (count, w, 1))
        outer = 0.5 / np.sqrt(w) * generator.standard_normal((count, self.dim, w))
        first = np.concatenate([inner, shift], axis=2).reshape(count, -1)
        second = np.concatenate([outer, np.zeros((count, self.dim, 1))], axis=2)
        return np.concatenate([first, second.reshape(count, -1)], axis=1)

    def models(self, parameters: np.ndarray, start: np.ndarray) -> Models:
        """Networks ``(B, k)`` with segment states ``(B, d, M)``, as shooting takes them."""
        flat = np.tile(np.arange(self.size), (len(parameters), 1))
        return Models(flat, np.ones_like(flat, dtype=bool), parameters, start, self.size)

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """Slopes of these networks, see `odekit_sindy.dynamics.Dynamics`."""
        return _Layers(self, models.c).push if sensitivities else _Layers(self, models.c).value

    def slopes(self, parameters: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Slopes ``(B, d, M)`` at points ``(B, v, M)``."""
        return _Layers(self, parameters).value(points, None)[0]

    def tangents(
        self, parameters: np.ndarray, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slopes ``(B, d, M)``, ``df/dx (B, d, d, M)`` and ``df/dc (B, d, k, M)``."""
        return _Layers(self, parameters).tangents(points)


class _Layers:
    """The weights of a batch, in the shapes in which they are multiplied."""

    def __init__(self, network: Network, parameters: np.ndarray) -> None:
        count, v = len(parameters), len(network.centre)
        d, w = network.dim, network.hidden
        self.network = network
        self.cut = w * (v + 1)
        self.inner = parameters[:, : self.cut].reshape(count, w, v + 1)
        outer = parameters[:, self.cut :].reshape(count, d, w + 1)
        self.outer = outer * network.speed[:, None]
        self.steep = (self.inner[:, :, :d] / network.width[:d]).transpose(0, 2, 1)[:, None].copy()

    def value(self, point: np.ndarray, z: np.ndarray | None) -> tuple[np.ndarray, None]:
        """Slopes alone."""
        _, unit = self._hidden(point)
        return self.outer @ unit, None

    def push(self, point: np.ndarray, z: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Slopes, and tangents ``z`` pushed through the network."""
        if z is None:
            return self.value(point, None)
        f, jac, own = self.tangents(point)
        d = self.network.dim
        dz = jac[:, :, 0, None] * z[:, None, 0]
        for j in range(1, d):
            dz += jac[:, :, j, None] * z[:, None, j]
        dz[:, :, d:] += own
        return f, dz

    def tangents(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slopes and their derivatives, see `Network.tangents`."""
        network = self.network
        count, d, w, points = len(point), network.dim, network.hidden, point.shape[2]
        variables, unit = self._hidden(point)
        bend = 1 - unit[:, :w] ** 2
        passed = self.outer[:, :, :w, None] * bend[:, None]  # (B, d, w, M)
        own = np.zeros((count, d, network.size, points))
        np.multiply(
            passed[:, :, :, None],
            variables[:, None, None],
            out=own[:, :, : self.cut].reshape(count, d, w, -1, points),
        )
        for i in range(d):
            at = self.cut + i * (w + 1)
            own[:, i, at : at + w + 1] = network.speed[i] * unit
        return self.outer @ unit, self.steep @ passed, own

    def _hidden(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Variables and hidden units, each with a last row of ones."""
        network = self.network
        count, v, points = point.shape
        variables = np.ones((count, v + 1, points))
        np.subtract(point, network.centre[:, None], out=variables[:, :v])
        variables[:, :v] /= network.width[:, None]
        unit = np.ones((count, network.hidden + 1, points))
        np.tanh(self.inner @ variables, out=unit[:, :-1])
        return variables, unit
