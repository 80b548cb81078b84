"""The command ``odekit``: its frame, and the commands that every installation has."""

from __future__ import annotations

from odekit.cli.frame import main

__all__ = ["main"]
