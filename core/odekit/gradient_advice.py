"""What to take, in one sentence, from the rows of ``compare_gradients``.

Units: bytes, seconds; errors are relative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MORE = 100
"""How many times more steps the advice looks ahead to."""

MUCH_LESS = 0.25
"""The part of the memory that makes another method worth its time."""

WRONG = 1e-2
"""A relative error from which on a gradient is of no use."""


def give_advice(rows: Sequence[Mapping[str, Any]], uncertainty: float) -> str:
    """The fastest of the accurate methods, and what to take for longer solves.

    Memory is what waits for the backward pass, with the nodes of the graph and all else, where
    that could be measured; where not it is that of tensors alone, and the sentence says so.
    """
    names = {row["method"] for row in rows}
    worked = [
        row
        for row in rows
        if row["seconds"] == row["seconds"]
        and not any(row["note"].startswith(f"took {name}") for name in names)
    ]
    if not worked:
        notes = {row["note"] for row in rows}
        return f"no method could serve: {notes.pop() if len(notes) == 1 else 'see the notes'}"
    best = min(row["error"] for row in worked)
    good = [row for row in worked if row["error"] <= max(10 * best, uncertainty)]
    fast = min(good, key=lambda row: row["seconds"])
    if fast["held_bytes"] is None:
        memory = f"{in_bytes(fast['peak_bytes'])} in tensors at a time"
    else:
        memory = f"{in_bytes(fast['held_bytes'])} held for the backward pass"
    text = (
        f"{fast['method']} is the fastest of the accurate ones: {fast['seconds']:.2g} s, {memory}"
    )
    text += _look_ahead(fast, good)
    off = [row["method"] for row in worked if row not in good and row["error"] > WRONG]
    if off:
        text += f"; {' and '.join(off)} {'is' if len(off) == 1 else 'are'} wrong here"
    return text


def _look_ahead(fast: Mapping[str, Any], good: Sequence[Mapping[str, Any]]) -> str:
    """What the fastest would keep in a longer solve, and which method would keep much less.

    What waits grows with the number of steps at most, for no method faster.
    """
    whole = all(row["held_bytes"] is not None for row in good)
    kept = {row["method"]: row["held_bytes" if whole else "saved_bytes"] for row in good}
    small = [row for row in good if kept[row["method"]] <= MUCH_LESS * kept[fast["method"]]]
    if not small:
        return ""
    lean = min(small, key=lambda row: row["seconds"])
    what = "in all" if whole else "in tensors alone, nodes of the graph not counted"
    much, little = (in_bytes(MORE * kept[row["method"]]) for row in (fast, lean))
    return (
        f"; for {MORE} times more steps, where it would keep about {much} {what}, take "
        f"{lean['method']}, which would keep no more than about {little}"
    )


def in_bytes(size: float) -> str:
    """A number of bytes for people.

    Example:
        >>> in_bytes(900), in_bytes(3_210_000)
        ('900 B', '3.2 MB')
    """
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
