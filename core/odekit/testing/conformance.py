"""A suite of checks: what pytest collects, and what `odekit check` prints as a table.

A check is a method ``test_...`` that raises `ConformanceError` when a promise is broken and
otherwise gives the figure it measured. Both ways of running use the same methods, so a plugin's
author and its user see the same result.
"""

from __future__ import annotations

import functools
import inspect
import unittest
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from odekit.errors import OdekitError


class ConformanceError(OdekitError, AssertionError):
    """A component does not keep a promise.

    Attributes:
        figure: what was measured, in words, or ``""``.
    """

    def __init__(self, message: str, figure: str = "") -> None:
        super().__init__(message)
        self.figure = figure


class NotApplicable(unittest.SkipTest):
    """The check asks for something that the component does not claim; pytest skips it."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the table.

    Attributes:
        check: name of the check.
        passed: False when the promise is broken; True also where the check does not apply.
        figure: what was measured, or ``""``.
        detail: one line: what is promised, why it does not apply, or what is wrong.
        applies: False where the component does not claim what is checked.
    """

    check: str
    passed: bool
    figure: str
    detail: str
    applies: bool = True


def check(method: Callable[[Any], str]) -> Callable[[Any], None]:
    """Make a method that returns its figure into a test, which must return nothing."""

    @functools.wraps(method)
    def test(self: Any) -> None:
        method(self)

    test.measure = method  # type: ignore[attr-defined]
    return test


class Conformance(ABC):
    """Checks of one component. A subclass says in ``make`` how to build it."""

    @abstractmethod
    def make(self) -> Any:
        """A fresh component, built as its users build it."""

    @classmethod
    def checks(cls) -> list[str]:
        """The names of all checks, in the order of their definition."""
        names: dict[str, None] = {}
        for parent in reversed(cls.__mro__):
            names.update(dict.fromkeys(n for n in vars(parent) if n.startswith("test_")))
        return [name.removeprefix("test_") for name in names if callable(getattr(cls, name))]

    def run(self, only: str | None = None) -> list[CheckResult]:
        """Run every check, or one, and report; nothing is raised."""
        return [self._run(name) for name in self.checks() if only in (None, name)]

    def _run(self, name: str) -> CheckResult:
        test = getattr(type(self), f"test_{name}")
        promise = (inspect.getdoc(test) or name).partition("\n")[0]
        try:
            figure = getattr(test, "measure", test)(self) or ""
        except NotApplicable as reason:
            return CheckResult(name, True, "", f"does not apply: {reason}", applies=False)
        except ConformanceError as error:
            return CheckResult(name, False, error.figure, str(error))
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            return CheckResult(name, False, "", f"{type(error).__name__}: {first}")
        return CheckResult(name, True, figure, promise)


def require(condition: bool, message: str, figure: str = "") -> None:
    """Raise `ConformanceError` unless the condition holds."""
    if not condition:
        raise ConformanceError(message, figure)


def require_close(seen: float, allowed: float, what: str) -> str:
    """The figure of an error that must not exceed ``allowed``; NaN exceeds everything."""
    figure = f"{seen:.1e}"
    require(seen <= allowed, f"{what}: off by {seen:.2e}, allowed is {allowed:.0e}", figure)
    return figure
