"""``compile=True``: the fastest way that works, and a word where that is not the fastest there is.

Three tiers. ``native`` is the whole solve as machine code, for solves without gradients. ``step``
is one step as one compiled graph, forwards and backwards, in the ordinary loop. ``eager`` is what
runs without compiling. Each falls back to the next with one warning that says why.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from odekit._engine.compiled import NoCompiler, is_transformed
from odekit._engine.identity import Identity
from odekit._engine.machine import Machine, save_of
from odekit._engine.native import check_machine, find_machine, run_machine
from odekit._engine.scalars import Mismatch, Unsupported
from odekit._engine.step_graphs import CompiledSolver, Graphs, check_graphs, compiled_solver
from odekit.errors import CompileWarning
from odekit.problem import Integrate, Problem, Trajectory
from odekit.solver import FlatField, Solver
from odekit.trees import Structure, flatten, leaves_of

KEPT = 32
"""Compiled solves that are remembered, the least used forgotten first."""


class _Refused:
    """A problem that a tier cannot take."""


_REFUSED = _Refused()
_known: OrderedDict[Any, tuple[Machine | Graphs | _Refused, list[Any]]] = OrderedDict()


def _forget() -> None:
    while len(_known) > KEPT:
        _known.popitem(last=False)


def _plain(solver: Solver) -> Solver:
    return solver.inner if isinstance(solver, CompiledSolver) else solver


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


class Tiers:
    """The engine for ``compile=True``.

    Args:
        field: as the caller gave it.
        args: likewise.
        eager: the engine without compiling.
    """

    def __init__(self, field: Any, args: Any, eager: Integrate) -> None:
        self.field, self.args, self.eager = field, args, eager
        self.leaves, self.structure = flatten(args)
        self.frozen: Machine | None = None
        self.latest: Machine | None = None

    def freeze(self) -> None:
        """Take the code of the latest solve from now on, without a look at the field."""
        self.frozen = self.latest

    def prepare(self, problem: Problem) -> Problem:
        """The problem with a solver whose steps are compiled where the engine's loop takes them."""
        self.flat, self.params = problem.field, problem.params
        self.steps: dict[Any, Graphs | None] = {}
        self.identity: Identity | None = None
        return replace(problem, solver=compiled_solver(problem.solver, self._graphs))

    def __call__(self, problem: Problem) -> Trajectory:
        """Integrate by the first tier that can."""
        if is_transformed() or _is_dual(problem):
            return self.eager(replace(problem, solver=_plain(problem.solver)))
        own = problem.field is self.flat and problem.observer is None
        if own and not _wants_gradients(problem):
            found = self._native(replace(problem, solver=_plain(problem.solver)))
            if found is not None:
                return found
        trajectory = self.eager(problem)
        if any(graphs is not None for graphs in self.steps.values()):
            stats = replace(trajectory.stats, tier="step")
            return replace(trajectory, stats=stats)
        return trajectory

    # Steps as graphs.

    def _graphs(
        self,
        solver: Solver,
        field: FlatField,
        t: Tensor,
        h: Tensor,
        y: Tensor,
        memory: list[Tensor],
        spec: Structure,
    ) -> Graphs | None:
        """The compiled step for these inputs: known, or made and checked now; None for none."""
        if field is not self.flat or is_transformed():
            return None
        graph = torch.is_grad_enabled()
        seen = [(x.shape, x.dtype, graph and x.requires_grad) for x in (t, y, *memory)]
        key = (graph, h.shape, *seen)
        if key not in self.steps:
            self.steps[key] = self._known_graphs(key, solver, (t, h, y, memory, spec))
        return self.steps[key]

    def _known_graphs(self, key: Any, solver: Solver, inputs: tuple[Any, ...]) -> Graphs | None:
        if self.identity is None:
            plain = [x for x in self.leaves if not isinstance(x, Tensor)]
            self.identity = Identity(self.field, solver, plain)
        wanted = [(x.shape, x.dtype, x.requires_grad) for x in self.leaves if _is_tensor(x)]
        flags = [x.requires_grad for x in self.params]
        whole = (
            *("step", key, self.identity.key, str(self.structure), tuple(wanted), tuple(flags)),
            *(str(inputs[-1]), str(inputs[2].device), torch.get_num_threads()),
        )
        found = _known.get(whole)
        if found is None or not self.identity.complete:
            found = _known[whole] = self._made_graphs(key[0], solver, inputs), self.identity.kept
            _forget()
        _known.move_to_end(whole)
        graphs = found[0]
        if not isinstance(graphs, Graphs):
            return None
        return graphs.bound({i: self.leaves[place] for i, place in graphs.of_args.items()})

    def _made_graphs(
        self, graph: bool, solver: Solver, inputs: tuple[Any, ...]
    ) -> Graphs | _Refused:
        t, h, y, memory, spec = inputs
        try:
            graphs = Graphs(solver, self.flat, t, h, y, memory, spec, self.params, graph=graph)
            of_args = {id(x): i for i, x in enumerate(self.leaves)}
            graphs.of_args = {
                i: of_args[id(x)] for i, x in enumerate(graphs.captured) if id(x) in of_args
            }
            check_graphs(graphs, solver, self.flat, t, h, y, memory, spec, self.params)
        except Unsupported as reason:
            _warn(str(reason), "eager")
        except Mismatch as reason:
            _warn(f"compiled code gave other numbers and is not used: {reason}", "eager")
        else:
            return graphs
        return _REFUSED

    def _native(self, problem: Problem) -> Trajectory | None:
        controller = problem.controller.with_tolerances(problem.rtol, problem.atol)
        machine = self._machine(problem)
        self.latest = machine
        if machine is None:
            return None
        try:
            with torch.no_grad():
                found = run_machine(machine, problem, controller, swap=self._swapped(machine))
        except Unsupported as reason:
            _warn(f"{reason}", "eager")
            return None
        if found is None:
            return None
        return replace(found, stats=replace(found.stats, tier="native"))

    def _swapped(self, machine: Machine) -> dict[int, Tensor]:
        """Tensors of ``args`` that take the place of those of the first call."""
        return {i: self.leaves[place] for i, place in machine.places.items()}

    def _machine(self, problem: Problem) -> Machine | None:
        """The code for the problem: known, or made and checked now."""
        if self.frozen is not None:
            return self.frozen
        plain = [x for x in self.leaves if not isinstance(x, Tensor)]
        shapes = [(tuple(x.shape), x.dtype) for x in self.leaves if isinstance(x, Tensor)]
        identity = Identity(self.field, problem.solver, problem.controller, plain)
        key = (
            *(identity.key, str(self.structure), tuple(shapes)),
            *(problem.per_sample, tuple(problem.y0.shape), problem.y0.dtype),
            *(save_of(problem), problem.dense),
            *(_kind(problem.rtol), _kind(problem.atol), problem.controlled),
        )
        found = _known.get(key)
        if found is None or not identity.complete:
            machine = self._made(problem)
            found = _known[key] = machine, identity.kept
            _forget()
        _known.move_to_end(key)
        return found[0] if isinstance(found[0], Machine) else None

    def _made(self, problem: Problem) -> Machine | _Refused:
        controller = problem.controller
        bound = controller.with_tolerances(problem.rtol, problem.atol)
        try:
            with torch.no_grad():
                machine = find_machine(problem, controller)
                of_args = {id(x): i for i, x in enumerate(self.leaves)}
                machine.places = {
                    i: of_args[id(x)]
                    for i, x in enumerate(machine.outside.tensors)
                    if id(x) in of_args
                }
                check_machine(machine, problem, bound, {})
        except Unsupported:
            pass  # the tier of steps will say what it cannot do either
        except NoCompiler as reason:
            _warn(str(reason), "eager")
        except Mismatch as reason:
            _warn(f"compiled code gave other numbers and is not used: {reason}", "eager")
        else:
            return machine
        return _REFUSED


def _kind(tolerance: Any) -> Any:
    return tuple(tolerance.shape) if isinstance(tolerance, Tensor) else None


def _warn(reason: str, tier: str) -> None:
    warnings.warn(f"compile=True: {reason}; tier {tier!r} runs", CompileWarning, stacklevel=6)


def _wants_gradients(problem: Problem) -> bool:
    """Whether a graph is wanted: by what is known, or by the slope at the start."""
    if not torch.is_grad_enabled():
        return False
    if any(x.requires_grad for x in (problem.y0, problem.t, *problem.params)):
        return True
    memory = problem.memory
    if memory is None:
        t = problem.t[:, :1] if problem.per_sample else problem.t[0]
        memory = problem.solver.init(problem.field, t, problem.y0)
    return any(isinstance(x, Tensor) and x.requires_grad for x in leaves_of(memory))


def _is_dual(problem: Problem) -> bool:
    """Whether derivatives are carried forwards."""
    known = (problem.y0, problem.t, *problem.params)
    return any(forward_ad.unpack_dual(x).tangent is not None for x in known)  # type: ignore[no-untyped-call]
