"""Whether something outside of the library would do better: score tests, and look-alikes.

A structure can fit to the noise and still be wrong: a parabola in place of a logarithm, a product
in place of a delayed one. So the answer is held against what no library holds: functions that
saturate, bend or break, its own terms with a memory, and its own terms with coefficients that
drift in time. Each such *probe* becomes one more column of the regression in trajectory space.
One that lowers the residual more than chance would was left out (*omitted*); one that replaces
terms of the answer at no loss is a *look-alike*, and then the data settle a value, not a form.

The columns are exact, but what a replacement would cost is read off the linearisation; nothing is
fitted again. Use it to doubt an answer, not to find a better one.

Shapes: ``d`` states, ``k`` terms, ``e`` probes, ``M`` segments.
Units: scaled; gains and losses are in units of twice the log likelihood, as EBIC is.
Source: the test is C. R. Rao's score test, "Large sample tests of statistical hypotheses concerning
    several parameters", Mathematical Proceedings of the Cambridge Philosophical Society 44(1),
    1948, doi:10.1017/S0305004100023987.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from odekit_sindy.candidates import residual
from odekit_sindy.dynamics import Dynamics, Slope
from odekit_sindy.layout import Layout
from odekit_sindy.models import Models, Support
from odekit_sindy.probes import Probe, clocks, probes
from odekit_sindy.search import Fitted, vanished
from odekit_sindy.shooting import Shooting

TIGHT = 100.0
SAME = 1e-4
"""Share of a probe's variance off the terms below which it is the same on these data."""

MOST_DROPPED = 2


@dataclass(frozen=True)
class Finding:
    """What one probe says.

    Attributes:
        equation: name of the state whose derivative it was tried in.
        probe: what it is, in words.
        replaced: terms that it would replace, empty where it would be added.
        change: how the criterion would change; negative is better than the answer.
        kind: that of the probe.
        formula: that of the probe.
    """

    equation: str
    probe: str
    replaced: tuple[str, ...]
    change: float
    kind: str = "form"
    formula: str = ""


@dataclass(frozen=True)
class Findings:
    """All that the probes say: what was left out, and what looks alike, the worst first."""

    omitted: tuple[Finding, ...] = ()
    alike: tuple[Finding, ...] = ()


class _Probed:
    """A family of right-hand sides with further columns that are zero at the models."""

    def __init__(self, dynamics: Dynamics, tried: Sequence[Probe], width: int) -> None:
        self.dynamics = dynamics
        self.probes = tried
        self.width = width

    def bind(self, models: Models, sensitivities: bool) -> Slope:
        """The slopes of the models, and tangents with one more column per probe."""
        inner = self.dynamics.bind(models, sensitivities)
        first = models.start.shape[1] + models.flat.shape[1] - len(self.probes)

        def slope(point: np.ndarray, z: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
            f, dz = inner(point[:, : self.width], z)
            if dz is not None:
                for i, probe in enumerate(self.probes):
                    dz[0, probe.equation, first + i] += probe.values(point[0])
            return f, dz

        return slope


def examine(
    shooting: Shooting[Any],
    fitted: Fitted,
    names: Sequence[str],
    labels: Sequence[str],
    library: Sequence[str],
    price: float,
    places: Sequence[Sequence[int]] | None = None,
    units: np.ndarray | None = None,
) -> Findings:
    """Hold a fitted model against all probes.

    Args:
        shooting: the problem, with its layout.
        fitted: the model.
        names: the states.
        labels: the terms in the order of ``fitted.support``.
        library: its functions as text, in order.
        price: what one term costs in the criterion.
        places: equations from which the model could do without each coefficient; by default the
            one that its flat index says.
        units: of the states, ``(d,)``, for the formulas of findings.

    Returns:
        Probes whose addition gains more than its price and the number of probes tried explain,
        and probes that replace one or two terms with a change of the criterion, all of them.
    """
    layout, size = shooting.layout, len(library)
    models = Models.of([fitted.support], [fitted.c], [fitted.start], size)
    nodes = shooting.integrate(models)[0][:, 0]
    wide = replace(layout, inputs=np.concatenate([layout.inputs, clocks(layout, nodes)], axis=1))
    places = [(q // size,) for q in fitted.support] if places is None else places
    pairs = list(zip(places, labels, strict=True))
    by_equation = [[text for where, text in pairs if j in where] for j in range(layout.dim)]
    tried = probes(layout, nodes, names, by_equation, library, units)
    gram, right, square, variance = _regression(shooting, wide, fitted, tried, size)
    count = len(fitted.support)
    entry = price + 2 * np.log(len(tried))
    base = residual(gram, right, square, tuple(range(count)))
    omitted, alike = [], []
    for i, probe in enumerate(tried):
        whole = (*range(count), count + i)
        if gram[count + i, count + i] <= 0:
            continue
        gain = (base - residual(gram, right, square, whole)) / variance
        name = names[probe.equation]
        if gain > entry:
            omitted.append(Finding(name, probe.label, (), float(entry - gain), probe.kind))
        own = [a for a in range(count) if probe.equation in places[a]]
        for dropped in _subsets(own):
            kept = tuple(a for a in whole if a not in dropped)
            loss = (residual(gram, right, square, kept) - base) / variance
            change = float(loss - price * (len(dropped) - 1))
            replaced = tuple(labels[a] for a in dropped)
            found = Finding(name, probe.label, replaced, change, probe.kind, probe.formula)
            alike.append(found)
    return Findings(
        tuple(sorted(omitted, key=lambda f: f.change)), tuple(sorted(alike, key=lambda f: f.change))
    )


def _subsets(own: Sequence[int]) -> list[tuple[int, ...]]:
    sizes = range(1, min(MOST_DROPPED, len(own)) + 1)
    return [s for k in sizes for s in itertools.combinations(own, k)]


def _regression(
    shooting: Shooting[Any],
    layout: Layout,
    fitted: Fitted,
    tried: Sequence[Probe],
    size: int,
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Normal equations of the terms and the probes, segment states projected out.

    Returns:
        ``A'A``, ``A'y``, ``y'y`` and the residual variance per degree of freedom, at least that
        of the noise floor.
    """
    k, more = len(fitted.support), len(tried)
    flat = np.array([[*fitted.support, *([0] * more)]], dtype=int)
    used = np.array([[True] * k + [False] * more])
    c = np.concatenate([fitted.c, np.zeros(more)])[None]
    models = Models(flat, used, c, fitted.start[None].copy(), size)
    width = layout.dim + shooting.layout.inputs.shape[1]
    probed = Shooting(
        layout, _Probed(shooting.dynamics, tried, width), shooting.substeps, shooting.floor
    )
    r, jac = probed.dense(models, fitted.sigma[None], TIGHT)
    n_state = layout.dim * layout.segments
    q, _ = np.linalg.qr(jac[:, :n_state])
    a = jac[:, n_state:] - q @ (q.T @ jac[:, n_state:])
    a[:, vanished((a**2).sum(0), (jac[:, n_state:] ** 2).sum(0))] = 0.0
    r = r - q @ (q.T @ r)
    gram = a.T @ a
    # A probe that the terms of its equation already make says nothing on these data.
    gone = [k + i for i in range(more) if _made_of(gram, k + i, range(k))]
    a[:, gone] = 0.0
    y = a @ c[0] - r
    dof = max(int(layout.counts.sum()) - n_state - k, 1)
    return a.T @ a, a.T @ y, float(y @ y), max(float(r @ r) / dof, 1.0)


def _made_of(gram: np.ndarray, column: int, others: Sequence[int] | range) -> bool:
    """Whether a column is a combination of others, up to `SAME` of its squared length."""
    own = float(gram[column, column])
    if own <= 0:
        return True
    support: Support = tuple(others)
    return residual(gram, gram[:, column], own, support) <= SAME * own
