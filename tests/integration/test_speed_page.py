"""The page on speed is true as far as a test can say: its code runs and prints what is shown."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs/explanation/speed.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_all_code_runs_and_prints_what_is_shown() -> None:
    namespace: dict[str, Any] = {}
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M)
    printed, shown = "", ""
    for language, body in blocks:
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(body, "docs/explanation/speed.md", "exec"), namespace)
            printed += output.getvalue()
        elif language == "text":
            shown += body
    assert printed == shown
    assert "native" in shown
    assert len(namespace["ends"]) == 3
    assert all(torch.isfinite(end).all() for end in namespace["ends"])
