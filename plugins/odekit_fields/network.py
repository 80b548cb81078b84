"""The small network inside every learned field, and the checks of the fields' arguments.

It computes in the dtype of its input, so a field serves float32 and float64 states alike;
``dtype`` only says how the weights are kept. Its inputs and outputs have units of their own
(`Network.rescale`), so that data of any magnitude meet the activation where it bends.

Shapes: ``(..., inputs)`` to ``(..., outputs)``.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from odekit import IncompatibleError, ProblemError

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "elu": functional.elu,
    "relu": torch.relu,
}


@final
class Network(nn.Module):
    """A multilayer perceptron in the units of its data.

    Args:
        inputs: width of the input.
        outputs: width of the output.
        width: units per hidden layer.
        depth: number of hidden layers.
        activation: one of `ACTIVATIONS`; smooth ones suit adaptive solvers.
        dtype: of the weights; ``torch.get_default_dtype()`` by default.
        generator: source of the initial weights.

    Raises:
        ProblemError: a size below one, or an unknown activation.
        IncompatibleError: a dtype that is not float32 or float64.
    """

    center: Tensor
    scale: Tensor
    gain: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        activation: str,
        dtype: torch.dtype | str | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_size("width", width)
        check_size("depth", depth)
        self._activation = find_activation(activation)
        kind = find_dtype(dtype)
        sizes = [inputs, *[width] * depth, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (before, after) in enumerate(itertools.pairwise(sizes)):
            # Wide first weights and spread thresholds cover the data; a quiet last layer starts
            # near rest, where every solve succeeds.
            first, last = layer == 0, layer == depth
            gain, spread = (0.3, 0.0) if last else (1.2, 1.5) if first else (1.0, 0.5)
            weight = torch.randn(after, before, generator=generator, dtype=torch.float64)
            bias = torch.rand(after, generator=generator, dtype=torch.float64)
            self.weights.append(nn.Parameter((weight * gain / before**0.5).to(kind)))
            self.biases.append(nn.Parameter(((2 * bias - 1) * spread).to(kind)))
        self.register_buffer("center", torch.zeros(inputs, dtype=kind))
        self.register_buffer("scale", torch.ones(inputs, dtype=kind))
        self.register_buffer("gain", torch.ones(outputs, dtype=kind))

    @torch.no_grad()
    def rescale(self, center: Tensor, scale: Tensor, gain: Tensor) -> None:
        """Adopt units: inputs enter as ``(x - center) / scale``, outputs leave times ``gain``.

        Only the first call counts, for a second one would change what has been learned.
        """
        if bool((self.scale != 1).any() | (self.gain != 1).any() | (self.center != 0).any()):
            return
        self.center.copy_(center)
        self.scale.copy_(scale)
        self.gain.copy_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``, in the dtype of ``x``."""
        if self.weights[0].dim() == 3:
            return self._stacked(x)
        kind = x.dtype
        x = (x - self.center.to(kind)) / self.scale.to(kind)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = functional.linear(x, weight.to(kind), bias.to(kind))
            if layer < last:
                x = self._activation(x)
        return x * self.gain.to(kind)

    def _stacked(self, x: Tensor) -> Tensor:
        """Weights of many networks ``(N, ...)``, each with its own inputs ``(N, ..., inputs)``."""
        kind, shape = x.dtype, x.shape
        x = x.reshape(shape[0], -1, shape[-1])
        x = (x - self.center.to(kind)[:, None]) / self.scale.to(kind)[:, None]
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias.to(kind)[:, None], x, weight.to(kind).mT)
            if layer < last:
                x = self._activation(x)
        return (x * self.gain.to(kind)[:, None]).reshape(*shape[:-1], -1)


def find_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of this name.

    Raises:
        ProblemError: there is none.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    close = difflib.get_close_matches(str(name), ACTIVATIONS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ProblemError(f"unknown activation {name!r}: {hint}write one of {', '.join(ACTIVATIONS)}")


def find_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """``float32`` or ``float64``, given as a dtype or by name.

    Raises:
        IncompatibleError: anything else.
    """
    kind: Any = torch.get_default_dtype() if dtype is None else dtype
    kind = getattr(torch, kind, kind) if isinstance(kind, str) else kind
    if kind not in (torch.float32, torch.float64):
        raise IncompatibleError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return kind  # type: ignore[no-any-return]


def find_generator(seed: int, generator: torch.Generator | None) -> torch.Generator:
    """The given generator, or a fresh one of this seed; the global one is left alone."""
    return torch.Generator().manual_seed(seed) if generator is None else generator


def check_size(argument: str, value: Any) -> None:
    """Raises:
    ProblemError: not a positive integer.
    """  # noqa: D205 - nothing to say beyond the error
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProblemError(f"{argument} must be a positive integer, got {value!r}")


def check_choice(argument: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises:
    ProblemError: not one of the choices.
    """  # noqa: D205 - nothing to say beyond the error
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ProblemError(
            f"unknown {argument} {value!r}: {hint}write one of {', '.join(map(repr, choices))}"
        )


def check_width(field: str, y: Any, width: int, what: str = "states") -> None:
    """Raises:
    ProblemError: ``y`` is not a tensor whose last axis has ``width`` entries.
    """  # noqa: D205 - nothing to say beyond the error
    if not isinstance(y, Tensor) or y.dim() == 0 or y.shape[-1] != width:
        seen = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ProblemError(
            f"{field} needs a tensor of shape (..., {width}) for its {width} {what}, got {seen}; "
            "make the field with the dim of your data"
        )


def join_time(t: Tensor, y: Tensor) -> Tensor:
    """``y`` with the time as one more column; ``t`` is 0-d or runs along the leading axis."""
    column = t.to(y.dtype).reshape(*t.shape, *(1,) * (y.dim() - t.dim()))
    return torch.cat([y, column.expand(*y.shape[:-1], 1)], dim=-1)
