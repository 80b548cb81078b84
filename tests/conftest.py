"""What every test starts from."""

from __future__ import annotations

import signal

import pytest

# A shell starts what runs in the background with Ctrl-C ignored, which processes started from
# here would inherit; tests of Ctrl-C must hear it there too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    """Tables as wide as without a terminal, whatever runs the tests side by side says."""
    monkeypatch.delenv("COLUMNS", raising=False)
