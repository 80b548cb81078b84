"""A field as a pure float64 function of one vector of parameters.

Least squares needs Jacobians with respect to the parameters, and those need the field as a
function of them. The module itself is left alone until `FlatField.store`.

Shapes: ``w`` is ``(P,)``; times ``(k,)`` and states ``(k, D)`` are points that do not interact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from odekit import Field, IncompatibleError, OdekitError
from odekit.training import ScaledField
from odekit_training.observations import Observations


class _Methods(nn.Module):
    """Lets ``functional_call`` reach ``lift`` and ``project`` beside ``forward``."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, method: str, *args: Tensor) -> Any:
        if method == "forward":
            return self.field(*args)
        return getattr(self.field, method)(*args)


class FlatField:
    """The trainable parameters of a field as one vector, and the field as a function of it.

    After `check`, ``single`` says whether the field takes one state at a time only.

    Args:
        field: the module; its other parameters and its buffers are constants here.
    """

    def __init__(self, field: nn.Module) -> None:
        self.field = field
        self._methods = _Methods(field)
        self._fixed: dict[str, Tensor] = {}
        self._free: dict[str, Tensor] = {}
        for name, parameter in self._methods.named_parameters():
            chosen = self._free if parameter.requires_grad else self._fixed
            chosen[name] = parameter.detach()
        self._fixed |= dict(self._methods.named_buffers())
        self._fixed = {name: _double(value) for name, value in self._fixed.items()}
        self._sizes = [value.numel() for value in self._free.values()]
        self.single = False

    @property
    def size(self) -> int:
        """The number of trainable numbers, ``P``."""
        return sum(self._sizes)

    @property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the trainable tensors, in the order of the vector."""
        return [value.shape for value in self._free.values()]

    def vector(self) -> Tensor:
        """A copy of the parameters, ``(P,)`` in float64."""
        return torch.cat(
            [value.detach().double().cpu().reshape(-1) for value in self._free.values()]
        )

    @torch.no_grad()
    def store(self, w: Tensor) -> None:
        """Write ``w`` into the module, in the module's own dtype."""
        for parameter, part in zip(self._free.values(), torch.split(w, self._sizes), strict=True):
            parameter.copy_(part.reshape(parameter.shape))

    def _call(self, w: Tensor, method: str, *args: Tensor) -> Any:
        parts = zip(self._free.items(), torch.split(w, self._sizes), strict=True)
        tensors = {name: part.reshape(value.shape) for (name, value), part in parts}
        return functional_call(self._methods, {**self._fixed, **tensors}, (method, *args))

    def slope(self, w: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """``(k,)``, ``(k, D)`` to ``(k, D)``."""
        if self.single:
            alone = vmap(lambda t, y: self._call(w, "forward", t, y))
            return alone(t, y)  # type: ignore[no-any-return]
        return self._call(w, "forward", t, y)  # type: ignore[no-any-return]

    @property
    def lifts(self) -> bool:
        """Whether the integrated state is something else than the user's value."""
        return isinstance(self.field, Field) and type(self.field).lift is not Field.lift

    @property
    def projects(self) -> bool:
        """Whether the user's value is something else than the integrated state."""
        return isinstance(self.field, Field) and type(self.field).project is not Field.project

    def lift(self, w: Tensor, x: Tensor) -> Tensor:
        """``(k, d)`` to ``(k, D)``."""
        return self._call(w, "lift", x) if self.lifts else x

    def project(self, w: Tensor, y: Tensor) -> Tensor:
        """``(k, D)`` to ``(k, d)``."""
        return self._call(w, "project", y) if self.projects else y

    def check(self, t: Tensor, x: Tensor) -> None:
        """Try the field on a few points, and learn whether it takes them all at once.

        Raises:
            IncompatibleError: it fails on them, or gives another shape.
        """
        w = self.vector()
        y = self.lift(w, x)
        if not isinstance(y, Tensor) or y.dim() != 2:
            raise IncompatibleError(
                f"trainers need lift() to give one tensor (n, states), got {type(y).__name__}"
            )
        errors: list[Exception] = []
        for self.single in (False, True):
            try:
                slope = self.slope(w, t, y)
                alone = self.slope(w, t[:1], y[:1])
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                errors.append(error)
                continue
            if self.single and self.lifts:
                break
            if slope.shape == y.shape and torch.allclose(slope[:1], alone, equal_nan=True):
                return
            seen = f"shape {tuple(slope.shape)}, or mixes the samples"
            errors.append(ValueError(f"it gives {seen}"))
        if isinstance(errors[0], OdekitError):
            raise errors[0]
        raise IncompatibleError(
            f"{type(self.field).__name__} fails on states of shape {tuple(y.shape)}: {errors[0]}"
        )


def prepare(field: nn.Module, data: Observations) -> FlatField:
    """The field tried on the first data and told their units.

    Raises:
        ProblemError, IncompatibleError: it does not take them.
    """
    one = data.trajectories[0]
    FlatField(field).check(one.t[:7], one.smooth[:7])
    if isinstance(field, ScaledField):
        field.rescale(data.center, data.scale, data.rate, data.span)
    flat = FlatField(field)
    flat.check(one.t[:7], one.smooth[:7])
    return flat


def _double(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.double() if value.is_floating_point() else value
