"""Gradient descent along whole trajectories: the trainer for large networks and long data.

Every step solves all trajectories at once, each over its own times, and differentiates through the
solver. The horizon grows from the first part of every trajectory to the whole, the learning rate
warms up and then falls to nothing, and a tenth of the values is held out to choose the weights that
are kept. For small fields ``shooting`` is quicker, more accurate and blind to bad starts; chaotic
systems need it.

Units: the caller's; residuals are in units of each state's standard deviation.
Source: D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015,
    arXiv:1412.6980; I. Loshchilov, F. Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, for the
    cosine schedule.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import vmap

from odekit import Fit, GradientMethod, ProblemError, Solver, Trainer, solve
from odekit.progress import Report, reporting
from odekit.training import read_tensors, write_tensors
from odekit_training.flat_field import prepare
from odekit_training.matching import integrated_states, match_slopes
from odekit_training.observations import Observations, observe

_FORMAT = "odekit adam 1"
_LARGE = 50_000

GROWTH = ((0.0, 0.2), (0.1, 0.4), (0.2, 0.7), (0.3, 1.0))
"""From which part of the steps on which part of every trajectory is used."""


@final
class Adam(Trainer):
    """Full-trajectory gradient descent through `odekit.solve`.

    Args:
        steps: optimizer steps.
        rate: highest learning rate; by default 0.01, or 0.003 after a match to the slopes.
        held_out: part of the observed values that is kept from training and chooses the weights.
        patience: stop after this many steps without a better held-out loss, once the whole
            trajectories are in use.
        decay: weight decay.
        clip: longest gradient.
        solver, gradient, rtol, atol: of every solve; ``atol`` in units of each state's standard
            deviation.
        learn_start: fit the start of every trajectory too, instead of trusting its first row.
        match: start from a fit to the slopes of smoothed data, where that says enough and the
            field is small enough.
        seed: of the choice of held-out values.
        progress: True for a bar, or a function of ``(done, total, loss)``.
        checkpoint: file that is written every ``every`` steps, at the end, and on an interrupt.
        every: see ``checkpoint``.
        resume: go on from the checkpoint, if there is one, to the numbers an uninterrupted run
            would have given.

    Raises:
        ProblemError: an option out of range.
    """

    def __init__(
        self,
        steps: int = 600,
        rate: float | None = None,
        held_out: float = 0.1,
        patience: int = 150,
        decay: float = 0.0,
        clip: float = 10.0,
        *,
        solver: str | Solver = "tsit5",
        gradient: str | GradientMethod = "unrolled",
        rtol: float = 1e-4,
        atol: float = 1e-5,
        learn_start: bool = True,
        match: bool = True,
        seed: int = 0,
        progress: bool | Report = False,
        checkpoint: str | os.PathLike[str] | None = None,
        every: int = 50,
        resume: bool = False,
    ) -> None:
        for name, count in (("steps", steps), ("patience", patience), ("every", every)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ProblemError(f"{name} must be a positive integer, got {count!r}")
        for name, value in (("rate", rate or 1.0), ("clip", clip), ("rtol", rtol), ("atol", atol)):
            if not 0 < value < float("inf"):
                raise ProblemError(f"{name} must be positive, got {value!r}")
        if not 0 <= held_out < 1:
            raise ProblemError(f"held_out must lie in [0, 1), got {held_out!r}")
        if resume and checkpoint is None:
            raise ProblemError("resume=True needs checkpoint=PATH, the file to go on from")
        self.steps, self.rate, self.held_out, self.patience = steps, rate, held_out, patience
        self.decay, self.clip, self.solver, self.gradient = decay, clip, solver, gradient
        self.rtol, self.atol, self.learn_start, self.seed = rtol, atol, learn_start, seed
        self.match = match
        self.progress, self.checkpoint, self.every = progress, checkpoint, every
        self.resume = resume

    def fit(self, field: nn.Module, series: Sequence[Any]) -> Fit:
        """Train ``field`` in place.

        Raises:
            ProblemError: data or a field that cannot be trained, and why.
        """
        data = observe(series)
        with reporting(self.progress, "adam") as report:
            return _Descent(self, field, data, report).run()


class _Batch:
    """All trajectories as lanes of one solve.

    Lanes need as many times each and times that never repeat, so a shorter trajectory goes on
    for a vanishing while behind its end.

    Attributes:
        t: ``(lanes, n)``.
        y: ``(n, lanes, d)``, NaN where there is nothing.
        start: ``(lanes, d)``, smoothed first rows.
    """

    def __init__(self, data: Observations, dtype: torch.dtype) -> None:
        n = max(len(one.t) for one in data.trajectories)
        tiny = 1e-9 * max(abs(data.span[0]), abs(data.span[1]), data.span[1] - data.span[0])
        times, rows = [], []
        for one in data.trajectories:
            spare = n - len(one.t)
            more = one.t[-1] + tiny * torch.arange(1, spare + 1, dtype=torch.float64)
            times.append(torch.cat([one.t, more]))
            rows.append(torch.cat([one.y, one.y.new_full((spare, data.dim), torch.nan)]))
        self.t, self.y = torch.stack(times), torch.stack(rows, dim=1)
        self.start = torch.stack([one.smooth[0] for one in data.trajectories])
        first = self.y[0]
        if not bool((data.noise > 1e-2 * data.scale).any()):
            self.start = torch.where(first.isnan(), self.start, first)
        self.y, self.start = self.y.to(dtype), self.start.to(dtype)


class _Descent:
    """One training: everything that a checkpoint has to hold."""

    def __init__(self, options: Adam, field: nn.Module, data: Observations, report: Report) -> None:
        self.options, self.field, self.data, self.report = options, field, data, report
        self.flat = prepare(field, data)
        self.parameters = [p for p in field.parameters() if p.requires_grad]
        self.rate = options.rate or 1e-2
        if options.match:
            table, known = integrated_states(self.flat, data)
            if known and self.flat.size * table.shape[1] < _LARGE:
                with torch.no_grad():
                    self.flat.store(match_slopes(self.flat, self.flat.vector(), data, table))
                self.rate = options.rate or 3e-3
        self.batch = _Batch(data, self.parameters[0].dtype)
        self.scale = data.scale.to(self.batch.y.dtype)
        self.generator = torch.Generator().manual_seed(options.seed)
        seen = ~self.batch.y.isnan()
        held = torch.rand(seen.shape, generator=self.generator) < options.held_out
        held[0] = False
        self.held, self.used = seen & held, seen & ~held
        self.shift = torch.zeros_like(self.batch.start, requires_grad=options.learn_start)
        groups: list[dict[str, Any]] = [{"params": self.parameters, "weight_decay": options.decay}]
        if options.learn_start:
            groups.append({"params": [self.shift], "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate)
        self.step, self.whole = 0, True
        self.best, self.best_step = math.inf, 0
        self.kept = self._weights()
        self.rows: list[dict[str, float]] = []

    def run(self) -> Fit:
        """Descend; whatever ends it, the field holds the best weights and the file the state."""
        import pandas as pd

        path = self.options.checkpoint
        if self.options.resume and path is not None and os.path.exists(path):
            self._restore(read_tensors(path))
        if self.step == 0:
            with torch.no_grad():
                loss, held = self._losses(1.0)
            self.best = float(held if self.options.held_out else loss)
        try:
            while self.step < self.options.steps and not self._stale():
                self.whole = False
                self._descend()
                self.whole = True
                if path is not None and self.step % self.options.every == 0:
                    self._save(path)
                self.report(self.step, self.options.steps, self.rows[-1]["loss"])
        finally:
            if (
                path is not None and self.whole
            ):  # half a step would not continue to the same numbers
                self._save(path)
            self._put(self.kept)
        with torch.no_grad():
            loss, _ = self._losses(1.0)
        return Fit(self.field, float(loss), pd.DataFrame(self.rows))

    def _stale(self) -> bool:
        return self._part() == 1.0 and self.step - self.best_step > self.options.patience

    def _part(self) -> float:
        done = self.step / self.options.steps
        return max(part for begin, part in GROWTH if done >= begin)

    def _learning_rate(self) -> float:
        warm = max(1, self.options.steps // 30)
        done = self.step / self.options.steps
        rise = min(1.0, (self.step + 1) / warm)
        return self.rate * rise * 0.5 * (1 + math.cos(math.pi * done))

    def _descend(self) -> None:
        part, options = self._part(), self.options
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad()
        loss, held = self._losses(part)
        if bool(loss.isfinite()):
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.parameters, options.clip)
            chosen = float(held if options.held_out else loss.detach())
            if part < 1.0:
                self.best_step = self.step
            elif chosen < (1 - 1e-3) * self.best:
                self.best, self.best_step, self.kept = chosen, self.step, self._weights()
            self.optimizer.step()
        found = float(loss.detach())
        row = {"step": self.step, "loss": found, "held_out": float(held), "horizon": part}
        self.rows.append({**row, "rate": self._learning_rate()})
        self.step += 1

    def _losses(self, part: float) -> tuple[Tensor, Tensor]:
        """Mean squared residuals of the used values and of the held-out ones."""
        count = max(2, math.ceil(part * self.batch.t.shape[1]))
        start = self.batch.start + self.shift * self.scale
        solution = solve(
            self._slope(),
            start,
            self.batch.t[:, :count],
            solver=self.options.solver,
            gradient=self.options.gradient,
            params=self.parameters,
            per_sample=True,
            rtol=self.options.rtol,
            atol=self.options.atol * float(self.scale.min()),
            throw=False,
        )
        y = solution.y
        reached = ~y.isnan()
        loss = self._mean(y, self.used[:count] & reached)
        with torch.no_grad():
            held = self.held[:count]
            score = self._mean(y, held & reached) if bool((held & reached).any()) else loss.detach()
            if bool((held & ~reached).any()):
                score = score + math.inf
        return loss, score

    def _mean(self, y: Tensor, chosen: Tensor) -> Tensor:
        """Mean squared residual of the chosen values; infinite where there are none.

        A lane that blew up counts through the rows it reached, and is pulled back by them.
        """
        if not bool(chosen.any()):
            return y.new_tensor(math.inf)
        scale = self.scale.expand_as(y)[chosen]
        return ((y[chosen] - self.batch.y[: len(y)][chosen]) / scale).square().mean()

    def _slope(self) -> Any:
        """The field, taking all lanes at once."""
        return vmap(self.field) if self.flat.single else self.field

    def _weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in [*self.parameters, self.shift]]

    @torch.no_grad()
    def _put(self, weights: Sequence[Tensor]) -> None:
        for parameter, value in zip([*self.parameters, self.shift], weights, strict=True):
            parameter.copy_(value)

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a resumed run to give the same numbers."""
        names = ("steps", "rate", "held_out", "patience", "decay", "clip", "rtol", "atol", "seed")
        settings = {name: getattr(self.options, name) for name in (*names, "learn_start")}
        return settings | {
            "match": self.options.match,
            "rows": list(self.batch.y.shape),
            "weights": self.flat.size,
        }

    def _save(self, path: str | os.PathLike[str]) -> None:
        state = {
            "format": _FORMAT,
            "settings": self._settings(),
            "field": self.field.state_dict(),
            "now": self._weights(),
            "kept": self.kept,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "progress": [self.step, self.best, self.best_step],
            "rows": self.rows,
        }
        write_tensors(path, state)

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("format") != _FORMAT:
            raise ProblemError("checkpoint: the file was not written by trainer 'adam'")
        mine = self._settings()
        other = [name for name in mine if mine[name] != state["settings"].get(name)]
        if other:
            raise ProblemError(
                f"checkpoint: made with other {', '.join(other)}; resume with the same options and "
                "data, or choose another file"
            )
        self.field.load_state_dict(state["field"])
        self._put(state["now"])
        self.kept, self.rows = state["kept"], state["rows"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step, self.best, self.best_step = state["progress"]
