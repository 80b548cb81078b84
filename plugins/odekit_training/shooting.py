"""Multiple shooting by Levenberg-Marquardt: the trainer for fields of up to a few thousand weights.

Every trajectory is cut into short segments whose start states are unknowns beside the weights.
Gaps between segments cost little at first and much at the end, so a bad start never sends a
trajectory astray, noise is averaged away, and chaos does no harm. Jacobians are exact, weight
decay follows from the evidence, and nothing needs tuning. For large networks or many thousand data
prefer ``adam``, whose cost per step grows with neither squared.

Units: the caller's; residuals are in units of each state's noise, which is estimated as well.
Source: H. G. Bock, "Recent advances in parameter identification techniques for O.D.E.", 1983,
    doi:10.1007/978-1-4684-7324-7_7; D. J. C. MacKay, Neural Computation 4(3), 1992,
    doi:10.1162/neco.1992.4.3.448, for the decay and the noise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from odekit import Fit, ProblemError, Trainer
from odekit.progress import Report, reporting
from odekit.training import read_tensors, write_tensors
from odekit_training.flat_field import prepare
from odekit_training.least_squares import Decay, Linearised
from odekit_training.matching import integrated_states, match_slopes
from odekit_training.observations import Observations, observe
from odekit_training.segments import cut
from odekit_training.shooting_problem import ShootingProblem

STAGES = (1.0, 10.0, 100.0)
_ROUNDS = len(STAGES) + 5
_FORMAT = "odekit shooting 1"
_STATES = 400  # about as many segment states are unknowns at most
_MEMORY = 80_000_000  # entries of the Jacobian


@final
class Shooting(Trainer):
    """Multiple-shooting Levenberg-Marquardt in float64.

    Args:
        iterations: at most this many per stage; there are three stages and a polish.
        segment: data intervals per segment; chosen from the data by default.
        decay: weight decay; by default tuned by the evidence.
        match: start from a fit to the slopes of smoothed data.
        progress: True for a bar, or a function of ``(done, total, loss)``.
        checkpoint: file that is written after every stage.
        resume: go on from the checkpoint, if there is one, to the numbers an uninterrupted run
            would have given.

    Raises:
        ProblemError: an option out of range.
    """

    def __init__(
        self,
        iterations: int = 25,
        segment: int | None = None,
        decay: float | None = None,
        match: bool = True,
        progress: bool | Report = False,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> None:
        for name, value in (("iterations", iterations), ("segment", segment or 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ProblemError(f"{name} must be a positive integer, got {value!r}")
        if decay is not None and not 0 <= decay < float("inf"):
            raise ProblemError(f"decay must not be negative, got {decay!r}")
        self.iterations, self.segment, self.decay = iterations, segment, decay
        if resume and checkpoint is None:
            raise ProblemError("resume=True needs checkpoint=PATH, the file to go on from")
        self.match, self.progress = match, progress
        self.checkpoint, self.resume = checkpoint, resume

    def fit(self, field: nn.Module, series: Sequence[Any]) -> Fit:
        """Train ``field`` in place.

        Raises:
            ProblemError: data or a field that cannot be trained, and why.
        """
        data = observe(series)
        with reporting(self.progress, "shooting") as report:
            return _Session(self, field, data, report).run()


class _Session:
    """One training: the problem, the current point, and the record."""

    def __init__(
        self, options: Shooting, field: nn.Module, data: Observations, report: Report
    ) -> None:
        self.options, self.data, self.report = options, data, report
        self.field = field
        self.flat = prepare(field, data)
        self.w = self.flat.vector()
        self.decay = Decay(self.flat.shapes, options.decay, scale=1.0)
        self.effective = 0.0
        self.rows: list[dict[str, float]] = []
        self.done = 0

    @torch.no_grad()
    def run(self) -> Fit:
        """Match slopes, shoot with growing continuity, store the weights."""
        import pandas as pd

        table, known = integrated_states(self.flat, self.data)
        self.problem = self._problem(table)
        self.s = table[self.problem.segments.start] / self.problem.unit
        path = self.options.checkpoint
        if self.options.resume and path is not None and os.path.exists(path):
            self._restore(read_tensors(path))
        elif self.options.match and known:
            self.w = match_slopes(self.flat, self.w, self.data, table)
        while self.done < _ROUNDS:
            self._round(self.done)
            self.done += 1
            if path is not None:
                write_tensors(path, self._state())
        self.flat.store(self.w)
        loss = self._loss(self.problem.rollout(self.w, self.s))
        return Fit(self.field, loss, pd.DataFrame(self.rows))

    def _round(self, place: int) -> None:
        """Three stages, as many refinements as are needed, a polish with the final noise."""
        if place < len(STAGES):
            self._stage(STAGES[place])
            self._reweigh()
        elif place < _ROUNDS - 1:
            if self._refine():
                self._stage(STAGES[-1])
        else:
            self._reweigh()
            self._stage(STAGES[-1])

    def _settings(self) -> dict[str, Any]:
        names = ("iterations", "segment", "decay", "match")
        settings = {name: getattr(self.options, name) for name in names}
        return settings | {"data": list(self.problem.segments.y.shape), "weights": len(self.w)}

    def _state(self) -> dict[str, Any]:
        problem = self.problem
        return {
            "format": _FORMAT,
            "settings": self._settings(),
            "unknowns": [self.w, self.s],
            "noise": [problem.noise, problem.gap],
            "decay": [self.decay.values, self.effective],
            "progress": [self.done, problem.substeps],
            "rows": self.rows,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        mine = self._settings()
        if state.get("format") != _FORMAT:
            raise ProblemError("checkpoint: the file was not written by trainer 'shooting'")
        other = [name for name in mine if mine[name] != state["settings"].get(name)]
        if other:
            raise ProblemError(
                f"checkpoint: made with other {', '.join(other)}; resume with the same options and "
                "data, or choose another file"
            )
        self.w, self.s = state["unknowns"]
        self.decay.values, self.effective = state["decay"]
        self.done, substeps = state["progress"]
        self.rows = state["rows"]
        noise, gap = state["noise"]
        self.problem = replace(self.problem, noise=noise, gap=gap, substeps=substeps)

    def _problem(self, table: Tensor) -> ShootingProblem:
        data = self.data
        intervals = sum(len(one.t) - 1 for one in data.trajectories)
        length = max(5, -(-intervals * table.shape[1] // _STATES))
        segments = cut(data.trajectories, self.options.segment or length)
        values = int((~segments.y.isnan()).sum()) + segments.start.numel() * table.shape[1]
        unknowns = self.flat.size + segments.start.numel() * table.shape[1]
        if values * unknowns > _MEMORY:
            raise ProblemError(
                f"trainer 'shooting' would need a Jacobian of {values} by {unknowns} numbers: use "
                "trainer='adam', a smaller field, or fewer data"
            )
        middle = table.mean(0)
        unit = (table - middle).square().mean(0).sqrt()
        unit = torch.where(unit > 1e-9 * middle.abs(), unit, torch.ones_like(unit))
        if not self.flat.lifts:
            unit = data.scale
        reach = 5 * (table.max(0).values - table.min(0).values).maximum(2 * unit)
        problem = ShootingProblem(
            self.flat,
            segments,
            unit,
            (middle - reach, middle + reach),
            noise=data.noise.maximum(1e-3 * data.scale),
            gap=unit,
            substeps=max(2, -(-10 // segments.intervals)),
        )
        return replace(problem, gap=self._gap(problem, problem.noise))

    def _gap(self, problem: ShootingProblem, noise: Tensor) -> Tensor:
        """One unit of a gap: the noise, and for hidden states the same part of their scale."""
        if not self.flat.lifts:
            return noise
        return problem.unit * (noise / self.data.scale).mean()

    def _loss(self, rollout: Any) -> float:
        errors = self.problem.errors(self.w, rollout) / self.data.scale
        return float(errors.square().nanmean())

    def _stage(self, continuity: float) -> None:
        """Levenberg-Marquardt at one continuity weight, until the cost hardly falls."""
        problem = self.problem = replace(self.problem, continuity=continuity)
        damping = 1e-2
        rollout = problem.rollout(self.w, self.s)
        residual = problem.residual(self.w, rollout)
        quiet = 0
        last = continuity == STAGES[-1]
        for iteration in range(
            self.options.iterations if last else self.options.iterations // 2 + 1
        ):
            linear = Linearised(problem.jacobian(self.w, rollout), residual, self.decay.sizes)
            if self.decay.tuned and iteration % 4 == 0:
                effective = linear.effective(self.decay)
                self.decay.tune(effective, self.w)
                self.effective = sum(effective)
            before = self._cost(residual, self.w)
            for _ in range(6):
                step = linear.step(self.w, self.decay, damping)
                w = self.w + step[: len(self.w)]
                s = self.s + step[len(self.w) :].reshape(self.s.shape)
                low, high = problem.box
                s = s.clamp(low / problem.unit, high / problem.unit)
                trial = problem.rollout(w, s)
                found = problem.residual(w, trial)
                cost = self._cost(found, w)
                if cost < before:
                    break
                damping = max(damping * 8, 1e-8)
            else:
                break
            self.w, self.s, rollout, residual = w, s, trial, found
            self._record(continuity, iteration, rollout, cost, damping)
            damping = max(damping / 6, 1e-8)
            quiet = quiet + 1 if before - cost < 2e-3 * before else 0
            if quiet == 3:
                break

    def _cost(self, residual: Tensor, w: Tensor) -> float:
        return 0.5 * float(residual @ residual) + self.decay.cost(w)

    def _record(
        self, continuity: float, iteration: int, rollout: Any, cost: float, damping: float
    ) -> None:
        loss = self._loss(rollout)
        row = {"continuity": continuity, "iteration": iteration, "loss": loss, "cost": cost}
        self.rows.append({**row, "damping": damping, "effective": self.effective})
        self.report(len(self.rows), (len(STAGES) + 2) * self.options.iterations, loss)

    def _reweigh(self) -> None:
        """The noise from the residuals, with the degrees of freedom that the weights took."""
        errors = self.problem.errors(self.w, self.problem.rollout(self.w, self.s)).flatten(0, 1)
        count = (~errors.isnan()).sum(0)
        taken = min(self.effective / float(count.sum()), 0.75)
        noise = (errors.square().nansum(0) / (count * (1 - taken))).sqrt()
        noise = (noise.square() + (3e-4 * self.data.scale).square()).sqrt()
        self.problem = replace(self.problem, noise=noise, gap=self._gap(self.problem, noise))

    def _refine(self) -> bool:
        """Double the substeps where the numbers still depend on them; True if it did."""
        problem = self.problem
        coarse = problem.rollout(self.w, self.s).nodes
        fine = problem.rollout(self.w, self.s, 2 * problem.substeps).nodes
        change = float(((coarse - fine) / problem.unit).abs().max())
        limit = max(1e-4, 0.02 * float((problem.noise / self.data.scale).min()))
        if not change > limit or problem.substeps >= 32:
            return False
        self.problem = replace(problem, substeps=2 * problem.substeps)
        return True


__all__ = ["Shooting"]
