"""``compile=True``: the fastest way that works, and a word where that is not the fastest there is.

Four tiers. ``native`` is the whole solve as machine code, ``graph`` its place on CUDA, chunks of
steps captured as graphs of the device; both for solves without gradients. ``step`` is one step as
one compiled graph, forwards and backwards, in the ordinary loop. ``eager`` is what runs without
compiling. Each falls back to the next with one warning that says why.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from odekit._engine import graphed
from odekit._engine.c_library import NoCompiler
from odekit._engine.compiled import is_transformed
from odekit._engine.identity import Identity
from odekit._engine.machine import Machine, save_of
from odekit._engine.native import find_machine, run_machine
from odekit._engine.native_check import check_machine
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
_restless: OrderedDict[int, Any] = OrderedDict()
_lock = threading.RLock()
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
        self.frozen: tuple[Machine, Any] | None = None
        self.latest: Machine | None = None
        self.kind: Any = None
        self.held: list[Tensor] = []
        self.reason = ""

    def freeze(self) -> None:
        """Take the code of the latest solve from now on, without a look at the field."""
        self.frozen = None if self.latest is None else (self.latest, self.kind)

    def prepare(self, problem: Problem) -> Problem:
        """The problem with a solver whose steps are compiled where the engine's loop takes them."""
        self.flat, self.params = problem.field, problem.params
        self.steps: dict[Any, Graphs | None] = {}
        self.identity: Identity | None = None
        return replace(problem, solver=compiled_solver(problem.solver, self._graphs))

    def __call__(self, problem: Problem) -> Trajectory:
        """Integrate by the first tier that can."""
        mixed = torch.is_autocast_enabled(problem.y0.device.type)
        if _is_transformed(warn=True) or mixed or _is_dual(problem):
            return self.eager(replace(problem, solver=_plain(problem.solver)))
        own = problem.field is self.flat and problem.observer is None
        if own and not _wants_gradients(problem):
            whole = self._graph if graphed.takes(problem.y0.device) else self._native
            found = whole(replace(problem, solver=_plain(problem.solver)))
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
        if field is not self.flat or _is_transformed(warn=False):
            return None
        if torch.is_autocast_enabled(y.device.type):  # a gradient method may come past `__call__`
            return None
        inputs = (t, y, *memory)
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, *self.params))
        key = (graph, graph and t.requires_grad, h.shape, *((x.shape, x.dtype) for x in inputs))
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
            torch.get_default_dtype(),
            *(getattr(self.flat, "layout", None), self.identity.marks_of(self.leaves)),
        )
        with _lock:
            found = _known.get(whole)
            if found is None or not self.identity.complete:
                graphs = self._made_graphs(key[0], solver, inputs)
                found = _known[whole] = graphs, self.identity.kept
                _forget()
            _known.move_to_end(whole)
        made = found[0]
        if not isinstance(made, Graphs):
            return None
        return made.bound({i: self.leaves[place] for i, place in made.of_args.items()})

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
            _warn(self.reason or str(reason), "eager")
        except Mismatch as reason:
            _warn(f"compiled code gave other numbers and is not used: {reason}", "eager")
        else:
            return graphs
        return _REFUSED

    def _graph(self, problem: Problem) -> Trajectory | None:
        """Chunks of steps, each captured as one graph of the device."""
        if problem.t.shape[-1] == 1 or _restless.get(id(self.field)) is self.field:
            return None
        identity = self._identity(problem)
        try:
            return graphed.solve_graphed(
                problem, self.leaves, identity, lambda: self._is_restless(problem, identity)
            )
        except Unsupported as reason:
            self.reason = ""
            _warn(str(reason), "step")
        except Mismatch as reason:
            _warn(f"captured steps are not used: {reason}", "step")
        return None

    def _native(self, problem: Problem) -> Trajectory | None:
        if problem.t.shape[-1] == 1 or problem.y0.device.type != "cpu":
            return None
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

    def _swapped(self, machine: Machine) -> list[Tensor]:
        """The tensors that the code reads, as this call has them."""
        return [
            self.leaves[place] if given else self.held[place] for given, place in machine.places
        ]

    def _machine(self, problem: Problem) -> Machine | None:
        """The code for the problem: known, or made and checked now."""
        self.kind = _kind_of(problem)
        if self.frozen is not None:
            known, kind = self.frozen
            return known if kind == self.kind else None
        if _restless.get(id(self.field)) is self.field:
            return None
        identity = self._identity(problem)
        self.held = identity.tensors
        key = (
            *(tuple(identity.marks), str(self.structure), identity.marks_of(self.leaves)),
            *(self.kind, torch.get_default_dtype()),
        )
        with _lock:
            found = _known.get(key)
            if found is None or not identity.complete:
                if self._is_restless(problem, identity):
                    return None
                machine = self._made(problem, identity)
                found = _known[key] = machine, identity.kept
                _forget()
            _known.move_to_end(key)
        return found[0] if isinstance(found[0], Machine) else None

    def _identity(self, problem: Problem) -> Identity:
        plain = [x for x in self.leaves if not isinstance(x, Tensor)]
        return Identity(self.field, _plain(problem.solver), problem.controller, plain)

    def _made(self, problem: Problem, identity: Identity) -> Machine | _Refused:
        controller = problem.controller
        bound = controller.with_tolerances(problem.rtol, problem.atol)
        try:
            with torch.no_grad():
                machine = find_machine(problem, controller)
                machine.places = _places(machine, self.leaves, identity)
                check_machine(machine, problem, bound, self._swapped(machine))
                machine.outside.forget()
        except Unsupported as reason:
            self.reason = str(reason)  # the tier of steps will say what it cannot do either
        except NoCompiler as reason:
            _warn(str(reason), "eager")
        except Mismatch as reason:
            _warn(f"compiled code gave other numbers and is not used: {reason}", "eager")
        else:
            return machine
        return _REFUSED

    def _is_restless(self, problem: Problem, identity: Identity) -> bool:
        """Whether a call of the field changes it, which code would leave out."""
        t = problem.t[:, :1] if problem.per_sample else problem.t[0]
        with torch.no_grad():
            problem.field(t, problem.y0)
        if self._identity(problem).key == identity.key:
            return False
        self.reason = "a call of the field changes something that it is made of"
        _restless[id(self.field)] = self.field
        while len(_restless) > KEPT:
            _restless.popitem(last=False)
        return True


def _is_transformed(*, warn: bool) -> bool:
    """Whether ``torch.func`` is at work, which is taken for granted where nobody can tell."""
    try:
        return is_transformed()
    except Unsupported as reason:
        if warn:
            _warn(str(reason), "eager")
        return True


def _places(machine: Machine, leaves: list[Any], identity: Identity) -> list[tuple[bool, int]]:
    """Where each tensor that the code reads will be found in later calls.

    Raises:
        Unsupported: one could not be, so that a change of it might pass unseen.
    """
    places = []
    of_args = {id(x): i for i, x in reversed([*enumerate(leaves)])}
    for x in machine.outside.tensors:
        if id(x) in of_args:
            places.append((True, of_args[id(x)]))
        elif id(x) in identity.places:
            places.append((False, identity.places[id(x)]))
        else:
            raise Unsupported(
                f"it reads a tensor of shape {tuple(x.shape)} that cannot be found in it; make it "
                "an attribute, a buffer, or one of args"
            )
    return places


def _kind_of(problem: Problem) -> Any:
    """What code is made for, beside the field and the settings of solver and controller."""
    return (
        *(getattr(problem.field, "layout", None), tuple(problem.y0.shape), problem.y0.dtype),
        *(problem.per_sample, save_of(problem), problem.dense, problem.controlled),
        *(type(_plain(problem.solver)), type(problem.controller)),
        *(_kind(problem.rtol), _kind(problem.atol)),
    )


def _kind(tolerance: Any) -> Any:
    return tuple(tolerance.shape) if isinstance(tolerance, Tensor) else None


def _warn(reason: str, tier: str) -> None:
    """Warn about the line that asked for compiling, however deep this is beneath it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("odekit"):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"compile=True: {reason}; tier {tier!r} runs", CompileWarning, stacklevel=level)


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
