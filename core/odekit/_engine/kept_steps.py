"""Compiled steps on disk, found again without PyTorch's compiler, which takes seconds to load.

The operations of a step and of its derivative are written down as they run, which tells it from
every other step. What was compiled for it is a library, and which of the tensors it reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import Graph, Node

from odekit._engine.c_library import c_compiler, own_folder
from odekit._engine.compiled import (
    FORMAT,
    Compiled,
    Joint,
    load_library,
)
from odekit._engine.recording import NumbersUnread, Recording


@final
@dataclass(frozen=True)
class Sketch:
    """A step as it was written down.

    Attributes:
        key: tells it, the machine and the libraries from others.
        outside: the tensors that it reads beside its inputs.
    """

    key: str
    outside: list[Tensor]

    def found(self) -> tuple[list[Compiled], list[Tensor]] | None:
        """The compiled step and the tensors that it reads, if it is on disk and whole."""
        folder = own_folder()
        if folder is None:
            return None
        try:
            known = json.loads((folder / f"{self.key}.json").read_text())
            functions = load_library(folder / f"{self.key}.so", known["functions"])
            return functions, [self.outside[i] for i in known["captured"]]
        except (OSError, ImportError, AttributeError, ValueError, LookupError, TypeError):
            return None

    def keep(self, library: Path, functions: int, captured: Sequence[Tensor]) -> None:
        """Put it on disk, if that can be done."""
        folder = own_folder()
        places = {id(x): i for i, x in enumerate(self.outside)}
        if folder is None or any(id(x) not in places for x in captured):
            return
        known = {"functions": functions, "captured": [places[id(x)] for x in captured]}
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as fresh:
            copy, text = Path(fresh) / f"{self.key}.so", Path(fresh) / f"{self.key}.json"
            shutil.copyfile(library, copy)
            copy.replace(folder / copy.name)
            text.write_text(json.dumps(known))  # the last, since it says that all is there
            text.replace(folder / text.name)


def sketched(joint: Joint, inputs: Sequence[Tensor]) -> Sketch | None:
    """The step written down; None if it cannot be, or where there are no such libraries."""
    if any(x.device.type != "cpu" for x in inputs):
        return None
    try:
        _, compiler = c_compiler()
        graph = _written(joint, [x.detach().clone() for x in inputs])
    except Exception:  # whatever it is, whoever traces it again will say so
        return None
    text, outside = _described(graph)
    about = (
        *(FORMAT, text, compiler, torch.__version__, torch.get_num_threads()),
        *(platform.machine(), platform.python_version(), torch.get_float32_matmul_precision()),
        sorted((k, v) for k, v in os.environ.items() if k.startswith("TORCHINDUCTOR_CPP")),
    )
    return Sketch(hashlib.sha256(repr(about).encode()).hexdigest()[:32], outside)


def _written(joint: Joint, inputs: list[Tensor]) -> Graph:
    with torch.random.fork_rng([]):
        ahead = Recording(inputs, _as_it_is)
        with NumbersUnread(), ahead:
            outputs, rest = joint.forward(*inputs)
        if not joint.back:
            return ahead.end([*outputs, *rest])
        cotangents = [torch.zeros_like(x) for x in outputs]
        both = Recording([*inputs, *cotangents], _as_it_is)
        with NumbersUnread(), both:
            found = joint.both(inputs, cotangents)
        return both.end(found)


def _as_it_is(operation: Any) -> None:
    """No operation is told in terms of others."""


def _described(graph: Graph) -> tuple[str, list[Tensor]]:
    """All that matters of a graph as text, and the tensors from outside in their order."""
    numbers: dict[Node, int] = {}
    outside: list[Tensor] = []
    lines = []

    def name(x: Any) -> Any:
        if isinstance(x, Node):
            return f"%{numbers[x]}"
        if isinstance(x, list | tuple):
            return [name(i) for i in x]
        return repr(x)

    for node in graph.nodes:
        numbers[node] = len(numbers)
        value = node.meta.get("val")
        if node.op == "get_attr":
            outside.append(value)
            lines.append(f"outside {_kind(value)} {value.requires_grad}")
        elif node.op == "placeholder":
            lines.append(f"given {_kind(value)}")
        else:
            options = sorted((k, name(v)) for k, v in node.kwargs.items())
            lines.append(f"{node.target} {name(node.args)} {options} {_kind(value)}")
    return "\n".join(lines), outside


def _kind(x: Any) -> str:
    if not isinstance(x, Tensor):
        return type(x).__name__
    return f"{x.dtype} {tuple(x.shape)} {x.stride()} {x.device}"
