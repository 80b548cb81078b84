"""The ladder under one noise model: which libraries are searched, and from which starts.

Every rung is searched from below, by slopes, and from above, by elimination. A rung that cannot
hold the answer is passed over, and the ladder ends at the first rung that fits to the noise,
unless a look at the next library promises more. Fractions are looked at in any case, since sums
of functions know nothing of them.

Shapes: ``d`` states, ``L`` functions.
Units: scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from odekit_sindy.budget import Budget
from odekit_sindy.data import Dataset
from odekit_sindy.elimination import Whole, eliminated, hopeless, wanting, wholes
from odekit_sindy.found import RESTART, Rung, choose
from odekit_sindy.layout import arrange
from odekit_sindy.library import Library
from odekit_sindy.rational import Rational
from odekit_sindy.rational_search import exchanged, look, promised
from odekit_sindy.search import AGAIN, Start, SubsetSearch
from odekit_sindy.shooting import Shooting
from odekit_sindy.smoothing import Samples, Smoothed
from odekit_sindy.starts import Paths, start_models

AT_NOISE = 1.1
PROMISE = 2.0
MOST_COLUMNS = 400
MOST_WHOLE = 66
TIGHTER = (10.0, 100.0)


@dataclass(frozen=True)
class Material:
    """What a climb works on.

    Attributes:
        data: scaled data.
        smoothings: smoothed data, of which the first is relied on.
        sources: states and slopes for starts, beside the states of the first smoothing.
        flows: smoothed data that give further starts.
        floor: smallest noise level.
    """

    data: Dataset
    smoothings: Sequence[Smoothed]
    sources: Sequence[Samples]
    flows: Sequence[Smoothed]
    floor: float


@final
class Climb:
    """Rung after rung.

    Args:
        material: data, smoothed.
        libraries: the ladder, smallest first.
        budget: time limit and listener.
        paths: where the starts' supports come from.
    """

    def __init__(
        self, material: Material, libraries: Sequence[Library], budget: Budget, paths: Paths
    ) -> None:
        self.material = material
        self.libraries = libraries
        self.budget = budget
        self.paths = paths
        self.smoothed = material.smoothings[0]
        self.layout = arrange(material.data, self.smoothed.shape)
        self.noise = np.maximum(self.smoothed.sigma, material.floor)
        self.rungs: list[Rung] = []
        self._fits: dict[int, list[Whole]] = {}

    def run(self) -> tuple[Rung, ...]:
        """All rungs that were searched, in order."""
        ended: Library | None = None
        for i, library in enumerate(self.libraries):
            if self.rungs and (self.budget.over or self._columns(library) > MOST_COLUMNS):
                break
            self.budget.tell(f"search: {library.name}", i / len(self.libraries))
            if isinstance(library, Rational) and self.rungs:
                self.rungs += self._with_fraction(library)
                continue
            # Exponentials that are not needed say nothing about products of waves, which lack them.
            if ended is not None and not (library.products and ended.exponentials):
                continue
            fits = self._wholes(i)
            if fits and not library.products:  # which bend to almost anything, noise included
                self.noise = np.maximum(np.minimum(self.noise, fits[0].noise), self.material.floor)
            if self._is_hopeless(i):
                continue
            if self.rungs and self.budget.over:
                break
            if self.rungs and not self._is_worth_a_look(library, fits):
                ended = library
                continue
            self.rungs.append(self._searched(library, fits))
        return tuple(self.rungs)

    def _columns(self, library: Library) -> int:
        return library.size * self.layout.dim

    def _wholes(self, i: int) -> list[Whole]:
        """Fits of a library with all of its terms, best first; none where it is too large."""
        if i not in self._fits:
            library, material = self.libraries[i], self.material
            too_large = self._columns(library) > MOST_WHOLE
            if isinstance(library, Rational) or too_large or self.budget.over:
                self._fits[i] = []
            else:
                # So many functions bend to any smoothing: one start is enough.
                some = material.smoothings[:1] if library.products else material.smoothings
                self._fits[i] = wholes(material.data, some, library, self.budget, material.floor)
        return self._fits[i]

    def _is_hopeless(self, i: int) -> bool:
        """Whether the next library, with all of its terms, wins over any model of this one.

        Products of waves are not fitted for this: that takes longer than the search it may save.
        """
        fits = self._wholes(i)
        if not fits or i + 1 == len(self.libraries) or self.libraries[i + 1].products:
            return False
        return hopeless(fits[0], self._wholes(i + 1))

    def _is_worth_a_look(self, library: Library, fits: Sequence[Whole]) -> bool:
        """Whether another library may do better: the best is off the noise, or chance does less.

        Args:
            library: the next one.
            fits: of it with all of its terms, best first; may be empty.
        """
        best = self.rungs[choose(self.rungs)]
        # A smoother may find too little noise: just short of it is no reason to search so many.
        if not best.reaches(self.noise, RESTART if library.products else AT_NOISE):
            return True
        if any(wanting(best.search, best.best, whole) for whole in fits[:1]):
            return True
        return promising(best, library, self.rungs)

    def _searched(self, library: Library, fits: Sequence[Whole]) -> Rung:
        """The rung of a library, from all starts there are."""
        search = SubsetSearch(
            Shooting(self.layout, library, floor=self.material.floor), self.budget
        )
        rung = first_climb(search, self._starts(library))
        if isinstance(library, Rational) and not self.budget.over:
            rung = replace(rung, best=exchanged(search, rung.best, look(search, rung.best)))
        if fits and not self.budget.over and wanting(search, rung.best, fits[0]):
            rung = second_climb(rung, eliminated(fits, search))
        return rung

    def _starts(self, library: Library) -> list[Start]:
        first = self.layout.starts(self.smoothed.states)
        pairs = [(source, first) for source in self.material.sources]
        pairs += [(flow.samples, self.layout.starts(flow.states)) for flow in self.material.flows]
        starts: list[Start] = []
        for samples, states in pairs:
            if not starts or not self.budget.over:
                starts += start_models(samples, library, states, self.paths)
        if self.rungs:
            starts.append(self.rungs[choose(self.rungs)].carried(library))
        return starts

    def _with_fraction(self, library: Rational) -> list[Rung]:
        """The rung of fractions, searched from a model without; none if nothing is to be expected.

        Args:
            library: plain functions and a fraction per equation.
        """
        # What fits with products of waves proves little.
        rungs = [rung for rung in self.rungs if not rung.library.products] or self.rungs
        best = rungs[choose(rungs)]
        before = best.search.shooting
        shooting: Shooting[Library] = Shooting(
            before.layout, library, before.substeps, before.floor
        )
        search = SubsetSearch(shooting, self.budget)
        plain = [rung for rung in rungs if rung.fits_in(library)]
        if plain:
            carried = plain[choose(plain)].carried(library)
            first = search.judge(search.as_models([carried]))[0]
        else:
            states = self.layout.starts(self.smoothed.states)
            starts = start_models(self.smoothed.samples, library, states, self.paths)
            first = search.polish(search.resolved(search.fit_starts(starts)[0]), TIGHTER)
        view = look(search, first)
        if best.reaches(self.noise, AT_NOISE):
            gain = promised(search, first, view, PROMISE)
            # The linearised score of a fraction is rough, so it may fall short of the best.
            if gain <= PROMISE or first.ebic - gain > best.best.ebic + AGAIN:
                return []
        return [Rung(search, exchanged(search, first, view))]


def first_climb(search: SubsetSearch, starts: Sequence[Start]) -> Rung:
    """Fit all starts, set the substeps, and climb from the best."""
    fitted = search.fit_starts(starts)
    best = search.climb(search.polish(search.resolved(fitted[0]), TIGHTER))
    return Rung(search, best, tuple(fitted[1:]))


def second_climb(rung: Rung, starts: Sequence[Start]) -> Rung:
    """Climb once more, from other starts, and keep the better model."""
    search = rung.search
    fitted = search.fit_starts(starts)
    again = search.climb(search.polish(search.resolved(fitted[0]), TIGHTER))
    return rung if rung.best.ebic <= again.ebic else replace(rung, best=again)


def promising(rung: Rung, library: Library, rungs: Sequence[Rung] = ()) -> bool:
    """Whether the linearised problem of another library promises a much better model.

    Args:
        rung: with the best model so far.
        library: a larger one, or one that lacks functions of that model; then the problem is
            linearised at the last model of which it has all.
        rungs: earlier ones.
    """
    before = rung.best.ebic
    if not rung.fits_in(library):
        nested = [r for r in rungs if r.fits_in(library)]
        if not nested:
            return False
        rung = nested[-1]
    shooting = rung.search.shooting
    wider = Shooting(shooting.layout, library, shooting.substeps, shooting.floor)
    start = rung.carried(library)
    fitted = replace(rung.best, support=start.support, c=start.c)
    search = SubsetSearch(wider, rung.search.budget)
    linear = search.linearise(fitted)
    proposals = search.propose(fitted.support, linear)
    if not proposals:
        return False
    now = linear.residual(fitted.support) / linear.variance
    gain = now + search.price(fitted.support) - proposals[0][0]
    gain += before - rung.best.ebic
    return bool(gain > PROMISE)
