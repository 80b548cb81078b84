"""The trainer of function encoders: learn a basis that spans many systems at once.

In every step each system is split into examples and queries; the coefficients follow from the
examples by ridge regression, and the basis descends on the error at the queries, through that
regression. All of it is linear algebra on slopes averaged over the data's own intervals, so no
solver runs. Afterwards every system's coefficients are computed once more, and their mean and
covariance become the prior with which new systems are met.

Source: T. Ingebrand, A. J. Thorpe, U. Topcu, "Zero-shot transfer of neural ODEs", NeurIPS 2024,
    arXiv:2405.08954.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from odekit import Fit, IncompatibleError, ProblemError, Trainer
from odekit.progress import Report, reporting
from odekit.training import check_series
from odekit_function_encoder.encoder import FunctionEncoder
from odekit_function_encoder.paths import Path, trace


@final
class EncoderTrainer(Trainer):
    """Adam on the query error, with coefficients by ridge regression inside.

    Args:
        steps: optimizer steps.
        rate: highest learning rate.
        systems: systems per step.
        points: intervals per system and step, half of them examples, half queries.
        ridge: of the regression inside a step.
        seed: of the choice of systems and points.
        progress: True for a bar, or a function of ``(done, total, loss)``.

    Raises:
        ProblemError: an option out of range.
    """

    def __init__(
        self,
        steps: int = 1500,
        rate: float = 1e-2,
        systems: int = 10,
        points: int = 50,
        ridge: float = 1e-3,
        seed: int = 0,
        progress: bool | Report = False,
    ) -> None:
        for name, count in (("steps", steps), ("systems", systems), ("points", points // 2)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ProblemError(f"{name} must be a positive integer, got {count!r}")
        for name, value in (("rate", rate), ("ridge", ridge)):
            if not 0 < value < float("inf"):
                raise ProblemError(f"{name} must be positive, got {value!r}")
        self.steps, self.rate, self.systems, self.points = steps, rate, systems, points
        self.ridge, self.seed, self.progress = ridge, seed, progress

    def fit(self, field: nn.Module, series: Sequence[Any]) -> Fit:
        """Train the basis in place on a list of systems, each a list of series.

        Raises:
            ProblemError: not a list of lists, or series of another width.
            IncompatibleError: not a function encoder.
        """
        if not isinstance(field, FunctionEncoder):
            raise IncompatibleError(
                f"trainer 'function_encoder' trains a function_encoder, got {type(field).__name__}"
            )
        paths = [_system(field, place, one) for place, one in enumerate(series)]
        if len(paths) < 2:
            raise ProblemError(f"a basis needs at least two systems, got {len(paths)}")
        _adopt_units(field, paths)
        kind = field.fields.scale.dtype
        systems = [_System(one, field, kind) for one in paths]
        with reporting(self.progress, "function encoder") as report:
            rows = self._descend(field, systems, report)
        _measure(field, systems, self.ridge)
        import pandas as pd

        loss = sum(rows[-1 - i]["loss"] for i in range(min(10, len(rows)))) / min(10, len(rows))
        return Fit(field, loss, pd.DataFrame(rows))

    def _descend(
        self, encoder: FunctionEncoder, systems: list[_System], report: Report
    ) -> list[dict[str, float]]:
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(encoder.fields.parameters(), lr=self.rate)
        rows: list[dict[str, float]] = []
        for step in range(self.steps):
            warm = min(1.0, (step + 1) / max(1, self.steps // 20))
            rate = self.rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            optimizer.param_groups[0]["lr"] = rate
            chosen = torch.randperm(len(systems), generator=generator)[: self.systems].tolist()
            batch = [systems[i].sample(self.points, generator) for i in chosen]
            nodes = torch.stack([nodes for nodes, _ in batch])
            target = torch.stack([target for _, target in batch])
            optimizer.zero_grad()
            loss = _query_loss(encoder, nodes, target, self.ridge)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(encoder.fields.parameters(), 1.0)
            optimizer.step()
            rows.append({"step": step, "loss": float(loss.detach()), "rate": rate})
            report(step + 1, self.steps, rows[-1]["loss"])
        return rows


class _System:
    """All intervals of one system: nodes ``(n, 2, d)`` and mean slopes ``(n, d)``."""

    def __init__(self, paths: list[Path], encoder: FunctionEncoder, kind: torch.dtype) -> None:
        self.nodes = torch.cat([path.nodes for path in paths]).to(kind)
        slopes = [path.y.diff(dim=0) / path.h[:, None] for path in paths]
        self.slope = torch.cat(slopes).to(kind)

    def sample(self, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random intervals, each drawn at will."""
        chosen = torch.randint(len(self.nodes), (points,), generator=generator)
        return self.nodes[chosen], self.slope[chosen]


def _system(encoder: FunctionEncoder, place: int, series: Any) -> list[Path]:
    if not isinstance(series, list | tuple):
        raise ProblemError(
            "a function encoder is trained on a list of lists of series, one list per system; "
            f"item {place} is a {type(series).__name__}: write [[series, ...], [series, ...]]"
        )
    several = check_series(series)
    if several[0].dim != encoder.dim:
        raise ProblemError(
            f"system {place} has {several[0].dim} states but the encoder was made for {encoder.dim}"
        )
    return [trace(one) for one in several]


@torch.no_grad()
def _adopt_units(encoder: FunctionEncoder, systems: list[list[Path]]) -> None:
    """Scales of states and slopes over all systems; only the first training sets them."""
    basis = encoder.fields
    if bool((basis.scale != 1).any() | (basis.rate != 1).any() | (basis.center != 0).any()):
        return
    paths = [path for system in systems for path in system]
    y = torch.cat([path.y for path in paths])
    slope = torch.cat([path.y.diff(dim=0) / path.h[:, None] for path in paths])
    basis.center.copy_(y.mean(0))
    basis.scale.copy_(_positive(y.std(0)))
    basis.rate.copy_(_positive(slope.square().mean(0).sqrt()))


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _averages(encoder: FunctionEncoder, nodes: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Basis ``(s, n d, K)`` and targets ``(s, n d)``, averaged over intervals and scaled."""
    systems, count, points, dim = nodes.shape
    mean, basis = encoder.parts(nodes.reshape(-1, dim))
    rate = encoder.fields.rate.to(nodes.dtype)
    mean = mean.reshape(systems, count, points, dim).mean(2)
    basis = basis.reshape(-1, systems, count, points, dim).mean(3) / rate
    target = (slope - mean) / rate
    return basis.permute(1, 2, 3, 0).reshape(systems, count * dim, -1), target.flatten(1)


def _query_loss(encoder: FunctionEncoder, nodes: Tensor, slope: Tensor, ridge: float) -> Tensor:
    matrix, target = _averages(encoder, nodes, slope)
    half = matrix.shape[1] // 2 // encoder.dim * encoder.dim
    examples, queries = matrix[:, :half], matrix[:, half:]
    coefficients = _regress(examples, target[:, :half], ridge)
    error = torch.einsum("snk,sk->sn", queries, coefficients) - target[:, half:]
    # The mean field alone should already be the middle of the family.
    return error.square().mean() + 1e-3 * target.square().mean()


def _regress(matrix: Tensor, target: Tensor, ridge: float) -> Tensor:
    """Ridge regression for each system: ``(s, n, K)``, ``(s, n)`` to ``(s, K)``."""
    count = matrix.shape[1]
    gram = matrix.transpose(1, 2) @ matrix / count
    gram = gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype)
    right = torch.einsum("snk,sn->sk", matrix, target) / count
    found: Tensor = torch.linalg.solve(gram, right)
    return found


@torch.no_grad()
def _measure(encoder: FunctionEncoder, systems: list[_System], ridge: float) -> None:
    """Mean and covariance of the systems' coefficients, and what they leave unexplained."""
    found, left = [], []
    for system in systems:
        nodes, slope = system.nodes.double()[None], system.slope.double()[None]
        matrix, target = _averages(encoder, nodes, slope)
        coefficients = _regress(matrix, target, ridge * 1e-2)[0]
        found.append(coefficients)
        left.append((matrix[0] @ coefficients - target[0]).square().mean())
    table = torch.stack(found)
    centred = table - table.mean(0)
    spread = centred.T @ centred / (len(table) - 1)
    floor = 1e-3 * spread.diagonal().mean().clamp(min=1e-12)
    encoder.prior.copy_(table.mean(0))
    encoder.spread.copy_(spread + floor * torch.eye(len(spread), dtype=spread.dtype))
    encoder.noise.copy_(torch.stack(left).mean().sqrt().clamp(min=1e-6))
