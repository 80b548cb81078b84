"""The trainable fields: closed forms, units, contexts in which a field is called, bad input."""

from __future__ import annotations

import copy

import pytest
import torch

import odekit
from odekit.training import Recipe

DOUBLE = torch.float64
FIELDS = {
    "mlp": ({"dim": 3}, 3),
    "mlp_time": ({"dim": 3, "time": True}, 3),
    "linear": ({"dim": 2, "bias": True}, 2),
    "augmented": ({"dim": 2, "extra": 2, "lift": "learned"}, 4),
    "second_order": ({"dim": 2, "velocity": "learned"}, 4),
    "hamiltonian": ({"dim": 2}, 4),
    "hamiltonian_separable": ({"dim": 2, "separable": True}, 4),
}


def make(case):
    options, width = FIELDS[case]
    name = case.removesuffix("_time").removesuffix("_separable")
    return odekit.create("field", name, **options), width


def points(width, count=5, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, width, generator=generator, dtype=dtype)


@pytest.mark.parametrize("case", FIELDS)
def test_a_time_per_sample_equals_one_time_for_all(case):
    field, width = make(case)
    y, t = points(width), torch.tensor(0.3, dtype=DOUBLE)
    shared = field(t, y)
    assert shared.shape == y.shape
    torch.testing.assert_close(field(t.expand(5), y), shared)
    torch.testing.assert_close(field(t, y[2]), shared[2])


@pytest.mark.parametrize("case", FIELDS)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_slope_has_the_dtype_of_the_state(case, dtype):
    field, width = make(case)
    y = points(width, dtype=dtype)
    assert field(torch.tensor(0.3), y).dtype == dtype


def test_float64_states_are_computed_in_float64():
    field, _ = make("mlp")
    wide = copy.deepcopy(field).double()
    y = points(3)
    torch.testing.assert_close(field(0 * y[0, 0], y), wide(0 * y[0, 0], y), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("case", FIELDS)
def test_a_field_works_without_gradients_and_under_the_compiler(case):
    field, width = make(case)
    y, t = points(width), torch.tensor(0.3, dtype=DOUBLE)
    expected = field(t, y).detach()
    with torch.no_grad():
        torch.testing.assert_close(field(t, y), expected)
    compiled = torch.compile(field, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(t, y).detach(), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("case", FIELDS)
def test_forward_and_reverse_jacobians_agree_and_have_a_derivative(case):
    field, width = make(case)
    t, y = torch.tensor(0.3, dtype=DOUBLE), points(width)[0]
    reverse = torch.func.jacrev(lambda z: field(t, z))(y)
    torch.testing.assert_close(torch.func.jacfwd(lambda z: field(t, z))(y), reverse)
    step = 1e-6 * torch.eye(width, dtype=DOUBLE)
    rows = [(field(t, y + e) - field(t, y - e)) / 2e-6 for e in step]
    torch.testing.assert_close(reverse, torch.stack(rows, dim=1).detach(), rtol=1e-6, atol=1e-8)
    assert torch.func.hessian(lambda z: field(t, z))(y).isfinite().all()


@pytest.mark.parametrize("case", FIELDS)
def test_gradients_through_the_slope_match_finite_differences(case):
    field, width = make(case)
    field.double()
    t, y = torch.tensor(0.3, dtype=DOUBLE), points(width)
    generator = torch.Generator().manual_seed(2)
    for parameter in field.parameters():
        grad = torch.autograd.grad(field(t, y).square().sum(), parameter, allow_unused=True)[0]
        if grad is None:  # weights of the lift alone, or a constant added to an energy
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
                values.append(float(field(t, y).square().sum()))
                parameter.sub_(step * direction)
        expected = (values[0] - values[1]) / 2e-6
        assert float((grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("case", FIELDS)
def test_the_seed_alone_decides_the_weights(case):
    state = torch.random.get_rng_state()
    first, _ = make(case)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.randn(3, generator=torch.Generator().manual_seed(9))
    second, _ = make(case)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_gives_other_weights_and_a_generator_replaces_it():
    def first(**options):
        return next(odekit.create("field", "mlp", dim=2, **options).parameters())

    assert not torch.equal(first(seed=0), first(seed=1))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(first(generator=generator), first(seed=1))


@pytest.mark.parametrize("case", FIELDS)
def test_a_recipe_builds_the_same_field(case):
    field, width = make(case)
    again = Recipe.of_plain(field.recipe.plain()).build()
    again.load_state_dict(field.state_dict())
    y, t = points(width), torch.tensor(0.3, dtype=DOUBLE)
    assert torch.equal(again(t, y), field(t, y))


@pytest.mark.parametrize("case", FIELDS)
def test_a_copy_is_independent_of_its_original(case):
    field, width = make(case)
    other, y, t = copy.deepcopy(field), points(width), torch.tensor(0.3, dtype=DOUBLE)
    before = field(t, y)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert torch.equal(field(t, y), before)
    assert not torch.allclose(other(t, y), before)


def test_linear_is_its_matrix():
    field = odekit.create("field", "linear", dim=2, bias=True)
    with torch.no_grad():
        field.weight.copy_(torch.tensor([[0.0, 1.0], [-4.0, 0.5]]))
        field.bias.copy_(torch.tensor([1.0, 2.0]))
    found = field(torch.tensor(0.0), torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([[3.0, -1.0]]))


def test_augmented_pads_with_zeros_solves_and_projects_back():
    field = odekit.create("field", "augmented", dim=1, extra=2)
    x = points(1)
    lifted = field.lift(x)
    assert torch.equal(lifted[:, :1], x)
    assert not lifted[:, 1:].any()
    solution = odekit.solve(field, x, [0.0, 0.5, 1.0])
    assert solution.y.shape == (3, 5, 1)
    assert torch.equal(solution.y[0], x)


def test_augmented_takes_a_field_of_your_own():
    rotation = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        rotation.weight.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))

    class Turn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = rotation

        def forward(self, t, y):
            return self.inner(y)

    field = odekit.create("field", "augmented", dim=1, field=Turn())
    x = torch.tensor([[1.0], [-1.0]])
    end = odekit.solve(field, x, [0.0, torch.pi], rtol=1e-6).y[-1]
    torch.testing.assert_close(end, -x, rtol=1e-4, atol=1e-4)
    assert field.recipe is None


def test_a_learned_lift_receives_gradients_through_a_solve():
    field = odekit.create("field", "augmented", dim=1, lift="learned")
    odekit.solve(field, torch.ones(2, 1), [0.0, 1.0]).y[-1].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.start.weights)


@pytest.mark.parametrize("per_sample", [False, True])
def test_second_order_with_a_known_acceleration_is_the_cosine(per_sample):
    field = odekit.create(
        "field", "second_order", dim=1, velocity="zero", acceleration=lambda t, y: -4 * y[..., :1]
    )
    x = torch.tensor([[1.0], [2.0]], dtype=DOUBLE)
    t = torch.linspace(0.0, 2.0, 5, dtype=DOUBLE)
    y = odekit.solve(field, x, t, rtol=1e-9, atol=1e-11, per_sample=per_sample).y
    torch.testing.assert_close(y, (2 * t).cos()[:, None, None] * x, rtol=1e-7, atol=1e-7)


def test_second_order_moves_with_its_velocity_whatever_was_learned():
    field = odekit.create("field", "second_order", dim=2)
    y = points(4)
    assert torch.equal(field(torch.tensor(0.0), y)[:, :2], y[:, 2:])
    assert field.lift(y) is y


def spring_energy(y):
    return 0.5 * y.square().sum(-1, keepdim=True)


def test_hamiltonian_follows_hamiltons_equations_as_a_tensor_and_as_a_pair():
    field = odekit.create("field", "hamiltonian", dim=2, energy=spring_energy)
    y = points(4)
    q, p = y[:, :2], y[:, 2:]
    torch.testing.assert_close(field(torch.tensor(0.0), y), torch.cat([p, -q], dim=-1))
    dq, dp = field(torch.tensor(0.0), (q, p))
    torch.testing.assert_close(dq, p)
    torch.testing.assert_close(dp, -q)
    torch.testing.assert_close(field.energy_along(y), 0.5 * y.square().sum(-1))


def test_a_separable_hamiltonian_offers_velocity_and_force_and_others_do_not():
    pendulum = odekit.create(
        "field",
        "hamiltonian",
        dim=1,
        energy=(lambda p: p.square() / 4, lambda q: 3 * (1 - q.cos())),
    )
    assert isinstance(pendulum, odekit.SeparableField)
    q, p = points(1), points(1) + 1
    torch.testing.assert_close(pendulum.velocity(p), p / 2)
    torch.testing.assert_close(pendulum.force(q), -3 * q.sin())
    whole = odekit.create("field", "hamiltonian", dim=1, energy=spring_energy)
    assert not isinstance(whole, odekit.SeparableField)
    assert isinstance(
        odekit.create("field", "hamiltonian", dim=1, separable=True), odekit.SeparableField
    )


def test_an_untrained_hamiltonian_conserves_its_own_energy():
    field = odekit.create("field", "hamiltonian", dim=2, width=16).double()
    with torch.no_grad():
        field.energy.weights[-1].mul_(10)  # an untrained network hardly moves
        solution = odekit.solve(field, points(4), [0.0, 2.0, 4.0], rtol=1e-9, atol=1e-11)
        energy = field.energy_along(solution.y)
    assert (solution.y[-1] - solution.y[0]).abs().max() > 0.1
    torch.testing.assert_close(energy[-1], energy[0], rtol=1e-6, atol=1e-8)


def test_an_energy_module_brings_its_parameters():
    energy = torch.nn.Linear(2, 1)
    field = odekit.create("field", "hamiltonian", dim=1, energy=energy)
    assert set(field.parameters()) == set(energy.parameters())


@pytest.mark.parametrize("case", ["mlp", "mlp_time", "augmented", "second_order", "hamiltonian"])
def test_units_make_the_slope_follow_the_data(case):
    """A field in other units, given data in these units, is the same field."""
    field, width = make(case)
    other, _ = make(case)
    n = 2 if case in ("augmented", "second_order") else width
    center, scale, rate = torch.zeros(n), torch.ones(n), torch.ones(n)
    field.rescale(center, scale, rate, (-1.0, 1.0))
    other.rescale(center, 1000 * scale, 1000 * rate, (-1.0, 1.0))
    y, t = points(width), torch.tensor(0.3, dtype=DOUBLE)
    factor = torch.full((width,), 1000.0, dtype=DOUBLE)
    if case == "augmented":
        factor[2:] = 1.0
    torch.testing.assert_close(other(t, y * factor), field(t, y) * factor, rtol=1e-5, atol=1e-8)
    if case != "hamiltonian":
        other.rescale(center, scale, rate, (-1.0, 1.0))  # too late: nothing may change
    torch.testing.assert_close(other(t, y * factor), field(t, y) * factor, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"dim": 0}, "dim must be a positive integer, got 0"),
        ("mlp", {"dim": 2.0}, "dim must be a positive integer"),
        ("mlp", {"dim": 2, "depth": 0}, "depth must be a positive integer"),
        ("mlp", {"dim": 2, "activation": "tahn"}, "did you mean 'tanh'"),
        ("linear", {"dim": -1}, "dim must be a positive integer"),
        ("augmented", {"dim": 2, "extra": 0}, "extra must be a positive integer"),
        ("augmented", {"dim": 2, "lift": "zero"}, "did you mean 'zeros'"),
        ("second_order", {"dim": 2, "velocity": "learnt"}, "did you mean 'learned'"),
        ("hamiltonian", {"dim": 1, "energy": 3}, "energy must be callable"),
        ("hamiltonian", {"dim": 1, "energy": (abs, 3)}, "pair"),
        ("hamiltonian", {"dim": 1, "energy": abs, "separable": True}, "separable=True"),
    ],
)
def test_bad_options_are_refused_in_one_line(name, options, message):
    with pytest.raises(odekit.ProblemError, match=r".+") as caught:
        odekit.create("field", name, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dtype_that_cannot_be_solved_is_refused():
    with pytest.raises(odekit.IncompatibleError, match=r"float32 or torch\.float64, got .*float16"):
        odekit.create("field", "mlp", dim=2, dtype=torch.float16)


@pytest.mark.parametrize("case", FIELDS)
def test_a_state_of_another_width_is_refused(case):
    field, width = make(case)
    with pytest.raises(odekit.ProblemError, match=rf"\.\.\., {width}\).*make the field"):
        field(torch.tensor(0.0), torch.zeros(3, width + 1))


def test_an_energy_that_is_not_one_number_per_point_is_refused():
    field = odekit.create("field", "hamiltonian", dim=1, energy=lambda y: y)
    with pytest.raises(odekit.ProblemError, match="one number per point"):
        field(torch.tensor(0.0), torch.zeros(3, 2))
