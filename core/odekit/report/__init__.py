"""Pictures and pages of results: what a person reads, as opposed to what a program loads.

`Study` is what was found and in what; `write_study` writes the folder of ``odekit discover``,
`write_solution` that of ``odekit solve``.
"""

from __future__ import annotations

from odekit.report.files import arrays_of, write_solution, write_study
from odekit.report.study import Study

__all__ = ["Study", "arrays_of", "write_solution", "write_study"]
