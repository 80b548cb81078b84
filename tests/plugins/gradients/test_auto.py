"""Which method ``auto`` picks, that what it picks is exact, and what its measure is worth."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import odekit
from odekit.live_bytes import LiveBytes
from odekit.testing.gradient_cases import gradient_case

DOUBLE = torch.float64


def auto(budget):
    return odekit.create("gradient", "auto", memory_budget=budget)


class Net(nn.Module):
    def __init__(self, dim=8, width=32):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(dim, width), nn.Tanh(), nn.Linear(width, dim)).double()
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return self.net(y)


def gradient_of(field, gradient, **options):
    torch.manual_seed(1)
    y0 = torch.randn(16, 8, dtype=DOUBLE, requires_grad=True)
    solution = odekit.solve(field, y0, [0.0, 1.0, 10.0], gradient=gradient, **options)
    found = torch.autograd.grad(solution.y.square().mean(), [y0, *field.parameters()])
    return solution.stats, torch.cat([x.flatten() for x in found])


BUDGETS = {"1GB": "unrolled", "1.5MB": "discrete", "300KB": "checkpointed"}
FIXED = {"solver": "rk4", "step_size": 0.1}


@pytest.mark.parametrize(("budget", "expected"), BUDGETS.items())
def test_the_budget_decides_and_the_gradient_stays(budget, expected):
    _, truth = gradient_of(Net(), "unrolled", **FIXED)
    stats, found = gradient_of(Net(), auto(budget), **FIXED)
    assert stats.gradient == expected
    assert (found - truth).norm() < 1e-12 * truth.norm()


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("budget", ["1GB", "3MB", "500KB"])
def test_adaptive_steps(budget, per_sample):
    options = {"rtol": 1e-9, "atol": 1e-9, "per_sample": per_sample}
    _, truth = gradient_of(Net(), "unrolled", **options)
    stats, found = gradient_of(Net(), auto(budget), **options)
    assert (stats.gradient == "unrolled") == (budget == "1GB")
    assert (found - truth).norm() < 1e-11 * truth.norm()


@pytest.mark.parametrize("name", ["linear", "time_dependent", "pytree", "complex"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("budget", [250_000, 500_000])
def test_every_source_in_the_lean_methods(name, per_sample, budget):
    case = gradient_case(name, per_sample)
    truth = case.gradients("tsit5", "unrolled")
    found = case.gradients("tsit5", auto(budget))
    for key, wanted in truth.items():
        assert (found[key] - wanted).norm() <= 1e-9 * wanted.norm(), key


def test_evaluations_of_attempts_given_up_are_counted():
    field = Net()
    torch.manual_seed(1)
    y0 = torch.randn(16, 8, dtype=DOUBLE, requires_grad=True)
    stats = odekit.solve(field, y0, [0.0, 10.0], gradient=auto("300KB"), **FIXED).stats
    assert stats.gradient == "checkpointed"
    steps_of_a_sixteenth = int(stats.evaluations) - 400
    assert 0 < steps_of_a_sixteenth < 100
    # Beside the solve, a look at the field, or at one step, to see what it depends on.
    assert 0 <= field.calls - int(stats.evaluations) <= 8


def test_where_the_graph_fits_no_evaluation_is_spent_on_measuring():
    with_it, without = Net(), Net()
    for field, gradient in ((with_it, "auto"), (without, "unrolled")):
        gradient_of(field, gradient, **FIXED)
    assert with_it.calls == without.calls


def test_the_measure_is_what_the_tensors_take():
    from odekit_gradients.tape import NODE, Gauge

    field = Net()
    y = torch.randn(16, 8, dtype=DOUBLE, requires_grad=True)
    gauge = Gauge()
    y = field(0.0, y)
    gauge.added([y])
    with LiveBytes() as memory:
        z = field(0.0, y)
    nodes = 0
    waiting, seen = [z.grad_fn], {y.grad_fn}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # Weights are reached again, but their nodes are known.
        nodes += type(node).__name__ != "AccumulateGrad"
        waiting += [n for n, _ in node.next_functions]
    # All that is alive is saved, but the result itself; the input is saved on top.
    own = z.numel() * 8
    assert gauge.added([z]) - NODE * nodes == memory.alive - own + y.numel() * 8


def test_dense_output_is_never_checkpointed():
    field = Net()
    y0 = torch.ones(16, 8, dtype=DOUBLE, requires_grad=True)
    solution = odekit.solve(field, y0, [0.0, 10.0], gradient=auto("300KB"), dense=True, **FIXED)
    assert solution.stats.gradient == "discrete"
    (found,) = torch.autograd.grad(solution(3.33).sum(), y0)
    plain = odekit.solve(field, y0, [0.0, 10.0], dense=True, **FIXED)
    (truth,) = torch.autograd.grad(plain(3.33).sum(), y0)
    assert (found - truth).norm() < 1e-12 * truth.norm()


def test_fields_that_differentiate_inside():
    field = odekit.create("field", "hamiltonian", dim=1).double()
    y0 = torch.tensor([[1.0, 0.5]], dtype=DOUBLE, requires_grad=True)
    found = {}
    for gradient in ("unrolled", auto("400KB")):
        solution = odekit.solve(field, y0, [0.0, 5.0], gradient=gradient, step_size=0.05)
        loss = solution.y.square().sum()
        found[solution.stats.gradient] = torch.autograd.grad(loss, y0)[0]
    assert len(found) == 2
    lean = next(x for name, x in found.items() if name != "unrolled")
    assert (lean - found["unrolled"]).norm() < 1e-11 * lean.norm()


def test_transforms_are_unrolled():
    def end(a):
        solution = odekit.solve(
            lambda t, y: a * y, torch.ones(1, dtype=DOUBLE), [0.0, 1.0],
            gradient=auto(1), step_size=0.05, solver="rk4",
        )  # fmt: skip
        assert solution.stats.gradient == "unrolled"
        return solution.y[-1].sum()

    a = torch.tensor(0.5, dtype=DOUBLE)
    assert abs(float(torch.func.grad(end)(a)) - float(a.exp())) < 1e-6


def test_a_budget_too_small_for_a_step_is_refused():
    with pytest.raises(odekit.ProblemError, match="too small"):
        gradient_of(Net(), auto(100), **FIXED)
    with pytest.raises(odekit.ProblemError, match="200MB"):
        auto("a lot")


def test_a_graph_that_was_given_up_is_gone():
    field = Net()
    y0 = torch.ones(16, 8, dtype=DOUBLE, requires_grad=True)
    with LiveBytes() as memory:
        solution = odekit.solve(field, y0, [0.0, 10.0], gradient=auto("300KB"), **FIXED)
        assert memory.peak < 400_000
    seen = weakref.ref(solution)
    del solution
    gc.collect()
    assert seen() is None
    assert memory.alive == 0


@pytest.mark.parametrize("name", ["unrolled", "discrete", "checkpointed", "adjoint"])
def test_stats_name_the_method(name):
    y0 = torch.ones(2, dtype=DOUBLE, requires_grad=True)
    for gradient in (name, odekit.create("gradient", name)):
        solution = odekit.solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=gradient)
        assert solution.stats.gradient == name
