"""``report.html``: one page that opens offline, prints well, and holds everything it shows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odekit.report import method
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
    sections = [
        _verdict(study),
        _section("Equations", f'<div class="formula">{mathml(study.equations, study.time)}</div>'),
        _section("Coefficients", _coefficients(study.equations)),
        _section("Fit", _fit(study)),
        *(_section(title, _figure(study, folder / name)) for name, title in FIGURES),
        _section("Alternatives", _alternatives(study.equations)),
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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; columns ``numeric`` are set flush right."""

    def row(cells: Sequence[str], tag: str) -> str:
        made = [
            f"<{tag}{' class=number' if i in numeric else ''}>{cell}</{tag}>"
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return (
        f'<div class="wide"><table><thead>{row(head, "th")}</thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _verdict(study: Study) -> str:
    equations = study.equations
    tone = "good" if equations.confident else "doubtful"
    head = (
        "The data settle the structure of these equations."
        if equations.confident
        else "The data do not settle the structure of these equations."
    )
    listed = "".join(f"<li>{escape(reason)}</li>" for reason in method.doubts(study))
    return (
        f'<div class="verdict {tone}"><p class="head">{head}</p>'
        f"<p>{escape(method.verdict_sentence(study))}</p>"
        + (f"<ul>{listed}</ul>" if listed else "")
        + "</div>\n"
    )


def _coefficients(equations: Equations) -> str:
    variables = (*equations.names, equations.time, *equations.inputs)
    frame = equations.coefficients
    known = bool(frame["inclusion"].notna().any())
    head = ["Equation", "Term", "Coefficient", "95 % interval"]
    rows = []
    for row in frame.itertuples():
        cells = [
            f"<math><mrow>{name_mathml(row.equation)}<mo>′</mo></mrow></math>",
            term_mathml(row.term, variables),
            with_error(row.value, row.stderr).replace(" ", NO_BREAK),
            interval(row.value, row.stderr).replace(" to ", f" to{NO_BREAK}"),
        ]
        if known:
            cells.append("" if np.isnan(row.inclusion) else f"{100 * row.inclusion:.0f} %")
        rows.append(cells)
    note = "Coefficient ± standard error, in the units of the data."
    if known:
        head.append("In models")
        note += (
            " The last column is the weight of the models within reach that contain the term: "
            "100 % means that none does without it."
        )
    return _table(head, rows, numeric=(2, 3, 4)) + f'<p class="note">{note}</p>'


def _fit(study: Study) -> str:
    equations = study.equations
    noise = method.noise_rows(equations)
    several = len(study.comparisons) > 1
    columns = [] if several else list(noise)
    head = [*(["Trajectory"] if several else []), "State", "Points", "Missing", "R²", *columns]
    rows = []
    for comparison in study.comparisons:
        for j, name in enumerate(equations.names):
            seen = np.isfinite(comparison.y[:, j])
            rows.append(
                [
                    *([escape(comparison.label)] if several else []),
                    f"<math>{name_mathml(name)}</math>",
                    str(int(seen.sum())),
                    str(int((~seen).sum())),
                    _r2(comparison.r2[j]),
                    *[noise[column][j] for column in columns],
                ]
            )
    text = _table(head, rows, numeric=range(1 + several, len(head)))
    if noise and several:
        per_state = [
            [f"<math>{name_mathml(name)}</math>", *[column[j] for column in noise.values()]]
            for j, name in enumerate(equations.names)
        ]
        text += _table(["State", *noise], per_state, numeric=range(1, len(noise) + 1))
    note = "R² is of the simulation over the whole span from one fitted start."
    if "rms / σ" in noise:
        note += " Where rms / σ is near 1, the model fits as closely as the noise allows."
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
    own, best = method.own_weight(equations), method.criterion(equations)
    rows = [
        [
            f"{100 * each.weight:.1f} %",
            number(each.score - best if best is not None else each.score, 3),
            _plain_text(each.equations),
        ]
        for each in equations.alternatives[:MOST_ALTERNATIVES]
    ]
    if own is not None:
        rows.insert(0, [f"<b>{100 * own:.1f} %</b>", "0", f"{_plain_text(equations)} (above)"])
    more = len(equations.alternatives) - MOST_ALTERNATIVES
    note = (
        "Weight among all structures within reach, and how far the criterion, of which less is "
        "better, lies above that of the equations chosen."
    )
    if more > 0:
        note += f" {more} more in equations.json."
    return (
        '<div class="alternatives">'
        + _table(["Weight", "Distance", "Equations"], rows, numeric=(0, 1))
        + f'</div><p class="note">{note}</p>'
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
    return _table(head, rows, numeric=(2, 3, 4, 5))


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
