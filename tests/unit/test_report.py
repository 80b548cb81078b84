"""Reports: rounding, formulas for browsers and LaTeX, comparison with data, pictures, the page."""

from __future__ import annotations

import html.parser
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Text

from odekit import Equations, Term, TimeSeries
from odekit.report import Study, models, scope, write_solution, write_study
from odekit.report.comparison import Simulator, compare
from odekit.report.latex import document, escape
from odekit.report.method import references
from odekit.report.notation import (
    interval,
    mathml,
    name_mathml,
    number,
    rich_text,
    round_with,
    term_mathml,
    with_error,
)
from odekit.report.style import COLOURS
from odekit.report.trajectories import memory_of

RATE, SIGMA = 0.7, 0.05


def decay(t, start=3.0, rate=RATE):
    return start * np.exp(-rate * t)


def decaying(noise=0.0, n=40, stderr=0.02, **options):
    """Equations of x' = -0.7 x and a series of it."""
    t = np.linspace(0.0, 4.0, n)
    y = decay(t) + noise * np.random.default_rng(0).standard_normal(n)
    terms = [Term("x", "x", -RATE, stderr, 1.0)]
    equations = Equations(["x"], terms, covariance=[[stderr**2]], **options)
    return equations, TimeSeries(t, y, names=["x"])


def study(equations, *series, **options):
    labels = [f"run{i}" for i in range(len(series))]
    return Study(equations, series, labels, "A title", **options)


def oscillator(**options):
    terms = [("x", "v", 1.0, 0.01), ("v", "x", -4.0, 0.02), ("v", "v", -0.1, None)]
    return Equations(["x", "v"], terms, **options)


def oscillations(n=60, phase=0.0):
    t = np.linspace(0.0, 6.0, n)
    w = np.sqrt(4 - 0.05**2)
    x = np.exp(-0.05 * t) * np.cos(w * t + phase)
    v = np.exp(-0.05 * t) * (-0.05 * np.cos(w * t + phase) - w * np.sin(w * t + phase))
    return TimeSeries(t, np.stack([x, v], axis=1), names=["x", "v"], time_name="time")


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (0.02897, 0.0016, ("0.0290", "0.0016", 0)),
        (-0.779, 0.048, ("−0.779", "0.048", 0)),
        (561.3, 33.2, ("561", "33", 0)),
        (-1.234e-7, 2.5e-9, ("−1.234", "0.025", -7)),
        (3.0, None, ("3", "", 0)),
        (0.123456, None, ("0.1235", "", 0)),
        (0.5, 0.0999, ("0.50", "0.10", 0)),
        (0.0, 0.2, ("0.00", "0.20", 0)),
        (2.5e6, 1e5, ("2.50", "0.10", 6)),
        (float("nan"), 1.0, ("n/a", "", 0)),
    ],
)
def test_numbers_are_rounded_to_the_place_of_their_error(value, stderr, expected):
    assert round_with(value, stderr) == expected


def test_values_with_errors_share_their_power_of_ten():
    assert with_error(0.561, 0.033) == "0.561 ± 0.033"
    assert with_error(-1.234e-7, 2.5e-9) == "(−1.234 ± 0.025) × 10⁻⁷"
    assert with_error(2.0, None) == "2"
    assert interval(0.997, 0.0061) == "0.9850 to 1.0090"
    assert interval(0.997, 0.0061, 6) == "0.9821 to 1.0119"
    assert interval(1.0, None) == "n/a"
    assert number(-1.5e-9) == "−1.5 × 10⁻⁹"


def test_plain_equations_become_rich_text():
    assert rich_text("x' = -1.2e-05 x^2 - y") == ("x' = −1.2 × 10<sup>−5</sup> x<sup>2</sup> − y")
    assert rich_text("<b> & 2e+10") == "&lt;b&gt; &amp; 2 × 10<sup>10</sup>"


@pytest.mark.parametrize(
    ("term", "inside"),
    [
        ("hare*lynx", ["hare", "lynx"]),
        ("x**2*sin(y)", ["<msup>", "sin", "<mo>(</mo>"]),
        ("x/(1 + y)", ["<mfrac>", "<mo>+</mo>"]),
        ("sqrt(x)", ["<msqrt>"]),
        ("x*(y - 1)", ["<mo>(</mo>", "<mo>−</mo>"]),
        ("exp(-x)", ["exp", "<mo>−</mo>"]),
        ("abs(x)", ["<mo>|</mo>"]),
        ("1/x", ["<mfrac>"]),
    ],
)
def test_terms_are_well_formed_mathml(term, inside):
    text = term_mathml(term, ["hare", "lynx", "x", "y"])
    ET.fromstring(text)
    for piece in inside:
        assert piece in text


def test_names_are_set_as_in_textbooks():
    assert name_mathml("x0") == "<msub><mi>x</mi><mn>0</mn></msub>"
    assert name_mathml("alpha_2") == "<msub><mi>α</mi><mn>2</mn></msub>"
    assert name_mathml("hare") == "<mi>hare</mi>"


def test_equations_are_well_formed_and_rounded():
    terms = [("x", "x*y", -0.02897, 0.0016), ("y", "1", 2.0), ("y", "x", -1e-6, 1e-8)]
    text = mathml(Equations(["x", "y", "z"], terms), "year")
    root = ET.fromstring(text)
    assert len(root.findall(".//mtr")) == 3
    assert "0.0290" in text
    assert "<mn>10</mn>" in text
    assert "year" in text
    assert "<mn>0</mn>" in ET.tostring(root.findall(".//mtr")[2], encoding="unicode")


def test_long_equations_go_on_in_the_next_row():
    terms = [("x", f"x**{i}*yesterday**{j}", 1.5) for i in range(1, 4) for j in range(1, 4)]
    text = mathml(Equations(["x", "yesterday"], terms), "t")
    assert len(ET.fromstring(text).findall(".//mtr")) > 2
    assert text.count("<mo>=</mo>") == 2


def test_several_lanes_equal_single_simulations():
    equations, series = oscillator(), oscillations()
    starts = np.array([[1.0, 0.0], [0.5, -1.0]])
    times = np.linspace(0.0, 3.0, 7)
    lanes = Simulator(equations, series).run(starts, times, rtol=1e-9)
    for i, start in enumerate(starts):
        alone = equations.simulate(start, times).y.numpy()
        np.testing.assert_allclose(lanes[:, i], alone, atol=1e-7)


def test_the_start_is_fitted_and_not_read_off():
    equations, series = decaying()
    y = series.y.clone()
    y[0] += 1.0
    found = compare(equations, TimeSeries(series.t, y, names=["x"]), "a")
    weights = decay(series.t.numpy(), start=1.0)
    exact = weights @ y[:, 0].numpy() / (weights @ weights)
    assert found.start[0] == pytest.approx(exact, rel=1e-4)
    assert found.residuals[0, 0] > 5


def test_exact_data_are_followed():
    found = compare(oscillator(), oscillations(), "a")
    np.testing.assert_allclose(found.start, oscillations().y[0], atol=1e-5)
    assert found.r2.min() > 1 - 1e-9
    assert found.complete
    assert found.reached == 6.0


def test_missing_values_are_left_out():
    series = oscillations()
    y = series.y.clone()
    y[::3, 0] = float("nan")
    y[0] = float("nan")
    found = compare(oscillator(), TimeSeries(series.t, y, names=["x", "v"]), "a")
    assert found.r2.min() > 1 - 1e-6
    assert np.isnan(found.residuals[::3, 0]).all()


def test_the_band_is_that_of_linear_propagation():
    equations, series = decaying(noise=SIGMA)
    found = compare(equations, series, "a")
    t, start = series.t.numpy(), found.start[0]
    by_start, by_rate = decay(t, 1.0), t * decay(t, start)
    variance = ((series.y[:, 0].numpy() - decay(t, start)) ** 2).sum() / (len(t) - 2)
    follow = -(by_start @ by_rate) / (by_start @ by_start)
    grid = found.times
    slope = grid * decay(grid, start) + follow * decay(grid, 1.0)
    spread = slope**2 * 0.02**2 + variance * decay(grid, 1.0) ** 2 / (by_start @ by_start)
    np.testing.assert_allclose(found.half_width[:, 0], 1.96 * np.sqrt(spread), rtol=2e-3)
    few, _ = decaying(noise=SIGMA, degrees_of_freedom=6)
    wider = compare(few, series, "a").half_width
    np.testing.assert_allclose(wider, found.half_width * 2.4469 / 1.96, rtol=1e-4)


def test_no_band_without_errors_or_where_the_model_leaves_the_data():
    _, series = decaying()
    bare = Equations(["x"], [Term("x", "x", -RATE)])
    assert compare(bare, series, "a").half_width is None
    wrong = Equations(["x"], [Term("x", "x", 0.5)], covariance=[[1e-4]])
    assert compare(wrong, series, "a").half_width is None


def test_log_normal_residuals_are_logarithms():
    t = np.linspace(0.0, 4.0, 200)
    error = 0.1 * np.random.default_rng(1).standard_normal(200)
    series = TimeSeries(t, decay(t) * np.exp(error), names=["x"])
    equations = Equations(["x"], [Term("x", "x", -RATE)], diagnostics={"noise": "log-normal"})
    found = compare(equations, series, "a")
    assert np.corrcoef(found.residuals[:, 0], error)[0, 1] > 0.99
    assert np.nanstd(found.residuals) == pytest.approx(1.0, abs=0.02)


def test_inputs_drive_the_simulation():
    t = np.linspace(0.0, 5.0, 400)
    series = TimeSeries(t, np.sin(t), np.cos(t), names=["x"], input_names=["u"])
    found = compare(Equations(["x"], [("x", "u", 1.0)], inputs=["u"]), series, "a")
    assert found.r2[0] > 1 - 1e-6
    assert not study(Equations(["x"], [("x", "u", 1.0)], inputs=["u"]), series).autonomous
    assert study(oscillator(), oscillations()).autonomous


def test_a_model_that_blows_up_is_reported(tmp_path):
    equations = Equations(["x"], [("x", "x**2", 1.0)])
    t = np.linspace(0.0, 2.0, 30)
    case = study(equations, TimeSeries(t, 1.0 + t, names=["x"]))
    found = case.comparisons[0]
    assert not found.complete
    write_study(case, tmp_path)
    assert "The simulation of run0 stops at" in (tmp_path / "report.html").read_text()


class Reader(html.parser.HTMLParser):
    """Collects tags, addresses and text, and complains about tags that do not match."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.stack, self.tags, self.addresses, self.text = [], set(), [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.stack == []
    return reader


def test_the_page_holds_everything_and_loads_nothing(tmp_path):
    rival = Equations(["x"], [("x", "x**2", -0.3)])
    equations, series = decaying(
        noise=SIGMA,
        confident=True,
        alternatives=[(rival, 0.07, -90.0)],
        warnings=["A doubt <remains>."],
        diagnostics={
            "noise": "additive",
            "sigma": {"x": 0.05},
            "rms_over_sigma": {"x": 1.01},
            "ebic": -95.0,
            "weight": 0.93,
            "library": "polynomials",
            "something_new": [1.5, "two"],
        },
    )
    case = study(equations, series, command="odekit discover 'a b.csv'", seed=4, seconds=1.25)
    write_study(case, tmp_path)
    page = read(tmp_path / "report.html")
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert len(page.addresses) == 3
    for piece in (
        "A title",
        "The data settle the structure",
        "A doubt <remains>.",
        "−0.700\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.020",
        "−0.739 to\N{NO-BREAK SPACE}−0.661",
        "1.01",
        "93.0",
        "7.0",
        "odekit discover 'a b.csv'",
        "Something new",
        "1.25 s"[:3],
        "Brunton",
        "def f(t, y)",
    ):
        assert piece in page.text, piece


def test_the_page_tells_intervals_of_few_data(tmp_path):
    write_study(study(oscillator(degrees_of_freedom=20 / 3), oscillations()), tmp_path)
    page = read(tmp_path / "report.html")
    assert "Intervals by Student's t, 6.67 degrees of freedom." in page.text
    assert "−4.048 to\N{NO-BREAK SPACE}−3.952" in page.text


def test_the_page_tells_an_open_question(tmp_path):
    write_study(study(oscillator(), oscillations(), notes=["Note: it rained."]), tmp_path)
    page = read(tmp_path / "report.html")
    assert "The data do not settle the structure" in page.text
    assert "Note: it rained." in page.text
    assert "ddtime" in page.text.replace("x", "").replace("v", "")


def test_references_follow_what_was_done():
    assert len(references(oscillator())) == 1
    used = oscillator(diagnostics={"smoother": "gaussian process", "ebic": 1.0, "substeps": 4})
    assert [work for work in references(used) if "Gaussian Processes" in work]
    assert [work for work in references(used) if "EBIC" in work]


def test_the_latex_document_is_complete():
    assert escape("a_b & 50 % {x}") == r"a\_b \& 50 \% \{x\}"
    terms = [("x_1", "x_1", -0.5, 0.01), ("x_1", "1", 1e-7)]
    text = document(study(Equations(["x_1"], terms), TimeSeries([0, 1], [1, 2], names=["x_1"])))
    assert text.count("{") == text.count("}")
    assert r"\documentclass" in text
    assert r"\begin{aligned}" in text
    assert r"$-0.500$ & $0.010$" in text
    assert r"$1 \times 10^{-7}$ & --" in text
    begun = [line for line in text.splitlines() if line.startswith(r"\begin")]
    assert len(begun) == sum(line.startswith(r"\end") for line in text.splitlines())


def shades(path):
    """The share of pixels in each colour of the palette."""
    picture = np.round(imread(path)[..., :3] * 255).astype(int).reshape(-1, 3)
    wanted = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS]
    return [float((picture == rgb).all(axis=1).mean()) for rgb in wanted]


def test_numbers_on_axes_are_plain_text_and_everything_is_drawn_once(tmp_path, monkeypatch):
    written, draw = [], Text.draw

    def listen(text, renderer, *options):
        written.append(text.get_text())
        return draw(text, renderer, *options)

    def refuse(*_):
        raise AssertionError("typeset as a formula")

    monkeypatch.setattr(Text, "draw", listen)
    monkeypatch.setattr(MathTextParser, "parse", refuse)
    for power, raised in ((7, "×10⁷"), (-7, "×10⁻⁷")):
        written.clear()
        rows = np.linspace(0.0, 1.0, 30), 3 * 10.0**power * np.linspace(-1.0, 1.0, 30)[:, None]
        write_solution(tmp_path, ["x"], "day", rows, rows, None)
        # The slope of the portrait and the state, in each of the two pictures.
        assert written.count(raised) >= 2
        assert written.count("day") == 1
        assert "−2" in written


def test_pictures_show_data_and_model(tmp_path):
    write_study(study(oscillator(), oscillations()), tmp_path)
    series, portrait = (shades(tmp_path / f"{n}.png") for n in ("data_and_model", "phase_portrait"))
    assert min(series[0], series[1]) > 1e-3  # one colour per state
    assert min(portrait[0], portrait[1], portrait[2]) > 1e-3  # data, model, a nullcline
    assert min(shades(tmp_path / "residuals.png")[:2]) > 1e-4


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 6])
def test_every_dimension_has_its_pictures(dim, tmp_path):
    names = [f"x{i}" for i in range(dim)]
    terms = [(name, name, -0.3 * (i + 1), 0.01) for i, name in enumerate(names)]
    t = np.linspace(0.0, 3.0, 25)
    y = np.stack([np.exp(-0.3 * (i + 1) * t) for i in range(dim)], axis=1)
    equations = Equations(names, terms, covariance=1e-4 * np.eye(dim))
    write_study(study(equations, TimeSeries(t, y, names=names)), tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [
        "data_and_model.png",
        "equations.json",
        "equations.tex",
        "phase_portrait.png",
        "report.html",
        "residuals.png",
    ]
    for path in tmp_path.glob("*.png"):
        height, width, _ = imread(path).shape
        assert min(height, width) > 500


def test_several_trajectories_share_the_pictures(tmp_path):
    case = study(oscillator(), oscillations(), oscillations(40, phase=1.0))
    write_study(case, tmp_path)
    assert len(case.comparisons) == 2
    page = read(tmp_path / "report.html")
    assert "2 trajectories of x and v with 100 points" in page.text
    assert "run1" in page.text


def test_a_solution_is_written_to_the_last_digit(tmp_path):
    t = np.linspace(0.0, 1.0, 5)
    y = np.stack([np.sin(t), np.cos(t)], axis=1)
    write_solution(tmp_path, ["a", "b"], "t", (t, y), (t, y), lambda x: x[:, ::-1] * [1.0, -1.0])
    back = TimeSeries.read(tmp_path / "solution.csv")
    assert back.names == ("a", "b")
    np.testing.assert_array_equal(back.y.numpy(), y)
    assert (tmp_path / "time_series.png").stat().st_size > 10_000


def test_driven_states_are_drawn_along_their_trajectory(tmp_path):
    t = np.linspace(0.0, 5.0, 60)
    series = TimeSeries(t, np.sin(t), np.cos(t), names=["x"], input_names=["u"])
    case = study(Equations(["x"], [("x", "u", 1.0)], inputs=["u"]), series)
    times, model = case.comparisons[0].times, case.comparisons[0].model[:, 0]
    assert np.diff(times).min() > 1e-6
    np.testing.assert_allclose(np.gradient(model, times), np.cos(times), atol=0.02)
    write_study(case, tmp_path)
    assert shades(tmp_path / "phase_portrait.png")[1] > 1e-3


def open_question(**more):
    """Two structures that are as good, and what the diagnostics say of them."""
    rival = Equations(["x"], [("x", "x**2", -0.3)])
    equations, series = decaying(
        noise=SIGMA,
        alternatives=[(rival, 0.4, -94.0)],
        warnings=["x and x**2 in x' cannot be told apart."],
        diagnostics={
            "ebic": -95.0,
            "weight": 0.6,
            "range": {"x": [0.18, 3.0]},
            "inclusion": [
                {"equation": "x", "term": "x", "inclusion": 0.6},
                {"equation": "x", "term": "x**2", "inclusion": 0.4},
                {"equation": "x", "term": "1", "inclusion": 0.001},
            ],
            "residual_chance": {"x": 0.5},
            **more,
        },
    )
    return equations, series


def test_an_open_question_shows_its_models_before_everything_else(tmp_path):
    write_study(study(*open_question()), tmp_path)
    text = read(tmp_path / "report.html").text
    assert text.index("Model set") < text.index("Fit") < text.index("Data and model")
    assert "x2 instead of x in x'" in text  # the power is set above the line
    assert "in x′: 40\N{NO-BREAK SPACE}%" in text
    assert "x·x" not in text
    assert "Weight among all structures within reach" in text
    assert "none of which fits" not in text
    assert "Seen for x from 0.18 to 3" in text


def test_a_settled_question_shows_what_was_ruled_out_at_the_end(tmp_path):
    equations, series = open_question()
    equations.confident = True
    write_study(study(equations, series), tmp_path)
    text = read(tmp_path / "report.html").text
    assert "Model set" not in text
    assert text.index("Residuals") < text.index("Alternatives")


def test_shares_of_models_that_do_not_fit_are_no_weights(tmp_path):
    equations, series = open_question(fits=False)
    write_study(study(equations, series), tmp_path)
    text = read(tmp_path / "report.html").text
    assert "none of the models tried fits them" in text
    assert "Share among the models tried, none of which fits" in text
    assert "no probability of being right" in text
    assert "Weight" not in text


def test_the_model_set_ends_where_the_rest_does_not_count():
    others = [(Equations(["x"], [("x", f"x**{i}", 1.0)]), 0.02, i) for i in range(2, 7)]
    shares = {"weight": 0.9, "ebic": 0.0}
    equations = Equations(["x"], [("x", "x", 1.0)], alternatives=others, diagnostics=shares)
    rows = models.rows(equations, 8)
    assert [row.share for row in rows] == [0.9, 0.02, 0.02, 0.02]
    assert [row.distance for row in rows] == [0.0, 2.0, 3.0, 4.0]
    assert rows[0].difference == ""
    assert rows[1].difference == "x**2 instead of x in x'"
    assert len(models.rows(equations, 1)) == 2
    assert models.further_terms(Equations(["x"], [("x", "x", 1.0)])) == []


def test_a_simulation_that_leaves_its_range_is_named():
    equations, _ = open_question()
    near, far = np.array([[0.1], [5.0]]), np.array([[0.1], [6.0], [np.nan]])
    assert scope.departures(equations, near, "run0") == []
    (text,) = scope.departures(equations, far, "run0")
    assert "The simulation of run0 takes x to 0.1 to 6, far outside of 0.18 to 3" in text
    assert scope.departures(oscillator(), np.full((2, 2), 1e9), "run0") == []


@pytest.mark.parametrize("how", ["kept out", "left out in turn"])
def test_held_out_trajectories_are_shown_where_they_belong(how, tmp_path):
    held = {
        "how": how,
        "trajectories": [1],
        "r2": [0.8765],
        "states": {"x": [0.8765], "v": [0.4321]},
    }
    equations = oscillator(diagnostics={"holdout": held})
    case = study(equations, oscillations(), oscillations(40, phase=1.0))
    write_study(case, tmp_path)
    text = read(tmp_path / "report.html").text
    assert text.index("n/a") < text.index("run1") < text.index("0.876") < text.index("0.432")
    assert ("took no part in the search" in text) == (how == "kept out")
    assert "only its start" in text or "only their start" in text
    assert scope.worst(scope.held_out(equations)[1], case.labels) == "0.432 (run1)"


def test_the_memory_of_residuals_is_their_correlation():
    e = np.array([1.0, -1.0, 1.0, -1.0, np.nan, 1.0, -1.0, 1.0, -1.0])
    found, strip = memory_of([e, np.array([3.0, 3.0])])
    square = 8 + 18
    assert found == pytest.approx([(-7 + 9) / square, 6 / square])
    assert strip == pytest.approx([1.96 / np.sqrt(8), 1.96 / np.sqrt(6)])
    assert memory_of([np.array([np.nan])]) == ([], [])


def test_narrow_screens_stack_what_would_scroll(tmp_path):
    write_study(study(*open_question()), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count('class="wide stacked"') >= 4
    assert 'data-name="What differs"' in page
    assert "content: attr(data-name)" in page
