"""Time limits: a clock that moves with the work shows what is still done after the end."""

from __future__ import annotations

import numpy as np
import pytest

import odekit
from odekit_sindy import discovery, gaussian_process, shooting
from odekit_sindy.budget import GRACE, Budget
from odekit_sindy.gaussian_process import Series
from odekit_sindy.least_squares import WARY, Trial, descend


class Clock:
    """A clock that somebody else moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Work:
    """Counts pieces of work, each of which takes a second, and those begun after the end."""

    def __init__(self, clock, end):
        self.clock, self.end = clock, end
        self.done, self.late = 0, 0

    def counted(self, function):
        def call(*args, **options):
            self.done += 1
            self.late += self.clock.now > self.end
            self.clock.now += 1.0
            return function(*args, **options)

        return call


def test_over_late_and_shares():
    clock = Clock()
    budget = Budget(10.0, clock=clock)
    third = budget.beyond(0.3)
    assert [budget.over, budget.late(), third(), budget.cut] == [False] * 4
    clock.now = 4.0
    assert third()
    assert budget.cut  # something was left out, but there is time for more
    assert not budget.over
    clock.now = 10.0 + 0.5 * GRACE
    assert budget.over
    assert not budget.late()
    clock.now = 10.0 + 2 * GRACE
    assert budget.late()


def test_a_listener_that_stops_the_work_leaves_the_grace():
    clock = Clock()
    asked = []
    budget = Budget(np.inf, lambda stage, fraction: bool(asked), clock)
    assert not budget.over
    asked.append(True)
    clock.now = 5.0
    assert budget.over
    assert not budget.late()
    clock.now += 2 * GRACE
    assert budget.late()


def test_least_squares_and_curves_stop_between_steps():
    calls = []

    def attempt(rows, lam):
        calls.append(len(rows))
        cost = np.full(len(rows), 1.0 / len(calls))
        return Trial(2 * cost, cost, lambda better, taken: None)

    descend(attempt, 3, 50, 1e-9, WARY, stop=lambda: len(calls) >= 4)
    assert len(calls) == 4

    t = np.linspace(0, 10, 80)
    y = np.sin(t) + 0.1 * np.random.default_rng(0).standard_normal(80)
    series = [Series(t, y, np.ones(80))]
    whole = gaussian_process.fit(series)
    first = gaussian_process.fit(series, stop=lambda: True)
    assert np.isfinite(first.evidence)
    assert first.evidence < whole.evidence


def watched(monkeypatch, limit):
    """Searches whose clock moves by a second with every attempt of a fit and every evidence."""
    clock = Clock()
    work = Work(clock, limit)
    monkeypatch.setattr(
        discovery, "Budget", lambda seconds, listener: Budget(seconds, listener, clock)
    )
    plain, counted = shooting.follow, work.counted(shooting.follow)

    def follow(*args, kept):
        return (counted if kept else plain)(*args, kept=kept)

    monkeypatch.setattr(shooting, "follow", follow)
    evidence = gaussian_process.negative_evidence
    monkeypatch.setattr(gaussian_process, "negative_evidence", work.counted(evidence))
    return work


@pytest.mark.parametrize("limit", [0.5, 50.0, 120.0, 220.0])
def test_nothing_is_begun_after_the_end(monkeypatch, observe, limit):
    """Whatever stage the end falls in: what is under way ends, the answer is put together."""
    work = watched(monkeypatch, limit)
    equations = odekit.discover(observe("lotka_volterra", 0.05), time_limit=limit)
    assert work.done >= limit
    assert work.late <= 6  # the rest of one line search, and the first step of each curve
    assert not equations.diagnostics["complete"]
    assert not equations.confident
    assert any("raise time_limit" in sentence for sentence in equations.warnings)


def test_without_an_end_the_work_is_much_more(monkeypatch, observe):
    work = watched(monkeypatch, np.inf)
    equations = odekit.discover(observe("lotka_volterra", 0.05), time_limit=np.inf)
    assert work.done > 300
    assert equations.diagnostics["complete"]
