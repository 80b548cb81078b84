"""PyTorch's compiler: from a step to machine code, past what PyTorch promises to keep.

Nothing here is imported before somebody asks for ``compile=True``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast, final

import torch
from torch import Tensor

from odekit._engine.c_library import NoCompiler, c_compiler
from odekit._engine.recording import NumbersUnread
from odekit._engine.rewritten import TANH, rewrites
from odekit._engine.scalars import Unsupported

LEVEL = ("-O2", "-g0")
"""Of compiled steps: their loops are written out for vectors, more of it only takes longer."""

FORMAT = 3
"""Of compiled steps on disk; others are not read."""

ENTRY = "inductor_entry_cpp"
"""The function of a library that PyTorch's compiler has made."""

INCLUDE = re.compile(r"^\s*(#include .*)$", re.MULTILINE)
EXTERN = re.compile(r"extern \"C\"[\w\s*]*?\b(\w+)\(")

PRIVATE = {
    "transforms": "_functorch.peek_interpreter_stack",
    "lend": "_aoti.unsafe_alloc_void_ptrs_from_tensors",
    "take": "_aoti.alloc_tensors_by_stealing_from_void_ptrs",
    "address": "_dynamo.guards._torchinductor_pyobject_tensor_data_ptr",
}
"""What is used of PyTorch that it does not promise to keep, below ``torch._C``."""


def probed(path: str) -> Any:
    """What PyTorch has there; None if it has no such thing any more."""
    found: Any = torch._C
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


private: dict[str, Any] = {name: probed(path) for name, path in PRIVATE.items()}


def is_transformed() -> bool:
    """Whether this runs inside a transform of ``torch.func``.

    Raises:
        Unsupported: PyTorch does not tell any more.
    """
    peek = private["transforms"]
    if peek is None:
        raise Unsupported("this PyTorch does not tell whether torch.func is at work")
    return peek() is not None


@dataclass(frozen=True)
class Joint:
    """A step and, where anything is wanted, its derivative.

    Attributes:
        step: from inputs to outputs with derivatives and outputs without.
        wanted: which inputs ask for gradients.
        params: tensors that the step reads beside its inputs and that ask for gradients.
    """

    step: Callable[[Sequence[Tensor]], tuple[list[Tensor], list[Tensor]]]
    wanted: Sequence[bool]
    params: Sequence[Tensor]

    @property
    def back(self) -> bool:
        """Whether there is a derivative."""
        return any(self.wanted) or bool(self.params)

    def forward(self, *given: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs with derivatives and outputs without."""
        with torch.no_grad():
            return self.step(given)

    def both(self, given: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
        """All outputs, and the gradients of inputs and parameters."""
        with torch.enable_grad():
            given = [x.detach().requires_grad_(w) for x, w in zip(given, self.wanted, strict=True)]
            outputs, rest = self.step(given)
            sources = [x for x, w in zip(given, self.wanted, strict=True) if w]
            pairs = [(x, c) for x, c in zip(outputs, cotangents, strict=True) if x.requires_grad]
            found = torch.autograd.grad(
                [x for x, _ in pairs],
                [*sources, *self.params],
                [c for _, c in pairs],
                allow_unused=True,
            )
            used = [
                torch.zeros_like(x) if g is None else g
                for x, g in zip(sources, found, strict=False)
            ]
            return [*(x.detach() for x in (*outputs, *rest)), *used, *found[len(sources) :]]


@contextlib.contextmanager
def _expected() -> Iterator[None]:
    """Around imports of PyTorch's own parts, which warn about themselves and may be elsewhere.

    Raises:
        Unsupported: one is not where it was.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        except ImportError as error:
            raise Unsupported(f"this PyTorch is another than expected: {error}") from error


def decompositions(more: Sequence[Any]) -> dict[Any, Callable[..., Any]]:
    """Operations in terms of core ones, and those that are named.

    Raises:
        Unsupported: this PyTorch has no such table.
    """
    with _expected():
        from torch._decomp import core_aten_decompositions, get_decompositions
    return {**core_aten_decompositions(), **get_decompositions(more)}


def trace_joint(joint: Joint, inputs: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """The graph of a step, and of its derivative if it has one, for inputs like these.

    Returns:
        The graph, with inputs, captured tensors and cotangents as its inputs, and outputs and
        gradients as its outputs; and the captured tensors.

    Raises:
        Unsupported: it does something that a graph cannot say.
    """
    with _expected():
        from torch._inductor.decomposition import select_decomp_table
        from torch.fx.experimental.proxy_tensor import make_fx

    shapes: list[Tensor] = []

    def forward(*given: Tensor) -> list[Tensor]:
        outputs, rest = joint.forward(*given)
        shapes[:] = outputs
        return [*outputs, *rest]

    def both(given: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
        return joint.both(given, cotangents)

    def run(function: Callable[..., Any], *examples: Any) -> Any:
        maker = make_fx(
            function,
            decomposition_table={**select_decomp_table(), **rewrites()},
            tracing_mode="fake",
            _allow_non_fake_inputs=True,
        )
        try:
            with NumbersUnread(), warnings.catch_warnings():
                # The tracer looks at whatever a tensor may have, wanted or not.
                warnings.filterwarnings("ignore", r"The \.grad attribute", UserWarning)
                return maker(*examples)
        except Unsupported:
            raise
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            raise Unsupported(
                f"the step cannot be traced: {type(error).__name__}: {text}"
            ) from error

    examples = [x.detach().clone() for x in inputs]
    graph = run(forward, *examples)
    if joint.back:
        cotangents = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in shapes]
        graph = run(both, examples, cotangents)
    captured = _lifted(graph, len(examples))
    return graph, captured


def _lifted(graph: Any, count: int) -> list[Tensor]:
    """Make inputs of the tensors that a graph names, behind the first ``count``.

    Raises:
        Unsupported: it writes into a tensor that is not its own.
    """
    code = graph.graph
    given = [node for node in code.nodes if node.op == "placeholder"]
    captured: dict[int, Any] = {}
    tensors: list[Tensor] = []
    for node in list(code.nodes):
        if node.op == "get_attr":
            tensor = getattr(graph, str(node.target))
            if id(tensor) not in captured:
                first = next(x for x in code.nodes if x.op != "placeholder")
                before = given[count] if len(given) > count else first
                with code.inserting_before(before):
                    fresh = code.placeholder(f"captured_{len(tensors)}")
                fresh.meta = dict(node.meta)
                captured[id(tensor)] = fresh
                tensors.append(tensor)
            node.replace_all_uses_with(captured[id(tensor)])
            code.erase_node(node)
        elif node.op == "call_function":
            _made_pure(node)
    names = iter(range(1, len(given) + len(tensors) + 1))
    for node in code.nodes:
        if node.op == "placeholder":
            back = node in given[count:]
            number = given.index(node) - count + 1 if back else next(names)
            node.target = node.name = f"tangents_{number}" if back else f"primals_{number}"
    code.lint()
    graph.recompile()
    return tensors


def _made_pure(node: Any) -> None:
    """Replace an operation that writes into a result of this graph by one that does not."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    changed = node.args[0]
    base = getattr(getattr(changed, "target", None), "_schema", None)
    views = base is not None and any(x.alias_info is not None for x in base.returns)
    name, overload = schema.name.split("::")[1], schema.overload_name or "default"
    pure = getattr(getattr(torch.ops.aten, name.rstrip("_"), None), overload, None)
    if changed.op != "call_function" or views or not name.endswith("_") or pure is None:
        raise Unsupported(f"the field writes into a tensor by {name}")
    node.target = pure


Compiled = Callable[[list[Tensor]], Sequence[Any]]
"""A compiled graph: from its inputs to its outputs; the list of inputs is emptied."""


def inductor(graph: Any, primals: int, outputs: int) -> tuple[list[Compiled], Path | None]:
    """Compile a graph, cut in two where it has cotangents.

    Returns:
        Forward, from inputs to the outputs and what is to be kept; and, if there are cotangents,
        backward, from that and the cotangents to the gradients. And the library that they are in
        if they are in one, as on a CPU, and are called without the layers that usually stand
        around them.

    Raises:
        Unsupported: the compiler failed, with its complaint.
    """
    with _expected():
        from torch._functorch.partitioners import min_cut_rematerialization_partition
        from torch._guards import TracingContext, tracing
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx_inner
        from torch.compiler import config as kept

    def made(part: Any) -> Compiled:
        fakes = [node.meta["val"] for node in part.graph.nodes if node.op == "placeholder"]
        with tracing(TracingContext(fakes[0].fake_mode)), torch.no_grad():
            return cast("Compiled", compile_fx_inner(part, fakes, cpp_wrapper=around))

    given = [node for node in graph.graph.nodes if node.op == "placeholder"]
    # The code around the kernels in C++ as well: there are many of them, and small ones.
    around = all(node.meta["val"].device.type == "cpu" for node in given)
    ways = {
        "cpp_wrapper": around,
        "cpp_wrapper_build_separate": False,
        "cpp.vec_isa_ok": True,  # asked already; trying it out would take a second
        "cpp_cache_precompile_headers": False,  # which takes twice as long as reading them once
    }
    waiting: list[_Awaited] = []
    try:
        with (
            config.patch({name: way for name, way in ways.items() if _has(config, name)}),
            # Not what was compiled for others without these ways.
            kept.patch(cache_key_tag=f"odekit {FORMAT}"),  # type: ignore[attr-defined]
            _own_ways(waiting),
        ):
            if len(given) == primals:
                graph.graph.eliminate_dead_code()
                parts = [graph]
            else:
                cut = min_cut_rematerialization_partition
                parts = list(cut(graph, None, num_fwd_outputs=outputs))
            return _bare([made(part) for part in parts], waiting)
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        raise Unsupported(f"the compiler failed: {type(error).__name__}: {text[:200]}") from error


def _has(config: Any, name: str) -> bool:
    """Whether PyTorch's compiler has this setting."""
    missing = object()
    for part in name.split("."):
        config = getattr(config, part, missing)
    return config is not missing


@contextlib.contextmanager
def _instead(module: str, owner: str, name: str, other: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, a class of PyTorch's compiler has another attribute, made from the usual one.

    Without effect where it has none of that name, which is not wrong but slower.
    """
    found = None
    with contextlib.suppress(ImportError):
        found = getattr(importlib.import_module(module), owner, None)
    if found is None or name not in vars(found):
        yield
        return
    usual = vars(found)[name]
    setattr(found, name, other(usual))
    try:
        yield
    finally:
        setattr(found, name, usual)


@contextlib.contextmanager
def _own_ways(waiting: list[_Awaited]) -> Iterator[None]:
    """Inside, what PyTorch's compiler does in a slower way than it need; ``waiting`` grows."""
    # One operation for the compiler, which would take its time over thirty of them.
    tanh = staticmethod(lambda x: f"{TANH}({x})")
    awaited = partial(_awaited, waiting)
    with (
        _instead("torch._inductor.codegen.cpp", "CppVecOverrides", "tanh", lambda _: tanh),
        _instead("torch._inductor.cpu_vec_isa", "VecISA", "check_build", lambda _: _is_built_for),
        _instead("torch._inductor.codecache", "CppCodeCache", "load_async", awaited),
    ):
        yield


def _is_built_for(instructions: Any, code: str) -> bool:
    """Whether the compiler knows these instructions of this processor, without a trial."""
    try:
        defined = c_compiler()[1]
    except NoCompiler:
        return False
    flags = [x[2:] for x in instructions.build_arch_flags().split() if "=" not in x]
    names = [f"__{x.upper().replace('-', '_').replace('.', '_')}__" for x in flags]
    return all(f"#define {x} " in defined for x in names)


def _awaited(waiting: list[_Awaited], usual: Any) -> Any:
    """Instead of `CppCodeCache.load_async`: graphs wait for the others of their step."""

    def load_async(cls: Any, main_code: str, *args: Any, **options: Any) -> Callable[[], Any]:
        def load(text: str = main_code, *flags: str) -> Any:
            more = {**options, "extra_flags": (*options.get("extra_flags", ()), *flags)}
            return usual.__get__(None, cls)(text, *args, **more)()

        if getattr(cls, "entry_function", None) != ENTRY or options.get("optimized_code"):
            return usual.__get__(None, cls)(main_code, *args, **options)  # type: ignore[no-any-return]
        waiting.append(_Awaited(main_code, load))
        module = ModuleType(ENTRY)
        setattr(module, ENTRY, waiting[-1])
        return lambda: module

    return classmethod(load_async)


@final
class _Awaited:
    """Stands for the function of a library that is compiled later, if at all.

    Args:
        text: the code of the library.
        load: from this code, or other code of the kind, to the library.
    """

    def __init__(self, text: str, load: Callable[..., Any]) -> None:
        self.text, self.load = text, load
        self.made: Callable[[Any], Any] | None = None

    def make(self) -> Callable[[Any], Any]:
        """The function itself, from a library of its own."""
        if self.made is None:
            self.made = getattr(self.load(), ENTRY)
        return self.made

    def __call__(self, handles: Any) -> Any:
        """Call it."""
        return self.make()(handles)


def _bare(
    functions: list[Compiled], waiting: Sequence[_Awaited]
) -> tuple[list[Compiled], Path | None]:
    """Compiled graphs in one library, with less around them; as they are where that fails.

    Most of the time goes into reading PyTorch's headers, which are the same for all of them.
    """
    inside = [_called_by(x) for x in functions]
    parts = [x for x in inside if x is not None]
    if len(parts) == len(functions) and _loads():
        with contextlib.suppress(Exception):  # whatever it is, there is another way
            path = Path(parts[0].load(joined([x.text for x in parts]), *LEVEL).__file__)
            return load_library(path, len(parts)), path
    for each in (*waiting, *parts):
        each.make()
    return functions, None


def _called_by(function: Compiled) -> _Awaited | None:
    """What a compiled graph calls, if it does nothing but call it with its inputs."""
    around = getattr(function, "current_callable", None)
    cells = [cell.cell_contents for cell in getattr(around, "__closure__", None) or ()]
    names = getattr(getattr(around, "__code__", None), "co_varnames", ())
    plain = len(cells) == 1 and names[:1] == ("args",) and "constants_tensor" not in names
    return cells[0] if plain and isinstance(cells[0], _Awaited) else None


def joined(texts: Sequence[str]) -> str:
    """One file of C++ for several of the same form; of the later ones, C names have a number."""
    heads = dict.fromkeys(line for text in texts for line in re.findall(INCLUDE, text))
    whole = [*heads]
    for i, text in enumerate(texts):
        names = [*dict.fromkeys(re.findall(EXTERN, text)), f"PyInit_{ENTRY}"] if i else []
        whole += [f"#define {x} {x}_{i}" for x in names]
        whole += [f"namespace odekit_part_{i} {{", text, "}"]
        whole += [f"#undef {x}" for x in names]
    return "\n".join(whole)


def _loads() -> bool:
    """Whether it is known how to load and call a compiled graph."""
    return None not in (private["address"], private["lend"], private["take"])


def load_library(path: Path, count: int) -> list[Compiled]:
    """Compiled graphs from the file that they are in, or from a copy of that.

    Raises:
        ImportError: it cannot be loaded.
    """
    if not _loads():
        raise ImportError("this PyTorch calls compiled graphs in another way")
    lend, take = private["lend"], private["take"]
    os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = str(private["address"])

    def function(number: int) -> Compiled:
        name = f"{ENTRY}_{number}" if number else ENTRY
        spec = importlib.util.spec_from_file_location(f"{path.stem}.{name}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no library")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        entry = getattr(module, ENTRY)

        def call(inputs: list[Tensor]) -> Sequence[Any]:
            handles = lend(inputs)
            inputs.clear()
            return take(entry(handles))  # type: ignore[no-any-return]

        return call

    return [function(i) for i in range(count)]
