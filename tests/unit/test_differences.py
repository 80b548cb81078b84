"""Differences between structures in words."""

from __future__ import annotations

import pytest

from odekit.differences import difference, listed

OWN = [("x", "x"), ("x", "x*y"), ("y", "y")]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (OWN, ""),
        ([("x", "x"), ("x", "x*y**2"), ("y", "y")], "x*y**2 instead of x*y in x'"),
        ([*OWN, ("y", "1")], "1 more in y'"),
        ([("x", "x"), ("y", "y")], "without x*y in x'"),
        ([("x", "1"), ("y", "x"), ("y", "y")], "1 instead of x and x*y in x'; x more in y'"),
        ([("x", "x"), ("x", "x*y")], "without y in y'"),
    ],
)
def test_what_differs(other, words):
    assert difference(OWN, other) == words


def test_lists_in_words():
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"], "or") == "a, b or c"
