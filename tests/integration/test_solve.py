"""``solve`` as users meet it: states of every kind, time both ways, statuses, dense output."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import odekit
from odekit import IncompatibleError, ProblemError, SolveError, Status, UnknownNameError, solve

F64 = torch.float64
ONE = torch.ones(1, dtype=F64)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def van_der_pol(mu: Any) -> Any:
    def field(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)

    return field


def test_against_scipy() -> None:
    times = np.linspace(0, 10, 41)
    mu = 3.0
    want = solve_ivp(
        lambda t, y: [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]],
        (0, 10),
        [2.0, 0.0],
        t_eval=times,
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    ).y.T
    got = solve(
        van_der_pol(mu),
        torch.tensor([2.0, 0.0], dtype=F64),
        torch.tensor(times),
        rtol=1e-9,
        atol=1e-11,
    )
    np.testing.assert_allclose(got.y.numpy(), want, atol=3e-7)


@pytest.mark.parametrize("solver", ["dopri5", "bosh3", "dopri8"])
def test_each_sample_gets_what_it_gets_alone(solver: str) -> None:
    mu = torch.tensor([0.5, 2.0, 5.0, 8.0], dtype=F64)
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(4, 2, dtype=F64, generator=generator) + 2
    t = torch.linspace(0, 5, 23, dtype=F64)
    together = solve(van_der_pol(mu), y0, t, solver=solver, per_sample=True)
    for i in range(4):
        # With a Python float for h the same sums are rounded in another order. How much that
        # matters is the problem's affair: one unit in the last place of y0 moves dopri8's rows
        # by 3e-11 here, those of the others by less than 2e-13.
        shared_tolerance = 1e-10 if solver == "dopri8" else 1e-12
        for alone, tolerance in (
            (solve(van_der_pol(mu[i]), y0[i : i + 1], t, solver=solver, per_sample=True), 1e-12),
            (solve(van_der_pol(mu[i]), y0[i], t, solver=solver), shared_tolerance),
        ):
            assert together.stats.attempts[i] == alone.stats.attempts[0]
            assert together.stats.accepted[i] == alone.stats.accepted[0]
            assert together.stats.evaluations[i] == alone.stats.evaluations[0]
            torch.testing.assert_close(
                together.y[:, i], alone.y.reshape(23, 2), rtol=0, atol=tolerance
            )


def test_neighbours_do_not_matter_even_when_they_fail() -> None:
    y0 = torch.tensor([[0.1], [1.0], [-1.0]], dtype=F64)
    t = [0.0, 0.5, 2.0]
    together = solve(lambda t, y: y * y, y0, t, per_sample=True, throw=False)
    alone = solve(lambda t, y: y * y, y0[[0, 2]], t, per_sample=True)
    assert together.status.tolist() == [0, Status.STEP_TOO_SMALL, 0]
    assert together.reached[1] == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(together.y[:, [0, 2]], alone.y)
    assert bool(together.y[2, 1].isnan())
    assert float(together.y[1, 1, 0]) == pytest.approx(2.0, rel=1e-5)
    assert together.stats.attempts[[0, 2]].tolist() == alone.stats.attempts.tolist()


def test_a_failing_lane_leaves_the_others_gradients_alone() -> None:
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [0.1], [0.5]], dtype=F64, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return rate * torch.sqrt(0.3 - t[:, None] + (y > 0.2) * 1.0) * y

    both = solve(field, y0, [0.0, 0.5], per_sample=True, throw=False)
    assert both.status.tolist() == [0, Status.NON_FINITE, 0]
    found = torch.autograd.grad(both.y[-1, [0, 2]].sum(), [y0, rate])
    alone = solve(field, y0[[0, 2]], [0.0, 0.5], per_sample=True)
    want = torch.autograd.grad(alone.y[-1].sum(), [y0, rate])
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_pytrees_of_any_shape() -> None:
    y0 = {"a": torch.tensor(1.0, dtype=F64), "b": (torch.ones(2, 3, dtype=F64), [ONE * 2])}

    def field(t: Tensor, y: Any) -> Any:
        return {"a": -y["a"], "b": (y["b"][0] * t, [y["a"] * torch.ones_like(y["b"][1][0])])}

    solution = solve(field, y0, [0.0, 0.5, 1.0], dense=True)
    assert solution.y["a"].shape == (3,)
    assert solution.y["b"][0].shape == (3, 2, 3)
    assert float(solution.y["a"][-1]) == pytest.approx(math.exp(-1), abs=1e-6)
    assert float(solution.y["b"][0][-1, 1, 2]) == pytest.approx(math.exp(0.5), abs=1e-6)
    assert float(solution.y["b"][1][0][-1]) == pytest.approx(3 - math.exp(-1), abs=1e-6)
    assert solution(0.25)["a"].shape == ()
    assert solution(torch.tensor([0.25, 0.5]))["b"][0].shape == (2, 2, 3)


def test_pytrees_per_sample() -> None:
    y0 = {"a": torch.ones(4, dtype=F64), "b": torch.ones(4, 2, 3, dtype=F64)}

    def field(t: Tensor, y: Any) -> Any:
        assert t.shape == (4,)
        return {"a": -y["a"], "b": y["b"] * t[:, None, None]}

    solution = solve(field, y0, [0.0, 1.0], per_sample=True, dense=True)
    assert solution.y["a"].shape == (2, 4)
    assert solution.y["b"].shape == (2, 4, 2, 3)
    torch.testing.assert_close(
        solution.y["b"][-1, 3, 1, 2].item(), math.exp(0.5), atol=1e-6, rtol=0
    )
    assert solution(torch.tensor([0.2, 0.3]))["b"].shape == (2, 4, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("per_sample", [False, True])
def test_dtypes_are_kept(dtype: torch.dtype, per_sample: bool) -> None:
    rate = 1j if dtype.is_complex else -1.0
    y0 = torch.ones(2, 1, dtype=dtype)
    seen = set()

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.add((t.dtype, y.dtype))
        return rate * y

    solution = solve(field, y0, [0.0, 1.0], per_sample=per_sample, rtol=1e-5)
    assert solution.y.dtype == dtype
    assert seen == {(dtype.to_real() if dtype.is_complex else dtype, dtype)}
    want = complex(math.cos(1), math.sin(1)) if dtype.is_complex else math.exp(-1)
    assert abs(complex(solution.y[-1, 0, 0]) - want) < 3e-5


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4)])
def test_any_shape_and_both_directions(shape: tuple[int, ...]) -> None:
    y0 = torch.full(shape, 2.0, dtype=F64)
    forward = solve(lambda t, y: y * torch.cos(t), y0, [0.0, 1.0, 2.0])
    assert forward.y.shape == (3, *shape)
    back = solve(lambda t, y: y * torch.cos(t), forward.y[-1], [2.0, 1.0, 0.0])
    torch.testing.assert_close(back.y[-1], y0, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(back.y[1], forward.y[1], rtol=1e-5, atol=1e-6)


def test_the_backward_solve_is_the_mirrored_forward_one() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(3 * t) * y - 0.1 * y

    def mirrored(s: Tensor, y: Tensor) -> Tensor:
        return -field(1 - s, y)

    back = solve(field, ONE, [1.0, 0.0], save="steps")
    mirror = solve(mirrored, ONE, [0.0, 1.0], save="steps")
    torch.testing.assert_close(1 - back.t, mirror.t, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(back.y, mirror.y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("solver", ["dopri5", "tsit5", "dopri8", "bosh3"])
def test_dense_output_passes_through_the_rows(solver: str, per_sample: bool) -> None:
    y0 = torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=F64)
    t = torch.linspace(3, 0, 17, dtype=F64)
    solution = solve(
        van_der_pol(1.0), y0, t, solver=solver, per_sample=per_sample, dense=True, rtol=1e-8
    )
    torch.testing.assert_close(solution(t), solution.y, rtol=1e-12, atol=1e-12)
    fine = torch.linspace(3, 0, 301, dtype=F64)
    want = solve(van_der_pol(1.0), y0, fine, solver="dopri8", rtol=1e-12, atol=1e-13).y
    torch.testing.assert_close(solution(fine), want, rtol=3e-6, atol=3e-6)
    with pytest.raises(ProblemError, match=r"solved span \[0, 3\]"):
        solution(3.5)


def test_dense_output_per_sample_at_times_of_their_own() -> None:
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64)
    t = torch.tensor([[0.0, 1.0], [1.0, 3.0]], dtype=F64)
    solution = solve(decay, y0, t, per_sample=True, dense=True, rtol=1e-9)
    query = torch.tensor([[0.3, 1.7], [0.9, 2.9]], dtype=F64)
    want = torch.exp(-(query - t[:, 0])) * y0[:, 0]
    torch.testing.assert_close(solution(query)[..., 0], want, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("per_sample", [False, True])
def test_saved_steps_are_the_accepted_ones(per_sample: bool) -> None:
    y0 = torch.tensor([[1.0], [50.0]], dtype=F64)
    solution = solve(
        lambda t, y: -(y**2), y0, [0.0, 2.0], save="steps", per_sample=per_sample, dense=True
    )
    assert len(solution.y) == int(solution.stats.accepted.max()) + 1
    for lane, count in enumerate(solution.stats.accepted.tolist()):
        t = solution.t[lane] if per_sample else solution.t
        y = solution.y[:, lane, 0]
        torch.testing.assert_close(y, y0[lane] / (1 + y0[lane] * t), rtol=3e-5, atol=1e-7)
        assert bool((t[: count + 1].diff() > 0).all())
        assert bool((t[count:] == 2.0).all())
        assert bool((y[count:] == y[count]).all())


def test_one_time_gives_the_start() -> None:
    assert torch.equal(solve(decay, ONE, [0.5]).y, ONE[None])
    assert torch.equal(solve(decay, ONE[None], [0.5], per_sample=True).y, ONE[None, None])


def test_tolerances_per_component() -> None:
    y0 = {"a": ONE, "b": ONE * 1e6}

    def field(t: Tensor, y: Any) -> Any:
        return {"a": -y["a"], "b": -y["b"] * torch.cos(5 * t)}

    loose = solve(field, y0, [0.0, 1.0], rtol=1e-3, atol={"a": 1e-6, "b": 1e9})
    tight = solve(field, y0, [0.0, 1.0], rtol=1e-9, atol={"a": 1e-9, "b": 1e-3})
    assert loose.stats.attempts < tight.stats.attempts
    same = solve(field, y0, [0.0, 1.0], rtol=1e-9, atol={"a": ONE * 1e-9, "b": ONE * 1e-3})
    assert torch.equal(same.y["a"], tight.y["a"])


def test_the_fixed_controller_alone_steps_from_output_to_output() -> None:
    t = torch.tensor([0.0, 0.1, 0.3, 0.35], dtype=F64)
    fixed = {"solver": "rk4", "controller": "fixed"}
    assert solve(decay, ONE, t, **fixed).stats.accepted.tolist() == [3]
    solution = solve(decay, ONE.expand(2, 1), torch.stack([t, t * 2]), per_sample=True, **fixed)
    assert solution.stats.accepted.tolist() == [3, 3]
    torch.testing.assert_close(solution.y[:, 1, 0], torch.exp(-2 * t), rtol=3e-4, atol=0)


@pytest.mark.parametrize("solver", ["rk4", "rk38"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_without_a_step_size_tolerances_hold_for_every_solver(
    solver: str, per_sample: bool
) -> None:
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.4, 6.0], dtype=F64)
    options = {"solver": solver, "per_sample": per_sample, "dense": True}
    want = solve(van_der_pol(1.0), y0, t, solver="dopri8", rtol=1e-11, atol=1e-12, dense=True)
    (slope,) = torch.autograd.grad(want.y[-1].sum(), y0, retain_graph=True)
    fine = torch.linspace(0, 6, 57, dtype=F64)
    for rtol in (1e-5, 1e-7):
        found = solve(van_der_pol(1.0), y0, t, rtol=rtol, atol=rtol / 10, **options)
        distance = (found(fine).squeeze() - want(fine).squeeze()).detach().abs().max()
        assert float(distance) < 100 * rtol  # of a state of about two, over six units of time
        (found_slope,) = torch.autograd.grad(found.y[-1].sum(), y0)
        # No error estimate looks at the sensitivities, which grow along this orbit.
        assert float((found_slope - slope).abs().max()) < 1000 * rtol


def test_even_euler_keeps_a_tolerance() -> None:
    solution = solve(decay, ONE, [0.0, 1.0], solver="euler", rtol=1e-5)
    assert abs(float(solution.y[-1]) - math.exp(-1)) < 2e-3
    assert solution.stats.evaluations > 100


def test_field_that_turns_nan_is_named_with_time_and_lane() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -torch.sqrt(1 - t)[:, None] * y if t.dim() else -torch.sqrt(1 - t) * y

    with pytest.raises(SolveError, match=r"field not finite at t = 1;.*returned NaN") as info:
        solve(field, ONE, [0.0, 0.5, 2.0])
    assert info.value.status is Status.NON_FINITE
    assert info.value.solution is not None
    assert bool(info.value.solution.y[1].isfinite().all())
    with pytest.raises(SolveError, match=r"at t = 0\.99"):
        solve(field, ONE, [0.0, 2.0], solver="rk4", step_size=0.01)
    with pytest.raises(SolveError, match="in lane 1"):
        solve(
            lambda t, y: y * torch.tensor([[1.0], [math.nan]], dtype=F64),
            ONE.expand(2, 1),
            [0.0, 1.0],
            per_sample=True,
        )


BAD = [
    ({"y0": [1.0]}, ProblemError, "y0 must be made of tensors, got float"),
    ({"y0": ONE.half()}, ProblemError, r"float16.*y0\.double\(\)"),
    ({"y0": torch.tensor([1])}, ProblemError, "int64"),
    ({"y0": {}}, ProblemError, "y0 is empty"),
    ({"y0": (ONE, ONE.float())}, IncompatibleError, "share one dtype"),
    ({"y0": torch.tensor(1.0), "per_sample": True}, ProblemError, "leading sample axis"),
    ({"t": [0.0, 2.0, 1.0]}, ProblemError, r"t\[1\] = 2 before t\[2\] = 1"),
    ({"t": [0.0, 1.0, 1.0]}, ProblemError, "strictly"),
    ({"t": [0.0, math.nan]}, ProblemError, "finite"),
    ({"t": []}, ProblemError, "shape"),
    ({"t": [0.3], "dense": True}, ProblemError, "at least two times"),
    ({"t": "soon"}, ProblemError, "numbers or a tensor"),
    ({"t": torch.zeros(2, 2)}, ProblemError, "per_sample=True"),
    ({"t": torch.zeros(2, device="meta")}, IncompatibleError, "y0 is on cpu and t on meta"),
    ({"solver": "dopri"}, UnknownNameError, "did you mean 'dopri"),
    ({"solver": 5}, IncompatibleError, "a name or an instance"),
    ({"gradient": "adjont"}, UnknownNameError, "did you mean 'adjoint'"),
    ({"controller": "pdi"}, UnknownNameError, "did you mean 'pi"),
    ({"controller": "pi", "solver": "rk4"}, IncompatibleError, "give step_size"),
    ({"controller": "pi", "step_size": 0.1}, IncompatibleError, "leave out controller"),
    ({"step_size": -0.1}, ProblemError, "step_size must be positive"),
    ({"rtol": -1.0}, ProblemError, "rtol must be a number >= 0"),
    ({"atol": (1.0, 2.0)}, ProblemError, "atol must be a number or a pytree like y0"),
    ({"max_steps": 0}, ProblemError, "max_steps must be a positive integer"),
    ({"save": "all"}, ProblemError, "'times' or 'steps'"),
    ({"field": 3}, IncompatibleError, "field must be callable"),
    (
        {"field": lambda t, y: y[None]},
        IncompatibleError,
        r"shape \(1, 1\) for a state of shape \(1,\)",
    ),
    ({"field": lambda t, y: y.float()}, IncompatibleError, "float32 for a state of torch.float64"),
    ({"field": lambda t, y: None}, IncompatibleError, "tensor like y, got NoneType"),
    ({"field": lambda t, y: (y,), "y0": {"a": ONE}}, IncompatibleError, r"\{a: tensor\}"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_gets_one_clear_line(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    call = {"field": decay, "y0": ONE, "t": [0.0, 1.0], **change}
    with pytest.raises(error, match=message) as info:
        solve(call.pop("field"), call.pop("y0"), call.pop("t"), **call)
    assert "\n" not in str(info.value)


def test_args_is_a_pytree() -> None:
    args = {"rate": torch.tensor(2.0, dtype=F64), "shift": (1.0,)}
    solution = solve(
        lambda t, y, args: -args["rate"] * (y - args["shift"][0]), ONE * 3, [0.0, 1.0], args=args
    )
    assert float(solution.y[-1]) == pytest.approx(1 + 2 * math.exp(-2), abs=1e-6)


def test_lift_and_project_are_called_once_each() -> None:
    class Padded(odekit.Field):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def lift(self, x: Tensor) -> Tensor:
            self.calls.append("lift")
            return torch.cat([x, torch.ones_like(x)], -1)

        def project(self, y: Tensor) -> Tensor:
            self.calls.append("project")
            return y[..., :1]

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.stack([y[..., 1], -y[..., 0]], -1)

    field = Padded()
    solution = solve(field, torch.zeros(1, dtype=F64), [0.0, math.pi / 2], dense=True)
    assert field.calls == ["lift", "project"]
    assert solution.y.shape == (2, 1)
    assert float(solution.y[-1]) == pytest.approx(1.0, abs=1e-6)
    assert solution(1.0).shape == (1,)


def test_nothing_is_kept_alive() -> None:
    import gc
    import weakref

    y0 = torch.ones(3, dtype=F64, requires_grad=True)
    for gradient in ("unrolled", "adjoint"):
        solution = solve(decay, y0, [0.0, 1.0], gradient=gradient)
        solution.y[-1].sum().backward()
        alive = weakref.ref(solution.y)
        del solution
        gc.collect()
        assert alive() is None
