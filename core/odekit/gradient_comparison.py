"""``compare_gradients``: every gradient method on one's own problem, error beside cost.

The answer to "which method should I take" depends on the field, the number of steps and the
memory at hand; this measures it. Each row is one method on the same solve and the same loss.

Shapes: those of ``solve``.
Units: bytes, seconds; errors are relative.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from odekit.controller import StepController
from odekit.errors import GradientWarning, OdekitError, ProblemError
from odekit.field import State, VectorField
from odekit.gradient import GradientMethod
from odekit.gradient_reference import Question, Reference, find_reference, start_of
from odekit.live_bytes import LiveBytes, synchronise
from odekit.registry import components, resolve
from odekit.resident import resident_growth
from odekit.solve import name_of, parameters_of, solve, tensors_behind
from odekit.solver import Solver
from odekit.trees import leaves_of

if TYPE_CHECKING:
    from pandas import DataFrame

Choice: TypeAlias = str | GradientMethod | Mapping[str, Any]
"""A method, or a dict of options of ``solve`` with ``gradient`` among them."""

Report: TypeAlias = Callable[[str, float], None]
"""``report(stage, fraction)``."""

COUNTS = ("peak_bytes", "evaluations", "evaluations_back", "saved_bytes", "process_bytes")
FEW = 64
"""Numbers asking for gradients beyond which a method that is for few of them is not run."""

MORE = 100
"""How many times more steps the advice looks ahead to."""


def compare_gradients(
    field: Callable[..., State],
    y0: State,
    t: Any,
    loss: Callable[[State], Tensor] | None = None,
    *,
    methods: Sequence[str | GradientMethod] | Mapping[str, Choice] | None = None,
    solver: str | Solver = "tsit5",
    controller: str | StepController | None = None,
    args: Any = None,
    rtol: Any = 1e-6,
    atol: Any = 1e-8,
    step_size: float | None = None,
    params: Iterable[Tensor] | None = None,
    per_sample: bool = False,
    max_steps: int = 10_000,
    reference: str | Solver = "dopri8",
    rounds: int = 3,
    time_limit: float = 20.0,
    processes: bool = False,
    report: Report | None = None,
) -> DataFrame:
    """Measure gradient methods on a problem of one's own.

    Args:
        field: as for ``solve``; it must give the same slope when it is asked again.
        y0: the start; gradients are asked for whether or not it asks for them.
        t: output times.
        loss: of ``solution.y``, 0-d and real; the mean square of all rows when not given.
        methods: names or instances, or a dict from labels to them; a value may also be a dict
            of options of ``solve`` for this method alone, such as
            ``{"gradient": "reversible", "solver": ...}``. When not given all installed ones but
            those for points of rest; those whose cost grows with how many numbers ask for
            gradients are not run where these are more than 64.
        solver: of the forward solves, as are the options that follow.
        controller: step-size control.
        args: handed to the field; tensors in it that ask for gradients get them.
        rtol: relative tolerance.
        atol: absolute tolerance.
        step_size: fixed steps of this length.
        params: tensors that the field depends on, where they cannot be found.
        per_sample: every sample with steps of its own.
        max_steps: attempts allowed per lane.
        reference: solver of the reference; give an implicit one for stiff fields.
        rounds: how often each method is timed, in turn with the others.
        time_limit: seconds after which the first solve and backward pass of a method is given up;
            a solve that goes backwards may hardly get anywhere.
        processes: also run each method in a process of its own and see how far its resident set
            grows, which takes longer and counts all memory, that of the graph's nodes as well.
        report: told how far this is, ``report(stage, fraction)``.

    Returns:
        A DataFrame, a row a method, with the columns

        * ``method``: name or label,
        * ``error``: relative 2-norm over y0, all parameters and args, against the reference,
        * ``peak_bytes``: the most bytes of tensors alive at a time, forward and back,
        * ``evaluations``: calls of the field in the forward solve,
        * ``seconds``: of one solve and backward pass, the median,
        * ``evaluations_back``: calls of the field in the backward pass,
        * ``saved_bytes``: bytes of tensors that wait between the two,
        * ``process_bytes``: with ``processes``, by how much the resident set grew,
        * ``note``: what it warned of, or why it refused; its figures are then missing.

        ``attrs`` holds ``advice``, a sentence; ``reference``, how the reference was found; and
        ``uncertainty``, the relative change of the reference with 100 times its tolerance:
        errors below that say nothing.

    Raises:
        ProblemError: an argument has a value that cannot work.
        SolveError: the reference does not reach the end.

    Example:
        >>> import torch, odekit
        >>> field = torch.nn.Linear(2, 2).double()
        >>> table = odekit.compare_gradients(
        ...     lambda t, y: field(y), torch.ones(2).double(), [0.0, 1.0],
        ...     methods=["unrolled", "adjoint"], rounds=1,
        ... )
        >>> table["method"].tolist(), bool((table["error"] < 1e-4).all())
        (['unrolled', 'adjoint'], True)
    """
    import pandas as pd

    if rounds < 1:
        raise ProblemError(f"rounds must be at least 1, got {rounds}")
    choices = _choices(methods)
    given = list(params) if params is not None else []
    found = [*parameters_of(field), *leaves_of(args), *parameters_of(args), *given]
    wanted = [x for x in found if isinstance(x, Tensor) and x.requires_grad]
    options = {
        "solver": solver,
        "controller": controller,
        "args": args,
        "rtol": rtol,
        "atol": atol,
        "step_size": step_size,
        "per_sample": per_sample,
        "max_steps": max_steps,
    }
    question = Question(
        field=field,
        y0=start_of(y0),
        t=t.detach() if isinstance(t, Tensor) else t,
        loss=_scalar(loss or _mean_square),
        params=tuple({id(x): x for x in wanted}.values()),
        options=options,
    )
    tell = report or (lambda stage, fraction: None)
    tell("reference", 0.0)
    held = [*tensors_behind(field), *tensors_behind(args), *leaves_of(args), *given]
    truth = find_reference(question, reference, [x for x in held if isinstance(x, Tensor)])
    numbers = sum(x.numel() for x in question.sources)
    rows: list[dict[str, Any]] = []
    for i, (label, choice) in enumerate(choices.items()):
        tell(label, (1 + i) / (2 + 2 * len(choices)))
        if methods is None and choice["gradient"].for_few and numbers > FEW:
            note = f"not run: {numbers} numbers ask for gradients, each costs a solve"
            rows.append(_row(label, note, processes=processes))
            continue
        rows.append(_measure(question, label, choice, truth, time_limit, processes=processes))
    _time(question, choices, rows, rounds, tell)
    table = pd.DataFrame(rows)
    for name in COUNTS:
        if name in table:
            table[name] = table[name].astype("Int64")
    table.attrs = {
        "advice": _advice(rows, truth.uncertainty),
        "reference": truth.words,
        "uncertainty": truth.uncertainty,
    }
    return table


def _choices(
    methods: Sequence[str | GradientMethod] | Mapping[str, Choice] | None,
) -> dict[str, dict[str, Any]]:
    """Labels, and the options of ``solve`` that they stand for.

    Raises:
        ProblemError: there is none, or a label comes twice.
        UnknownNameError: a name that no plugin offers.
    """
    if methods is None:
        entries = components("gradient")
        names = [e.name for e in entries]
        methods = [
            e.name if names.count(e.name) == 1 else e.full_name
            for e in entries
            if not e.load().at_rest
        ]
    if isinstance(methods, str | GradientMethod):
        methods = [methods]
    if not isinstance(methods, Mapping):
        labels = [name_of(method) for method in methods]
        twice = sorted({name for name in labels if labels.count(name) > 1})
        if twice:
            raise ProblemError(
                f"methods: {', '.join(twice)} comes more than once; give a dict with a label for "
                "each, such as {'few': create('gradient', ...)}"
            )
        methods = dict(zip(labels, methods, strict=True))
    if not methods:
        raise ProblemError("methods is empty; leave it out to compare all that are installed")
    found = {}
    for label, choice in methods.items():
        chosen = dict(choice) if isinstance(choice, Mapping) else {"gradient": choice}
        chosen["gradient"] = resolve("gradient", chosen.get("gradient", label), GradientMethod)
        found[label] = chosen
    return found


def _mean_square(y: State) -> Tensor:
    rows = [x.abs().square().reshape(-1) for x in leaves_of(y)]
    return torch.cat(rows).mean()


def _scalar(loss: Callable[[State], Tensor]) -> Callable[[State], Tensor]:
    def checked(y: State) -> Tensor:
        value = loss(y)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
            seen = (
                f"{value.dtype} of shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            raise ProblemError(f"loss must give one real number, a tensor 0-d, got {seen}")
        return value.reshape(())

    return checked


def _row(label: str, note: str, *, processes: bool) -> dict[str, Any]:
    """A row without figures."""
    return {
        "method": label,
        "error": float("nan"),
        "peak_bytes": None,
        "evaluations": None,
        "seconds": float("nan"),
        "evaluations_back": None,
        "saved_bytes": None,
        **({"process_bytes": None} if processes else {}),
        "note": note,
    }


def _measure(
    question: Question,
    label: str,
    choice: dict[str, Any],
    truth: Reference,
    time_limit: float,
    *,
    processes: bool,
) -> dict[str, Any]:
    """All figures of one method but its seconds."""
    row = _row(label, "", processes=processes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gradient, counts, took = _count(question, choice, time_limit)
            row |= {"error": truth.error(gradient)} | counts
            row |= _weigh(question, choice)
            if processes:
                short = question.shortened(1e-3)
                row["process_bytes"] = resident_growth(
                    lambda: question.gradient(**choice), warm=lambda: short.gradient(**choice)
                )
        except (OdekitError, RuntimeError, NotImplementedError) as error:
            row["note"] = " ".join(str(error).split())
            return row
    said = [
        " ".join(str(w.message).split())
        for w in caught
        if issubclass(w.category, GradientWarning | RuntimeWarning)
    ]
    picked = [f"took {took}"] if took != name_of(choice["gradient"]) else []
    row["note"] = "; ".join(dict.fromkeys([*picked, *said]))
    return row


class _TooSlow(RuntimeError):
    """A method that would take longer than anybody waits."""


def _count(
    question: Question, choice: dict[str, Any], time_limit: float
) -> tuple[Tensor, dict[str, int | None], str]:
    """The gradient, calls of the field forward and back, and the method that was taken."""
    options = {**question.options, **choice}
    chosen = resolve("solver", options["solver"], Solver)
    plain = type(chosen).field_type is VectorField
    with _counted(question.field, time_limit, plain=plain) as (field, calls):
        solution = solve(field, question.y0, question.t, params=question.params, **options)
        ahead = calls[0]
        gradient = question.pull(question.loss(solution.y))
        back: int | None = calls[0] - ahead
    if ahead == 0:  # its parts are called, not the field itself
        ahead, back = int(solution.stats.evaluations.max()), None
    return gradient, {"evaluations": ahead, "evaluations_back": back}, solution.stats.gradient


@contextmanager
def _counted(
    field: Callable[..., State], time_limit: float, *, plain: bool
) -> Iterator[tuple[Callable[..., State], list[int]]]:
    """A field like the given one, and a count of its calls, which end when time is up."""
    calls, start = [0], time.perf_counter()

    def note(*_: Any) -> None:
        calls[0] += 1
        if time.perf_counter() - start > time_limit:
            raise _TooSlow(f"given up after {time_limit:g} s and {calls[0]} evaluations")

    if isinstance(field, nn.Module):
        handle = field.register_forward_pre_hook(note)
        try:
            yield field, calls
        finally:
            handle.remove()
        return

    def counted(*inputs: Any) -> State:
        note()
        return field(*inputs)

    yield (counted if plain else field), calls


def _weigh(question: Question, choice: dict[str, Any]) -> dict[str, int]:
    """Bytes of tensors: the most at a time, and those that wait for the backward pass."""
    with LiveBytes() as memory:
        options = {**question.options, **choice}
        solution = solve(question.field, question.y0, question.t, params=question.params, **options)
        value = question.loss(solution.y)
        saved = memory.alive
        question.pull(value)
    return {"peak_bytes": memory.peak, "saved_bytes": saved}


def _time(
    question: Question,
    choices: Mapping[str, dict[str, Any]],
    rows: list[dict[str, Any]],
    rounds: int,
    tell: Report,
) -> None:
    """Seconds of the methods that work, all of them in turn, so that drifts hit all alike."""
    spent: dict[str, list[float]] = {r["method"]: [] for r in rows if r["error"] == r["error"]}
    leaf = leaves_of(question.y0)[0]
    for i in range(rounds):
        for label, seconds in spent.items():
            tell(f"seconds of {label}", 0.5 + i / (2 * rounds))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                synchronise(leaf)
                start = time.perf_counter()
                question.gradient(**choices[label])
                synchronise(leaf)
                seconds.append(time.perf_counter() - start)
    for row in rows:
        if spent.get(row["method"]):
            row["seconds"] = statistics.median(spent[row["method"]])


def _advice(rows: Sequence[Mapping[str, Any]], uncertainty: float) -> str:
    """One sentence: the fastest of the accurate methods, and what to take for longer solves."""
    names = {row["method"] for row in rows}
    worked = [
        row
        for row in rows
        if row["seconds"] == row["seconds"]
        and not any(row["note"].startswith(f"took {name}") for name in names)
    ]
    if not worked:
        return "no method could serve: see the notes"
    best = min(row["error"] for row in worked)
    good = [row for row in worked if row["error"] <= max(10 * best, uncertainty)]
    fast = min(good, key=lambda row: row["seconds"])
    small = [row for row in good if row["saved_bytes"] <= fast["saved_bytes"] / 4]
    text = (
        f"{fast['method']} is the fastest of the accurate ones: "
        f"{in_bytes(fast['peak_bytes'])}, {fast['seconds']:.2g} s"
    )
    if small:
        lean = min(small, key=lambda row: row["seconds"])
        text += (
            f"; for {MORE} times more steps, where it would keep about "
            f"{in_bytes(MORE * fast['saved_bytes'])}, take {lean['method']}, which keeps at most "
            f"{in_bytes(MORE * lean['saved_bytes'])}"
        )
    off = [row["method"] for row in worked if row not in good and row["error"] > 1e-2]
    if off:
        text += f"; {' and '.join(off)} {'is' if len(off) == 1 else 'are'} wrong here"
    return text


def in_bytes(size: float) -> str:
    """A number of bytes for people.

    Example:
        >>> in_bytes(900), in_bytes(3_210_000)
        ('900 B', '3.2 MB')
    """
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
