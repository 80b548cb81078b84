"""``odekit benchmark speed`` from outside: table, JSON, pictures, and what it refuses."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from odekit.cli.frame import run
from odekit_benchmarks import speed_growth, speed_memory, speed_odekit, speed_peers
from odekit_benchmarks.speed_picture import draw_speed
from odekit_benchmarks.speed_problems import SYSTEM
from odekit_benchmarks.speed_runs import PROBLEMS
from odekit_benchmarks.speed_tables import number
from odekit_benchmarks.speed_timing import Method

PNG = b"\x89PNG"
FAST = ("--no-compiled", "--rounds", "3", "--limit", "1", "--peers", "torchdiffeq,scipy",
        "--system", "logistic")  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def speed(*options):
    return run(["benchmark", "speed", *options])


def test_the_json_has_what_the_table_has(folder, capsys):
    assert speed("--problems", "named", *FAST, "--out", "o") == 0
    text = capsys.readouterr().out
    document = json.loads((folder / "o" / "speed.json").read_text())
    [problem] = document["problems"]
    methods = {line["method"]: line for line in problem["lines"]}
    assert {"odekit dopri5", "odekit tsit5", "torchdiffeq", "floor eager"} <= set(methods)
    assert {"scipy RK45 (float64)", "scipy DOP853 (float64)"} <= set(methods)
    for name, line in methods.items():
        [row] = [found for found in text.splitlines() if found.strip().startswith(f"{name}  ")]
        assert number(line["median"], 1e3) in row
        assert number(line["faster_than"]["torchdiffeq"]) in row
        assert f"{line['evaluations']:,}" in row
        if line["package"] != "floor":
            assert f"{line['error']:.1e}" in row
            assert 0 < line["error"] < 1e-2
            assert len(line["seconds"]) == 3
    mine = methods["odekit dopri5"]
    assert f"{mine['accepted']}+{mine['rejected']}" in text
    floor = methods["floor eager"]["evaluation"] * mine["evaluations"]
    assert mine["floor_ratio"] == pytest.approx(mine["median"] / floor)
    assert methods["torchdiffeq"]["faster_than"]["torchdiffeq"] == 1.0
    assert document["machine"]["threads"] == 1
    assert {"processor", "versions", "date", "core"} <= set(document["machine"])
    assert document["machine"]["versions"]["torch"] == torch.__version__
    assert document["complete"] is True
    assert "Written to o: speed.json, speed.png" in text
    assert (folder / "o" / "speed.png").read_bytes().startswith(PNG)


def test_json_alone_on_the_standard_output(folder, capsys):
    options = ("--problems", "NAMED", *FAST, "--peers", "", "--json")
    assert speed(*options) == 0
    document = json.loads(capsys.readouterr().out)
    [problem] = document["problems"]
    assert problem["title"].startswith("logistic from 64 starts")
    assert {line["package"] for line in problem["lines"]} == {"odekit", "floor"}
    assert document == json.loads((folder / "odekit-benchmark-speed" / "speed.json").read_text())


def test_quiet_prints_no_files(folder, capsys):
    assert speed("--problems", "named", *FAST, "--quiet") == 0
    out = capsys.readouterr().out
    assert "torchdiffeq" in out
    assert "Written" not in out


def test_a_method_that_fails_is_a_note_and_the_rest_goes_on(folder, capsys, monkeypatch):
    rows = speed_odekit.rows

    def more(case, *, compiled):
        def fail():
            raise TypeError("solve() got an unexpected keyword argument 'compile'")

        return [*rows(case, compiled=compiled), Method("odekit broken", "odekit", fail, fail)]

    monkeypatch.setattr(speed_odekit, "rows", more)
    assert speed("--problems", "named", *FAST) == 0
    out = capsys.readouterr().out
    note = "odekit broken: TypeError: solve() got an unexpected keyword argument 'compile'"
    assert f"note: {note}" in out
    document = json.loads((folder / "odekit-benchmark-speed" / "speed.json").read_text())
    assert document["problems"][0]["notes"] == [note]
    assert "odekit dopri5" in {line["method"] for line in document["problems"][0]["lines"]}


def test_a_peer_that_is_not_installed_is_left_out_with_a_line(folder, capsys, monkeypatch):
    find = importlib.util.find_spec
    missing = ("torchode", "jax")
    monkeypatch.setattr(
        speed_peers, "find_spec", lambda name: None if name in missing else find(name)
    )
    monkeypatch.setitem(speed_peers.NEEDS, "diffrax", ("torch", "jax"))
    options = ("--problems", "named", *FAST, "--peers", "torchdiffeq,torchode,diffrax")
    assert speed(*options) == 0
    out = capsys.readouterr().out
    assert "note: torchode is left out: torchode is not installed" in out
    assert "note: diffrax is left out: jax is not installed" in out
    document = json.loads((folder / "odekit-benchmark-speed" / "speed.json").read_text())
    assert document["settings"]["peers"] == ["torchdiffeq"]
    packages = {line["package"] for line in document["problems"][0]["lines"]}
    assert packages == {"odekit", "torchdiffeq", "floor"}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--problems", "P9"), 2, "--problems: no 'P9'; there are P1, P1-per-sample, P2"),
        (("--problems", ","), 2, "--problems takes names"),
        (("--peers", "juliadiffeq"), 2, "--peers: no 'juliadiffeq'; there are torchdiffeq"),
        (("--device", "tpu!"), 2, "--device takes cpu or cuda; got 'tpu!'"),
        (("--device", "mps"), 2, "--device takes cpu or cuda"),
        (("--rounds", "0"), 2, "--rounds"),
        (("--problems", "named", "--system", "lorentz"), 1, "did you mean 'lorenz'"),
    ],
)
def test_wrong_arguments_get_one_line_and_leave_no_files(folder, capsys, options, code, words):
    assert speed(*options) == code
    streams = capsys.readouterr()
    assert words in streams.err
    assert len(streams.err.strip().splitlines()) == 1
    assert streams.out == ""
    assert list(folder.iterdir()) == []


def test_memory_has_a_table_of_its_own(folder, capsys, monkeypatch):
    monkeypatch.setattr(speed_memory, "TIMED", 20)
    monkeypatch.setattr(speed_memory, "EXACT", 10)
    monkeypatch.setattr(speed_memory, "STEPS", (10, 40))
    assert speed("--problems", "P5", *FAST, "--limit", "20") == 0
    out = capsys.readouterr().out
    document = json.loads((folder / "odekit-benchmark-speed" / "speed.json").read_text())
    lines = {line["method"]: line for line in document["problems"][0]["lines"]}
    assert {"odekit unrolled", "odekit checkpointed", "torchdiffeq adjoint"} <= set(lines)
    for name, line in lines.items():
        [row] = [found for found in out.splitlines() if found.strip().startswith(f"{name}  ")]
        assert set(line["memory"]) == {"10", "40"}
        assert number(line["memory"]["40"], 1e-6) in row
        assert f"{line['inexact']:.1e}" in row
    assert lines["odekit checkpointed"]["inexact"] < 1e-13
    assert lines["torchdiffeq adjoint"]["faster_than"]["torchdiffeq adjoint"] == 1.0


def test_growth_writes_panels_and_a_picture(folder, capsys, monkeypatch):
    few = {"batch": (1, 8), "dimension": (4, 8), "steps": (10, 40)}
    monkeypatch.setitem(speed_growth.study.__kwdefaults__, "growing", few)
    assert speed("--growth", "--no-compiled", "--limit", "5", "--peers", "torchdiffeq") == 0
    out = capsys.readouterr().out
    target = folder / "odekit-benchmark-speed"
    document = json.loads((target / "growth.json").read_text())
    assert [panel["what"] for panel in document["panels"]] == list(few)
    for panel in document["panels"]:
        what = panel["what"]
        assert [(p[what], p["tier"]) for p in panel["points"]] == [
            (value, tier) for value in few[what] for tier in ("odekit eager", "torchdiffeq")
        ]
        for point in panel["points"]:
            assert point["step"] == pytest.approx(point["solve"] / point["attempts"])
            assert number(point["step"], 1e6) in out
    counts = [p["attempts"] for p in document["panels"][2]["points"] if p["tier"] != "torchdiffeq"]
    assert counts[1] > 2 * counts[0]
    assert "The compiled tier was not measured." in out
    assert (target / "growth.png").read_bytes().startswith(PNG)


def test_a_tier_that_fails_is_a_note_of_the_study():
    def broken(y0, t):
        raise AttributeError("module 'odekit' has no attribute 'compile'")

    notes: list[str] = []
    cell = speed_growth.Cell(1, 4, 0.1)
    assert speed_growth._point("t", broken, cell, torch.device("cpu"), 1.0, notes) is None
    assert speed_growth._point("t", broken, cell, torch.device("cpu"), 1.0, notes) is None
    assert notes == ["t: AttributeError: module 'odekit' has no attribute 'compile'"]


def test_a_compiled_tier_that_runs_eagerly_is_no_point_of_the_study():
    cell, device = speed_growth.Cell(1, 4, 0.1), torch.device("cpu")
    for tier, ran, kept in (
        (speed_growth.COMPILED, "eager", False),
        (speed_growth.COMPILED, "native", True),
        (speed_growth.EAGER, "eager", True),
    ):
        point = speed_growth._point(
            tier, lambda y0, t, ran=ran: lambda t: (3, ran), cell, device, 0.01, []
        )
        assert (point is not None) is kept


def test_a_picture_needs_someone_to_compare_with(tmp_path):
    line = {"method": "m", "package": "odekit", "faster_than": {}}
    assert not draw_speed(tmp_path / "speed.png", [{"name": "P1", "lines": [line]}])
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_problem_and_peer(capsys):
    assert speed("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in PROBLEMS:
        assert name in text
    assert ",".join(speed_peers.PEERS) in text
    assert f"{SYSTEM} by default" in text
