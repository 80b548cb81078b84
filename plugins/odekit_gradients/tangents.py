"""Directional derivatives of a field, whatever it is made of.

The parameters of a field live in modules and closures, where forward mode cannot reach them
without taking the field apart. Its transpose can: what the field sends back to its inputs,
``u -> J^T u``, is linear in ``u``, and the transpose of that is ``v -> J v``. So a field that can
be differentiated twice in reverse mode can be differentiated in any direction, all directions
with one evaluation.

Shapes: ``k`` directions lead, as in ``(k, *y.shape)``. A complex tensor has two real directions
    for each of its entries, the real one first.
Units: a tangent is a state per unit of what it is the derivative by.
Source: J. Townsend, "A new trick for calculating Jacobian vector products", 2017,
    https://j-towns.github.io/2017/06/12/A-new-trick.html
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NoReturn, final

import torch
from torch import Tensor

from odekit import FlatField, IncompatibleError
from odekit_gradients.reach import pull_back

CHUNK = 128
"""Directions taken together, so that memory stays a multiple of that of one evaluation."""


@final
class Linearised:
    """A field at one point: its slope, and its derivative in any direction.

    Args:
        field: what is differentiated.
        t: time, as the field wants it.
        y: the point.
        params: what it is differentiated by beside the state.
        mode: how directions are taken; the same for all points of a solve.

    Raises:
        IncompatibleError: autograd does not differentiate the field twice.
    """

    def __init__(
        self, field: FlatField, t: Tensor, y: Tensor, params: Sequence[Tensor], mode: Batching
    ) -> None:
        self.mode = mode
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            value = field(t, y)
            self.cotangent = torch.zeros_like(value).requires_grad_()
            self.sent = pull_back(value, (y, *params), self.cotangent, create_graph=True)
        self.slope = value.detach()
        if not mode.tested:
            self._test(value, (y, *params))

    def _test(self, value: Tensor, sources: Sequence[Tensor]) -> None:
        """``u . (J v)`` against ``(J^T u) . v``, at the first point where both are finite.

        Some operations forget where their derivative came from, and say nothing about it.
        """
        u, along = _some(value), [_some(x) for x in sources]
        sent = pull_back(value, sources, u)
        pairs = [(x, v[None]) for x, v in zip(self.sent, along, strict=True) if x.requires_grad]
        pushed = torch.zeros_like(u)
        if pairs:
            pushed = self.mode.transpose(pairs, self.cotangent)[0]
        one = sum(_dot(x, v) for x, v in zip(sent, along, strict=True))
        other = _dot(pushed, u)
        size = sum(_size(x) * _size(v) for x, v in zip(sent, along, strict=True))
        size = size + _size(pushed) * _size(u)
        if not bool(torch.isfinite(size)):
            return
        self.mode.tested = True
        if abs(one - other) > torch.finfo(value.dtype).eps ** 0.5 * size:
            self.mode.refuse("its derivative has no derivative")

    def push(self, v: Tensor, first: int = 0) -> Tensor:
        """The derivative in directions ``v`` of the state, ``(k, *y.shape)`` to the same.

        Direction ``first + i`` moves with it the ``i``-th real entry of the parameters.
        """
        parts = [
            self._push(v[i : i + CHUNK], i - first, min(i + CHUNK, len(v)) - first)
            for i in range(0, len(v), CHUNK)
        ]
        return v if not parts else parts[0] if len(parts) == 1 else torch.cat(parts)

    def _push(self, v: Tensor, begin: int, end: int) -> Tensor:
        """Directions of which those from ``max(begin, 0)`` to ``end`` are of the parameters."""
        pairs = [(self.sent[0], v)]
        place = 0
        for sent in self.sent[1:]:
            size = real_size(sent)
            if begin < place + size and place < end:
                pairs.append((sent, units(sent, end - begin, begin - place)))
            place += size
        pairs = [(sent, along) for sent, along in pairs if sent.requires_grad]
        if not pairs:
            return torch.zeros_like(v)
        return self.mode.transpose(pairs, self.cotangent)


@final
class Batching:
    """All directions at once where `torch.vmap` allows it, else one after the other.

    The first call finds out, and what is found out holds for the rest of the solve.

    Args:
        name: of the gradient method, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.together: bool | None = None
        self.tested = False

    def transpose(self, pairs: Sequence[tuple[Tensor, Tensor]], by: Tensor) -> Tensor:
        """The derivative of every ``x`` by the vector ``by``, times its ``(k, *x.shape)``.

        Raises:
            IncompatibleError: the field's derivative cannot be differentiated.
        """
        values, along = zip(*pairs, strict=True)
        if self.together is not False:
            try:
                found = self._together(values, along, by)
            except (RuntimeError, UserWarning):  # no rule for some operation of the field
                self.together = False
            else:
                self.together = True
                return found
        try:
            rows = [
                _transpose(values, [x[i] for x in along], by, together=False)
                for i in range(len(along[0]))
            ]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.refuse(str(error), error)
        return torch.stack(rows)

    def refuse(self, reason: str, cause: Exception | None = None) -> NoReturn:
        """Say that the field will not do.

        Raises:
            IncompatibleError: always.
        """
        raise IncompatibleError(
            f"gradient={self.name!r} needs a field that autograd differentiates twice, which "
            f"fails: {reason}; use gradient='unrolled'"
        ) from cause

    def _together(self, values: Sequence[Tensor], along: Sequence[Tensor], by: Tensor) -> Tensor:
        if self.together:
            return _transpose(values, along, by, together=True)
        with warnings.catch_warnings():
            # What has no batching rule is looped over inside, slowly, with a warning.
            warnings.simplefilter("error")
            return _transpose(values, along, by, together=True)


def _transpose(
    values: Sequence[Tensor], along: Sequence[Tensor], by: Tensor, *, together: bool
) -> Tensor:
    (found,) = torch.autograd.grad(
        values, by, along, retain_graph=True, allow_unused=True, is_grads_batched=together
    )
    if found is None:
        lead = along[0].shape[:1] if together else ()
        return by.new_zeros((*lead, *by.shape))
    return found


def _some(like: Tensor) -> Tensor:
    """Numbers without any symmetry, of that shape."""
    real = like.dtype.to_real() if like.is_complex() else like.dtype
    flat = torch.arange(1, real_size(like) + 1, dtype=real, device=like.device).cos()
    if like.is_complex():
        return torch.view_as_complex(flat.reshape(*like.shape, 2))
    return flat.reshape(like.shape)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    product = a.detach().conj() * b
    real: Tensor = product.real if product.is_complex() else product
    return real.sum().to(torch.float64)


def _size(x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(x.detach())
    return size.double()


def real_size(x: Tensor) -> int:
    """How many real numbers a tensor holds."""
    return x.numel() * (2 if x.is_complex() else 1)


def units(like: Tensor, count: int, offset: int = 0) -> Tensor:
    """``(count, *like.shape)``: number ``i`` is one at the real entry ``i + offset``, else zero."""
    real = like.dtype.to_real() if like.is_complex() else like.dtype
    flat = torch.zeros(count, real_size(like), dtype=real, device=like.device)
    flat.diagonal(offset).fill_(1)
    if like.is_complex():
        return torch.view_as_complex(flat.reshape(count, *like.shape, 2))
    return flat.reshape(count, *like.shape)
