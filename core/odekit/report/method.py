"""What the report says in words: the data, the verdict, the way there, the literature."""

from __future__ import annotations

import html
import math
import platform
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from odekit.report import models, scope
from odekit.report.comparison import noise_kind
from odekit.report.notation import MINUS, number

if TYPE_CHECKING:
    from odekit.equations import Equations
    from odekit.report.comparison import Comparison
    from odekit.report.study import Study

PACKAGES = ("odekit", "torch", "numpy", "scipy", "sympy", "pysindy")


def version_of(package: str) -> str:
    """The installed version, ``"not installed"`` where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def escape(text: str) -> str:
    """Text as HTML, with no line end between a number and its per cent."""
    return html.escape(text).replace(" %", "\N{NO-BREAK SPACE}%")


def prose(text: str) -> str:
    """A sentence as HTML, the products and powers in it as in print."""
    powers = re.sub(r"\*\*(\d+)", r"<sup>\1</sup>", escape(text))
    return re.sub(r"(?<=[\w>)])\*(?=\w)", "·", powers)


def join(words: Sequence[str]) -> str:
    """``"a, b and c"``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 2 else words)


def data_sentence(study: Study) -> str:
    """What the data are, in one sentence."""
    series, first = study.series, study.series[0]
    points = sum(len(each) for each in series)
    low = min(each.span[0] for each in series)
    high = max(each.span[1] for each in series)
    span = f"{first.time_name} {_plain(low)} to {_plain(high)}"
    inputs = f", driven by {join(first.input_names)}" if first.input_names else ""
    if len(series) == 1:
        return f"{points} points of {join(study.equations.names)}, {span}{inputs}."
    return (
        f"{len(series)} trajectories of {join(study.equations.names)} with {points} points, "
        f"{span}{inputs}."
    )


def _plain(value: float) -> str:
    """A time as it stands in a file: years without a comma or a power of ten."""
    return f"{value:.6g}" if 1e-3 <= abs(value) < 1e6 or value == 0 else number(value)


def headline(equations: Equations) -> str:
    """The verdict in one sentence."""
    if equations.confident:
        return "The data settle the structure of these equations."
    if not models.fits(equations):
        return "The data do not settle the structure: none of the models tried fits them."
    return "The data do not settle the structure of these equations."


def verdict_sentence(study: Study) -> str:
    """How well the equations do, in one or two sentences."""
    r2 = np.concatenate([c.r2 for c in study.comparisons])
    known = r2[np.isfinite(r2)]
    fit = ""
    if len(known):
        fit = f"Simulated over the whole span, they explain {_percent(known.min())} of the variance"
        fit += " of the state that fits worst." if len(known) > 1 else "."
    alternatives = study.equations.alternatives
    if alternatives and max(a.weight for a in alternatives) > 0:
        count = len(alternatives)
        noun = "structure" if count == 1 else "structures"
        fit += f" {count} other {noun} came within reach."
        if not models.fits(study.equations):
            fit += " None of them fits, so their shares rank attempts and nothing else."
    return fit.strip() or "The simulation did not reach the data."


def _percent(share: float) -> str:
    if share <= 0:
        return "none"
    # Nothing but everything is 100 %.
    return f"{100 * share:.0f} %" if share < 0.985 else f"{math.floor(1000 * share) / 10:.1f} %"


def doubts(study: Study) -> list[str]:
    """Everything that speaks against trusting the result, one sentence each."""
    left = [
        sentence
        for c in study.comparisons
        for sentence in scope.departures(study.equations, c.model, c.label)
    ]
    return [
        *study.equations.warnings,
        *simulation_notes(study.comparisons),
        *left,
        *study.notes,
    ]


def simulation_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """A sentence for each trajectory whose simulation did not get to the end."""
    return [
        f"The simulation of {c.label} stops at {_plain(c.reached)}: the model blows up or becomes "
        "stiff there."
        for c in comparisons
        if not c.complete
    ]


def noise_rows(equations: Equations) -> dict[str, list[str]]:
    """Per-state figures of the diagnostics as columns of text."""
    columns = {"sigma": "σ of the noise", "rms": "rms residual", "rms_over_sigma": "rms / σ"}
    found = {}
    for key, label in columns.items():
        values = equations.diagnostics.get(key)
        if isinstance(values, dict):
            values = [values.get(name) for name in equations.names]
        if isinstance(values, list | tuple) and len(values) == len(equations.names):
            found[label] = [_three_digits(v) for v in values]
    chance = equations.diagnostics.get("residual_chance")
    if isinstance(chance, dict) and all(name in chance for name in equations.names):
        found["Memory"] = [_memory(chance[name]) for name in equations.names]
    return found


def _memory(chance: float) -> str:
    """Whether residuals follow each other, by the probability that white ones would as much."""
    return "none" if chance > 0.01 else f"p = {chance:.0e}".replace("-", MINUS)


def _three_digits(value: float | None) -> str:
    """Three digits, zeros at the end included, as columns of figures have them."""
    if value is None or not np.isfinite(value):
        return "n/a"
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e5 else number(value, 3)


def caption(name: str, study: Study) -> str:
    """The sentence below a picture."""
    if name == "data_and_model.png":
        text = "Observations (dots) and the simulation of the equations from a fitted start (line)."
        if any(c.half_width is not None for c in study.comparisons):
            text += (
                " The band is the 95 % interval of the model, from the errors of coefficients and "
                "start; observations scatter around it with the noise."
            )
        return text
    if name == "phase_portrait.png":
        if not study.autonomous and len(study.equations.names) <= 2:
            return _DRIVEN
        return _PORTRAIT[min(len(study.equations.names), 5)]
    kind = noise_kind(study.equations)
    unit = {"additive": "the data's own units", "multiplicative": "shares of the model"}
    scale = unit.get(kind, "logarithms")
    return (
        f"What the model leaves, taken in {scale} and divided by its standard deviation σ; the "
        "grey strip holds 95 % of normal noise, and the broken lines 95 % of the noise that the "
        "smoother sees. Middle: on the line if the noise is normal. Right: correlation of a "
        "residual with those of the rows before; outside of the strip they have a memory, and "
        "the equations leave something out."
    )


_DRIVEN = (
    "The trajectory alone: what happens next depends on more than the states, so arrows and rest "
    "points would be right for one moment only."
)
_PORTRAIT = {
    1: "The rate of change against the state. Filled rest points attract, open ones repel.",
    2: (
        "The plane of both states. Arrows show where the system goes, darker where faster; on the "
        "broken lines one of the states stands still."
    ),
    3: "The states in pairs, and all three together.",
    4: "The states in pairs.",
    5: "The first four states in pairs.",
}


def facts(study: Study) -> Iterator[tuple[str, str]]:
    """Names and values, the latter as HTML, of everything that describes the computation."""
    if study.command:
        yield "Command", f"<code>{escape(study.command)}</code>"
    for key, value in study.equations.diagnostics.items():
        if key not in _ELSEWHERE:
            yield _LABELS.get(key, key.replace("_", " ").capitalize()), escape(_shown(value))
    if study.seed is not None:
        yield "Seed", str(study.seed)
    if study.seconds is not None:
        yield "Time", f"{study.seconds:.1f} s"
    versions = [f"{package} {version_of(package)}" for package in PACKAGES]
    yield "Versions", escape(", ".join([f"Python {platform.python_version()}", *versions]))


_ELSEWHERE = frozenset(
    {
        "sigma",
        "rms",
        "rms_over_sigma",
        "weight",
        "residual_chance",
        "fits",
        "range",
        "denominators",
        "inclusion",
        "undecided",
        "lookalikes",
        "omitted",
        "holdout",
    }
)
_LABELS = {
    "noise": "Noise model",
    "noise_evidence": "Log evidence of noise models",
    "residual_memory": "Memory of residuals (z)",
    "ladder": "Libraries tried",
    "points": "Rows",
    "values": "Observed values",
    "ebic": "EBIC",
    "condition": "Condition number",
    "structures": "Structures compared",
    "substeps": "Substeps per interval",
}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        if value.keys() >= {"library", "ebic", "terms"}:
            return f"{value['library']} (EBIC {number(value['ebic'])}, {value['terms']} terms)"
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_shown(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)


def references(equations: Equations) -> list[str]:
    """The works behind what was done, as far as the diagnostics tell what that was."""
    known = equations.diagnostics
    used = {
        "sparse": "library" in known,
        "process": "gauss" in str(known.get("smoother", "")).lower(),
        "shooting": "substeps" in known,
        "criterion": "ebic" in known,
        "errors": equations.covariance is not None,
        "solver": True,
    }
    return [_WORKS[key] for key, holds in used.items() if holds]


_WORKS = {
    "sparse": (
        "Equations as sparse sums of library terms: S. L. Brunton, J. L. Proctor, J. N. Kutz, "
        "Discovering governing equations from data by sparse identification of nonlinear dynamical "
        "systems, PNAS 113(15), 2016, doi:10.1073/pnas.1517384113."
    ),
    "process": (
        "Smoothing: C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, "
        "MIT Press 2006."
    ),
    "shooting": (
        "Fitting whole trajectories: H. G. Bock, K. J. Plitt, A multiple shooting algorithm for "
        "direct solution of optimal control problems, IFAC Proceedings 17(2), 1984, "
        "doi:10.1016/S1474-6670(17)61205-9."
    ),
    "criterion": (
        "Choice of structure (EBIC): J. Chen, Z. Chen, Extended Bayesian information criteria for "
        "model selection with large model spaces, Biometrika 95(3), 2008, "
        "doi:10.1093/biomet/asn034."
    ),
    "errors": (
        "Standard errors and the band of the model: G. A. F. Seber, C. J. Wild, Nonlinear "
        "Regression, Wiley 1989, doi:10.1002/0471725315."
    ),
    "solver": (
        "Simulation (tsit5): Ch. Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the "
        "first column simplifying assumption, Computers and Mathematics with Applications 62(2), "
        "2011, doi:10.1016/j.camwa.2011.06.002."
    ),
}
