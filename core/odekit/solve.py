"""``solve``: the one call that integrates, saves, interpolates and differentiates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from odekit._engine.behind import parameters_of, tensors_behind
from odekit._engine.check import check_counts, check_field, check_state, check_times, tensors_of
from odekit._engine.clock import is_differentiated
from odekit._engine.lanes import integrate_lanes
from odekit._engine.layout import Layout
from odekit._engine.lean import integrate_lean
from odekit.controller import StepController
from odekit.doubling import StepDoubling
from odekit.errors import IncompatibleError, ProblemError
from odekit.field import Field, State
from odekit.gradient import GradientMethod
from odekit.problem import Problem, Trajectory
from odekit.registry import create, resolve
from odekit.solution import Solution
from odekit.solver import Solver, Trait

if TYPE_CHECKING:
    from odekit._engine.tiers import Tiers


def solve(
    field: Callable[..., State],
    y0: State,
    t: Any,
    *,
    solver: str | Solver = "tsit5",
    gradient: str | GradientMethod = "unrolled",
    controller: str | StepController | None = None,
    args: Any = None,
    rtol: Any = 1e-6,
    atol: Any = 1e-8,
    step_size: float | None = None,
    params: Iterable[Tensor] | None = None,
    per_sample: bool = False,
    dense: bool = False,
    save: Literal["times", "steps"] = "times",
    max_steps: int = 10_000,
    compile: bool = False,
    throw: bool = True,
) -> Solution:
    """Solve ``dy/dt = field(t, y)`` from ``y(t[0]) = y0``.

    Args:
        field: called ``field(t, y)``, or ``field(t, y, args)`` when ``args`` is given. ``t`` is
            0-d; with ``per_sample`` it is ``(lanes,)``.
        y0: a tensor of any shape, real or complex, or a tuple, list or dict of tensors.
        t: output times, strictly monotone in either direction; ``t[0]`` is the start. ``(n,)``,
            or ``(lanes, n)`` with ``per_sample``.
        solver: name or instance; ``odekit.components("solver")`` lists the names.
        gradient: how gradients are computed, from the fastest to the leanest: ``"unrolled"``
            differentiates the steps taken; ``"discrete"`` and ``"checkpointed"`` give the same
            numbers in less memory, by taking the steps again; ``"interpolated"`` and
            ``"adjoint"`` solve a second equation backwards and are right up to the tolerance;
            ``"reversible"`` needs no memory and a reversible solver; ``"forward"`` is for few
            parameters; ``"auto"`` chooses. `odekit.compare_gradients` measures them.
        controller: step-size control, ``"integral"`` by default; ``"fixed"`` without a
            ``step_size`` takes one step from each output time to the next.
        args: handed to the field; tensors in it receive gradients.
        rtol: relative tolerance of the error of one step; a number or a pytree like ``y0``.
        atol: absolute tolerance, in the unit of the state; a number or a pytree like ``y0``.
        step_size: fixed steps of this length, with any solver. A solver without an error
            estimate that is given neither this nor a controller gets one by step doubling, at
            three times the evaluations.
        params: tensors that the field depends on, where they cannot be found. The search goes
            through modules, lists, tuples, dicts and the attributes of objects, in the field, in
            ``args``, and in what functions close over, have as defaults or name as globals. What
            it cannot see, such as something behind a property, in a library, looked up by a
            computed name, or behind more than thousands of other things, is still found where
            the field uses it at the start, the end or just after a jump.
        per_sample: the leading axis of ``y0`` counts samples, each with its own steps.
        dense: keep what ``solution(t)`` needs.
        save: rows at the output times, or at the start and every accepted step.
        max_steps: attempts allowed per lane.
        compile: make machine code of the solve, once for a field and its shapes; it is kept on
            disk. The field's tensors may change their values from call to call, all else that it
            is made of is part of the code and makes new code when it changes. What cannot be
            compiled runs as ever, with one `CompileWarning`; ``solution.stats.tier`` says what
            ran. See `odekit.compile` for many calls of one solve.
        throw: raise when a lane does not reach the end; otherwise see ``solution.status``.

    Returns:
        A `Solution`, with ``y`` time first.

    Raises:
        ProblemError: an argument has a value that cannot work.
        IncompatibleError: parts that do not go together.
        SolveError: the end was not reached; it carries the solution up to there.

    Example:
        >>> import torch, odekit
        >>> y0 = torch.tensor(1.0, dtype=torch.float64)
        >>> solution = odekit.solve(lambda t, y: -y, y0, [0.0, 1.0])
        >>> f"{solution.y[-1]:.6f}"
        '0.367879'
    """
    return solve_by(
        compiled_engine(field, args) if compile else None,
        field,
        y0,
        t,
        solver=solver,
        gradient=gradient,
        controller=controller,
        args=args,
        rtol=rtol,
        atol=atol,
        step_size=step_size,
        params=params,
        per_sample=per_sample,
        dense=dense,
        save=save,
        max_steps=max_steps,
        throw=throw,
    )


def solve_by(
    engine: Tiers | None,
    field: Callable[..., State],
    y0: State,
    t: Any,
    *,
    solver: str | Solver = "tsit5",
    gradient: str | GradientMethod = "unrolled",
    controller: str | StepController | None = None,
    args: Any = None,
    rtol: Any = 1e-6,
    atol: Any = 1e-8,
    step_size: float | None = None,
    params: Iterable[Tensor] | None = None,
    per_sample: bool = False,
    dense: bool = False,
    save: Literal["times", "steps"] = "times",
    max_steps: int = 10_000,
    throw: bool = True,
) -> Solution:
    """`solve` by an engine that compiles, or by the eager one."""
    check_counts(max_steps, save, step_size)
    chosen = resolve("solver", solver, Solver)
    method = resolve("gradient", gradient, GradientMethod)
    check_field(field, chosen)
    lifted = field.lift(y0) if isinstance(field, Field) else y0
    leaves = check_state(lifted, per_sample=per_sample)
    times = check_times(t, leaves[0], per_sample=per_sample)
    if save == "steps" and is_differentiated(times):
        raise IncompatibleError(
            "save='steps' returns times of the controller's choice, through which no gradient "
            "reaches t; use save='times', or give t.detach()"
        )
    if dense and times.shape[-1] == 1:
        raise ProblemError("dense=True needs at least two times in t, got one")
    layout = Layout.of(lifted, per_sample=per_sample)
    if step_size is None and controller is None:
        chosen = _adaptive(chosen)
    control = _controller(chosen, controller, step_size)
    _check_traits(chosen, control, method)
    problem = Problem(
        field=layout.wrap(field, args, has_args=args is not None),
        y0=layout.flatten(lifted),
        t=times,
        solver=chosen,
        controller=control,
        rtol=layout.spread("rtol", rtol),
        atol=layout.spread("atol", atol),
        per_sample=per_sample,
        params=_unique(field, args, _listed(params)),
        max_steps=max_steps,
        save=save,
        dense=dense,
    )
    if engine is not None:
        problem = engine.prepare(problem)
    trajectory = _signed(method.solve(problem, engine or integrate_eagerly), gradient)
    shared = per_sample and save == "times" and _rank(t) < 2
    return _wrap_up(trajectory, field, layout, shared_times=shared, throw=throw)


def _signed(trajectory: Trajectory, gradient: str | GradientMethod) -> Trajectory:
    """The trajectory with the name of the gradient method, unless that has put one there."""
    if trajectory.stats.gradient:
        return trajectory
    return replace(trajectory, stats=replace(trajectory.stats, gradient=name_of(gradient)))


def name_of(gradient: str | GradientMethod) -> str:
    """The name of a gradient method, for an instance that of its class in lower case."""
    if isinstance(gradient, str):
        return gradient
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(gradient).__name__).lower()


def _rank(t: Any) -> int:
    return t.dim() if isinstance(t, Tensor) else torch.as_tensor(t).dim()


def compiled_engine(field: Any, args: Any) -> Tiers:
    """The engine that compiles what it can."""
    from odekit._engine.tiers import Tiers as Engine  # nobody else pays for compilers

    return Engine(field, args, integrate_eagerly)


def integrate_eagerly(problem: Problem) -> Trajectory:
    """The engine: the driver that fits the problem."""
    control = problem.controller.with_tolerances(problem.rtol, problem.atol)
    problem = replace(problem, controller=control)
    return (integrate_lanes if problem.per_sample else integrate_lean)(problem)


def _adaptive(solver: Solver) -> Solver:
    """The solver with an error estimate: its own, or one from step doubling.

    Raises:
        ProblemError: it has none, and its dense output does not allow doubling.
    """
    if Trait.ERROR_ESTIMATE in solver.traits:
        return solver
    if type(solver).complete is not Solver.complete:
        raise ProblemError(
            f"solver {type(solver).__name__} has no error estimate: give step_size=..., or "
            "controller='fixed' to step from each output time to the next"
        )
    return StepDoubling(solver)


def _controller(
    solver: Solver, choice: str | StepController | None, step_size: float | None
) -> StepController:
    if step_size is not None:
        if choice not in (None, "fixed"):
            raise IncompatibleError(
                "step_size selects the fixed controller; leave out controller, or step_size"
            )
        return create("controller", "fixed", step_size=step_size)  # type: ignore[no-any-return]
    return resolve("controller", choice or "integral", StepController)  # type: ignore[no-any-return]


def _check_traits(solver: Solver, controller: StepController, method: GradientMethod) -> None:
    name = type(solver).__name__
    if controller.solver_needs not in solver.traits:
        raise IncompatibleError(
            f"controller {type(controller).__name__} needs an error estimate, which solver "
            f"{name} does not have; give step_size=..., or an adaptive solver such as 'tsit5'"
        )
    if method.solver_needs not in solver.traits:
        raise IncompatibleError(
            f"gradient {type(method).__name__} needs a solver with {method.solver_needs}, which "
            f"{name} is not; use gradient='unrolled', or {method.solver_advice}"
        )


@dataclass(frozen=True)
class _Restore:
    """From the flat state to the caller's value; unlike a closure it can be pickled."""

    layout: Layout
    field: Field | None

    def __call__(self, y: Tensor) -> State:
        tree = self.layout.unflatten(y)
        return tree if self.field is None else self.field.project(tree)


def _wrap_up(
    trajectory: Trajectory,
    field: Callable[..., State],
    layout: Layout,
    *,
    shared_times: bool,
    throw: bool,
) -> Solution:
    restore = _Restore(layout, field if isinstance(field, Field) else None)
    t = trajectory.t[0] if shared_times else trajectory.t
    solution = Solution(
        t=t,
        y=restore(trajectory.y),
        status=trajectory.status,
        stats=trajectory.stats,
        reached=trajectory.reached,
        _dense=trajectory.dense,
        _restore=restore,
    )
    error = trajectory.failure()
    if throw and error is not None:
        error.solution = solution
        raise error
    return solution


def _listed(params: Iterable[Tensor] | None) -> list[Tensor]:
    if params is None:
        return []
    try:
        listed = [params] if isinstance(params, Tensor) else list(params)
    except TypeError:
        listed = [params]  # type: ignore[list-item]
    for x in listed:
        if not isinstance(x, Tensor):
            raise ProblemError(
                f"params must be tensors, got {type(x).__name__}; write params=[w, ...] or "
                "params=module.parameters()"
            )
    return listed


def _unique(field: Any, args: Any, more: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Everything beside the state that asks for gradients, each tensor once."""
    if not torch.is_grad_enabled():
        return ()
    found = [*parameters_of(field), *tensors_of(args), *parameters_of(args), *more]
    return tuple({id(x): x for x in found if x.requires_grad}.values())


__all__ = ["parameters_of", "solve", "tensors_behind"]
