"""What a value was computed from, and derivatives by some of those tensors directly.

A tensor that a field uses may itself have been computed from another one that it uses: the
code of an encoder beside the encoder's own weights. The chain rule from the first to the second
is the caller's graph and is followed there, once; a derivative taken here stops at the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge


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


def pull_back(value: Tensor, sources: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """The derivative of ``value`` by each source directly, times ``cotangent``; zeros if none.

    The graph behind the sources is left as it was found.
    """
    wanted = list(sources)
    computed = [x for x in sources if not x.is_leaf]
    with ExitStack() as stack:
        if computed:
            direct = find_sources(value, sources)
            wanted = [x for x in sources if id(x) in direct]
            for x in computed:
                node, place = _edge(x)
                stack.callback(node.register_prehook(_blank(place)).remove)
        grads = torch.autograd.grad(
            value, wanted, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    by_id = {id(x): grad for x, grad in zip(wanted, grads, strict=True)}
    return [by_id[id(x)] if id(x) in by_id else torch.zeros_like(x) for x in sources]


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
