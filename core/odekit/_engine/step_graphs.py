"""One step as compiled graphs: forwards, and forwards with what the way back needs.

The step is traced once with its derivative. The joint graph is cut in two where the least has to
be kept, and either part is compiled by itself; both are called past the layers that usually stand
between autograd and compiled code. The ordinary loop then takes compiled steps, whatever the
gradient method makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from odekit._engine.clock import CountedField
from odekit._engine.compiled import (
    Compiled,
    Joint,
    inductor,
    trace_joint,
)
from odekit._engine.kept_steps import sketched
from odekit._engine.scalars import Mismatch, Unsupported
from odekit.errors import IncompatibleError
from odekit.solver import FlatField, Pulled, Segment, Solver, Step, Trait
from odekit.trees import Structure, flatten, unflatten


class Plan(NamedTuple):
    """Where the parts of a step come from: a number of the graph's outputs, or of its inputs.

    Attributes:
        y, error: the proposal and its error.
        memory, dense: the leaves of the memory, and what dense output needs.
        spec: the structure of the memory.
        outputs: how many outputs the graph has, the error left out.
        calls: evaluations of the field.
    """

    y: int
    error: bool
    memory: tuple[int, ...]
    dense: tuple[int, ...]
    spec: Structure
    outputs: int
    calls: int


class Graphs:
    """The compiled step for inputs of certain shapes.

    Args:
        solver: takes the step.
        field: a flat field.
        t, h, y, memory: examples, as the solver sees them.
        spec: the structure of the memory.
        params: tensors that ask for gradients, as far as known.
        graph: whether a way back is wanted.

    Raises:
        Unsupported: it cannot be traced or compiled.
    """

    def __init__(
        self,
        solver: Solver,
        field: FlatField,
        t: Tensor,
        h: Tensor,
        y: Tensor,
        memory: Sequence[Tensor],
        spec: Structure,
        params: Sequence[Tensor],
        *,
        graph: bool,
    ) -> None:
        if y.is_complex():  # PyTorch's compiler makes no code for them
            raise Unsupported(f"the state is {y.dtype}")
        self.counted, self.spec = CountedField(field), spec
        self.solver: Solver | None = solver
        self.plan: Plan | None = None
        self.forward: Compiled
        self.backward: Compiled | None
        self.places: list[int | None]
        inputs = [
            x.detach().contiguous().requires_grad_(x.requires_grad) for x in (t, h, y, *memory)
        ]
        # State and memory get theirs in any case: after the first step they ask for it anyway,
        # and one graph serves all steps.
        state = [x.is_floating_point() or x.is_complex() for x in (y, *memory)]
        self.wanted = [graph and t.requires_grad, False, *(graph and x for x in state)]
        self.params = [x for x in params if x.requires_grad] if graph else []
        joint = Joint(self._step, self.wanted, self.params)
        sketch = sketched(joint, inputs)
        if graph and sketch is not None and self._add_hidden(sketch.outside):
            sketch = sketched(joint, inputs)
        found = None if sketch is None else sketch.found()
        if found is None:
            (functions, library), captured = self._compiled(joint, inputs, graph=graph)
            if library is not None and sketch is not None:
                sketch.keep(library, len(functions), captured)
            found = functions, captured
        (self.forward, *back), self.captured = found
        self.backward = back[0] if back else None
        places = {id(x): len(inputs) + i for i, x in enumerate(self.captured)}
        self.places = [places.get(id(x)) for x in self.params]
        self.counted = CountedField(_gone)
        self.solver = None
        self.params = []
        self.of_args: dict[int, int] = {}

    def _compiled(
        self, joint: Joint, inputs: Sequence[Tensor], *, graph: bool
    ) -> tuple[tuple[list[Compiled], Path | None], list[Tensor]]:
        """The compiled step with its library, and the tensors that it reads beside its inputs."""
        traced, captured = trace_joint(joint, inputs)
        if graph and self._add_hidden(captured):
            traced, captured = trace_joint(joint, inputs)
        if self.plan is None:
            raise Unsupported("the step was not traced")
        outputs = self.plan.outputs + self.plan.error
        return inductor(traced, len(inputs) + len(captured), outputs), captured

    def _add_hidden(self, captured: Sequence[Tensor]) -> bool:
        """Add parameters that only a trace has found; whether there are any."""
        known = {id(x) for x in self.params}
        hidden = [x for x in captured if x.requires_grad and id(x) not in known]
        self.params += hidden
        return bool(hidden)

    def bound(self, captured: dict[int, Tensor]) -> Graphs:
        """The same with other tensors in the place of some that it captured."""
        if not captured:
            return self
        other = copy(self)
        other.captured = [
            x if i not in captured else _laid_out(captured[i], x)
            for i, x in enumerate(self.captured)
        ]
        return other

    def _step(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What the step brings, each tensor once: with derivatives, and without."""
        t, h, y, *memory = inputs
        if self.solver is None:
            raise RuntimeError("a step that is traced a second time")
        self.counted.calls = 0
        step = self.solver.step(self.counted, t, h, y, unflatten(list(memory), self.spec))
        if step.failed is not None:
            raise Unsupported("the solver may fail to make a step")
        leaves, spec = flatten(step.state)
        known = {id(x): ~i for i, x in enumerate(inputs)}
        outputs: list[Tensor] = []

        def place(x: Tensor) -> int:
            if id(x) not in known:
                known[id(x)] = len(outputs)
                outputs.append(x)
            return known[id(x)]

        places = [place(x) for x in (step.y, *leaves, *step.dense)]
        count = 1 + len(leaves)
        self.plan = Plan(
            places[0],
            step.error is not None,
            tuple(places[1:count]),
            tuple(places[count:]),
            spec,
            len(outputs),
            self.counted.calls,
        )
        return outputs, [] if step.error is None else [step.error]

    @property
    def traced(self) -> Plan:
        """The plan, which a trace has made."""
        if self.plan is None:
            raise RuntimeError("a step that was not traced")
        return self.plan

    def __call__(self, t: Tensor, h: Tensor, y: Tensor, memory: Sequence[Tensor]) -> Step:
        """The step."""
        inputs = [x if x.is_contiguous() else x.contiguous() for x in (t, h, y, *memory)]
        if self.backward is None:
            outputs = self.forward([*inputs, *self.captured])
        else:
            outputs = _Taken.apply(self, *inputs, *self.captured)  # type: ignore[no-untyped-call]
        return self.assemble(inputs, outputs)

    def assemble(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Step:
        """A step of what the graph gave."""
        plan = self.traced
        parts = [*outputs[: plan.outputs], *inputs[::-1]]  # inputs count from the end
        error = outputs[plan.outputs] if plan.error else None
        memory = unflatten([parts[i] for i in plan.memory], plan.spec)
        return Step(parts[plan.y], error, memory, tuple([parts[i] for i in plan.dense]))

    def pull(
        self,
        t: Tensor,
        h: Tensor,
        y: Tensor,
        memory: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
    ) -> Pulled:
        """The step once more and back, by cotangents of its ``(y, *dense, *memory)``."""
        plan = self.traced
        inputs = [x if x.is_contiguous() else x.contiguous() for x in (t, h, y, *memory)]
        outputs = self.forward([*inputs, *self.captured])
        given: list[Tensor | None] = [None] * plan.outputs
        straight: list[Tensor | None] = [None] * len(inputs)
        for place, c in zip((plan.y, *plan.dense, *plan.memory), cotangents, strict=True):
            if c is not None:
                side, i = (given, place) if place >= 0 else (straight, ~place)
                side[i] = c if side[i] is None else side[i] + c  # type: ignore[operator]
        like = [(x.shape, x.dtype, x.device) for x in outputs[: plan.outputs]]
        found = self.back(outputs[plan.outputs + plan.error :], given, like)
        grads = [next(found) if w else None for w in self.wanted]
        of_time, _, of_state, *of_memory = (
            a if b is None else b if a is None else a + b
            for a, b in zip(grads, straight, strict=True)
        )
        inside = [*inputs, *self.captured]
        pairs = [(None if i is None else inside[i], next(found)) for i in self.places]
        params = [(x, g) for x, g in pairs if x is not None and g is not None]
        return Pulled(of_time, of_state, of_memory, params)

    def back(
        self,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        like: Sequence[tuple[Any, Any, Any]],
    ) -> Iterator[Tensor | None]:
        """Gradients of inputs that want them and of parameters; shape and kind of missing zeros."""
        if self.backward is None:
            raise RuntimeError("a step without a way back")
        given = [
            torch.zeros(shape, dtype=dtype, device=device) if c is None else c.contiguous()
            for c, (shape, dtype, device) in zip(cotangents, like, strict=False)
        ]
        return iter(self.backward([*saved, *given]))


@final
class _Taken(torch.autograd.Function):
    """A step that was taken, with what the way back needs."""

    @staticmethod
    def forward(ctx: Any, graphs: Graphs, *inputs: Tensor) -> tuple[Tensor, ...]:
        plan = graphs.traced
        outputs = graphs.forward(list(inputs))
        count = plan.outputs + plan.error
        ctx.graphs = graphs
        ctx.save_for_backward(*outputs[count:])
        ctx.like = [(x.shape, x.dtype, x.device) for x in outputs[: plan.outputs]]
        ctx.set_materialize_grads(False)
        if plan.error:
            ctx.mark_non_differentiable(outputs[count - 1])
        return tuple(outputs[:count])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        graphs: Graphs = ctx.graphs
        if torch.is_grad_enabled():
            raise IncompatibleError(
                "compile=True gives first derivatives only; leave it out for create_graph=True"
            )
        found = graphs.back(ctx.saved_tensors, cotangents, ctx.like)
        grads: list[Tensor | None] = [next(found) if w else None for w in graphs.wanted]
        grads += [None] * len(graphs.captured)
        for place in graphs.places:
            gradient = next(found)
            if place is not None:
                grads[place] = gradient
        return (None, *grads)


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """A tensor in the memory layout of another."""
    if x.stride() == like.stride():
        return x
    return torch.empty_like(like, memory_format=torch.preserve_format).copy_(x)


def _gone(t: Tensor, y: Tensor) -> Tensor:
    raise RuntimeError("a field that was traced before")


class CompiledSolver(Solver):
    """Another solver whose steps are compiled, for the one field that it was made for.

    Args:
        inner: the solver.
        find: from field, inputs and structure of the memory to graphs, or None to go on eagerly.
    """

    order = 1  # of the class; an instance has that of its solver

    def __init__(self, inner: Solver, find: Callable[..., Graphs | None]) -> None:
        self.inner, self.find = inner, find
        self.order = inner.order  # type: ignore[misc]
        self.error_order = inner.error_order  # type: ignore[misc]
        self.dense_order = inner.dense_order  # type: ignore[misc]
        self.traits: Trait = inner.traits  # type: ignore[misc]
        self.field_type = type(inner).field_type  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def init(self, field: FlatField, t: Tensor, y: Tensor) -> Any:
        return self.inner.init(field, t, y)

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
        found = self._found(field, t, h, y, state)
        if found is None:
            return self.inner.step(field, t, h, y, state)
        graphs, length, memory = found
        return graphs(t, length, y, memory)

    def pull_back(
        self,
        field: FlatField,
        t: Tensor,
        h: Any,
        y: Tensor,
        state: Any,
        cotangents: Sequence[Tensor | None],
    ) -> Pulled | None:
        with torch.enable_grad():
            found = self._found(field, t, h, y, state)
        if found is None or found[0].backward is None:
            return self.inner.pull_back(field, t, h, y, state, cotangents)
        graphs, length, memory = found
        return graphs.pull(t, length, y, memory, cotangents)

    def _found(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Any
    ) -> tuple[Graphs, Tensor, list[Tensor]] | None:
        """The compiled step, the length as it wants it, and the leaves of the memory."""
        real = y.dtype.to_real() if y.dtype.is_complex else y.dtype
        length = h if isinstance(h, Tensor) else torch.full((), h, dtype=real, device=y.device)
        memory, spec = flatten(state)
        plain, counters = field, []
        while hasattr(plain, "calls") and hasattr(plain, "field"):
            counters.append(plain)
            plain = plain.field
        graphs = self.find(self.inner, plain, t, length, y, memory, spec)
        if graphs is None:
            return None
        for counter in counters:
            counter.calls += graphs.traced.calls
        return graphs, length, memory

    def reverse(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Any
    ) -> tuple[Tensor, Any]:
        return self.inner.reverse(field, t, h, y, state)

    def interpolate(self, segment: Segment, t: Tensor) -> Tensor:
        return self.inner.interpolate(segment, t)


@final
class CompletingSolver(CompiledSolver):
    """The same for a solver whose dense output takes evaluations of its own."""

    def complete(
        self, field: FlatField, t: Tensor, h: Any, y: Tensor, step: Step
    ) -> tuple[Tensor, ...]:
        return self.inner.complete(field, t, h, y, step)


def compiled_solver(inner: Solver, find: Callable[..., Graphs | None]) -> CompiledSolver:
    """A solver with compiled steps."""
    if type(inner).complete is Solver.complete:
        return CompiledSolver(inner, find)
    return CompletingSolver(inner, find)


def check_graphs(
    graphs: Graphs,
    solver: Solver,
    field: FlatField,
    t: Tensor,
    h: Tensor,
    y: Tensor,
    memory: Sequence[Tensor],
    spec: Structure,
    params: Sequence[Tensor],
) -> None:
    """Compare a compiled step, and its derivative, with the solver's own on the same inputs.

    Raises:
        Mismatch: they differ by more than rounding.
    """
    given = [x.detach().clone() for x in (t, h, y, *memory)]
    given = [x.requires_grad_(w) for x, w in zip(given, graphs.wanted, strict=True)]
    sources = [x for x in given if x.requires_grad]
    sources += [x for x in params if x.requires_grad] if graphs.backward is not None else []

    def parts(step: Step) -> list[Tensor]:
        error = [] if step.error is None else [step.error]
        return [step.y, *flatten(step.state)[0], *step.dense, *error]

    want = parts(solver.step(field, given[0], given[1], given[2], unflatten(given[3:], spec)))
    found = parts(graphs(given[0], given[1], given[2], given[3:]))
    eps = torch.finfo(y.dtype).eps  # also of what is kept more exactly, such as the time's slope
    _compare("a step", want, found, eps, floor=float(want[0].detach().abs().max()))
    if not sources:
        return
    slopes = []
    for results in (want, found):
        smooth = [x for x in results if x.requires_grad]
        ones = [torch.ones_like(x) for x in smooth]
        slopes.append(torch.autograd.grad(smooth, sources, ones, allow_unused=True))
    want, found = (
        [torch.zeros_like(x) if g is None else g for x, g in zip(sources, side, strict=True)]
        for side in slopes
    )
    _compare("a derivative", want, found, eps, floor=0.0)


def _compare(
    what: str, want: Sequence[Tensor], found: Sequence[Tensor], eps: float, *, floor: float
) -> None:
    for a, b in zip(want, found, strict=True):
        a, b = a.detach(), b.detach()
        if not bool(torch.isfinite(a).all()):
            continue
        gap = float((a - b).abs().max()) if a.numel() else 0.0
        scale = max(float(a.abs().max()) if a.numel() else 0.0, floor)
        if not gap <= 1e4 * eps * scale + torch.finfo(a.dtype).tiny:
            raise Mismatch(f"{what} differs by {gap:.3g} where the largest entry is {scale:.3g}")
