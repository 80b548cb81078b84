"""``equations.tex``: a document that compiles as it is, equations and coefficients with errors."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from odekit.report.notation import MINUS, round_with

if TYPE_CHECKING:
    from odekit.report.study import Study

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "#$%&_"},
}


def document(study: Study) -> str:
    """A LaTeX document; the ``aligned`` block in it can be copied into another one."""
    equations = study.equations
    rows = "\n".join(_row(*term[:4]) for term in equations.terms)
    verdict = "settle" if equations.confident else "do not settle"
    return rf"""% Compiles as it is (pdflatex, xelatex or lualatex).
\documentclass{{article}}
\usepackage{{amsmath,booktabs}}
\title{{{escape(study.title)}}}
\author{{odekit {escape(version("odekit"))}}}
\date{{}}
\begin{{document}}
\maketitle
\begin{{equation*}}
{equations.latex()}
\end{{equation*}}

The data {verdict} the structure of these equations.

\begin{{center}}
\begin{{tabular}}{{llrr}}
\toprule
equation & term & coefficient & standard error \\
\midrule
{rows}
\bottomrule
\end{{tabular}}
\end{{center}}
\end{{document}}
"""


def _row(equation: str, term: str, value: float, stderr: float | None) -> str:
    text, error, exponent = round_with(value, stderr)
    power = rf" \times 10^{{{exponent}}}" if exponent else ""
    known = f"${error}{power}$" if error else "--"
    name = rf"\texttt{{{escape(equation)}'}}"
    product = rf"\texttt{{{escape(term)}}}"
    return rf"{name} & {product} & ${text.replace(MINUS, '-')}{power}$ & {known} \\"


def escape(text: str) -> str:
    """Text with the characters that LaTeX reads as commands made harmless."""
    return "".join(_SPECIAL.get(mark, mark) for mark in text)
