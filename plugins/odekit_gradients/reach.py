"""What a value was computed from, and derivatives by some of those tensors directly.

A tensor that a field uses may itself have been computed from another one that it uses: the
code of an encoder beside the encoder's own weights. The chain rule from the first to the second
is the caller's graph and is followed there, once; a derivative taken here stops at the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from odekit import IncompatibleError, Problem
from odekit_gradients.ambient import Ambient
from odekit_gradients.unchanged import Witness, is_other


def find_sources(value: Tensor, known: Sequence[Tensor] = ()) -> dict[int, Tensor]:
    """The tensors asking for gradients that ``value`` was computed from, by their ``id``.

    Those are leaves, and the tensors in ``known``, behind which nobody looks any further.
    """
    if not value.requires_grad:
        return {}
    stops = {_edge(x): x for x in known if not x.is_leaf}
    found: dict[int, Tensor] = {}
    waiting, seen = [_edge(value)], set()
    while waiting:
        edge = waiting.pop()
        if edge in seen or edge[0] is None:
            continue
        seen.add(edge)
        if edge in stops:
            found[id(stops[edge])] = stops[edge]
        elif type(edge[0]).__name__ == "AccumulateGrad":
            found[id(edge[0].variable)] = edge[0].variable
        else:
            waiting.extend(edge[0].next_functions)
    return found


class Look(NamedTuple):
    """What a few evaluations of the field tell of it: at the start, the end and after jumps.

    Attributes:
        params: all tensors that the field depends on: the parameters of the problem, and those
            that only a look at the field's graph finds.
        shared: whether calls share part of a graph, behind a tensor computed before the solve.
        witness: of the field as it is now.
    """

    params: tuple[Tensor, ...]
    shared: bool
    witness: Witness


def look_behind(problem: Problem) -> Look:
    """What the field depends on.

    Raises:
        IncompatibleError: the field is random, so that it cannot be evaluated again.
    """
    t, *later = _places(problem)
    y = problem.y0.detach()
    with torch.enable_grad():
        once, again = (problem.field(t, y) for _ in range(2))
    _check_repeats(once.detach(), again.detach())
    found = {id(p): p for p in problem.params} | find_sources(once, problem.params)
    nodes = _nodes(once)
    shared = not nodes.isdisjoint(_nodes(again))
    for place in later:
        with torch.enable_grad():
            slope = problem.field(place, y)
        fresh = find_sources(slope, problem.params)
        if not fresh.keys() <= found.keys():
            with torch.enable_grad():
                again = problem.field(place, y)
            shared = shared or not _nodes(slope).isdisjoint(_nodes(again))
        shared = shared or not nodes.isdisjoint(_nodes(slope))
        found |= fresh
    witness = Witness(problem.field, t, y, once.detach(), Ambient.now(t.device))
    return Look(tuple(found.values()), shared, witness)


def _places(problem: Problem) -> list[Tensor]:
    """The start, the end, and just after each jump between them, as the field is told the time."""
    times = problem.t.detach()
    start, end = times[..., 0], times[..., -1]
    places = [start]
    if times.shape[-1] > 1:
        places.append(end)
        low, high = torch.minimum(start, end), torch.maximum(start, end)
        y = problem.y0
        real = y.dtype.to_real() if y.dtype.is_complex else y.dtype
        gap = 4 * torch.finfo(real).eps * torch.maximum(start.abs(), end.abs())
        gap = torch.copysign(gap, end - start)
        places += [
            (jump + gap).clamp(low, high)
            for jump in problem.controller.jump_times
            if bool(((low < jump) & (jump < high)).any())
        ]
    return [t[:, None] if t.dim() else t for t in places]


def _check_repeats(once: Tensor, again: Tensor) -> None:
    if is_other(once, again):
        raise IncompatibleError(
            "the field gives two slopes for the same time and state, so a gradient that evaluates "
            "it again would be wrong: switch dropout off with .eval(), hold the noise fixed, or "
            "use gradient='unrolled'"
        )


def _nodes(value: Tensor) -> set[Any]:
    """The nodes of the graph behind a tensor, those of leaves left out."""
    seen: set[Any] = set()
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or type(node).__name__ == "AccumulateGrad":
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return seen


def pull_back(
    value: Tensor | Sequence[Tensor],
    sources: Sequence[Tensor],
    cotangent: Tensor | Sequence[Tensor],
    *,
    retain: bool = True,
    create_graph: bool = False,
) -> list[Tensor]:
    """The derivative of ``value`` by each source directly, times ``cotangent``; zeros if none.

    Several values are taken together. The graph behind the sources is left as it was found; that
    of the values themselves is freed unless it is to be retained.
    """
    values = [value] if isinstance(value, Tensor) else list(value)
    cotangents = [cotangent] if isinstance(cotangent, Tensor) else list(cotangent)
    depends = [x.requires_grad for x in values]
    values = [x for x, keep in zip(values, depends, strict=True) if keep]
    cotangents = [x for x, keep in zip(cotangents, depends, strict=True) if keep]
    wanted = [x for x in sources if x.requires_grad] if values else []
    computed = [x for x in wanted if not x.is_leaf]
    with ExitStack() as stack:
        stack.enter_context(without_hooks(wanted))
        if computed:
            direct: set[int] = set()
            for x in values:
                direct |= find_sources(x, wanted).keys()
            wanted = [x for x in wanted if id(x) in direct]
            for x in computed:
                node, place = _edge(x)
                stack.callback(node.register_prehook(_blank(place)).remove)
        grads = (
            torch.autograd.grad(
                values,
                wanted,
                cotangents,
                retain_graph=retain or create_graph or bool(computed),
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
            if values and wanted
            else ()
        )
    by_id = {id(x): grad for x, grad in zip(wanted, grads, strict=True)}
    return [by_id[id(x)] if id(x) in by_id else torch.zeros_like(x) for x in sources]


@contextmanager
def without_hooks(sources: Iterable[Tensor]) -> Iterator[None]:
    """What a user hooked to these tensors waits for their whole gradients, of which this is a part.

    Autograd calls it again, and then with all of it, when the parts have been summed up.
    """
    hooks: list[dict[int, Any]] = [x._backward_hooks for x in sources if x._backward_hooks]
    kept = [dict(each) for each in hooks]
    for each in hooks:
        each.clear()
    try:
        yield
    finally:
        for each, items in zip(hooks, kept, strict=True):
            each.update(items)


def _edge(x: Tensor) -> tuple[Any, int]:
    edge = get_gradient_edge(x)
    return edge.node, edge.output_nr


def _blank(place: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """A hook that lets nothing through to what the tensor at ``place`` was computed from."""

    def hook(grads: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            torch.zeros_like(g) if i == place and g is not None else g for i, g in enumerate(grads)
        )

    return hook
