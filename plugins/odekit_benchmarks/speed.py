"""``odekit benchmark speed``: odekit beside its peers on problems of known accuracy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odekit.cli.interrupt import Interruption
from odekit.cli.options import Debug, Json, Out, split_names
from odekit.cli.output import (
    ProgressCallback,
    check_folder,
    console,
    plain_json,
    print_json,
    progress_bar,
    write_folder,
)
from odekit.errors import ProblemError

if TYPE_CHECKING:
    import torch

FOLDER = "odekit-benchmark-speed"


def speed(
    problems: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="P1, P1-per-sample, P2, P3, P4, P5, named; all by default."
        ),
    ] = None,
    peers: Annotated[
        str, typer.Option(metavar="NAMES", help="Whom to measure beside odekit.")
    ] = "torchdiffeq,torchode,diffrax,scipy",
    system: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="System of the problem named; fitzhugh_nagumo by default."
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="How often each method is timed, at most.")
    ] = 9,
    limit: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="For a problem, where every method gets three rounds still; and for one look at "
            "the memory of P5.",
        ),
    ] = 60.0,
    compiled: Annotated[
        bool, typer.Option("--compiled/--no-compiled", help="Methods that compile, too.")
    ] = True,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, or cuda.")] = "cpu",
    growth: Annotated[
        bool,
        typer.Option("--growth", help="Instead: the cost of a step as batch, state, time grow."),
    ] = False,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the tables alone.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time odekit and others on one core and one thread, with errors beside the times.

    Methods of one problem run in turn in one process; ratios hold within a run. The first call,
    which may compile, is timed apart. The folder, odekit-benchmark-speed without --out, receives
    speed.json and speed.png; with --growth, growth.json and growth.png.
    """
    from odekit_benchmarks.speed_peers import PEERS, choose
    from odekit_benchmarks.speed_runs import PROBLEMS
    from odekit_benchmarks.speed_timing import machine, one_core

    folder = out if out is not None else Path(FOLDER)
    check_folder(folder)
    chosen = _chosen("--problems", problems, PROBLEMS)
    invited = _chosen("--peers", peers, PEERS)
    place = _device(device)
    # Pinned before a peer is imported: its threads are then on this core as well.
    with one_core() as core:
        present, notes = choose(invited, place)
        settings = {
            "problems": chosen, "peers": present, "system": system, "rounds": rounds,
            "limit": limit, "compiled": compiled, "device": device,
        }  # fmt: skip
        with _reporting(shown=not (quiet or as_json)) as (report, stop):
            if growth:
                found = _growth(settings, place, report, stop)
            else:
                found = _problems(settings, place, report, stop)
        document = {
            "benchmark": "growth" if growth else "speed",
            "settings": settings,
            "machine": machine(place, core),
            "notes": notes,
            **found,
        }
    written = write_folder(folder, lambda temporary: _write(temporary, document))
    if as_json:
        print_json(document)
        return
    _show(document)
    if not quiet:
        typer.echo(f"Written to {folder}: {', '.join(path.name for path in written)}")


def _chosen(option: str, text: str | None, known: Sequence[str]) -> list[str]:
    """Names in the order of ``known``, whatever their case; all of them without a text."""
    if text is None:
        return list(known)
    lower = {name.lower(): name for name in known}
    asked = [name for name in split_names(text) or [] if name]
    wrong = [name for name in asked if name.lower() not in lower]
    if wrong:
        raise typer.BadParameter(f"{option}: no {wrong[0]!r}; there are {', '.join(known)}")
    if not asked and option == "--problems":
        raise typer.BadParameter(f"{option} takes names with commas between them: {known[0]},...")
    picked = {lower[name.lower()] for name in asked}
    return [name for name in known if name in picked]


def _device(name: str) -> torch.device:
    import torch

    try:
        place = torch.device(name)
    except RuntimeError:
        raise typer.BadParameter(f"--device takes cpu or cuda; got {name!r}") from None
    if place.type not in ("cpu", "cuda"):
        raise typer.BadParameter(f"--device takes cpu or cuda; got {name!r}")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ProblemError("--device cuda: torch finds no CUDA device here; leave it out")
    return place


@contextmanager
def _reporting(*, shown: bool) -> Iterator[tuple[ProgressCallback, Any]]:
    with Interruption() as interruption, progress_bar(shown=shown) as report:
        yield report, lambda: interruption.asked


def _problems(
    settings: dict[str, Any], place: torch.device, report: ProgressCallback, stop: Any
) -> dict[str, Any]:
    from odekit_benchmarks.speed_problems import SYSTEM, named
    from odekit_benchmarks.speed_runs import Settings, run

    chosen = settings["problems"]
    if "named" in chosen:  # an unknown system is told before minutes are spent
        named(place, settings["system"] or SYSTEM)
    found: dict[str, Any] = {}
    # The processes of P5 are copies of this one, which had better not have started jax before.
    for done, name in enumerate(sorted(chosen, key=lambda name: name != "P5")):
        if stop():
            break

        def listen(method: str, share: float, name: str = name, done: int = done) -> None:
            report(f"{name}: {method}", (done + share) / len(chosen))

        found[name] = run(
            name,
            Settings(
                settings["peers"], settings["rounds"], settings["limit"], settings["compiled"],
                place, settings["system"] or SYSTEM, stop, listen,
            ),
        )  # fmt: skip
    if not any(problem["lines"] for problem in found.values()):
        raise ProblemError("stopped before anything was measured")
    return {
        "complete": len(found) == len(chosen) and not stop(),
        "problems": [found[name] for name in chosen if name in found],
    }


def _growth(
    settings: dict[str, Any], place: torch.device, report: ProgressCallback, stop: Any
) -> dict[str, Any]:
    from odekit_benchmarks.speed_growth import study

    panels, notes = study(
        place,
        peers=settings["peers"],
        compiled=settings["compiled"],
        limit=settings["limit"],
        stop=stop,
        listen=report,
    )
    return {"complete": not stop(), "panels": panels, "growth_notes": notes}


def _write(folder: Path, document: dict[str, Any]) -> None:
    text = json.dumps(plain_json(document), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / f"{document['benchmark']}.json").write_text(f"{text}\n", encoding="utf-8")
    if document["benchmark"] == "growth":
        from odekit_benchmarks.speed_growth_picture import draw_growth

        draw_growth(folder / "growth.png", document["panels"])
        return
    from odekit_benchmarks.speed_picture import draw_speed

    draw_speed(folder / "speed.png", document["problems"])


def _show(document: dict[str, Any]) -> None:
    from odekit_benchmarks import speed_growth, speed_tables

    screen = console()
    for problem in document.get("problems", []):
        speed_tables.show(problem)
    for panel in document.get("panels", []):
        speed_growth.show(panel)
    for note in (*document["notes"], *document.get("growth_notes", [])):
        screen.print(f"note: {note}", markup=False)
    found = document["machine"]
    where = found["device"] if found["device"] != "cpu" else found["processor"]
    pinned = "" if found["core"] is None else f", pinned to core {found['core']}"
    screen.print(
        f"{where}, {found['threads']} thread{pinned}; "
        f"torch {found['versions'].get('torch')}, {found['date']}.",
        markup=False,
    )
    if document["benchmark"] == "speed":
        screen.print(
            "x torchdiffeq, adjoint, torchode: how many times faster than that row. x floor: the "
            "time over that of this row's evaluations alone,\neager, as torch.compile makes them, "
            "or in jax, as the row itself; below 1 where its code is better than that. error: "
            "largest error of\nthe states, or relative error of the gradient, against float64 at "
            "1e-10 or tighter. steps: accepted+rejected. first s: the first\ncall, with "
            "compilation.",
            markup=False,
        )
    if not document["complete"]:
        typer.echo("Stopped early: what is missing was not measured.")
