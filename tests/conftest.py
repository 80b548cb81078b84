"""What every test starts from."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    """Tables as wide as without a terminal, whatever runs the tests side by side says."""
    monkeypatch.delenv("COLUMNS", raising=False)
