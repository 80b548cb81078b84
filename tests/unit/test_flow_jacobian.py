"""The derivative of a flow, against matrix exponentials and differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit import Field, IncompatibleError, ProblemError, SolveError, flow_jacobian, solve

F64 = torch.float64
TIGHT = {"rtol": 1e-11, "atol": 1e-13}
A = torch.tensor([[-0.3, 1.1], [-0.9, 0.1]], dtype=F64)


def linear(t: Tensor, y: Tensor) -> Tensor:
    return y @ A.T


def exponentials(times: list[float]) -> Tensor:
    return torch.linalg.matrix_exp(A * torch.tensor(times, dtype=F64)[:, None, None])


def test_of_a_linear_system_it_is_the_matrix_exponential() -> None:
    times = [0.0, 0.4, 1.3]
    y0 = torch.tensor([1.0, -0.5], dtype=F64)
    found = flow_jacobian(linear, y0, times, **TIGHT)
    assert found.shape == (3, 2, 2)
    assert not found.requires_grad
    torch.testing.assert_close(found, exponentials(times), rtol=1e-9, atol=1e-10)


def test_backwards_it_is_the_inverse() -> None:
    y0 = torch.tensor([1.0, -0.5], dtype=F64)
    found = flow_jacobian(linear, y0, [0.0, -1.3], **TIGHT)
    torch.testing.assert_close(found, exponentials([0.0, -1.3]), rtol=1e-9, atol=1e-10)


def test_a_batch_with_one_step_size_may_meet() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y.flip(0) * y

    y0 = torch.tensor([[1.0, 0.5], [0.3, 0.2], [0.7, 0.1]], dtype=F64)
    found = flow_jacobian(field, y0, [0.0, 0.8], **TIGHT)
    assert found.shape == (2, 3, 2, 3, 2)

    def end(y: Tensor) -> Tensor:
        return solve(field, y, [0.0, 0.8], **TIGHT).y[-1]

    torch.testing.assert_close(found[0].reshape(6, 6), torch.eye(6, dtype=F64))
    assert float(found[1, 0, :, 2].abs().max()) > 0.01  # the first meets the third
    torch.testing.assert_close(found[1], differences(end, y0), rtol=1e-7, atol=1e-8)


def test_a_number_has_a_number() -> None:
    y0 = torch.tensor(2.0, dtype=F64)
    found = flow_jacobian(lambda t, y: -y * y, y0, [0.0, 1.0], **TIGHT)
    assert found.shape == (2,)
    assert float(found[1]) == pytest.approx(1 / 9, rel=1e-9)  # y = y0 / (1 + y0 t)


def test_per_sample_every_lane_has_its_own_matrix_and_times() -> None:
    y0 = torch.tensor([[1.0, -0.5], [0.3, 2.0], [0.0, 1.0]], dtype=F64)
    t = torch.tensor([[0.0, 0.4], [0.0, 1.3], [0.5, 2.0]], dtype=F64)
    found = flow_jacobian(linear, y0, t, per_sample=True, **TIGHT)
    assert found.shape == (2, 3, 2, 2)
    torch.testing.assert_close(found[1], exponentials([0.4, 1.3, 1.5]), rtol=1e-9, atol=1e-10)


def test_parameters_shared_and_per_sample() -> None:
    rate = torch.tensor([0.5, 1.5], dtype=F64, requires_grad=True)
    level = torch.tensor(0.2, dtype=F64, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return level - rate * y

    y0 = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.5, 0.5]], dtype=F64)
    t = 0.9
    decay = (-rate * t).exp().detach()
    by_level = ((1 - decay) / rate).detach()
    rest = (level / rate).detach()
    slope = -rest / rate.detach()
    by_rate = slope + (y0 - rest) * -t * decay - slope * decay
    for per_sample in (False, True):
        found = flow_jacobian(
            field,
            y0,
            [0.0, t],
            wrt="params",
            params=[level, rate, level],
            per_sample=per_sample,
            **TIGHT,
        )
        assert [x.shape for x in found] == [(2, 3, 2), (2, 3, 2, 2), (2, 3, 2)]
        torch.testing.assert_close(found[0][1], by_level.expand(3, 2), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found[1][1], torch.diag_embed(by_rate), rtol=1e-9, atol=1e-10)
        assert torch.equal(found[0], found[2])
        assert not found[1][0].any()


def test_parameters_of_a_module_come_in_its_order() -> None:
    torch.manual_seed(0)
    net = nn.Linear(2, 2).double()
    y0 = torch.tensor([1.0, 0.5], dtype=F64)
    weight, bias = flow_jacobian(
        lambda t, y: torch.tanh(net(y)), y0, [0.0, 1.0], wrt="params", **TIGHT
    )
    assert weight.shape == (2, 2, 2, 2)
    assert bias.shape == (2, 2, 2)
    for p, found in ((net.weight, weight), (net.bias, bias)):

        def end(value: Tensor, p: Tensor = p) -> Tensor:
            kept = p.data
            p.data = value
            y = solve(lambda t, y: torch.tanh(net(y)), y0, [0.0, 1.0], **TIGHT).y[-1]
            p.data = kept
            return y.detach()

        torch.testing.assert_close(found[1], differences(end, p.detach()), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("per_sample", [False, True])
def test_trees_have_trees_of_trees(per_sample: bool) -> None:
    def field(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"q": y["p"][..., 0], "p": -y["q"][..., None] * torch.ones(2, dtype=F64)}

    y0 = {"q": torch.ones(3, dtype=F64), "p": torch.zeros(3, 2, dtype=F64)}
    if not per_sample:
        y0 = {"q": y0["q"][0], "p": y0["p"][0]}
    found = flow_jacobian(field, y0, [0.0, 0.7], per_sample=per_sample, **TIGHT)
    lead = (2, 3) if per_sample else (2,)
    assert found["q"]["q"].shape == lead
    assert found["q"]["p"].shape == found["p"]["q"].shape == (*lead, 2)
    assert found["p"]["p"].shape == (*lead, 2, 2)
    c, s = torch.tensor(0.7, dtype=F64).cos(), torch.tensor(0.7, dtype=F64).sin()
    want = torch.stack([c, -s, -s])  # q, p0, p1 by q
    got = torch.cat([found["q"]["q"][1][..., None], found["p"]["q"][1]], -1)
    torch.testing.assert_close(got, want.expand(got.shape), rtol=1e-9, atol=1e-10)
    by_p = found["p"]["p"][1]
    want = torch.stack([torch.stack([c, 0 * c]), torch.stack([c - 1, 0 * c + 1])])
    torch.testing.assert_close(by_p, want.expand(by_p.shape), rtol=1e-9, atol=1e-10)


class Lifted(Field):
    """``y = x^2`` with a learned companion; what is seen is a sine."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.tensor([0.4], dtype=F64))
        self.rate = nn.Parameter(torch.tensor(0.8, dtype=F64))

    def lift(self, x: Tensor) -> Tensor:
        return torch.cat([x.square(), self.start.expand(*x.shape[:-1], 1)], -1)

    def project(self, y: Tensor) -> Tensor:
        return y[..., :1].sin()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([self.rate * y[..., 1], -y[..., 0]], -1)


@pytest.mark.parametrize("per_sample", [False, True])
def test_lift_and_project_belong_to_the_flow(per_sample: bool) -> None:
    field = Lifted()
    x = torch.tensor([[0.9], [0.5]], dtype=F64)
    x = x if per_sample else x[0]
    options = {"per_sample": per_sample, **TIGHT}

    def end(value: Tensor) -> Tensor:
        return solve(field, value, [0.0, 0.6], **options).y[-1].detach()

    found = flow_jacobian(field, x, [0.0, 0.6], **options)[1]
    want = differences(end, x)
    if per_sample:
        want = torch.stack([want[i, :, i] for i in range(2)])
    torch.testing.assert_close(found, want, rtol=1e-7, atol=1e-8)
    by = flow_jacobian(field, x, [0.0, 0.6], wrt="params", **options)
    for p, got in zip(field.parameters(), by, strict=True):

        def moved(value: Tensor, p: Tensor = p) -> Tensor:
            kept = p.data
            p.data = value
            y = end(x)
            p.data = kept
            return y

        torch.testing.assert_close(got[1], differences(moved, p.detach()), rtol=1e-7, atol=1e-8)


def test_works_without_gradients_and_leaves_none() -> None:
    rate = torch.tensor(0.5, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    with torch.no_grad():
        [found] = flow_jacobian(lambda t, y: -rate * y, y0, [0.0, 1.0], wrt="params", **TIGHT)
    assert float(found[1]) == pytest.approx(-math.exp(-0.5), rel=1e-9)
    assert rate.grad is None
    assert y0.grad is None
    assert not found.requires_grad


def test_rows_that_were_not_reached_are_nan() -> None:
    y0 = torch.tensor([[0.5], [5.0]], dtype=F64)
    options = {"per_sample": True, "max_steps": 400}
    found = flow_jacobian(lambda t, y: y * y, y0, [0.0, 0.5, 1.0], throw=False, **options)
    assert torch.isfinite(found[:, 0]).all()
    assert torch.isfinite(found[0, 1]).all()
    assert found[1:, 1].isnan().all()
    with pytest.raises(SolveError):
        flow_jacobian(lambda t, y: y * y, y0, [0.0, 0.5, 1.0], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wrt": "time"}, "wrt must be"),
        ({"gradient": "adjoint"}, "takes no gradient"),
        ({"dense": True}, "takes no dense"),
        ({"save": "steps"}, "takes no save"),
        ({"wrt": "params"}, "found no tensor"),
        ({"wrt": "params", "params": [torch.ones(1)]}, r"params\[0\] must"),
    ],
)
def test_refuses_clearly(options: dict[str, object], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        flow_jacobian(linear, torch.ones(2, dtype=F64), [0.0, 1.0], **options)


def test_refuses_complex_states() -> None:
    with pytest.raises(IncompatibleError, match="real state"):
        flow_jacobian(lambda t, y: y, torch.ones(2, dtype=torch.complex128), [0.0, 1.0])


def test_is_offered_by_the_package() -> None:
    assert odekit.flow_jacobian is flow_jacobian


def differences(function, x: Tensor, step: float = 1e-3) -> Tensor:
    """Central differences of fourth order, ``(*value, *x.shape)``."""
    columns = []
    for i in range(x.numel()):
        values = []
        for shift in (2, 1, -1, -2):
            moved = x.clone()
            moved.view(-1)[i] += shift * step
            values.append(function(moved))
        far, near, back, opposite = values
        columns.append((8 * (near - back) - (far - opposite)) / (12 * step))
    return torch.stack(columns, -1).reshape(*columns[0].shape, *x.shape)
