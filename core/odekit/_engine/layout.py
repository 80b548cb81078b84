"""Pytrees end here: the caller's state to one tensor and back.

With a shared step size a single tensor is used as it is, whatever its shape, and any other
pytree becomes one vector. With a step size per sample everything becomes ``(lanes, dim)``.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from odekit.errors import IncompatibleError, ProblemError
from odekit.field import State
from odekit.solver import FlatField
from odekit.trees import Structure, flatten, leaves_of, sketch, unflatten


@dataclass(frozen=True)
class Layout:
    """How one state is laid out.

    Attributes:
        spec: structure of the caller's pytree.
        shapes: of its leaves, without the lane axis when ``lanes`` is set.
        dtype: of all leaves.
        device: of all leaves.
        lanes: number of lanes, or None with a shared step size.
        plain: the state is used as it is.
    """

    spec: Structure
    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype
    device: torch.device
    lanes: int | None
    plain: bool

    @classmethod
    def of(cls, y0: State, *, per_sample: bool) -> Layout:
        """The layout of ``y0``, whose leaves have been checked to be tensors of one dtype."""
        leaves, spec = flatten(y0)
        lanes = leaves[0].shape[0] if per_sample else None
        shapes = tuple(leaf.shape[1:] if per_sample else leaf.shape for leaf in leaves)
        plain = isinstance(y0, Tensor) and (not per_sample or y0.dim() == 2)
        return cls(spec, shapes, leaves[0].dtype, leaves[0].device, lanes, plain)

    def __reduce__(self) -> tuple[Any, ...]:
        places = unflatten(list(range(self.spec.num_leaves)), self.spec)
        rest = (self.shapes, self.dtype, self.device, self.lanes, self.plain)
        return _rebuild, (places, *rest)

    def flatten(self, y: State) -> Tensor:
        """The one tensor of a state."""
        if self.plain:
            return cast("Tensor", y)
        lead = () if self.lanes is None else (self.lanes,)
        leaves = leaves_of(y)
        parts = [leaf.reshape((*lead, -1)) for leaf in leaves]
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def unflatten(self, y: Tensor) -> State:
        """The caller's state of one tensor, which may have leading axes of its own."""
        if self.plain:
            return y
        lead = y.shape[:-1]
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = torch.split(y, sizes, -1) if len(sizes) > 1 else (y,)
        leaves = [p.reshape((*lead, *s)) for p, s in zip(parts, self.shapes, strict=True)]
        return unflatten(leaves, self.spec)

    def spread(self, name: str, tolerance: Any) -> Any:
        """A tolerance as a float, or as a tensor that broadcasts against the flat state.

        Raises:
            ProblemError: neither a number, nor a pytree like the state, nor positive.
        """
        if isinstance(tolerance, int | float):
            if not (math.isfinite(tolerance) and tolerance >= 0):
                raise ProblemError(f"{name} must be a number >= 0, got {tolerance!r}")
            return float(tolerance)
        leaves, spec = flatten(tolerance)
        if spec != self.spec:
            raise ProblemError(
                f"{name} must be a number or a pytree like y0, got {type(tolerance).__name__}"
            )
        real = self.dtype.to_real() if self.dtype.is_complex else self.dtype
        parts = []
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            if isinstance(leaf, Tensor) and leaf.is_complex():
                raise ProblemError(f"{name} must be real, got {leaf.dtype}")
            try:
                part = torch.as_tensor(leaf, dtype=real, device=self.device).expand(shape)
            except (TypeError, ValueError, RuntimeError):
                seen = tuple(leaf.shape) if isinstance(leaf, Tensor) else reprlib.repr(leaf)
                raise ProblemError(
                    f"{name} must be a number, or tensors that broadcast to the state's shape "
                    f"{tuple(shape)}, got {seen}"
                ) from None
            parts.append(part.detach().reshape(shape if self.plain else -1))
        spread = torch.cat(parts) if len(parts) > 1 else parts[0]
        wrong = spread[~(spread >= 0)]
        if len(wrong):
            raise ProblemError(f"{name} must be >= 0 everywhere, got {float(wrong[0])}")
        return spread

    def wrap(self, field: Callable[..., State], args: Any, *, has_args: bool) -> FlatField:
        """The caller's field on flat states; it checks what the field returns on every call.

        What it does to the tensors that it was given is checked on the first two.
        """
        real = self.dtype.to_real() if self.dtype.is_complex else self.dtype
        per_sample, plain = self.lanes is not None, self.plain
        witness: _Witness | None = _Witness()
        asked = told = torch.empty(0)

        def flat(t: Tensor, y: Tensor) -> Tensor:
            nonlocal witness, asked, told
            if t is asked:  # stages that share a time share what the field is told
                t = told
            else:
                given = t
                if per_sample:
                    t = t.reshape(-1)
                if t.dtype != real:
                    t = t.float() if real is torch.float32 else t.double()
                if not given.requires_grad:  # else its graph would be kept alive
                    asked, told = given, t
            state = y if plain else self.unflatten(y)
            before = _version(y) if witness is not None else 0
            slope = field(t, state, args) if has_args else field(t, state)
            if witness is not None and witness.is_done(y, before, slope):
                witness = None
            if not plain:
                return self._flatten_slope(slope, y)
            if slope.__class__ is not y.__class__ and not isinstance(slope, Tensor):
                raise IncompatibleError(
                    f"the field must return a tensor like y, got {type(slope).__name__}"
                )
            if slope.shape != y.shape or slope.dtype != y.dtype:
                raise _mismatch(slope, y.shape, y.dtype, "")
            return slope

        if not per_sample:
            flat.time_dtype = real  # type: ignore[attr-defined]
        # What code for this function takes for granted about states.
        flat.layout = (str(self.spec), self.shapes, self.lanes)  # type: ignore[attr-defined]
        return flat

    def _flatten_slope(self, slope: State, y: Tensor) -> Tensor:
        leaves, spec = flatten(slope)
        if spec != self.spec:
            raise IncompatibleError(
                f"the field must return a pytree like y0, {sketch(self.spec)}, got {sketch(spec)}"
            )
        lead = () if self.lanes is None else (self.lanes,)
        for i, (leaf, shape) in enumerate(zip(leaves, self.shapes, strict=True)):
            want = torch.Size((*lead, *shape))
            if not isinstance(leaf, Tensor):
                raise IncompatibleError(
                    f"the field must return tensors, got {type(leaf).__name__} in leaf {i}"
                )
            if leaf.shape != want or leaf.dtype != y.dtype:
                raise _mismatch(leaf, want, y.dtype, f" in leaf {i}" if len(leaves) > 1 else "")
        return self.flatten(slope)


class _Witness:
    """Sees to it that a field changes neither the state nor what it returned before."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, int]] | None = None

    def is_done(self, y: Tensor, before: int, slope: State) -> bool:
        """Whether two calls have been seen.

        Raises:
            IncompatibleError: a tensor was written into.
        """
        if _version(y) != before:
            raise IncompatibleError(
                "the field changed y in place; compute a new tensor, for example -y in place of "
                "y.neg_()"
            )
        if self.kept is None:
            self.kept = [(x, _version(x)) for x in leaves_of(slope) if isinstance(x, Tensor)]
            return False
        if any(_version(x) != version for x, version in self.kept):
            raise IncompatibleError(
                "the field wrote into the tensor that it had returned before; return a new tensor "
                "from every call, for example buffer.clone()"
            )
        return True


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def _rebuild(places: Any, *rest: Any) -> Layout:
    return Layout(flatten(places)[1], *rest)


def _mismatch(
    slope: Tensor, shape: torch.Size, dtype: torch.dtype, where: str
) -> IncompatibleError:
    if slope.shape != shape:
        return IncompatibleError(
            f"the field returned shape {tuple(slope.shape)} for a state of shape "
            f"{tuple(shape)}{where}; return one slope per entry of y"
        )
    return IncompatibleError(
        f"the field returned {slope.dtype} for a state of {dtype}{where}; make its constants and "
        f"parameters {dtype}, or give y0 as {slope.dtype}"
    )
