"""What ``odekit discover`` prints: the equations first, then how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odekit.cli.options import as_options
from odekit.cli.output import console, table

if TYPE_CHECKING:
    from odekit.equations import Equations
    from odekit.report import Study

MOST_ALTERNATIVES = 5


def print_summary(study: Study) -> None:
    """Equations, coefficients, fit, alternatives and verdict on the standard output."""
    from odekit.report.method import data_sentence

    screen = console()
    screen.print(data_sentence(study), markup=False)
    screen.print()
    for line in str(study.equations).splitlines():
        screen.print(f"  {line}", style="bold", markup=False)
    screen.print()
    _print_coefficients(screen, study.equations)
    _print_fit(screen, study)
    _print_scope(screen, study)
    _print_models(screen, study.equations)
    _print_verdict(screen, study)


def _print_coefficients(screen: Any, equations: Equations) -> None:
    from odekit.report.given import denominators, given, units
    from odekit.report.notation import interval, round_with, superscript

    numeric = ("coefficient", "std. error", "low", "high", "in models")
    frame = equations.coefficients
    known = bool(frame["inclusion"].notna().any())
    told, measures = given(equations), units(equations)
    free = equations.degrees_of_freedom
    columns = ["equation", "term", *numeric[:2], "95 % interval"] + ["in models"] * known
    if measures is not None:
        columns.insert(4, "unit")
    listing = table(*columns, numeric=(*numeric, "95 % interval"))
    for i, row in enumerate(frame.itertuples()):
        value, error, exponent = round_with(row.value, row.stderr)
        power = f" × 10{superscript(exponent)}" if exponent else ""
        cells = [f"{row.equation}'", row.term, value + power, error + power if error else "n/a"]
        if measures is not None:
            cells.append(measures[i])
        is_given = (row.equation, row.term) in told
        cells.append("given" if is_given else interval(row.value, row.stderr, free))
        if known:
            cells.append("" if row.inclusion != row.inclusion else f"{100 * row.inclusion:.0f} %")
        listing.add_row(*cells)
    for each in denominators(equations):
        value, error, exponent = round_with(each.value, each.stderr)
        power = f" × 10{superscript(exponent)}" if exponent else ""
        cells = [f"{each.equation}'", f"{each.term} in the denominator", value + power]
        cells += [error + power if error else "n/a"]
        cells += [""] * (measures is not None)
        listing.add_row(*cells, interval(each.value, each.stderr, free), *[""] * known)
    screen.print(listing)


def _print_fit(screen: Any, study: Study) -> None:
    from odekit.report.comparison import noise_kind
    from odekit.report.method import noise_rows

    names, noise = study.equations.names, noise_rows(study.equations)
    fits = [
        (f"R² {c.label}", ["n/a" if v != v else f"{v:.3f}" for v in c.r2])
        for c in study.comparisons[:6]
    ]
    if len(fits) == 1:
        fits = [("R²", fits[0][1])]
    columns = [*fits, *noise.items()]
    listing = table("state", *[name for name, _ in columns], numeric=tuple(c[0] for c in columns))
    for j, name in enumerate(names):
        listing.add_row(name, *[values[j] for _, values in columns])
    screen.print(listing)
    screen.print(f"Noise model: {noise_kind(study.equations)}", markup=False)


def _print_scope(screen: Any, study: Study) -> None:
    """Where the equations were seen to hold, and how they predict."""
    from odekit.report import scope

    sentence = scope.range_sentence(study.equations)
    if sentence:
        screen.print(sentence, markup=False)
    how, predicted = scope.held_out(study.equations)
    if predicted:
        worst = scope.worst(predicted, study.labels)
        screen.print(f"Worst held-out R²: {worst}. {scope.held_out_sentence(how)}", markup=False)


def _print_models(screen: Any, equations: Equations) -> None:
    """The model set: shares, what differs, and terms of other structures."""
    from odekit.report import models
    from odekit.report.notation import number

    if not equations.alternatives:
        return
    rows = models.rows(equations, MOST_ALTERNATIVES)
    screen.print()
    title = "Models that the data leave open" if models.undecided(equations) else "Alternatives"
    screen.print(f"{title} ({models.share_name(equations)}):", markup=False)
    for row in rows:
        share = "n/a" if row.share is None else number(100 * row.share, 2)
        words = row.difference or "the equations above"
        screen.print(f"  {share:>5} %  {words}", markup=False)
    more = len(equations.alternatives) - (len(rows) - 1)
    if more > 0:
        screen.print(f"  and {more} more in equations.json")
    further = [
        f"{term} in {state}' {100 * share:.0f} %"
        for state, term, share in models.further_terms(equations)
    ]
    if further:
        screen.print(f"Terms of other models: {', '.join(further)}", markup=False)


def _print_verdict(screen: Any, study: Study) -> None:
    from odekit.report.method import doubts, headline

    screen.print()
    style = "bold green" if study.equations.confident else "bold yellow"
    text = headline(study.equations)
    screen.print(f"Verdict: {text[0].lower()}{text[1:]}", style=style, markup=False)
    for reason in doubts(study):
        screen.print(f"  - {as_options(reason)}", markup=False)
    screen.print()


def summary_json(study: Study, written: Sequence[Path]) -> dict[str, Any]:
    """Everything that `print_summary` says, for programs."""
    from odekit.report import models

    equations = study.equations
    differences = models.as_dicts(equations)
    return {
        "equations": right_hand_sides(equations),
        "text": str(equations),
        "latex": equations.latex(),
        "coefficients": equations.coefficients.to_dict(orient="records"),
        "confident": equations.confident,
        "warnings": equations.warnings,
        "notes": list(study.notes),
        "score": equations.score,
        "r2": {
            c.label: dict(zip(equations.names, c.r2.tolist(), strict=True))
            for c in study.comparisons
        },
        "alternatives": [
            {
                "equations": right_hand_sides(each.equations),
                **more,
            }
            for each, more in zip(equations.alternatives, differences, strict=True)
        ],
        "diagnostics": equations.diagnostics,
        "seconds": study.seconds,
        "command": study.command,
        "files": [str(path) for path in written],
    }


def right_hand_sides(equations: Equations) -> dict[str, str]:
    """From each state to its derivative in sympy's syntax, numbers to the last digit."""
    return {
        name: " + ".join(
            f"{term.value!r}*({term.term})" for term in equations.terms if term.equation == name
        )
        or "0"
        for name in equations.names
    }
