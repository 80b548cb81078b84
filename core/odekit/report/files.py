"""The files that commands leave behind: pages, equations, tables of numbers, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odekit.report.comparison import noise_kind, noise_levels
from odekit.report.latex import document
from odekit.report.page import page
from odekit.report.phase import Orbit, Slope, draw_phase_portrait
from odekit.report.study import Study
from odekit.report.trajectories import draw_data_and_model, draw_residuals, draw_time_series


def write_study(study: Study, folder: Path) -> None:
    """Write ``equations.json``, ``equations.tex``, three pictures and ``report.html``.

    Args:
        study: what was found.
        folder: an existing folder.
    """
    equations, comparisons = study.equations, study.comparisons
    names, time = equations.names, study.time
    equations.save(folder / "equations.json")
    (folder / "equations.tex").write_text(document(study), encoding="utf-8")
    draw_data_and_model(folder / "data_and_model.png", names, time, comparisons)
    orbits = [Orbit(c.label, c.model, c.y, c.t, c.times) for c in comparisons]
    zero = torch.tensor(0.0, dtype=torch.float64)
    slope = arrays_of(equations.field(), zero) if study.autonomous else None
    draw_phase_portrait(folder / "phase_portrait.png", names, orbits, slope)
    kind, noise = noise_kind(equations), noise_levels(equations)
    draw_residuals(folder / "residuals.png", names, time, comparisons, kind, noise)
    (folder / "report.html").write_text(page(study, folder), encoding="utf-8")


def write_solution(
    folder: Path,
    names: Sequence[str],
    time: str,
    rows: tuple[Any, Any],
    curve: tuple[Any, Any],
    slope: Slope | None,
) -> None:
    """Write ``solution.csv``, ``time_series.png`` and ``phase_portrait.png``.

    Args:
        folder: an existing folder.
        names: the states.
        time: name of time.
        rows: times ``(n,)`` and states ``(n, d)`` of the table.
        curve: times ``(m,)`` and states ``(m, d)``, fine enough to draw.
        slope: the field on arrays, None when it depends on more than the states.
    """
    import pandas as pd

    t, y = rows
    table = pd.DataFrame({time: t, **{name: y[:, j] for j, name in enumerate(names)}})
    table.to_csv(folder / "solution.csv", index=False, lineterminator="\n")
    draw_time_series(folder / "time_series.png", names, time, *curve)
    orbit = Orbit("solution", curve[1], times=curve[0])
    draw_phase_portrait(folder / "phase_portrait.png", names, [orbit], slope)


def arrays_of(field: Any, t: Tensor) -> Slope:
    """A field of tensors as a function of arrays, at one time."""

    def slope(points: Any) -> Any:
        with torch.no_grad():
            return field(t, torch.from_numpy(points)).numpy()

    return slope
