"""What the diagnostics say about coefficients: given ones, those in denominators, units."""

from __future__ import annotations

from odekit.equations import Equations, Term


def given(equations: Equations) -> set[tuple[str, str]]:
    """State and term of every coefficient whose value was not found but given."""
    return {
        (entry["equation"], entry["term"]) for entry in equations.diagnostics.get("given") or ()
    }


def denominators(equations: Equations) -> list[Term]:
    """Coefficients in denominators, which the terms have as part of their formulas."""
    return [
        Term(entry["equation"], entry["term"], entry["value"], entry.get("stderr"))
        for entry in equations.diagnostics.get("denominators") or ()
    ]


def units(equations: Equations) -> list[str] | None:
    """Unit of every coefficient in order, empty where unknown; None if no units were given."""
    table = equations.diagnostics.get("units")
    listed = table.get("coefficients") if isinstance(table, dict) else None
    if listed is None or len(listed) != len(equations.terms) or not any(listed):
        return None
    return [unit or "" for unit in listed]
