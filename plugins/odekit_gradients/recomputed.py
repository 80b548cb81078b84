"""Nodes of the graph that keep what they were given and compute the rest again.

A `Recomputed` node stands for any pure function of tensors. Its backward pass calls the function
once more, with a graph that lives for this one call. Where that backward pass is itself to be
differentiated it becomes a node of the same kind, so derivatives of any order are right and none
keeps more than inputs and cotangents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, final

import torch
from torch import Tensor

from odekit_gradients.reach import pull_back, without_hooks


class Recomputable(Protocol):
    """A pure function of tensors, which depends on parameters as well.

    Attributes:
        params: tensors asking for gradients, held by the function itself.
        shared: whether its calls have part of their graph in common, behind tensors that were
            computed before; what only one call needs is freed on the way back otherwise.
    """

    params: tuple[Tensor, ...]
    shared: bool

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, as many and in the same order every time.

        With gradients enabled the inputs are leaves, and the outputs come with a graph.
        """

    def pull(
        self, inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> list[Tensor | None] | None:
        """Cotangents of inputs and parameters without a graph; None where autograd shall do it."""

    def check(self) -> None:
        """Raise if it would not compute what it computed before."""


def recompute(function: Recomputable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of the function, attached to inputs and parameters by a node of the graph."""
    return Recomputed.apply(function, *inputs, *function.params)  # type: ignore[no-any-return, no-untyped-call]


@final
class Recomputed(torch.autograd.Function):
    """Forward: call the function without a graph. Backward: call it again with one."""

    @staticmethod
    def forward(ctx: Any, function: Recomputable, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs; of the tensors those that are not parameters are kept."""
        inputs = tensors[: len(tensors) - len(function.params)]
        ctx.function = function
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        # Detached, so that nothing that the function or its caller holds is attached to the node.
        outputs = function.run([x.detach() for x in inputs])
        return tuple(x.detach() for x in outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Cotangents of inputs and parameters; zeros are not made where nobody asks."""
        function: Recomputable = ctx.function
        inputs = ctx.saved_tensors
        given = [i for i, x in enumerate(cotangents) if x is not None]
        wanted = [i for i, x in enumerate(inputs) if x.requires_grad]
        result: list[Tensor | None] = [None] * (1 + len(inputs) + len(function.params))
        if not given:
            return tuple(result)
        function.check()
        if not torch.is_grad_enabled():
            direct = function.pull(inputs, cotangents)
            if direct is not None:
                return (None, *direct)
        back = _PulledBack(function, len(inputs), given, wanted)
        tensors = [*inputs, *(x for x in cotangents if x is not None)]
        found = recompute(back, tensors) if torch.is_grad_enabled() else back.found(tensors)
        for i, x in zip(wanted, found, strict=False):
            result[1 + i] = x
        result[1 + len(inputs) :] = found[len(wanted) :]
        return tuple(result)


@final
class _PulledBack:
    """The derivative of a function: its inputs and cotangents to cotangents of what it used.

    Args:
        function: what is differentiated.
        count: how many inputs it has.
        given: outputs that have a cotangent.
        wanted: inputs whose cotangents are asked for; those of all parameters follow.
    """

    def __init__(
        self, function: Recomputable, count: int, given: list[int], wanted: list[int]
    ) -> None:
        self.function, self.params, self.shared = function, function.params, function.shared
        self.count, self.given, self.wanted = count, given, wanted

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Call the function with a graph and go back through it."""
        values, sources = self._attach(inputs, further=torch.is_grad_enabled())
        cotangents = inputs[self.count :]
        return pull_back(values, sources, cotangents, create_graph=torch.is_grad_enabled())

    def pull(
        self, inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> list[Tensor | None] | None:
        """Left to autograd."""
        return None

    def found(self, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """`run` without a graph of its own; None in place of zeros."""
        values, sources = self._attach(inputs, further=False)
        cotangents = inputs[self.count :]
        if self.shared or not all(x.requires_grad for x in values):
            return pull_back(values, sources, cotangents)
        # What was compiled refuses to be kept for a second time.
        with without_hooks(sources):
            return torch.autograd.grad(values, sources, cotangents, allow_unused=True)

    def _attach(
        self, inputs: Sequence[Tensor], *, further: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs that have a cotangent, with a graph, and what they are derived by."""
        own = list(inputs[: self.count])
        if not further:
            for i in self.wanted:
                own[i] = own[i].detach().requires_grad_()
        with torch.enable_grad():
            outputs = self.function.run(own)
        sources = [*(own[i] for i in self.wanted), *self.params]
        return [outputs[i] for i in self.given], sources

    def check(self) -> None:
        """The same as for the function itself."""
        self.function.check()
