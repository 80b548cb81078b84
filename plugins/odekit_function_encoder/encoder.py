"""A function encoder: a learned basis of vector fields, and new systems without training.

A family of systems (one pendulum for every length, one circuit for every resistor) is spanned by
``K`` basis fields around a mean field. A new member is then ``K`` numbers, found from a handful of
observed points by regularised least squares: a linear problem, solved in milliseconds, without a
gradient step and with a covariance. For one system only, an `mlp` is simpler; for systems outside
the family that the basis was trained on, the numbers mean nothing, and ``misfit`` says so.

Shapes: fields are ``(..., dim)`` to ``(..., dim)``; coefficients ``(K,)``, their covariance
    ``(K, K)``.
Units: the caller's; coefficients are bare numbers.
Source: T. Ingebrand, A. J. Thorpe, U. Topcu, "Zero-shot transfer of neural ODEs", NeurIPS 2024,
    arXiv:2405.08954. Deviations: data enter in integral form along a smoothed path instead of one
    solver step per datum, and the ridge is a Gaussian prior measured on the training systems.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from odekit import Field, IncompatibleError, ProblemError, TimeSeries
from odekit.training import Recipe, check_series
from odekit_function_encoder.basis import Basis
from odekit_function_encoder.paths import trace
from odekit_function_encoder.regression import (
    Rows,
    integral_rows,
    posterior,
    slope_rows,
    solved_rows,
)


@final
class FunctionEncoder(Field):
    """A mean field and ``basis`` fields around it.

    Called as a field it is the typical member of its family.

    Args:
        dim: number of states.
        basis: number of basis fields, ``K``.
        width: units per hidden layer of each.
        depth: number of hidden layers.
        activation: ``"tanh"``, ``"silu"``, ``"relu"`` ...
        mean: keep a mean field beside the basis.
        dtype: of the weights; slopes have the dtype of the state in any case.
        seed: of the initial weights.
        generator: used instead of ``seed``; the global one is never touched.

    Raises:
        ProblemError: a size below one, or an unknown activation.

    Example:
        >>> encoder = FunctionEncoder(dim=2, basis=3, width=8)
        >>> encoder.evaluate(torch.zeros(5, 2)).shape
        torch.Size([5, 3, 2])
    """

    trainer: ClassVar[str] = "function_encoder"
    prior: Tensor
    spread: Tensor
    noise: Tensor

    def __init__(
        self,
        dim: int,
        basis: int = 11,
        width: int = 64,
        depth: int = 2,
        activation: str = "tanh",
        mean: bool = True,
        *,
        dtype: torch.dtype | str | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "basis": basis, "width": width, "depth": depth}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ProblemError(f"{name} must be a positive integer, got {value!r}")
        kind: Any = torch.get_default_dtype() if dtype is None else dtype
        kind = getattr(torch, kind, kind) if isinstance(kind, str) else kind
        if kind not in (torch.float32, torch.float64):
            raise IncompatibleError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        self.dim, self.count, self.mean = dim, basis, bool(mean)
        self.fields = Basis(
            basis + self.mean,
            dim,
            width=width,
            depth=depth,
            activation=activation,
            dtype=kind,
            generator=torch.Generator().manual_seed(seed) if generator is None else generator,
        )
        self.register_buffer("prior", torch.zeros(basis, dtype=torch.float64))
        self.register_buffer("spread", torch.eye(basis, dtype=torch.float64))
        self.register_buffer("noise", torch.tensor(1e-2, dtype=torch.float64))
        options = {**sizes, "activation": activation, "mean": self.mean}
        options["dtype"] = str(kind).removeprefix("torch.")
        self.recipe = Recipe("function_encoder", options)

    def parts(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean field ``(N, dim)`` and basis ``(K, N, dim)`` at ``y (N, dim)``, in one call."""
        every = self.fields(y)
        if self.mean:
            return every[0], every[1:]
        return torch.zeros_like(y), every

    def linearised(self, y: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Member, basis and the member's Jacobian at ``y (N, dim)``, in one call.

        Returns:
            ``(N, dim)``, ``(K, N, dim)`` and ``(N, dim, dim)``, the direction before the last axis.
        """
        shares = coefficients.to(y.dtype)
        if self.mean:
            every, jacobian = self.fields.linearised(y, torch.cat([shares.new_ones(1), shares]))
            basis = every[1:]
            return every[0] + torch.einsum("k,knd->nd", shares, basis), basis, jacobian
        basis, jacobian = self.fields.linearised(y, shares)
        return torch.einsum("k,knd->nd", shares, basis), basis, jacobian

    def evaluate(self, y: Tensor) -> Tensor:
        """The basis alone: ``(..., dim)`` to ``(..., K, dim)``."""
        flat = self._flat(y)
        return self.parts(flat)[1].transpose(0, 1).reshape(*y.shape[:-1], self.count, self.dim)

    def combine(self, y: Tensor, coefficients: Tensor) -> Tensor:
        """The member with these coefficients: ``(..., dim)``, ``(K,)`` to ``(..., dim)``."""
        mean, basis = self.parts(self._flat(y))
        total = mean + torch.einsum("k,knd->nd", coefficients.to(y.dtype), basis)
        return total.reshape(y.shape)

    def _flat(self, y: Tensor) -> Tensor:
        if not isinstance(y, Tensor) or y.dim() == 0 or y.shape[-1] != self.dim:
            seen = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ProblemError(
                f"function_encoder needs a tensor of shape (..., {self.dim}) for its {self.dim} "
                f"states, got {seen}; make the field with the dim of your data"
            )
        return y.reshape(-1, self.dim)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The typical member: ``(..., dim)`` to ``(..., dim)``; ``t`` is ignored."""
        return self.combine(y, self.prior)

    @torch.no_grad()
    def adapt(
        self,
        series: TimeSeries | Sequence[TimeSeries],
        *,
        slopes: Any = None,
        sweeps: int = 2,
    ) -> AdaptedField:
        """The member that explains the data, by least squares and without a backward pass.

        Args:
            series: one or several trajectories of one system; a few points are enough.
            slopes: measured derivatives, ``(n, dim)`` for each series; by default the data enter
                in integral form, which needs none and takes irregular times.
            sweeps: Gauss-Newton sweeps through solved intervals, which remove what the path
                between sparse points was guessed to be; 0 for the linear problem alone.

        Returns:
            An ordinary field with ``coefficients (K,)`` and ``covariance (K, K)``.

        Raises:
            ProblemError: series of another width, or slopes that do not fit to them.
        """
        several = check_series(series if isinstance(series, list | tuple) else [series])
        if several[0].dim != self.dim:
            raise ProblemError(
                f"series has {several[0].dim} states but the encoder was made for {self.dim}"
            )
        if slopes is not None:
            rows = slope_rows(self, several, slopes)
            return AdaptedField(self, *self._posterior(rows))
        paths = [trace(one) for one in several]
        found = self._posterior(integral_rows(self, paths))
        for _ in range(sweeps):
            found = self._posterior(solved_rows(self, paths, found[0]))
        return AdaptedField(self, *found)

    def _posterior(self, rows: Rows) -> tuple[Tensor, Tensor, float]:
        return posterior(rows, self.prior, self.spread, self.noise)


@final
class AdaptedField(Field):
    """One member of an encoder's family: an ordinary field whose parameters are ``K`` numbers.

    Training it further changes the coefficients alone; the basis is a frozen copy.

    Attributes:
        coefficients: ``(K,)``, a parameter.
        covariance: ``(K, K)``, of the coefficients given the data.
        misfit: root mean square of what the basis could not explain, relative to the slopes'
            scale; much more than in training means a system outside the family.
    """

    covariance: Tensor

    def __init__(
        self, encoder: FunctionEncoder, coefficients: Tensor, covariance: Tensor, misfit: float
    ) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.coefficients = nn.Parameter(coefficients)
        self.register_buffer("covariance", covariance)
        self.misfit = misfit

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``(..., dim)`` to ``(..., dim)``; ``t`` is ignored."""
        return self.encoder.combine(y, self.coefficients)
