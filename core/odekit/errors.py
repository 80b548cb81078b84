"""Every exception the framework raises, and the status of a solve.

Each exception also inherits the builtin that a careful caller already catches, so
``except ValueError`` around a call with a bad argument keeps working. A message says what was
wrong, what was seen, and what to type instead.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odekit.solution import Solution


class Status(enum.IntEnum):
    """How the solve of one lane ended; success is 0, and every failure carries its advice."""

    SUCCESS = 0
    MAX_STEPS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3
    STEP_FAILED = 4
    NOT_AT_REST = 5

    @property
    def advice(self) -> str:
        """What to try, in one sentence."""
        return _ADVICE[self]

    @property
    def meaning(self) -> str:
        """What happened, in words."""
        return _MEANING[self]


_MEANING = {
    Status.SUCCESS: "reached the end",
    Status.MAX_STEPS: "max_steps reached",
    Status.STEP_TOO_SMALL: "step too small",
    Status.NON_FINITE: "field not finite",
    Status.STEP_FAILED: "the solver could not complete a step",
    Status.NOT_AT_REST: "no stable point of rest found",
}

_ADVICE = {
    Status.SUCCESS: "nothing to do",
    Status.MAX_STEPS: (
        "raise max_steps, loosen rtol and atol, or shorten t; on a stiff field explicit solvers "
        "need ever more steps"
    ),
    Status.STEP_TOO_SMALL: (
        "the solution probably blows up or jumps here: end t before this time, name the jump in "
        "the controller's jump_times, or loosen rtol and atol"
    ),
    Status.NON_FINITE: (
        "the field returned NaN or infinity: check the field and the state at this time, or take "
        "smaller steps"
    ),
    Status.STEP_FAILED: "take smaller steps or loosen the solver's own tolerance",
    Status.NOT_AT_REST: (
        "let t run on until the state rests within tolerance; where something is conserved, or the "
        "state is driven or unstable, differentiate the solve itself, as gradient='checkpointed' "
        "does"
    ),
}


class OdekitError(Exception):
    """Base of every exception of this package."""


class ProblemError(OdekitError, ValueError):
    """An argument has a value that cannot work."""


class IncompatibleError(OdekitError, TypeError):
    """Two parts, or a part and an argument, do not go together."""


class SolveError(OdekitError, RuntimeError):
    """A solve did not reach its end.

    Attributes:
        status: the `Status` of the first lane that failed.
        solution: everything that was reached; rows after the failure are NaN.
    """

    def __init__(self, message: str, status: Status, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.status, self.solution)


class PluginError(OdekitError):
    """A plugin, or the look-up of a component, is at fault."""


class UnknownNameError(PluginError, LookupError):
    """No installed plugin offers a component of this name."""


class NameConflictError(PluginError, LookupError):
    """Two plugins offer the same name; the full names are listed in the message."""


class MissingDependencyError(PluginError, ImportError):
    """A component needs a package that is not installed."""


class BrokenPluginError(PluginError, ImportError):
    """A component is announced but cannot be imported, or is not what it claims to be."""


class PluginWarning(UserWarning):
    """A plugin was left out because it could not be loaded."""


class DataWarning(UserWarning):
    """The data were changed on the way in: sorted, for example, or a column left out."""


class CompileWarning(UserWarning):
    """What was to be compiled runs by a slower tier; the text says why and which."""


class GradientWarning(UserWarning):
    """A gradient is probably wrong, and which method to take instead."""


class DiscoveryError(OdekitError, RuntimeError):
    """No equation could be found, and why."""
