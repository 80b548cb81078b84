"""The command line from outside: what it prints, writes, refuses, and how it ends."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest

import odekit
from odekit.cli.frame import run
from odekit.cli.options import as_options
from odekit.testing import CheckResult

WRITTEN = {
    "data_and_model.png",
    "equations.json",
    "equations.tex",
    "phase_portrait.png",
    "report.html",
    "residuals.png",
}
QUICK = ("--library", "polynomial", "--degree", "1", "--noise", "additive")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def decay(n=25, name="x"):
    """Rows of x' = -x / 2, to four digits."""
    return [f"t,{name}", *[f"{0.2 * i:.1f},{5 * math.exp(-0.1 * i):.4f}" for i in range(n)]]


def write(name, lines):
    with open(name, "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def left():
    return sorted(os.listdir("."))


def cli(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "odekit.cli", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **options,
    )


# discover


def test_discover_prints_and_writes_everything(folder, capsys):
    write("tea.csv", decay(name="heat"))
    assert run(["discover", "tea.csv", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "heat' = -0.5" in out
    for word in (
        "std. error",
        "95 % interval",
        "R²",
        "rms / σ",
        "Noise model: additive",
        "Verdict",
    ):
        assert word in out
    assert set(os.listdir("odekit-tea")) == WRITTEN
    assert "Written to odekit-tea" in out
    loaded = odekit.Equations.load("odekit-tea/equations.json")
    assert loaded.terms[0].value == pytest.approx(-0.5, abs=1e-3)
    assert "odekit discover tea.csv" in (folder / "odekit-tea/report.html").read_text("utf-8")


def test_discover_prints_one_json_document(folder, capsys):
    write("tea.csv", [*decay(), "0.0,5.0"])
    assert run(["discover", "tea.csv", "--json", "--out", "deep/er", *QUICK]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["coefficients"][0]["value"] == pytest.approx(-0.5, abs=1e-3)
    assert found["coefficients"][0]["low"] < found["coefficients"][0]["high"]
    assert found["r2"]["tea"]["x"] > 0.999
    assert set(found["files"]) == {f"deep/er/{name}" for name in WRITTEN}
    assert all(os.path.exists(name) for name in found["files"])
    lines = err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("warning: ") for line in lines)
    assert len(found["notes"]) == 2


def test_discover_quietly_prints_the_equations_alone(folder, capsys):
    write("a.csv", decay())
    write("b.csv", decay(30))
    assert run(["discover", "a.csv", "b.csv", "--quiet", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"x' = -0\.5\d* x\n", out)
    assert err == ""
    assert set(os.listdir("odekit-a")) == WRITTEN


def test_discover_reads_the_columns_it_is_told(folder, capsys):
    t = np.linspace(0, 6, 61)
    rows = zip(np.sin(t), t, np.cos(t), np.full(61, 3.0), strict=True)
    write("d.csv", ["x,when,force,junk", *[",".join(f"{v:.6f}" for v in row) for row in rows]])
    options = ["--time", "when", "--states", "x", "--inputs", "force", "--json", *QUICK]
    assert run(["discover", "d.csv", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["term"] for c in found["coefficients"]] == ["force"]
    assert found["coefficients"][0]["value"] == pytest.approx(1.0, abs=1e-2)
    assert "--inputs force" in found["command"]


def test_discover_again_replaces_its_own_files_only(folder, capsys):
    write("a.csv", decay())
    os.mkdir("odekit-a")
    write("odekit-a/mine.txt", ["keep"])
    write("odekit-a/report.html", ["old"])
    assert run(["discover", "a.csv", "--quiet", *QUICK]) == 0
    assert set(os.listdir("odekit-a")) == WRITTEN | {"mine.txt"}
    assert (folder / "odekit-a/report.html").read_text("utf-8").strip() != "old"


def test_missing_cells_are_missing_values(folder, capsys):
    rows = decay()
    rows[4], rows[9] = "0.6,", "1.6,NaN"
    write("a.csv", rows)
    assert run(["discover", "a.csv", "--json", *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["diagnostics"]["values"] == 23
    assert found["coefficients"][0]["value"] == pytest.approx(-0.5, abs=1e-3)


BAD = {
    "missing file": (None, [], 1, "there is no file 'bad.csv'"),
    "empty file": ([], [], 1, "bad.csv is empty"),
    "one row": (["t,x", "0,1"], [], 1, "one row"),
    "no header": (["0,1", "1,2", "2,3"], [], 1, "has no header"),
    "text": (["t,x", "0,1", "1,hello", "2,3"], [], 1, "'hello' is not a number"),
    "constant": (["t,x", *[f"{i},3" for i in range(20)]], [], 1, "'x' is constant"),
    "three points": (decay(3), [], 1, "3 observed values"),
    "unknown state": (decay(name="hare"), ["--states", "hair"], 1, "did you mean 'hare'?"),
    "unknown time": (decay(), ["--time", "tt"], 1, "did you mean 't'?"),
    "unknown library": (decay(), ["--library", "polynomal"], 1, "did you mean 'polynomial'?"),
    "unknown noise": (decay(), ["--noise", "pink"], 2, "--noise"),
    "degree": (decay(), ["--degree", "9"], 2, "--degree"),
    "degree in words": (decay(), ["--degree", "two"], 2, "--degree"),
    "unknown option": (decay(), ["--frobnicate"], 2, "--frobnicate"),
    "folder": (decay(), ["--out", "bad.csv"], 1, "--out: "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(case, folder, capsys):
    lines, options, code, message = BAD[case]
    if lines is not None:
        write("bad.csv", lines)
    before = left()
    assert run(["discover", "bad.csv", *options]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
    assert left() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [rows[0], *rows[:0:-1]], "warning: times were not in order"),
        (lambda rows: [*rows, rows[-1]], "warning: 1 time appears more than once"),
    ],
)
def test_disorder_is_mended_with_a_warning(change, message, folder, capsys):
    write("a.csv", change(decay()))
    assert run(["discover", "a.csv", "--quiet", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("x' = -0.5")
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_nothing_is_half_written(folder, capsys, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("odekit.report.files.draw_residuals", fail)
    write("a.csv", decay())
    assert run(["discover", "a.csv", "--quiet", *QUICK]) == 1
    assert "No space left" in capsys.readouterr().err
    assert left() == ["a.csv"]


def test_messages_speak_of_options():
    assert as_options("path: no such file") == "FILE: no such file"
    assert as_options("leave it out with names=") == "leave it out with --states"
    assert as_options("states: none; raise time_limit") == "--states: none; raise --time-limit"
    assert as_options("the states are x, y") == "the states are x, y"


def pressing_ctrl_c(monkeypatch, *calls):
    """Make the keyboard interrupt the search at these calls of its progress."""
    search, count = odekit.discover, itertools.count(1)

    def discover(series, progress, **options):
        def pressed(stage, fraction):
            if next(count) in calls:
                signal.raise_signal(signal.SIGINT)
            return progress(stage, fraction)

        return search(series, progress=pressed, **options)

    monkeypatch.setattr(odekit, "discover", discover)


def test_ctrl_c_ends_a_search_with_what_it_has(folder, capsys, monkeypatch):
    pressing_ctrl_c(monkeypatch, 3)
    before = signal.getsignal(signal.SIGINT)
    write("a.csv", decay())
    assert run(["discover", "a.csv", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "stopping with what there is; Ctrl-C again leaves at once\n"
    found = json.loads(out)
    assert found["coefficients"]
    assert not found["confident"]
    assert "Note: the search was stopped before it was complete." in found["notes"]
    assert set(os.listdir("odekit-a")) == WRITTEN
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_twice_leaves_at_once(folder, capsys, monkeypatch):
    pressing_ctrl_c(monkeypatch, 1, 2)
    write("a.csv", decay())
    assert run(["discover", "a.csv"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "error: stopped before there was anything to show"
    assert left() == ["a.csv"]


# solve


def test_solve_formulas(folder, capsys):
    formulas = ["x' = y", "y' = -k*x"]
    arguments = ["--y0", "1,0", "--t", "0,3,31", "--param", "k=4", "--json", "--out", "o"]
    assert run(["solve", *formulas, *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "success"
    np.testing.assert_allclose(found["y"]["x"], np.cos(2 * np.array(found["t"])), atol=1e-6)
    table = odekit.TimeSeries.read("o/solution.csv")
    assert table.y[:, 0].tolist() == found["y"]["x"]
    assert sorted(os.listdir("o")) == ["phase_portrait.png", "solution.csv", "time_series.png"]


def test_solve_a_named_system(folder, capsys):
    assert run(["solve", "logistic", "--points", "11", "--solver", "dopri5"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "x' = " in out
    assert "dopri5: " in out
    rows = odekit.TimeSeries.read("odekit-solve-logistic/solution.csv")
    truth = odekit.create("system", "logistic").truth(rows.t)
    np.testing.assert_allclose(rows.y, truth, rtol=1e-6)


def test_solve_backwards_and_quietly(folder, capsys):
    assert run(["solve", "x' = t*x", "--y0", "-1", "--t", "1,0,5", "--quiet"]) == 0
    assert capsys.readouterr().out == "x' = t*x\n"
    rows = (folder / "odekit-solve/solution.csv").read_text().splitlines()
    assert rows[0] == "t,x"
    assert float(rows[-1].split(",")[1]) == pytest.approx(-math.exp(-0.5), rel=1e-6)


WRONG = {
    "unknown system": (["lorentz"], 1, "did you mean 'lorenz'?"),
    "unknown solver": (["logistic", "--solver", "tsitt5"], 1, "did you mean 'tsit5'?"),
    "unknown parameter": (["logistic", "--param", "grow=1"], 1, "its options are: rate, capacity"),
    "start missing": (["x' = -x", "--t", "0,1"], 2, "--y0 is missing"),
    "span missing": (["x' = -x", "--y0", "1"], 2, "--t is missing"),
    "start too long": (["x' = -x", "--y0", "1,2", "--t", "0,1"], 2, "--y0 needs 1 numbers, for x"),
    "start in words": (["x' = -x", "--y0", "one", "--t", "0,1"], 2, "--y0 takes finite numbers"),
    "start not finite": (["x' = -x", "--y0", "nan", "--t", "0,1"], 2, "takes finite numbers"),
    "no span": (["x' = -x", "--y0", "1", "--t", "1,1"], 2, "both 1"),
    "no value": (["x' = -k*x", "--y0", "1", "--t", "0,1"], 1, "--param k=1"),
    "no such name": (["x' = -x", "--y0", "1", "--t", "0,1", "--param", "k=1"], 1, "--param k"),
    "no number": (["x' = -x", "--y0", "1", "--t", "0,1", "--param", "k"], 2, "name=number"),
    "no formula": (["x = -x", "--y0", "1", "--t", "0,1"], 1, "no equation"),
    "attack": (["x' = __import__('os')", "--y0", "1", "--t", "0,1"], 1, "__import__"),
    "blow-up": (["x' = x^2", "--y0", "1", "--t", "0,2"], 1, "step too small at t = 1"),
    "too many steps": (["lorenz", "--max-steps", "5"], 1, "--max-steps"),
    "tolerance": (["logistic", "--rtol", "-1"], 2, "--rtol"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_solves_get_one_line_and_leave_nothing(case, folder, capsys):
    arguments, code, message = WRONG[case]
    assert run(["solve", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
    assert left() == []


# plugins, check, the frame


def test_plugins_lists_every_component(capsys):
    assert run(["plugins", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["broken"] == []
    listed = {(c["kind"], c["name"]) for c in found["components"]}
    assert listed == {(e.kind.value, e.name) for e in odekit.components()}
    assert ("solver", "tsit5") in listed
    assert all(c["summary"] and c["plugin"] for c in found["components"])
    assert {c["distribution"] for c in found["components"]} >= {f"odekit {version('odekit')}"}


def test_plugins_of_one_kind_as_a_table(capsys):
    assert run(["plugins", "--kind", "controller"]) == 0
    out = capsys.readouterr().out
    for word in ("kind", "name", "plugin", "distribution", "summary", "pid"):
        assert word in out
    assert "tsit5" not in out


def install(folder, name, source):
    """A distribution in a folder of its own, as a package index would leave it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[odekit]\n{name} = {name}_plugin\n")
    (folder / f"{name}_plugin.py").write_text(source)
    return {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}


def test_a_broken_plugin_is_listed_and_harms_nobody(tmp_path):
    env = install(tmp_path, "faulty", "raise RuntimeError('out of order')\n")
    shown = cli("plugins", env=env)
    assert shown.returncode == 0
    assert "tsit5" in shown.stdout
    assert "broken: faulty: RuntimeError: out of order" in shown.stdout
    assert shown.stderr == ""
    solved = cli("solve", "logistic", "--quiet", "--out", str(tmp_path / "o"), env=env)
    assert solved.returncode == 0
    assert solved.stderr.startswith("warning: plugin 'faulty'")
    assert solved.stderr.count("\n") == 1


COMMANDS = """
from odekit.plugin import hookimpl

@hookimpl
def odekit_commands(app):
    @app.command()
    def hello(name: str) -> None:
        print(f"hello {name}")

    @app.command()
    def solve() -> None:
        print("not this one")

    @app.command()
    def fail() -> None:
        raise KeyError("inside")
"""


def test_plugins_add_commands_and_cannot_take_names(tmp_path):
    env = install(tmp_path, "more", COMMANDS)
    greeted = cli("hello", "you", env=env)
    assert greeted.stdout == "hello you\n"
    assert "a command 'solve', a name that is taken" in greeted.stderr
    failed = cli("fail", env=env)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == "error: KeyError: 'inside'; --debug shows where"
    assert "Traceback" not in failed.stderr


def test_check_prints_the_table(capsys):
    assert run(["check", "fixed", "--kind", "controller"]) == 0
    out = capsys.readouterr().out
    assert "controller control:fixed" in out
    assert re.search(r"all \d+ passed", out)


def test_check_fails_with_a_failing_check(capsys, monkeypatch):
    results = [CheckResult("good", True, "1.0", "fine"), CheckResult("bad", False, "", "broken")]
    monkeypatch.setattr("odekit.testing.check_component", lambda kind, name: results)
    assert run(["check", "tsit5"]) == 1
    out = capsys.readouterr().out
    assert "1 passed, 1 failed" in out
    assert run(["check", "tsit5", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[1]["detail"] == "broken"


def test_check_of_an_unknown_name(capsys):
    assert run(["check", "tsit55"]) == 1
    assert "did you mean 'tsit5'?" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"odekit {version('odekit')}\n"
    assert run([]) == 0
    shown = capsys.readouterr().out
    for command in ("discover", "solve", "plugins", "check"):
        assert command in shown
        assert run([command, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: odekit {command}")


def test_wrong_commands_end_with_2(capsys):
    assert run(["diskover"]) == 2
    assert run(["discover"]) == 2
    assert run(["plugins", "--kind", "solvers"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)


def test_debug_lets_the_traceback_through(folder):
    with pytest.raises(odekit.ProblemError, match="no file"):
        run(["discover", "missing.csv", "--debug"])


def test_the_process_ends_with_the_code(folder):
    ended = cli("discover", "missing.csv")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr


def test_quick_commands_import_nothing_heavy():
    code = (
        "import sys; from odekit.cli.frame import run; run(['plugins', '--json']); "
        "heavy = {'pandas', 'matplotlib', 'sympy', 'scipy', 'pysindy'} & set(sys.modules); "
        "print(heavy, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr == "set()\n"


def test_check_of_a_plugin_checks_all_it_brings(capsys, monkeypatch):
    monkeypatch.setattr(
        "odekit.testing.check_component", lambda kind, name: [CheckResult("any", True, "", name)]
    )
    assert run(["check", "control", "--json"]) == 0
    checked = {result["name"] for result in json.loads(capsys.readouterr().out)}
    assert checked == {e.name for e in odekit.components() if e.plugin == "control"}
    assert "pid" in checked
