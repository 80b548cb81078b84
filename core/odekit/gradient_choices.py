"""Which gradient methods are compared, and whether ``solve`` takes what each is to be run with."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from odekit.errors import IncompatibleError, ProblemError, UnknownNameError
from odekit.gradient import GradientMethod
from odekit.gradient_reference import Question
from odekit.registry import components, resolve
from odekit.solve import name_of

Choice: TypeAlias = str | GradientMethod | Mapping[str, Any]
"""A method, or a dict of options of ``solve`` with ``gradient`` among them."""

OWN = {
    "gradient",
    "solver",
    "controller",
    "rtol",
    "atol",
    "step_size",
    "per_sample",
    "max_steps",
    "dense",
}
"""Options of ``solve`` that a method may have for itself: the question stays the same."""


def choices_of(
    methods: Sequence[str | GradientMethod] | Mapping[str, Choice] | None,
) -> dict[str, dict[str, Any]]:
    """Labels, and the options of ``solve`` that they stand for.

    Raises:
        ProblemError: there is none, a label comes twice, or an option is not for a method.
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
        _check_options(label, chosen)
        chosen["gradient"] = resolve("gradient", chosen.get("gradient", label), GradientMethod)
        found[label] = chosen
    return found


def _check_options(label: str, choice: Mapping[str, Any]) -> None:
    for name in choice:
        if name not in OWN:
            close = difflib.get_close_matches(str(name), OWN, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ProblemError(
                f"methods: {label!r} has an option {name!r}: {hint}a method takes "
                f"{', '.join(sorted(OWN))}"
            )


def try_out(question: Question, **options: Any) -> None:
    """Attempt one step, so that ``solve`` refuses what it would refuse before anybody waits."""
    once = {"max_steps": 1, "throw": False, "gradient": "unrolled"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        question.solve(**options | once)


def try_choice(question: Question, label: str, choice: Mapping[str, Any]) -> None:
    """The same with the options of one method.

    Parts that do not go together are left for its row.

    Raises:
        ProblemError: an option has a value that cannot work.
        UnknownNameError: no plugin offers its solver or its controller.
    """
    if choice.keys() == {"gradient"}:
        return
    try:
        try_out(question, **choice)
    except (ProblemError, UnknownNameError) as error:
        raise type(error)(f"methods: {label!r}: {error}") from None
    except IncompatibleError:
        return
