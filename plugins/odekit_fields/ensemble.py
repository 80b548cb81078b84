"""Many fields of one architecture solved as one: each member has its own weights and its own start.

For bagged or seeded networks, posterior draws, or one system with many sets of constants. The
members go through the field in one batched call, so twenty small ones cost little more than one;
wide ones cost what they cost. Members that differ in more than their weights are solved one by
one. ``per_sample=True`` gives every member step sizes of its own, and then its path is the one that
it has alone; otherwise all share the steps that the hardest of them needs.

Shapes: ``N`` members; states are ``(N, ...)``, whatever the members take behind the first axis;
    ``t`` is 0-d or ``(N,)``.
Units: the members'.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType, MethodType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from odekit import Field, IncompatibleError, ProblemError
from odekit.field import State
from odekit.training import Recipe
from odekit.trees import leaves_of
from odekit_fields.network import check_size

_PLAIN = (str, bytes, bool, int, float, complex, type, CodeType, torch.dtype, torch.device)
"""What is compared as it is and not taken apart."""


@final
class Ensemble(Field):
    """``N`` fields side by side, the first axis of the state counting them.

    The members are copied; their weights become parameters ``(N, ...)`` of the ensemble, which
    gradients reach and which train all members at once. A member whose class says
    ``stackable = True`` takes such weights as they are, a state ``(N, ...)`` and ``t`` 0-d or
    ``(N,)``; any other goes through ``torch.func.vmap``.

    Args:
        fields: modules called ``field(t, y)``, alike in all but their weights; or one module.
        count: how many copies to make of one module.

    Raises:
        ProblemError: no fields, or a count beside several.
        IncompatibleError: something without weights, or members that differ in more than these.

    Example:
        >>> import odekit
        >>> fields = [odekit.create("field", "mlp", dim=2, width=8, seed=i) for i in range(20)]
        >>> ensemble = Ensemble(fields)
        >>> odekit.solve(ensemble, torch.ones(20, 2), [0.0, 1.0], per_sample=True).y.shape
        torch.Size([2, 20, 2])
    """

    def __init__(self, fields: Sequence[nn.Module] | nn.Module, count: int | None = None) -> None:
        super().__init__()
        members = _listed(fields, count)
        _check_alike(members)
        stacked = copy.deepcopy(members[0])
        _fill(stacked, *stack_module_state(members))
        self.count = len(members)
        self.members = _Methods(stacked)
        self._places = [
            (table, name)
            for module in stacked.modules()
            for table in _tables(module)
            for name, value in table.items()
            if value is not None
        ]
        # Only its code is used: weights without values, so that a use of them does not pass.
        self._bare = (copy.deepcopy(members[0]).to("meta").requires_grad_(False),)
        inner = getattr(members[0], "recipe", None)
        options = {"fields": inner, "count": self.count}
        self.recipe = Recipe("ensemble", options) if isinstance(inner, Recipe) else None

    def __len__(self) -> int:
        return self.count

    def member(self, i: int) -> nn.Module:
        """An independent field with the weights that member ``i`` has now."""
        field: nn.Module = copy.deepcopy(self.members.field)
        parameters = {name: p.detach()[i].clone() for name, p in field.named_parameters()}
        _fill(field, parameters, {name: b[i].clone() for name, b in field.named_buffers()})
        return field

    def lift(self, x: State) -> State:
        """Each member lifts its own part, ``(N, ...)``."""
        if not _changes(self.members.field, "lift"):
            return x
        self._check(x)
        return self._each("lift", (0,), x)

    def project(self, y: State) -> State:
        """As the members do, which must not take their weights for it; rows may stand in front.

        Raises:
            IncompatibleError: ``project`` of the members depends on their weights.
        """
        if not _changes(self.members.field, "project"):
            return y
        try:
            x = self._bare[0].project(y)  # type: ignore[operator]
        except (RuntimeError, NotImplementedError):
            x = None
        if x is None or any(leaf.is_meta for leaf in leaves_of(x)):
            raise IncompatibleError(
                f"project of {type(self._bare[0]).__name__} depends on weights, which an ensemble "
                "does not support: solve the members one by one"
            )
        return x

    def forward(self, t: Tensor, y: State) -> State:
        """The slopes of all members, ``(N, ...)`` to ``(N, ...)``.

        Raises:
            ProblemError: the first axis of the state does not count the members.
        """
        self._check(y)
        if getattr(self.members.field, "stackable", False):
            return self.members.field(t, y)
        return self._each("forward", (0 if t.dim() else None, 0), t, y)

    def _each(self, method: str, axes: tuple[int | None, ...], *args: State) -> State:
        if torch.compiler.is_compiling():
            named = {**dict(self.members.named_parameters()), **dict(self.members.named_buffers())}

            def called(own: dict[str, Tensor], *args: State) -> State:
                return functional_call(self.members, own, (method, *args))

            return vmap(called, in_dims=(0, *axes))(named, *args)

        # The same by hand: for small members most of the time of a call went into bookkeeping.
        stacked = [table[name] for table, name in self._places]
        count = len(args)

        def one(*each: State) -> State:
            for (table, name), own in zip(self._places, each[count:], strict=True):
                table[name] = own
            return self.members(method, *each[:count])

        try:
            return vmap(one, in_dims=(*axes, *(0,) * len(stacked)))(*args, *stacked)
        finally:
            for (table, name), whole in zip(self._places, stacked, strict=True):
                table[name] = whole

    def _check(self, y: State) -> None:
        for leaf in leaves_of(y):
            if leaf.dim() == 0 or leaf.shape[0] != self.count:
                raise ProblemError(
                    f"an ensemble of {self.count} fields needs a state with {self.count} rows, one "
                    f"for each member, got shape {tuple(leaf.shape)}; for one start for all write "
                    f"y0.expand({self.count}, *y0.shape)"
                )


class _Methods(nn.Module):
    """Lets ``functional_call`` reach ``lift`` beside ``forward``."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, method: str, *args: State) -> State:
        if method == "forward":
            return self.field(*args)
        return getattr(self.field, method)(*args)


def _tables(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return module._parameters, module._buffers


def _listed(fields: Any, count: int | None) -> list[nn.Module]:
    if isinstance(fields, nn.Module):
        check_size("count", 1 if count is None else count)
        return [fields] * (1 if count is None else count)
    members = list(fields) if isinstance(fields, Iterable) else [fields]
    if not members:
        raise ProblemError("fields is empty: give the members of the ensemble, or one and count=")
    if count is not None:
        raise ProblemError(
            f"count={count} makes copies of one field, but fields are {len(members)}: leave count "
            "out"
        )
    return members


def _changes(field: nn.Module, method: str) -> bool:
    own = getattr(type(field), method, None)
    return isinstance(field, Field) and own is not getattr(Field, method)


def _fill(field: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
    """Put weights of another shape in the places of a module's own, shared ones in all places."""
    wrapped = {
        name: nn.Parameter(p.detach(), requires_grad=field.get_parameter(name).requires_grad)
        for name, p in parameters.items()
    }
    _replace("_parameters", field, dict(field.named_parameters(remove_duplicate=False)), wrapped)
    _replace("_buffers", field, dict(field.named_buffers(remove_duplicate=False)), buffers)


def _replace(table: str, field: nn.Module, old: dict[str, Any], new: Mapping[str, Tensor]) -> None:
    known = {id(old[name]): value for name, value in new.items()}
    for name, value in old.items():
        path, _, attribute = name.rpartition(".")
        getattr(field.get_submodule(path), table)[attribute] = known[id(value)]


def _check_alike(members: Sequence[Any]) -> None:
    """Raises:
    IncompatibleError: not modules with weights, or modules that differ in more.
    """  # noqa: D205 - nothing to say beyond the error
    first = members[0]
    for i, member in enumerate(members):
        if not isinstance(member, nn.Module) or not [*member.parameters(), *member.buffers()]:
            raise IncompatibleError(
                f"fields[{i}] must be an nn.Module with weights, got {type(member).__name__}; an "
                "ensemble holds fields that differ in their weights alone"
            )
        if member is first:
            continue
        place = _difference(first, member, set())
        if place is not None:
            raise IncompatibleError(
                f"fields[{i}] differs from fields[0] in {place or 'its type'}: the members of an "
                "ensemble differ in their weights alone; solve others one by one"
            )


def _difference(a: Any, b: Any, seen: set[tuple[int, int]]) -> str | None:
    """Where two things differ, as a dotted path; None where only values of weights do."""
    if a is b or (id(a), id(b)) in seen:
        return None
    if type(a) is not type(b):
        return ""
    seen.add((id(a), id(b)))
    if isinstance(a, Tensor):
        return None if a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b) else ""
    if isinstance(a, nn.Module):
        return _first(_module_parts(a, b, seen))
    if isinstance(a, dict):
        if list(a) != list(b):
            return ""
        return _first((str(key), _difference(a[key], b[key], seen)) for key in a)
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return ""
        pairs = enumerate(zip(a, b, strict=True))
        return _first((str(i), _difference(x, y, seen)) for i, (x, y) in pairs)
    if isinstance(a, FunctionType):
        ours, theirs = ((f.__code__, f.__defaults__, f.__kwdefaults__, _cells(f)) for f in (a, b))
        return _difference(ours, theirs, seen)
    if isinstance(a, MethodType):
        return _difference((a.__func__, a.__self__), (b.__func__, b.__self__), seen)
    if _is_equal(a, b):
        return None
    return "" if isinstance(a, _PLAIN) else _difference(_inside(a), _inside(b), seen)


def _is_equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError, TypeError):  # arrays have no truth
        return False


def _inside(x: Any) -> Any:
    """What a thing consists of, as ``pickle`` sees it; the thing's place where nobody can tell."""
    try:
        parts = x.__reduce_ex__(4)
    except TypeError:
        return id(x)
    return (parts[0], parts[1], *map(_listing, parts[2:])) if isinstance(parts, tuple) else parts


def _listing(part: Any) -> Any:
    return list(part) if isinstance(part, Iterator) else part


def _module_parts(
    a: nn.Module, b: nn.Module, seen: set[tuple[int, int]]
) -> Iterator[tuple[str, str | None]]:
    """Names and differences of what two modules consist of, weights by their layout."""
    tables = ("_parameters", "_buffers")
    for table in tables:
        ours, theirs = getattr(a, table), getattr(b, table)
        yield "its weights", None if list(ours) == list(theirs) else ""
        for name, x in ours.items():
            yield name, None if _layout(x) == _layout(theirs[name]) else ""
    rest = [{k: v for k, v in vars(m).items() if k not in tables} for m in (a, b)]
    yield "", None if list(rest[0]) == list(rest[1]) else "its attributes"
    for name, value in rest[0].items():
        yield "" if name == "_modules" else name, _difference(value, rest[1][name], seen)


def _layout(x: Tensor | None) -> tuple[Any, ...] | None:
    return None if x is None else (x.shape, x.dtype, x.device, x.requires_grad)


def _cells(function: Any) -> tuple[Any, ...]:
    return tuple(cell.cell_contents for cell in function.__closure__ or ())


def _first(parts: Iterable[tuple[str, str | None]]) -> str | None:
    for name, found in parts:
        if found is not None:
            return ".".join(filter(None, (name, found)))
    return None
