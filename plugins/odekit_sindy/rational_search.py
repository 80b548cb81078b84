"""Fractions for one equation after the other, chosen by the trajectories.

At a polynomial the linearised problem knows nothing of denominators: they act on a fraction that
is not there. So fractions with *fixed* denominators, one function times a number from a grid, are
offered as further columns of the regression in trajectory space, each with the column of its
derivative by that number. Best subsets of plain functions and such columns give supports with
rough coefficients, one Gauss-Newton step improves the number, and the best of them are refitted
side by side by multiple shooting. What a fraction promises is read off the same regression, so
looking costs one pass of sensitivities.

Shapes: ``d`` states, ``L`` functions, ``A`` numerators; a flat index is
    ``equation * L + function``. A block is one denominator: ``A`` columns of fractions, then
    ``A`` of their derivatives.
Units: scaled; scores are in units of EBIC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odekit_sindy.candidates import best_subsets, coefficients, residual
from odekit_sindy.dynamics import Slope
from odekit_sindy.models import Models, Support
from odekit_sindy.rational import Rational
from odekit_sindy.search import Fitted, Linear, Start, SubsetSearch, is_far, project_out, vanished
from odekit_sindy.shooting import Shooting

TIGHT = 100.0
GRID = (-0.8, -0.5, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Coefficients of a denominator's function, over the largest value of that function."""

NEAR = 0.1
"""Smallest value of a denominator on the data from which a fit may start."""

LARGEST = 4
LONGEST = 6
TOP = 5
CROWDED = 20
MOST_COLUMNS = 1500
MOST_VERIFIED = 15
OF_KIND = 2
ROUNDS = 3
STEPS = 15


@dataclass(frozen=True)
class Block:
    """A denominator ``1 + number * function``; ``function`` is an index of the library."""

    function: int
    number: float


@dataclass(frozen=True)
class Proposal:
    """A support with rough coefficients, and its linearised score.

    ``kind`` is the equation that is exchanged, and how many coefficients it gets.
    """

    score: float
    support: Support
    c: np.ndarray
    kind: tuple[int, int]


class _Offered:
    """A library whose tangents have further columns, one set per equation, of fixed fractions."""

    def __init__(self, library: Rational, blocks: Sequence[Block]) -> None:
        self.library = library
        self.source = library.source[[block.function for block in blocks]]
        self.number = np.array([block.number for block in blocks])

    @property
    def width(self) -> int:
        """Further columns of each equation."""
        return 2 * len(self.number) * len(self.library.above)

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """The slopes of the models; their last ``d * width`` coefficients are zero and unused."""
        inner = self.library.bind(models, sensitivities)
        d, width = self.library.dim, self.width

        def slope(point: np.ndarray, z: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
            f, dz = inner(point, z)
            if dz is not None:
                values = self.values(point[0])
                first = dz.shape[2] - d * width
                for j in range(d):
                    dz[0, j, first + j * width : first + (j + 1) * width] += values
            return f, dz

        return slope

    def values(self, points: np.ndarray) -> np.ndarray:
        """The further columns at points ``(v, M)``: ``(width, M)``, block after block."""
        theta = self.library.plain.evaluate(points)
        below = theta[self.source]
        inverse = 1 / np.maximum(1 + self.number[:, None] * below, NEAR / 2)
        fractions = theta[self.library.above] * inverse[:, None]
        derivatives = -fractions * (below * inverse)[:, None]
        whole = np.concatenate([fractions, derivatives], axis=1)
        return np.asarray(whole.reshape(self.width, points.shape[-1]))


@dataclass(frozen=True)
class View:
    """The regression in trajectory space at a fit, with fixed fractions beside the library.

    Attributes:
        linear: columns are the library's for all equations, then those of the blocks.
        blocks: the denominators.
        now: linearised score of the fit itself.
    """

    linear: Linear
    blocks: tuple[Block, ...]
    now: float


def look(search: SubsetSearch, fitted: Fitted) -> View:
    """Linearise at a fit of the search's library, which is a `Rational`."""
    library, layout = _library(search), search.shooting.layout
    blocks = _blocks(search, fitted, library)
    offered = _Offered(library, blocks)
    wide = search.as_models([fitted]).widened()
    more = layout.dim * offered.width
    models = Models(
        np.pad(wide.flat, ((0, 0), (0, more))),
        np.pad(wide.used, ((0, 0), (0, more))),
        np.pad(wide.c, ((0, 0), (0, more))),
        wide.start,
        wide.size,
    )
    shooting = Shooting(layout, offered, search.shooting.substeps, search.shooting.floor)
    r, jac = shooting.dense(models, fitted.sigma[None], TIGHT)
    n_state, own = layout.dim * layout.segments, wide.flat.shape[1]
    columns = jac[:, n_state:]
    if library.rules is not None:
        columns[:, :own][:, ~library.rules.allowed.reshape(-1)] = 0.0
    q, _ = np.linalg.qr(jac[:, :n_state])
    a = columns - q @ (q.T @ columns)
    a[:, vanished((a**2).sum(0), (columns**2).sum(0))] = 0.0
    r = r - q @ (q.T @ r)
    # What the right-hand side is now: denominators are part of their fractions, not terms.
    terms = np.where(np.tile(library.kind < 2, layout.dim), wide.c[0], 0.0)
    y = a[:, :own] @ terms - r
    variance = max(float(r @ r) / max(len(r) - n_state - len(fitted.support), 1), 1e-12)
    linear = Linear(a.T @ a, a.T @ y, float(y @ y), variance, 1.0)
    return View(linear, blocks, float(r @ r) / variance + search.price(fitted.support))


def propose(
    search: SubsetSearch, fitted: Fitted, view: View, limit: float = np.inf
) -> list[Proposal]:
    """Fractions in one equation each, the others as they are, best score first.

    Args:
        search: over a `Rational` library.
        fitted: where the view was taken.
        view: from `look`.
        limit: score from which on nothing is of interest; a low one saves most of the work.
    """
    found: dict[Support, Proposal] = {}
    for j in range(search.shooting.layout.dim):
        for i in range(len(view.blocks)):
            if search.budget.over:
                break
            for one in _in_block(search, fitted, view, j, i, limit):
                known = found.get(one.support)
                if known is None or one.score < known.score:
                    found[one.support] = one
    found.pop(fitted.support, None)
    return sorted(found.values(), key=lambda one: (one.score, one.support))


def promised(search: SubsetSearch, fitted: Fitted, view: View, least: float) -> float:
    """What the best fraction gains over the fit by its linearised score; zero below ``least``."""
    proposals = propose(search, fitted, view, view.now - least)
    return max(view.now - proposals[0].score, 0.0) if proposals else 0.0


def exchanged(search: SubsetSearch, fitted: Fitted, view: View) -> Fitted:
    """Exchange the right-hand side of one equation at a time until nothing lowers EBIC.

    Args:
        search: over a `Rational` library.
        fitted: where to begin.
        view: from `look` at that fit.
    """
    for _ in range(ROUNDS):
        proposals = [] if search.budget.over else _shortlist(propose(search, fitted, view))
        if not proposals:
            break
        best = min(_verified(search, fitted, proposals), key=lambda one: one.ebic)
        if not best.ebic < fitted.ebic:
            break
        fitted = search.climb(search.polish(search.resolved(best)))
        view = look(search, fitted)
    return fitted


def _shortlist(proposals: Sequence[Proposal]) -> list[Proposal]:
    """The best of every kind first, then the best of all.

    Where there is little noise, a number from a grid costs a short model more than a long one,
    which makes up for it, so scores compare fairly only within a kind.
    """
    counts: dict[tuple[int, int], int] = {}
    first: list[Proposal] = []
    rest: list[Proposal] = []
    for one in proposals:
        counts[one.kind] = counts.get(one.kind, 0) + 1
        (first if counts[one.kind] <= OF_KIND and one.kind[1] <= LARGEST else rest).append(one)
    return [*first, *rest[: max(MOST_VERIFIED - len(first), 0)]]


def _verified(search: SubsetSearch, fitted: Fitted, proposals: Sequence[Proposal]) -> list[Fitted]:
    models = search.as_models([Start(one.support, one.c, fitted.start) for one in proposals])
    sigma = np.repeat(fitted.sigma[None], len(models), axis=0)
    if is_far(fitted):
        models = search.shooting.fit(models, sigma, 1.0, STEPS)
    for tightness in (10.0, 100.0):
        models = search.shooting.fit(models, sigma, tightness, STEPS)
    return search.judge(models)


def _library(search: SubsetSearch) -> Rational:
    library = search.shooting.dynamics
    assert isinstance(library, Rational)
    return library


def _blocks(search: SubsetSearch, fitted: Fitted, library: Rational) -> tuple[Block, ...]:
    """Denominators that are clear of zero on the data and not constant there."""
    layout = search.shooting.layout
    nodes, _ = search.shooting.integrate(search.as_models([fitted]))
    x = np.concatenate(layout.at_rows(nodes[:, 0]))
    u = np.concatenate(layout.at_rows(layout.inputs))
    theta = library.evaluate(np.concatenate([x, u], axis=1).T)
    out = []
    for function in np.flatnonzero(library.kind == 2):
        values = theta[function]
        largest = float(np.abs(values).max())
        for share in GRID if values.min() >= 0 else (*GRID, *(-v for v in GRID)):
            number = share / largest if largest > 0 else 0.0
            denominator = 1 + number * values
            if denominator.min() > NEAR and denominator.max() > 1.1 * denominator.min():
                out.append(Block(int(function), number))
    most = max(MOST_COLUMNS // (2 * len(library.above) * layout.dim), 1)
    return tuple(out[:: -(-len(out) // most)]) if out else ()


@dataclass(frozen=True)
class _Equation:
    """One equation's part of the regression for one block, the other equations projected out.

    Attributes:
        functions: library functions of the columns: plain ones, then numerators.
        gram, right, square: normal equations of these columns, then of as many derivatives by
            the denominator's number as there are numerators.
        plain: number of plain columns.
    """

    functions: np.ndarray
    gram: np.ndarray
    right: np.ndarray
    square: float
    plain: int

    def improved(self, chosen: Sequence[int]) -> tuple[float, np.ndarray, float]:
        """Residual, coefficients and change of the number, after a Gauss-Newton step in both."""
        count, k = len(self.functions), len(chosen)
        rough = coefficients(self.gram, self.right, tuple(chosen))
        turn = np.zeros((len(self.right), k + 1))
        turn[list(chosen), range(k)] = 1.0
        for i, c in zip(chosen, rough, strict=True):
            if i >= self.plain:
                turn[count + i - self.plain, k] = c
        gram, right = turn.T @ self.gram @ turn, turn.T @ self.right
        whole = tuple(range(k + 1))
        c = coefficients(gram, right, whole)
        return residual(gram, right, self.square, whole), c[:k], float(c[k])


def _in_block(
    search: SubsetSearch, fitted: Fitted, view: View, equation: int, at: int, limit: float
) -> list[Proposal]:
    """Best subsets of plain functions and the fractions of one block in one equation."""
    library, block = _library(search), view.blocks[at]
    base = equation * library.size
    part = _equation(search, fitted.support, view, equation, at)
    if part is None:
        return []
    now = dict(zip(fitted.support, fitted.c, strict=True))
    taken = {base + int(i) for i in [*part.functions, *np.flatnonzero(library.kind == 2)]}
    others = [q for q in fitted.support if q not in taken]
    place = {base + int(i): n for n, i in enumerate(part.functions)}
    count = len(place)
    largest = LARGEST if count <= CROWDED else LARGEST - 1
    floor = residual(part.gram, part.right, part.square, tuple(range(len(part.right))))
    floor /= view.linear.variance
    while largest and floor + _least_price(search, others, part, equation, block, largest) > limit:
        largest -= 1
    if not largest:
        return []
    gram, right = part.gram[:count, :count], part.right[:count]
    subsets = best_subsets(gram, right, part.square, largest, TOP)
    out: dict[Support, Proposal] = {}
    for _, s in subsets:
        if len(s) > LONGEST:
            continue
        flat = [base + int(part.functions[i]) for i in s]
        whole = library.canonical(tuple(sorted([*others, *flat, base + block.function])))
        if (
            whole is None
            or whole in out
            or any(q not in place for q in _own(whole, others, base + block.function))
        ):
            continue
        own = _own(whole, others, base + block.function)
        rss, c, change = part.improved([place[q] for q in own])
        values = now | dict(zip(own, c, strict=True))
        values[base + block.function] = _bounded(block.number, change)
        score = rss / view.linear.variance + search.price(whole)
        c = np.array([values[q] for q in whole])
        out[whole] = Proposal(score, whole, c, (equation, len(own) + 1))
    return list(out.values())


def _least_price(
    search: SubsetSearch,
    others: Sequence[int],
    part: _Equation,
    equation: int,
    block: Block,
    count: int,
) -> float:
    """What a model with ``count`` functions and one denominator in an equation costs at least."""
    base = equation * search.size
    cheap = base + part.functions[: part.plain]
    cheap = cheap[np.argsort(search.prices[cheap], kind="stable")][: count - 1]
    fraction = (base + int(part.functions[part.plain]), base + block.function)
    return search.price((*others, *map(int, cheap), *fraction))


def _own(whole: Support, others: Sequence[int], below: int) -> list[int]:
    return [q for q in whole if q not in others and q != below]


def _bounded(number: float, change: float) -> float:
    """The number after a step that neither doubles it nor takes more than half of it away."""
    return number + float(np.clip(change, -0.5 * abs(number), abs(number)))


def _equation(
    search: SubsetSearch, support: Support, view: View, equation: int, at: int
) -> _Equation | None:
    """The columns of one equation and block; None where nothing in it is free."""
    library, block = _library(search), view.blocks[at]
    size, plain, above = library.size, library.plain.size, len(library.above)
    free = np.arange(size) if library.rules is None else library.rules.free(equation)
    functions = free[library.kind[free] == 0]
    numerators = free[library.kind[free] == 1]
    if not len(numerators) or block.function not in free:
        return None
    width = 2 * above * len(view.blocks)
    first = search.shooting.layout.dim * size + equation * width + 2 * above * at
    fractions = first + numerators - plain
    mine = np.concatenate([equation * size + functions, fractions, fractions + above])
    gone = {equation * size + int(i) for i in free}
    others = [q for q in support if q not in gone]
    gram, right, square = project_out(view.linear, mine, others)
    return _Equation(np.concatenate([functions, numerators]), gram, right, square, len(functions))
