"""``odekit solve``: a named system, or formulas, to numbers and pictures."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odekit.cli.options import Debug, Json, Out, Quiet, split_assignments, split_numbers
from odekit.cli.output import check_folder, console, print_json, progress_bar, write_folder
from odekit.errors import ProblemError

if TYPE_CHECKING:
    from odekit.solution import Solution

POINTS = 500
DRAWN = 5000
TIME = "t"


@dataclass(frozen=True)
class Task:
    """What is to be solved.

    Attributes:
        title: name of the system, empty for formulas.
        names: the states.
        parameters: their values.
        field: the vector field.
        right: right-hand sides as readable text.
        start: default start, None if there is none.
        span: default first and last time, None if there is none.
        autonomous: whether the field depends on the states alone.
    """

    title: str
    names: tuple[str, ...]
    parameters: Mapping[str, float]
    field: Any
    right: tuple[str, ...]
    start: tuple[float, ...] | None
    span: tuple[float, float] | None
    autonomous: bool

    @property
    def lines(self) -> list[str]:
        """The equations, one line each."""
        return [f"{name}' = {text}" for name, text in zip(self.names, self.right, strict=True)]


def solve(
    system: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME | FORMULA",
            help='A named system (odekit plugins --kind system), or formulas such as "x\' = -x".',
        ),
    ],
    y0: Annotated[
        str | None,
        typer.Option("--y0", metavar="NUMBERS", help="Start, in the order of the states: 1,0."),
    ] = None,
    t: Annotated[
        str | None,
        typer.Option("--t", metavar="T0,T1[,N]", help="First and last time, number of rows."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=NUMBER", help="Value of a parameter; repeatable."),
    ] = None,
    solver: Annotated[str, typer.Option(metavar="NAME", help="Solver.")] = "tsit5",
    rtol: Annotated[float, typer.Option(min=0.0, help="Relative tolerance.")] = 1e-8,
    atol: Annotated[float, typer.Option(min=0.0, help="Absolute tolerance.")] = 1e-10,
    points: Annotated[
        int | None, typer.Option(min=2, help=f"Rows of the table; {POINTS} by default.")
    ] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="Steps allowed.")] = 100_000,
    out: Out = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Solve a named system or formulas.

    Without --out the folder is called odekit-solve-NAME, or odekit-solve for formulas. It receives
    solution.csv, time_series.png and phase_portrait.png.
    """
    values = split_assignments("--param", param or [])
    task = _task(system, values)
    start = _start(task, y0)
    times = _times(task, t, points)
    folder = out if out is not None else Path(f"odekit-solve-{task.title}".rstrip("-"))
    check_folder(folder)
    with progress_bar(shown=not quiet) as report:
        report("solving", 0.0)
        solution = _solve(task, start, times, solver, rtol, atol, max_steps)
        report("drawing and writing", 0.8)
        written = write_folder(folder, lambda temporary: _write(task, solution, temporary))
    if as_json:
        print_json(_as_json(task, solver, solution, written))
    elif quiet:
        typer.echo("\n".join(task.lines))
    else:
        _print(task, solver, solution)
        typer.echo(f"Written to {folder}: {', '.join(path.name for path in written)}")


def _task(system: Sequence[str], values: Mapping[str, float]) -> Task:
    if any("=" in text for text in system):
        return _formulas(system, values)
    if len(system) > 1:
        raise typer.BadParameter(
            f'one name at a time, or formulas such as "x\' = -x"; got {", ".join(system)}'
        )
    return _named(system[0], values)


def _named(name: str, values: Mapping[str, float]) -> Task:
    import odekit

    found = odekit.create("system", name, **values)
    expressions = found.sympy()
    used = {str(s) for expression in expressions.values() for s in expression.free_symbols}
    return Task(
        title=name.replace(":", "-"),
        names=tuple(found.names),
        parameters=dict(found.parameters),
        field=found.field(),
        right=tuple(_right(found, state, expressions[state]) for state in found.names),
        start=tuple(found.y0.tolist()),
        span=(float(found.span[0]), float(found.span[1])),
        autonomous=used <= set(found.names),
    )


def _right(system: Any, state: str, expression: Any) -> str:
    """A right-hand side as its author wrote it, where the system tells, else from sympy."""
    formulas = getattr(system, "formulas", None)
    if isinstance(formulas, Mapping) and isinstance(formulas.get(state), str):
        return formulas[state]  # type: ignore[no-any-return]
    from odekit.codegen import readable

    pairs = [term.as_coeff_Mul() for term in expression.expand().as_ordered_terms()]
    return readable([(float(factor), rest) for factor, rest in pairs])


def _formulas(lines: Sequence[str], values: Mapping[str, float]) -> Task:
    from odekit.formulas import read_formulas
    from odekit.symbolic_field import FormulaField

    right = read_formulas(lines)
    used = _check_names(right, values)
    return Task(
        title="",
        names=tuple(right),
        parameters=dict(values),
        field=FormulaField(right, values),
        right=tuple(right.values()),
        start=None,
        span=None,
        autonomous=TIME not in used,
    )


def _check_names(right: Mapping[str, str], values: Mapping[str, float]) -> set[str]:
    """The names in all formulas; each has to be a state, time, a parameter or a function."""
    from odekit.formulas import FUNCTIONS

    used = {n for text in right.values() for n in re.findall(r"(?<![\w.])[^\W\d]\w*", text)}
    known = {*right, *values, *FUNCTIONS, TIME, "pi", "e"}
    for name in sorted(used - known):
        close = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ProblemError(f"{name!r} has no value: {hint}write --param {name}=1 to give it one")
    for name in sorted(set(values) - used):
        raise ProblemError(f"--param {name}: no formula has this name in it")
    return used


def _start(task: Task, text: str | None) -> list[float]:
    if text is None:
        if task.start is None:
            example = ",".join("1" for _ in task.names)
            raise typer.BadParameter(
                f"--y0 is missing: give a start for {', '.join(task.names)}, such as --y0 {example}"
            )
        return list(task.start)
    start = split_numbers("--y0", text)
    if len(start) != len(task.names):
        raise typer.BadParameter(
            f"--y0 needs {len(task.names)} numbers, for {', '.join(task.names)}; got {text!r}"
        )
    return start


def _times(task: Task, text: str | None, points: int | None) -> list[float]:
    """Equidistant output times."""
    import numpy as np

    if text is None:
        if task.span is None:
            raise typer.BadParameter("--t is missing: give first and last time, such as --t 0,10")
        first, last, count = *task.span, POINTS
    else:
        numbers = split_numbers("--t", text)
        if len(numbers) not in (2, 3) or not np.isfinite(numbers).all():
            raise typer.BadParameter(
                f"--t takes first and last time and perhaps a number of rows, such as 0,10 or "
                f"0,10,200; got {text!r}"
            )
        first, last, *rest = numbers
        count = int(rest[0]) if rest else POINTS
        if rest and (rest[0] != count or count < 2):
            raise typer.BadParameter(f"--t: the number of rows must be 2 or more; got {rest[0]:g}")
        if rest and points is not None and points != count:
            raise typer.BadParameter(
                f"--t asks for {count} rows and --points for {points}: leave one of them out"
            )
    if first == last:
        raise typer.BadParameter(f"--t: first and last time are both {first:g}: give two times")
    return np.linspace(first, last, points or count).tolist()  # type: ignore[no-any-return]


def _solve(
    task: Task,
    start: Sequence[float],
    times: Sequence[float],
    solver: str,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Solution:
    import torch

    import odekit

    with torch.no_grad():
        return odekit.solve(
            task.field,
            torch.tensor(start, dtype=torch.float64),
            torch.tensor(times, dtype=torch.float64),
            solver=solver,
            rtol=rtol,
            atol=atol,
            max_steps=max_steps,
            dense=True,
        )


def _write(task: Task, solution: Solution, folder: Path) -> None:
    import torch

    from odekit.report import arrays_of, write_solution

    zero = torch.tensor(0.0, dtype=torch.float64)
    slope = arrays_of(task.field, zero) if task.autonomous else None
    drawn = torch.linspace(float(solution.t[0]), float(solution.t[-1]), DRAWN, dtype=torch.float64)
    with torch.no_grad():
        curve = (drawn.numpy(), solution(drawn).numpy())
    rows = (solution.t.numpy(), solution.y.numpy())
    write_solution(folder, task.names, TIME, rows, curve, slope)


def _print(task: Task, solver: str, solution: Solution) -> None:
    screen = console()
    for line in task.lines:
        screen.print(f"  {line}", style="bold", markup=False)
    if task.parameters:
        values = ", ".join(f"{name} = {value:.6g}" for name, value in task.parameters.items())
        screen.print(f"  with {values}", markup=False)
    screen.print()
    stats = solution.stats
    ends = (
        f"{name} = {value:.10g}" for name, value in zip(task.names, _last(solution), strict=True)
    )
    screen.print(
        f"{solver}: {int(stats.accepted[0])} steps, {int(stats.rejected[0])} rejected, "
        f"{int(stats.evaluations[0])} evaluations",
        markup=False,
    )
    screen.print(f"at {TIME} = {float(solution.t[-1]):.10g}: {', '.join(ends)}", markup=False)


def _last(solution: Solution) -> list[float]:
    return solution.y[-1].tolist()  # type: ignore[no-any-return]


def _as_json(
    task: Task,
    solver: str,
    solution: Solution,
    written: Sequence[Path],
) -> dict[str, Any]:
    stats = solution.stats
    return {
        "equations": dict(zip(task.names, task.right, strict=True)),
        "parameters": dict(task.parameters),
        "solver": solver,
        "status": solution.statuses[0].name.lower(),
        "attempts": int(stats.attempts[0]),
        "accepted": int(stats.accepted[0]),
        "rejected": int(stats.rejected[0]),
        "evaluations": int(stats.evaluations[0]),
        "t": solution.t,
        "y": {name: solution.y[:, j] for j, name in enumerate(task.names)},
        "files": [str(path) for path in written],
    }
