"""How the speed benchmark measures, with a clock that the methods move."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from odekit import GradientWarning
from odekit_benchmarks import speed_timing
from odekit_benchmarks.speed_growth import COMPILED, EAGER, crossing, said
from odekit_benchmarks.speed_tables import number, show, timing_line
from odekit_benchmarks.speed_timing import Method, Reading, Timing, measure, one_core, quartiles


class Clock:
    def __init__(self):
        self.now, self.calls = 0.0, []

    def perf_counter(self):
        return self.now

    def method(self, name, seconds, **options):
        durations = iter(seconds) if isinstance(seconds, list) else None

        def call():
            self.calls.append(name)
            self.now += next(durations) if durations else seconds
            return name

        options = {"read": lambda result: Reading(torch.ones(1)), **options}
        return Method(name, "test", call, **options)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(speed_timing, "time", made)
    return made


def test_methods_take_turns_and_the_first_call_is_apart(clock):
    methods = [clock.method("a", [9.0, 1.0, 2.0, 3.0], compiled=True), clock.method("b", 1.0)]
    timings, notes = measure(methods, rounds=2, limit=100)
    a, b = timings
    assert notes == []
    assert (a.first, a.seconds, b.first, b.seconds) == (9.0, [2.0, 3.0], 1.0, [1.0, 1.0])
    assert clock.calls[:4] == ["a", "a", "b", "b"]
    assert [sorted(clock.calls[4:6]), sorted(clock.calls[6:])] == [["a", "b"]] * 2


def test_a_slow_method_gets_three_rounds_and_leaves_the_time_to_others(clock):
    methods = [clock.method("slow", 20.0), clock.method("fast", 0.1)]
    timings, _ = measure(methods, rounds=9, limit=20)
    slow, fast = timings
    assert (len(slow.seconds), len(fast.seconds)) == (3, 9)
    assert clock.calls.count("slow") == 3  # its first call is one of them


def test_a_method_that_fails_becomes_a_note_wherever_it_fails(clock):
    def fail(*_):
        raise ValueError("no\nsuch thing")

    calls = []

    def later():
        calls.append(0)
        if len(calls) > 2:
            fail()

    methods = [
        Method("at once", "test", fail, fail),
        Method("later", "test", later, fail),
        clock.method("read", 1.0, read=fail),
        clock.method("good", 1.0),
    ]
    timings, notes = measure(methods, rounds=3, limit=100)
    assert [timing.method.name for timing in timings] == ["good"]
    assert notes == [f"{name}: ValueError: no such thing" for name in ("at once", "later", "read")]


def test_what_this_package_warns_of_becomes_a_note_and_what_others_say_does_not():
    def call():
        warnings.warn("the eager tier runs", GradientWarning, stacklevel=1)
        warnings.warn("unrelated", UserWarning, stacklevel=1)

    method = Method("m", "test", call, lambda result: Reading(torch.ones(1)), compiled=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timings, notes = measure([method], rounds=1, limit=1)
    assert len(timings) == 1
    assert notes == ["m: the eager tier runs"]


def test_a_floor_is_told_by_the_evaluation(clock):
    def look():
        clock.now += 5.0
        return 0.5

    [timing], _ = measure([Method("eager", "floor", look)], rounds=2, limit=1000)
    assert (timing.first, timing.seconds, timing.spent) == (5.0, [0.5, 0.5], 10.0)


def test_being_asked_to_stop_keeps_what_there_is(clock):
    methods = [clock.method("a", 1.0), clock.method("b", 1.0)]
    timings, _ = measure(methods, rounds=5, limit=100, stop=lambda: len(clock.calls) > 4)
    assert [(t.method.name, len(t.seconds)) for t in timings] == [("a", 1)]
    timings, _ = measure(methods, rounds=5, limit=100, stop=lambda: True)
    assert timings == []


def test_a_fast_method_has_several_calls_in_a_turn_and_a_hiccup_does_not_count(clock):
    quick = [9.0, 0.048, 0.048, 5.0, 0.048, 0.048, 0.1, 0.1, 0.1, 0.1, 5.0, 0.1]
    methods = [clock.method("quick", quick, compiled=True), clock.method("long", 1.0)]
    timings, _ = measure(methods, rounds=2, limit=100)
    assert timings[0].seconds == [pytest.approx(0.048), pytest.approx(0.1)]
    rounds = clock.calls[4:]
    assert clock.calls[:4] == ["quick"] * 2 + ["long"] * 2
    assert [sorted(rounds[:6]), sorted(rounds[6:])] == [["long"] + ["quick"] * 5] * 2
    assert "".join(name[0] for name in rounds).count("q" * 5) == 2


def test_no_method_always_follows_the_same_one(clock):
    methods = [clock.method(name, 1.0) for name in "abcd"]
    measure(methods, rounds=8, limit=1000)
    turns = ["".join(clock.calls[i : i + 4]) for i in range(len(methods) * 2, len(clock.calls), 4)]
    assert [sorted(turn) for turn in turns] == [list("abcd")] * 8
    assert len({turn[(turn.index("a") - 1) % 4] for turn in turns}) > 1
    before = list(clock.calls)
    clock.calls.clear()
    measure(methods, rounds=8, limit=1000)
    assert clock.calls == before


def test_ratios_are_those_of_the_medians_that_are_shown(clock):
    def timing(seconds):
        return Timing(clock.method("m", 1.0), 0.0, seconds)

    base, other = timing([4.0, 4.0, 9.0]), timing([2.0, 1.0, 2.0, 8.0, 8.0, 2.0, 1.0])
    line = timing_line(other, {"base": base})
    assert (line["median"], line["faster_than"]) == (2.0, {"base": 2.0})
    assert quartiles(timing([1.0, 2.0, 3.0, 4.0, 5.0])) == (2.0, 4.0)
    assert quartiles(timing([3.0])) == (3.0, 3.0)


def test_one_core_and_one_thread_and_everything_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    has = hasattr(os, "sched_getaffinity")
    before = (torch.get_num_threads(), os.sched_getaffinity(0) if has else None)
    with one_core() as core:
        assert torch.get_num_threads() == 1
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
        if has:
            assert os.sched_getaffinity(0) == {core}
    assert (torch.get_num_threads(), os.sched_getaffinity(0) if has else None) == before
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_system_that_pins_nothing_is_no_obstacle(monkeypatch):
    def refuse(process, cores):
        raise OSError("not here")

    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    with one_core() as core:
        assert core is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (0.0, "0"), (0.01234, "0.0123"), (1.234, "1.23"),
     (45.67, "45.7"), (21369.4, "21,369"), (0.00001, "0.0000")],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_table_of_a_device_says_so(capsys):
    problem = {"name": "P1", "title": "oscillators", "device": "cuda", "lines": [], "notes": ["n"]}
    show(problem)
    assert "P1: oscillators, on CUDA" in capsys.readouterr().out
    show({**problem, "device": "cpu"})
    assert "CUDA" not in capsys.readouterr().out


def points(what, tier, steps, **more):
    return [{what: value, "tier": tier, "step": step, **more} for value, step in steps.items()]


def test_the_crossing_lies_where_a_tenth_is_left():
    eager = points("batch", EAGER, {1: 11.0, 100: 11.0, 10_000: 110.0})
    fast = points("batch", COMPILED, {1: 1.0, 100: 1.0, 10_000: 1000.0})
    found = crossing("batch", eager + fast)
    # From a tenfold gain over the limit at 100 to a tenth of it at 10,000: half the way.
    assert found["at"] == pytest.approx(1000.0)
    assert found["step"] == pytest.approx(11 * 10**0.5)
    assert "about 1,000." in said({"what": "batch", "points": eager + fast, "crossing": found})
    assert crossing("batch", eager + points("batch", COMPILED, {1: 1.0, 100: 1.0})) is None
    at_once = crossing("batch", eager + points("batch", COMPILED, {1: 11.0, 100: 20.0}))
    assert at_once == {"at": pytest.approx(1.0), "step": pytest.approx(11.0)}


def test_compilation_is_made_up_for_after_the_steps_it_costs():
    eager = points("steps", EAGER, {10: 1.1, 1000: 1.1}, solve=1.0, first=1.0)
    fast = points("steps", COMPILED, {10: 0.1, 1000: 0.1}, solve=1.0, first=201.0)
    found = crossing("steps", eager + fast)
    assert found["at"] == pytest.approx(200.0)
    text = said({"what": "steps", "points": eager + fast, "crossing": found})
    assert text == "Compilation is made up for after about 200 steps."
    slow = points("steps", COMPILED, {10: 2.0, 1000: 2.0}, solve=1.0, first=201.0)
    assert crossing("steps", eager + slow) is None
    assert crossing("steps", eager) is None
