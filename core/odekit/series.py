"""Observed data of one trajectory: times, states, perhaps inputs; in from CSV, out to CSV.

Irregular times and missing values are normal here. Several trajectories of one system are
several `TimeSeries`. For the result of a solve, see `odekit.Solution`.

Shapes: ``t`` is ``(n,)``, ``y`` is ``(n, d)``, ``u`` is ``(n, m)``; NaN in ``y`` or ``u`` means
    missing.
Units: the caller's, kept as they are.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import torch
from torch import Tensor

from odekit.columns import check_chosen, check_header, numbers, read_table, rename
from odekit.errors import DataWarning, ProblemError
from odekit.files import write_text
from odekit.formulas import check_symbols

if TYPE_CHECKING:
    import pandas as pd


@final
@dataclass(frozen=True, init=False, eq=False)
class TimeSeries:
    """Observations of one trajectory, checked and in order of time.

    Args:
        t: times, ``(n,)``, finite. Unsorted rows are sorted and rows of equal time averaged,
            each with one `DataWarning`.
        y: states, ``(n, d)``, or ``(n,)`` for one state; NaN where a value is missing. Tensors
            keep float32 or float64, everything else becomes float64.
        u: inputs (controls, forcing), ``(n, m)`` or ``(n,)``.
        names: the states, ``x0, x1, ...`` by default; they become symbols of equations, so they
            must be identifiers.
        input_names: the inputs, ``u0, u1, ...`` by default.
        time_name: the time.

    Raises:
        ProblemError: shapes that do not fit, fewer than two different times, infinite values, a
            state without any value, or names that cannot be symbols.

    Example:
        >>> series = TimeSeries([0.0, 1.0, 2.0], [[1.0], [0.5], [float("nan")]], names=["x"])
        >>> series
        TimeSeries(3 points, t from 0 to 2, states x)
        >>> series.dim, series.span
        (1, (0.0, 2.0))
    """

    t: Tensor
    y: Tensor
    u: Tensor | None
    names: tuple[str, ...]
    input_names: tuple[str, ...]
    time_name: str

    def __init__(
        self,
        t: Any,
        y: Any,
        u: Any = None,
        names: Sequence[str] | None = None,
        *,
        input_names: Sequence[str] | None = None,
        time_name: str = "t",
    ) -> None:
        times = _tensor("t", t).to(torch.float64)
        if times.dim() != 1:
            raise ProblemError(f"t must have one axis, (n,), got shape {tuple(times.shape)}")
        if len(times) < 2:
            raise ProblemError(f"a series needs at least two rows, got {len(times)}")
        states = _table("y", y, times)
        inputs = None if u is None else _table("u", u, times)
        width = 0 if inputs is None else inputs.shape[1]
        self._set("names", _names("names", names, "x", states.shape[1]))
        self._set("input_names", _names("input_names", input_names, "u", width))
        self._set("time_name", time_name)
        check_symbols((time_name, *self.names, *self.input_names))
        for name, column in zip(self.names, states.T, strict=True):
            if bool(column.isnan().all()):
                raise ProblemError(
                    f"state {name!r} has no value at all: leave it out of the states"
                )
        times, states, inputs = _in_order(times, states, inputs, time_name)
        self._set("t", times)
        self._set("y", states)
        self._set("u", inputs)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        time: str | None = None,
        states: str | Sequence[str] | None = None,
        inputs: str | Sequence[str] | None = None,
    ) -> Self:
        """Read a text file of columns with one header line.

        Fields are separated by commas, or by semicolons or tabs where the header has no comma.
        Empty cells and ``NA``, ``NaN``, ``null``, ``-`` and ``?`` are missing values. Names that
        are no identifiers are changed (``prey (t)`` to ``prey_t``) with one `DataWarning`.

        Args:
            path: the file, UTF-8.
            time: name of the time column; the first column by default.
            states: names of the states; by default every column but time and inputs.
            inputs: names of the inputs; none by default.

        Raises:
            ProblemError: what is wrong with the file or the names, in one line.
        """
        frame, rows = read_table(path)
        return cls._select(frame, rows, str(path), time, states, inputs)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        time: str | None = None,
        states: str | Sequence[str] | None = None,
        inputs: str | Sequence[str] | None = None,
    ) -> Self:
        """Take columns of a pandas frame; arguments as for `read`.

        Raises:
            ProblemError: what is wrong with the frame or the names, in one line.
        """
        if not len(frame.columns):
            raise ProblemError("frame has no columns: give one of time and at least one of states")
        rows = [f"row {i}" for i in range(len(frame))]
        return cls._select(frame, rows, "frame", time, states, inputs)

    @classmethod
    def _select(
        cls,
        frame: pd.DataFrame,
        rows: Sequence[str],
        source: str,
        time: str | None,
        states: str | Sequence[str] | None,
        inputs: str | Sequence[str] | None,
    ) -> Self:
        columns = [str(column) for column in frame.columns]
        check_header(columns, source)
        frame = frame.set_axis(columns, axis=1)
        time = columns[0] if time is None else time
        driven = _listed(inputs)
        if states is None:
            states = [name for name in columns if name not in (time, *driven)]
        states = _listed(states)
        for argument, names in (("time", [time]), ("states", states), ("inputs", driven)):
            check_chosen(argument, names, columns, source)
        if not states:
            raise ProblemError(
                f"states: none are left in {source}: one column of time and at least one of states "
                f"are needed, its columns are {', '.join(columns)}"
            )
        chosen = [time, *states, *driven]
        twice = next((name for name in chosen if chosen.count(name) > 1), None)
        if twice is not None:
            raise ProblemError(
                f"column {twice!r} is chosen twice: time, states and inputs need columns of their "
                "own"
            )
        table = {name: numbers(frame[name], name, rows, source) for name in chosen}
        missing = table[time].isnan().nonzero()
        if len(missing):
            raise ProblemError(
                f"{source}: column {time!r}, {rows[int(missing[0])]}: the time is missing: fill it "
                "in, drop the row, or name another column with time="
            )
        symbols = rename(chosen, source)
        return cls(
            table[time],
            torch.stack([table[name] for name in states], dim=-1),
            torch.stack([table[name] for name in driven], dim=-1) if driven else None,
            [symbols[name] for name in states],
            input_names=[symbols[name] for name in driven],
            time_name=symbols[time],
        )

    def frame(self) -> pd.DataFrame:
        """A pandas frame: time, states, inputs."""
        import pandas as pd

        columns = {self.time_name: self.t}
        columns.update(zip(self.names, self.y.T, strict=True))
        if self.u is not None:
            columns.update(zip(self.input_names, self.u.T, strict=True))
        return pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file that `read` reads back to the same numbers; all of it or nothing."""
        write_text(path, self.frame().to_csv(index=False, lineterminator="\n"))

    @property
    def dim(self) -> int:
        """The number of states."""
        return self.y.shape[1]

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last time."""
        return float(self.t[0]), float(self.t[-1])

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        inputs = f", inputs {' '.join(self.input_names)}" if self.input_names else ""
        return (
            f"TimeSeries({len(self)} points, {self.time_name} from {self.span[0]:.6g} to "
            f"{self.span[1]:.6g}, states {' '.join(self.names)}{inputs})"
        )


def _tensor(argument: str, value: Any) -> Tensor:
    """A real floating tensor; lists, numpy and pandas become float64."""
    if isinstance(value, Tensor):
        tensor = value.detach()
    else:
        import numpy as np

        try:
            tensor = torch.from_numpy(np.array(value, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ProblemError(f"{argument} must be an array of numbers: {error}") from None
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    if tensor.is_floating_point() or tensor.is_complex():
        raise ProblemError(
            f"{argument} must be float32 or float64, got {tensor.dtype}: write {argument}.double()"
        )
    return tensor.to(torch.float64)


def _table(argument: str, value: Any, times: Tensor) -> Tensor:
    """``(n, k)`` that fits to ``times`` and holds no infinity."""
    table = _tensor(argument, value)
    if table.dim() == 1:
        table = table[:, None]
    if table.dim() != 2 or len(table) != len(times) or table.shape[1] == 0:
        raise ProblemError(
            f"{argument} must have shape ({len(times)}, columns), one row per time of t, got "
            f"{tuple(table.shape)}"
        )
    if table.device != times.device:
        raise ProblemError(f"{argument} is on {table.device} but t on {times.device}: move one")
    if bool(table.isinf().any()):
        row, column = table.isinf().nonzero()[0].tolist()
        raise ProblemError(
            f"{argument} is infinite in row {row}, column {column}: write NaN for a missing value"
        )
    return table


def _in_order(
    t: Tensor, y: Tensor, u: Tensor | None, name: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows sorted by time, rows of one time averaged over what is there."""
    if not bool(t.isfinite().all()):
        row = int((~t.isfinite()).nonzero()[0])
        raise ProblemError(f"t must be finite, got {float(t[row])} in row {row}: drop that row")
    if bool((t[1:] < t[:-1]).any()):
        t, order = torch.sort(t, stable=True)
        y, u = y[order], None if u is None else u[order]
        warnings.warn("times were not in order: the rows were sorted", DataWarning, stacklevel=4)
    distinct, group = torch.unique_consecutive(t, return_inverse=True)
    if len(distinct) < 2:
        raise ProblemError(
            f"{name} is {float(t[0]):.9g} in every row: name the column that holds the times with "
            "time="
        )
    if len(distinct) < len(t):
        count = len(t) - len(distinct)
        y, u = _mean(y, group), None if u is None else _mean(u, group)
        warnings.warn(
            f"{count} {'time appears' if count == 1 else 'times appear'} more than once: rows of "
            "equal time were averaged",
            DataWarning,
            stacklevel=4,
        )
    return distinct, y, u


def _mean(table: Tensor, group: Tensor) -> Tensor:
    """Mean per group over the values that are not missing; NaN where there is none."""
    zeros = table.new_zeros(int(group[-1]) + 1, table.shape[1])
    total = zeros.index_add(0, group, table.nan_to_num(0.0))
    return total / zeros.index_add(0, group, (~table.isnan()).to(table.dtype))


def _listed(names: str | Sequence[str] | None) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(names)


def _names(argument: str, names: Sequence[str] | None, prefix: str, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"{prefix}{i}" for i in range(count))
    if isinstance(names, str) or len(names) != count:
        raise ProblemError(f"{argument} must be a list of {count} names, got {names!r}")
    return tuple(names)
