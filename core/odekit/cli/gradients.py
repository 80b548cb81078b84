"""``odekit gradients``: every gradient method on a named system, or on a script's own problem."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odekit.cli.options import (
    Debug,
    Json,
    Out,
    split_assignments,
    split_names,
    split_numbers,
)
from odekit.cli.output import (
    check_folder,
    console,
    plain_json,
    print_json,
    progress_bar,
    table,
    write_folder,
)
from odekit.errors import ProblemError

if TYPE_CHECKING:
    from pandas import DataFrame

TAKEN = ("field", "y0", "t", "loss", "params", "args")
"""Names that a script may define; the first three it must."""

PICTURE = "error_against_memory.png"


def _positive(value: float | None) -> float | None:
    """The value of an option for which zero makes no sense."""
    if value is not None and not value > 0:
        raise typer.BadParameter(f"must be positive, got {value:g}")
    return value


def gradients(
    system: Annotated[
        str,
        typer.Argument(
            metavar="NAME | SCRIPT",
            help="A named system (odekit plugins --kind system), or a Python file that defines "
            "field, y0 and t, and perhaps loss, params and args. The file is run.",
        ),
    ],
    t: Annotated[
        str | None,
        typer.Option("--t", metavar="T0,T1", help="First and last time; the system's by default."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=NUMBER", help="Value of a parameter; repeatable."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Gradient methods; all installed ones by default."),
    ] = None,
    solver: Annotated[str, typer.Option(metavar="NAME", help="Solver.")] = "tsit5",
    reference: Annotated[
        str, typer.Option(metavar="NAME", help="Solver of the reference.")
    ] = "dopri8",
    rtol: Annotated[float, typer.Option(min=0.0, help="Relative tolerance.")] = 1e-6,
    atol: Annotated[float, typer.Option(min=0.0, help="Absolute tolerance.")] = 1e-8,
    step_size: Annotated[
        float | None, typer.Option(callback=_positive, help="Fixed steps of this length.")
    ] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="Steps allowed.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each method is timed.")] = 3,
    time_limit: Annotated[
        float,
        typer.Option(
            callback=_positive,
            help="Seconds after which a method is given up; the reference has three times as many.",
        ),
    ] = 20.0,
    processes: Annotated[
        bool,
        typer.Option(
            "--processes", help="Measure the resident set too, in processes of their own."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of torch while a script is run.")] = 0,
    out: Out = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print the advice and nothing else.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare gradient methods: error, memory, evaluations, seconds.

    Gradients are those of the mean square of the solution, or of a script's loss, by the start and
    all parameters. Without --out the folder is called odekit-gradients-NAME. It receives
    gradients.csv, gradients.json and error_against_memory.png. What a script prints goes to the
    standard error stream. The exit code is 1 when no method could serve.
    """
    folder = out if out is not None else Path(f"odekit-gradients-{_title(system)}")
    check_folder(folder)
    values = split_assignments("--param", param or [])
    with _surroundings(system), progress_bar(shown=not quiet) as report:
        problem = _problem(system, values, t, seed)
        from odekit.gradient_comparison import compare_gradients

        found = compare_gradients(
            **problem,
            methods=split_names(methods),
            solver=solver,
            reference=reference,
            rtol=rtol,
            atol=atol,
            step_size=step_size,
            max_steps=max_steps,
            rounds=rounds,
            time_limit=time_limit,
            processes=processes,
            report=report,
        )
        written = write_folder(folder, lambda temporary: _write(found, temporary, _title(system)))
        if folder / PICTURE not in written:
            (folder / PICTURE).unlink(missing_ok=True)  # one of other figures
    served = bool(found["error"].notna().any())
    if as_json:
        print_json({**_as_json(found), "files": [str(path) for path in written]})
    elif quiet:
        typer.echo(found.attrs["advice"] if served else "", nl=served)
    else:
        _print(found)
        typer.echo(f"Written to {folder}: {', '.join(path.name for path in written)}")
    if not served:
        raise ProblemError(found.attrs["advice"])


@contextmanager
def _surroundings(system: str) -> Iterator[None]:
    """What a script expects: modules beside it can be imported. It prints where nobody parses."""
    if not _is_script(system):
        yield
        return
    before = list(sys.path)
    sys.path.insert(0, str(Path(system).resolve().parent))
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path[:] = before


def _title(system: str) -> str:
    return Path(system).stem if _is_script(system) else system.replace(":", "-")


def _is_script(system: str) -> bool:
    return system.endswith(".py")


def _problem(
    system: str, values: Mapping[str, float], span: str | None, seed: int
) -> dict[str, Any]:
    """The arguments of ``compare_gradients`` that say what is solved."""
    if not _is_script(system):
        return _named(system, values, span)
    if values or span is not None:
        raise typer.BadParameter("--param and --t are for named systems: write them in the script")
    return _script(Path(system), seed)


def _named(name: str, values: Mapping[str, float], text: str | None) -> dict[str, Any]:
    import odekit
    from odekit.symbolic_field import FormulaField

    found = odekit.create("system", name, **values)
    span = [float(x) for x in found.span]
    if text is not None:
        span = split_numbers("--t", text)
        if len(span) != 2 or span[0] == span[1]:
            raise typer.BadParameter(f"--t takes first and last time, such as 0,10; got {text!r}")
    formulas = getattr(found, "formulas", None)
    field = found.field()
    if isinstance(formulas, Mapping):  # so that its parameters get gradients too
        field = FormulaField(dict(formulas), dict(found.parameters), trainable=True)
    return {"field": field, "y0": found.y0, "t": span}


def _script(path: Path, seed: int) -> dict[str, Any]:
    """What the script defines.

    Raises:
        ProblemError: there is no such file, it fails, or a name is missing.
    """
    import torch

    from odekit.files import read_text

    read_text(path)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            names = runpy.run_path(str(path), run_name="__odekit__")
        except SystemExit as error:
            raise ProblemError(f"{path}: the script left with {error.code!r}") from error
        except Exception as error:
            raise ProblemError(f"{path}: {type(error).__name__}: {error}") from error
    missing = [name for name in TAKEN[:3] if name not in names]
    if missing:
        raise ProblemError(
            f"{path} does not define {' and '.join(missing)}: a script gives field(t, y), y0 and "
            "t, and perhaps loss(y), params and args"
        )
    return {name: names[name] for name in TAKEN if name in names}


def _write(found: DataFrame, folder: Path, title: str) -> None:
    import json

    from odekit.report.memory import draw_memory

    found.to_csv(folder / "gradients.csv", index=False, lineterminator="\n")
    text = json.dumps(plain_json(_as_json(found)), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "gradients.json").write_text(text + "\n", encoding="utf-8")
    shown = found[found["error"].notna() & found["peak_bytes"].notna()]
    if len(shown):
        size, measure = shown["peak_bytes"], "tensors at their peak"
        if shown["held_bytes"].notna().all():
            size = size + shown["held_bytes"] - shown["saved_bytes"]
            measure += ", and all else that waits for the backward pass"
        draw_memory(
            folder / PICTURE,
            shown["method"].tolist(),
            [float(x) for x in size],
            shown["error"].tolist(),
            found.attrs["uncertainty"],
            title=f"{title}: gradient methods, error against memory",
            measure=measure,
        )


def _as_json(found: DataFrame) -> dict[str, Any]:
    values = found.astype(object).where(found.notna(), None)
    return {"methods": values.to_dict(orient="records"), **found.attrs}


def _print(found: DataFrame) -> None:
    from odekit.gradient_advice import in_bytes

    counts = [
        name
        for name in ("peak_bytes", "saved_bytes", "held_bytes", "process_bytes")
        if name in found
    ]
    columns = ("method", "error", *(name.replace("_bytes", "") for name in counts))
    columns = (*columns, "evaluations", "back", "seconds", "note")
    listing = table(*columns, numeric=columns[1:-1])
    for row in _as_json(found)["methods"]:
        listing.add_row(
            row["method"],
            _shown(row["error"], ".1e"),
            *("" if row[name] is None else in_bytes(row[name]) for name in counts),
            _shown(row["evaluations"], "d"),
            _shown(row["evaluations_back"], "d"),
            _shown(row["seconds"], ".3g"),
            row["note"],
        )
    screen = console()
    screen.print(listing)
    screen.print(
        "Peak and saved are bytes of tensors. Held is all that waits for the backward pass, nodes "
        "of the graph included.",
        markup=False,
    )
    screen.print(
        f"Errors are relative to {found.attrs['reference']}, itself uncertain by "
        f"{found.attrs['uncertainty']:.0e}.",
        markup=False,
    )
    screen.print(f"Advice: {found.attrs['advice']}.", markup=False, style="bold")


def _shown(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)
