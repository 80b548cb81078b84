"""``compile=True`` gives what the ordinary loop gives: states, counts and statuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import odekit
from odekit.errors import Status

DOUBLE = torch.float64
FIRST_ORDER = ("euler",)
NAMES = [component.name for component in odekit.components("solver")]


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    """Driven, for one or for many; the time is there in every term that needs it."""
    angle, speed = y[..., 0], y[..., 1]
    return torch.stack([speed, torch.cos(2 * t) - torch.sin(angle) - 0.1 * speed], -1)


def _starts(count: int = 5, dtype: torch.dtype = DOUBLE) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 2, dtype=DOUBLE, generator=generator).to(dtype)


def _problem(form: str, dtype: torch.dtype = DOUBLE) -> dict[str, object]:
    y0 = _starts(dtype=dtype)
    return {
        "y0": y0[0] if form == "single" else y0,
        "per_sample": form == "per sample",
        "t": torch.linspace(0, 1.5, 6, dtype=DOUBLE),
    }


def _loose(solver: str) -> dict[str, float]:
    return {"rtol": 1e-2, "atol": 1e-3} if solver in FIRST_ORDER else {"rtol": 1e-5, "atol": 1e-7}


@pytest.mark.parametrize("form", ["batch", "single", "per sample"])
@pytest.mark.parametrize("solver", NAMES)
def test_adaptive_steps(solver, form, compare) -> None:
    problem = _problem(form)
    if solver > "h":
        problem["t"] = problem["t"].flip(0)

    found = compare(pendulum, solver=solver, **problem, **_loose(solver))

    assert found.success


@pytest.mark.parametrize("solver", NAMES)
def test_fixed_steps(solver, compare) -> None:
    form = "per sample" if solver < "n" else "batch"

    compare(pendulum, solver=solver, step_size=0.13, **_problem(form))


@pytest.mark.parametrize(
    ("solver", "what"),
    [(name, {"dense": True}) for name in NAMES]
    + [(name, {"save": "steps"}) for name in ("tsit5", "rk4", "reversible")],
)
def test_dense_output_and_steps(solver, what, compare) -> None:
    form = "single" if solver < "n" else "batch"

    # The lengths of steps follow from differences of nearly equal numbers.
    compare(pendulum, solver=solver, rounding=1e-6, **what, **_problem(form), **_loose(solver))


def test_dense_output_and_steps_in_one(compare) -> None:
    problem = _problem("batch") | {"solver": "dopri8", "rounding": 1e-6}

    found = compare(pendulum, dense=True, save="steps", **problem)

    assert len(found.t) == int(found.stats.accepted) + 1


@pytest.mark.parametrize("form", ["batch", "single", "per sample"])
@pytest.mark.parametrize("solver", ["tsit5", "reversible"])
def test_single_precision(solver, form, compare) -> None:
    options = {"rtol": 1e-3, "atol": 1e-4}

    compare(pendulum, solver=solver, counts=False, **_problem(form, torch.float32), **options)


@pytest.mark.parametrize("form", ["batch", "per sample"])
@pytest.mark.parametrize("controller", ["integral", "pi", "pid"])
def test_controllers(controller, form, compare) -> None:
    control = odekit.create("controller", controller, max_step=0.3, first_step=0.9, safety=0.8)

    compare(pendulum, controller=control, **_problem(form))


@pytest.mark.parametrize("form", ["batch", "single", "per sample"])
def test_tolerances_of_the_controller_come_first(form, compare) -> None:
    control = odekit.create("controller", "pi", rtol=1e-3, atol=1e-5)

    found = compare(pendulum, controller=control, rtol=1e-10, atol=1e-12, **_problem(form))

    assert int(found.stats.attempts.max()) < 30


def test_tolerances_of_the_controller_per_entry(compare) -> None:
    numbers = torch.tensor([1e-3, 1e-9], dtype=DOUBLE)
    control = odekit.create("controller", "integral", rtol=numbers)

    compare(pendulum, controller=control, **_problem("single"))
    compare(pendulum, controller=control, **_problem("per sample"))
    column = torch.logspace(-9, -3, 5, dtype=DOUBLE)[:, None]
    control = odekit.create("controller", "integral", rtol=column.expand(5, 2).clone())
    compare(pendulum, controller=control, tier="eager", **_problem("batch"))


def test_a_shortest_step_is_taken_as_it_is(compare) -> None:
    control = odekit.create("controller", "integral", min_step=0.2)

    compare(pendulum, controller=control, rtol=1e-12, atol=1e-14, **_problem("batch"))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("what", [{}, {"dense": True}], ids=["times", "dense"])
def test_stops(what, backwards, compare) -> None:
    problem = _problem("batch")
    problem["t"] = problem["t"].flip(0) if backwards else problem["t"]
    control = odekit.create("controller", "pi", step_times=(0.31, 0.9), jump_times=(0.0, 0.7, 1.5))

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 0.7, -y, 3 - y) + pendulum(t, y)

    compare(field, controller=control, **what, **problem)


def test_stops_of_samples_run_otherwise(compare) -> None:
    control = odekit.create("controller", "integral", step_times=(0.31,))

    compare(pendulum, controller=control, tier="eager", **_problem("per sample"))


@pytest.mark.parametrize("what", [{"dense": True}, {"save": "steps"}], ids=["dense", "steps"])
def test_steps_of_samples_run_otherwise(what, code_folder, native_alone) -> None:
    with torch.no_grad():
        want = odekit.solve(pendulum, **what, **_problem("per sample"))
        found = odekit.solve(pendulum, compile=True, **what, **_problem("per sample"))

    assert found.stats.tier == "eager"
    assert torch.equal(found.y, want.y)


@pytest.mark.parametrize("form", ["batch", "single", "per sample"])
def test_tolerances_per_entry(form, compare) -> None:
    rtol = torch.tensor([1e-3, 1e-7], dtype=DOUBLE)

    compare(pendulum, rtol=rtol, atol=torch.tensor(1e-6), **_problem(form))


def test_tolerances_per_sample_of_a_batch(compare) -> None:
    rtol = torch.logspace(-9, -3, 5, dtype=DOUBLE)[:, None]

    compare(pendulum, rtol=rtol, atol=0.0, **_problem("batch"))


def test_tolerances_of_a_known_machine_may_change(compare) -> None:
    few = compare(pendulum, rtol=1e-3, atol=1e-5, **_problem("batch"))
    many = compare(pendulum, rtol=1e-9, atol=1e-11, **_problem("batch"))

    assert int(many.stats.attempts) > 2 * int(few.stats.attempts)


def test_an_absolute_tolerance_of_zero(compare) -> None:
    half = torch.tensor([1.0, 0.0], dtype=DOUBLE)

    compare(lambda t, y: -y * half, _starts() * half, [0.0, 1.0], atol=0.0, rtol=1e-6)


@pytest.mark.parametrize("form", ["batch", "single", "per sample"])
def test_two_times_and_one(form, compare) -> None:
    problem = _problem(form)

    compare(pendulum, **(problem | {"t": [0.0, 1.0]}))
    found = compare(pendulum, tier="eager", **(problem | {"t": [0.5]}))

    assert int(found.stats.evaluations.sum()) == 0


def test_times_of_their_own(compare) -> None:
    t = torch.rand(5, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).sort(1).values

    compare(pendulum, **(_problem("per sample") | {"t": 3 * t}))


def test_a_state_of_many_parts(compare) -> None:
    y0 = {"angle": _starts()[:, 0], "more": (_starts(), torch.ones(5, 1, 2, dtype=DOUBLE))}

    def field(t: Tensor, y: dict[str, object]) -> dict[str, object]:
        wide, tall = y["more"]
        first = torch.sin(y["angle"]) + wide.sum(-1)
        time = t.reshape(-1, 1) if t.dim() else t
        return {"angle": first, "more": (-wide * time, tall * -0.5)}

    t = torch.linspace(0, 1, 4, dtype=DOUBLE)

    compare(field, y0, t, per_sample=True)
    compare(field, y0, t, rtol={"angle": 1e-4, "more": (1e-5, 1e-6)})


def test_fields_that_lift_their_state(compare) -> None:
    field = odekit.create("field", "augmented", dim=2, extra=1, width=8, seed=1).double()

    found = compare(field, _starts(), torch.linspace(0, 1, 4, dtype=DOUBLE))

    assert found.y.shape == (4, 5, 2)


@pytest.mark.parametrize("form", ["batch", "per sample"])
def test_running_out_of_steps(form, compare) -> None:
    problem = _problem(form)

    found = compare(pendulum, max_steps=4, rtol=1e-9, **problem)
    compare(pendulum, max_steps=4, rtol=1e-9, **(problem | {"t": [0.0, 1.5]}))

    assert set(found.status.tolist()) == {int(Status.MAX_STEPS)}
    with torch.no_grad(), pytest.raises(odekit.errors.SolveError) as caught:
        odekit.solve(pendulum, compile=True, max_steps=4, rtol=1e-9, **problem)
    assert caught.value.solution.stats.tier == "native"


@pytest.mark.parametrize("form", ["batch", "per sample"])
def test_steps_that_get_too_short(form, compare) -> None:
    problem = _problem(form) | {"y0": torch.ones(3, 1, dtype=DOUBLE), "t": [0.0, 2.0]}

    found = compare(
        lambda t, y: y**2, rtol=1e-10, atol=1e-12, rounding=1e-3, counts=False, **problem
    )

    assert not found.success


@pytest.mark.parametrize("form", ["batch", "per sample"])
def test_what_blows_up_is_said_by_the_ordinary_loop(form, compare) -> None:
    problem = _problem(form) | {"t": torch.linspace(0, 4, 9, dtype=DOUBLE)}
    options = {"solver": "rk4", "step_size": 0.5, "tier": "eager"}

    found = compare(lambda t, y: torch.exp(3 * y), **problem, **options)

    assert int(Status.NON_FINITE) in found.status.tolist()


def test_lanes_that_fail_leave_the_others_alone(compare) -> None:
    y0 = torch.tensor([[1.0], [-1.0], [0.2]], dtype=DOUBLE)

    found = compare(
        lambda t, y: y**2, y0, torch.linspace(0, 2, 5, dtype=DOUBLE), per_sample=True, max_steps=40
    )

    assert found.status.tolist()[1:] == [0, 0]
    assert found.status[0] != 0


def test_numbers_change_from_call_to_call(code_folder) -> None:
    fast = None
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        y0 = torch.randn(7, 2, dtype=DOUBLE, generator=generator)
        t = torch.rand(4, dtype=DOUBLE, generator=generator).cumsum(0)
        with torch.no_grad():
            fast = fast or odekit.compile(pendulum, y0, t)
            torch.testing.assert_close(
                fast(y0, t).y, odekit.solve(pendulum, y0, t).y, rtol=1e-9, atol=1e-9
            )
            backwards = t.flip(0)
            torch.testing.assert_close(
                fast(y0, backwards).y, odekit.solve(pendulum, y0, backwards).y, rtol=1e-9, atol=1e-9
            )
    assert fast.tier == "native"


def test_many_steps_are_handed_over_in_pieces(compare, monkeypatch) -> None:
    monkeypatch.setattr("odekit._engine.native.RECORD", 400)
    monkeypatch.setattr("odekit._engine.native.BUDGET", 30)

    compare(pendulum, dense=True, step_size=0.01, **_problem("batch"))
    compare(pendulum, rtol=1e-9, **_problem("per sample"))


def test_entries_that_grow_without_end_keep_their_row(compare) -> None:
    y0 = torch.tensor([[1.0], [math.inf]], dtype=DOUBLE)

    compare(lambda t, y: -y, y0, [0.0, 1.0], per_sample=True, tier="eager")
