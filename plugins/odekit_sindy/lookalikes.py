"""Look-alikes are tried: what a score test says would do as well is fitted, and judged by EBIC.

`odekit_sindy.specification` reads off a linearisation what replacing terms of the answer by
another function would cost. Where it would cost little or nothing, the model is fitted here to the
trajectories, and is one of the alternatives from then on, with its weight, or the answer itself if
it is better by far. Forms that no library has are dearer, by a rung and by the choice among all
that were probed, and since the scale in them is a guess, an answer that has one is never certain.

The past of a state, and time, are no functions of the states: no equation of them can be written
down without a further state or input, so they are named and not fitted. Nor are terms beside
fractions.

Shapes: ``d`` states, ``L`` functions; supports hold flat indices ``equation * L + function``.
Units: models in scaled units, formulas in the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from odekit.formulas import parse
from odekit_sindy.customs import Customs, Key, key_of
from odekit_sindy.data import Dataset
from odekit_sindy.found import Found, Rung
from odekit_sindy.identifiability import STRONG
from odekit_sindy.library import Library
from odekit_sindy.models import Support
from odekit_sindy.rational import Rational
from odekit_sindy.refit import Final, finish
from odekit_sindy.rules import Rules
from odekit_sindy.search import STEP, Fitted, Start, SubsetSearch
from odekit_sindy.shooting import Shooting
from odekit_sindy.specification import Finding, Findings, examine

MOST_TRIED = 8
BETTER = 10.0
"""What another kind of function must gain to become the answer, as a later rung would have to."""

ROUNDS = 2


@dataclass(frozen=True)
class Settled:
    """The outcome of a search after its look-alikes were tried.

    Attributes:
        found: the outcome, with a rung for what was tried.
        final: the last fit of the answer.
        findings: what is left of the findings: those that could not be fitted.
        beyond: terms of the answer, with their equations, that come from no library.
    """

    found: Found
    final: Final
    findings: Findings
    beyond: tuple[str, ...] = ()


def settle(found: Found, original: Dataset, *, look: bool = True) -> Settled:
    """The last fit of the answer, or of a look-alike that is better.

    Args:
        found: outcome of the search.
        original: the data in the caller's units, for names and scales.
        look: whether to hold the answer against functions outside of its library.
    """
    done: set[tuple[str, str, tuple[str, ...]]] = set()
    beyond: tuple[str, ...] = ()
    budget = found.rungs[found.chosen].search.budget
    for i in range(ROUNDS + 1):
        rung = found.rungs[found.chosen]
        final = finish(rung.search.shooting, rung.best, budget.late)
        if not look:
            return Settled(found, final, Findings())
        findings = _findings(found, final, original)
        wanted = _worth_trying(found, final, findings, original) if i < ROUNDS else []
        if not wanted or budget.over:
            break
        done |= {_name(finding) for finding in wanted}
        more, chosen = _tried(found, final, wanted, original), found.chosen
        best = min(more, key=lambda one: one.best.ebic)
        if best.best.ebic < found.best.ebic - BETTER:
            chosen = len(found.rungs) + more.index(best)
            beyond = _formulas(best, original)
        better = chosen != found.chosen
        found = replace(found, rungs=(*found.rungs, *more), chosen=chosen)
        if not better:
            break
    alike = tuple(f for f in findings.alike if _name(f) not in done)
    return Settled(found, final, replace(findings, alike=alike), beyond)


def _name(finding: Finding) -> tuple[str, str, tuple[str, ...]]:
    return finding.equation, finding.probe, finding.replaced


def _findings(found: Found, final: Final, original: Dataset) -> Findings:
    """What functions outside of the library say about the answer."""
    rung = found.rungs[found.chosen]
    shooting, fitted = _at(found, final)
    texts = rung.library.terms(original.names, original.inputs)
    labels = rung.library.labels(final.support, original.names, original.inputs)
    price = float(rung.search.prices.max())
    return examine(shooting, fitted, original.names, labels, texts, price, units=found.scales.state)


def _at(found: Found, final: Final) -> tuple[Shooting[Library], Fitted]:
    """The problem and the model of the last fit."""
    rung = found.rungs[found.chosen]
    coarse = rung.search.shooting
    shooting = Shooting(coarse.layout, rung.library, final.substeps, coarse.floor, coarse.stop)
    sigma = np.sqrt(final.rms**2 + coarse.floor**2)
    ebic = rung.best.ebic
    return shooting, Fitted(final.support, final.c, final.start, sigma, final.rms, ebic)


def _worth_trying(
    found: Found, final: Final, findings: Findings, original: Dataset
) -> list[Finding]:
    """The nearest look-alikes that are functions of the states and have not been fitted."""
    library = found.rungs[found.chosen].library
    if isinstance(library, Rational):
        return []
    # What is said about terms that this library lacks, a larger one would know.
    rules = library.rules
    kinds = ("term", "form") if rules is None else ("form",)
    near = [f for f in findings.alike if f.kind in kinds and f.change < STRONG]
    if rules is not None:
        near = [f for f in near if not any(map(rules.protected, _gone(found, final, f, original)))]
    return near[:MOST_TRIED]


def _gone(found: Found, final: Final, finding: Finding, original: Dataset) -> set[int]:
    """The terms of the answer that a look-alike replaces."""
    library = found.rungs[found.chosen].library
    labels = library.labels(final.support, original.names, original.inputs)
    equation = original.names.index(finding.equation)
    return {
        q
        for q, label in zip(final.support, labels, strict=True)
        if q // library.size == equation and label in finding.replaced
    }


def _tried(found: Found, final: Final, wanted: Sequence[Finding], original: Dataset) -> list[Rung]:
    """Rungs with the fits of these look-alikes: terms of larger libraries, then other forms."""
    out = []
    for kind in ("term", "form"):
        some = [f for f in wanted if f.kind == kind]
        if some:
            library = _widened(found, some, original)
            out.append(_fitted(found, final, some, library, original))
    return out


def _formulas(rung: Rung, original: Dataset) -> tuple[str, ...]:
    """Terms of a rung's best model that are formulas, with their equations."""
    library = rung.library
    first = library.size - (0 if library.customs is None else library.customs.size)
    formulas = [q for q in rung.best.support if q % library.size >= first]
    labels = library.labels(formulas, original.names, original.inputs)
    return tuple(
        f"{text} in {original.names[q // library.size]}"
        for q, text in zip(formulas, labels, strict=True)
    )


def _widened(found: Found, some: Sequence[Finding], original: Dataset) -> Library:
    """The answer's library with what the look-alikes need."""
    library = found.rungs[found.chosen].library
    names = (*original.names, *original.inputs)
    expressions = {f.formula: parse(f.formula, names) for f in some}
    if some[0].kind == "term":
        degree = max(int(_degree(e)) for e in expressions.values())
        wider = replace(library, degree=max(library.degree, degree), rules=None)
    else:
        samples, scales = found.smoothed.samples, found.scales
        units = np.concatenate([scales.state, scales.input])
        points = np.concatenate([samples.x, samples.u], axis=1).T * units[:, None]
        before = () if library.customs is None else library.customs.expressions
        new = [e for e in dict.fromkeys(expressions.values()) if e not in before]
        customs = Customs([*before, *new], names, units, library.dim, library.inputs, points)
        wider = replace(library, customs=customs, rules=None)
    if library.rules is None:
        return wider
    return replace(wider, rules=_carried_rules(library.rules, library, wider))


def _degree(expression: object) -> int:
    import sympy

    return int(sympy.Poly(expression).total_degree())


def _carried_rules(rules: Rules, library: Library, wider: Library) -> Rules:
    """The same rules over more functions, of which nothing is known."""
    place = [wider.place[key] for key in library.keys]

    def spread(values: np.ndarray, fill: float) -> np.ndarray:
        out = np.full((library.dim, wider.size), fill, dtype=values.dtype)
        out[:, place] = values
        return out

    def moved(q: int) -> int:
        return (q // library.size) * wider.size + place[q % library.size]

    # What is known as a whole takes no further terms.
    allowed = spread(rules.allowed, True)
    allowed[~rules.allowed.any(axis=1)] = False
    return Rules(
        allowed,
        spread(rules.forced, False),
        spread(rules.offset, 0.0),
        spread(rules.sign, 0),
        {
            moved(lead): tuple((moved(q), ratio) for q, ratio in group)
            for lead, group in rules.followers.items()
        },
        None if rules.told is None else spread(rules.told, 0.0),
    )


def _fitted(
    found: Found, final: Final, some: Sequence[Finding], library: Library, original: Dataset
) -> Rung:
    """Fit every look-alike from the answer's states, and polish the best."""
    before = found.rungs[found.chosen]
    shooting, fitted = _at(found, final)
    search = SubsetSearch(
        Shooting(shooting.layout, library, shooting.substeps, shooting.floor), before.search.budget
    )
    if some[0].kind == "form":
        search.prices = _dearer(search, before.library, original)
    flat = {q: library.embed((q,), before.library)[0] for q in final.support}
    c = [
        value * library.conversion(flat[q], q, before.library)
        for q, value in zip(final.support, final.c, strict=True)
    ]
    order = np.argsort(list(flat.values()))
    support = tuple(int(v) for v in np.array(list(flat.values()))[order])
    model = search.as_models([Start(support, np.array(c)[order], fitted.start)])
    own = search.judge(model)[0]
    supports = [_replaced(found, final, f, flat, library, original) for f in some]
    fits = search.verify(own, list(dict.fromkeys(supports)), search.linearise(own))
    best = min(fits, key=lambda f: f.ebic)
    return Rung(search, search.polish(best, (10.0, 100.0)))


def _replaced(
    found: Found,
    final: Final,
    finding: Finding,
    flat: dict[int, int],
    library: Library,
    original: Dataset,
) -> Support:
    """The answer's support with some terms replaced, in the wider library."""
    equation = original.names.index(finding.equation)
    gone = _gone(found, final, finding, original)
    place = library.place[_key(finding, original)]
    return tuple(
        sorted(
            {*(flat[q] for q in final.support if q not in gone), equation * library.size + place}
        )
    )


def _key(finding: Finding, original: Dataset) -> Key:
    names = (*original.names, *original.inputs)
    return key_of(parse(finding.formula, names), original.names, names)


def _dearer(search: SubsetSearch, before: Library, original: Dataset) -> np.ndarray:
    """Prices with those of the forms raised: by a rung, and by all the forms to choose from."""
    library = search.shooting.dynamics
    prices = search.prices.reshape(library.dim, library.size).copy()
    more = library.size - before.size
    data = np.log(search.shooting.layout.counts.sum())
    # As many forms per state as `odekit_sindy.probes` has, with and without a partner.
    forms = 7 * library.dim + library.dim * (library.dim - 1)
    prices[:, -more:] = data + 2 * np.log(before.choices + forms) + STEP
    return prices.reshape(-1)
