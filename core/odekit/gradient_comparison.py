"""``compare_gradients``: every gradient method on one's own problem, error beside cost.

The answer to "which method should I take" depends on the field, the number of steps and the
memory at hand; this measures it. Each row is one method on the same solve and the same loss.

Shapes: those of ``solve``.
Units: bytes, seconds; errors are relative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from odekit.controller import StepController
from odekit.errors import ProblemError
from odekit.field import State
from odekit.gradient import GradientMethod
from odekit.gradient_advice import give_advice
from odekit.gradient_choices import Choice, choices_of, try_choice, try_out
from odekit.gradient_reference import Question, find_reference, start_of
from odekit.gradient_rows import COUNTS, Report, empty_row, measure, time_in_turn
from odekit.solve import parameters_of, tensors_behind
from odekit.solver import Solver
from odekit.trees import leaves_of

if TYPE_CHECKING:
    from pandas import DataFrame

FEW = 64
"""Numbers asking for gradients beyond which a method that is for few of them is not run."""

LONGER = 3
"""How many times the seconds of a method the reference has, both its solves together."""


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
            ``{"gradient": "reversible", "solver": ...}``; one whose gradient fails has a row
            that says why. When not given all installed ones but
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
            a solve that goes backwards may hardly get anywhere. The reference, two solves with
            tight tolerances, is given three times as long.
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
        * ``held_bytes``: bytes of everything that waits there, the nodes of the graph and
          Python's objects included, of which a small state has far more than of tensors; missing
          off the CPU, and where the C library cannot tell,
        * ``process_bytes``: with ``processes``, by how much the resident set grew,
        * ``note``: what it warned of, or why it refused; its figures are then missing.

        ``attrs`` holds ``advice``, a sentence; ``reference``, how the reference was found; and
        ``uncertainty``, the relative change of the reference with 100 times its tolerance:
        errors below that say nothing.

    Raises:
        ProblemError: an argument has a value that cannot work, or no loss can be differentiated;
            or the reference takes too long.
        UnknownNameError: no plugin offers the solver, the reference, a method or the controller.
        IncompatibleError: parts that do not go together.
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

    _check(rounds, time_limit)
    choices = choices_of(methods)
    given = _listed(params)
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
    if any("solver" not in choice for choice in choices.values()):
        try_out(question)
    try_out(question, solver=reference, controller=None, step_size=None)
    for label, choice in choices.items():
        try_choice(question, label, choice)
    tell = report or (lambda stage, fraction: None)
    tell("reference", 0.0)
    held = [*tensors_behind(field), *tensors_behind(args), *leaves_of(args), *given]
    tensors = [x for x in held if isinstance(x, Tensor)]
    truth = find_reference(question, reference, tensors, LONGER * time_limit)
    numbers = sum(x.numel() for x in question.sources)
    rows: list[dict[str, Any]] = []
    for i, (label, choice) in enumerate(choices.items()):
        tell(label, (1 + i) / (2 + 2 * len(choices)))
        if methods is None and choice["gradient"].for_few and numbers > FEW:
            note = f"not run: {numbers} numbers ask for gradients, each costs a solve"
            rows.append(empty_row(label, note, processes=processes))
            continue
        rows.append(measure(question, label, choice, truth, time_limit, processes=processes))
    time_in_turn(question, choices, rows, rounds, tell)
    table = pd.DataFrame(rows)
    for name in COUNTS:
        if name in table:
            table[name] = table[name].astype("Int64")
    table.attrs = {
        "advice": give_advice(rows, truth.uncertainty),
        "reference": truth.words,
        "uncertainty": truth.uncertainty,
    }
    return table


def _check(rounds: int, time_limit: float) -> None:
    if rounds < 1:
        raise ProblemError(f"rounds must be at least 1, got {rounds}")
    if not time_limit > 0:
        raise ProblemError(f"time_limit must be positive, in seconds, got {time_limit!r}")
    off = "inference_mode()" if torch.is_inference_mode_enabled() else "no_grad()"
    if not torch.is_grad_enabled():
        raise ProblemError(
            f"compare_gradients needs the gradients that torch.{off} has switched off here: call "
            "it outside of that block"
        )


def _listed(params: Any) -> list[Any]:
    if params is None:
        return []
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        return [params]  # what is no tensor is for ``solve`` to refuse
    return list(params)


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
        if not bool(torch.isfinite(value.detach()).all()):
            raise ProblemError(
                f"loss is {value.item()} on a solution that is finite: look for a division by "
                "zero, a logarithm or a root in it, and for NaN in the data that it compares with"
            )
        return value.reshape(())

    return checked
