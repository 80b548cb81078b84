"""``compare_gradients`` and ``odekit gradients``: the figures are those of the problem."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import time

import pandas as pd
import pytest
import torch
from torch import nn

import odekit
from odekit.cli.frame import run
from odekit.gradient_advice import give_advice, in_bytes
from odekit.live_bytes import LiveBytes
from odekit.resident import heap_bytes, resident_growth

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
    methods = {"crawls": {"gradient": "unrolled", "step_size": 1e-7, "max_steps": 10**9}}
    table = table_of(methods=methods, time_limit=1.0)
    assert table["error"].isna().all()
    assert table["note"].str.contains("given up after 1 s").all()
    assert "no method could serve: given up" in table.attrs["advice"]


def test_a_reference_that_gets_nowhere_is_given_up():
    rate = torch.tensor(1e7, dtype=DOUBLE, requires_grad=True)
    start = time.perf_counter()
    with pytest.raises(odekit.ProblemError, match=r"reference, by dopri8 .* given up after 0\.6 s"):
        odekit.compare_gradients(
            lambda t, y: -rate * (y - torch.cos(t)), torch.ones(1, dtype=DOUBLE), [0.0, 3.0],
            methods=["unrolled"], time_limit=0.2,
        )  # fmt: skip
    assert time.perf_counter() - start < 5


def test_a_reference_in_double_precision_is_given_up_too():
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(-1e7)
    with pytest.raises(odekit.ProblemError, match="given up after"):
        odekit.compare_gradients(
            lambda t, y: net(y), torch.ones(1), [0.0, 3.0], methods=["unrolled"], time_limit=0.1
        )
    assert net.weight.dtype == torch.float32


def test_the_advice_is_about_what_the_process_really_holds():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    y0 = torch.ones(4, dtype=DOUBLE)

    def grow(gradient, steps):
        start = y0.clone().requires_grad_()
        solution = odekit.solve(
            lambda t, y: net(y), start, [0.0, 1.0], solver="rk4", step_size=1 / steps,
            gradient=gradient,
        )  # fmt: skip
        solution.y[-1].sum().backward()

    steps = 20
    table = odekit.compare_gradients(
        lambda t, y: net(y), y0, [0.0, 1.0], solver="rk4", step_size=1 / steps,
        methods=["unrolled", "discrete"], rounds=1,
    )  # fmt: skip
    for name, held in zip(table["method"], table["held_bytes"], strict=True):
        longer = functools.partial(grow, name, 100 * steps)
        grown = resident_growth(longer, functools.partial(grow, name, 10))
        assert grown / 2 < 100 * held < 2 * grown, name
    assert table["held_bytes"][0] > 20 * table["saved_bytes"][0]


def test_the_heap_is_what_is_in_use():
    before = heap_bytes()
    kept = [torch.zeros(1000, dtype=DOUBLE) for _ in range(100)]
    held = heap_bytes() - before
    assert 800_000 < held < 1_000_000
    kept.clear()
    assert abs(heap_bytes() - before) < 50_000


def row_of(method, seconds, held, saved, error=1e-9, note=""):
    row = {"method": method, "seconds": seconds, "held_bytes": held, "saved_bytes": saved}
    return {**row, "peak_bytes": 2 * saved, "error": error, "note": note}


def test_the_advice_looks_ahead_with_all_that_is_held():
    fast, lean = row_of("fast", 1.0, 10**6, 10**4), row_of("lean", 2.0, 2 * 10**5, 100)
    other = row_of("other", 3.0, 9 * 10**5, 10)
    said = give_advice([fast, lean, other], 0.0)
    assert "about 100 MB in all, take lean, which would keep no more than about 20 MB" in said
    assert "1 s, 1.0 MB held for the backward pass" in said
    # Where the heap cannot be seen tensors are what is known, and the sentence admits it.
    blind = [{**row, "held_bytes": None} for row in (fast, lean, other)]
    said = give_advice(blind, 0.0)
    assert "20 kB in tensors at a time" in said
    assert "in tensors alone, nodes of the graph not counted, take lean" in said
    # Few tensors are no gain where nodes weigh as much.
    assert "take" not in give_advice([fast, other], 0.0)


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
        ({"time_limit": 0.0}, "time_limit must be positive"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"methods": {"mine": {"solvr": "rk4"}}}, "'mine' has an option 'solvr': did you mean"),
        ({"methods": {"mine": {"gradiant": "adjoint"}}}, "did you mean 'gradient'"),
        ({"methods": {"mine": {"gradient": "adjoint", "step_size": -1}}}, "'mine': step_size"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(odekit.ProblemError, match=message):
        table_of(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "tsit6"}, "did you mean 'tsit5'"),
        ({"reference": "dopri9"}, "did you mean 'dopri8'"),
        ({"methods": {"mine": {"gradient": "adjoint", "solver": "rk5"}}}, "'mine': unknown solver"),
    ],
)
def test_names_are_looked_up_before_anything_is_solved(options, message):
    stages = []
    with pytest.raises(odekit.UnknownNameError, match=message):
        table_of(**options, report=lambda stage, fraction: stages.append(stage))
    assert stages == []


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_switched_off_gradients_are_named(mode):
    with mode(), pytest.raises(odekit.ProblemError, match=mode.__name__):
        table_of()


@pytest.mark.parametrize("y0", [[1.0, 2.0], torch.tensor([1, 2])])
def test_a_start_that_cannot_be_solved_is_refused_as_solve_does(y0):
    with pytest.raises(odekit.ProblemError) as refused:
        odekit.solve(lambda t, y: -y, y0, [0.0, 1.0])
    with pytest.raises(odekit.ProblemError) as found:
        odekit.compare_gradients(lambda t, y: -y, y0, [0.0, 1.0])
    assert str(found.value) == str(refused.value)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda y: y.sum() * float("nan"), "loss is nan"),
        (lambda y: torch.tensor(3.0), "does not depend on y"),
        (lambda y: (y > 0).sum(), "does not depend on y"),
        (lambda y: torch.ones(2, requires_grad=True).sum(), "does not depend on y"),
        (lambda y: (y - y.detach()).abs().sqrt().sum(), "gradient of the loss is not finite"),
    ],
)
def test_a_loss_without_a_gradient_is_refused(loss, message):
    y0 = torch.ones(2, dtype=DOUBLE)
    with pytest.raises(odekit.ProblemError, match=message):
        odekit.compare_gradients(lambda t, y: -y, y0, [0.0, 1.0], loss, methods=["unrolled"])


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


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--solver", "tsit6"], "did you mean 'tsit5'", 1),
        (["--reference", "dopri9"], "did you mean 'dopri8'", 1),
        (["--step-size", "0"], "must be positive", 2),
        (["--time-limit", "0"], "must be positive", 2),
    ],
)
def test_options_that_cannot_work_are_refused_before_the_solve(
    folder, capsys, arguments, message, code
):
    assert run(["gradients", "lorenz", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count(message) == 1
    assert os.listdir(".") == []


def test_a_command_without_any_gradient_fails_and_leaves_no_old_picture(folder, capsys):
    arguments = ["gradients", "lorenz", "--t", "0,0.2", "--rounds", "1", "--out", "there"]
    assert run([*arguments, "--methods", "unrolled"]) == 0
    assert "error_against_memory.png" in os.listdir("there")
    (folder / "there" / "mine.png").write_text("kept")
    capsys.readouterr()
    assert run([*arguments, "--methods", "reversible"]) == 1
    out, err = capsys.readouterr()
    assert "REVERSIBLE" in out
    assert err.startswith("error: no method could serve: gradient Reversible needs")
    assert sorted(os.listdir("there")) == ["gradients.csv", "gradients.json", "mine.png"]


def test_a_script_prints_aside_and_imports_what_lies_beside_it(folder, capsys, monkeypatch):
    (folder / "below").mkdir()
    (folder / "below" / "beside_the_script.py").write_text("RATE = 2.0\n")
    (folder / "below" / "mine.py").write_text(
        "import torch, beside_the_script\n"
        "print('hello')\n"
        "y0, t = torch.ones(1, dtype=torch.float64), [0.0, 1.0]\n"
        "def field(t, y):\n"
        "    print('asked')\n"
        "    return -beside_the_script.RATE * y\n"
    )
    monkeypatch.delitem(sys.modules, "beside_the_script", raising=False)
    path = list(sys.path)
    arguments = ["gradients", "below/mine.py", "--json", "--rounds", "1", "--methods", "unrolled"]
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["methods"][0]["error"] < 1e-4
    assert err.startswith("hello\n")
    assert "asked" in err
    assert sys.path == path


def test_the_command_names_its_options_where_the_reference_is_given_up(folder, capsys):
    (folder / "mine.py").write_text(SCRIPT.replace("-rate * y", "-1e7 * rate * (y - torch.cos(t))"))
    assert run(["gradients", "mine.py", "--time-limit", "0.1"]) == 1
    err = capsys.readouterr().err
    assert "the reference, by dopri8" in err
    assert "--reference, an implicit one" in err
    assert "--time-limit" in err


def drawn(monkeypatch, folder, methods, size, error):
    """What a picture shows: dots as place, colour and shape, and the texts of its labels."""
    from odekit.report import memory

    figures = []
    plain = memory.draw

    def spy(path, width, height, fill):
        plain(path, width, height, lambda figure: (figures.append(figure), fill(figure)))

    monkeypatch.setattr(memory, "draw", spy)
    memory.draw_memory(
        folder / "x.png", methods, size, error, 1e-13, title="all of them", measure="bytes"
    )
    [axes] = figures[0].axes
    dots = [x for x in axes.lines if x.get_marker() not in ("None", None, "")]
    return axes, dots, {text.get_text() for text in axes.texts}


def test_every_dot_of_the_picture_can_be_told_from_the_others(monkeypatch, folder):
    methods = [f"method_{i}" for i in range(9)]
    size = [10.0**i for i in range(9)]
    axes, dots, texts = drawn(monkeypatch, folder, methods, size, [10.0**-i for i in range(9)])
    assert len({(dot.get_color(), dot.get_marker()) for dot in dots}) == 9
    assert texts == set(methods)
    assert axes.get_title(loc="left") == "all of them"


def test_dots_on_one_place_share_a_label_and_are_all_seen(monkeypatch, folder):
    _, dots, texts = drawn(
        monkeypatch, folder, ["a", "b", "c"], [1e4, 1e4, 1e7], [1e-8, 1.0000001e-8, 1e-3]
    )
    assert texts == {"a, b", "c"}
    widths = [dot.get_markersize() for dot in dots]
    assert widths[0] > 1.5 * widths[1]
    assert widths[0] == widths[2]


def test_a_missing_script(folder, capsys):
    assert run(["gradients", "none.py"]) == 1
    assert "no file" in capsys.readouterr().err
