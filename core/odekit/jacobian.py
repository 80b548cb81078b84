"""The derivative of a flow: how every row of a solution depends on its start, or on parameters.

Forward sensitivities are integrated beside the state, with the steps of the plain solve, so the
matrices are exact for the numbers computed. That pays for a few numbers; where one derivative of
one loss by very many of them is wanted, ``solve`` with a gradient method and ``backward`` is the
right tool, and cheaper.

Shapes: of a state ``s`` behind ``n`` rows, and per sample behind ``lanes``; what is derived comes
    first, what it is derived by last.
Units: state per state, or state per parameter.
Source: the variational equations of E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary
    Differential Equations I", 2nd ed., 1993, section I.14, doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from odekit.errors import IncompatibleError, ProblemError
from odekit.field import State
from odekit.gradient import GradientMethod
from odekit.problem import Integrate, Problem, Trajectory
from odekit.registry import create
from odekit.solve import solve
from odekit.trees import flatten, leaves_of, unflatten

REFUSED = {
    "gradient": "the derivative is taken by forward sensitivities",
    "dense": "there is one matrix a row, so add the times to t",
    "save": "there is one matrix a time of t",
}
"""Options of ``solve`` that have no meaning here, and why."""


def flow_jacobian(
    field: Callable[..., State],
    y0: State,
    t: Any,
    *,
    wrt: Literal["y0", "params"] = "y0",
    params: Iterable[Tensor] | None = None,
    per_sample: bool = False,
    **options: Any,
) -> Any:
    """The derivative of each row of the solution by the start, or by the parameters.

    Args:
        field: as for `solve`.
        y0: the start, a real tensor or a tuple, list or dict of them.
        t: output times, as for `solve`; ``n`` of them.
        wrt: ``"y0"`` or ``"params"``.
        params: tensors asking for gradients to derive by, in this order; by default all that
            `solve` finds: those of the field, then those of ``args``.
        per_sample: the leading axis of ``y0`` counts samples, which do not depend on another.
        **options: those of `solve`, such as ``solver``, ``args``, ``rtol`` and ``throw``.

    Returns:
        For a tensor ``y0`` of shape ``s``: by the start ``(n, *s, *s)``, and entry ``[i, a, b]``
        is the derivative of ``y[i][a]`` by ``y0[b]``. By parameters a tuple with one
        ``(n, *s, *p.shape)`` for each parameter ``p``. Per sample ``s`` is the shape of one, and
        the lanes come second: ``(n, lanes, *s, *s)`` and ``(n, lanes, *s, *p.shape)``. Where
        ``y0`` is a tuple, list or dict, so is the result, and by the start each of its leaves is
        one again. Rows that were not reached, with ``throw=False``, are NaN.

    Raises:
        ProblemError: an argument has a value that cannot work.
        IncompatibleError: complex states or parameters, or a field whose ``project`` depends on
            parameters that are asked for.
        SolveError: the end was not reached.

    Example:
        >>> import torch, odekit
        >>> y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> turn = lambda t, y: torch.stack([y[1], -y[0]])
        >>> half = odekit.flow_jacobian(turn, y0, [0.0, torch.pi], rtol=1e-10, atol=1e-12)[-1]
        >>> half.round(decimals=6).diagonal().tolist()
        [-1.0, -1.0]
    """
    _check(wrt, options)
    leaves, structure = flatten(y0)
    if wrt == "y0":
        leaves = [_leaf(x) for x in leaves]
    listed = None if params is None else _checked(params)
    recorder = _Recorder(() if wrt == "y0" else listed)
    with torch.enable_grad():
        solution = solve(
            field,
            unflatten(leaves, structure),
            t,
            gradient=recorder,
            params=listed,
            per_sample=per_sample,
            **options,
        )
        by_start = wrt == "y0"
        sources = leaves if by_start else recorder.params
        if not by_start:
            _check_params(solution._restore, recorder)
        tangents = recorder.tangents_by(sources, per_sample=per_sample, by_start=by_start)
    pushed, outer = flatten(_restored(solution._restore, recorder.rows, tangents))
    shapes = [x.shape[1:] if by_start and per_sample else x.shape for x in sources]
    parts = [_split(x.movedim(0, -1), shapes) for x in pushed]
    if by_start:
        return unflatten([unflatten(part, structure) for part in parts], outer)
    place = {id(p): i for i, p in enumerate(sources)}
    order = [place[id(p)] for p in (sources if listed is None else listed)]
    return tuple(unflatten([part[i] for part in parts], outer) for i in order)


@runtime_checkable
class Sensitive(Protocol):
    """A gradient method that hands out the sensitivities that it carries along."""

    def sensitivities(self, problem: Problem, integrate: Integrate) -> tuple[Trajectory, Tensor]:
        """The solution, and ``(n, m, *y0.shape)``: each row by ``m`` real numbers.

        Those are the entries of ``problem.y0`` if it asks for gradients (one sample's, where each
        has its own steps), then those of ``problem.params``, in this order.
        """


@final
class _Recorder(GradientMethod):
    """Solve for sensitivities and keep them; serves one solve.

    Args:
        wanted: parameters to derive by; None for all of the problem.
    """

    def __init__(self, wanted: Sequence[Tensor] | None) -> None:
        self.wanted = wanted
        self.params: tuple[Tensor, ...] = ()

    def solve(self, problem: Problem, integrate: Integrate) -> Trajectory:
        """The trajectory, without a graph."""
        method = create("gradient", "forward")
        if not isinstance(method, Sensitive):
            raise IncompatibleError(
                "flow_jacobian needs gradient 'forward' to hand out sensitivities, which "
                f"{type(method).__name__} does not do; remove the plugin that replaces it"
            )
        if self.wanted is not None:
            wanted = tuple({id(p): p for p in self.wanted}.values())
            problem = replace(problem, params=wanted)
        elif not problem.params:
            raise ProblemError(
                "wrt='params' found no tensor that asks for gradients, neither in the field nor "
                "in args; write p.requires_grad_() before it is used, or name it in params=[p]"
            )
        if problem.y0.is_complex() or any(p.is_complex() for p in problem.params):
            raise IncompatibleError(
                "flow_jacobian needs a real state and real parameters, since a complex derivative "
                "exists of few fields; give torch.view_as_real(y0), and a field to match"
            )
        self.params, self.start = problem.params, problem.y0
        trajectory, self.tangents = method.sensitivities(problem, integrate)
        self.rows = trajectory.y
        return trajectory

    def tangents_by(self, sources: Sequence[Tensor], *, per_sample: bool, by_start: bool) -> Tensor:
        """``(k, *rows)``: the rows by the ``k`` entries of the sources, NaN where none was reached.

        The start counts as well, where it depends on them.
        """
        n, m = self.tangents.shape[:2]
        lanes = len(self.start) if per_sample else 1
        found = self.tangents.reshape(n, m, lanes, -1)
        if self.start.requires_grad:
            size = found.shape[-1]
            chain = self._chain(sources, lanes, size, together=by_start)
            through = torch.einsum("imlo,mlk->iklo", found[:, :size], chain)
            found = through if by_start else through + found[:, size:]
        lost = ~torch.isfinite(self.rows.reshape(n, 1, lanes, -1)).all(-1, keepdim=True)
        return torch.where(lost, torch.nan, found).movedim(1, 0).reshape(-1, *self.rows.shape)

    def _chain(self, sources: Sequence[Tensor], lanes: int, size: int, *, together: bool) -> Tensor:
        """The flat start by the sources, ``(size, lanes, k)``.

        Lanes do not meet in a start, so what each has of its own is found ``together``.
        """
        start = self.start.reshape(lanes, size)
        result = start.new_zeros(size, lanes, sum(x.numel() for x in sources) // lanes**together)
        for i in range(size):
            for picked in [slice(None)] if together else range(lanes):
                grads = torch.autograd.grad(
                    start[picked, i].sum(),
                    sources,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                rows = lanes if together else 1
                result[i, picked] = torch.cat([g.reshape(rows, -1) for g in grads], -1)
        return result


def _check(wrt: str, options: Mapping[str, Any]) -> None:
    if wrt not in ("y0", "params"):
        raise ProblemError(f"wrt must be 'y0' or 'params', got {wrt!r}")
    for name, reason in REFUSED.items():
        if name in options:
            raise ProblemError(f"flow_jacobian takes no {name}={options[name]!r}: {reason}")


def _checked(params: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that were asked for.

    Raises:
        ProblemError: one of them asks for no gradient.
    """
    listed = [params] if isinstance(params, Tensor) else list(params)
    for i, p in enumerate(listed):
        if not (isinstance(p, Tensor) and p.requires_grad):
            raise ProblemError(
                f"params[{i}] must be a tensor that asks for gradients; write "
                "p.requires_grad_() before it is used"
            )
    return listed


def _check_params(restore: Callable[[Tensor], State] | None, recorder: _Recorder) -> None:
    seen = leaves_of(restore(recorder.rows.detach())) if restore is not None else []
    if any(x.requires_grad for x in seen):
        raise IncompatibleError(
            "the field's project depends on parameters as well, which flow_jacobian does not "
            "follow; solve with gradient='unrolled' and differentiate that"
        )


def _leaf(x: Any) -> Any:
    """A copy of a part of the start that derivatives are taken by."""
    return x.detach().clone().requires_grad_() if torch.is_floating_point(x) else x


def _restored(restore: Callable[[Tensor], State] | None, rows: Tensor, tangents: Tensor) -> State:
    """Tangents of the caller's value, ``(k, *leaf)``, of those of the flat rows."""
    if restore is None:
        return tangents
    with torch.enable_grad():
        rows = rows.detach().requires_grad_()
        leaves, structure = flatten(restore(rows))
        sent = [torch.zeros_like(leaf).requires_grad_() for leaf in leaves]
        # What is sent back is linear in what is sent, so its transpose is the derivative.
        (back,) = torch.autograd.grad(leaves, rows, sent, create_graph=True)
        pushed = [
            torch.autograd.grad(
                back, sent, tangent, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for tangent in tangents
        ]
    return unflatten([torch.stack(parts) for parts in zip(*pushed, strict=True)], structure)


def _split(x: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """``(..., k)`` to one ``(..., *shape)`` for each of the shapes."""
    parts = torch.split(x, [shape.numel() for shape in shapes], -1)
    return [part.reshape(*x.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]
