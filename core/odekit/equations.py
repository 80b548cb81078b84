"""The result of discovery: equations with error bars, and everything one does with them next.

Each state's derivative is a sum of terms, a number times a product of states, inputs, time and
functions of them. For formulas that are not such sums, or that are known in advance, see
`odekit.symbolic_field.FormulaField`.

Units: those of the data. ``stderr`` is in the unit of ``value``.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from odekit.errors import ProblemError
from odekit.formulas import check_symbols, parse
from odekit.intervals import checked, half_width

if TYPE_CHECKING:
    import pandas as pd

    from odekit.solution import Solution
    from odekit.symbolic_field import TermField


class Term(NamedTuple):
    """One term of one equation.

    Attributes:
        equation: the state whose derivative it is part of.
        term: a product in states, inputs and time, such as ``"hare*lynx"``; ``"1"`` for a
            constant.
        value: its coefficient.
        stderr: standard error of the coefficient, None where it is not known.
        inclusion: weight, 0 to 1, of the visited structures with this term; None if not known.
    """

    equation: str
    term: str
    value: float
    stderr: float | None = None
    inclusion: float | None = None


class Alternative(NamedTuple):
    """Another structure within reach.

    Attributes:
        equations: the equations.
        weight: their share among all structures considered, 0 to 1.
        score: the criterion they were ranked by; lower is better.
    """

    equations: Equations
    weight: float
    score: float


@final
class Equations:
    """Ordinary differential equations found in data.

    Args:
        names: the states, in the order of the state's components.
        terms: what the derivatives are made of; a state without a term does not change.
        inputs: names of the inputs.
        time: name of time.
        covariance: of all coefficients in the order of ``terms``, ``(K, K)``.
        degrees_of_freedom: of the residuals that the standard errors rest on, for the intervals;
            None for many, or where the noise level was given.
        score: R2 of the simulation, one per trajectory.
        warnings: what makes the result doubtful, in sentences.
        confident: whether the data settle the structure.
        alternatives: other structures within reach, best first.
        diagnostics: anything that JSON can hold.

    Raises:
        ProblemError: a name, a term or a number that cannot be, and which.

    Example:
        >>> equations = Equations(["x", "v"], [Term("x", "v", 1.0), Term("v", "x", -4.0)])
        >>> print(equations)
        x' = v
        v' = -4 x
        >>> equations.sympy()["v"]
        -4.0*x
        >>> import torch
        >>> equations.field()(torch.tensor(0.0), torch.tensor([1.0, 0.5])).tolist()
        [0.5, -4.0]
    """

    def __init__(
        self,
        names: Iterable[str],
        terms: Iterable[Term | tuple[Any, ...]],
        *,
        inputs: Iterable[str] = (),
        time: str = "t",
        covariance: Any = None,
        degrees_of_freedom: float | None = None,
        score: Iterable[float] = (),
        warnings: Iterable[str] = (),
        confident: bool = False,
        alternatives: Iterable[Alternative | tuple[Any, ...]] = (),
        diagnostics: dict[str, Any] | None = None,
    ) -> None:
        self.names, self.inputs, self.time = tuple(names), tuple(inputs), time
        if not self.names:
            raise ProblemError("names: equations need at least one state")
        check_symbols((*self.names, time, *self.inputs))
        self.terms = tuple(self._checked(Term(*term)) for term in terms)
        self._expressions = tuple(parse(term.term, self._variables) for term in self.terms)
        pairs = [(t.equation, e) for t, e in zip(self.terms, self._expressions, strict=True)]
        for i, pair in enumerate(pairs):
            if pair in pairs[:i]:
                raise ProblemError(f"terms: {pair[0]}' has the term {pair[1]} twice: add them up")
        self.covariance = self._checked_covariance(covariance)
        self.degrees_of_freedom = checked(degrees_of_freedom)
        self.score = [float(value) for value in score]
        self.warnings = [str(sentence) for sentence in warnings]
        self.confident = bool(confident)
        self.alternatives = [Alternative(*alternative) for alternative in alternatives]
        self.diagnostics = dict(diagnostics or {})

    @property
    def _variables(self) -> tuple[str, ...]:
        return (*self.names, self.time, *self.inputs)

    def _checked(self, term: Term) -> Term:
        equation, text, value, stderr, inclusion = term
        if equation not in self.names:
            close = difflib.get_close_matches(str(equation), self.names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ProblemError(
                f"terms: there is no state {equation!r}: {hint}the states are "
                f"{', '.join(self.names)}"
            )
        if not math.isfinite(value):
            raise ProblemError(f"terms: the coefficient of {text} in {equation}' is {value}")
        if stderr is not None and not stderr >= 0:
            raise ProblemError(
                f"terms: the standard error of {text} in {equation}' is {stderr}: write None where "
                "it is not known"
            )
        if inclusion is not None and not 0 <= inclusion <= 1:
            raise ProblemError(
                f"terms: the inclusion of {text} in {equation}' is {inclusion}: it is a weight "
                "between 0 and 1, or None"
            )
        return Term(
            equation,
            text,
            float(value),
            None if stderr is None else float(stderr),
            None if inclusion is None else float(inclusion),
        )

    def _checked_covariance(self, covariance: Any) -> Any:
        if covariance is None:
            return None
        matrix = np.array(covariance, dtype=np.float64)
        if matrix.shape != (len(self.terms),) * 2:
            raise ProblemError(
                f"covariance must have shape {(len(self.terms),) * 2}, one row per term, got "
                f"{matrix.shape}"
            )
        return matrix

    @property
    def coefficients(self) -> pd.DataFrame:
        """One row per term: ``equation term value stderr low high inclusion``.

        ``low`` and ``high`` bound the 95 % interval, of Student's t with ``degrees_of_freedom``,
        or of the normal distribution (``value -/+ 1.96 stderr``); what is not known is NaN.
        """
        import pandas as pd

        frame = pd.DataFrame(self.terms, columns=list(Term._fields))
        for name in ("value", "stderr", "inclusion"):
            frame[name] = frame[name].astype("float64")
        width = half_width(self.degrees_of_freedom) * frame["stderr"]
        frame.insert(4, "low", frame["value"] - width)
        frame.insert(5, "high", frame["value"] + width)
        return frame

    def sympy(self) -> dict[str, Any]:
        """From each state's name to the sympy expression of its derivative."""
        import sympy

        return {
            name: sympy.Add(*(sympy.Float(value) * e for value, e in self._of(name)))
            for name in self.names
        }

    def _of(self, name: str) -> list[tuple[float, Any]]:
        """Coefficient and expression of each term of one equation."""
        pairs = zip(self.terms, self._expressions, strict=True)
        return [(term.value, expression) for term, expression in pairs if term.equation == name]

    def __str__(self) -> str:
        from odekit.codegen import readable

        return "\n".join(f"{name}' = {readable(self._of(name))}" for name in self.names)

    def __repr__(self) -> str:
        inside = "; ".join(str(self).splitlines())
        return f"Equations({inside})"

    def latex(self) -> str:
        """One ``aligned`` block, to stand in a formula."""
        from odekit.codegen import latex

        return latex({name: self._of(name) for name in self.names}, self._variables, self.time)

    def code(self, language: str) -> str:
        """Source text of the right-hand side, numbers to the last digit.

        Python ``f(t, y)`` returns an array, C ``void f(double t, const double *y, double *dydt)``
        and Julia ``f!(dy, y, p, t)`` fill one. With inputs, Python and C take ``u`` after ``y``,
        and in Julia ``p`` is a function that gives them at time ``t``.

        Args:
            language: ``"python"``, ``"c"`` or ``"julia"``.

        Raises:
            ProblemError: any other language.
        """
        from odekit.codegen import source

        right = {name: self._of(name) for name in self.names}
        return source(language, right, self.inputs, self.time)

    def field(self) -> TermField:
        """A trainable field with these coefficients in float64.

        It is called ``(t, y)``, or ``(t, y, u)`` with inputs; see
        `odekit.symbolic_field.TermField`.
        """
        from odekit.symbolic_field import TermField

        terms = [(term.equation, term.term, term.value) for term in self.terms]
        return TermField(self.names, self.inputs, self.time, terms)

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

        Args:
            y0: start, ``(d,)`` or ``(..., d)``; lists become float64.
            t: output times, ``(n,)``, monotone.
            u: inputs at ``t``, ``(n, m)``, interpolated linearly, or a function of time.
            solver: name or instance.
            rtol: relative tolerance.
            atol: absolute tolerance, in the unit of the states.
            max_steps: attempts allowed.

        Raises:
            ProblemError: ``y0`` or ``u`` does not fit to the equations.
        """
        from odekit.simulation import simulate

        field = self.field()
        return simulate(field, y0, t, u, solver=solver, rtol=rtol, atol=atol, max_steps=max_steps)

    def function(self) -> Callable[..., np.ndarray]:
        """The right-hand side as a plain numpy function, compiled once.

        It is what ``code("python")`` says: ``f(t, y)``, or ``f(t, y, u)`` with inputs, with ``y``
        of shape ``(d,)`` and a slope ``(d,)`` in float64. For integrators of other packages, such
        as ``scipy.integrate.solve_ivp``; gradients need `field`.

        Example:
            >>> decay = Equations(["x"], [Term("x", "x", -2.0)]).function()
            >>> decay(0.0, [1.5])
            array([-3.])
        """
        from odekit.codegen import compiled

        return compiled(self.code("python"))

    def to_pysindy(self) -> Any:
        """The same equations as a fitted ``pysindy.SINDy``.

        Its ``predict``, ``simulate``, ``print``, ``coefficients`` and ``equations`` are those of
        PySINDy with our terms and numbers. The library is a polynomial one where all terms are
        monomials, otherwise a custom one, which does not pickle.

        Raises:
            DiscoveryError: a term with time in it, which PySINDy's library does not know.
            MissingDependencyError, UnknownNameError: PySINDy, or the plugin that knows it, is not
                installed.
        """
        from odekit.registry import create

        return create("postprocessor", "sindy").to_pysindy(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file that `load` reads back exactly; all of it or nothing."""
        from odekit.equations_file import write

        write(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Equations:
        """Read what `save` wrote.

        Raises:
            ProblemError: no file, or one that holds no equations, and why.
        """
        from odekit.equations_file import read

        return read(path)
