"""What the tests of compiled solves share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import odekit
from odekit._engine import tiers

Compare = Callable[..., odekit.Solution]


@pytest.fixture(scope="session")
def code_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled code of this run alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ODEKIT_CACHE_DIR", str(tmp_path_factory.mktemp("code")))
        yield


@pytest.fixture
def native_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tier between machine code and the ordinary loop, which takes a while to compile."""
    monkeypatch.setattr(tiers.Tiers, "_made_graphs", lambda *_, **__: tiers._REFUSED)


@pytest.fixture
def compare(code_folder: None, native_alone: None) -> Compare:
    """A solve by machine code that is held against the ordinary one; its solution."""

    def run(
        field: Any,
        y0: Any,
        t: Any,
        *,
        tier: str = "native",
        rounding: float | None = None,
        counts: bool = True,
        **options: Any,
    ) -> odekit.Solution:
        options = {"throw": False} | options
        with torch.no_grad():
            want = odekit.solve(field, y0, t, **options)
            found = odekit.solve(field, y0, t, compile=True, **options)
        leaf = odekit.trees.leaves_of(y0)[0]
        rounding = rounding or (1e-8 if leaf.dtype is torch.float64 else 1e-3)
        close = {"rtol": rounding, "atol": rounding, "equal_nan": True}
        assert found.stats.tier == tier
        assert torch.equal(found.status, want.status)
        if counts:
            for name in ("attempts", "accepted", "rejected", "evaluations"):
                assert torch.equal(getattr(found.stats, name), getattr(want.stats, name)), name
        torch.testing.assert_close(found.t, want.t, **close)
        torch.testing.assert_close(found.y, want.y, **close)
        torch.testing.assert_close(found.reached, want.reached, **close)
        assert [x.dtype for x in odekit.trees.leaves_of(found.y)] == [
            x.dtype for x in odekit.trees.leaves_of(want.y)
        ]
        if options.get("dense"):
            query = torch.linspace(float(want.t[0]), float(want.reached[0]), 29, dtype=torch.double)
            torch.testing.assert_close(found(query), want(query), **close)
        return found

    return run
