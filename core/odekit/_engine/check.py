"""Bad input ends here, in one clear line that names the argument and what to type instead."""

from __future__ import annotations

import reprlib
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from odekit._engine.clock import Unmapped
from odekit.errors import IncompatibleError, ProblemError
from odekit.field import State, VectorField
from odekit.solver import Solver
from odekit.trees import leaves_of

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def check_state(y0: State, *, per_sample: bool) -> list[Tensor]:
    """The leaves of ``y0``, all tensors of one supported dtype on one device.

    Raises:
        ProblemError: a value that cannot be solved.
        IncompatibleError: leaves that do not go together.
    """
    leaves: list[Tensor] = leaves_of(y0)
    if not leaves:
        raise ProblemError("y0 is empty; give a tensor, or a tuple, list or dict of tensors")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise ProblemError(
                f"y0 must be made of tensors, got {type(leaf).__name__}; write "
                "torch.tensor(..., dtype=torch.float64)"
            )
        if leaf.dtype not in DTYPES:
            raise ProblemError(
                f"y0 has dtype {leaf.dtype}, which cannot be integrated accurately; convert it, "
                "for example with y0.float() or y0.double()"
            )
        if leaf.numel() == 0:
            raise ProblemError(f"y0 has no entries: shape {tuple(leaf.shape)}")
    for name, values in (
        ("dtype", {leaf.dtype for leaf in leaves}),
        ("device", {leaf.device for leaf in leaves}),
    ):
        if len(values) > 1:
            raise IncompatibleError(
                f"all tensors of y0 must share one {name}, got {', '.join(map(str, values))}"
            )
    if per_sample:
        counts = {leaf.shape[0] if leaf.dim() else None for leaf in leaves}
        if None in counts or len(counts) > 1:
            raise ProblemError(
                "per_sample=True needs a leading sample axis of one length in every tensor of y0, "
                f"got shapes {', '.join(str(tuple(leaf.shape)) for leaf in leaves)}"
            )
    return leaves


def check_times(t: Any, leaf: Tensor, *, per_sample: bool) -> Tensor:
    """Output times as float64, ``(n,)`` or ``(lanes, n)``.

    Raises:
        ProblemError: not strictly monotone, not finite, or of the wrong shape.
        IncompatibleError: on another device than ``y0``.
    """
    if not isinstance(t, Tensor):
        try:
            t = _times_tensor(t, leaf.device)
        except (TypeError, ValueError, RuntimeError) as error:
            seen = reprlib.repr(t).replace("\n", " ")
            raise ProblemError(f"t must be numbers or a tensor, got {seen}: {error}") from None
    if t.layout is not torch.strided:
        raise ProblemError(f"t must be a dense tensor, got {t.layout}; write t.to_dense()")
    if t.device != leaf.device:
        raise IncompatibleError(
            f"y0 is on {leaf.device} and t on {t.device}; move one: t.to({str(leaf.device)!r})"
        )
    if t.is_complex() or t.dtype is torch.bool:
        raise ProblemError(f"t must be real, got {t.dtype}")
    times: Tensor = t.to(torch.float64)
    if times.dim() not in ((1, 2) if per_sample else (1,)) or times.shape[-1] == 0:
        shapes = "(n,) or (lanes, n)" if per_sample else "(n,)"
        more = "" if per_sample or times.dim() != 2 else "; times per sample need per_sample=True"
        raise ProblemError(f"t must have shape {shapes}, got {tuple(times.shape)}{more}")
    if per_sample and times.dim() == 2 and len(times) != len(leaf):
        raise ProblemError(
            f"t has {len(times)} rows for {len(leaf)} samples; give one row per sample, or (n,)"
        )
    with Unmapped(
        "cannot map over t, whose values decide how many steps there are; drop vmap and give t as "
        "(lanes, n) with per_sample=True"
    ):
        _check_values(times.detach())
    return times.expand(len(leaf), -1) if per_sample and times.dim() == 1 else times


def _times_tensor(t: Any, device: torch.device) -> Tensor:
    """Numbers as a tensor; tensors among them keep their gradients."""
    if isinstance(t, list | tuple) and any(isinstance(x, Tensor) for x in t):
        return torch.stack(
            [torch.as_tensor(x, dtype=torch.float64, device=device).reshape(()) for x in t]
        )
    return torch.as_tensor(t, dtype=torch.float64, device=device)


def _check_values(t: Tensor) -> None:
    if not bool(torch.isfinite(t).all()):
        raise ProblemError("t must be finite, got NaN or infinity")
    steps = t.diff(dim=-1)
    if bool((steps > 0).all()) or bool((steps < 0).all()):
        return
    rows = t if t.dim() == 2 else t[None]
    for row in rows:
        gaps = row.diff()
        turn = (gaps * gaps[0] <= 0).nonzero()
        if len(turn):
            i = int(turn[0])
            raise ProblemError(
                "t must be strictly increasing or strictly decreasing, got "
                f"t[{i}] = {float(row[i]):.9g} before t[{i + 1}] = {float(row[i + 1]):.9g}; "
                "sort it and drop repeated times"
            )
    raise ProblemError("t must run in one direction for all samples; solve the two groups apart")


def check_field(field: VectorField, solver: Solver) -> None:
    """Whether the field offers what the solver asks for.

    Raises:
        IncompatibleError: not callable, or without the methods of the solver's protocol.
    """
    if not callable(field):
        raise IncompatibleError(
            f"field must be callable as field(t, y), got {type(field).__name__}"
        )
    wanted = type(solver).field_type
    if wanted is not VectorField and not isinstance(field, wanted):
        raise IncompatibleError(
            f"solver {type(solver).__name__} needs a field that is a {wanted.__name__}; "
            f"{type(field).__name__} lacks its methods"
        )


def check_counts(max_steps: int, save: str, step_size: float | None) -> None:
    """Raises:
    ProblemError: a number out of range, or an unknown word.
    """  # noqa: D205 - nothing to say beyond the error
    if isinstance(max_steps, bool) or not isinstance(max_steps, Integral) or max_steps < 1:
        raise ProblemError(f"max_steps must be a positive integer, got {max_steps!r}")
    if save not in ("times", "steps"):
        raise ProblemError(f"save must be 'times' or 'steps', got {save!r}")
    if step_size is not None and not _is_length(step_size):
        raise ProblemError(
            f"step_size must be positive, got {step_size!r}; the direction comes from t"
        )


def _is_length(step_size: Any) -> bool:
    try:
        return 0 < float(step_size) < float("inf")
    except (TypeError, ValueError, RuntimeError):
        return False


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of a pytree that ask for gradients."""
    return [x for x in leaves_of(tree) if isinstance(x, Tensor) and x.requires_grad]
