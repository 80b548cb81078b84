"""The result of `odekit.refine` for formulas: fitted parameters, and what one does with them next.

For sums of terms with one coefficient each, see `odekit.Equations`.

Units: those of the data and the formulas. ``stderr`` is in the unit of ``value``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from odekit.errors import ProblemError
from odekit.formulas import check_symbols, parse
from odekit.intervals import checked, half_width
from odekit.saved import LATER, REFINED, fields, read_content, rows, write_content

if TYPE_CHECKING:
    import pandas as pd

    from odekit.solution import Solution
    from odekit.symbolic_field import FormulaField

_ENTRIES = (
    "formulas", "parameters", "inputs", "time", "covariance", "starts", "score", "warnings",
    "confident", "diagnostics",
)  # fmt: skip


class Parameter(NamedTuple):
    """One parameter.

    Attributes:
        name: its symbol in the formulas.
        value: fitted, or held.
        stderr: standard error, 0 for a held parameter, None where it is not known.
        held: whether it was given and not fitted.
    """

    name: str
    value: float
    stderr: float | None = None
    held: bool = False


@final
class Refined:
    """Formulas with fitted parameters.

    Args:
        formulas: right-hand side of each state, in the order of the states.
        parameters: the parameters, see `Parameter`.
        inputs: names of the inputs.
        time: name of time.
        covariance: of all parameters in their order, ``(k, k)``.
        degrees_of_freedom: of the residuals that the standard errors rest on, for the intervals;
            None for many, or where the noise level was given.
        starts: fitted states at the first row of each trajectory, ``(trajectories, d)``.
        score: R2 of the simulation from those starts, one per trajectory.
        warnings: what makes the result doubtful, in sentences.
        confident: whether there is nothing of that kind.
        diagnostics: anything that JSON can hold.

    Raises:
        ProblemError: a formula that cannot be read, or numbers that cannot be.

    Example:
        >>> decay = Refined({"s": "-vmax*s/(km + s)"}, [("vmax", 1.5, 0.1), ("km", 0.3, 0.05)])
        >>> print(decay)
        s' = -s*vmax/(km + s)
        vmax = 1.5 +- 0.1
        km = 0.3 +- 0.05
        >>> decay.sympy()["s"]
        -1.5*s/(s + 0.3)
    """

    def __init__(
        self,
        formulas: Mapping[str, str],
        parameters: Iterable[Parameter | tuple[Any, ...]],
        *,
        inputs: Iterable[str] = (),
        time: str = "t",
        covariance: Any = None,
        degrees_of_freedom: float | None = None,
        starts: Any = (),
        score: Iterable[float] = (),
        warnings: Iterable[str] = (),
        confident: bool = False,
        diagnostics: dict[str, Any] | None = None,
    ) -> None:
        self.formulas, self.inputs, self.time = dict(formulas), tuple(inputs), time
        self._parameters = tuple(_checked(Parameter(*one)) for one in parameters)
        names = tuple(one.name for one in self._parameters)
        if not self.formulas:
            raise ProblemError("formulas: there is no state: write one as {'x': '-k*x'}")
        check_symbols((*self.formulas, time, *self.inputs, *names))
        variables = (*self.formulas, time, *self.inputs, *names)
        self._symbolic = {name: parse(text, variables) for name, text in self.formulas.items()}
        self.covariance = None if covariance is None else np.array(covariance, dtype=np.float64)
        if self.covariance is not None and self.covariance.shape != (len(names),) * 2:
            raise ProblemError(
                f"covariance must have shape {(len(names),) * 2}, one row per parameter, got "
                f"{self.covariance.shape}"
            )
        self.degrees_of_freedom = checked(degrees_of_freedom)
        self.starts = np.array(starts, dtype=np.float64).reshape(-1, len(self.formulas))
        self.score = [float(value) for value in score]
        self.warnings = [str(sentence) for sentence in warnings]
        self.confident = bool(confident)
        self.diagnostics = dict(diagnostics or {})

    @property
    def names(self) -> tuple[str, ...]:
        """The states, in the order of the state's components."""
        return tuple(self.formulas)

    @property
    def values(self) -> dict[str, float]:
        """The parameters' values by name, held ones among them."""
        return {one.name: one.value for one in self._parameters}

    @property
    def parameters(self) -> pd.DataFrame:
        """One row per parameter, by name: ``value stderr low high held``.

        ``low`` and ``high`` bound the 95 % interval, of Student's t with ``degrees_of_freedom``,
        or of the normal distribution (``value -/+ 1.96 stderr``); what is not known is NaN.
        """
        import pandas as pd

        frame = pd.DataFrame(self._parameters, columns=list(Parameter._fields)).set_index("name")
        for name in ("value", "stderr"):
            frame[name] = frame[name].astype("float64")
        width = half_width(self.degrees_of_freedom) * frame["stderr"]
        frame.insert(2, "low", frame["value"] - width)
        frame.insert(3, "high", frame["value"] + width)
        return frame

    def sympy(self, *, values: bool = True) -> dict[str, Any]:
        """From each state's name to the sympy expression of its derivative.

        Args:
            values: whether numbers stand for the parameters, or their symbols.
        """
        import sympy

        if not values:
            return dict(self._symbolic)
        numbers = {sympy.Symbol(name): sympy.Float(v) for name, v in self.values.items()}
        return {name: e.xreplace(numbers) for name, e in self._symbolic.items()}

    def _rights(self) -> dict[str, list[tuple[float, Any]]]:
        """Coefficients and expressions of each equation, as `odekit.codegen` takes them."""
        import sympy

        found = {}
        for name, expression in self.sympy().items():
            pairs = [part.as_coeff_Mul() for part in sympy.Add.make_args(expression)]
            found[name] = [(float(c), rest) for c, rest in pairs if c != 0]
        return found

    def __str__(self) -> str:
        lines = [f"{name}' = {e}".replace("**", "^") for name, e in self._symbolic.items()]
        for one in self._parameters:
            error = "" if one.stderr is None else f" +- {one.stderr:.2g}"
            value = f"{one.value:.{_digits(one)}g}"
            lines.append(f"{one.name} = {value}{' (held)' if one.held else error}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Refined({'; '.join(str(self).splitlines())})"

    def latex(self) -> str:
        """One ``aligned`` block with the fitted values, to stand in a formula."""
        from odekit.codegen import latex

        return latex(self._rights(), (*self.names, self.time, *self.inputs), self.time)

    def code(self, language: str) -> str:
        """Source text of the right-hand side, numbers to the last digit.

        Args:
            language: ``"python"``, ``"c"`` or ``"julia"``; see `odekit.Equations.code`.

        Raises:
            ProblemError: any other language.
        """
        from odekit.codegen import source

        return source(language, self._rights(), self.inputs, self.time)

    def function(self) -> Any:
        """The right-hand side as a numpy function, see `odekit.Equations.function`."""
        from odekit.codegen import compiled

        return compiled(self.code("python"))

    def field(self) -> FormulaField:
        """A field with these parameters in float64, trainable; see `FormulaField`."""
        from odekit.symbolic_field import FormulaField

        return FormulaField(self.formulas, self.values, self.inputs, self.time, trainable=True)

    def simulate(
        self,
        y0: Any,
        t: Any,
        u: Any = None,
        *,
        solver: Any = "tsit5",
        rtol: float = 1e-8,
        atol: float = 1e-10,
        max_steps: int = 10_000,
    ) -> Solution:
        """Solve the equations from ``y0``; a failure is a status of the solution.

        Arguments as for `odekit.Equations.simulate`; ``starts`` holds the fitted starts.

        Raises:
            ProblemError: ``y0`` or ``u`` does not fit to the equations.
        """
        from odekit.simulation import simulate

        field = self.field()
        return simulate(field, y0, t, u, solver=solver, rtol=rtol, atol=atol, max_steps=max_steps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file that `load` reads back exactly; all of it or nothing.

        Raises:
            ProblemError: the diagnostics hold something that JSON cannot, or no file can be
                written.
        """
        content = {name: getattr(self, name) for name in (*_ENTRIES, *LATER)}
        content["parameters"] = [one._asdict() for one in self._parameters]
        write_content(path, REFINED, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Refined:
        """Read what `save` wrote.

        Raises:
            ProblemError: no file, or one that holds no refined formulas, and why.
        """
        return read_content(path, REFINED, _unpacked)


def _unpacked(content: dict[str, Any]) -> Refined:
    found = fields(content, _ENTRIES, later=LATER)
    parameters = rows(found.pop("parameters"), Parameter._fields, "parameter")
    return Refined(found.pop("formulas"), [Parameter(**row) for row in parameters], **found)


def _digits(one: Parameter) -> int:
    """Significant digits to show: four, or down to the standard error's second."""
    if not one.stderr or not one.value:
        return 4
    return max(4, min(17, math.ceil(math.log10(abs(one.value) / one.stderr)) + 2))


def _checked(one: Parameter) -> Parameter:
    if not math.isfinite(one.value):
        raise ProblemError(f"parameters: {one.name} is {one.value}")
    if one.stderr is not None and not one.stderr >= 0:
        raise ProblemError(
            f"parameters: the standard error of {one.name} is {one.stderr}: write None where it is "
            "not known"
        )
    stderr = None if one.stderr is None else float(one.stderr)
    return Parameter(one.name, float(one.value), stderr, bool(one.held))
