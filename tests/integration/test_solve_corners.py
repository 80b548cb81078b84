"""``solve`` at its edges: jumps at the ends, odd tolerances, parameters that hide, pickling."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import IncompatibleError, ProblemError, SolveError, Status, solve

F64 = torch.float64
ONE = torch.ones(1, dtype=F64)
TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}
BOTH = pytest.mark.parametrize("per_sample", [False, True])


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def switch(t: Tensor, y: Tensor) -> Tensor:
    return torch.where(t < 1, 1.0, -1.0).to(y.dtype).reshape(-1, 1).expand(y.shape)


def control(name: str = "integral", **options: Any) -> Any:
    return odekit.create("controller", name, **options)


def start(per_sample: bool, value: float = 1.0) -> Tensor:
    return torch.full((2, 1) if per_sample else (1, 1), value, dtype=F64)


@BOTH
@pytest.mark.parametrize("options", [{}, {"name": "fixed", "step_size": 0.3}])
@pytest.mark.parametrize(
    ("t", "end"), [((0, 1), 1), ((1, 2), -1), ((1, 0), -1), ((2, 1), 1), ((0, 2), 0)]
)
def test_a_jump_at_either_end_of_the_span_is_never_evaluated(
    per_sample: bool, options: dict[str, Any], t: tuple[float, float], end: float
) -> None:
    controller = control(**options, jump_times=[1.0])
    solution = solve(switch, start(per_sample, 0), t, controller=controller, per_sample=per_sample)
    torch.testing.assert_close(solution.y[-1], start(per_sample, end), rtol=0, atol=1e-13)
    assert not solution.stats.rejected.any()
    assert (solution.reached == t[-1]).all()


@BOTH
def test_jumps_closer_than_the_precision_of_the_field_are_met_in_order(per_sample: bool) -> None:
    jumps = [5e4 + 0.01 * i for i in range(10)] + [1e5 - 1e-3, 1e-3]
    y0 = start(per_sample).float()
    solution = solve(
        lambda t, y: -1e-5 * y,
        y0,
        [0.0, 1e5],
        controller=control(jump_times=jumps),
        per_sample=per_sample,
        save="steps",
    )
    assert (solution.t.diff(dim=-1) > 0).all()
    torch.testing.assert_close(solution.y[-1], y0 / math.e, rtol=5e-6, atol=0)


def test_the_adjoint_passes_a_jump_at_an_output_time() -> None:
    t = torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    p = torch.tensor(0.5, dtype=F64, requires_grad=True)

    def field(t: Tensor, y: Tensor, p: Tensor) -> Tensor:
        return torch.where(t < 1, -p, p * p) * y

    controller = control("fixed", step_size=0.1, jump_times=[1.0])
    with_argument: Any = field
    solution = solve(
        with_argument, ONE, t, args=p, gradient="adjoint", solver="dopri5", controller=controller
    )
    (got,) = torch.autograd.grad(solution.y[-1].sum(), p)
    q = p.detach()
    torch.testing.assert_close(got, (2 * q - 1) * torch.exp(q * q - q), rtol=1e-7, atol=1e-10)


@BOTH
@pytest.mark.parametrize("gradient", ["unrolled", "adjoint"])
@pytest.mark.parametrize(
    ("times", "first", "last"),
    [
        ((0.0, 1.0), -0.5, -0.5),
        ((1.0, 0.0), -0.5, -0.5),
        ((1.0, 2.0), 0.25, 0.25),
        ((0.5, 1.5), -0.5, 0.25),
        ((2.0, 1.0, 0.0), 0.25, -0.5),
    ],
)
def test_a_jump_stays_where_it_is_when_the_times_move(
    per_sample: bool, gradient: str, times: tuple[float, ...], first: float, last: float
) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 1, -0.5, 0.25).to(F64).reshape(-1, 1) * y

    t = torch.tensor(times, dtype=F64, requires_grad=True)
    solution = solve(
        field,
        start(per_sample)[:1],
        t,
        gradient=gradient,
        per_sample=per_sample,
        controller=control(jump_times=[1.0]),
        **TIGHT,
    )
    end = solution.y[-1].sum()
    (got,) = torch.autograd.grad(end, t)
    slopes = torch.tensor([-first, *[0.0] * (len(times) - 2), last], dtype=F64)
    torch.testing.assert_close(got, slopes * end.detach(), rtol=1e-6, atol=1e-9)


@BOTH
@pytest.mark.parametrize("past", [1e-13, -1e-14])
def test_rounding_at_the_ends_of_dense_output_is_forgiven(per_sample: bool, past: float) -> None:
    rate = torch.tensor([[1.0], [30.0]], dtype=F64) if per_sample else 1.0
    solution = solve(
        lambda t, y: -rate * y, start(per_sample), [0.0, 1.0], dense=True, per_sample=per_sample
    )
    at = 1 + past if past > 0 else past
    want = solution.y[-1 if past > 0 else 0]
    torch.testing.assert_close(solution(at), want, rtol=1e-10, atol=1e-15)


def test_dense_output_leaves_out_what_lies_outside_the_span_of_a_lane() -> None:
    t = torch.tensor([[0.0, 2.0], [1.0, 3.0]], dtype=F64)
    solution = solve(decay, start(True), t, dense=True, per_sample=True)
    got = solution([0.5, 1.5, 2.5])[..., 0]
    nan = math.nan
    want = torch.tensor([[-0.5, nan], [-1.5, -0.5], [nan, -1.5]], dtype=F64).exp()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=0, equal_nan=True)


def test_dense_output_at_the_start_ignores_a_rejected_first_step() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y < 0, torch.nan, -100 * y)

    solution = solve(
        field,
        start(True),
        [0.0, 0.1],
        controller=control(first_step=0.1),
        dense=True,
        per_sample=True,
    )
    assert (solution.stats.rejected > 0).all()
    assert torch.equal(solution(0.0), start(True))


@BOTH
def test_without_absolute_tolerance_an_entry_may_be_zero(per_sample: bool) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(y[..., 0]), -y[..., 1], -y[..., 2]], -1)

    y0 = torch.tensor([[0.0, 1.0, 0.0]], dtype=F64)
    solution = solve(field, y0, [0.0, 1.0], atol=0, per_sample=per_sample)
    want = torch.tensor([[1.0, math.exp(-1), 0.0]], dtype=F64)
    torch.testing.assert_close(solution.y[-1], want, rtol=1e-6, atol=0)
    grown = solve(lambda t, y: y.new_ones(1, 1), 0 * ONE[None], [0, 1], atol=0)
    torch.testing.assert_close(grown.y[-1], ONE[None])


@BOTH
def test_tolerances_that_cannot_be_met_do_not_blame_the_field(per_sample: bool) -> None:
    solution = solve(
        decay, start(per_sample), [0, 1], rtol=0, atol=0, per_sample=per_sample, throw=False
    )
    assert set(solution.statuses) == {Status.STEP_TOO_SMALL}


@BOTH
def test_a_steep_finite_slope_is_not_called_infinite(per_sample: bool) -> None:
    y0 = torch.zeros(2, 3)
    solution = solve(lambda t, y: torch.full_like(y, 1e12), y0, [0, 1], per_sample=per_sample)
    torch.testing.assert_close(solution.y[-1], y0 + 1e12)


@BOTH
def test_an_infinite_start_is_a_status(per_sample: bool) -> None:
    y0 = start(per_sample, math.inf)
    solution = solve(lambda t, y: torch.tanh(y), y0, [0, 1], per_sample=per_sample, throw=False)
    assert set(solution.statuses) == {Status.NON_FINITE}


def lost(t: Tensor, y: Tensor) -> Tensor:
    return torch.where(y < 0.5, torch.nan, -y)


@BOTH
@pytest.mark.parametrize(
    "how", [{"controller": ("integral", {"min_step": 1e-3})}, {"step_size": 0.1}]
)
@pytest.mark.parametrize("graph", [False, True])
def test_nan_ends_the_solve_at_once_where_steps_cannot_shrink(
    per_sample: bool, how: dict[str, Any], graph: bool
) -> None:
    if "controller" in how:
        name, options = how["controller"]
        how = {"controller": control(name, **options)}
    y0 = start(per_sample).requires_grad_(graph)
    times = torch.linspace(0, 1, 11, dtype=F64)
    solution = solve(lost, y0, times, per_sample=per_sample, throw=False, **how)
    assert set(solution.statuses) == {Status.NON_FINITE}
    assert (solution.stats.attempts < 50).all()
    assert ((solution.reached > 0.5) & (solution.reached < 0.7)).all()


class Latent(nn.Module):
    """An encoder whose code the dynamics use, beside one of the encoder's own parameters."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(F64)
        self.net = nn.Linear(4, 2).to(F64)
        for p in self.parameters():
            nn.init.normal_(p, std=0.5, generator=generator)

    def dynamics(self, t: Tensor, y: Tensor, code: Tensor) -> Tensor:
        slope = torch.tanh(self.net(torch.cat([y, code.expand_as(y)], -1)))
        return slope * self.get_parameter("encoder.2.bias")

    def plain(self, t: Tensor, y: Tensor, code: Tensor) -> Tensor:
        return torch.tanh(self.net(torch.cat([y, code.expand_as(y)], -1)))


@BOTH
@pytest.mark.parametrize("field", ["dynamics", "plain"])
def test_the_adjoint_counts_computed_arguments_once(per_sample: bool, field: str) -> None:
    def gradient(method: str) -> list[Tensor]:
        model = Latent()
        solution = solve(
            getattr(model, field),
            torch.ones(2, 2, dtype=F64),
            [0.0, 0.5, 1.0],
            args=model.encoder(torch.ones(3, dtype=F64)),
            gradient=method,
            per_sample=per_sample,
            **TIGHT,
        )
        return list(torch.autograd.grad(solution.y.square().sum(), list(model.parameters())))

    for got, want in zip(gradient("adjoint"), gradient("unrolled"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


WEIGHT = torch.tensor(0.5, dtype=F64, requires_grad=True)
HOLDER = [WEIGHT]


def helper(y: Tensor) -> Tensor:
    return -WEIGHT * y


class Attribute(nn.Module):
    """A module with a computed tensor as a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.code = WEIGHT.exp().log()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.code * y


@pytest.mark.parametrize(
    "make",
    [
        lambda: lambda t, y, w=WEIGHT: -w * y,
        lambda: lambda t, y: helper(y),
        lambda: lambda t, y: -HOLDER[0] * y,
        Attribute,
    ],
    ids=["default", "global function", "global list", "plain attribute"],
)
def test_the_adjoint_finds_parameters_wherever_the_field_keeps_them(make: Any) -> None:
    solution = solve(make(), ONE, [0.0, 1.0], gradient="adjoint", **TIGHT)
    (got,) = torch.autograd.grad(solution.y[-1].sum(), WEIGHT)
    torch.testing.assert_close(got, -torch.exp(-WEIGHT.detach()), rtol=1e-7, atol=0)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"net": m}])
def test_modules_may_be_arguments(wrap: Any) -> None:
    def gradient(method: str) -> Tensor:
        net = nn.Linear(1, 1, bias=False).to(F64)
        nn.init.constant_(net.weight, -0.5)

        def field(t: Tensor, y: Tensor, a: Any) -> Tensor:
            return (a["net"] if isinstance(a, dict) else a)(y)  # type: ignore[no-any-return]

        with_argument: Any = field
        solution = solve(with_argument, ONE, [0.0, 1.0], args=wrap(net), gradient=method, **TIGHT)
        return torch.autograd.grad(solution.y[-1].sum(), net.weight)[0]

    torch.testing.assert_close(gradient("adjoint"), gradient("unrolled"), rtol=1e-7, atol=0)


def test_params_may_be_one_tensor_and_must_be_tensors() -> None:
    solution = solve(
        lambda t, y: -globals()["WEIGHT"] * y, ONE, [0, 1], gradient="adjoint", params=WEIGHT
    )
    assert solution.y.requires_grad
    with pytest.raises(ProblemError, match="params must be tensors, got str"):
        solve(decay, ONE, [0, 1], params=["weight"])  # type: ignore[list-item]


@pytest.mark.parametrize("gradient", ["unrolled", "adjoint"])
def test_rows_that_a_failed_lane_reached_keep_their_gradient(gradient: str) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y > 2, torch.nan, y)

    y0 = torch.tensor([[1.0], [0.001]], dtype=F64, requires_grad=True)
    times = [0.0, 0.1, 0.2, 5.0]
    solution = solve(field, y0, times, gradient=gradient, per_sample=True, throw=False)
    assert solution.status.tolist() == [Status.NON_FINITE, Status.SUCCESS]
    (got,) = torch.autograd.grad(solution.y[:3].sum(), y0)
    want = sum(math.exp(t) for t in times[:3])
    torch.testing.assert_close(got, torch.full_like(got, want), rtol=1e-5, atol=0)


@pytest.mark.parametrize("gradient", ["unrolled", "adjoint"])
def test_saved_steps_refuse_gradients_of_times(gradient: str) -> None:
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    with pytest.raises(IncompatibleError, match="save='times'"):
        solve(decay, ONE, t, save="steps", gradient=gradient)
    with torch.no_grad():
        solve(decay, ONE, t, save="steps", gradient=gradient)


def test_a_list_of_times_keeps_the_gradient_of_its_tensors() -> None:
    end = torch.tensor(1.0, dtype=F64, requires_grad=True)
    solution = solve(decay, ONE, [0.0, end])
    (got,) = torch.autograd.grad(solution.y[-1].sum(), end)
    torch.testing.assert_close(got, torch.tensor(-math.exp(-1), dtype=F64), rtol=1e-5, atol=0)


@BOTH
def test_solutions_and_errors_can_be_pickled_and_copied(per_sample: bool) -> None:
    y0 = {"a": torch.ones(2, 1, dtype=F64), "b": (torch.ones(2, dtype=F64),)}

    def field(t: Tensor, y: Any) -> Any:
        return {"a": y["a"] ** 2, "b": (-y["b"][0],)}

    solution = solve(field, y0, [0.0, 0.5], dense=True, per_sample=per_sample)
    for twin in (pickle.loads(pickle.dumps(solution)), copy.deepcopy(solution)):
        assert torch.equal(twin(0.3)["b"][0], solution(0.3)["b"][0])
    with pytest.raises(SolveError) as info:
        solve(field, y0, [0.0, 2.0], per_sample=per_sample)
    error = pickle.loads(pickle.dumps(info.value))
    assert error.status is Status.STEP_TOO_SMALL
    assert str(error) == str(info.value)
    assert error.solution.y["a"][0].tolist() == [[1.0], [1.0]]


@BOTH
def test_fields_that_write_into_their_tensors_are_refused(per_sample: bool) -> None:
    buffer = start(per_sample)

    def fill(t: Tensor, y: Tensor) -> Tensor:
        return buffer.copy_(-y)

    with pytest.raises(IncompatibleError, match="changed y in place"):
        solve(lambda t, y: y.neg_(), start(per_sample), [0, 1], per_sample=per_sample)
    with pytest.raises(IncompatibleError, match="had returned before"):
        solve(fill, start(per_sample), [0, 1], per_sample=per_sample)
    with torch.inference_mode():
        solve(decay, start(per_sample), [0, 1], per_sample=per_sample)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtol": "a"}, "rtol must be a number"),
        ({"rtol": None}, "rtol must be a number"),
        ({"atol": torch.tensor([1e-3, 1e-3])}, r"shape \(1,\), got \(2,\)"),
        ({"atol": torch.tensor(math.nan)}, "atol must be >= 0 everywhere, got nan"),
        ({"rtol": torch.tensor([1j])}, "rtol must be real"),
        ({"step_size": "a"}, "step_size must be positive, got 'a'"),
        ({"step_size": [0.1]}, "step_size must be positive"),
        ({"t": torch.tensor([0.0, 1.0]).to_sparse()}, "write t.to_dense"),
        ({"t": torch.ones(2).numpy().astype(object)[:, None].repeat(9, 0)}, "t must be numbers"),
    ],
)
def test_odd_options_get_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message) as info:
        solve(**{"field": decay, "y0": ONE, "t": [0.0, 1.0], **change})
    assert "\n" not in str(info.value)


def test_tensors_are_made_where_the_state_is() -> None:
    controller = control(jump_times=[0.3], step_times=[0.4])
    y0 = torch.ones(2, 1, dtype=F64, device="cpu")
    times = torch.tensor([0.0, 1.0], dtype=F64, device="cpu")
    rtol = {"a": 1e-4}
    with torch.device("meta"):
        for per_sample in (False, True):
            solution = solve(
                lambda t, y: {"a": -y["a"]},
                {"a": y0},
                times,
                controller=controller,
                per_sample=per_sample,
                rtol=rtol,
            )
            assert solution.y["a"].device.type == "cpu"
