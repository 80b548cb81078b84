"""ODEBench: 63 systems of one to four states, most of them from S. H. Strogatz's textbook.

They are called ``odebench_1`` to ``odebench_63``, after the numbers of the benchmark, and each has
two starts. Their states are ``x0, x1, ...`` and their parameters ``c0, c1, ...``, as there. Several
describe what another named system describes too, with other constants; for work rather than for
comparison take that one, whose names say more.

Each class is made from its line of a table, when it is asked for.

Shapes and units: see `odekit_systems.system`; times run from 0 to 10.
Source: S. d'Ascoli, S. Becker, A. Mathis, P. Schwaller, N. Kilbertus, "ODEFormer: Symbolic
    Regression of Dynamical Systems with Transformers", 2023, arXiv:2310.05573; equations,
    constants and starts from https://github.com/sdascoli/odeformer, file
    odeformer/odebench/strogatz_extended.json, names of the systems shortened. "Strogatz" in the
    tables is S. H. Strogatz, "Nonlinear Dynamics and Chaos".

The tables are used under the following licence.

MIT License

Copyright (c) 2023 Stéphane d'Ascoli

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

from __future__ import annotations

import functools
import inspect
import re
from abc import abstractmethod
from typing import Any, ClassVar

from odekit_systems import odebench_1d, odebench_2d, odebench_3d
from odekit_systems.record import Record
from odekit_systems.system import Parameter, System

RECORDS = {**odebench_1d.RECORDS, **odebench_2d.RECORDS, **odebench_3d.RECORDS}
"""All 63, by the numbers of the benchmark."""


class Odebench(System):
    """A system of ODEBench; the classes `Odebench1` to `Odebench63` are found in this module.

    Attributes:
        number: its number in the benchmark.
        title: what it describes.
    """

    number: ClassVar[int]
    title: ClassVar[str]

    @abstractmethod
    def __init__(self, **parameters: Parameter) -> None:
        super().__init__(**parameters)


@functools.cache
def odebench_class(number: int) -> type[Odebench]:
    """The class of one system, 1 to 63."""
    record = RECORDS[number]
    name = f"Odebench{number}"

    def __init__(self: Odebench, **parameters: Parameter) -> None:
        bound = signature.bind(**parameters)
        bound.apply_defaults()
        Odebench.__init__(self, **bound.kwargs)

    signature = inspect.Signature(
        [
            inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=value)
            for each, value in record.parameters.items()
        ]
    )
    start, *others = record.starts
    members: dict[str, Any] = {
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": _describe(number, record),
        "__init__": __init__,
        "__signature__": signature,
        "number": number,
        "title": record.title,
        "formulas": {f"x{i}": right for i, right in enumerate(record.right)},
        "start": start,
        "others": tuple(others),
        "span": (0.0, 10.0),
        "method": "LSODA",
    }
    return type(name, (Odebench,), members)


def _describe(number: int, record: Record) -> str:
    lines = [f"{record.title[0].upper()}{record.title[1:]}: number {number} of ODEBench.", ""]
    lines += [f"x{i}' = {right}" for i, right in enumerate(record.right)]
    return "\n".join([*lines, "", f"Source: {record.source}."])


def __getattr__(name: str) -> type[Odebench]:
    found = re.fullmatch(r"Odebench(\d+)", name)
    if found is None or int(found[1]) not in RECORDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return odebench_class(int(found[1]))
