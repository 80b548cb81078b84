"""The rows of torchdiffeq, torchode and scipy in the speed benchmark.

torchode steps every sample by itself; torchdiffeq and scipy take one step for all, and scipy
always in float64. A peer that is not installed is left out with a note.

Source: R. T. Q. Chen, "torchdiffeq", 2018, https://github.com/rtqichen/torchdiffeq;
    M. Lienen, S. Günnemann, "torchode: A Parallel ODE Solver for PyTorch", 2022,
    arXiv:2210.12375; P. Virtanen et al., "SciPy 1.0", Nature Methods 17, 2020, pp. 261-272,
    doi:10.1038/s41592-019-0686-2.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odekit_benchmarks.speed_odekit import synchronised
from odekit_benchmarks.speed_problems import Case, flat
from odekit_benchmarks.speed_timing import Method, Reading

PEERS = ("torchdiffeq", "torchode", "diffrax", "scipy")
NEEDS = {"diffrax": ("diffrax", "jax")}
"""What to import for a peer, where that is not its name alone."""

NOTHING = Reading(torch.zeros(0))


def choose(peers: list[str], device: torch.device) -> tuple[list[str], list[str]]:
    """Which of the peers can take part, and a note for each that cannot."""
    chosen, notes = [], []
    for peer in peers:
        missing = [name for name in NEEDS.get(peer, (peer,)) if find_spec(name) is None]
        if missing:
            notes.append(
                f"{peer} is left out: {missing[0]} is not installed (pip install 'odekit[bench]')"
            )
        elif device.type != "cpu" and peer == "scipy":
            notes.append(f"scipy is left out: it does not run on {device.type}")
        else:
            chosen.append(peer)
    return chosen, notes


def rows(case: Case, peer: str, *, compiled: bool) -> list[Method]:
    """The methods of one peer for one problem; none where it cannot do it."""
    if peer == "torchdiffeq":
        return _torchdiffeq(case)
    if peer == "torchode":
        return _torchode(case, compiled=compiled)
    if peer == "scipy":
        return _scipy(case)
    from odekit_benchmarks.speed_jax import rows as diffrax_rows

    return diffrax_rows(case)


class Counted(nn.Module):
    """A field that counts its calls and, where torchdiffeq tells it, the steps."""

    def __init__(self, field: Callable[..., Tensor]) -> None:
        super().__init__()
        self.field = field
        self.reset()

    def reset(self) -> None:
        """Begin to count."""
        self.calls = self.accepted = self.rejected = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Slope."""
        self.calls += 1
        return self.field(t, y)

    def callback_accept_step(self, t: Tensor, y: Tensor, h: Tensor) -> None:
        """Called by torchdiffeq for a step that it keeps."""
        self.accepted += 1

    def callback_reject_step(self, t: Tensor, y: Tensor, h: Tensor) -> None:
        """Called by torchdiffeq for a step that it throws away."""
        self.rejected += 1

    def reading(self) -> Reading:
        """The counts so far."""
        return Reading(NOTHING.value, self.calls, self.accepted, self.rejected)


def _torchdiffeq(case: Case) -> list[Method]:
    from torchdiffeq import odeint, odeint_adjoint

    device = case.y0.device
    options: dict[str, Any] = {"method": "dopri5", "rtol": case.tolerance, "atol": case.tolerance}
    # Counting takes a microsecond of the quarter of a millisecond that a call costs here.
    counted = Counted(case.field)

    @torch.no_grad()
    def forward(t: Tensor) -> tuple[Tensor, Reading]:
        counted.reset()
        y = odeint(counted, case.y0, t, **options)
        return y, counted.reading()

    def training(solve: Callable[..., Tensor]) -> tuple[Tensor, Reading]:
        counted.reset()
        y = solve(counted, case.y0, case.t, **options)
        counts = counted.reading()  # of the forward solve
        return flat(torch.autograd.grad(case.loss(y), case.parameters)), counts

    def reading(result: tuple[Tensor, Reading]) -> Reading:
        value, counts = result
        if case.judged is not None:
            value, _ = forward(case.judged)
        return _counts(counts, value)

    def method(name: str, call: Callable[[], Any]) -> Method:
        return Method(name, "torchdiffeq", synchronised(device, call), reading)

    if case.target is None:
        return [method("torchdiffeq", lambda: forward(case.t))]
    return [
        method("torchdiffeq", lambda: training(odeint)),
        method("torchdiffeq adjoint", lambda: training(odeint_adjoint)),
    ]


def _counts(counts: Reading, value: Tensor) -> Reading:
    return Reading(value, counts.evaluations, counts.accepted, counts.rejected)


def _torchode(case: Case, *, compiled: bool) -> list[Method]:
    solvers = ("Dopri5", "Tsit5") if case.target is None else ("Dopri5",)
    methods = [_torchode_solve(case, f"torchode {s.lower()}", s) for s in solvers]
    if compiled:
        methods.append(_torchode_solve(case, "torchode dopri5 compiled", "Dopri5", compiled=True))
    if case.target is not None:
        methods.append(_torchode_solve(case, "torchode adjoint", "Dopri5", adjoint=True))
    return methods


def _torchode_solve(
    case: Case, name: str, solver: str, *, compiled: bool = False, adjoint: bool = False
) -> Method:
    import torchode as to

    term = to.ODETerm(case.field)
    step = getattr(to, solver)(term=term)
    control = to.IntegralController(atol=case.tolerance, rtol=case.tolerance, term=term)
    solve: Any
    if adjoint:
        solve = to.JointBacksolveAdjoint(term, step, control)
    else:
        solve = to.AutoDiffAdjoint(step, control, backprop_through_step_size_control=False)
    solve = solve.to(case.y0.device)
    run = torch.compile(solve.solve) if compiled else solve.solve
    y0 = case.y0 if case.y0.dim() == 2 else case.y0[None]

    def problem(t: Tensor) -> Any:
        return to.InitialValueProblem(y0=y0, t_eval=t.expand(len(y0), -1))

    @torch.no_grad()
    def forward(t: Tensor) -> Any:
        return run(problem(t))

    def training() -> tuple[Any, Tensor]:
        solution = run(problem(case.t))
        loss = case.loss(solution.ys.transpose(0, 1))
        return solution, flat(torch.autograd.grad(loss, case.parameters))

    def reading(result: Any) -> Reading:
        if case.target is not None:
            solution, value = result
        else:
            solution = result
            judged = solution if case.judged is None else forward(case.judged)
            value = judged.ys.transpose(0, 1).reshape(-1, *case.y0.shape)
        if bool(solution.status.any()):
            raise RuntimeError(f"status {int(solution.status.max())}")
        stats = solution.stats
        steps, kept = int(stats["n_steps"].max()), int(stats["n_accepted"].max())
        return Reading(value, int(stats["n_f_evals"].max()), kept, steps - kept)

    return Method(
        name,
        "torchode",
        synchronised(
            case.y0.device, training if case.target is not None else lambda: forward(case.t)
        ),
        reading,
        floor="compiled" if compiled else "eager",
        compiled=compiled,
    )


def _scipy(case: Case) -> list[Method]:
    if case.target is not None or case.per_sample:
        return []
    from scipy.integrate import solve_ivp

    shape = tuple(case.y0.shape)
    start = case.y0.cpu().numpy().astype(np.float64).ravel()
    args = np.asarray(case.args, dtype=np.float64) if len(case.args) else ()

    def slope(t: float, y: Any) -> Any:
        return case.right(np, t, y.reshape(shape), args).ravel()

    def solve(method: str, t: Tensor) -> Any:
        times = t.cpu().numpy().astype(np.float64)
        return solve_ivp(
            case.plain or slope,
            (times[0], times[-1]),
            start,
            method=method,
            t_eval=times,
            rtol=case.tolerance,
            atol=case.tolerance,
        )

    def make(method: str) -> Method:
        def reading(result: Any) -> Reading:
            judged = result if case.judged is None else solve(method, case.judged)
            if not judged.success:
                raise RuntimeError(judged.message)
            value = torch.from_numpy(np.ascontiguousarray(judged.y.T)).reshape(-1, *shape)
            return Reading(value, int(result.nfev))

        name = f"scipy {method} (float64)"
        return Method(name, "scipy", lambda: solve(method, case.t), reading, floor="")

    return [make("RK45"), make("DOP853")]
