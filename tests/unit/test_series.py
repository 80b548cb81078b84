"""Observed data: what is read, what is repaired with a warning, what is refused and how."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from odekit import DataWarning, ProblemError, TimeSeries

NAN = math.nan


@pytest.fixture
def write(tmp_path):
    def write(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_lists_become_float64_and_get_names():
    series = TimeSeries([0, 1, 3], [[1, 2], [3, 4], [5, 6]], u=[7, 8, 9])
    assert series.t.dtype == series.y.dtype == series.u.dtype == torch.float64
    assert series.names == ("x0", "x1")
    assert series.input_names == ("u0",)
    assert (series.dim, len(series), series.span, series.time_name) == (2, 3, (0.0, 3.0), "t")
    assert series.u.shape == (3, 1)


def test_float32_states_stay_and_times_are_float64():
    y = torch.rand(3, 2, dtype=torch.float32)
    series = TimeSeries(torch.arange(3), y, names=["a", "b"])
    assert series.y.dtype == torch.float32
    assert torch.equal(series.y, y)
    assert series.t.dtype == torch.float64


def test_is_frozen_and_keeps_no_hold_on_the_callers_array():
    y = np.ones((3, 1))
    series = TimeSeries([0.0, 1.0, 2.0], y)
    y[0] = 5.0
    assert float(series.y[0]) == 1.0
    with pytest.raises(AttributeError):
        series.t = torch.zeros(3)


def test_one_state_may_come_flat_and_missing_values_stay():
    series = TimeSeries([0.0, 1.0, 2.0], [1.0, NAN, 3.0])
    assert series.y.shape == (3, 1)
    assert series.y[:, 0].isnan().tolist() == [False, True, False]


def test_unsorted_times_are_sorted_with_one_warning():
    with pytest.warns(DataWarning, match="sorted") as seen:
        series = TimeSeries([2.0, 0.0, 1.0], [[3.0], [1.0], [2.0]], u=[[30.0], [10.0], [20.0]])
    assert len(seen) == 1
    assert series.t.tolist() == [0.0, 1.0, 2.0]
    assert series.y[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert series.u[:, 0].tolist() == [10.0, 20.0, 30.0]


def test_equal_times_are_averaged_over_what_is_there_with_one_warning():
    y = [[1.0, NAN], [2.0, 4.0], [6.0, NAN], [4.0, NAN], [9.0, 9.0]]
    with pytest.warns(DataWarning, match="2 times appear more than once") as seen:
        series = TimeSeries([0.0, 1.0, 1.0, 1.0, 2.0], y)
    assert len(seen) == 1
    assert series.t.tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(series.y, [[1.0, NAN], [4.0, 4.0], [9.0, 9.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], [[1.0]]), "at least two rows, got 1"),
        (([], []), "at least two rows, got 0"),
        (([1.0, 1.0], [[1.0], [2.0]]), "t is 1 in every row"),
        (([0.0, NAN], [[1.0], [2.0]]), "t must be finite, got nan in row 1"),
        (([0.0, 1.0], [[1.0], [math.inf]]), "y is infinite in row 1, column 0: write NaN"),
        (([0.0, 1.0], [[1.0]]), r"y must have shape \(2, columns\), .* got \(1, 1\)"),
        (([[0.0], [1.0]], [1.0, 2.0]), r"t must have one axis"),
        (([0.0, 1.0], [["a"], ["b"]]), "y must be an array of numbers"),
        (([0.0, 1.0], torch.ones(2, 1, dtype=torch.float16)), r"write y.double\(\)"),
        (([0.0, 1.0], torch.ones(2, 1, dtype=torch.complex64)), "must be float32 or float64"),
        (([0.0, 1.0], [[NAN], [NAN]]), "state 'x0' has no value at all"),
        (([0.0, 1.0], [1.0, 2.0], [1.0]), "u must have shape"),
        (([0.0, 1.0], [1.0, 2.0], None, ["x 1"]), "'x 1' cannot be a symbol .* write 'x_1'"),
        (([0.0, 1.0], [1.0, 2.0], None, ["t"]), "'t' names two things"),
        (([0.0, 1.0], [1.0, 2.0], None, ["a", "b"]), "names must be a list of 1 names"),
        (([0.0, 1.0], [1.0, 2.0], None, "a"), "names must be a list"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ProblemError, match=message) as refused:
        TimeSeries(*arguments)
    assert "\n" not in str(refused.value)


def test_reads_the_first_column_as_time(write):
    series = TimeSeries.read(write("year,hare,lynx\n1900,30.0,4.0\n1901,47.2,6.1\n1902,70.2,\n"))
    assert series.time_name == "year"
    assert series.names == ("hare", "lynx")
    np.testing.assert_array_equal(series.y, [[30.0, 4.0], [47.2, 6.1], [70.2, NAN]])


def test_reads_chosen_columns(write):
    path = write("force,site,x,clock,v\n9,a,1,0,2\n8,b,3,1,4\n")
    series = TimeSeries.read(path, time="clock", states=["v", "x"], inputs="force")
    assert series.names == ("v", "x")
    assert series.y.tolist() == [[2.0, 1.0], [4.0, 3.0]]
    assert series.u.tolist() == [[9.0], [8.0]]
    assert series.input_names == ("force",)
    rest = TimeSeries.read(write("t,x,u\n0,1,2\n1,3,4\n"), inputs=["u"])
    assert rest.names == ("x",)


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbft,x\n0,1\n1,2\n",
        "t;x\n0;1\n1;2\n",
        "t\tx\n0\t1\n1\t2\n",
        "t, x\r\n0, 1\r\n\r\n1, 2\r\n\r\n",
        '"t","x"\n"0","1"\n"1","2"\n',
        "\n\nt,x\n0,1e0\n1,+2.\n",
    ],
)
def test_reads_usual_variants(write, text):
    series = TimeSeries.read(write(text))
    assert series.time_name == "t"
    assert series.names == ("x",)
    assert series.t.tolist() == [0.0, 1.0]
    assert series.y.tolist() == [[1.0], [2.0]]


def test_missing_cells(write):
    cells = ["", "NaN", "NA", "n/a", "null", "None", "-", "?"]
    text = "t,x,y\n" + "".join(f"{i},{cell},1\n" for i, cell in enumerate(cells)) + "99,5,1\n"
    series = TimeSeries.read(write(text))
    assert series.y[:, 0].isnan().tolist() == [True] * len(cells) + [False]


def test_a_short_row_misses_its_last_cells(write):
    series = TimeSeries.read(write("t,x,y\n0,1,2\n1,3\n"))
    np.testing.assert_array_equal(series.y, [[1.0, 2.0], [3.0, NAN]])


def test_unfit_names_are_changed_with_one_warning(write):
    with pytest.warns(DataWarning, match=r"'prey \(t\)' as prey_t, 'lambda' as lambda_") as seen:
        series = TimeSeries.read(write("Time,prey (t),lambda\n0,1,2\n1,3,4\n"))
    assert len(seen) == 1
    assert series.names == ("prey_t", "lambda_")


def test_unsorted_and_repeated_times_of_a_file(write):
    with pytest.warns(DataWarning) as seen:
        series = TimeSeries.read(write("t,x\n1,1\n0,2\n1,3\n"))
    assert len(seen) == 2
    assert series.y[:, 0].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {}, "is empty: it needs a header such as t,x,y"),
        ("\n \n", {}, "is empty"),
        ("t,x\n", {}, "has no row of numbers"),
        ("t,x\n0,1\n", {}, "has one row of numbers under its header"),
        ("0,1\n1,2\n2,3\n", {}, "has no header, its first line is '0,1': add a first line"),
        ("t,x\n0,1\n1,two\n2,3\n", {}, "column 'x', line 3: 'two' is not a number"),
        ("t,x\n\n0,1\n1,two\n2,3\n", {}, "column 'x', line 4: 'two' is not a number"),
        ("t;x\n0;1,5\n1;2\n", {}, "'1,5' is not a number: write one with a decimal point"),
        ("t,x\n0,1_0\n1,2\n", {}, "'1_0' is not a number"),
        ("t,x\n0,inf\n1,2\n", {}, "column 'x', line 2: infinite"),
        ("t,x\n0,1\n,2\n", {}, "column 't', line 3: the time is missing"),
        ("when,x\n3,1\n3,2\n", {}, "when is 3 in every row: name the column that holds the times"),
        ("t,x\n0,1,2\n1,2\n", {}, "give every row as many cells as the header"),
        ("t,x,x\n0,1,2\n1,2,3\n", {}, "has two columns 'x'"),
        ("t,,x\n0,1,2\n1,2,3\n", {}, "column 2 has no name"),
        ("t,x 1,x-1\n0,1,2\n1,2,3\n", {}, "would both be called x_1"),
        ("t x\n0 1\n1 2\n", {}, "has one column, 't x': separate the cells"),
        ("t,x,y\n0,1,\n1,2,\n", {}, "state 'y' has no value at all"),
        ("t,hare\n0,1\n1,2\n", {"states": ["hair"]}, "did you mean 'hare'?"),
        ("t,hare\n0,1\n1,2\n", {"time": "year"}, "time: there is no column 'year'"),
        ("t,hare\n0,1\n1,2\n", {"inputs": ["u"]}, "its columns are t, hare"),
        ("t,x\n0,1\n1,2\n", {"inputs": "x"}, "states: none are left"),
        ("t,x\n0,1\n1,2\n", {"states": []}, "states: none are left"),
        ("t,x\n0,1\n1,2\n", {"states": ["t", "x"]}, "column 't' is chosen twice"),
        (b"\xff\xfe\x00t", {}, "is not UTF-8 text"),
    ],
)
def test_refuses_files_in_one_line(write, text, arguments, message):
    path = write(text)
    with pytest.raises(ProblemError) as refused:
        TimeSeries.read(path, **arguments)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_refuses_paths(tmp_path):
    (tmp_path / "lynx_hare.csv").write_text("t,x\n0,1\n1,2\n")
    with pytest.raises(
        ProblemError, match=r"no file '.*hare\.csv': did you mean '.*lynx_hare\.csv'"
    ):
        TimeSeries.read(tmp_path / "hare.csv")
    with pytest.raises(ProblemError, match=r"nothing in .* has a name like it"):
        TimeSeries.read(tmp_path / "42")
    with pytest.raises(ProblemError, match=r"nor a folder '.*data', write the path from"):
        TimeSeries.read(tmp_path / "data" / "hare.csv")
    with pytest.raises(ProblemError, match="is a folder"):
        TimeSeries.read(tmp_path)


def test_from_frame_takes_numbers_text_and_missing_values():
    frame = pd.DataFrame(
        {
            "t": [0, 1, 2],
            "a": pd.array([1, None, 3], dtype="Int64"),
            "b": ["1.5", "", "2.5"],
            "c": [True, False, True],
        }
    )
    series = TimeSeries.from_frame(frame)
    np.testing.assert_array_equal(series.y, [[1.0, 1.5, 1.0], [NAN, NAN, 0.0], [3.0, 2.5, 1.0]])
    with pytest.raises(ProblemError, match="frame: column 'b', row 1: 'x' is not a number"):
        TimeSeries.from_frame(frame.assign(b=["1", "x", "2"]))
    with pytest.raises(ProblemError, match="no columns"):
        TimeSeries.from_frame(pd.DataFrame())


def test_writes_what_it_reads(tmp_path):
    generator = np.random.default_rng(0)
    y = generator.standard_normal((50, 2)) * 1e-7
    y[3, 1] = NAN
    times = np.sort(generator.random(50))
    series = TimeSeries(times, y, generator.random(50), ["a", "b"], time_name="s")
    path = tmp_path / "out.csv"
    series.write(path)
    again = TimeSeries.read(path, inputs=["u0"])
    assert torch.equal(again.t, series.t)
    np.testing.assert_array_equal(again.y, series.y)
    assert torch.equal(again.u, series.u)
    assert (again.names, again.time_name) == (series.names, "s")
    pd.testing.assert_frame_equal(again.frame(), series.frame())
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_a_refused_write_leaves_nothing(tmp_path):
    series = TimeSeries([0.0, 1.0], [1.0, 2.0])
    with pytest.raises(ProblemError, match="cannot write"):
        series.write(tmp_path / "none" / "out.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ProblemError, match="cannot write"):
        series.write(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_clean_data_warn_about_nothing(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TimeSeries.read(write("t,x\n0,1\n1,2\n"))


def test_an_empty_name_among_the_chosen_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("t,x,y\n0,1,2\n1,2,3\n2,3,4\n")
    for options in ({"states": ["x", ""]}, {"inputs": ""}):
        with pytest.raises(ProblemError, match=r"an empty name; the columns of .* are t, x, y"):
            TimeSeries.read(path, **options)
