"""What no library holds: functions that saturate, bend or break, the past of states, and time.

Each is a *probe*: a column for the regression in trajectory space, see `specification`. The past
and time are *clocks*, further inputs along the fitted trajectory, linear between rows.

Shapes: ``d`` states, ``m`` inputs, ``Q + 1`` nodes of ``M`` segments; a clock is ``(Q + 1, M)``.
Units: scaled; time runs from -1 to 1.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from odekit_sindy.layout import Layout

AWAY = 0.02
"""Size of a state, relative to its root mean square, up to which its sign is a matter of noise."""

FEW_STATES = 4
"""States up to which every equation is probed with all of them."""

Values = Callable[[np.ndarray], np.ndarray]
"""Points ``(v, M)`` to values ``(M,)``."""

Form = tuple[str, str, Values]
"""A function in words, as a formula, and in numbers."""


@dataclass(frozen=True)
class Probe:
    """A function that no library holds.

    Attributes:
        equation: index of the state whose derivative it is tried in.
        label: what it is, in words.
        values: at points of states, inputs and the `clocks`, ``(v, M)``.
        kind: ``"term"`` for a product that a larger library has, ``"form"`` for a function of the
            states that none has, ``"past"`` for one of earlier states,
            ``"time"`` for one of time.
        formula: the same up to a factor in the caller's units, empty where it is no function of
            the states.
    """

    equation: int
    label: str
    values: Values
    kind: str = "form"
    formula: str = ""


def probes(
    layout: Layout,
    nodes: np.ndarray,
    names: Sequence[str],
    labels: Sequence[Sequence[str]],
    known: Sequence[str],
    units: np.ndarray | None = None,
) -> list[Probe]:
    """The functions to try in every equation: of the states, of their past, and of time.

    Args:
        layout: of the problem, without clocks.
        nodes: fitted states, ``(Q + 1, d, M)``.
        names: the states.
        labels: terms of each equation, as text.
        known: the library, as text.
        units: of the states, ``(d,)``, for the formulas.
    """
    d = layout.dim
    rows = np.concatenate(layout.at_rows(nodes))
    level = np.sqrt((rows**2).mean(0))
    level = np.where(level > 0, level, 1.0)
    m = layout.inputs.shape[1]
    out: list[Probe] = []
    for j in range(d):
        near = _near(j, names, labels[j])
        forms: list[Form] = []
        for i in near:
            size = float(level[i]) * (1.0 if units is None else float(units[i]))
            # Three digits are for the reader: where a form bends is a guess.
            scale, rate = f"{size:.3g}", f"{1 / size:.3g}"
            forms += _bends(i, float(level[i]), rows[:, i], names, scale, rate)
            forms += _saturated_products(i, float(level[i]), names, near, scale)
        out += [Probe(j, text, values, formula=formula) for text, formula, values in forms]
        out += [
            Probe(j, text, values, "term", text)
            for text, values in _products(names, near)
            if text not in known
        ]
        out += _clocked(j, d, m, names, near)
    return out


def _near(j: int, names: Sequence[str], labels: Sequence[str]) -> list[int]:
    """States to probe an equation with: all of them, or, of many, those that it has already."""
    if len(names) <= FEW_STATES:
        return list(range(len(names)))
    used = {word for text in labels for word in re.findall(r"\w+", text)}
    return [i for i, name in enumerate(names) if i == j or name in used]


def _bends(
    i: int, s: float, x: np.ndarray, names: Sequence[str], scale: str, rate: str
) -> list[Form]:
    """Functions of one state that bend otherwise than polynomials do.

    Args:
        i: the state.
        s: its size.
        x: its values, ``(n,)``.
        names: the states.
        scale: ``s`` in the caller's unit, as text.
        rate: one over it.
    """
    name = names[i]
    modulus, root = f"Abs({name})", f"sign({name})*sqrt(Abs({name}))"
    if x.min() > 0:
        modulus, root = name, f"sqrt({name})"
    out: list[Form] = [
        (
            f"a saturating function of {name}",
            f"{name}/({scale} + {modulus})",
            lambda p: p[i] / (s + np.abs(p[i])),
        ),
        (f"a root of {name}", root, lambda p: np.sign(p[i]) * np.sqrt(np.abs(p[i]) / s)),
        (
            f"an exponential of {name}",
            f"exp({rate}*{name})",
            lambda p: np.exp(np.clip(p[i] / s, -20, 20)),
        ),
        (
            f"an exponential of -{name}",
            f"exp(-{rate}*{name})",
            lambda p: np.exp(np.clip(-p[i] / s, -20, 20)),
        ),
    ]
    if x.min() < -AWAY * s and x.max() > AWAY * s:
        out += [
            (
                f"the sign of {name}",
                f"tanh(10*{rate}*{name})",
                lambda p: np.tanh(10 * p[i] / s),
            ),
            (f"{name} |{name}|", f"{name}*Abs({name})", lambda p: p[i] * np.abs(p[i])),
            (f"|{name}|", f"Abs({name})", lambda p: np.abs(p[i])),
        ]
    else:
        out += [
            (
                f"a logarithm of {name}",
                f"log({rate}*{modulus})",
                lambda p: np.log(np.maximum(np.abs(p[i]) / s, AWAY)),
            ),
            (
                f"{name} times a logarithm of {name}",
                f"{name}*log({rate}*{modulus})",
                lambda p: p[i] * np.log(np.maximum(np.abs(p[i]) / s, AWAY)),
            ),
        ]
    return out


def _products(names: Sequence[str], near: Sequence[int]) -> list[tuple[str, Values]]:
    """Products of up to three states, which the library may lack on a low rung."""
    out: list[tuple[str, Values]] = []
    for degree in range(4):
        for pick in itertools.combinations_with_replacement(near, degree):
            powers = [(names[i], pick.count(i)) for i in dict.fromkeys(pick)]
            text = "*".join(name if e == 1 else f"{name}**{e}" for name, e in powers) or "1"
            out.append((text, lambda p, pick=pick: np.prod(p[list(pick)], axis=0)))  # type: ignore[misc]
    return out


def _saturated_products(
    i: int, s: float, names: Sequence[str], near: Sequence[int], scale: str
) -> list[Form]:
    return [
        (
            f"{names[j]} times a saturating function of {names[i]}",
            f"{names[j]}*{names[i]}/({scale} + Abs({names[i]}))",
            lambda p, j=j: p[j] * p[i] / (s + np.abs(p[i])),  # type: ignore[misc]
        )
        for j in near
        if j != i
    ]


def _clocked(j: int, d: int, m: int, names: Sequence[str], near: Sequence[int]) -> list[Probe]:
    """Time itself, states times time, and the past of states, in one equation."""
    clock = d + m
    out = [Probe(j, "time", lambda p: p[clock], "time")]
    for i in near:
        drift = f"{names[i]} with a coefficient that drifts in time"
        out.append(Probe(j, drift, lambda p, i=i: p[clock] * p[i], "time"))  # type: ignore[misc]
        for a in range(2):
            at = clock + 1 + a * d + i
            out.append(Probe(j, f"the past of {names[i]}", lambda p, at=at: p[at], "past"))  # type: ignore[misc]
    return out


def clocks(layout: Layout, nodes: np.ndarray) -> np.ndarray:
    """Time and the past of each state at all nodes, ``(Q + 1, 1 + 2 d, M)``.

    Time runs from -1 to 1 over all trajectories. The past is the state behind a first-order lag,
    of three mean intervals and of a tenth of the longest trajectory.
    """
    nodes = np.clip(nodes, layout.low[:, None], layout.high[:, None])
    times = _times(layout)
    rows = layout.at_rows(nodes)
    when = layout.at_rows(times[:, None])
    longest = max(float(t[-1, 0] - t[0, 0]) for t in when)
    used = layout.step[layout.step > 0]
    out = np.zeros((len(nodes), 1 + 2 * layout.dim, layout.segments))
    half = longest / 2 if longest > 0 else 1.0
    out[:, 0] = times / half - 1
    for a, lag in enumerate((3 * float(used.mean()), longest / 10)):
        passed = [_behind(t[:, 0], x, lag) for t, x in zip(when, rows, strict=True)]
        block = slice(1 + a * layout.dim, 1 + (a + 1) * layout.dim)
        for where, values in zip(layout.place, passed, strict=True):
            out[where[:, 0], block, where[:, 1]] = values
        _join(layout, out[:, block])
    return out


def _times(layout: Layout) -> np.ndarray:
    """Time since the start of its trajectory at each node, ``(Q + 1, M)``."""
    within = np.concatenate([np.zeros((1, layout.segments)), np.cumsum(layout.step, axis=0)])
    start = np.zeros(layout.segments)
    for s in range(1, layout.segments):
        if layout.linked[s - 1]:
            start[s] = start[s - 1] + within[-1, s - 1]
    return np.asarray(start + within)


def _behind(t: np.ndarray, x: np.ndarray, lag: float) -> np.ndarray:
    """First-order lag of ``x (n, d)``: exact for values that are straight between rows."""
    out = x.copy()
    for i in range(1, len(t)):
        h = (t[i] - t[i - 1]) / lag
        keep = np.exp(-h)
        slope = (x[i] - x[i - 1]) / h if h > 0 else 0.0
        out[i] = x[i] - slope + (out[i - 1] - x[i - 1] + slope) * keep
    return out


def _join(layout: Layout, values: np.ndarray) -> None:
    """Fill the nodes that no row answers for: the end of a segment is the start of the next."""
    filled = np.zeros((values.shape[0], layout.segments), dtype=bool)
    for where in layout.place:
        filled[where[:, 0], where[:, 1]] = True
    for s in range(layout.segments):
        last = int(np.flatnonzero(filled[:, s])[-1])
        values[last + 1 :, :, s] = values[0, :, s + 1] if layout.linked[s] else values[last, :, s]
