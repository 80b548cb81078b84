"""The rows of diffrax in the speed benchmark, jitted, and the floor of its fields.

diffrax counts steps, not evaluations: those are computed from the stages of the solver.

Source: P. Kidger, "On Neural Differential Equations", doctoral thesis, University of Oxford,
    2021, arXiv:2202.02435; https://github.com/patrick-kidger/diffrax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odekit import ProblemError
from odekit_benchmarks.speed_floors import repeated
from odekit_benchmarks.speed_problems import Case
from odekit_benchmarks.speed_timing import Method, Reading

STAGES = {"Dopri5": 6, "Tsit5": 6, "Dopri8": 13}
"""Evaluations that a further step costs."""

BEGINNING = 2
"""Evaluations that choose the first step."""

CHAIN = {True: 16, False: 512}
"""Evaluations in one call of the floor, of a training problem and of a forward one."""

UNROLLED = 8
"""Evaluations of a forward problem in one turn of the loop, about as many as a step has."""


def rows(case: Case) -> list[Method]:
    """The methods of diffrax for one problem.

    Raises:
        ProblemError: the problem is on a device that jax does not have.
    """
    import jax

    if case.y0.device.type != "cpu" and jax.default_backend() == "cpu":
        raise ProblemError("diffrax is left out: this jax knows no device but the processor")
    if case.target is not None:
        return _training(case)
    solvers = ["Dopri5", "Tsit5"]
    if case.name == "P4":
        solvers.append("Dopri8")
    return [_forward(case, solver) for solver in solvers]


def _arrays(case: Case) -> tuple[Any, Any, Any]:
    """Start, times and arguments as arrays of jax."""
    import jax
    import jax.numpy as jnp

    args = jax.tree_util.tree_map(jnp.asarray, case.args)
    return jnp.asarray(case.y0.cpu().numpy()), jnp.asarray(case.t.cpu().numpy()), args


def _double(case: Case) -> Any:
    """The precision of the problem, as a context; jax has one switch for all."""
    import jax

    return jax.enable_x64(case.y0.dtype == torch.float64)


def _solver(case: Case, name: str, adjoint: Any, *, max_steps: int | None) -> Callable[..., Any]:
    """``(y0, t, args)`` to the solution."""
    import diffrax
    import jax.numpy as jnp

    term = diffrax.ODETerm(lambda t, y, args: case.right(jnp, t, y, args))
    solver = getattr(diffrax, name)()
    control = diffrax.PIDController(rtol=case.tolerance, atol=case.tolerance)
    final = len(case.t) == 2

    def solve(y0: Any, t: Any, args: Any) -> Any:
        save = diffrax.SaveAt(t1=True) if final else diffrax.SaveAt(ts=t)
        return diffrax.diffeqsolve(
            term, solver, t[0], t[-1], None, y0, args,
            saveat=save, stepsize_controller=control, adjoint=adjoint, max_steps=max_steps,
        )  # fmt: skip

    return solve


def _forward(case: Case, name: str) -> Method:
    import diffrax
    import jax

    bounded = len(case.t) > 2
    adjoint = diffrax.RecursiveCheckpointAdjoint() if bounded else diffrax.ForwardMode()
    with _double(case):
        y0, t, args = _arrays(case)
    solve = _solver(case, name, adjoint, max_steps=case.max_steps if bounded else None)
    if case.per_sample:
        solve = jax.vmap(solve, in_axes=(0, None, 0 if len(case.args) else None))
    run = jax.jit(solve)

    def call(times: Any) -> Any:
        with _double(case):
            return jax.block_until_ready(run(y0, times, args))

    def reading(solution: Any) -> Reading:
        judged = solution
        if case.judged is not None:
            with _double(case):
                judged = call(jax.numpy.asarray(case.judged.cpu().numpy()))
        ys = np.array(judged.ys)
        if case.per_sample:
            ys = ys.swapaxes(0, 1)
        value = torch.from_numpy(ys)
        if len(case.t) == 2:  # the start is not saved
            value = torch.cat([case.y0.cpu()[None], value])
        return _reading(solution, name, value)

    label = f"diffrax {name.lower()}" + (" vmap" if case.per_sample else "")
    return Method(label, "diffrax", lambda: call(t), reading, floor="jax", compiled=True)


def _reading(solution: Any, name: str, value: Tensor) -> Reading:
    # In numpy: outside the context, jax would warn of integers of 64 bits.
    steps = int(np.asarray(solution.stats["num_steps"]).max())
    kept = int(np.asarray(solution.stats["num_accepted_steps"]).max())
    return Reading(value, STAGES[name] * steps + BEGINNING, kept, steps - kept)


def _training(case: Case) -> list[Method]:
    import diffrax

    return [
        _gradient(case, "diffrax dopri5", diffrax.RecursiveCheckpointAdjoint()),
        _gradient(
            case, "diffrax dopri5, all kept", diffrax.RecursiveCheckpointAdjoint(checkpoints=256)
        ),
        _gradient(case, "diffrax backsolve", diffrax.BacksolveAdjoint()),
    ]


def _gradient(case: Case, label: str, adjoint: Any) -> Method:
    import jax
    import jax.numpy as jnp

    if case.target is None:
        raise ProblemError(f"{case.name} is a forward problem: it has no gradient")
    y0, t, args = _arrays(case)
    target = jnp.asarray(case.target.cpu().numpy())
    solve = _solver(case, "Dopri5", adjoint, max_steps=case.max_steps)

    def loss(args: Any) -> Any:
        solution = solve(y0, t, args)
        return ((solution.ys - target) ** 2).mean(), solution.stats

    run = jax.jit(jax.grad(loss, has_aux=True))

    def reading(result: Any) -> Reading:
        gradient, stats = result
        value = torch.cat([torch.from_numpy(np.array(g)).reshape(-1) for g in gradient])
        steps, kept = int(stats["num_steps"]), int(stats["num_accepted_steps"])
        return Reading(value, STAGES["Dopri5"] * steps + BEGINNING, kept, steps - kept)

    def call() -> Any:
        return jax.block_until_ready(run(args))

    return Method(label, "diffrax", call, reading, floor="jax", compiled=True)


def floor(case: Case) -> Method:
    """One evaluation of the field in jax, in a loop that stays in compiled code.

    Of a training problem, one evaluation and its pull-back.
    """
    import jax
    import jax.numpy as jnp

    trains = case.target is not None
    with _double(case):
        y0, t, args = _arrays(case)

    def slope(y: Any, args: Any) -> Any:
        return case.right(jnp, t[0], y, args)

    def forward(i: Any, y: Any) -> Any:
        for _ in range(UNROLLED):
            y = y + 1e-3 * slope(y, args)
        return y

    def training(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        y, total = carry
        out, pull = jax.vjp(slope, y, args)
        by_y, by_args = pull(out)
        return y + 1e-6 * by_y, jax.tree_util.tree_map(jnp.add, total, by_args)

    count = CHAIN[trains]

    def chain(y: Any, args: Any) -> Any:
        if trains:
            zeros = jax.tree_util.tree_map(jnp.zeros_like, args)
            return jax.lax.fori_loop(0, count, training, (y, zeros))
        return jax.lax.fori_loop(0, count // UNROLLED, forward, y)

    run = jax.jit(chain)

    def call() -> Any:
        with _double(case):
            return jax.block_until_ready(run(y0, args))

    seconds = repeated(call, torch.device("cpu"))  # jax was waited for already
    return Method("jax", "floor", lambda: seconds() / count, floor="jax", compiled=True)
