"""Trained fields through PySINDy: the true terms and no other, whatever the state looks like."""

from __future__ import annotations

import numpy as np
import pysindy
import pytest
import torch
from scipy.stats import t as student

import odekit
from odekit import DiscoveryError, Field, IncompatibleError, ProblemError
from odekit_sindy.averaging import average
from odekit_sindy.sampling import Sampler, join, split, traces
from odekit_sindy.selection import choose
from odekit_sindy.sindy import Sindy, covariance, readable

A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
SPIRAL = {("x", "x**3"): -0.1, ("x", "y**3"): 2.0, ("y", "x**3"): -2.0, ("y", "y**3"): -0.1}


class Wrong(torch.nn.Module):
    """The cubic spiral with a smooth error of several per cent, as a trained network has."""

    def __init__(self, size):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.size = size
        self.wave = 6 * torch.randn(2, 8, generator=generator, dtype=torch.float64)
        self.phase = 6 * torch.rand(8, generator=generator, dtype=torch.float64)
        self.mix = torch.randn(8, 2, generator=generator, dtype=torch.float64) / 2

    def forward(self, t, y):
        right = y**3 @ A.T
        bump = torch.sin(y @ self.wave + self.phase) @ self.mix
        return right + self.size * right.abs() * bump


def solve(field, n=250, end=25.0, y0=(2.0, 0.0)):
    start = torch.tensor(y0, dtype=torch.float64)
    return odekit.solve(field, start, torch.linspace(0, end, n, dtype=torch.float64))


def values(equations):
    return {(t.equation, t.term): t.value for t in equations.terms}


def exact(t, y):
    return y**3 @ A.T


def test_an_exact_field_gives_its_equations_to_many_digits():
    equations = odekit.postprocess(exact, solve(exact), "sindy", names=["x", "y"])
    assert values(equations) == pytest.approx(SPIRAL, rel=1e-6)
    assert equations.confident
    assert equations.score[0] > 0.9999


def test_a_field_that_is_wrong_everywhere_still_gives_the_true_terms():
    field = Wrong(0.05)
    solution = solve(field)
    error = field(0, solution.y) - exact(0, solution.y)
    assert float((error.square().mean() / exact(0, solution.y).square().mean()).sqrt()) > 0.02
    equations = odekit.postprocess(field, solution, "sindy", names=["x", "y"])
    assert values(equations).keys() == SPIRAL.keys()


@pytest.mark.parametrize("optimizer", ["best_subset", "stlsq", "sr3", "ssr"])
def test_named_optimizers(optimizer):
    equations = Sindy(optimizer=optimizer, names=["x", "y"]).process(exact, [solve(exact)])
    assert values(equations) == pytest.approx(SPIRAL, rel=1e-3)


def test_pysindy_objects_are_used_as_they_are():
    library = pysindy.PolynomialLibrary(degree=3, include_bias=False)
    optimizer = pysindy.STLSQ(threshold=0.05)
    equations = Sindy(library, optimizer, names=["x", "y"]).process(exact, [solve(exact)])
    model = pysindy.SINDy(optimizer=pysindy.STLSQ(threshold=0.05), feature_library=library)
    y = solve(exact).y.numpy()
    model.fit(y, t=np.linspace(0, 25, 250), x_dot=exact(0, torch.tensor(y)).numpy())
    count = np.count_nonzero(model.coefficients())
    assert len(equations.terms) == count
    assert values(equations) == pytest.approx(SPIRAL, rel=0.02)


def test_waves_from_a_fourier_library():
    def pendulum(t, y):
        a, w = y.unbind(-1)
        return torch.stack([w, -2 * torch.sin(a) - 0.25 * w], dim=-1)

    library = pysindy.PolynomialLibrary(1) + pysindy.FourierLibrary(1)
    found = Sindy(library, names=["a", "w"]).process(
        pendulum, [solve(pendulum, 200, 15.0, (2.5, 0.0))]
    )
    expected = {("a", "w"): 1.0, ("w", "w"): -0.25, ("w", "sin(1*a)"): -2.0}
    assert values(found) == pytest.approx(expected, rel=1e-4)
    assert found.sympy()["w"].subs({"a": 0.5, "w": 0.0}) == pytest.approx(
        -2 * np.sin(0.5), rel=1e-4
    )


def test_functions_without_a_readable_name_are_refused():
    library = pysindy.CustomLibrary([lambda x: x**3])
    with pytest.raises(DiscoveryError, match="give its functions names"):
        Sindy(library).process(exact, [solve(exact)])


@pytest.mark.parametrize("state", ["tuple", "list", "dict"])
def test_states_of_several_tensors_are_joined(state):
    pack = {
        "tuple": lambda q, p: (q, p),
        "list": lambda q, p: [q, p],
        "dict": lambda q, p: {"q": q, "p": p},
    }[state]

    def spring(t, y):
        q, p = y.values() if state == "dict" else y
        return pack(p, -4 * q)

    start = pack(*torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    solution = odekit.solve(spring, start, torch.linspace(0, 6, 80, dtype=torch.float64))
    found = Sindy(names=["q", "p"]).process(spring, [solution])
    assert values(found) == pytest.approx({("q", "p"): 1.0, ("p", "q"): -4.0}, rel=1e-5)


def test_a_batch_is_several_trajectories_and_a_number_is_one_state():
    start = torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    solution = odekit.solve(exact, start, torch.linspace(0, 10, 100, dtype=torch.float64))
    found = Sindy(names=["x", "y"]).process(exact, [solution])
    assert values(found) == pytest.approx(SPIRAL, rel=1e-6)
    assert len(found.score) == 2

    def decay(t, y):
        return -0.5 * y

    number = odekit.solve(decay, torch.tensor(3.0, dtype=torch.float64), [0.0, 1.0, 2.0, 3.0])
    assert values(Sindy(names=["c"]).process(decay, [number])) == pytest.approx({("c", "c"): -0.5})


def test_a_solve_backwards_in_time_counts_too():
    t = torch.linspace(6, 0, 80, dtype=torch.float64)
    solution = odekit.solve(exact, torch.tensor([0.5, 0.5], dtype=torch.float64), t)
    assert values(Sindy(names=["x", "y"]).process(exact, [solution])) == pytest.approx(
        SPIRAL, rel=1e-5
    )


def test_a_field_that_lifts_is_described_in_the_state_it_integrates():
    class Oscillator(Field):
        def lift(self, x):
            return torch.cat([x, torch.zeros_like(x)], dim=-1)

        def project(self, y):
            return y[..., :1]

        def forward(self, t, y):
            return torch.stack([y[..., 1], -4 * y[..., 0] - 0.3 * y[..., 1]], dim=-1)

    field = Oscillator()
    solution = solve(field, 150, 10.0, (1.0,))
    assert solution.y.shape == (150, 1)
    found = Sindy(names=["x", "v"]).process(field, [solution])
    expected = {("x", "v"): 1.0, ("v", "x"): -4.0, ("v", "v"): -0.3}
    assert values(found) == pytest.approx(expected, rel=1e-4)


def test_fields_written_for_one_state_are_called_point_by_point():
    def single(t, y):
        x, v = y
        return torch.stack([v, -4 * x])

    sampler = Sampler.of(single, 2)
    x = np.random.default_rng(0).standard_normal((2, 2))
    np.testing.assert_allclose(sampler(np.zeros(2), x), np.stack([x[:, 1], -4 * x[:, 0]], 1))
    x = np.random.default_rng(0).standard_normal((7, 2))
    np.testing.assert_allclose(sampler(np.zeros(7), x), np.stack([x[:, 1], -4 * x[:, 0]], 1))


def test_joining_and_splitting_are_inverse():
    state = {"a": torch.randn(5, 3, 2), "b": torch.randn(5, 3, 1)}
    flat, layout = join(state)
    assert flat.shape == (5, 3, 3)
    again = split(flat, layout)
    assert all(torch.equal(again[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "state",
    [
        (torch.ones(3, 2), (torch.ones(3, 1),)),
        torch.ones(3, 2, dtype=torch.complex128),
        (torch.ones(3, 2), torch.ones(3, 4, 2)),
        "text",
    ],
)
def test_states_that_are_no_vectors_are_refused(state):
    with pytest.raises(IncompatibleError):
        join(state)


def test_averages_are_integrals_over_stretches():
    t = np.sort(np.random.default_rng(0).uniform(0, 10, 400))
    averaging = average([t, t[:50]], 1.0)
    rows = averaging.matrix @ np.concatenate([2 * t, np.ones(50)])
    last = np.searchsorted(t, t + 1.0 * (1 - 1e-9))
    kept = last < 400
    expected = t[kept] + t[last[kept]]  # the mean of 2 t between the ends
    np.testing.assert_allclose(rows[: kept.sum()], expected, rtol=1e-9)
    np.testing.assert_allclose(rows[kept.sum() :], 1.0)
    assert averaging.independent == pytest.approx((t[-1] - t[0]) + max(t[49] - t[0], 1.0))
    assert (average([t], 0.0).matrix @ t == t).all()


def test_averaging_makes_small_coefficients_reliable():
    field = Wrong(0.05)
    solution = solve(field)
    errors = []
    for length in (None, 0.0):
        library = pysindy.PolynomialLibrary(3)
        found = values(
            Sindy(library, "stlsq", 0.03, length, names=["x", "y"]).process(field, [solution])
        )
        errors.append(sum((found.get(k, 0.0) - v) ** 2 for k, v in SPIRAL.items()) ** 0.5)
    assert errors[0] < 0.7 * errors[1]


def test_size_grows_only_while_it_pays():
    generator = np.random.default_rng(0)
    a = generator.standard_normal((200, 6))
    y = a[:, 1] + 0.1 * a[:, 4] + 1e-3 * generator.standard_normal(200)
    assert choose(a, y, 200, 6) == (1, 4)
    assert choose(a, y + 0.3 * generator.standard_normal(200), 10, 6) == (1,)
    assert choose(a, np.zeros(200), 200, 6) == ()


def test_standard_errors_count_independent_observations():
    generator = np.random.default_rng(1)
    a = generator.standard_normal((300, 2)) * [1.0, 1e6]
    e = generator.standard_normal(300)
    block = covariance(a, e, 300)
    expected = (e @ e) / 298 * np.linalg.inv(a.T @ a)
    np.testing.assert_allclose(block, expected, rtol=1e-6)
    np.testing.assert_allclose(covariance(a, e, 30), block * 298 / 28, rtol=1e-6)
    assert covariance(a, e, 3) is None


def test_intervals_count_independent_observations_too():
    equations = odekit.postprocess(exact, solve(exact, end=5.0), "sindy", names=["x", "y"])
    most = max(sum(t.equation == name for t in equations.terms) for name in ("x", "y"))
    assert equations.degrees_of_freedom == equations.diagnostics["independent"] - most
    rows = equations.coefficients
    width = student.ppf(0.975, equations.degrees_of_freedom) * rows["stderr"]
    np.testing.assert_allclose(rows["high"] - rows["value"], width, rtol=1e-3)


def test_names_of_pysindy_become_formulas():
    assert readable("x^2 y") == "x**2*y"
    assert readable("sin(1 x)") == "sin(1*x)"
    assert readable("1") == "1"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"library": 0}, ProblemError, "degree from 1 to 10"),
        ({"library": "poly"}, ProblemError, "degree from 1 to 10"),
        ({"optimizer": "stslq"}, ProblemError, "did you mean 'stlsq'"),
        ({"optimizer": 3}, IncompatibleError, "PySINDy optimizer"),
        ({"threshold": -1}, ProblemError, "threshold must not be negative"),
        ({"densify": 0}, ProblemError, "densify must be an integer"),
        ({"names": ["x"]}, ProblemError, "a list of 2 names"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Sindy(**options).process(exact, [solve(exact, 30)])


def test_nothing_to_describe_is_said():
    with pytest.raises(DiscoveryError, match="at least one solution"):
        Sindy().process(exact, [])
    with pytest.raises(DiscoveryError, match="zero along all solutions"):
        Sindy().process(lambda t, y: 0 * y, [solve(exact, 30)])


def test_a_field_beyond_the_library_is_not_confident():
    def rough(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, -torch.sign(x) - 0.1 * v], dim=-1)

    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    t = torch.linspace(0, 8, 100, dtype=torch.float64)
    solution = odekit.solve(rough, start, t, rtol=1e-4, atol=1e-4)
    equations = Sindy(1).process(rough, [solution])
    assert not equations.confident
    assert equations.warnings


def test_traces_drop_rows_that_were_not_reached():
    solution = odekit.solve(
        lambda t, y: y**2,
        torch.tensor([1.0], dtype=torch.float64),
        torch.linspace(0, 2, 21, dtype=torch.float64),
        throw=False,
        max_steps=200,
    )
    (trace,), _ = traces(lambda t, y: y**2, [solution])
    assert len(trace.t) < 21
    assert np.isfinite(trace.y).all()
