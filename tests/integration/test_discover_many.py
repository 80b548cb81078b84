"""Many systems at once: one answer whoever computes it, and failures that stay alone."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

import odekit
from odekit.cli import batch as cli_batch
from odekit.cli import records
from odekit.cli.frame import run
from odekit.cli.records import folder_names
from odekit.many import pinned, run_each

QUICK = ("--library", "polynomial", "--degree", "2", "--noise", "additive")
GOOD = ("a", "b", "c", "d")


def logistic(rate, n=30, seed=0):
    """Noisy points of x' = rate x (1 - x / 2)."""
    random = np.random.default_rng(seed)
    t = np.sort(random.uniform(0, 8, n))
    return t, 2 / (1 + 3 * np.exp(-rate * t)) * (1 + 0.01 * random.standard_normal(n))


def series(rate, **options):
    return odekit.TimeSeries(*logistic(rate, **options), names=["x"])


def write(path, rate, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    series(rate, **options).write(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(GOOD):
        write(f"data/{name}.csv", 0.6 + 0.2 * i, seed=i)
    return tmp_path


FILES = [f"data/{name}.csv" for name in GOOD]


@pytest.fixture(scope="module")
def address():
    """A Dask cluster of two processes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cluster's own making
        from distributed import LocalCluster

        with LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster:
            yield cluster.scheduler_address


def equations(out, name):
    return (Path(out) / name / "equations.json").read_bytes()


def rows_of(out, *left_out):
    rows = json.loads((Path(out) / "summary.json").read_text("utf-8"))["rows"]
    return [{k: v for k, v in row.items() if k not in left_out} for row in rows]


def test_serial_parallel_and_dask_give_one_answer_and_a_bad_file_fails_alone(
    folder, address, capsys
):
    Path("data/bad.csv").write_text("t,x\n0,1\n1,2\n2,hello\n")
    Path("data/short.csv").write_text("t,x\n0,1\n1,2\n2,3\n")
    files = [FILES[0], "data/bad.csv", "data/short.csv", *FILES[1:]]
    ways = {"serial": ["--each"], "parallel": ["--jobs", "2"], "dask": ["--cluster", address]}
    for out, way in ways.items():
        assert run(["discover", *files, *way, *QUICK, "--out", out, "--quiet"]) == 1
        shown, err = capsys.readouterr()
        assert [line.split(":")[0] for line in shown.splitlines()] == list(GOOD)
        lines = err.splitlines()
        assert lines[-1].startswith("error: 2 of 6 files failed, data/bad.csv for one; --resume")
        assert [line for line in lines if "bad.csv" in line and "'hello' is not a number" in line]
        assert [line for line in lines if "short.csv" in line and "3 observed values" in line]
        assert len(lines) == 3
        assert not (Path(out) / "bad").exists()
        assert not (Path(out) / "short").exists()
    for name in GOOD:
        assert equations("serial", name) == equations("parallel", name) == equations("dask", name)
        assert {term.term for term in odekit.Equations.load(f"dask/{name}/equations.json").terms}
    kept = [rows_of(out, "seconds") for out in ways]
    assert kept[0] == kept[1] == kept[2]
    assert [row["status"] for row in kept[0]] == ["done", "failed", "failed", *["done"] * 3]
    table = list(csv.DictReader(Path("dask/summary.csv").read_text("utf-8").splitlines()))
    assert [row["file"] for row in table] == files
    assert float(table[0]["r2"]) == kept[0][0]["r2"] > 0.99
    page = Path("dask/index.html").read_text("utf-8")
    for row in kept[0]:
        assert (f'href="{row["name"]}/report.html"' in page) == (row["status"] == "done")
    assert "&#x27;hello&#x27; is not a number" in page
    alone = odekit.discover(
        odekit.TimeSeries.read(FILES[0]), library="polynomial", degree=2, noise="additive"
    )
    found = odekit.Equations.load("parallel/a/equations.json")
    assert [t.term for t in found.terms] == [t.term for t in alone.terms]
    np.testing.assert_allclose([t.value for t in found.terms], [t.value for t in alone.terms], 1e-9)


def test_dask_workers_keep_no_record_of_the_work(address):
    def work(depth):
        """Seconds of processor time in a stack of frames, as a search has them."""
        give_up = time.process_time() + 0.25
        while depth == 0 and time.process_time() < give_up:
            pass
        return work(depth - 1) if depth else os.getpid()

    def seen(dask_worker):
        """The functions that the worker's profiler remembers."""
        kept = [tree for _, tree in dask_worker.profile_history] + [dask_worker.profile_recent]
        names = set()
        while kept:
            node = kept.pop()
            names.add(node["description"]["name"])
            kept += node["children"].values()
        return names

    from distributed import Client

    found = dict(run_each(work, dict.fromkeys(range(6), 20), cluster=address))
    assert len(set(found.values()) - {os.getpid()}) == 2
    with Client(address, set_as_default=False) as client:
        for names in client.run(seen).values():
            assert "_attempt" in names
            assert "work" not in names


def test_the_table_tells_how_each_file_ended(folder, capsys):
    Path("data/short.csv").write_text("t,x\n0,1\n1,2\n2,3\n")
    assert run(["discover", FILES[0], "data/short.csv", "--each", *QUICK]) == 1
    out, err = capsys.readouterr()
    assert "2 files, each a system of its own" in out
    assert "failed: state 'x' has 3 observed values" in out
    assert "Written to odekit-discover: index.html, summary.csv, summary.json" in out
    assert err.count("\n") == 1
    command = json.loads(Path("odekit-discover/summary.json").read_text("utf-8"))["command"]
    assert command.startswith("odekit discover data/a.csv data/short.csv --library polynomial")
    assert "--each" in command
    report = Path("odekit-discover/a/report.html").read_text("utf-8")
    assert "odekit discover data/a.csv --library polynomial" in report


def test_several_files_are_one_system_unless_told(folder, capsys):
    assert run(["discover", FILES[0], "data/a.csv".replace("a.", "b."), *QUICK]) == 0
    out = capsys.readouterr().out
    assert "The 2 files were taken as trajectories of one system; with --each" in out
    assert not Path("odekit-discover").exists()


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without pictures, which take longer than the search."""

    def write_study(study, folder):
        study.equations.save(folder / "equations.json")
        (folder / "report.html").write_text(study.title)

    monkeypatch.setattr("odekit.report.write_study", write_study)


def worked_on(monkeypatch):
    """The names of the files that are really worked on."""
    names, work = [], cli_batch.investigate

    def investigate(order):
        names.append(order.row.name)
        return work(order)

    monkeypatch.setattr(cli_batch, "investigate", investigate)
    return names


def test_resume_skips_what_is_finished_and_valid(folder, capsys, monkeypatch, undrawn):
    worked = worked_on(monkeypatch)
    Path("data/d.csv").write_text("t,x\n0,1\n1,2\n")
    again = ["discover", *FILES, *QUICK, "--resume", "--json"]

    def reasons():
        return [row["redone"] for row in rows_of("odekit-discover")]

    assert run(again) == 1
    assert worked == list(GOOD)
    assert reasons() == [""] * 4
    first = {name: equations("odekit-discover", name) for name in "abc"}

    worked.clear()
    write("data/d.csv", 1.2, seed=3)
    assert run(again) == 0
    assert worked == ["d"]
    found = json.loads(capsys.readouterr().out.split("\n}\n")[1] + "}")
    assert [row["resumed"] for row in found["rows"]] == [True, True, True, False]
    assert {name: equations("odekit-discover", name) for name in "abc"} == first

    worked.clear()
    write("data/a.csv", 2.0)
    Path("odekit-discover/b/equations.json").write_text("{}")
    Path("odekit-discover/c/report.html").unlink()
    assert run(again) == 0
    assert worked == ["a", "b", "c"]
    assert reasons() == [
        "its data have changed", "equations.json has been changed", "report.html is gone", ""
    ]  # fmt: skip
    assert equations("odekit-discover", "a") != first["a"]
    assert equations("odekit-discover", "b") == first["b"]

    worked.clear()
    assert run(again) == 0
    assert worked == []
    assert reasons() == [""] * 4
    capsys.readouterr()
    assert run([*again[:-1], "--seed", "1", "--states", "x"]) == 0
    assert worked == list(GOOD)
    assert reasons() == ["other options: columns, seed"] * 4
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert notes == [
        "note: 4 files, data/a.csv for one, done again: other options: columns, seed"
    ]  # fmt: skip

    worked.clear()
    same = [*again[:-1], "--seed", "1", "--states", "x"]
    assert run(same) == 0
    assert worked == []
    monkeypatch.setattr(records, "code_digest", lambda: "another")
    assert run(same) == 0
    assert worked == list(GOOD)
    assert reasons() == ["the code of odekit or of a plugin has changed"] * 4

    write("data/a.csv", 2.0, n=5)
    assert run(again[:2] + again[6:]) == 1
    assert not Path("odekit-discover/a").exists()  # no report of data that are no more


def test_the_digest_of_the_code_is_that_of_every_source_file(tmp_path, monkeypatch):
    package = tmp_path / "odekit_probe"
    (package / "deep").mkdir(parents=True)
    for name in ("__init__.py", "plugin.py", "deep/method.py"):
        (package / name).write_text("x = 1\n")
    point = EntryPoint("probe", "odekit_probe.plugin", "odekit")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(records, "entry_points", lambda group: [point])
    digest = records.code_digest.__wrapped__
    first = digest()
    os.utime(package / "plugin.py", (0, 0))
    assert digest() == first
    (package / "deep/method.py").write_text("x = 2\n")
    second = digest()
    assert second != first
    monkeypatch.setattr(records, "version", lambda name: "99")
    assert digest() not in (first, second)


def in_group(number):
    """The processes of a group that are still alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == number and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_ctrl_c_keeps_what_is_finished_and_leaves_no_process(folder):
    files = []
    for i in range(40):
        files.append(f"data/s{i}.csv")
        write(files[-1], 0.5 + 0.02 * i, seed=i)
    command = [sys.executable, "-m", "odekit.cli", "discover", *files, *QUICK, "--quiet"]
    process = subprocess.Popen(
        [*command, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the signal reaches all of its processes, as Ctrl-C does
    )
    out = Path("odekit-discover")
    give_up = time.monotonic() + 100
    while not list(out.glob("*/record.json")) and time.monotonic() < give_up:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    shown, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    kept = {path.parent.name for path in out.glob("*/record.json")}
    assert 0 < len(kept) < len(files)
    assert err.splitlines()[-1] == (
        f"error: stopped with {len(kept)} of 40 files done; the same command with --resume does "
        "the rest"
    )
    assert {line.split(":")[0] for line in shown.splitlines()} == kept
    assert {row["status"] for row in rows_of(out)} == {"done", "not done"}
    give_up = time.monotonic() + 10
    while in_group(process.pid) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert not in_group(process.pid)
    for name in kept:
        assert set(os.listdir(out / name)) >= {"report.html", "equations.json", "residuals.png"}


def test_ctrl_c_in_one_process_resumes_where_it_stopped(folder, capsys, monkeypatch, undrawn):
    worked = worked_on(monkeypatch)
    counted = cli_batch.investigate

    def interrupted(order):
        delivery = counted(order)
        if len(worked) == 2:
            signal.raise_signal(signal.SIGINT)
        return delivery

    monkeypatch.setattr(cli_batch, "investigate", interrupted)
    assert run(["discover", *FILES, *QUICK, "--each", "--quiet"]) == 1
    assert "error: stopped with 1 of 4 files done" in capsys.readouterr().err
    monkeypatch.setattr(cli_batch, "investigate", counted)
    worked.clear()
    assert run(["discover", *FILES, *QUICK, "--resume", "--quiet"]) == 0
    assert worked == ["b", "c", "d"]


def test_a_search_cut_short_says_so(folder, capsys, undrawn):
    write("data/long.csv", 0.7, n=400)
    options = ["--each", "--time-limit", "0.1", "--noise", "additive", "--json"]
    assert run(["discover", "data/long.csv", *options]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["complete"] is False
    assert row["verdict"] == "not settled, time limit reached"


def test_a_missing_package_is_named_with_its_remedy(folder, capsys, monkeypatch):
    for package in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, package, None)
    assert run(["discover", FILES[0], "--cluster", "tcp://127.0.0.1:1"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "try: pip install 'odekit[cluster]'" in err
    with pytest.raises(odekit.MissingDependencyError, match="dask"):
        odekit.discover_many({"a": series(0.7)}, cluster="tcp://127.0.0.1:1")


WRONG = {
    "no processes": (["--jobs", "0"], "jobs must be a number of processes"),
    "both": (["--jobs", "2", "--cluster", "tcp://127.0.0.1:1"], "give one of them"),
    "twice": ([FILES[0], "--each"], "'data/a.csv' is given twice"),
    "no address": (["--cluster", "nowhere://x"], "no Dask scheduler answers at 'nowhere://x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_begin_gets_one_line_and_leaves_nothing(case, folder, capsys):
    options, message = WRONG[case]
    assert run(["discover", FILES[0], *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert os.listdir(".") == ["data"]


# The call in Python


def test_discover_many_returns_equations_and_exceptions_in_order():
    data = {
        "two": [series(0.8), series(0.8, seed=1)],
        "short": odekit.TimeSeries([0, 1], [1, 2]),
        3: series(0.7),
    }
    seen = []
    found = odekit.discover_many(
        data, degree=2, noise="additive", progress=lambda name, share: seen.append((name, share))
    )
    assert list(found) == ["two", "short", 3]
    assert isinstance(found["short"], odekit.DiscoveryError)
    assert len(found["two"].score) == 2
    assert str(found[3]) == str(odekit.discover(data[3], degree=2, noise="additive"))
    assert seen == [("two", 1 / 3), ("short", 2 / 3), ("3", 1.0)]


def test_progress_may_end_the_work():
    data = {name: series(0.7) for name in GOOD}
    found = odekit.discover_many(data, degree=1, progress=lambda name, share: name == "b")
    assert list(found) == ["a", "b"]
    assert odekit.discover_many({}) == {}


def test_names_must_lead_to_series():
    with pytest.raises(odekit.IncompatibleError, match="must map names to series, got list"):
        odekit.discover_many([series(0.7)])


class Deadly:
    """Data that end the process that unpacks them."""

    def __reduce__(self):
        return os._exit, (3,)


def test_data_that_kill_a_process_fail_alone():
    data = {"a": series(0.7), "deadly": Deadly(), "b": series(0.9), "c": series(1.1)}
    found = odekit.discover_many(data, jobs=2, degree=2, noise="additive")
    assert list(found) == list(data)
    assert isinstance(found["deadly"], odekit.DiscoveryError)
    assert "the process at work on it ended without an answer" in str(found["deadly"])
    for name in "abc":
        assert isinstance(found[name], odekit.Equations)


def test_a_backend_that_is_active_in_joblib_is_used():
    def where(item):
        return threading.get_ident()

    assert dict(run_each(where, {"a": 1})) == {"a": threading.get_ident()}
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert threading.get_ident() not in dict(run_each(where, {"a": 1, "b": 2})).values()


def test_exceptions_that_cannot_travel_leave_their_words():
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    def fail(item):
        raise Odd("this", "that")

    outcome = dict(run_each(fail, {"a": 1}))["a"]
    assert str(outcome) == "Odd: this and that"


def test_libraries_loaded_later_are_pinned_and_freed():
    program = """
from odekit.many import pinned
import json, os, torch
from threadpoolctl import threadpool_info

def threads():
    return {library["filepath"]: library["num_threads"] for library in threadpool_info()}

before = threads()
with pinned():
    import scipy.linalg
    inside, alone = threads(), torch.get_num_threads()
print(json.dumps([before, inside, threads(), alone, os.environ.get("MKL_NUM_THREADS")]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    environment.pop("MKL_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    before, inside, after, alone, variable = json.loads(done.stdout)
    if max(before.values()) == 1:
        pytest.skip("one core")
    assert set(inside) > set(before)
    assert set(inside.values()) == {1}
    assert alone == 1
    assert variable is None
    assert {name: after[name] for name in before} == before
    assert all(after[name] > 1 for name in set(inside) - set(before))


def test_pinned_gives_back_what_it_took():
    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    with pinned():
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == before


def test_equal_stems_get_folders_of_their_own():
    paths = ["p/a.csv", "q/a.csv", "r/p/a.csv", "b.csv", "b.txt", "c.csv", "index.html.csv"]
    names = folder_names([Path(path) for path in paths], ["index.html"])
    assert len({name.casefold() for name in names}) == len(paths)
    assert names[3:] == ["b.csv", "b.txt", "c", "index.html-2"]
    assert names[1] == "q-a"
    assert all(math.isfinite(len(name)) and "/" not in name for name in names)
    with pytest.raises(odekit.ProblemError, match="given twice"):
        folder_names([Path("a.csv"), Path("./a.csv")], [])


def test_the_example_of_the_guide_runs(capsys):
    text = Path(__file__).parents[2].joinpath("docs/how_to/many_files.md").read_text("utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(code, "many_files.md", "exec"), {})
    assert "x' = " in capsys.readouterr().out
