"""Ensembles: a member's path is the one it has alone, weights train, unlike members are refused."""

from __future__ import annotations

import copy
import functools
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import odekit
from odekit.training import Recipe

DOUBLE = torch.float64
COUNT = 4


class Pair(nn.Module):
    """A field of a tuple, with a weight, a buffer and a weight that two places share."""

    def __init__(self, rate):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[rate, 1.0], [-1.0, rate]], dtype=DOUBLE))
        self.again = nn.Module()
        self.again.weight = self.weight
        self.register_buffer("shift", torch.tensor(0.1 * rate, dtype=DOUBLE))

    def forward(self, t, y):
        q, p = y
        return p @ self.weight.mT + self.shift * t, -(q @ self.again.weight.mT)


class Readout(odekit.Field):
    """A field whose projection has weights of its own."""

    def __init__(self, seed):
        super().__init__()
        self.inner = odekit.create("field", "mlp", dim=3, width=4, seed=seed, dtype="float64")
        self.out = nn.Linear(3, 2, dtype=DOUBLE)

    def lift(self, x):
        return torch.cat([x, 0 * x[..., :1]], dim=-1)

    def project(self, y):
        return self.out(y)

    def forward(self, t, y):
        return self.inner(t, y)


def oscillator(i):
    terms = [("x", "v", 1.0), ("v", "x", -1.0 - i), ("v", "x**2*v", -0.1 * i), ("v", "t", 0.2)]
    return odekit.Equations(["x", "v"], terms).field()


def made(name, **options):
    return lambda i: odekit.create("field", name, seed=i, dtype="float64", **options)


MEMBERS = {
    "mlp": (made("mlp", dim=2, width=8), 2),
    "mlp_time": (made("mlp", dim=2, width=8, time=True, activation="silu"), 2),
    "linear": (made("linear", dim=2, bias=True), 2),
    "augmented": (made("augmented", dim=2, lift="learned", width=8), 2),
    "second_order": (made("second_order", dim=2, velocity="learned", width=8), 2),
    "hamiltonian": (made("hamiltonian", dim=1, width=8), 2),
    "equations": (oscillator, 2),
}


def make(case):
    member, width = MEMBERS[case]
    fields = [member(i) for i in range(COUNT)]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for field in fields:  # learned lifts and energies begin equal or quiet
            for p in field.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    y0 = torch.randn(COUNT, width, generator=generator, dtype=DOUBLE)
    return odekit.create("field", "ensemble", fields=fields), fields, y0


T = torch.linspace(0.0, 1.5, 4, dtype=DOUBLE)


def alone(fields, y0, **options):
    found = [
        odekit.solve(field, y0[i : i + 1], T, per_sample=True, **options)
        for i, field in enumerate(fields)
    ]
    return torch.cat([one.y for one in found], dim=1), [int(one.stats.accepted) for one in found]


@pytest.mark.parametrize("case", MEMBERS)
def test_every_member_takes_the_steps_and_the_path_that_it_has_alone(case):
    ensemble, fields, y0 = make(case)
    together = odekit.solve(ensemble, y0, T, per_sample=True)
    expected, steps = alone(fields, y0)
    assert together.stats.accepted.tolist() == steps
    torch.testing.assert_close(together.y, expected, rtol=1e-10, atol=1e-11)
    assert not torch.allclose(together.y[-1, 0], together.y[-1, 1])


@pytest.mark.parametrize("case", MEMBERS)
@pytest.mark.parametrize("gradient", ["unrolled", "discrete", "adjoint"])
def test_gradients_reach_the_weights_of_every_member_and_its_own_alone(case, gradient):
    ensemble, fields, y0 = make(case)
    tight = {"rtol": 1e-9, "atol": 1e-11, "per_sample": True}
    odekit.solve(ensemble, y0, T, gradient=gradient, **tight).y.square().sum().backward()
    for i, field in enumerate(fields):
        odekit.solve(field, y0[i : i + 1], T, **tight).y.square().sum().backward()
    reached, close = 0, 1e-4 if gradient == "adjoint" else 1e-8  # the adjoint solves anew
    for name, parameter in ensemble.named_parameters():
        for i, field in enumerate(fields):
            own = field.get_parameter(name.removeprefix("members.field.")).grad
            got = parameter.grad
            own = torch.zeros_like(parameter[i]) if own is None else own
            got = torch.zeros_like(own) if got is None else got[i]
            torch.testing.assert_close(got, own, rtol=close, atol=close / 10)
            reached += bool(own.any())
    assert reached >= COUNT


@pytest.mark.parametrize("case", MEMBERS)
def test_one_step_size_for_all_and_states_with_more_axes(case):
    ensemble, fields, y0 = make(case)
    many = torch.stack([y0, 0.5 * y0, -y0], dim=1)
    tight = {"rtol": 1e-10, "atol": 1e-12}
    together = odekit.solve(ensemble, many, T, **tight).y
    for i, field in enumerate(fields):
        expected = odekit.solve(field, many[i], T, **tight).y
        torch.testing.assert_close(together[:, i], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("case", MEMBERS)
def test_the_compiler_takes_it_whole(case):
    ensemble, _, y0 = make(case)
    y, t = ensemble.lift(y0).detach(), torch.tensor(0.3, dtype=DOUBLE)
    torch.compiler.reset()
    compiled = torch.compile(ensemble, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(t, y), ensemble(t, y))
    torch.testing.assert_close(compiled(t.expand(COUNT), y), ensemble(t.expand(COUNT), y))


@pytest.mark.parametrize("case", ["mlp", "augmented"])
def test_it_is_a_function_of_its_weights_under_torch_func(case):
    ensemble, _, y0 = make(case)
    y, t = ensemble.lift(y0).detach(), torch.tensor(0.3, dtype=DOUBLE)
    weights = {name: p.detach() for name, p in ensemble.named_parameters()}

    def loss(weights):
        return torch.func.functional_call(ensemble, weights, (t, y)).square().sum()

    found = torch.func.grad(loss)(weights)
    ensemble(t, y).square().sum().backward()
    for name, parameter in ensemble.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad)


def test_tuples_shared_weights_and_buffers():
    fields = [Pair(0.1 * i) for i in range(COUNT)]
    ensemble = odekit.create("field", "ensemble", fields=fields)
    assert [tuple(p.shape) for p in ensemble.parameters()] == [(COUNT, 2, 2)]
    y0 = (torch.ones(COUNT, 2, dtype=DOUBLE), torch.zeros(COUNT, 2, dtype=DOUBLE))
    together = odekit.solve(ensemble, y0, T, per_sample=True).y
    for i, field in enumerate(fields):
        expected = odekit.solve(field, (y0[0][i], y0[1][i]), T).y
        for ours, theirs in zip(together, expected, strict=True):
            torch.testing.assert_close(ours[:, i], theirs, rtol=1e-9, atol=1e-10)


def test_a_copy_a_pickle_and_weights_of_another_dtype_hold_together():
    ensemble, _, y0 = make("augmented")
    t, y = torch.tensor(0.3, dtype=DOUBLE), ensemble.lift(y0)
    for other in (copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        assert torch.equal(other(t, y), ensemble(t, y))
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(2.0)
        assert not torch.allclose(other(t, y), ensemble(t, y))
        expected = torch.stack([other.member(i)(t, y[i]) for i in range(COUNT)])
        torch.testing.assert_close(other(t, y), expected)
    single = copy.deepcopy(ensemble).float()
    torch.testing.assert_close(single(t.float(), y.float()), ensemble(t, y).float())


def test_a_member_is_independent_and_trained_weights_are_in_it():
    ensemble, fields, y0 = make("hamiltonian")
    t = torch.tensor(0.3, dtype=DOUBLE)
    member = ensemble.member(2)
    torch.testing.assert_close(member(t, y0[2]), fields[2](t, y0[2]))
    with torch.no_grad():
        for p in member.parameters():
            p.zero_()
    torch.testing.assert_close(ensemble(t, y0)[2], fields[2](t, y0[2]))


def test_all_members_learn_at_once():
    truth = torch.tensor([0.5, 1.0, 1.5], dtype=DOUBLE)
    fields = [odekit.create("field", "linear", dim=1, seed=i, dtype="float64") for i in range(3)]
    ensemble = odekit.create("field", "ensemble", fields=fields)
    seen = torch.exp(-truth * T[:, None])[..., None]
    optimizer = torch.optim.LBFGS(ensemble.parameters(), max_iter=60, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        y = odekit.solve(ensemble, seen[0], T, per_sample=True).y
        loss = (y - seen).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    rates = next(ensemble.parameters()).detach().reshape(-1)
    torch.testing.assert_close(rates, -truth, rtol=1e-4, atol=1e-5)


def test_its_cost_in_calls_does_not_grow_with_the_members():
    def calls(count):
        fields = [odekit.create("field", "hamiltonian", dim=1, seed=i) for i in range(count)]
        ensemble = odekit.create("field", "ensemble", fields=fields)
        with torch.profiler.profile() as profile:
            ensemble(torch.tensor(0.0), torch.ones(count, 2))
        return sum(event.count for event in profile.key_averages() if event.key == "aten::tanh")

    assert calls(2) == calls(9)


@pytest.mark.parametrize("case", ["mlp", "augmented"])
def test_a_recipe_builds_it_again(case):
    ensemble, _, y0 = make(case)
    again = Recipe.of_plain(ensemble.recipe.plain()).build()
    again.load_state_dict(ensemble.state_dict())
    t, y = torch.tensor(0.3, dtype=DOUBLE), ensemble.lift(y0)
    assert torch.equal(again(t, y), ensemble(t, y))
    assert odekit.create("field", "ensemble", fields=[oscillator(0)]).recipe is None


def test_members_that_differ_in_more_than_weights_are_refused():
    def refused(fields, what):
        with pytest.raises(odekit.IncompatibleError, match=what):
            odekit.create("field", "ensemble", fields=fields)

    mlp = odekit.create("field", "mlp", dim=2, width=8)
    refused([mlp, odekit.create("field", "mlp", dim=2, width=9)], r"fields\[1\] differs")
    refused([mlp, odekit.create("field", "mlp", dim=2, width=8, activation="silu")], "activation")
    refused([mlp, odekit.create("field", "linear", dim=2)], "its type")
    other = odekit.Equations(["x", "v"], [("x", "v", 1.0), ("v", "sin(x)", 1.0)]).field()
    ours = odekit.Equations(["x", "v"], [("x", "v", 1.0), ("v", "x", 1.0)]).field()
    refused([ours, other], "program")
    refused([lambda t, y: y], r"fields\[0\] must be an nn.Module with weights")


def scaled(k):
    return lambda y: k * y


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (scaled(1.0), scaled(1.0), True),
        (scaled(1.0), scaled(2.0), False),
        (functools.partial(torch.mul, other=1.0), functools.partial(torch.mul, other=1.0), True),
        (functools.partial(torch.mul, other=1.0), functools.partial(torch.mul, other=2.0), False),
        (torch.tanh, torch.tanh, True),
        (torch.tanh, torch.sin, False),
        (np.array([1.0, 2.0]), np.array([1.0, 2.0]), True),
        (np.array([1.0, 2.0]), np.array([1.0, 3.0]), False),
        (torch.ones(2), torch.ones(2), True),
        (torch.ones(2), torch.zeros(2), False),
        ({"a": [1, "b"]}, {"a": [1, "b"]}, True),
        ({"a": [1, "b"]}, {"a": [1, "c"]}, False),
        (Recipe("mlp", {"dim": 1}), Recipe("mlp", {"dim": 1}), True),
        (Recipe("mlp", {"dim": 1}), Recipe("mlp", {"dim": 2}), False),
        (Fraction(1, 2), Fraction(1, 2), True),
        (Fraction(1, 2), Fraction(1, 3), False),
    ],
)
def test_what_is_no_weight_has_to_be_the_same(ours, theirs, same):
    fields = [odekit.create("field", "linear", dim=1, seed=i) for i in range(2)]
    for field, value in zip(fields, (ours, theirs), strict=True):
        field.extra = value
    if same:
        assert len(odekit.create("field", "ensemble", fields=fields)) == 2
    else:
        with pytest.raises(odekit.IncompatibleError, match="in extra"):
            odekit.create("field", "ensemble", fields=fields)


def test_what_is_no_ensemble_says_what_to_write():
    with pytest.raises(odekit.ProblemError, match="fields is empty"):
        odekit.create("field", "ensemble", fields=[])
    mlp = odekit.create("field", "mlp", dim=2, width=8)
    with pytest.raises(odekit.ProblemError, match="leave count out"):
        odekit.create("field", "ensemble", fields=[mlp, mlp], count=2)
    with pytest.raises(odekit.ProblemError, match="count must be a positive integer"):
        odekit.create("field", "ensemble", fields=mlp, count=0)
    ensemble = odekit.create("field", "ensemble", fields=mlp, count=3)
    assert len(ensemble) == 3
    with pytest.raises(odekit.ProblemError, match="3 rows"):
        odekit.solve(ensemble, torch.ones(2), [0.0, 1.0])
    with pytest.raises(odekit.ProblemError, match="3 rows"):
        ensemble(torch.tensor(0.0), torch.tensor(1.0))


def test_a_projection_with_weights_is_refused():
    ensemble = odekit.create("field", "ensemble", fields=[Readout(i) for i in range(3)])
    with pytest.raises(odekit.IncompatibleError, match="project of Readout depends on weights"):
        odekit.solve(ensemble, torch.ones(3, 2, dtype=DOUBLE), [0.0, 1.0])
