"""The page on gradients is true: its code runs, and its numbers are those of odekit and of theory.

Numbers are read from the page, so that it cannot drift apart from what is computed. They are
compared twice: with what the page's own code prints, and with closed forms that need no solver.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import odekit

PAGE = (Path(__file__).parents[2] / "docs/explanation/gradients.md").read_text(encoding="utf-8")
PROSE = " ".join(re.sub(r"^```.*?^```", "", PAGE, flags=re.S | re.M).split())
F64 = torch.float64
TOKEN = re.compile(r"~?[-+]?\d+\.?\d*(?:e[-+]\d+)?|[^\s\d]+")
ROUNDING = 1e-12
"""Relative errors below this are rounding, whose size is nobody's promise."""


@dataclass
class Block:
    """A piece of Python, and what the page shows below it."""

    code: str
    shown: str = ""


def find_blocks() -> list[Block]:
    blocks: list[Block] = []
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M):
        if language == "python":
            blocks.append(Block(body))
        elif language == "text":
            assert not blocks[-1].shown
            blocks[-1].shown = body
    return blocks


def last_digit(number: str) -> float:
    """The worth of the last digit of a number in writing."""
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def agree(shown: str, found: str) -> bool:
    """Whether two words are the same by the rules that the page gives its reader."""
    if shown == found:
        return True
    if shown.startswith("~") and found.startswith("~"):
        a, b = float(shown[1:]), float(found[1:])
        return abs(a - b) <= 0.1 * max(abs(a), abs(b))
    if re.fullmatch(r"\de[-+]\d+", shown) and re.fullmatch(r"\de[-+]\d+", found):
        a, b = (max(float(x), ROUNDING) for x in (shown, found))
        return 0.1 <= a / b <= 10
    try:
        return abs(float(shown) - float(found)) <= 1.001 * last_digit(shown)
    except ValueError:
        return False


def differences(shown: str, found: str) -> list[str]:
    a, b = TOKEN.findall(shown), TOKEN.findall(found)
    if len(a) != len(b):
        return [f"shown:\n{shown}\nprinted:\n{found}"]
    return [f"shown {x}, printed {y}" for x, y in zip(a, b, strict=True) if not agree(x, y)]


def test_all_code_runs_and_prints_what_is_shown() -> None:
    namespace: dict[str, Any] = {}
    wrong = []
    for block in find_blocks():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), torch.random.fork_rng():
            exec(compile(block.code, "docs/explanation/gradients.md", "exec"), namespace)
        wrong += differences(block.shown, printed.getvalue())
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("shown", "found", "same"),
    [
        ("0.425926", "0.425927", True),
        ("0.425926", "0.425929", False),
        ("~4.0", "~4.3", True),
        ("~4.0", "~5.0", False),
        ("4e-06", "9e-07", True),
        ("4e-06", "4e-04", False),
        ("2e-16", "1e-13", True),
        ("2e-16", "1e-10", False),
        ("above", "4e-06", False),
    ],
)
def test_numbers_are_compared_as_the_page_says(shown: str, found: str, *, same: bool) -> None:
    assert agree(shown, found) is same
    assert bool(differences(shown, found)) is not same


def rows(first_word: str) -> dict[str, list[str]]:
    """Lines of the output that has this word in it, by their label."""
    [shown] = [b.shown for b in find_blocks() if first_word in b.shown]
    split = [
        re.match(r"\s*(.*?)\s*((?:[~\s]+[-+]?\d[-+.\de]*)+)\s*$", x) for x in shown.splitlines()
    ]
    return {line[1].strip(): line[2].split() for line in split if line}


def assert_is(shown: list[str], *wanted: float) -> None:
    """The digits are those of the exact values, properly rounded."""
    assert len(shown) == len(wanted)
    for digits, value in zip(shown, wanted, strict=True):
        assert abs(float(digits) - value) <= 0.501 * last_digit(digits), (digits, value)


def test_euler_shows_the_gap_between_the_two_orders() -> None:
    shown = rows("exp(2 theta)")
    computed = 1.07**19
    for label in ("unrolled", "discrete", "checkpointed", "finite difference", "(1 + theta/10)^19"):
        assert_is(shown[label], computed)
    # Euler on the way back: the state shrinks by (1 - h theta), the adjoint grows by its inverse.
    assert_is(shown["adjoint"], 1.07**20 * sum(0.1 * (1 - 0.07**2) ** k for k in range(10)))
    assert_is(shown["exp(2 theta)"], math.exp(1.4))


def test_growth() -> None:
    shown = rows("d/dtheta")
    gain = math.exp(2 * 0.7)
    assert len(shown) >= 6
    for values in shown.values():
        assert_is(values, gain, gain, -0.7 * gain, 0.7 * gain)


def test_rotation() -> None:
    shown = rows("d/domega")
    assert len(shown) >= 3
    for values in shown.values():
        assert_is(values, -2 * math.cos(3), 1 - math.sin(3), -math.cos(3))


def test_one_neuron() -> None:
    shown = rows("d/dweight")
    w, z = 0.8, 0.5
    end = math.asinh(math.exp(w) * math.sinh(w * z)) / w
    bend = math.exp(w) * (math.sinh(w * z) + z * math.cosh(w * z)) / math.cosh(w * end)
    assert len(shown) >= 3
    for values in shown.values():
        assert_is(values, end / w * (bend - end), end * math.tanh(w * end) / math.tanh(w * z))


def test_a_linear_constraint() -> None:
    shown = rows("linear system")
    assert_is(shown.pop("multiplier"), 1 / 9, 2 / 9)
    assert_is(shown.pop("minimum at"), 0.5)
    assert {"unrolled", "checkpointed", "interpolated", "linear system"} <= shown.keys()
    for values in shown.values():
        assert_is(values, 1 / 2 - 2 / 27)


def test_the_relaxation_cannot_be_run_backwards() -> None:
    p = torch.tensor(1.0, dtype=F64, requires_grad=True)
    b = torch.tensor([1.0, 0.0], dtype=F64)
    couple = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=F64)
    first = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=F64)
    x = odekit.solve(
        lambda t, x: b - (couple + p * first) @ x, 0 * b, [0.0, 30.0], gradient="adjoint"
    ).y[-1]
    assert "and odekit warns" in PROSE
    with pytest.warns(odekit.GradientWarning):
        torch.autograd.grad(x[1] ** 2 / 2 + p**2 / 4, p)


def test_the_heated_rod() -> None:
    shown = rows("adjoint rod")
    alpha, beta = 1 / 2 - 1, 5 / math.pi**2
    assert_is(shown.pop("J"), alpha**2 / 30 + 8 * alpha * beta / math.pi**3 + beta**2 / 2)
    middle = alpha / 6 * (1 / 2 - 2 / 8 + 1 / 16) + 2 * beta / math.pi**2
    assert_is(shown.pop("adjoint in the middle"), middle)
    by_p = (
        (alpha / 15 + 8 * beta / math.pi**3) / 2,
        (8 * alpha / math.pi**3 + beta) / math.pi**2,
    )
    assert {"adjoint rod", "finite differences"} <= shown.keys()
    assert len(shown) >= 5
    for values in shown.values():
        assert_is(values, *by_p)


def test_burgers_is_as_the_page_says() -> None:
    [shown] = [b.shown for b in find_blocks() if "until" in b.shown]
    ends = dict(re.findall(r"until (\S+)\n((?:  .*\n)+)", shown))
    tolerance = 1e-6
    for table in ends.values():
        right = re.findall(r"^  (\S.*?) +(\de-\d+) +(\de-\d+)$", table, re.M)
        assert len(right) >= 5
        for name, true, unrolled in right:
            assert float(true) < 100 * tolerance
            if is_exact(name):
                assert float(unrolled) < ROUNDING
    assert "adjoint                  above 1  above 1  GradientWarning" in ends["0.6"]
    assert "adjoint                  SolveError" in ends["1.0"]
    rate = 4 * 0.1 / (2 * math.pi / 64) ** 2
    assert f"= {rate:.1f}$" in PROSE
    for end in (0.6, 1.0):
        growth = re.compile(rf"until time {end:g} by \$e\^{{([\d.]+)}} \\approx 10\^{{(\d+)}}\$")
        [(exponent, power)] = growth.findall(PROSE)
        assert_is([exponent], rate * end)
        assert_is([power], rate * end / math.log(10))


def test_what_is_kept_grows_as_the_page_says() -> None:
    kept = {label: [float(x[1:]) for x in values] for label, values in rows("KB at").items()}
    growth = {label: values[3] / values[2] for label, values in kept.items()}
    for label in ("unrolled", "discrete", "interpolated"):
        assert growth[label] == pytest.approx(4, rel=0.1)
    assert growth["checkpointed"] == pytest.approx(2, rel=0.1)
    assert growth["with 4 checkpoints"] == pytest.approx(1, rel=0.01)
    assert growth["adjoint"] == pytest.approx(1, rel=0.01)
    for label in ("reversible", "with reversible_heun"):
        assert kept[label][3] - kept[label][2] == pytest.approx(8 * (512 - 128) / 1000, abs=1)


def test_numbers_in_the_text() -> None:
    reversible = re.findall(r"eleven states and (\w+) repetitions(?: reverse)? (\d+)", PROSE)
    assert reversible == [("three", str(math.comb(14, 3))), ("five", str(math.comb(16, 5)))]
    few, many = re.search(r"by ([\d.]+) in 1,000 steps .*?, by ([\d,]+) in 10,000", PROSE).groups()
    assert float(few) == pytest.approx(0.999**-1_000, rel=0.02)
    assert float(many.replace(",", "")) == pytest.approx(0.999**-10_000, rel=0.02)


def method_table() -> dict[str, list[str]]:
    """What the table of methods says, by method."""
    found = re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.M)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in found}


def is_exact(name: str) -> bool:
    return name in method_table() and method_table()[name][0] == "the steps: exact"


def test_the_table_has_all_methods() -> None:
    installed = {e.component.name for e in odekit.components("gradient")}
    assert method_table().keys() == installed


def test_the_table_says_what_rest_is_worth() -> None:
    differentiates, *_, twice = method_table()["steady_state"]
    assert (differentiates, twice) == ("the state of rest", "no")
    p = torch.tensor(8.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y = odekit.solve(lambda t, y: p - y**3, y0, [0.0, 10.0], gradient="steady_state").y[-1]
    by_p, by_y0 = torch.autograd.grad(y, (p, y0), retain_graph=True, allow_unused=True)
    assert float(by_p) == pytest.approx(1 / 12, rel=ROUNDING)  # of the cube root
    assert by_y0 is None or float(by_y0) == 0
    with pytest.raises(odekit.IncompatibleError, match="second derivatives"):
        torch.autograd.grad(y, p, create_graph=True)


@pytest.mark.parametrize("name", sorted(method_table().keys() - {"steady_state"}))
def test_the_table_says_what_is_exact_and_what_has_second_derivatives(name: str) -> None:
    solver: Any = "tsit5"
    if name == "reversible":
        solver = odekit.create("solver", "reversible", solver="tsit5")
    theta = torch.tensor(0.8, dtype=F64, requires_grad=True)
    start = torch.tensor([0.5, -1.2], dtype=F64)

    def slope(gradient: str, *, further: bool = False) -> torch.Tensor:
        y = odekit.solve(
            lambda t, y: torch.tanh(theta * y) - t * y.flip(0),
            start,
            [0.0, 0.7, 2.0],
            solver=solver,
            gradient=gradient,
            rtol=1e-3,
            atol=1e-3,
        ).y
        (found,) = torch.autograd.grad(y[1:].square().sum(), theta, create_graph=further)
        return found

    exact, *_, twice = method_table()[name]
    apart = float(abs(slope(name) / slope("unrolled") - 1))
    if exact == "the steps: exact":
        assert apart < ROUNDING
    else:
        assert exact == "the flow: up to tolerance"
        assert 1e-9 < apart < 100 * 1e-3
    if twice == "no":
        with pytest.raises(odekit.IncompatibleError, match="second derivatives"):
            slope(name, further=True)
        return
    assert twice == "yes"
    (bend,) = torch.autograd.grad(slope(name, further=True), theta)
    (want,) = torch.autograd.grad(slope("unrolled", further=True), theta)
    assert float(abs(bend / want - 1)) < 1e-10


def test_what_the_page_refers_to_exists() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^##+ (.*)$", PAGE, re.M)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", PROSE):
        assert anchor in anchors
    sources = set(re.findall(r"^(\d+)\. ", PAGE, re.M))
    cited = {n for group in re.findall(r"\[(\d+(?:, \d+)*)\]", PROSE) for n in group.split(", ")}
    assert cited == sources
    names = set(re.findall(r"\bodekit\.(\w+)", PAGE))
    assert {"solve", "create", "compare_gradients"} <= names
    assert all(hasattr(odekit, name) for name in names)
