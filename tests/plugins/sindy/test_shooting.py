"""Multiple shooting against SciPy's integrator and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
from scipy.integrate import solve_ivp

from odekit_sindy import course
from odekit_sindy.combination import Combination
from odekit_sindy.customs import Customs
from odekit_sindy.data import Dataset, Trajectory
from odekit_sindy.layout import arrange
from odekit_sindy.least_squares import damped_step
from odekit_sindy.library import Library
from odekit_sindy.models import Models
from odekit_sindy.shooting import Shooting

SUPPORT = (1, 4, 6 + 2, 6 + 4)  # Lotka-Volterra in Library(2, 2)
TRUE = np.array([1.5, -1.0, -3.0, 1.0])


def lotka_volterra(t, x):
    return [1.5 * x[0] - x[0] * x[1], -3 * x[1] + x[0] * x[1]]


def dataset(seed=0, sizes=(23, 17), missing=0.1, noise=0.0):
    generator = np.random.default_rng(seed)
    parts = []
    for i, n in enumerate(sizes):
        t = np.sort(generator.uniform(0, 4, n))
        t = t - t[0]
        x = solve_ivp(lotka_volterra, (0, 4), (5 - i, 2 + i), t_eval=t, rtol=1e-11, atol=1e-12)
        y = x.y.T + noise * generator.standard_normal((n, 2))
        y[generator.random((n, 2)) < missing] = np.nan
        parts.append(Trajectory(t, y, np.zeros((n, 0))))
    return Dataset(tuple(parts), ("x", "y"))


def shape_of(data, seed=1):
    generator = np.random.default_rng(seed)
    return tuple(generator.uniform(0.5, 2, part.y.shape) for part in data.trajectories)


@pytest.fixture
def problem():
    data = dataset()
    shooting = Shooting(arrange(data, shape_of(data)), Library(2, 2), substeps=4)
    generator = np.random.default_rng(2)
    start = generator.uniform(1, 4, (2, shooting.layout.segments))
    return shooting, start


def test_every_value_lies_in_exactly_one_segment():
    data = dataset()
    shape = shape_of(data)
    layout = arrange(data, shape)
    for part, h, where in zip(data.trajectories, shape, layout.place, strict=True):
        node, segment = where.T
        seen = np.isfinite(part.y)
        np.testing.assert_array_equal(layout.y[node, :, segment][seen], part.y[seen])
        np.testing.assert_allclose(layout.weight[node, :, segment], np.where(seen, 1 / h, 0))
    assert (layout.weight > 0).sum() == np.isfinite(data.stacked).sum()
    np.testing.assert_array_equal(layout.counts, np.isfinite(data.stacked).sum(0))
    logs = sum(
        np.log(h)[np.isfinite(p.y)].sum() for p, h in zip(data.trajectories, shape, strict=True)
    )
    assert layout.log_shape == pytest.approx(logs)


def test_segments_join_inside_a_trajectory_and_never_across():
    layout = arrange(dataset(), shape_of(dataset()))
    assert layout.linked.sum() == layout.segments - 2
    lengths = (layout.step > 0).sum(0)
    assert lengths.sum() == 22 + 16
    assert lengths.min() >= 4
    assert lengths.max() <= 6


def test_many_rows_make_longer_segments_not_more():
    n = 3000
    t = np.arange(float(n))
    data = Dataset((Trajectory(t, np.sin(t)[:, None], np.zeros((n, 0))),), ("x",))
    assert arrange(data, (np.ones((n, 1)),)).segments <= 61


def test_integration_agrees_with_scipy(problem):
    shooting, start = problem
    models = Models.of([SUPPORT], [TRUE], [start], 6)
    nodes, _ = shooting.integrate(models, substeps=32)
    for s in range(shooting.layout.segments):
        t = np.concatenate([[0], np.cumsum(shooting.layout.step[:, s])])
        x = solve_ivp(
            lotka_volterra, (0, t[-1]), start[:, s], rtol=1e-11, atol=1e-12, dense_output=True
        ).sol(t)
        np.testing.assert_allclose(nodes[:, 0, :, s], x.T, rtol=2e-5, atol=2e-5)


def test_the_jacobian_is_the_slope_of_the_residual(problem):
    shooting, start = problem
    models = Models.of([SUPPORT], [1.1 * TRUE], [start], 6).widened()
    sigma = np.array([[0.3, 0.7]])
    _, jac = shooting.dense(models, sigma, 5.0)
    box = np.full(2, 1e9)
    generator = np.random.default_rng(3)
    for _ in range(5):
        step = generator.standard_normal(jac.shape[1])
        high, low = (
            shooting.dense(models.moved(e * step[None], -box, box), sigma, 5.0)[0]
            for e in (1e-6, -1e-6)
        )
        np.testing.assert_allclose(jac @ step, (high - low) / 2e-6, rtol=1e-5, atol=1e-4)


def test_normal_equations_are_those_of_the_dense_problem(problem):
    shooting, start = problem
    supports = [SUPPORT, (0, 3, 6)]
    values = [TRUE, np.array([0.1, 0.2, -0.3])]
    models = Models.of(supports, values, [start, start + 0.1], 6)
    sigma = np.array([[0.3, 0.7], [1.0, 0.2]])
    normal = shooting.normal(models, sigma, 5.0)
    n_state = 2 * shooting.layout.segments
    for b, support in enumerate(supports):
        one = Models.of([support], [values[b]], [models.start[b]], 6)
        r, jac = shooting.dense(one, sigma[[b]], 5.0)
        columns = n_state + len(support)
        assert normal.cost[b] == pytest.approx(r @ r, rel=1e-10)
        np.testing.assert_allclose(
            normal.h[b, :columns, :columns], jac.T @ jac, rtol=1e-9, atol=1e-9
        )
        np.testing.assert_allclose(normal.g[b, :columns], jac.T @ r, rtol=1e-9, atol=1e-9)
        assert not normal.h[b, columns:].any()


def test_fit_recovers_the_coefficients_of_clean_data_from_afar():
    data = dataset(missing=0.2)
    layout = arrange(data, tuple(np.ones_like(part.y) for part in data.trajectories))
    shooting = Shooting(layout, Library(2, 2), substeps=16)
    states = tuple(np.nan_to_num(part.y, nan=2.0) for part in data.trajectories)
    wrong = TRUE * np.array([0.5, 1.6, 0.6, 1.5])
    models = Models.of([SUPPORT], [wrong], [layout.starts(states)], 6)
    for tightness in (1.0, 10.0, 100.0):
        models = shooting.fit(models, np.ones((1, 2)), tightness, 30, tolerance=1e-10)
    np.testing.assert_allclose(models.c[0], TRUE, rtol=1e-4)


def test_models_in_a_batch_do_not_meet(problem):
    shooting, start = problem
    good = Models.of([SUPPORT], [1.2 * TRUE], [start], 6)
    wild = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    both = Models.of([SUPPORT, wild], [1.2 * TRUE, np.full(12, 9.0)], [start, start], 6)
    alone = shooting.fit(good, np.ones((1, 2)), 10.0, 8)
    together = shooting.fit(both, np.ones((2, 2)), 10.0, 8)
    np.testing.assert_allclose(together.c[0, :4], alone.c[0], rtol=1e-8)
    np.testing.assert_array_equal(together.c[0, 4:], 0.0)


def test_a_model_that_blows_up_stays_finite(problem):
    shooting, start = problem
    models = Models.of([(5, 6 + 3)], [np.array([1e5, 1e5])], [start], 6)
    normal = shooting.normal(models, np.ones((1, 2)), 100.0)
    assert np.isfinite(normal.h).all()
    assert np.isfinite(normal.cost).all()
    assert np.isfinite(shooting.fit(models, np.ones((1, 2)), 10.0, 5).c).all()


def test_inputs_are_interpolated_between_rows():
    t = np.linspace(0, 3, 40)
    u = np.interp(t, [0, 1, 3], [0, 2, -1])
    x = solve_ivp(
        lambda s, x: -x + np.interp(s, t, u),
        (0, 3),
        [1.0],
        t_eval=t,
        rtol=1e-10,
        atol=1e-12,
        max_step=0.01,
    ).y.T
    data = Dataset((Trajectory(t, x, u[:, None]),), ("x",), ("u",))
    shooting = Shooting(arrange(data, (np.ones((40, 1)),)), Library(1, 1, inputs=1), 4)
    models = Models.of([(1, 2)], [np.array([-1.0, 1.0])], [shooting.layout.starts((x,))], 3)
    rss, gaps = shooting.statistics(models)
    assert rss[0, 0] < 1e-10
    assert gaps[0, 0] < 1e-10


def test_substeps_rise_with_stiffness(problem):
    shooting, start = problem
    mild = Models.of([(1,)], [np.array([-0.1])], [start], 6)
    rough = Models.of([(2, 6 + 1)], [np.array([30.0, -30.0])], [start], 6)
    counts = [shooting.choose_substeps(m, np.full((1, 2), 0.01)) for m in (mild, rough)]
    assert counts[0] == 2
    assert counts[1] > 8


def test_damping_shortens_the_step_and_unused_columns_stay():
    h = np.array([[[4.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]])
    g = np.array([[1.0, 2.0, 0.0]])
    free = damped_step(h, g, np.array([0.0]))[0]
    np.testing.assert_allclose(free[:2], -np.linalg.solve(h[0, :2, :2], g[0, :2]), rtol=1e-9)
    assert free[2] == 0
    assert np.linalg.norm(damped_step(h, g, np.array([10.0]))) < np.linalg.norm(free)


class Counted:
    """A family that notes its calls: models and points of each, and whether tangents go along."""

    def __init__(self, inner):
        self.inner = inner
        self.bound, self.calls = [], []

    def bind(self, models, sensitivities):
        self.bound.append((sensitivities, len(models)))
        slope = self.inner.bind(models, sensitivities)

        def counted(point, z):
            self.calls.append((z is not None, point.shape[2]))
            return slope(point, z)

        return counted


def several(shooting, start, count=3):
    generator = np.random.default_rng(5)
    values = [TRUE * generator.uniform(0.7, 1.3, 4) for _ in range(count)]
    starts = [start * generator.uniform(0.8, 1.2, start.shape) for _ in range(count)]
    return Models.of([SUPPORT] * count, values, starts, 6)


@pytest.mark.parametrize("steps", [2, 3, 7, 1000])
def test_sensitivities_of_many_steps_at_once_are_those_of_one_after_another(
    problem, steps, monkeypatch
):
    shooting, start = problem
    models = several(shooting, start)
    numbers = models.start.size * 6
    monkeypatch.setattr(course, "AT_ONCE", numbers)
    nodes, one = shooting.integrate(models, sensitivities=True)
    monkeypatch.setattr(course, "AT_ONCE", steps * numbers)
    again, many = shooting.integrate(models, sensitivities=True)
    np.testing.assert_array_equal(again, nodes)
    np.testing.assert_allclose(many, one, rtol=1e-11, atol=1e-11)
    assert np.abs(one[-1]).max() > 1


def test_long_trajectories_are_followed_in_parts(problem, monkeypatch):
    shooting, start = problem
    models = several(shooting, start)
    nodes, whole = shooting.integrate(models, sensitivities=True)
    monkeypatch.setattr(course, "KEPT", 2 * 4 * 4 * 3 * 2 * shooting.layout.segments)
    again, parts = shooting.integrate(models, sensitivities=True)
    np.testing.assert_array_equal(again, nodes)
    np.testing.assert_allclose(parts, whole, rtol=1e-11, atol=1e-11)


def test_sensitivities_of_small_problems_take_few_calls(problem):
    shooting, start = problem
    family = Counted(shooting.dynamics)
    small = Shooting(shooting.layout, family, substeps=4)
    small.integrate(several(shooting, start), sensitivities=True)
    steps = 4 * len(shooting.layout.step)
    pushed = [points for with_tangents, points in family.calls if with_tangents]
    assert len(pushed) == 4
    assert pushed == [steps * shooting.layout.segments] * 4
    assert len(family.calls) == 4 + 4 * steps


def test_a_fit_asks_for_sensitivities_only_where_a_step_starts(problem):
    shooting, start = problem
    family = Counted(shooting.dynamics)
    sigma = np.full((3, 2), 0.1)
    models = several(shooting, start)
    plain = Shooting(shooting.layout, shooting.dynamics, 4).fit(models, sigma, 10.0, 12)
    fitted = Shooting(shooting.layout, family, 4).fit(models, sigma, 10.0, 12)
    np.testing.assert_array_equal(fitted.c, plain.c)
    tried = sum(count for tangents, count in family.bound if not tangents)
    linearised = sum(count for tangents, count in family.bound if tangents)
    assert 3 <= linearised <= tried - 3  # the last of each is never linearised
    # Gauss-Newton at the end: no gradient is left.
    normal = Shooting(shooting.layout, shooting.dynamics, 4).normal(fitted, sigma, 10.0)
    first = Shooting(shooting.layout, shooting.dynamics, 4).normal(models, sigma, 10.0)
    assert (np.abs(normal.g).max(1) < 1e-2 * np.abs(first.g).max(1)).all()


@pytest.mark.parametrize(
    "library",
    [
        *(Library(2, degree, inputs=1) for degree in (0, 1, 3, 5)),
        Library(2, 2, True, 1, np.array([0.7, 1.9])),
        Library(2, 2, True, 1, np.array([0.7, 1.9]), products=True),
        Library(2, 2, True, 1, np.array([0.7, 1.9]), ((1, -1.0, 2.0),)),
    ],
    ids=lambda library: library.name.replace(" ", "_"),
)
def test_slopes_without_tangents_take_the_used_functions_alone(library):
    generator = np.random.default_rng(3)
    points = generator.standard_normal((3, 3, 9))
    last = library.size - 1
    for few in (0, last):  # with the last function, and without it
        supports = [tuple(range(0, 2 * last, 2)) if few else (1, 3), (few,), ()]
        supports = [tuple(q for q in support if q < 2 * library.size) for support in supports]
        values = [generator.standard_normal(len(support)) for support in supports]
        models = Models.of(supports, values, np.zeros((3, 2, 4)), library.size)
        z = generator.standard_normal((3, 2, 2 + models.c.shape[1], 9))
        expected = Combination(models, library, True)(points, z)[0]
        found = Combination(models, library, False)(points, None)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert not found[2].any()


def test_slopes_of_formulas_are_those_with_tangents():
    symbols = sympy.symbols("x y")
    formulas = [sympy.sympify(text) for text in ("x**3", "sin(3*x)", "x*exp(-y)")]
    generator = np.random.default_rng(3)
    points = generator.standard_normal((1, 2, 9))
    units = np.array([2.0, 0.5])
    raw = points[0] * units[:, None]
    customs = Customs(formulas, [str(symbol) for symbol in symbols], units, 2, 0, raw)
    library = Library(2, 2, customs=customs)
    for support in ((1, 4), (1, library.size - 3), (library.size - 1,)):
        values = generator.standard_normal(len(support))
        models = Models.of([support], [values], np.zeros((1, 2, 4)), library.size)
        z = generator.standard_normal((1, 2, 2 + len(support), 9))
        expected = Combination(models, library, True)(points, z)[0]
        found = Combination(models, library, False)(points, None)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
