"""``compare_gradients`` and ``odekit gradients``: the figures are those of the problem."""

from __future__ import annotations

import json
import math
import os

import pandas as pd
import pytest
import torch
from torch import nn

import odekit
from odekit.cli.frame import run
from odekit.gradient_comparison import in_bytes
from odekit.live_bytes import LiveBytes

DOUBLE = torch.float64
COLUMNS = ["method", "error", "peak_bytes", "evaluations", "seconds"]


def decay(rate):
    return lambda t, y: -rate * y


def table_of(**options):
    rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    y0 = torch.tensor([2.0], dtype=DOUBLE)
    given = {"rounds": 1, "methods": ["unrolled", "adjoint"], **options}
    return odekit.compare_gradients(decay(rate), y0, [0.0, 1.0], lambda y: y[-1].sum(), **given)


def test_error_against_a_closed_form():
    # One Euler step: y = 2 (1 - a), so dL/dy0 = 1 - a and dL/da = -2; the truth is e^-a of both.
    table = table_of(methods=["unrolled"], solver="euler", step_size=1.0)
    wanted = [math.exp(-0.7), -2 * math.exp(-0.7)]
    error = math.hypot(0.3 - wanted[0], -2 - wanted[1]) / math.hypot(*wanted)
    assert table["error"][0] == pytest.approx(error, rel=1e-9)
    assert table["evaluations"][0] == 2  # the slope at the end serves dense output
    assert table["evaluations_back"][0] == 0


def test_columns_and_attributes():
    table = table_of()
    assert table.columns.tolist()[:5] == COLUMNS
    assert table["method"].tolist() == ["unrolled", "adjoint"]
    assert (table["error"] < 1e-4).all()
    assert table["evaluations_back"][1] > 0
    assert (table["peak_bytes"] >= table["saved_bytes"]).all()
    assert table["saved_bytes"][1] < table["saved_bytes"][0]
    assert (table["seconds"] > 0).all()
    assert table.attrs["uncertainty"] < 1e-9
    assert "dopri8 in float64" in table.attrs["reference"]
    assert table.attrs["advice"].startswith(("unrolled", "adjoint"))


def test_every_installed_method_has_a_row():
    table = table_of(methods=None)
    names = {e.name for e in odekit.components("gradient") if not e.load().at_rest}
    assert set(table["method"]) == names
    refused = table[table["method"] == "reversible"].iloc[0]
    assert "REVERSIBLE" in refused["note"]
    assert pd.isna(refused["peak_bytes"])
    worked = table[table["error"].notna()]
    assert len(worked) >= len(names) - 1
    assert (worked["error"] < 1e-4).all()


def test_a_method_with_a_solver_of_its_own():
    stepper = odekit.create("solver", "reversible", solver="tsit5")
    methods = {"back": {"gradient": "reversible", "solver": stepper}, "plain": "unrolled"}
    table = table_of(methods=methods, step_size=0.01)
    assert table["method"].tolist() == ["back", "plain"]
    assert (table["error"] < 1e-6).all()
    assert table["saved_bytes"][0] < table["saved_bytes"][1]


def test_single_precision_is_compared_with_double_and_left_as_it_was():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    before = [p.detach().clone() for p in net.parameters()]
    table = odekit.compare_gradients(
        lambda t, y: net(y), torch.randn(4, 3), [0.0, 1.0], methods=["unrolled"], rounds=1
    )
    assert "float64" in table.attrs["reference"]
    assert table.attrs["uncertainty"] < 1e-9
    assert 1e-8 < table["error"][0] < 1e-5
    for p, kept in zip(net.parameters(), before, strict=True):
        assert p.dtype == torch.float32
        assert torch.equal(p, kept)
        assert p.grad is None


def test_modules_pytrees_args_and_samples():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(2, dtype=DOUBLE) * 0.3)

        def forward(self, t, y, args):
            return {"a": y["a"] @ self.weight, "b": -args[0] * y["b"]}

    args = (torch.tensor(0.5, dtype=DOUBLE, requires_grad=True),)
    y0 = {"a": torch.ones(3, 2, dtype=DOUBLE), "b": torch.ones(3, 1, dtype=DOUBLE)}
    table = odekit.compare_gradients(
        Pair(), y0, [0.0, 1.0], lambda y: y["a"].sum() + y["b"].square().sum(),
        args=args, per_sample=True, methods=["unrolled", "checkpointed"], rounds=1,
    )  # fmt: skip
    assert (table["error"] < 1e-5).all()
    assert (table["evaluations"] > 5).all()


def test_a_method_that_gets_nowhere_is_given_up():
    table = table_of(time_limit=0.0)
    assert table["error"].isna().all()
    assert table["note"].str.contains("given up").all()
    assert "no method" in table.attrs["advice"]


def test_methods_for_few_numbers_are_left_out_where_there_are_many():
    y0 = torch.ones(100, dtype=DOUBLE)
    table = odekit.compare_gradients(lambda t, y: -y, y0, [0.0, 0.1], rounds=1)
    row = table[table["method"] == "forward"].iloc[0]
    assert pd.isna(row["evaluations"])
    assert "100 numbers" in row["note"]


def test_auto_says_what_it_took():
    table = table_of(methods=["auto"])
    assert table["note"][0] == "took unrolled"


def test_the_resident_set_of_a_process_of_its_own():
    y0 = torch.ones(200_000, dtype=DOUBLE)
    table = odekit.compare_gradients(
        lambda t, y: torch.tanh(y), y0, [0.0, 1.0], solver="rk4", step_size=0.05,
        methods=["unrolled", "checkpointed"], rounds=1, processes=True,
    )  # fmt: skip
    # Allocators keep more than they were asked for, but not many times as much.
    much, little = table["process_bytes"]
    assert table["peak_bytes"][0] / 2 < much < 4 * table["peak_bytes"][0]
    assert little < 0.75 * much


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds"),
        ({"methods": []}, "empty"),
        ({"methods": ["unrolled", "unrolled"]}, "more than once"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(odekit.ProblemError, match=message):
        table_of(**options)


def test_a_loss_that_is_no_number_is_refused():
    y0 = torch.ones(2, dtype=DOUBLE)
    with pytest.raises(odekit.ProblemError, match="one real number"):
        odekit.compare_gradients(lambda t, y: -y, y0, [0.0, 1.0], lambda y: y)
    with pytest.raises(odekit.UnknownNameError, match="unrolled"):
        odekit.compare_gradients(lambda t, y: -y, y0, [0.0, 1.0], methods=["unroled"])


def test_live_bytes_see_views_frees_and_backward_passes():
    x = torch.ones(1000, dtype=DOUBLE, requires_grad=True)
    with LiveBytes() as memory:
        y = x.view(10, 100)
        assert memory.alive == 0
        z = (y * 2).exp()
        assert memory.alive == 8000  # the product is freed
        assert memory.peak == 16000
        (grad,) = torch.autograd.grad(z.sum(), x)
    del z, y, grad
    assert memory.alive == 0


def test_bytes_for_people():
    assert in_bytes(12) == "12 B"
    assert in_bytes(12_345) == "12 kB"
    assert in_bytes(1.5e9) == "1.5 GB"


# the command

SCRIPT = """
import torch
rate = torch.rand(3, dtype=torch.float64, requires_grad=True)
y0, t = torch.ones(3, dtype=torch.float64), [0.0, 1.0]
def field(t, y):
    return -rate * y
def loss(y):
    return y[-1].sum()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_named_system(folder, capsys):
    assert run(["gradients", "lorenz", "--t", "0,0.5", "--methods", "unrolled,discrete"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Advice: " in out
    written = sorted(os.listdir("odekit-gradients-lorenz"))
    assert written == ["error_against_memory.png", "gradients.csv", "gradients.json"]
    table = pd.read_csv("odekit-gradients-lorenz/gradients.csv")
    assert table["method"].tolist() == ["unrolled", "discrete"]


def test_a_script(folder, capsys):
    (folder / "mine.py").write_text(SCRIPT)
    state = torch.random.get_rng_state()
    arguments = ["gradients", "mine.py", "--rounds", "1", "--json", "--out", "there"]
    assert run([*arguments, "--methods", "unrolled,adjoint", "--seed", "3"]) == 0
    assert torch.equal(state, torch.random.get_rng_state())
    found = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in found["methods"]] == ["unrolled", "adjoint"]
    assert all(row["error"] < 1e-4 for row in found["methods"])
    assert found["files"][0] == os.path.join("there", "error_against_memory.png")
    with open("there/gradients.json", encoding="utf-8") as file:
        assert json.load(file)["advice"] == found["advice"]


@pytest.mark.parametrize(
    ("text", "arguments", "message", "code"),
    [
        ("y0 = 1", [], "does not define field and t", 1),
        ("1 / 0", [], "ZeroDivisionError", 1),
        (SCRIPT, ["--t", "0,1"], "named systems", 2),
        (SCRIPT, ["--methods", "unroled"], "did you mean 'unrolled'", 1),
    ],
)
def test_refused_scripts_leave_nothing_behind(folder, capsys, text, arguments, message, code):
    (folder / "mine.py").write_text(text)
    assert run(["gradients", "mine.py", *arguments]) == code
    assert message in capsys.readouterr().err
    assert os.listdir(".") == ["mine.py"]


def test_a_missing_script(folder, capsys):
    assert run(["gradients", "none.py"]) == 1
    assert "no file" in capsys.readouterr().err
