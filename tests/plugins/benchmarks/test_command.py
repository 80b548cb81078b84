"""``odekit benchmark discovery`` from outside, and the table it prints."""

from __future__ import annotations

import json

import pytest

from odekit.cli.frame import run
from odekit_benchmarks.tally import COLUMNS, tally

FAST = ("--methods", "odekit,pysindy-default", "--time-limit", "20", "--noise", "0.05,0")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_seconds(document):
    text = json.dumps(document)
    found = json.loads(text)
    for entry in (*found["table"], *found["rows"]):
        for name in ("seconds", "seconds_90"):
            entry.pop(name, None)
    return found


def row(system, exact, **changes):
    return {
        "system": system,
        "method": "m",
        "noise": 0.05,
        "seed": 0,
        "representable": True,
        "polynomial": True,
        "exact": exact,
        "failure": None,
        "error": 0.01,
        "rec": True,
        "gen": True,
        "covered": 3,
        "intervals": 4,
        "confident": True,
        "seconds": 1.0,
        **changes,
    }


def test_the_table_counts_by_seed_and_over_all():
    rows = [
        row("a", True, error=0.02),
        row("b", False, gen=None),
        row("c", False, representable=False, polynomial=False, error=9.0),
        row("a", True, seed=1, confident=False, seconds=3.0),
        row("b", True, seed=1, covered=4, polynomial=False, error=0.04),
        row("c", False, seed=1, representable=False, polynomial=False, rec=False, gen=False),
        row("d", True, representable=False, polynomial=False),
        row("d", True, seed=1, representable=False, polynomial=False),
    ]
    [line] = tally(rows)
    assert (line["exact"], line["exact_low"], line["exact_high"]) == (1.5, 1, 2)
    assert (line["representable"], line["systems"], line["seeds"], line["fits"]) == (2, 4, 2, 8)
    assert line["error"] == pytest.approx(0.015)
    assert line["rec"] == pytest.approx(100 * 7 / 8)
    assert line["gen"] == pytest.approx(100 * 6 / 7)
    assert line["coverage"] == pytest.approx(100 * 16 / 20)
    assert (line["confident"], line["confident_wrong"]) == (7, 3)
    cells = {name: cell(line) for name, cell in COLUMNS}
    assert cells["exact"] == "1.5/2 (1-2)"
    assert cells["other"] == "1/2 (1-1)"
    assert (cells["noise"], cells["rec"], cells["failed"]) == ("5 %", "88 %", "–")


def test_what_a_method_does_not_say_stays_empty():
    [line] = tally([row("a", False, confident=None, covered=0, intervals=0)])
    cells = {name: cell(line) for name, cell in COLUMNS}
    assert [cells[name] for name in ("covered", "sure", "wrong")] == ["–"] * 3


def test_the_command_runs_writes_and_resumes(folder, capsys):
    command = ["benchmark", "discovery", "--suite", "odebench_2,odebench_24", *FAST]
    assert run([*command, "--out", "first"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in (
        "odekit",
        "pysindy-default",
        "exact",
        "2/2",
        "covered",
        "CPU s",
        "2 systems, 1 seed",
    ):
        assert word in out
    names = {path.name for path in (folder / "first").iterdir()}
    assert names == {"results.jsonl", "results.json", "benchmark.png"}
    document = json.loads((folder / "first/results.json").read_text())
    assert document["complete"]
    assert document["settings"]["noise"] == [0.05, 0.0]
    assert [line["noise"] for line in document["table"]] == [0.0, 0.0, 0.05, 0.05]
    own = next(line for line in document["table"] if line["method"] == "odekit")
    assert (own["exact"], own["rec"], own["failures"]) == (2, 100, 0)
    assert {"odekit", "torch", "pysindy"} <= set(document["versions"])
    assert (folder / "first/benchmark.png").read_bytes().startswith(b"\x89PNG")

    assert run([*command, "--out", "second", "--json"]) == 0
    printed, _ = capsys.readouterr()
    assert without_seconds(json.loads(printed)) == without_seconds(document)

    rows = (folder / "first/results.jsonl").read_text().splitlines(keepends=True)
    (folder / "first/results.jsonl").write_text("".join(rows[:-1]))
    assert run([*command, "--out", "first", "--resume", "--quiet"]) == 0
    resumed = json.loads((folder / "first/results.json").read_text())
    assert resumed["rows"][:-1] == document["rows"][:-1]
    assert without_seconds(resumed) == without_seconds(document)
    assert "Written" not in capsys.readouterr().out


def test_two_trajectories(folder, capsys):
    command = ["benchmark", "discovery", "--suite", "odebench_24", "--trajectories", "2", "--json"]
    options = ["--noise", "0", "--methods", "pysindy-default,pysindy-weak", "--drop", "0.2"]
    assert run([*command, *options]) == 0
    document = json.loads(capsys.readouterr().out)
    default, weak = document["rows"]
    assert default["rows"] == [120, 120]
    assert default["gen"] is not None
    assert "one grid of times" in weak["failure"]
    assert (folder / "odekit-benchmark-discovery/results.json").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--suite", "lorentz"], 1, "did you mean 'lorenz'?"),
        (["--suite", ","], 2, "--suite takes names"),
        (["--methods", "pysindi"], 1, "unknown method 'pysindi'"),
        (["--noise", "-0.1"], 2, "--noise takes levels"),
        (["--noise", "much"], 2, "--noise takes finite numbers"),
        (["--seeds", "0.5"], 2, "--seeds takes whole numbers"),
        (["--trajectories", "3"], 2, "trajectories"),
    ],
)
def test_wrong_arguments(options, code, message, folder, capsys):
    assert run(["benchmark", "discovery", *options]) == code
    out, err = capsys.readouterr()
    assert (out, message in err, err.count("\n")) == ("", True, 1)
    assert not list(folder.iterdir())


def test_the_group_says_what_it_holds(capsys):
    for arguments in (["benchmark"], ["benchmark", "--help"]):
        assert run(arguments) == 0
        out, err = capsys.readouterr()
        assert "discovery" in out
        assert err == ""
