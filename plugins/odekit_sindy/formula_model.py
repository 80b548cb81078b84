"""Reading of what `odekit.refine` is given: equations or formulas, and what is known of them.

Every symbol of a formula that is no state, input or time is a parameter. Formulas in text are
read by `odekit.formulas.parse`, never executed.

Units: those of the formulas.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard, final

from odekit import Equations, ProblemError
from odekit.formulas import FUNCTIONS, check_symbols, parse, read_formulas, written


@final
@dataclass(frozen=True)
class FormulaModel:
    """A model with parameters.

    Attributes:
        formulas: right-hand side of each state as text, in the order of the states.
        rights: the same as sympy expressions in plain symbols.
        parameters: names of the parameters, in order of appearance.
        labels: what each parameter is called in messages.
        inputs: names of the inputs that may occur.
        time: name of time.
        start: where to begin, for some of the parameters and hidden states.
        held: parameters that keep their value.
        bounds: lowest and highest value; infinite where there is none.
    """

    formulas: Mapping[str, str]
    rights: tuple[Any, ...]
    parameters: tuple[str, ...]
    labels: Mapping[str, str]
    inputs: tuple[str, ...]
    time: str
    start: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""
        return tuple(self.formulas)

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters to fit."""
        return tuple(name for name in self.parameters if name not in self.held)

    @property
    def timed(self) -> bool:
        """Whether time occurs in a formula."""
        return self.time in _symbols(self.rights)

    @property
    def driven(self) -> tuple[str, ...]:
        """The inputs that occur in a formula."""
        found = _symbols(self.rights)
        return tuple(name for name in self.inputs if name in found)


def _symbols(expressions: Iterable[Any]) -> set[str]:
    return {str(symbol) for e in expressions for symbol in e.free_symbols}


def read_formulas_of(
    model: Any,
    observed: Sequence[str],
    inputs: Sequence[str],
    time: str,
    *,
    start: Mapping[Any, float] | None = None,
    fix: Any = None,
    positive: Iterable[Any] = (),
    bounds: Mapping[Any, tuple[Any, Any]] | None = None,
) -> FormulaModel:
    """A model from formulas.

    Args:
        model: a mapping from state to formula (text, a number or a sympy expression), or text such
            as ``"x' = -k*x"``.
        observed: states of the data.
        inputs: inputs of the data.
        time: name of time.
        start: where to begin: parameters, and hidden states at the first observation.
        fix: names of parameters to hold at their start, or a mapping to the values to hold.
        positive: names of parameters, or hidden states, that are not negative.
        bounds: lowest and highest value of parameters or hidden states, None where there is none.

    Raises:
        ProblemError: a formula that cannot be read, or a name that does not exist.
    """
    given = read_formulas(model, time) if isinstance(model, str | list | tuple) else model
    if not isinstance(given, Mapping) or not given:
        raise ProblemError(
            "model must be odekit.Equations or formulas such as {'x': '-k*x'}, got "
            f"{type(model).__name__}"
        )
    states = tuple(str(name) for name in given)
    known = (*states, *inputs, time)
    _check_states(states, observed, inputs)
    formulas = {state: _text(given[name]) for state, name in zip(states, given, strict=True)}
    asked = {str(name) for group in (start, _values(fix)[0], bounds) for name in group or ()}
    parameters = _parameters(formulas, known, asked)
    for name in parameters:
        if name in observed:
            raise ProblemError(
                f"model: the series has {name}, but the model has no equation for it: add one, or "
                f"give {name} as an input, with u= and input_names= of TimeSeries"
            )
    check_symbols((*known, *parameters))
    rights = tuple(parse(text, (*known, *parameters)) for text in formulas.values())
    labels = {name: name for name in parameters}
    hidden = [name for name in states if name not in observed]
    chosen = {name: name for name in (*parameters, *hidden)}
    return _with_knowledge(
        FormulaModel(formulas, rights, parameters, labels, tuple(inputs), time),
        chosen, start, fix, positive, bounds,
    )  # fmt: skip


def read_equations(
    equations: Equations,
    *,
    start: Mapping[Any, float] | None = None,
    fix: Any = None,
    positive: Iterable[Any] = (),
    bounds: Mapping[Any, tuple[Any, Any]] | None = None,
) -> FormulaModel:
    """A model whose parameters are the coefficients of equations, in the order of the terms.

    Arguments as for `read_formulas_of`; a coefficient is named by its pair of state and term, as
    in ``fix=[("x", "x*y")]``.

    Raises:
        ProblemError: a term that the equations do not have.
    """
    taken = {*equations.names, *equations.inputs, equations.time}
    prefix = "c"
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    variables = (*equations.names, equations.time, *equations.inputs)
    names, chosen, labels, rows = [], {}, {}, {name: ["0"] for name in equations.names}
    for i, term in enumerate(equations.terms):
        name = f"{prefix}{i}"
        names.append(name)
        chosen[term.equation, parse(term.term, variables)] = name
        labels[name] = f"{term.term} in {term.equation}'"
        rows[term.equation].append(f"{name}*({term.term})")
    formulas = {name: " + ".join(row) for name, row in rows.items()}
    rights = tuple(parse(text, (*variables, *names)) for text in formulas.values())
    model = FormulaModel(formulas, rights, tuple(names), labels, equations.inputs, equations.time)
    values = {(term.equation, parse(term.term, variables)): term.value for term in equations.terms}

    def keyed(name: Any) -> Any:
        if isinstance(name, tuple) and len(name) == 2:
            return name[0], parse(name[1], variables) if isinstance(name[1], str) else name[1]
        if name in equations.names:
            return name
        raise ProblemError(
            f"{name!r} names no coefficient: write a pair of state and term, as in "
            f"{equations.terms[0][:2] if equations.terms else ('x', 'x')!r}"
        )

    fixed, listed = _values(fix)
    return _with_knowledge(
        model,
        {**chosen, **{name: name for name in equations.names}},
        {**values, **{keyed(name): value for name, value in (start or {}).items()}},
        [keyed(name) for name in fixed] if listed else {keyed(n): v for n, v in fixed.items()},
        [keyed(name) for name in _several(positive)],
        {keyed(name): value for name, value in (bounds or {}).items()},
    )


def _check_states(states: Sequence[str], observed: Sequence[str], inputs: Sequence[str]) -> None:
    check_symbols(states)
    unused = [name for name in observed if name not in states]
    for name in states:
        close = difflib.get_close_matches(name, unused, n=1)
        if name not in observed and close:
            raise ProblemError(
                f"model: there is no state {name!r} in the series: did you mean {close[0]!r}?"
            )
        if name in inputs:
            raise ProblemError(f"model: {name} is an input of the series and has no equation")
    if len(unused) == len(observed):
        raise ProblemError(
            f"model: none of its states ({', '.join(states)}) is in the series, which has "
            f"{', '.join(observed)}"
        )


def _text(formula: Any) -> str:
    """A formula as text that `parse` reads."""
    return formula if isinstance(formula, str) else written(formula)


def _parameters(
    formulas: Mapping[str, str], known: Sequence[str], asked: set[str]
) -> tuple[str, ...]:
    """Names in the formulas that stand for nothing known, in order of appearance."""
    found: dict[str, None] = {}
    for text in formulas.values():
        try:
            tree = ast.parse(" ".join(text.split()).replace("^", "**"), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # `parse` says what is wrong
        called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        names = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called]
        powers = {id(n.left) for n in ast.walk(tree) if _is_power(n)}
        for node in sorted(names, key=lambda n: n.col_offset):
            # Euler's number stands below an exponent; another e is a parameter of that name.
            euler = node.id == "e" and id(node) in powers
            own = node.id != "pi" and not euler and node.id not in FUNCTIONS
            if node.id not in known and (own or node.id in asked):
                found[node.id] = None
            if euler and "e" in (*known, *found):
                raise ProblemError(
                    f"model: e is a name here, so {text!r} is not clear: write exp(...) for the "
                    "exponential"
                )
    return tuple(found)


def _is_power(node: ast.AST) -> TypeGuard[ast.BinOp]:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _values(fix: Any) -> tuple[Any, bool]:
    """What is to be held, and whether only names were given."""
    if fix is None:
        return {}, False
    if isinstance(fix, Mapping):
        return fix, False
    return _several(fix), True


def _several(names: Any) -> list[Any]:
    return [names] if isinstance(names, str) else list(names)


def _with_knowledge(
    model: FormulaModel,
    chosen: Mapping[Any, str],
    start: Mapping[Any, float] | None,
    fix: Any,
    positive: Iterable[Any],
    bounds: Mapping[Any, tuple[Any, Any]] | None,
) -> FormulaModel:
    """The model with start values, held parameters and bounds, all names checked."""

    def named(argument: str, key: Any) -> str:
        if key in chosen:
            return chosen[key]
        shown = {_shown(k): k for k in chosen}
        close = difflib.get_close_matches(_shown(key), shown, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ProblemError(
            f"{argument}: there is no {_shown(key)!r}: {hint}there are {', '.join(shown)}"
        )

    begin = {named("start", k): _number("start", k, v) for k, v in (start or {}).items()}
    fixed, listed = _values(fix)
    held = {}
    for key in fixed:
        name = named("fix", key)
        if name not in model.parameters:
            raise ProblemError(
                f"fix: {name} is a state that was not observed: hold parameters only, and give a "
                "value to begin at with start="
            )
        if listed and name not in begin:
            raise ProblemError(
                f"fix: {name} is to be held, but at what? write fix={{{name!r}: 1.0}}"
            )
        held[name] = begin[name] if listed else _number("fix", key, fixed[key])
    limits = {named("positive", key): (0.0, math.inf) for key in _several(positive)}
    for key, pair in (bounds or {}).items():
        limits[named("bounds", key)] = _pair(key, pair)
    for name, (low, high) in limits.items():
        for argument, values in (("start", begin), ("fix", held)):
            if name in values and not low <= values[name] <= high:
                raise ProblemError(
                    f"{argument}: {model.labels.get(name, name)} is {values[name]:g}, outside of "
                    f"its bounds {low:g} to {high:g}"
                )
    begin = {name: value for name, value in begin.items() if name not in held}
    return FormulaModel(
        model.formulas, model.rights, model.parameters, model.labels, model.inputs, model.time,
        begin, held, limits,
    )  # fmt: skip


def _shown(key: Any) -> str:
    return f"{key[1]} in {key[0]}'" if isinstance(key, tuple) else str(key)


def _number(argument: str, key: Any, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ProblemError(f"{argument}: {_shown(key)} must be a finite number, got {value!r}")
    return number


def _pair(key: Any, pair: Any) -> tuple[float, float]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ProblemError(
            f"bounds: {_shown(key)} needs a lowest and a highest value, such as (0, None), got "
            f"{pair!r}"
        )
    low = -math.inf if pair[0] is None else float(pair[0])
    high = math.inf if pair[1] is None else float(pair[1])
    if not low < high:
        raise ProblemError(f"bounds: {_shown(key)} has no room between {low:g} and {high:g}")
    return low, high
