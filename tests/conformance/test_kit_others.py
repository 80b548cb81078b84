"""The kit on wrong controllers, gradient methods, fields, systems, post-processors and plugins."""

from __future__ import annotations

import types
from dataclasses import replace

import pytest
import torch
from torch import nn

import odekit
from odekit import Decision, GradientMethod, PostProcessor, StepController, Trait
from odekit.plugin import Component, Kind, hookimpl
from odekit.testing import (
    ControllerConformance,
    FieldConformance,
    GradientConformance,
    PluginConformance,
    PostProcessorConformance,
    SystemConformance,
    check_component,
)


def failed(parent, maker, only=None):
    class Suite(parent):
        def make(self):
            return maker()

    return {result.check for result in Suite().run(only) if not result.passed}


class Halving(StepController):
    """A right controller in the fewest lines: half the step on failure, a tenth more else."""

    solver_needs = Trait.ERROR_ESTIMATE
    rtol, atol = 1e-6, 1e-8

    def with_tolerances(self, rtol, atol):
        bound = type(self)()
        bound.rtol, bound.atol = rtol, atol
        return bound

    def init(self, solver, field, t, y, span):
        reach = 1e-2 * (span[..., -1] - span[..., 0])
        return (float(reach) if t.dim() == 0 else reach), None

    def decide(self, solver, h, y0, y1, error, state):
        lanes = isinstance(h, torch.Tensor)
        q = odekit.error_norm(error, y0, y1, self.rtol, self.atol, lanes=lanes)
        if lanes:
            return Decision(q <= 1, torch.where(q <= 1, 1.1 * h, 0.5 * h), state)
        return Decision(q <= 1, (1.1 if q <= 1 else 0.5) * h, state)


class Trusting(Halving):
    """It accepts everything."""

    def decide(self, *arguments):
        accept, h, state = super().decide(*arguments)
        return Decision(True if isinstance(accept, bool) else accept | True, h, state)


class Unsigned(Halving):
    def decide(self, *arguments):
        accept, h, state = super().decide(*arguments)
        return Decision(accept, abs(h), state)


class MixedLanes(Halving):
    """One bad lane rejects them all."""

    def decide(self, *arguments):
        accept, h, state = super().decide(*arguments)
        return Decision(accept if isinstance(accept, bool) else accept & accept.all(), h, state)


class Remembering(Halving):
    count = 0

    def decide(self, *arguments):
        self.count += 1
        accept, h, state = super().decide(*arguments)
        return Decision(accept, h * 0.9**self.count, state)


@pytest.mark.parametrize(
    ("controller", "must", "may"),
    [
        (Halving, set(), set()),
        (Trusting, {"accept_reject"}, {"solve"}),
        (Unsigned, {"signed", "solve"}, {"accept_reject", "step_times"}),
        (MixedLanes, {"lanes"}, {"lanes_solve"}),
        (Remembering, {"immutable"}, {"accept_reject", "signed", "lanes", "lanes_solve", "solve"}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_controllers(controller, must, may):
    found = failed(ControllerConformance, controller)
    assert must <= found <= must | may


class Recorded(GradientMethod):
    """A right gradient method: autograd through the steps."""

    def solve(self, problem, integrate):
        return integrate(problem)


class WithoutStart(Recorded):
    def solve(self, problem, integrate):
        return integrate(replace(problem, y0=problem.y0.detach()))


class WithoutTimes(Recorded):
    def solve(self, problem, integrate):
        return integrate(replace(problem, t=problem.t.detach()))


class Hoarding(Recorded):
    kept = []  # noqa: RUF012 - the fault itself

    def solve(self, problem, integrate):
        self.kept.append(problem)
        return integrate(problem)


AGAINST_DIFFERENCES = {
    "linear", "linear_per_sample", "time_dependent", "time_dependent_per_sample", "pytree",
    "pytree_per_sample", "times_per_sample", "complex", "complex_per_sample",
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "must", "may"),
    [
        (Recorded, set(), set()),
        (WithoutStart, AGAINST_DIFFERENCES, {"dtypes", "no_grad", "failed_samples"}),
        (WithoutTimes, AGAINST_DIFFERENCES, {"dtypes"}),
        (Hoarding, {"nothing_kept_alive"}, set()),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_gradients(method, must, may):
    found = failed(GradientConformance, method)
    assert must <= found <= must | may


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        with torch.no_grad():
            for p in self.layer.parameters():
                p.copy_(torch.arange(1.0, p.numel() + 1).sin().reshape(p.shape))

    def forward(self, t, y):
        return torch.tanh(self.layer(y))


class Centred(Net):
    """It subtracts the mean of the batch, so samples see one another."""

    def forward(self, t, y):
        return super().forward(t, y - y.mean(0) if y.dim() > 1 else y)


class Cut(Net):
    def forward(self, t, y):
        return super().forward(t, y).detach() + 0.0 * y


class Noisy(Net):
    def forward(self, t, y):
        return super().forward(t, y) + 1e-12 * torch.randn_like(y)


class Narrow(Net):
    def forward(self, t, y):
        return super().forward(t, y).to(torch.float32)


@pytest.mark.parametrize(
    ("field", "must", "may"),
    [
        (Net, set(), set()),
        (Centred, {"samples_apart", "solve"}, {"torch_func", "time_per_sample"}),
        (Cut, {"parameter_gradients"}, set()),
        (Noisy, {"pure"}, None),
        (Narrow, {"slope"}, None),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_fields(field, must, may):
    found = failed(FieldConformance, field)
    assert must <= found
    if may is not None:
        assert found <= must | may


class Spring:
    """A right system, whose parts the wrong ones replace."""

    names, parameters, span = ("x", "v"), {"rate": 2.0}, (0.0, 3.0)
    slope = "-2*x"

    def __init__(self):
        self.y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def field(self):
        return lambda t, y: torch.stack([y[..., 1], -2.0 * y[..., 0]], -1)

    def sympy(self):
        import sympy

        return {"x": sympy.Symbol("v"), "v": sympy.sympify(self.slope)}

    def series(self, n=150, noise=0.05, drop=0.5, seed=0, y0=None):
        generator = torch.Generator().manual_seed(seed)
        t = torch.linspace(*self.span, n, dtype=torch.float64)
        start = self.y0 if y0 is None else y0
        y = odekit.solve(self.field(), start, t, rtol=1e-9, atol=1e-11).y
        keep = torch.randperm(n, generator=generator)[: n - int(drop * n)].sort().values
        random = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        return odekit.TimeSeries(t[keep], (y + noise * y.std(0) * random)[keep], names=self.names)


class WrongFormula(Spring):
    slope = "-2.1*x"


class LoudSpring(Spring):
    def series(self, noise=0.05, **options):
        return super().series(noise=2 * noise, **options)


class UnseededSpring(Spring):
    draws = 0

    def series(self, seed=0, **options):
        type(self).draws += 1
        return super().series(seed=seed + self.draws, **options)


@pytest.mark.parametrize(
    ("system", "must"),
    [
        (Spring, set()),
        (WrongFormula, {"sympy"}),
        (LoudSpring, {"noise"}),
        (UnseededSpring, {"series"}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_systems(system, must):
    assert failed(SystemConformance, system) == must


class Constant(PostProcessor):
    """It finds the same equations in everything, in nothing too."""

    def process(self, field, solutions):
        return odekit.Equations(["x", "v"], [("x", "v", 1.0), ("v", "x", -2.0), ("v", "v", -0.3)])


def test_postprocessors():
    found = failed(PostProcessorConformance, Constant)
    assert found == {"polynomial", "refuses_nothing", "refuses_lost_rows"}


def _plugin(components, name="odekit_made_up"):
    module = types.ModuleType(name)

    @hookimpl
    def odekit_components():
        return components

    module.odekit_components = odekit_components
    return module


RIGHT = Component(Kind.SOLVER, "mine", "odekit_rk.bosh3:Bosh3", "a summary")


@pytest.mark.parametrize(
    "wrong",
    [
        replace(RIGHT, path="odekit_rk.bosh3:Missing"),
        replace(RIGHT, path="odekit_control.fixed:Fixed"),
        replace(RIGHT, name="Not A Name"),
        replace(RIGHT, summary=""),
    ],
)
def test_plugin_components(wrong):
    def check(components):
        return failed(PluginConformance, lambda: _plugin(components), "components")

    assert check([RIGHT]) == set()
    assert check([RIGHT, wrong]) == {"components"}
    assert check([RIGHT, RIGHT]) == {"components"}


def test_plugin_with_an_unknown_hook():
    module = _plugin([RIGHT])
    assert failed(PluginConformance, lambda: module, "hooks") == set()

    @hookimpl
    def odekit_componets():
        return []

    module.odekit_componets = odekit_componets
    assert failed(PluginConformance, lambda: module, "hooks") == {"hooks"}
    assert failed(PluginConformance, lambda: types.ModuleType("empty"), "hooks") == {"hooks"}


def test_plugin_that_imports_its_components_early(tmp_path, monkeypatch):
    (tmp_path / "eager_plugin.py").write_text(
        "from odekit.plugin import Component, Kind, hookimpl\n"
        "import odekit_rk.bosh3\n"
        "@hookimpl\n"
        "def odekit_components():\n"
        "    return [Component(Kind.SOLVER, 'mine', 'odekit_rk.bosh3:Bosh3', 'a summary')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import importlib

    assert failed(PluginConformance, lambda: importlib.import_module("eager_plugin")) == {"light"}


def test_check_component_is_a_table():
    results = check_component("controller", "control:fixed")
    assert {"announcement", "class", "lanes", "solve"} <= {r.check for r in results}
    assert all(r.passed for r in results)
    assert all("\n" not in r.detail for r in results)
    with pytest.raises(odekit.UnknownNameError, match="did you mean 'fixed'"):
        check_component("controller", "fixt")
