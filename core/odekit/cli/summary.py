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
    _print_alternatives(screen, study.equations)
    _print_verdict(screen, study)


def _print_coefficients(screen: Any, equations: Equations) -> None:
    from odekit.report.notation import interval, round_with, superscript

    numeric = ("coefficient", "std. error", "low", "high", "in models")
    frame = equations.coefficients
    known = bool(frame["inclusion"].notna().any())
    columns = ["equation", "term", *numeric[:2], "95 % interval"] + ["in models"] * known
    listing = table(*columns, numeric=(*numeric, "95 % interval"))
    for row in frame.itertuples():
        value, error, exponent = round_with(row.value, row.stderr)
        power = f" × 10{superscript(exponent)}" if exponent else ""
        cells = [f"{row.equation}'", row.term, value + power, error + power if error else "n/a"]
        cells.append(interval(row.value, row.stderr))
        if known:
            cells.append("" if row.inclusion != row.inclusion else f"{100 * row.inclusion:.0f} %")
        listing.add_row(*cells)
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


def _print_alternatives(screen: Any, equations: Equations) -> None:
    from odekit.report.method import own_weight
    from odekit.report.notation import number

    if not equations.alternatives:
        return
    own = own_weight(equations)
    share = "" if own is None else f" (these equations: {100 * own:.0f} %)"
    screen.print()
    screen.print(f"Other structures within reach{share}:", markup=False)
    for each in equations.alternatives[:MOST_ALTERNATIVES]:
        lines = "; ".join(str(each.equations).splitlines())
        screen.print(f"  {number(100 * each.weight, 2):>5} %  {lines}", markup=False)
    more = len(equations.alternatives) - MOST_ALTERNATIVES
    if more > 0:
        screen.print(f"  and {more} more in equations.json")


def _print_verdict(screen: Any, study: Study) -> None:
    from odekit.report.method import doubts

    screen.print()
    if study.equations.confident:
        screen.print("Verdict: the data settle the structure.", style="bold green")
    else:
        screen.print("Verdict: the data do not settle the structure.", style="bold yellow")
    for reason in doubts(study):
        screen.print(f"  - {as_options(reason)}", markup=False)
    screen.print()


def summary_json(study: Study, written: Sequence[Path]) -> dict[str, Any]:
    """Everything that `print_summary` says, for programs."""
    equations = study.equations
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
                "weight": each.weight,
                "score": each.score,
            }
            for each in equations.alternatives
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
