"""Runs of many fits: rows on disk, resumed, interrupted, side by side, and what fails."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import odekit
from odekit import Equations, ProblemError
from odekit_benchmarks import methods, runner
from odekit_benchmarks.fits import Task, run
from odekit_benchmarks.suites import Case, cases
from odekit_benchmarks.tally import tally

METHOD = methods.Method


def tasks(names=("odebench_2", "odebench_24"), method="pysindy-default", seeds=(0, 1)):
    return [
        Task(case, method, 0.01, 0.5, seed, 1, 600.0)
        for seed in seeds
        for case in cases(list(names))
    ]


def timeless(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def answers(monkeypatch):
    """Methods that answer at once: one with the truth of odebench_24, one that breaks."""
    calls = []

    def right(series, time_limit):
        calls.append(series[0])
        return Equations(["x0", "x1"], [("x0", "x1", 1.0), ("x1", "x0", -2.1)])

    def broken(series, time_limit):
        raise ValueError("setting an array element\nwith a sequence")

    known = (METHOD("right", right), METHOD("broken", broken), *methods.METHODS)
    monkeypatch.setattr(methods, "METHODS", known)
    return calls


def test_rows_are_plain_json_and_the_same_again(tmp_path):
    [task] = tasks(["odebench_24"], "odekit", seeds=(0,))
    row = run(task)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row["exact"]
    assert row["failure"] is None
    assert row["intervals"] == 2
    assert row["rows"] == [75]
    assert 0 < row["seconds"] < 30
    assert timeless([run(task)]) == timeless([row])


def test_a_method_that_fails_is_a_row(answers, tmp_path):
    rows = runner.run_all(
        [*tasks(["odebench_24"], "broken"), *tasks(["odebench_24"], "right")], tmp_path / "r.jsonl"
    )
    assert rows[0]["failure"] == "ValueError: setting an array element with a sequence"
    assert not rows[0]["exact"]
    assert [row["exact"] for row in rows] == [False, False, True, True]
    table = {line["method"]: line for line in tally(rows)}
    assert (table["broken"]["failures"], table["right"]["failures"]) == (2, 0)
    assert table["broken"]["error"] == 1.0


def test_an_impossible_case_is_a_row():
    case = Case("logistic", starts=((-1.0,),))
    row = run(Task(case, "pysindy-default", 0.0, 0.5, 0, 1, 1.0))
    assert "does not reach" in row["failure"]


def test_resume_takes_what_is_there(answers, tmp_path):
    file = tmp_path / "deep" / "results.jsonl"
    first = runner.run_all(tasks(["odebench_24"], "right", (0,)), file)
    again = runner.run_all(tasks(["odebench_24"], "right", (0, 1)), file, resume=True)
    assert len(answers) == 2
    assert again[0] == first[0]
    assert [row["seed"] for row in again] == [0, 1]
    assert lines(file) == again
    other = [replace(task, time_limit=9.0) for task in tasks(["odebench_24"], "right", (0,))]
    runner.run_all(other, file, resume=True)
    assert len(answers) == 3


def test_resume_mends_a_last_line_that_was_cut_off(answers, tmp_path):
    file = tmp_path / "results.jsonl"
    wanted = tasks(["odebench_24"], "right", (0, 1))
    whole = runner.run_all(wanted, file)
    file.write_text(file.read_text()[:-30])
    assert timeless(runner.run_all(wanted, file, resume=True)) == timeless(whole)
    assert len(answers) == 3
    assert timeless(lines(file)) == timeless(whole)


def test_resume_refuses_another_file(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"system": "lorenz"}\n')
    with pytest.raises(ProblemError, match="line 1 is no row"):
        runner.run_all(tasks(), file, resume=True)


def test_without_resume_the_earlier_rows_are_put_aside(answers, tmp_path):
    file = tmp_path / "results.jsonl"
    runner.run_all(tasks(["odebench_24"], "right", (0,)), file)
    runner.run_all(tasks(["odebench_24"], "right", (1,)), file)
    assert [row["seed"] for row in lines(file)] == [1]
    assert [row["seed"] for row in lines(tmp_path / "results.previous.jsonl")] == [0]


def test_stopping_keeps_what_is_done(answers, tmp_path):
    file, seen = tmp_path / "results.jsonl", []
    wanted = tasks(["odebench_24"], "right", (0, 1, 2))
    rows = runner.run_all(
        wanted, file, stop=lambda: len(answers) == 2, listen=lambda rows: seen.append(len(rows))
    )
    assert [row["seed"] for row in rows] == [0, 1]
    assert seen == [0, 1, 2]
    assert len(runner.run_all(wanted, file, resume=True)) == 3


def test_side_by_side_is_the_same_as_one_after_another(tmp_path):
    wanted = [
        *tasks(("odebench_2", "odebench_24", "odebench_28")),
        *tasks(seeds=(0,), method="odekit"),
    ]
    serial = runner.run_all(wanted, tmp_path / "one.jsonl")
    parallel = runner.run_all(wanted, tmp_path / "two.jsonl", jobs=2)
    assert timeless(serial) == timeless(parallel)
    assert len(lines(tmp_path / "two.jsonl")) == len(wanted)


def test_every_variant_of_pysindy_gives_equations():
    [case] = cases(["damped_oscillator"])
    names = [method.name for method in methods.chosen(["pysindy"])]
    rows = {name: run(Task(case, name, 0.0, 0.0, 0, 1, 1.0)) for name in names}
    assert {name: row["failure"] for name, row in rows.items()} == dict.fromkeys(names)
    # Equidistant and clean: all but those that regularise away the truth reconstruct it.
    assert rows["pysindy-default"]["exact"]
    assert rows["pysindy-weak"]["rec"]
    assert timeless([run(Task(case, "pysindy-ensemble", 0.0, 0.0, 0, 1, 1.0))]) == timeless(
        [rows["pysindy-ensemble"]]
    )


def test_the_default_variant_is_what_pysindy_does_by_default():
    import pysindy

    [case] = cases(["lotka_volterra"])
    series = case.system().series(n=150, noise=0.0, drop=0.5)
    model = pysindy.SINDy(feature_library=pysindy.PolynomialLibrary(degree=3))
    model.fit(series.y.numpy(), t=series.t.numpy())
    [method] = methods.chosen(["pysindy-default"])
    found = method.fit([series], 1.0)
    values = sorted(float(value) for value in model.coefficients().ravel() if value)
    assert sorted(term.value for term in found.terms) == pytest.approx(values)


def test_the_own_method_is_discover_with_its_defaults():
    [case] = cases(["odebench_2"])
    series = case.system().series(n=60, noise=0.01)
    [method] = methods.chosen(["odekit"])
    assert str(method.fit([series], 20.0)) == str(odekit.discover(series))
