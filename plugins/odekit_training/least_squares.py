"""Levenberg-Marquardt steps with weight decay tuned by the evidence, one decay per tensor.

The unknowns are parameters, of which there may be thousands, and segment states. Whichever of the
two systems is the cheaper is solved: the normal equations over the unknowns, or, when there are
many more parameters than residuals, the dual system over the residuals.

Shapes: ``R`` residuals, ``P`` parameters first, then ``Q`` states; ``J`` is ``(R, P + Q)``.
Source: D. W. Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", SIAM
    J. 11(2), 1963, doi:10.1137/0111030; D. J. C. MacKay, "A practical Bayesian framework for
    backpropagation networks", Neural Computation 4(3), 1992, doi:10.1162/neco.1992.4.3.448.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Decay:
    """The precision of a Gaussian prior around zero, one number per tensor of parameters.

    Args:
        shapes: of the tensors, in their order. A matrix starts with a precision equal to its
            fan-in, which makes a layer's output of order one whatever its width; lone numbers and
            vectors of fields without any matrix are coefficients and get none.
        fixed: the same precision for all, never tuned; None to tune.
        scale: factor on the start values.
    """

    def __init__(
        self, shapes: Sequence[torch.Size], fixed: float | None = None, scale: float = 1.0
    ) -> None:
        self.sizes = [shape.numel() for shape in shapes]
        self.tuned = fixed is None and any(len(shape) > 1 for shape in shapes)
        fans = [float(shape[1:].numel()) if len(shape) > 1 else 1.0 for shape in shapes]
        self.fans = fans
        start = fixed if fixed is not None else scale if self.tuned else 0.0
        self.values = [start if fixed is not None else start * fan for fan in fans]

    def spread(self) -> Tensor:
        """``(P,)``, the precision of every parameter."""
        values = torch.tensor(self.values, dtype=torch.float64)
        return values.repeat_interleave(torch.tensor(self.sizes))

    def cost(self, w: Tensor) -> float:
        """Half the weighted square of ``w (P,)``."""
        return 0.5 * float((self.spread() * w) @ w)

    def tune(self, effective: Sequence[float], w: Tensor) -> None:
        """MacKay's update: the parameters that the data determine, over their square."""
        parts = zip(effective, torch.split(w, self.sizes), self.fans, strict=True)
        self.values = [
            min(max(gamma / max(float(part @ part), 1e-12), 1e-3 * fan), 100.0 * fan)
            for gamma, part, fan in parts
        ]


class Linearised:
    """A least-squares problem around the current point: steps for any damping.

    Args:
        jacobian: ``(R, P + Q)``.
        residual: ``(R,)``.
        sizes: of the tensors of parameters; they sum to ``P``.
    """

    def __init__(self, jacobian: Tensor, residual: Tensor, sizes: Sequence[int]) -> None:
        self.jacobian, self.sizes, self.count = jacobian, sizes, sum(sizes)
        self.gradient = jacobian.T @ residual
        # The dual keeps one Gram matrix per tensor, so it pays only when it is much the smaller.
        self.dual = jacobian.shape[0] < 0.6 * self.count
        diagonal = jacobian.square().sum(0)
        if self.dual:
            # One damping per tensor: then the large products are formed once.
            parts = [
                part.mean().expand(len(part))
                for part in torch.split(diagonal[: self.count], list(sizes))
            ]
            diagonal = torch.cat([*parts, diagonal[self.count :]])
            blocks = torch.split(jacobian[:, : self.count], list(sizes), dim=1)
            self.grams = torch.stack([block @ block.T for block in blocks])
        else:
            self.gram = jacobian.T @ jacobian
        self.diagonal = diagonal + 1e-3 * diagonal.mean()

    def step(self, w: Tensor, decay: Decay, damping: float) -> Tensor:
        """``(P + Q,)``, the change of the unknowns that solves the damped problem."""
        damped = damping * self.diagonal
        pull = decay.spread()
        damped[: self.count] += pull
        gradient = self.gradient.clone()
        gradient[: self.count] += pull * w
        if not self.dual:
            return -_solve(self.gram + damped.diag(), gradient)
        scaled = gradient / damped
        back = self.jacobian.T @ _solve(self._inner(damped), self.jacobian @ scaled)
        return back / damped - scaled

    def _inner(self, damped: Tensor) -> Tensor:
        """``I + J D^-1 J'`` for the diagonal ``damped (P + Q,)``, constant in each tensor."""
        firsts = torch.split(damped[: self.count], list(self.sizes))
        inverse = 1 / torch.stack([part[0] for part in firsts])
        states = self.jacobian[:, self.count :]
        inner = torch.einsum("g,gij->ij", inverse, self.grams)
        inner += (states / damped[self.count :]) @ states.T
        inner.diagonal().add_(1.0)
        return inner

    def effective(self, decay: Decay) -> list[float]:
        """How many parameters of each tensor the data determine, the states left free."""
        damped = 1e-6 * self.diagonal
        damped[: self.count] = decay.spread()
        if self.dual:
            inverse = _inverse(self._inner(damped))
            traces = (inverse * self.grams).sum((1, 2)).tolist()
            return [max(t / a, 0.0) for t, a in zip(traces, decay.values, strict=True)]
        diagonal = _inverse(self.gram + damped.diag()).diagonal()
        shares = torch.split((1 - damped * diagonal)[: self.count], list(self.sizes))
        return [float(share.sum().clamp(min=0.0)) for share in shares]


def _factor(matrix: Tensor) -> Tensor:
    """The Cholesky factor; a little more is added to the diagonal until there is one."""
    extra = 1e-14 * float(matrix.diagonal().mean())
    for _ in range(10):
        factor: Tensor
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info) == 0:
            return factor
        matrix = matrix + extra * torch.eye(len(matrix), dtype=matrix.dtype)
        extra *= 100
    return factor


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right[:, None], _factor(matrix))[:, 0]


def _inverse(matrix: Tensor) -> Tensor:
    return torch.cholesky_inverse(_factor(matrix))
