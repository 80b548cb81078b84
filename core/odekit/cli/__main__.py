"""``python -m odekit.cli`` is the command ``odekit``."""

from __future__ import annotations

from odekit.cli.frame import main

main()
