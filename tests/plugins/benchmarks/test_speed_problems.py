"""The problems of the speed benchmark against torchdiffeq, closed forms and each other."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import odekit
from odekit import ProblemError
from odekit_benchmarks import speed_floors, speed_memory, speed_odekit, speed_peers
from odekit_benchmarks.speed_floors import floors
from odekit_benchmarks.speed_problems import (
    Case,
    chaos,
    named,
    oscillators,
    training,
)
from odekit_benchmarks.speed_tables import errors

CPU = torch.device("cpu")


def only(methods, name):
    [found] = [method for method in methods if method.name == name]
    return found.read(found.call())


def decay(**changes):
    """``y' = -y`` from 1 and 2, whose solution is known."""

    def slope(t, y):
        return -y

    options = {
        "name": "decay",
        "title": "decay",
        "field": slope,
        "exact_field": slope,
        "right": lambda xp, t, y, args: -y,
        "args": (),
        "y0": torch.tensor([[1.0], [2.0]], dtype=torch.float64),
        "t": torch.linspace(0, 1, 5, dtype=torch.float64),
        "tolerance": 1e-6,
        "max_steps": 1000,
    }
    return Case(**{**options, **changes})


@pytest.mark.parametrize(
    ("case", "distance"),
    [
        (oscillators(CPU, per_sample=False), 5e-2),
        (oscillators(CPU, per_sample=True), 5e-2),
        (replace(chaos(CPU, 10.0), judged=None), 1e-4),
        (named(CPU), 1e-3),
        (named(CPU, "henon_heiles"), 1e-3),
    ],
    ids=["P1", "P1-per-sample", "P4", "named", "henon_heiles"],
)
def test_the_forward_problems_are_those_that_torchdiffeq_solves(case, distance):
    mine = only(speed_odekit.rows(case, compiled=False), "odekit dopri5")
    peer = only(speed_peers.rows(case, "torchdiffeq", compiled=False), "torchdiffeq")
    rows = case.t if case.judged is None else case.judged
    assert mine.value.shape == peer.value.shape == (len(rows), *case.y0.shape)
    assert mine.value.dtype == peer.value.dtype == case.y0.dtype
    assert float((mine.value - peer.value).abs().max()) < distance
    assert not torch.equal(mine.value[-1], case.y0)
    assert peer.evaluations == 6 * (peer.accepted + peer.rejected) + 2


@pytest.mark.parametrize("large", [False, True], ids=["P2", "P3"])
def test_the_training_problems_have_the_gradient_of_torchdiffeq(large):
    case = training(CPU, large=large)
    mine = only(speed_odekit.rows(case, compiled=False), "odekit dopri5")
    peer = only(speed_peers.rows(case, "torchdiffeq", compiled=False), "torchdiffeq")
    assert mine.value.shape == (sum(p.numel() for p in case.parameters),)
    assert float((mine.value - peer.value).norm() / peer.value.norm()) < 1e-3
    assert peer.evaluations == 6 * (peer.accepted + peer.rejected) + 2


@pytest.mark.parametrize("factor", [1.1, 1.25, 1.4])
def test_at_a_larger_tolerance_work_is_that_of_torchdiffeq_and_states_are_nearer(factor):
    case = training(CPU, large=False)
    peer = only(speed_peers.rows(case, "torchdiffeq", compiled=False), "torchdiffeq")
    states = replace(case, target=None)
    truth = states.reference()
    theirs = only(speed_peers.rows(states, "torchdiffeq", compiled=False), "torchdiffeq").value
    looser = replace(states, tolerance=factor * case.tolerance)
    mine = only(speed_odekit.rows(looser, compiled=False), "odekit dopri5")
    assert mine.evaluations == peer.evaluations
    assert errors(states, mine.value, truth)["error"] < errors(states, theirs, truth)["error"]
    row = only(speed_odekit.rows(case, compiled=False), "odekit dopri5, tolerance*5/4")
    assert row.evaluations == peer.evaluations


def test_every_lean_gradient_is_that_of_the_small_network():
    case = training(CPU, large=False)
    truth = case.reference()
    assert truth.dtype == torch.float64
    methods = speed_odekit.rows(case, compiled=False)
    methods += speed_peers.rows(case, "torchdiffeq", compiled=False)
    assert {m.name.split()[-1] for m in methods} >= {"discrete", "interpolated", "adjoint"}
    for method in methods:
        found = errors(case, method.read(method.call()).value, truth)["error"]
        assert 0 < found < 2e-3, method.name


def test_the_error_of_states_is_the_one_against_the_closed_form():
    case = decay()
    closed = case.y0 * torch.exp(-case.t)[:, None, None]
    assert torch.allclose(case.reference(), closed, rtol=0, atol=1e-9)
    off = closed.clone()
    off[2, 1] += 3e-3
    found = errors(case, off, case.reference())
    assert found["error"] == pytest.approx(3e-3, abs=1e-9)
    assert found["error_rms"] == pytest.approx(3e-3 / math.sqrt(10), abs=1e-9)
    value = only(speed_odekit.rows(case, compiled=False), "odekit dopri5").value
    exact = float((value - closed).abs().max())
    assert errors(case, value, case.reference())["error"] == pytest.approx(exact, abs=1e-9)


def test_the_error_of_a_gradient_is_the_one_against_the_closed_form():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

        def forward(self, t, y):
            return self.rate * y

    field = Scaled()
    case = decay(field=field, exact_field=field, target=torch.zeros(5, 2, 1, dtype=torch.float64))
    # The loss is the mean of y0^2 exp(2 a t); its derivative by a brings down 2 t.
    closed = (2.5 * 2 * case.t * torch.exp(-2 * case.t)).mean()
    truth = case.reference()
    assert float(truth) == pytest.approx(float(closed), rel=1e-9)
    assert errors(case, truth * 1.01, truth)["error"] == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize(
    "case",
    [oscillators(CPU, per_sample=False), chaos(CPU), named(CPU), training(CPU, large=False)],
    ids=["P1", "P4", "named", "P2"],
)
def test_the_field_without_torch_is_the_same_field(case):
    with torch.no_grad():
        wanted = case.field(case.t[0], case.y0).numpy()
    args = case.args if isinstance(case.args, list) else np.asarray(case.args)
    found = case.right(np, 0.0, case.y0.numpy(), args)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)
    if case.plain is not None:
        np.testing.assert_allclose(case.plain(0.0, case.y0.tolist()), wanted, rtol=1e-12)


def test_scipy_solves_the_same_problems():
    for case in (decay(), replace(chaos(CPU, 10.0), judged=None)):
        truth = case.reference()
        for method in speed_peers.rows(case, "scipy", compiled=False):
            reading = method.read(method.call())
            assert errors(case, reading.value, truth)["error"] < 1e-4
            assert reading.evaluations > 0
    assert speed_peers.rows(training(CPU, large=False), "scipy", compiled=False) == []


@pytest.mark.parametrize(
    ("peer", "package"), [("torchode", "torchode"), ("diffrax", "diffrax")], ids=str
)
def test_the_other_peers_solve_the_same_problems(peer, package):
    pytest.importorskip(package)
    for case, bound in (
        (decay(), 1e-4),
        (decay(per_sample=True), 1e-4),
        (chaos(CPU, 10.0), 1e-3),
        (named(CPU), 5e-3),
        (training(CPU, large=False), 2e-3),
    ):
        truth = case.reference()
        methods = speed_peers.rows(case, peer, compiled=False)
        assert methods
        for method in methods:
            reading = method.read(method.call())
            assert errors(case, reading.value, truth)["error"] < bound, (case.name, method.name)
            assert reading.evaluations > 0
            assert reading.accepted > 0


def test_compiled_rows_ask_for_a_compiled_solve_and_the_object_is_made_once(monkeypatch):
    solve, asked, made = odekit.solve, [], []

    def compiling(field, y0, t, *, compile=False, **options):
        asked.append(compile)
        solution = solve(field, y0, t, **options)
        stats = replace(solution.stats, tier="loop" if compile else "eager")
        return replace(solution, stats=stats)

    def compile(field, y0, t, **options):
        made.append(options)
        return lambda y0, t: compiling(field, y0, t, compile=True, **options)

    monkeypatch.setattr(odekit, "solve", compiling)
    monkeypatch.setattr(odekit, "compile", compile, raising=False)
    case = decay(per_sample=True, judged=torch.tensor([0.0, 0.5], dtype=torch.float64))
    methods = {m.name: m for m in speed_odekit.rows(case, compiled=True)}
    plain, fast = methods["odekit dopri5"], methods["odekit dopri5 compiled"]
    held = methods["odekit dopri5 compiled object"]
    assert (plain.compiled, fast.compiled, held.compiled) == (False, True, True)
    assert (plain.floor, fast.floor, held.floor) == ("eager", "compiled", "compiled")
    for method, flag in ((plain, False), (fast, True), (held, True)):
        asked.clear()
        method.call()
        reading = method.read(method.call())
        assert asked == [flag] * 3  # the last at the times that are judged
        assert reading.tier == ("loop" if flag else "eager")
        assert errors(case, reading.value, case.reference())["error"] < 1e-5
    [options] = made
    assert options["per_sample"] is True
    assert options["rtol"] == options["atol"] == case.tolerance
    case = training(CPU, large=False)
    asked.clear()
    for method in speed_odekit.rows(case, compiled=True):
        method.call()
        assert asked.pop() is ("compiled" in method.name)


def test_an_unknown_system_is_named():
    with pytest.raises(ProblemError, match="lorenz"):
        named(CPU, "lorentz")


@pytest.mark.parametrize("trains", [False, True])
def test_a_floor_tells_of_one_evaluation(trains, monkeypatch):
    case = training(CPU, large=False) if trains else decay()
    field = speed_peers.Counted(case.field)

    def clock():  # moves with the evaluations, a second each
        return float(field.calls)

    monkeypatch.setattr(speed_floors, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(speed_floors, "LASTING", 5.0)
    [floor] = floors(replace(case, field=field), compiled=False, jax=False)
    assert floor.call() == 1.0
    assert field.calls == 1 + 1 + 5


@pytest.mark.parametrize("trains", [False, True])
def test_a_compiled_floor_tells_what_one_more_evaluation_adds(trains, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    case = training(CPU, large=False) if trains else decay()
    field = speed_peers.Counted(case.field)
    entering = iter(range(0, 10**6, 40))  # forty seconds are lost at every look at the clock
    monkeypatch.setattr(
        speed_floors,
        "time",
        SimpleNamespace(perf_counter=lambda: float(field.calls + next(entering))),
    )
    _, floor = floors(replace(case, field=field), compiled=True, jax=False)
    assert floor.call() == 1.0


def test_memory_grows_with_the_steps_that_are_kept_and_exact_methods_are_exact():
    found = {c.name: c for c in speed_memory.contenders(["torchdiffeq"], compiled=False)}
    assert set(found) == {
        "odekit unrolled",
        "odekit discrete",
        "odekit checkpointed",
        "torchdiffeq",
        "torchdiffeq adjoint",
    }
    for name in ("odekit discrete", "odekit checkpointed"):
        assert speed_memory.inexactness(found[name], 20) < 1e-13
    assert speed_memory.inexactness(found["odekit unrolled"], 20) == 0
    assert 1e-13 < speed_memory.inexactness(found["torchdiffeq adjoint"], 20) < 1e-2


def test_the_resident_set_of_unrolled_steps_grows_and_long_cells_are_left_out():
    found = {c.name: c for c in speed_memory.contenders([], compiled=False)}
    peaks = speed_memory.peaks(found["odekit unrolled"], CPU, (10, 300), limit=60)
    assert set(peaks) == {"10", "300"}
    assert peaks["300"] > peaks["10"] + 5_000_000
    assert speed_memory.peaks(found["odekit unrolled"], CPU, (10,), limit=0.0) == {}


def test_all_ways_over_fixed_steps_find_the_gradient():
    truth = speed_memory.reference(CPU)
    problem = speed_memory.work(CPU)
    for contender in speed_memory.contenders(["torchdiffeq"], compiled=False):
        value = problem.gradient(contender.solve, 50).double()
        assert float((value - truth).norm() / truth.norm()) < 1e-3, contender.name
