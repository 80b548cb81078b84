"""``report.html``: one page that opens offline, prints well, and holds everything it shows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odekit.report import given, method, models, scope
from odekit.report.method import escape
from odekit.report.notation import (
    MINUS,
    interval,
    mathml,
    name_mathml,
    number,
    rich_text,
    term_mathml,
    with_error,
)
from odekit.report.stylesheet import STYLESHEET

if TYPE_CHECKING:
    from odekit.equations import Equations
    from odekit.report.study import Study

MOST_ALTERNATIVES = 8
NO_BREAK = "\N{NO-BREAK SPACE}"
FIGURES = (
    ("data_and_model.png", "Data and model"),
    ("phase_portrait.png", "Phase portrait"),
    ("residuals.png", "Residuals"),
)


def page(study: Study, folder: Path) -> str:
    """The whole page; pictures are read from ``folder`` and put into it."""
    alternatives = _alternatives(study.equations)
    # What the data leave open is the result; what they rule out is an appendix.
    open_question = models.undecided(study.equations)
    formula = f'<div class="formula">{mathml(study.equations, study.time)}</div>'
    sections = [
        _verdict(study),
        _section("Equations", formula + _where(study.equations)),
        _section("Coefficients", _coefficients(study.equations)),
        _section("Model set", alternatives) if open_question else "",
        _section("Fit", _fit(study)),
        *(_section(title, _figure(study, folder / name)) for name, title in FIGURES),
        "" if open_question else _section("Alternatives", alternatives),
        _section("Data", _data(study)),
        _section("How this was computed", _method(study)),
        _section("To copy", _sources(study.equations)),
    ]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="odekit {method.version_of("odekit")}">
<title>{escape(study.title)}</title>
<style>{STYLESHEET}</style>
</head>
<body>
<main>
<header>
<p class="kicker">Equation discovery</p>
<h1>{escape(study.title)}</h1>
<p class="summary">{escape(method.data_sentence(study))}</p>
</header>
{"".join(sections)}
<footer>Made with odekit {method.version_of("odekit")}.</footer>
</main>
</body>
</html>
"""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n" if body else ""


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Sequence[int] = (),
    *,
    stacked: bool = False,
) -> str:
    """A table of cells that are HTML already; columns ``numeric`` are set flush right.

    On narrow screens the cells of a ``stacked`` table stand below one another, each after the
    name of its column.
    """

    def row(cells: Sequence[str], tag: str) -> str:
        made = [
            f"<{tag}{' class=number' if i in numeric else ''}{_name(i, tag)}>{_inside(cell, tag)}"
            f"</{tag}>"
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(made)}</tr>"

    def _name(i: int, tag: str) -> str:
        return f' data-name="{escape(head[i])}"' if stacked and tag == "td" else ""

    def _inside(cell: str, tag: str) -> str:
        return f"<span>{cell}</span>" if stacked and tag == "td" else cell

    body = "".join(row(cells, "td") for cells in rows)
    kind = "wide stacked" if stacked else "wide"
    return (
        f'<div class="{kind}"><table><thead>{row(head, "th")}</thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _verdict(study: Study) -> str:
    equations = study.equations
    tone = "good" if equations.confident else "doubtful"
    head = method.headline(equations)
    listed = "".join(f"<li>{method.prose(reason)}</li>" for reason in method.doubts(study))
    return (
        f'<div class="verdict {tone}"><p class="head">{head}</p>'
        f"<p>{escape(method.verdict_sentence(study))}</p>"
        + (f"<ul>{listed}</ul>" if listed else "")
        + "</div>\n"
    )


def _where(equations: Equations) -> str:
    sentence = scope.range_sentence(equations)
    return f'<p class="note">{escape(sentence)}</p>' if sentence else ""


def _coefficients(equations: Equations) -> str:
    variables = (*equations.names, equations.time, *equations.inputs)
    frame = equations.coefficients
    known = bool(frame["inclusion"].notna().any())
    head = ["Equation", "Term", "Coefficient", "95 % interval"]
    rows = []
    told, measures = given.given(equations), given.units(equations)
    free = equations.degrees_of_freedom
    for i, row in enumerate(frame.itertuples()):
        cells = [
            f"<math><mrow>{name_mathml(row.equation)}<mo>′</mo></mrow></math>",
            term_mathml(row.term, variables),
            with_error(row.value, row.stderr).replace(" ", NO_BREAK),
            "given"
            if (row.equation, row.term) in told
            else interval(row.value, row.stderr, free).replace(" to ", f" to{NO_BREAK}"),
        ]
        if measures is not None:
            cells.insert(3, escape(measures[i]))
        if known:
            cells.append("" if np.isnan(row.inclusion) else f"{100 * row.inclusion:.0f} %")
        rows.append(cells)
    below = given.denominators(equations)
    for each in below:
        cells = [
            f"<math><mrow>{name_mathml(each.equation)}<mo>′</mo></mrow></math>",
            f"{term_mathml(each.term, variables)} in the denominator",
            with_error(each.value, each.stderr).replace(" ", NO_BREAK),
            interval(each.value, each.stderr, free).replace(" to ", f" to{NO_BREAK}"),
        ]
        if measures is not None:
            cells.insert(3, "")
        rows.append([*cells, ""] if known else cells)
    note = "Coefficient ± standard error, in the units of the data."
    if free is not None:
        note += f" Intervals by Student's t, {number(free, 3)} degrees of freedom."
    if below:
        note += " The constant of every denominator is one."
    if measures is not None:
        head.insert(3, "Unit")
    if known:
        head.append("In models")
        note += (
            " The last column is the weight of the models within reach that contain the term: "
            "100 % means that none does without it."
            if models.fits(equations)
            else f" The last column is a {models.share_name(equations)}."
        )
    numeric = (2, 3, 4) if measures is None else (2, 4, 5)
    text = _table(head, rows, numeric=numeric, stacked=True)
    return f'{text}<p class="note">{note}</p>'


def _fit(study: Study) -> str:
    equations = study.equations
    noise = method.noise_rows(equations)
    several = len(study.comparisons) > 1
    columns = [] if several else list(noise)
    how, predicted = scope.held_out(equations)
    more = ["Held-out R²"] if predicted else []
    head = [*(["Trajectory"] if several else []), "State", "Points", "Missing", "R²", *more]
    head += columns
    rows = []
    for i, comparison in enumerate(study.comparisons):
        for j, name in enumerate(equations.names):
            seen = np.isfinite(comparison.y[:, j])
            rows.append(
                [
                    *([escape(comparison.label)] if several else []),
                    f"<math>{name_mathml(name)}</math>",
                    str(int(seen.sum())),
                    str(int((~seen).sum())),
                    _r2(comparison.r2[j]),
                    *[_r2(predicted.get(i, {}).get(name, float("nan"))) for _ in more],
                    *[noise[column][j] for column in columns],
                ]
            )
    text = _table(head, rows, numeric=range(1 + several, len(head)), stacked=True)
    if noise and several:
        per_state = [
            [f"<math>{name_mathml(name)}</math>", *[column[j] for column in noise.values()]]
            for j, name in enumerate(equations.names)
        ]
        numeric = range(1, len(noise) + 1)
        text += _table(["State", *noise], per_state, numeric=numeric, stacked=True)
    note = "R² is of the simulation over the whole span from one fitted start."
    if "rms / σ" in noise:
        note += " Where rms / σ is near 1, the model fits as closely as the noise allows."
    if predicted:
        note += f" {scope.held_out_sentence(how)}"
    return f'{text}<p class="note">{note}</p>'


def _r2(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.3f}".replace("-", MINUS)


def _figure(study: Study, path: Path) -> str:
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = method.caption(path.name, study)
    return (
        f'<figure class="{path.stem}"><img alt="{escape(caption)}" '
        f'src="data:image/png;base64,{text}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _alternatives(equations: Equations) -> str:
    if not equations.alternatives:
        return '<p class="note">No other structure came within reach.</p>'
    shown = models.rows(equations, MOST_ALTERNATIVES)
    rows = [
        [
            f"<b>{models.percent(row.share)}</b>" if row is shown[0] else models.percent(row.share),
            "n/a" if row.distance is None else number(row.distance, 3),
            method.prose(row.difference) or "(above)",
            _plain_text(row.equations),
        ]
        for row in shown
        if row.share is not None
    ]
    kind = "Weight" if models.fits(equations) else "Share"
    head = [kind, "Distance", "What differs", "Equations"]
    text = _table(head, rows, numeric=(0, 1), stacked=True)
    note = models.note(equations, len(shown) - 1)
    return (
        f'<div class="alternatives">{text}</div><p class="note">{note}</p>'
        f"{_further_terms(equations)}"
    )


def _further_terms(equations: Equations) -> str:
    """Terms that the answer lacks and others have."""
    variables = (*equations.names, equations.time, *equations.inputs)
    found = models.further_terms(equations)
    if not found:
        return ""
    items = "".join(
        f"<li>{term_mathml(term, variables)} in <math><mrow>{name_mathml(state)}<mo>′</mo></mrow>"
        f"</math>: {escape(f'{100 * share:.0f} %')}</li>"
        for state, term, share in found
    )
    kind = "Weight" if models.fits(equations) else "Share"
    return (
        f'<p class="note">{kind} of the structures that have terms which the equations above '
        f'lack:</p><ul class="terms">{items}</ul>'
    )


def _plain_text(equations: Equations) -> str:
    return "<br>".join(rich_text(line) for line in str(equations).splitlines())


def _data(study: Study) -> str:
    rows = []
    for series, label in zip(study.series, study.labels, strict=True):
        columns = [(n, series.y[:, j]) for j, n in enumerate(series.names)]
        if series.u is not None:
            columns += [(n, series.u[:, j]) for j, n in enumerate(series.input_names)]
        for name, column in columns:
            values = column.double().numpy()
            rows.append(
                [
                    escape(label),
                    f"<math>{name_mathml(name)}</math>",
                    number(float(np.nanmin(values))),
                    number(float(np.nanmean(values))),
                    number(float(np.nanmax(values))),
                    number(float(np.nanstd(values))),
                ]
            )
    head = ["Trajectory", "Column", "Smallest", "Mean", "Largest", "Std. dev."]
    return _table(head, rows, numeric=(2, 3, 4, 5), stacked=True)


def _method(study: Study) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in method.facts(study)
    )
    works = "".join(f"<li>{escape(work)}</li>" for work in method.references(study.equations))
    listed = f"<h3>References</h3><ul class=works>{works}</ul>" if works else ""
    return f"<dl>{facts}</dl>{listed}"


def _sources(equations: Equations) -> str:
    texts: list[tuple[str, Any]] = [
        ("Python", equations.code("python")),
        ("LaTeX", equations.latex()),
    ]
    return "".join(
        f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>"
        for name, text in texts
    )
