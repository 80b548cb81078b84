"""Reading of what `odekit.refine` is given: equations or formulas, and what is known of them.

Every symbol of a formula that is no state, input or time is a parameter. Formulas in text are
read by `odekit.formulas.parse`, never executed.

Units: those of the formulas.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from odekit import Equations, ProblemError, Refined
from odekit.differences import listed
from odekit.formulas import FUNCTIONS, check_symbols, parse, read_formulas, written
from odekit_sindy.denominators import Denominators
from odekit_sindy.formula_knowledge import held_values, mapping_of, names_in, with_knowledge
from odekit_sindy.formula_model import FormulaModel, symbols_of


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
        model: a mapping from state to formula (text, a number or a sympy expression), text such as
            ``"x' = -k*x"``, or what an earlier fit gave, which begins where that ended.
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
    own: Mapping[str, float] = {}
    if isinstance(model, Refined):
        own, fix = model.values, _held_before(model, fix)
        model = model.formulas
    given = _mapping(model, time)
    states = tuple(str(name) for name in given)
    known = (*states, *inputs, time)
    _check_states(states, observed, inputs)
    formulas = {state: _text(given[name]) for state, name in zip(states, given, strict=True)}
    groups = (mapping_of("start", start, "{'k': 1.0}"), held_values(fix)[0])
    asked = {str(name) for group in (*groups, bounds or ()) for name in group}
    parameters = _parameters(formulas, known, asked)
    for name in parameters:
        if name in observed:
            raise ProblemError(
                f"model: the series has {name}, but the model has no equation for it: add one, or "
                f"give {name} as an input, with u= and input_names= of TimeSeries"
            )
    check_symbols((*known, *parameters))
    rights = tuple(parse(text, (*known, *parameters)) for text in formulas.values())
    gone = [name for name in parameters if name not in symbols_of(rights)]
    if gone:
        raise ProblemError(
            f"model: {listed(gone)} cancels out of the formulas, so no data say what it is: leave "
            "it out"
        )
    labels = {name: name for name in parameters}
    hidden = [name for name in states if name not in observed]
    chosen = {name: name for name in (*parameters, *hidden)}
    return with_knowledge(
        FormulaModel(formulas, rights, parameters, labels, tuple(inputs), time),
        chosen, start, fix, positive, bounds, own,
    )  # fmt: skip


def read_equations(
    equations: Equations,
    *,
    start: Mapping[Any, float] | None = None,
    fix: Any = None,
    positive: Iterable[Any] = (),
    bounds: Mapping[Any, tuple[Any, Any]] | None = None,
) -> FormulaModel:
    """A model whose parameters are the numbers of equations: coefficients, then denominators.

    Arguments as for `read_formulas_of`; a coefficient is named by its pair of state and term, as
    in ``fix=[("x", "x*y")]``, a number in a denominator as in ``("x", "y in the denominator")``.

    Raises:
        ProblemError: a term that the equations do not have.
    """
    taken = {*equations.names, *equations.inputs, equations.time}
    prefix = "c"
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    variables = (*equations.names, equations.time, *equations.inputs)
    below = Denominators(prefix)
    chosen: dict[Any, str] = {}
    values: dict[str, float] = {}
    rows: dict[str, list[str]] = {name: ["0"] for name in equations.names}
    terms: dict[str, tuple[str, str]] = {}
    for i, term in enumerate(equations.terms):
        name, expression = f"{prefix}{i}", parse(term.term, variables)
        chosen[term.equation, expression] = name
        values[name], terms[name] = term.value, (term.equation, term.term)
        opened = below.opened(name, term.equation, expression)
        rows[term.equation].append(f"{name}*({written(opened)})")
    named = below.labels()
    chosen |= named
    values |= {number.name: number.value for number in below.numbers}
    terms |= {name: pair for pair, name in named.items()}
    formulas = {name: " + ".join(row) for name, row in rows.items()}
    rights = tuple(parse(text, (*variables, *values)) for text in formulas.values())
    labels = {name: f"{text} in {equation}'" for name, (equation, text) in terms.items()}
    model = FormulaModel(
        formulas, rights, tuple(values), labels, equations.inputs, equations.time,
        terms=terms, denominators=below,
    )  # fmt: skip

    def keyed(name: Any) -> Any:
        if isinstance(name, tuple) and len(name) == 2:
            text = isinstance(name[1], str) and name not in named
            return name[0], parse(name[1], variables) if text else name[1]
        if name in equations.names:
            return name
        raise ProblemError(
            f"{name!r} names no coefficient: write a pair of state and term, as in "
            f"{equations.terms[0][:2] if equations.terms else ('x', 'x')!r}"
        )

    fixed, listed = held_values(fix)
    return with_knowledge(
        model,
        {**chosen, **{name: name for name in equations.names}},
        {keyed(k): v for k, v in mapping_of("start", start, "{('x', 'x*y'): 1.0}").items()},
        [keyed(name) for name in fixed] if listed else {keyed(n): v for n, v in fixed.items()},
        [keyed(name) for name in names_in(positive, "positive")],
        {keyed(k): v for k, v in mapping_of("bounds", bounds, "{('x', 'x*y'): (0, None)}").items()},
        values,
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


def _held_before(model: Refined, fix: Any) -> Any:
    """What is to be held, with what an earlier fit held."""
    table = model.parameters
    held = {name: model.values[name] for name in table.index if table.loc[name, "held"]}
    fixed, listed = held_values(fix)
    return [*held, *fixed] if listed else {**held, **fixed}


def _mapping(model: Any, time: str) -> Mapping[Any, Any]:
    """Formulas by state."""
    if isinstance(model, str):
        return read_formulas(model, time)
    if isinstance(model, list | tuple) and all(isinstance(line, str) for line in model):
        return read_formulas(list(model), time)
    if not isinstance(model, Mapping):
        hint = "; sympy expressions need the name of their state" if _is_symbolic(model) else ""
        raise ProblemError(
            "model must be odekit.Equations, odekit.Refined or formulas such as {'x': '-k*x'}, got "
            f"{type(model).__name__}{hint}"
        )
    if not model:
        raise ProblemError("model has no formula: write one as {'x': '-k*x'}")
    return model


def _is_symbolic(model: Any) -> bool:
    several = model if isinstance(model, list | tuple) else [model]
    return any(hasattr(item, "free_symbols") for item in several)


def _text(formula: Any) -> str:
    """A formula as text that `parse` reads."""
    if isinstance(formula, str):
        return formula
    import sympy

    if isinstance(formula, sympy.Expr) and formula.has(sympy.I, sympy.oo, sympy.zoo, sympy.nan):
        raise ProblemError(f"model: {formula} is not a finite real number for real states")
    return written(formula)


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
