"""The checks of a step-size controller, on scripted errors and on whole solves."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odekit.controller import Decision, StepController
from odekit.solution import Solution
from odekit.solve import solve
from odekit.solver import FlatField, Solver, Step, Trait
from odekit.testing.cases import DOUBLE
from odekit.testing.conformance import Conformance, NotApplicable, check, require, require_close
from odekit.testing.convergence import clock, distance, largest, leaves, same, snapshot

SCRIPT = (0.3, 0.02, 5.0, 0.9, 1.5, 1e-4, 0.6, 40.0, 0.5, 0.99)
"""Scaled errors of ten attempts; above one is too large."""


class ControllerConformance(Conformance):
    """Everything a step-size controller promises.

    Subclass it and say in ``make`` how to build the controller. One that is built for certain
    times, or that takes options in its own way, overrides `make_for` or `make_with` too.
    """

    def make_for(self, span: Tensor) -> StepController:
        """A controller for output times ``(n,)``, or ``(lanes, n)``; by default `make`."""
        return self.make()  # type: ignore[no-any-return]

    def make_with(self, **options: Any) -> StepController:
        """A controller with options of its constructor; by default its class is called."""
        return type(self.make())(**options)  # type: ignore[no-any-return]

    @check
    def test_first_step(self) -> str:
        """The first step points along the times, is no longer than they are, and has its shape."""
        for span in _spans():
            h, _ = self._begin(span)
            if span.dim() == 1:
                require(isinstance(h, float), f"the first step must be a float, got {h!r}")
            else:
                shape = tuple(h.shape) if isinstance(h, Tensor) else None
                require(
                    shape == (len(span),),
                    f"with a step per sample the first step must be ({len(span)},), got {shape}",
                )
            reach, first = span[..., -1] - span[..., 0], torch.as_tensor(h, dtype=DOUBLE)
            require(
                bool(((first * reach > 0) & (first.abs() <= reach.abs() * (1 + 1e-9))).all()),
                f"the first step {first.tolist()} does not fit the span {reach.tolist()}",
            )
        return ""

    @check
    def test_accept_reject(self) -> str:
        """Small errors are accepted and the step grows; large, infinite and NaN ones shrink it."""
        for sign in (1.0, -1.0):
            for q in (0.0, 1e-12, 0.01):
                decision = self._judge(q, 0.1 * sign)
                require(decision.accept is True, f"an error of {q} tolerances is rejected")
                require(
                    abs(decision.h) >= 0.1 and math.isfinite(decision.h),
                    f"after an error of {q} tolerances a step of 0.1 becomes {decision.h!r}",
                )
            for q in (1.5, 100.0, 1e30, math.inf, math.nan):
                decision = self._judge(q, 0.1 * sign)
                require(decision.accept is False, f"an error of {q} tolerances is accepted")
                require(
                    0 < abs(decision.h) < 0.1,
                    f"after an error of {q} tolerances a step of 0.1 becomes {decision.h!r}",
                )
        return ""

    @check
    def test_signed(self) -> str:
        """Steps keep their direction, and both directions are treated alike."""
        if not self._judges():
            raise NotApplicable("it does not look at errors")
        for q in SCRIPT:
            there, back = self._judge(q, 0.1), self._judge(q, -0.1)
            require(
                there.h == -back.h and there.accept == back.accept and there.h > 0,
                f"a step of 0.1 becomes {there.h!r} and one of -0.1 becomes {back.h!r}",
            )
        return ""

    @check
    def test_lanes(self) -> str:
        """Lanes are decided one by one, each exactly as a solve of its own."""
        count = 3
        span = torch.tensor([[0.0, 0.4, 1.0]] * count, dtype=DOUBLE)
        lanes = self._bound(self.make_for(span))
        alone = [self._bound(self.make_for(span[0])) for _ in range(count)]
        h, memory = _init(lanes, span)
        single = [_init(c, span[0]) for c in alone]
        worst = _gap(h, [each for each, _ in single])
        for k in range(len(SCRIPT)):
            qs = [SCRIPT[(k + 4 * lane) % len(SCRIPT)] for lane in range(count)]
            together = _decide(lanes, h, qs, memory, self._judges())
            apart = [
                _decide(c, step, q, state, self._judges())
                for c, q, (step, state) in zip(alone, qs, single, strict=True)
            ]
            require(
                together.accept.tolist() == [d.accept for d in apart],
                f"errors {qs} are decided {together.accept.tolist()} together and "
                f"{[d.accept for d in apart]} apart",
            )
            worst = largest(worst, _gap(together.h, [d.h for d in apart]))
            h, memory = together.h, together.state
            single = [(d.h, d.state) for d in apart]
        return require_close(worst, 1e-12, "step lengths of lanes together and apart (relative)")

    @check
    def test_bounds(self) -> str:
        """``min_step``, ``max_step`` and ``first_step`` are kept, where they are offered."""
        low, high = 0.03, 0.07
        if not self._offers(min_step=low, max_step=high):
            raise NotApplicable("offers no min_step and max_step")
        bounded = self._bound(self.make_with(min_step=low, max_step=high))
        for span in (clockwork(0.0, 1.0), clockwork(1.0, 0.0)):
            h, memory = _init(bounded, span)
            lengths = [abs(h)]
            for q in SCRIPT * 2:
                decision = _decide(bounded, h, q, memory, judges=self._judges())
                h, memory = decision.h, decision.state
                lengths.append(abs(h))
            require(
                low * (1 - 1e-12) <= min(lengths) and max(lengths) <= high * (1 + 1e-12),
                f"with min_step={low} and max_step={high} steps run from {min(lengths):.3g} to "
                f"{max(lengths):.3g}",
            )
        if self._offers(first_step=0.05):
            h, _ = _init(self._bound(self.make_with(first_step=0.05)), clockwork(1.0, 0.0))
            require(h == -0.05, f"with first_step=0.05 the first step backwards is {h!r}")
        return f"{low} to {high}"

    @check
    def test_step_times(self) -> str:
        """Steps end on ``step_times`` and ``jump_times``, where they are offered."""
        named = [n for n in ("step_times", "jump_times") if self._offers(**{n: (0.31, 0.77)})]
        if not named:
            raise NotApplicable("offers neither step_times nor jump_times")
        for name in named:
            for span in ((0.0, 1.0), (1.0, 0.0)):
                controller = self.make_with(**{name: (0.31, 0.77)})
                ends = _run(controller, torch.tensor(span, dtype=DOUBLE), save="steps").t.tolist()
                require(
                    0.31 in ends and 0.77 in ends,
                    f"{name}=(0.31, 0.77) is not among the ends of steps on {span}",
                )
        return ", ".join(named)

    @check
    def test_tolerances(self) -> str:
        """``with_tolerances`` gives a copy and leaves the controller as it was."""
        controller = self.make()
        before = snapshot(vars(controller))
        bound = controller.with_tolerances(1e-3, 1e-5)
        require(isinstance(bound, type(controller)), f"with_tolerances gives {bound!r}")
        require(same(before, snapshot(vars(controller))), "with_tolerances changes the controller")
        return ""

    @check
    def test_immutable(self) -> str:
        """A controller remembers nothing on itself; the same question, the same answer."""
        for span in _spans():
            controller = self._bound(self.make_for(span))
            before = snapshot(vars(controller))
            answers = []
            for _ in range(2):
                h, memory = _init(controller, span)
                answers.append([h, memory])
                for q in SCRIPT[:5]:
                    qs = q if span.dim() == 1 else [q] * len(span)
                    given = snapshot((h, memory))
                    decision = _decide(controller, h, qs, memory, judges=self._judges())
                    require(same(given, (h, memory)), "decide changes its arguments in place")
                    h, memory = decision.h, decision.state
                    answers[-1].extend([decision.accept, h, memory])
            require(same(answers[0], answers[1]), "the same errors are decided differently again")
            require(
                same(before, snapshot(vars(controller))),
                "the controller writes on self; what it remembers belongs in Decision.state",
            )
        return ""

    @check
    def test_no_gradient(self) -> str:
        """Step lengths and memory carry no gradient, even where the states do."""
        for span in _spans():
            controller = self._bound(self.make_for(span))
            h, memory = _init(controller, span, requires_grad=True)
            qs = 0.5 if span.dim() == 1 else [0.5] * len(span)
            decision = _decide(controller, h, qs, memory, self._judges(), requires_grad=True)
            found = leaves([h, memory, decision.h, decision.state])
            require(not any(x.requires_grad for x in found), "a step length carries a gradient")
        return ""

    @check
    def test_solve(self) -> str:
        """Whole solves reach their end, both ways in time; errors follow the tolerance."""
        worst = {}
        for rtol in (1e-3, 1e-5):
            errors = []
            for span in _spans():
                solution = _run(self.make_for(span), span, rtol=rtol)
                require(solution.success, f"a solve ends with {solution.statuses[0].name}")
                decay = (span[..., :1] - span).exp()
                exact = (decay if span.dim() == 1 else decay.T)[..., None]
                errors.append(float((solution.y / exact - 1).abs().max()))
            worst[rtol] = largest(*errors)
        figure = ", ".join(f"{error:.0e} at rtol {rtol:.0e}" for rtol, error in worst.items())
        if self._judges():
            require(
                worst[1e-3] < 3e-2 and worst[1e-5] < worst[1e-3] / 30,
                f"errors do not follow the tolerance: {figure}",
                figure,
            )
        return figure

    @check
    def test_lanes_solve(self) -> str:
        """Solved per sample, each sample takes the attempts that it takes alone."""
        rates = torch.tensor([0.5, 3.0, 20.0], dtype=DOUBLE)
        span = torch.tensor([[0.0, 0.4, 1.0]] * 3, dtype=DOUBLE)
        batch = _run(self.make_for(span), span, rates=rates)
        worst = 0.0
        for i in range(3):
            row = slice(i, i + 1)
            alone = _run(self.make_for(span[row]), span[row], rates=rates[row])
            seen, wanted = int(batch.stats.attempts[i]), int(alone.stats.attempts[0])
            require(
                seen == wanted, f"sample {i} takes {seen} attempts beside others, {wanted} alone"
            )
            worst = largest(worst, distance(batch.y[:, i], alone.y[:, 0]))
        return require_close(worst, 1e-12, "a sample beside others and the sample alone")

    def _offers(self, **options: Any) -> bool:
        parameters = inspect.signature(type(self.make())).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if not anything and not parameters.keys() >= options.keys():
            return False
        try:
            self.make_with(**options)
        except TypeError:  # it does not know them, or cannot be made of these alone
            return False
        return True

    def _judges(self) -> bool:
        return Trait.ERROR_ESTIMATE in type(self.make()).solver_needs

    def _bound(self, controller: StepController) -> StepController:
        return controller.with_tolerances(0.0, 1.0)

    def _begin(self, span: Tensor) -> tuple[Any, Any]:
        return _init(self._bound(self.make_for(span)), span)

    def _judge(self, q: float, h: float) -> Decision:
        if not self._judges():
            raise NotApplicable("it does not look at errors")
        span = clockwork(0.0, math.copysign(10.0, h))
        controller = self._bound(self.make_for(span))
        return _decide(controller, h, q, _init(controller, span)[1], judges=True)


class _Heun(Solver):
    """A solver for the controllers to steer: Heun's method with Euler's as its error estimate."""

    order = 2
    traits = Trait.ERROR_ESTIMATE

    def step(self, field: FlatField, t: Tensor, h: Any, y: Tensor, state: Any) -> Step:
        k0 = field(t, y)
        k1 = field(t + h, y + h * k0)
        y1 = y + 0.5 * h * (k0 + k1)
        return Step(y1, 0.5 * h * (k1 - k0), None, (k0, field(t + h, y1)))


def clockwork(start: float, end: float) -> Tensor:
    """Output times of one lane."""
    return torch.tensor([start, start + 0.4 * (end - start), end], dtype=DOUBLE)


def _spans() -> list[Tensor]:
    """Both directions, for one lane and for three with times of their own."""
    there = clockwork(0.0, 1.0)
    lanes = torch.stack([there, 0.5 * there + 0.1, 2 * there])
    return [there, there.flip(0), lanes, lanes.flip(1)]


def _init(controller: StepController, span: Tensor, requires_grad: bool = False) -> tuple[Any, Any]:
    t = clock(float(span[0])) if span.dim() == 1 else span[:, :1]
    y = torch.ones(3, dtype=DOUBLE) if span.dim() == 1 else torch.ones(len(span), 3, dtype=DOUBLE)
    with torch.no_grad():
        return controller.init(_Heun(), lambda t, y: -y, t, y.requires_grad_(requires_grad), span)


def _decide(
    controller: StepController,
    h: Any,
    q: float | Sequence[float],
    memory: Any,
    judges: bool,
    requires_grad: bool = False,
) -> Decision:
    """A decision on errors that are exactly ``q`` tolerances of one."""
    error = torch.as_tensor(q, dtype=DOUBLE)[..., None].expand(
        *([3] if isinstance(q, float) else [len(q), 3])
    )
    y = torch.full_like(error, 0.5).requires_grad_(requires_grad)
    with torch.no_grad():
        return controller.decide(
            _Heun(), h, y, y.clone(), error.clone() if judges else None, memory
        )


def _gap(lanes: Any, alone: list[float]) -> float:
    wanted = torch.tensor(alone, dtype=DOUBLE)
    return float(((lanes - wanted) / wanted).abs().max())


def _run(
    controller: StepController,
    span: Tensor,
    rates: Tensor | None = None,
    rtol: float = 1e-3,
    save: Any = "times",
) -> Solution:
    """``y' = -rate y`` from one, a sample per row of ``span``."""
    lanes = span.dim() == 2
    y0 = torch.ones(len(span), 1, dtype=DOUBLE) if lanes else torch.ones(1, dtype=DOUBLE)
    rate = rates[:, None] if rates is not None else 1.0
    return solve(
        lambda t, y: -rate * y,
        y0,
        span,
        solver=_Heun(),
        controller=controller,
        rtol=rtol,
        atol=1e-12,
        per_sample=lanes,
        save=save,
        throw=False,
    )
