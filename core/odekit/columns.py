"""Columns of numbers out of CSV text and frames, each bad cell named by its column and row.

Cells are read as text first, so that a message can show what stood there; pandas alone would
turn a column with one bad cell into text without a word.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from odekit.errors import DataWarning, ProblemError
from odekit.files import read_text
from odekit.formulas import symbol_name

if TYPE_CHECKING:
    import pandas as pd

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?"})


def read_table(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, list[str]]:
    """A CSV file as a frame of text, and a label (``line 7``) for each row.

    Raises:
        ProblemError: no file, nothing in it, no header, fewer than two rows, ragged rows.
    """
    import pandas as pd

    text = read_text(path)
    source = str(path)
    lines = text.splitlines(keepends=True)
    blank = next((i for i, line in enumerate(lines) if line.strip()), None)
    if blank is None:
        raise ProblemError(
            f"{source} is empty: it needs a header such as t,x,y and rows of numbers"
        )
    first = lines[blank]
    separator = next((mark for mark in ",;\t" if mark in first), ",")
    try:
        table = _parse("".join(lines[blank:]), separator)
    except (pd.errors.ParserError, ValueError) as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise ProblemError(
            f"{source} is not a table of columns ({reason}): give every row as many cells as the "
            "header"
        ) from None
    filled = (table != "").any(axis=1)
    table = table[filled]
    header, body = [str(name) for name in table.iloc[0]], table.iloc[1:]
    if all(_number(name) is not None for name in header):
        raise ProblemError(
            f"{source} has no header, its first line is {first.strip()[:60]!r}: add a first line "
            "such as t,x,y"
        )
    if len(header) == 1:
        raise ProblemError(
            f"{source} has one column, {header[0][:60]!r}: separate the cells by commas, "
            "semicolons or tabs, with one column of time and at least one of states"
        )
    if len(body) < 2:
        count = {0: "no row", 1: "one row"}[len(body)]
        raise ProblemError(
            f"{source} has {count} of numbers under its header: at least two are needed"
        )
    return body.set_axis(header, axis=1), [f"line {blank + i + 1}" for i in body.index]


def _parse(text: str, separator: str) -> pd.DataFrame:
    import io

    import pandas as pd

    table = pd.read_csv(
        io.StringIO(text),
        sep=separator,
        header=None,
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,
    )
    return table.fillna("").apply(lambda column: column.str.strip())


def check_header(names: Sequence[str], source: str) -> None:
    """Raise `ProblemError` unless the columns have different names."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ProblemError(f"{source} has two columns {twice!r}: give each a name of its own")


def check_chosen(argument: str, chosen: Sequence[str], names: Sequence[str], source: str) -> None:
    """Raise `ProblemError` for a chosen column that is not there, with the nearest that is."""
    for name in chosen:
        if name == "" and "" not in names:
            raise ProblemError(
                f"{argument}: an empty name; the columns of {source} are "
                f"{', '.join(name for name in names if name)}"
            )
        if name == "":
            raise ProblemError(
                f"{source}: column {list(names).index('') + 1} has no name: name it in the header, "
                f"or choose others with {argument}="
            )
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ProblemError(
                f"{argument}: there is no column {name!r} in {source}: {hint}its columns are "
                f"{', '.join(name for name in names if name)}"
            )


def numbers(column: Any, name: str, rows: Sequence[str], source: str) -> Tensor:
    """One column, ``(n,)`` in float64; missing cells are NaN.

    Args:
        column: a pandas series of numbers or of text.
        name: its name, for messages.
        rows: a label for each row, for messages.
        source: the file or frame, for messages.

    Raises:
        ProblemError: a cell that is no finite number.
    """
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        values = column.to_numpy(dtype="float64", na_value=float("nan")).tolist()
    else:
        values = _read_cells(column, name, rows, source)
    tensor = torch.tensor(values, dtype=torch.float64)
    if bool(tensor.isinf().any()):
        row = rows[int(tensor.isinf().nonzero()[0])]
        raise ProblemError(
            f"{source}: column {name!r}, {row}: infinite: leave the cell empty if it is missing"
        )
    return tensor


def _read_cells(column: Any, name: str, rows: Sequence[str], source: str) -> list[float]:
    values = []
    for row, cell in zip(rows, column, strict=True):
        value = float("nan") if _is_missing(cell) else _number(cell)
        if value is None:
            comma = " with a decimal point" if isinstance(cell, str) and "," in cell else ""
            raise ProblemError(
                f"{source}: column {name!r}, {row}: {str(cell)[:40]!r} is not a number: write one"
                f"{comma}, leave the cell empty if it is missing, or leave the column out with "
                "states="
            )
        values.append(value)
    return values


def _is_missing(cell: Any) -> bool:
    import pandas as pd

    if isinstance(cell, str):
        return cell.strip().lower() in MISSING
    return cell is None or cell is pd.NA or cell is pd.NaT or cell != cell


def _number(cell: Any) -> float | None:
    if isinstance(cell, str) and "_" in cell:
        return None  # float("1_0") is 10, which no file means
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def rename(names: Sequence[str], source: str) -> dict[str, str]:
    """Each name's symbol in equations; names that had to change are told in one `DataWarning`."""
    symbols = {name: symbol_name(name) for name in names}
    changed = [f"{name!r} as {symbol}" for name, symbol in symbols.items() if name != symbol]
    for name, symbol in symbols.items():
        other = next((n for n, s in symbols.items() if s == symbol and n != name), None)
        if other is not None:
            raise ProblemError(
                f"{source}: columns {name!r} and {other!r} would both be called {symbol} in "
                "equations: rename one of them"
            )
    if changed:
        warnings.warn(
            f"{source}: names were made fit for equations: {', '.join(changed)}",
            DataWarning,
            stacklevel=4,
        )
    return symbols
