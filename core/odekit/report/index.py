"""``index.html``: many systems at a glance, one line each, with links to their reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from odekit.report.method import escape, version_of
from odekit.report.notation import MINUS, rich_text
from odekit.report.stylesheet import STYLESHEET

LAYOUT = """
main { max-width: 1120px; }
.batch td { vertical-align: top; white-space: normal; overflow-wrap: anywhere; }
.batch td.number { white-space: nowrap; }
.batch td:first-child { width: 24%; font-weight: 600; }
.batch .equations { width: 42%; }
.batch .verdict-cell { width: 22%; }
.batch .label { display: none; }
a { color: var(--blue); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.mark { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 7px; }
.mark.good { background: var(--good-edge); }
.mark.doubtful { background: var(--doubt-edge); }
.mark.failed { background: #b3261e; }
.mark.open { background: var(--line); }
@media (max-width: 640px) {
  .batch thead { display: none; }
  .batch tr { display: block; padding: 12px 0; border-bottom: 1px solid var(--line); }
  .batch td, .batch td:first-child, .batch .equations, .batch .verdict-cell { display: block;
    width: auto; padding: 2px 0; border: 0; }
  .batch td.number { display: inline-block; width: auto; margin-right: 20px; }
  .batch td.empty { display: none; }
  .batch td:first-child { font-size: 16px; }
  .batch .equations { font-size: 15px; }
  .batch .label { display: inline; color: var(--soft); }
}
"""


@dataclass(frozen=True)
class Line:
    """One system.

    Attributes:
        label: a short name.
        file: its file.
        link: path of its report, relative to the page; empty if it has none.
        equations: one text per equation; none if nothing was found.
        verdict: how it ended, in words.
        settled: whether the data settle the structure.
        r2: of the simulation.
        seconds: of the search.
    """

    label: str
    file: str
    link: str
    equations: Sequence[str]
    verdict: str
    settled: bool
    r2: float | None
    seconds: float | None

    @property
    def mark(self) -> str:
        """The class of the dot before the verdict."""
        if self.link:
            return "good" if self.settled else "doubtful"
        return "failed" if self.verdict.startswith("failed") else "open"


def index_page(lines: Sequence[Line], seconds: float, command: str) -> str:
    """The whole page.

    Args:
        lines: the systems, in the order of the page.
        seconds: how long everything took.
        command: what to type to get the same again.
    """
    body = "".join(_row(line) for line in lines)
    head = "".join(
        f"<th{' class=number' if name in ('R²', 'Seconds') else ''}>{name}</th>"
        for name in ("File", "Equations", "Verdict", "R²", "Seconds")
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="odekit {version_of("odekit")}">
<title>Equations of {_count(len(lines))}</title>
<style>{STYLESHEET}{LAYOUT}</style>
</head>
<body>
<main>
<header>
<p class="kicker">Equation discovery</p>
<h1>Equations of {_count(len(lines))}</h1>
<p class="summary">{escape(_overview(lines, seconds))}</p>
</header>
<section class="batch"><div class="wide"><table><thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody></table></div>
<p class="note">Settled means that the data decide on the structure; a report says what makes it
doubtful where they do not. R² is of the simulation over the whole span from one fitted start.
The same rows for programs: <a href="summary.csv">summary.csv</a>,
<a href="summary.json">summary.json</a>.</p></section>
<section><h2>How this was computed</h2>
<details><summary>Command</summary><pre>{escape(command)}</pre></details></section>
<footer>Made with odekit {version_of("odekit")}.</footer>
</main>
</body>
</html>
"""


def _count(number: int) -> str:
    return "1 system" if number == 1 else f"{number} systems"


def _overview(lines: Sequence[Line], seconds: float) -> str:
    """How many ended how, in one sentence."""
    marks = [line.mark for line in lines]
    words = {
        "good": "settled",
        "doubtful": "not settled by the data",
        "failed": "failed",
        "open": "not done",
    }
    parts = [f"{marks.count(m)} {text}" for m, text in words.items() if marks.count(m)]
    return f"Every file is a system of its own: {', '.join(parts)}; {seconds:.1f} s in all."


def _row(line: Line) -> str:
    label = escape(line.label)
    if line.link:
        label = f'<a href="{quote(line.link)}">{label}</a>'
    equations = "<br>".join(rich_text(text) for text in line.equations)
    dot = f'<span class="mark {line.mark}"></span>'
    r2 = "" if line.r2 is None else f"{line.r2:.3f}".replace("-", MINUS)
    seconds = "" if line.seconds is None else f"{line.seconds:.1f}"
    return (
        f'<tr><td title="{escape(line.file)}">{label}</td>'
        f'<td class="equations{"" if equations else " empty"}">{equations}</td>'
        f'<td class="verdict-cell">{dot}{escape(line.verdict)}</td>'
        f"{_figure('R²', r2)}{_figure('Seconds', seconds)}</tr>\n"
    )


def _figure(name: str, text: str) -> str:
    return (
        f'<td class="number{"" if text else " empty"}"><span class="label">{name} </span>'
        f"{text}</td>"
    )
