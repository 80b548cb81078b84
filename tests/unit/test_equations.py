"""The result of discovery: its readings agree with each other and with closed forms."""

from __future__ import annotations

import copy
import ctypes
import itertools
import json
import math
import pickle
import shutil
import subprocess
import time

import numpy as np
import pytest
import sympy
import torch
from scipy.integrate import solve_ivp
from scipy.stats import norm

from odekit import Alternative, Equations, Field, ProblemError, Status, Term, solve

NORMAL = norm.ppf(0.975)

HARE = [
    Term("hare", "hare", 0.56134, 0.02, 1.0),
    Term("hare", "hare*lynx", -0.028991, 0.001, 0.97),
    Term("lynx", "lynx", -0.84, 0.03, None),
    Term("lynx", "hare*lynx", 0.026, None, None),
]

RICH = [
    ("x", "1", 1 / 3),
    ("x", "x^3/(1 + y^2)", -0.7),
    ("x", "sin(x)*exp(-y/2)*cos(3*t)", 1.25e-5),
    ("x", "sqrt(abs(x - y))", 1.0),
    ("y", "(x + y)^-2", -1.0),
    ("y", "sign(x)*tanh(y)*pi", 2.0),
    ("y", "2^x - atan(y)*x^(-0.5)", 1e20 / 3e19),
    ("y", "x^1.7*log(x)/(x*y)", -0.3),
    ("y", "-(-x - 2*y)*(-1.5)^2", 0.1),
]


@pytest.fixture
def hares():
    return Equations(["hare", "lynx"], HARE, covariance=np.diag([4e-4, 1e-6, 9e-4, 1e-8]))


@pytest.fixture
def rich():
    return Equations(["x", "y"], RICH)


LORENZ = [
    ("x", "x", -10.0),
    ("x", "y", 10.0),
    ("y", "x", 28.0),
    ("y", "y", -1.0),
    ("y", "x*z", -1.0),
    ("z", "x*y", 1.0),
    ("z", "z", -8 / 3),
]


def points(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.2, 1.8, (n, 2)))


def lambdified(equations, arguments):
    expressions = list(equations.sympy().values())
    return sympy.lambdify([sympy.Symbol(name) for name in arguments], expressions, "numpy")


def test_text(hares):
    assert str(hares).splitlines() == [
        "hare' = 0.5613 hare - 0.02899 hare lynx",
        "lynx' = -0.84 lynx + 0.026 hare lynx",
    ]
    assert repr(hares).startswith("Equations(hare' = 0.5613 hare")


def test_text_of_odd_terms():
    terms = [("x", "y^2*sin(x)", -1.0), ("x", "1", 2.0), ("y", "x + y", 1.0), ("y", "x/y", 1e-7)]
    text = str(Equations(["x", "y", "z"], terms))
    assert text.splitlines() == ["x' = -y^2 sin(x) + 2", "y' = (x + y) + 1e-07 x/y", "z' = 0"]


def test_latex(hares):
    assert hares.latex() == "\n".join(
        [
            r"\begin{aligned}",
            r"\frac{d \mathrm{hare}}{d t} &= 0.5613\,\mathrm{hare}"
            r" - 0.02899\,\mathrm{hare}\,\mathrm{lynx} \\",
            r"\frac{d \mathrm{lynx}}{d t} &= -0.84\,\mathrm{lynx}"
            r" + 0.026\,\mathrm{hare}\,\mathrm{lynx}",
            r"\end{aligned}",
        ]
    )
    odd = Equations(["x1", "prey_count", "alpha"], [("x1", "alpha^2*prey_count", 2.5e-9)])
    assert r"\frac{d x_{1}}{d t} &= 2.5 \times 10^{-9}\,\alpha^{2}" in odd.latex()
    assert r"\frac{d \mathrm{prey\_count}}{d t} &= 0" in odd.latex()


def test_sympy_in_the_plain_symbols_of_the_states(hares):
    hare, lynx = sympy.symbols("hare lynx")
    expressions = hares.sympy()
    assert list(expressions) == ["hare", "lynx"]
    assert expressions["hare"] == 0.56134 * hare - 0.028991 * hare * lynx
    assert Equations(["x"], []).sympy() == {"x": 0}


def test_names_that_sympy_uses_are_symbols():
    names = ["S", "E", "I", "N", "beta", "gamma", "pi"]
    terms = [(name, f"{name}*{other}", 2.0) for name, other in itertools.pairwise(names)]
    equations = Equations(names, terms)
    assert equations.sympy()["S"] == 2.0 * sympy.Symbol("S") * sympy.Symbol("E")
    assert equations.sympy()["gamma"] == 2.0 * sympy.Symbol("gamma") * sympy.Symbol("pi")
    y = torch.arange(1.0, 8.0, dtype=torch.float64)
    slope = equations.field()(torch.tensor(0.0), y)
    assert slope.tolist() == [2.0 * a * b for a, b in itertools.pairwise(y)] + [0.0]


def test_coefficients(hares):
    frame = hares.coefficients
    assert list(frame) == ["equation", "term", "value", "stderr", "low", "high", "inclusion"]
    assert frame["term"].tolist() == ["hare", "hare*lynx", "lynx", "hare*lynx"]
    assert (frame[["value", "stderr", "low", "high", "inclusion"]].dtypes == "float64").all()
    np.testing.assert_allclose(frame["high"][0], 0.56134 + NORMAL * 0.02)
    np.testing.assert_allclose(frame["low"][1], -0.028991 - NORMAL * 0.001)
    assert frame.loc[3, ["stderr", "low", "high", "inclusion"]].isna().all()
    assert list(Equations(["x"], []).coefficients) == list(frame)


@pytest.mark.parametrize(
    ("names", "terms", "options", "message"),
    [
        ([], [], {}, "names: equations need at least one state"),
        (["x 1"], [], {}, "'x 1' cannot be a symbol in equations: write 'x_1'"),
        (["x", "x"], [], {}, "'x' names two things"),
        (["t"], [], {}, "'t' names two things"),
        (["x"], [], {"inputs": ["x"]}, "'x' names two things"),
        (["hare"], [("hair", "1", 1.0)], {}, "did you mean 'hare'?"),
        (["x"], [("x", "y", 1.0)], {}, "'y' is not known: the names here are x, t"),
        (["x"], [("x", "exec('x')", 1.0)], {}, "is not a known function"),
        (["x"], [("x", "x", math.nan)], {}, "the coefficient of x in x' is nan"),
        (["x"], [("x", "x", 1.0, -1.0)], {}, "the standard error of x in x' is -1.0"),
        (["x"], [("x", "x", 1.0, None, 2.0)], {}, "the inclusion of x in x' is 2.0"),
        (["x"], [("x", "x^2", 1.0), ("x", "x*x", 2.0)], {}, "x' has the term x**2 twice"),
        (["x"], [("x", "x", 1.0)], {"covariance": [1.0]}, "covariance must have shape (1, 1)"),
    ],
)
def test_refuses(names, terms, options, message):
    with pytest.raises(ProblemError) as refused:
        Equations(names, terms, **options)
    assert message in str(refused.value)


def test_field_agrees_with_sympy(rich):
    y, t = points(40), torch.tensor(0.4, dtype=torch.float64)
    field = rich.field()
    assert isinstance(field, Field)
    expected = lambdified(rich, ["t", "x", "y"])(0.4, *y.T.numpy())
    np.testing.assert_allclose(field(t, y).detach().T, np.broadcast_arrays(*expected), rtol=1e-12)
    # Axes in front do not matter, and a time per lane reaches its lane.
    assert torch.equal(field(t, y.reshape(2, 20, 2)).reshape(40, 2), field(t, y))
    assert torch.equal(field(t, y[3]), field(t, y[3:4])[0])
    lanes = torch.linspace(0, 1, 40, dtype=torch.float64)
    each = torch.stack([field(s, row) for s, row in zip(lanes, y, strict=True)])
    torch.testing.assert_close(field(lanes, y), each, rtol=1e-14, atol=0)
    threes = y[:, None].expand(40, 3, 2)
    torch.testing.assert_close(field(lanes, threes)[:, 1], each, rtol=1e-14, atol=0)


def test_field_learns_its_coefficients_and_keeps_the_dtype_of_the_state(hares):
    field = hares.field()
    assert [p.dtype for p in field.parameters()] == [torch.float64]
    assert field.coefficients.tolist() == [term.value for term in HARE]
    y = torch.tensor([[2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda y, c: torch.func.functional_call(
        field, {"coefficients": c}, (torch.tensor(0.0), y)
    ), (y, field.coefficients))  # fmt: skip
    field(torch.tensor(0.0), y)[0, 0].backward()
    assert field.coefficients.grad.tolist() == [2.0, 6.0, 0.0, 0.0]
    assert field(torch.tensor(0.0, dtype=torch.float64), torch.ones(3, 2)).dtype == torch.float32


def test_field_under_transforms_and_the_compiler(rich):
    field, y = rich.field(), points(5)
    t = torch.tensor(0.4, dtype=torch.float64)
    batched = torch.func.vmap(torch.func.jacrev(lambda y: field(t, y)))(y)
    function, h = lambdified(rich, ["t", "x", "y"]), 1e-6
    for row, (a, b) in zip(batched.detach(), y.tolist(), strict=True):
        ahead = np.array([function(0.4, a + h, b), function(0.4, a, b + h)]).T
        behind = np.array([function(0.4, a - h, b), function(0.4, a, b - h)]).T
        np.testing.assert_allclose(row, (ahead - behind) / (2 * h), rtol=1e-6)
    compiled = torch.compile(field, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(t, y), field(t, y), rtol=1e-14, atol=0)


def test_field_copies_and_pickles(hares):
    field, y = hares.field(), points(3)
    for other in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert torch.equal(other(torch.tensor(0.0), y), field(torch.tensor(0.0), y))


def test_field_computes_each_factor_once():
    terms = [(state, "x^3*y^3*sin(x*y)", 1.0) for state in ("x", "y")]
    terms += [("x", "x^2", 1.0), ("y", "x^3", 1.0), ("x", "sin(x*y)", 1.0)]
    # x^2, x^3, y^2, y^3, x*y, sin and two products; nothing twice.
    assert len(Equations(["x", "y"], terms).field()._program.calls) == 8


def test_field_refuses_a_state_of_another_size(hares):
    with pytest.raises(ProblemError, match=r"y must have 2 components \(hare, lynx\)"):
        hares.field()(torch.tensor(0.0), torch.ones(3))


def test_field_with_inputs():
    equations = Equations(["x"], [("x", "x", -1.0), ("x", "u*v", 2.0)], inputs=["u", "v"])
    field, y = equations.field(), torch.ones(3, 1, dtype=torch.float64)
    t = torch.tensor(0.5)
    shared = torch.tensor([2.0, 3.0])
    assert field(t, y, shared).flatten().tolist() == [11.0] * 3
    assert field(t, y, lambda t: t * shared).flatten().tolist() == [2.0] * 3
    each = torch.tensor([[1.0, 1.0], [2.0, 1.0], [0.0, 9.0]])
    assert field(torch.zeros(3), y, each).flatten().tolist() == [1.0, 3.0, -1.0]
    for wrong in (None, torch.ones(3)):
        with pytest.raises(ProblemError, match=r"has the inputs u, v: call it \(t, y, u\)"):
            field(t, y, wrong)


def test_simulate_against_closed_forms():
    t = np.linspace(0.0, 3.0, 31)
    spring = Equations(["x", "v"], [("x", "v", 1.0), ("v", "x", -4.0)])
    solution = spring.simulate([1.0, 0.0], t)
    assert solution.success
    np.testing.assert_allclose(solution.y[:, 0], np.cos(2 * t), atol=1e-6)
    assert not solution.y.requires_grad
    batch = spring.simulate(torch.eye(2, dtype=torch.float64), t[::-1].copy())
    np.testing.assert_allclose(batch.y[-1, 0, 0], math.cos(6.0), atol=1e-6)
    clock = Equations(["x"], [("x", "year", 2.0)], time="year")
    np.testing.assert_allclose(clock.simulate([0.0], t).y[:, 0], t**2, atol=1e-8)


def test_simulate_interpolates_inputs_linearly():
    # x' = -x + u with u = t gives x = t - 1 + c exp(-t); knots are far apart on purpose.
    equations = Equations(["x"], [("x", "x", -1.0), ("x", "u", 1.0)], inputs=["u"])
    t = np.array([0.0, 0.5, 3.0])
    expected = t - 1 + 3.0 * np.exp(-t)
    for u in (t, t[:, None], lambda s: s[..., None]):
        np.testing.assert_allclose(equations.simulate([2.0], t, u).y[:, 0], expected, atol=1e-7)
    # A kink in the input: x' = |t - 1| from the straight lines through three points.
    kink = Equations(["x"], [("x", "u", 1.0)], inputs=["u"])
    for order in (slice(None), slice(None, None, -1)):
        grid = np.array([0.0, 1.0, 2.0])[order]
        y = kink.simulate([0.0], grid.copy(), np.array([1.0, 0.0, 1.0])).y[-1, 0]
        assert float(y) == pytest.approx(1.0 if grid[0] == 0 else -1.0, abs=1e-5)
    with pytest.raises(ProblemError, match="u: the equations have the inputs u"):
        equations.simulate([2.0], t)
    with pytest.raises(ProblemError, match=r"u must be finite and of shape \(3, 1\)"):
        equations.simulate([2.0], t, [0.0, math.nan, 1.0])


@pytest.mark.parametrize("term", ["x^2", "exp(x)", "x^9", "-1/(x - 1)^3", "sqrt(x) - 3"])
def test_a_blow_up_is_a_status_and_no_hang(term):
    start = time.perf_counter()
    solution = Equations(["x"], [("x", term, 1.0)]).simulate([1.5], [0.0, 0.1, 50.0])
    assert time.perf_counter() - start < 30
    assert solution.statuses[0] is not Status.SUCCESS
    assert bool(solution.y[-1].isnan().all())


def test_failures_of_a_solve_are_told_and_bounded():
    start = time.perf_counter()
    lost = Equations(["x"], [("x", "x", -1.0)]).simulate([math.nan], [0.0, 1.0])
    assert lost.statuses[0] is Status.NON_FINITE
    stiff = Equations(["x", "y"], [("x", "x", -1e7), ("x", "y", 1e7), ("y", "y", -1.0)])
    cut = stiff.simulate([0.0, 1.0], [0.0, 10.0], max_steps=500)
    assert cut.statuses[0] is Status.MAX_STEPS
    assert int(cut.stats.attempts[0]) <= 500
    # x' = x^2 from 2 is 1 / (1/2 - t): right until it blows up at 1/2.
    square = Equations(["x"], [("x", "x^2", 1.0)]).simulate([2.0], [0.0, 0.25, 0.45, 0.6])
    np.testing.assert_allclose(square.y[1:3, 0], [4.0, 20.0], rtol=1e-6)
    assert square.statuses[0] is not Status.SUCCESS
    assert bool(square.y[3].isnan())
    assert time.perf_counter() - start < 30


def test_lorenz_against_scipy_and_its_work():
    equations = Equations(["x", "y", "z"], LORENZ)
    t = np.linspace(0.0, 10.0, 201)
    solution = equations.simulate([-8.0, 7.0, 27.0], t)
    assert solution.success
    assert int(solution.stats.attempts[0]) < 2000
    exact = solve_ivp(
        equations.function(), (0, 5), [-8.0, 7.0, 27.0], t_eval=t[:101],
        method="DOP853", rtol=1e-12, atol=1e-12,
    ).y.T  # fmt: skip
    np.testing.assert_allclose(solution.y[:101], exact, atol=1e-4)


def test_simulate_refuses_a_start_of_another_size(hares):
    with pytest.raises(ProblemError, match=r"y0 must have 2 components \(hare, lynx\)"):
        hares.simulate([1.0], [0.0, 1.0])


def test_function_is_the_field(rich):
    function, field = rich.function(), rich.field()
    for row in points(20):
        expected = field(torch.tensor(0.3, dtype=torch.float64), row).detach().numpy()
        slope = function(0.3, row.numpy())
        assert slope.dtype == np.float64
        np.testing.assert_allclose(slope, expected, rtol=1e-13)
    assert Equations(["x", "y"], [("x", "1", 2.0)]).function()(0.0, [1.0, 1.0]).tolist() == [2.0, 0]
    driven = Equations(["x"], [("x", "u*v", 2.0)], inputs=["u", "v"]).function()
    assert driven(0.0, [1.0], [2.0, 3.0]).tolist() == [12.0]


@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # the compiler's own
def test_field_compiles_to_machine_code(rich):
    field, y = rich.field(), points(5)
    t = torch.tensor(0.4, dtype=torch.float64)
    compiled = torch.compile(field, fullgraph=True)
    torch.testing.assert_close(compiled(t, y), field(t, y), rtol=1e-12, atol=0)


def test_python_code_runs(rich):
    names = {}
    exec(rich.code("python"), names)
    field, y = rich.field(), points(20)
    for row in y:
        expected = field(torch.tensor(0.3, dtype=torch.float64), row).detach().numpy()
        np.testing.assert_allclose(names["f"](0.3, row.numpy()), expected, rtol=1e-13)


def test_python_code_with_names_of_its_own_and_inputs():
    states, inputs = ["y", "t", "np", "f", "u"], ["y_"]
    terms = [(state, f"{state}*y_*year + 1", 2.0) for state in states]
    equations = Equations(states, terms, inputs=inputs, time="year")
    names = {}
    exec(equations.code("python"), names)
    slope = names["f"](3.0, np.arange(5.0), np.array([7.0]))
    assert slope.tolist() == [2.0 * (i * 21.0 + 1) for i in range(5)]


def compiled(source, folder):
    """The C function ``f`` of a source text."""
    path = folder / "field.c"
    path.write_text(source)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", folder / "field.so", path, "-lm"], check=True)
    return ctypes.CDLL(str(folder / "field.so")).f


def test_c_code_compiles_and_runs(rich, tmp_path):
    function = compiled(rich.code("c"), tmp_path)
    field, pair = rich.field(), ctypes.c_double * 2
    for row in points(20):
        slope = pair()
        function(ctypes.c_double(0.3), pair(*row.tolist()), slope)
        expected = field(torch.tensor(0.3, dtype=torch.float64), row).detach().numpy()
        np.testing.assert_allclose(slope[:], expected, rtol=1e-13)


def test_c_code_with_inputs_and_an_empty_equation(tmp_path):
    equations = Equations(["a", "double"], [("a", "u^2*double", 0.1)], inputs=["u"])
    assert "void f(double t, const double *y, const double *u, double *dydt)" in equations.code("c")
    function = compiled(equations.code("c"), tmp_path)
    slope = (ctypes.c_double * 2)(9.0, 9.0)
    function(
        ctypes.c_double(0.0),
        (ctypes.c_double * 2)(1.0, 2.0),
        (ctypes.c_double * 1)(3.0),
        slope,
    )
    assert slope[:] == [0.1 * 9.0 * 2.0, 0.0]
    plain = Equations(["x"], [("x", "x", 1.0)]).code("c")
    assert "void f(double t, const double *y, double *dydt)" in plain


def test_julia_code(hares):
    assert hares.code("julia").splitlines() == [
        "# y: hare, lynx",
        "function f!(dy, y, p, t)",
        "    dy[1] = 0.56134*y[1] - 0.028991*y[1]*y[2]",
        "    dy[2] = -0.84*y[2] + 0.026*y[1]*y[2]",
        "    return nothing",
        "end",
    ]
    driven = Equations(["x"], [("x", "u^2/sqrt(x)", -1.0)], inputs=["u"]).code("julia")
    assert "    u = p(t)\n    dy[1] = -u[1]^2/sqrt(y[1])\n" in driven


@pytest.mark.skipif(shutil.which("julia") is None, reason="there is no Julia")
def test_julia_code_runs(rich, tmp_path):
    y = points(1)[0]
    call = f"dy = zeros(2); f!(dy, {y.tolist()}, nothing, 0.3); println(dy[1], ' ', dy[2])"
    path = tmp_path / "field.jl"
    path.write_text(rich.code("julia") + call.replace("' '", '" "') + "\n")
    done = subprocess.run(["julia", path], check=True, capture_output=True, text=True)
    expected = rich.field()(torch.tensor(0.3, dtype=torch.float64), y).detach()
    np.testing.assert_allclose([float(v) for v in done.stdout.split()], expected, rtol=1e-12)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX")
def test_latex_compiles(rich, hares, tmp_path):
    body = "".join(f"\\[\n{equations.latex()}\n\\]\n" for equations in (rich, hares))
    text = "\\documentclass{article}\\usepackage{amsmath}\\begin{document}\n"
    (tmp_path / "m.tex").write_text(f"{text}{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "m.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_latex_is_balanced(rich):
    """No LaTeX here: braces, delimiters and rows must at least pair up."""
    text = rich.latex()
    assert text.count("{") == text.count("}")
    assert text.count(r"\left") == text.count(r"\right")
    assert text.count("&=") == len(rich.names)


def test_unknown_language(hares):
    with pytest.raises(ProblemError, match="did you mean 'julia'"):
        hares.code("Juli")


def same(first, second):
    """Whether two `Equations` hold the same, to the last digit."""
    keys = ("names", "inputs", "time", "terms", "score", "warnings", "confident")
    return (
        all(getattr(first, key) == getattr(second, key) for key in keys)
        and repr(first.diagnostics) == repr(second.diagnostics)
        and np.array_equal(first.covariance, second.covariance)
        and len(first.alternatives) == len(second.alternatives)
        and all(
            a[1:] == b[1:] and same(a.equations, b.equations)
            for a, b in zip(first.alternatives, second.alternatives, strict=True)
        )
    )


def test_saves_and_loads_exactly(tmp_path):
    values = np.random.default_rng(0).standard_normal(4) * 10.0 ** np.array([-150, -5, 0, 150])
    terms = [Term(*term[:2], v, abs(v) / 3, 0.1) for term, v in zip(HARE, values, strict=True)]
    other = Equations(["hare", "lynx"], HARE, covariance=np.eye(4) / 3)
    equations = Equations(
        ["hare", "lynx"],
        terms,
        inputs=["ü"],
        time="year",
        covariance=np.outer(values, values) / 3,
        score=[0.1 + 0.2, -math.inf],
        warnings=["two structures fit"],
        confident=True,
        alternatives=[Alternative(other, 1 / 3, -12.25)],
        diagnostics={"sigma": {"hare": 0.1}, "odd": [math.nan, math.inf, None, True, "é"]},
    )
    path = tmp_path / "m.json"
    equations.save(path)
    again = Equations.load(path)
    assert same(again, equations)
    assert again.alternatives[0].equations.sympy() == other.sympy()
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first
    json.loads(first, parse_constant=pytest.fail)  # no NaN or Infinity outside the standard
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


def test_numpy_values_are_saved_as_numbers(tmp_path):
    term = Term("x", "x", np.float64(0.1), np.float64(0.2), np.float64(0.3))
    equations = Equations(["x"], [term], score=np.ones(2), diagnostics={"n": np.int64(3)})
    equations.save(tmp_path / "m.json")
    again = Equations.load(tmp_path / "m.json")
    assert (again.terms, again.score, again.diagnostics) == ((term,), [1.0, 1.0], {"n": 3})


def test_diagnostics_that_json_cannot_hold_leave_no_file(tmp_path):
    with pytest.raises(ProblemError, match=r"diagnostics: .* keep to numbers, texts, lists"):
        Equations(["x"], [], diagnostics={"f": object()}).save(tmp_path / "m.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[1, 2]", "holds no equations"),
        ('{"format": "other"}', "holds no equations"),
        ('{"format": "odekit.equations", "version": 99}', "has version 99 of the format"),
        ('{"format": "odekit.equations", "version": 1}', "is damaged: the file lacks 'names', 't"),
        ('{"format": "odekit.refined", "version": 1}', "formulas, which odekit.Refined.load reads"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_load_refuses(tmp_path, text, message):
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(ProblemError) as refused:
        Equations.load(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_load_never_executes_what_a_term_says(hares, tmp_path):
    path = tmp_path / "m.json"
    hares.save(path)
    evil = path.read_text().replace('"hare*lynx"', f"\"open('{tmp_path}/x', 'w')\"", 1)
    path.write_text(evil)
    with pytest.raises(ProblemError, match=r"is damaged: formula .* is not a known function"):
        Equations.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]
    with pytest.raises(ProblemError, match="there is no file"):
        Equations.load(tmp_path / "none.json")


def ring(size, degree=2):
    """A ring of states with products of neighbours: many terms, most of them more than once."""
    names = [f"x{i}" for i in range(size)]
    terms = []
    for i, name in enumerate(names):
        ahead, behind = names[(i + 1) % size], names[i - 1]
        terms += [(name, f"{ahead}^{degree - 1}*{behind}", 1.0 + i), (name, name, -1.0)]
        terms += [(name, f"{behind}*{names[i - 2]}", -1.0), (name, "1", 8.0)]
    return Equations(names, terms)


def ring_slope(y, degree=2):
    ahead, behind, far = y.roll(-1, -1), y.roll(1, -1), y.roll(2, -1)
    weight = 1.0 + torch.arange(y.shape[-1], dtype=y.dtype)
    return weight * ahead ** (degree - 1) * behind - y - behind * far + 8.0


@pytest.mark.parametrize("size", [5, 30])
@pytest.mark.parametrize("shape", [(), (3,), (2, 4), (600,)])
def test_field_of_many_terms(size, shape):
    field = ring(size, 3).field()
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(*shape, size, generator=generator, dtype=torch.float64, requires_grad=True)
    found, expected = field(torch.tensor(0.0), y), ring_slope(y, 3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(*shape, size, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((found * weight).sum(), [y, field.coefficients])
    theirs = torch.autograd.grad((expected * weight).sum(), y)[0]
    torch.testing.assert_close(ours[0], theirs, rtol=1e-11, atol=1e-11)
    constant = field.pairs.index(("x2", "1"))
    torch.testing.assert_close(ours[1][constant], weight[..., 2].sum())
    torch.testing.assert_close(
        field(torch.tensor(0.0), y.detach().float()),
        expected.detach().float(),
        rtol=1e-4,
        atol=1e-4,
    )


def test_field_of_many_terms_takes_few_calls_for_few_points():
    def calls(size):
        field, y = ring(size).field(), torch.ones(size, dtype=torch.float64)
        with torch.profiler.profile() as profile, torch.no_grad():
            field(torch.tensor(0.0), y)
        return sum(event.count for event in profile.key_averages())

    assert calls(8) <= calls(24) + 2 <= 40


def test_field_computes_a_term_of_several_equations_once():
    field = Equations(["x", "y"], [(s, w, 2.0) for s in "xy" for w in ("sin(x)", "x*y")]).field()
    assert len(field._program.outputs) == 2
    found = field(torch.tensor(0.0), torch.tensor([[0.5, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.full_like(found, 2 * math.sin(0.5) + 3.0))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("size", [2, 9])
def test_field_of_many_terms_under_torch_func_and_the_compiler(size):
    field = ring(size).field()
    t, y = torch.tensor(0.0), torch.linspace(-1, 1, 3 * size, dtype=torch.float64).reshape(3, size)
    expected = torch.autograd.functional.jacobian(ring_slope, y[1])
    forward = torch.func.jacfwd(lambda x: field(t, x))(y[1])
    reverse = torch.func.vmap(torch.func.jacrev(lambda x: field(t, x)))(y)[1]
    torch.testing.assert_close(forward, expected)
    torch.testing.assert_close(reverse, expected)
    torch.testing.assert_close(torch.func.vmap(lambda x: field(t, x))(y), ring_slope(y))
    torch.compiler.reset()
    compiled = torch.compile(field, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(t, y), ring_slope(y))


@pytest.mark.parametrize("terms", [LORENZ, None])
def test_fixed_field_keeps_the_coefficients_that_it_was_made_with(terms):
    field = (Equations(["x", "y", "z"], terms) if terms else ring(7)).field()
    y = torch.linspace(-1, 1, 4 * len(field.names), dtype=torch.float64).reshape(4, -1)
    before = field(torch.tensor(0.0), y).detach()
    fixed = field.fixed(torch.float64)
    with torch.no_grad():
        field.coefficients.mul_(2.0)
    assert torch.equal(fixed(torch.tensor(0.0), y), before)
    torch.testing.assert_close(field(torch.tensor(0.0), y).detach(), 2 * before)
    with pytest.raises(ProblemError, match=r"y must have \d components"):
        fixed(torch.tensor(0.0), torch.ones(4, 2, dtype=torch.float64))


def test_simulate_is_the_solve_of_the_field():
    equations, t = ring(6), np.linspace(0.0, 0.3, 7)
    start = 0.1 * torch.arange(6, dtype=torch.float64)
    ours = equations.simulate(start, t).y
    with torch.no_grad():
        theirs = solve(equations.field(), start, t, rtol=1e-8, atol=1e-10).y
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [4, 30])
def test_fields_whose_coefficients_are_those_of_many(size):
    field = ring(size).field()
    t, y = torch.tensor(0.0), torch.linspace(-1, 1, 4 * size, dtype=torch.float64).reshape(4, size)
    many = torch.stack([field.coefficients.detach() * (i + 1) for i in range(4)])
    found = torch.func.functional_call(field, {"coefficients": many}, (t, y))
    one = field(t, y).detach()
    torch.testing.assert_close(found, one * torch.arange(1.0, 5.0)[:, None])
    blocks = y[:, None].expand(-1, 2, -1)
    found = torch.func.functional_call(field, {"coefficients": many}, (t, blocks))
    torch.testing.assert_close(found[:, 1], one * torch.arange(1.0, 5.0)[:, None])


def test_a_compiler_sees_arithmetic_alone():
    seen = []

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op != "output")
        return graph.forward

    torch.compiler.reset()
    field = Equations(["x", "y", "z"], LORENZ).field()
    t, y = torch.tensor(0.0), torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    found = torch.compile(field, fullgraph=True, backend=backend)(t, y)
    torch.testing.assert_close(found, field(t, y), rtol=1e-14, atol=1e-14)
    assert sum("mul" in name for name in seen) == 9  # two products and seven coefficients
    assert not any("matmul" in name or "linear" in name for name in seen)
    still = Equations(["x", "y"], [("x", "y", 2.0)]).field()
    found = torch.compile(still, fullgraph=True, backend="eager")(t, y[:, :2])
    torch.testing.assert_close(found[:, 1], torch.zeros(4, dtype=torch.float64))
