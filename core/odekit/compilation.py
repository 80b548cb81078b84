"""``odekit.compile``: one solve as a function, for programs that call it many times."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any, final

import torch
from torch import Tensor

from odekit.errors import ProblemError
from odekit.field import State
from odekit.solution import Solution
from odekit.solve import compiled_engine, solve_by
from odekit.trees import flatten, sketch


@final
class Compiled:
    """A solve that was compiled for a field and for shapes; call it with values.

    Attributes:
        tier: what runs: ``"native"``, ``"graph"``, ``"step"`` or ``"eager"``.
    """

    def __init__(self, field: Callable[..., State], y0: State, t: Any, **options: Any) -> None:
        self._field, self._options = field, options
        self._engine = compiled_engine(field, options.get("args"))
        self._like, self._example = _shapes(y0, t), (y0, t)
        self.tier = solve_by(self._engine, field, y0, t, **options).stats.tier
        self._engine.freeze()

    def __call__(self, y0: State, t: Any) -> Solution:
        """Solve from other values.

        Raises:
            ProblemError: ``y0`` or ``t`` has another shape or dtype than it was compiled for.
            SolveError: the end was not reached.
        """
        if _shapes(y0, t) != self._like:
            raise ProblemError(
                f"compiled for y0 and t of shapes and dtypes {self._like}, got {_shapes(y0, t)}; "
                "call odekit.compile again"
            )
        # One of its own, since several threads may call.
        return solve_by(copy(self._engine), self._field, y0, t, **self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        # Code cannot travel: who takes this up finds it on disk, or compiles it there.
        return _compiled_again, (self._field, *self._example, self._options)


def _compiled_again(
    field: Callable[..., State], y0: State, t: Any, options: dict[str, Any]
) -> Compiled:
    with torch.no_grad():
        return Compiled(field, y0, t, **options)


def compile(field: Callable[..., State], y0: State, t: Any, **options: Any) -> Compiled:
    """Compile a solve, to be called with other values of the same shapes and dtypes.

    The field is taken as it is now: tensors that it reads are read anew in every call, so that
    weights may change in place, but numbers and settings are fixed. ``odekit.solve(...,
    compile=True)`` looks at the field on each call instead, which costs more.

    Args:
        field: as for `odekit.solve`.
        y0: an example of the start.
        t: an example of the output times.
        **options: those of `odekit.solve` but ``compile``.

    Returns:
        A `Compiled`, called as ``fast(y0, t)``.

    Raises:
        SolveError: the example does not reach its end.
        TypeError: an option that `odekit.solve` does not have.

    Warns:
        CompileWarning: it runs, but not as fast as machine code would.

    Example:
        >>> import torch, odekit
        >>> y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> with torch.no_grad():
        ...     fast = odekit.compile(lambda t, y: -y, y0, [0.0, 1.0])
        ...     end = fast(2 * y0, [0.0, 2.0]).y[-1]
        >>> f"{end[0]:.6f} {end[1]:.6f}"
        '0.270671 0.541341'
    """
    known = inspect.signature(solve_by).parameters
    for name in options:
        if name not in known or name in ("engine", "field", "y0", "t"):
            raise TypeError(f"odekit.compile() got an unexpected keyword argument {name!r}")
    return Compiled(field, y0, t, **options)


def _shapes(y0: State, t: Any) -> tuple[Any, ...]:
    """What code is made for, in words: the structure and its leaves, and the times."""
    leaves, structure = flatten(y0)
    kinds = [_kind(x) for x in leaves]
    times = tuple(t.shape) if isinstance(t, Tensor) else tuple(torch.as_tensor(t).shape)
    return sketch(structure), *kinds, times


def _kind(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return type(x).__name__
    place = "" if x.device.type == "cpu" else f" on {x.device}"
    return f"{tuple(x.shape)} {x.dtype}{place}"
