"""Names to components: entry points in, classes out.

Nothing is loaded when this module is imported. The first look-up loads every plugin's
``plugin.py``, in the order of their names; the class behind a component is imported when that
component is asked for. A plugin that fails to load is kept in `Registry.broken` and harms
nobody else.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import reprlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from odekit import plugin as hookspecs
from odekit.errors import (
    BrokenPluginError,
    IncompatibleError,
    MissingDependencyError,
    NameConflictError,
    PluginWarning,
    ProblemError,
    UnknownNameError,
)
from odekit.plugin import GROUP, Component, Kind

DISABLE = "ODEKIT_DISABLE_PLUGINS"
FAMILY = 4
"""Names that differ in their last number only, from this many on, are listed as one piece."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One component with where it comes from.

    Attributes:
        component: the announcement.
        plugin: name of the entry point.
        point: the entry point.
    """

    component: Component
    plugin: str
    point: EntryPoint

    @property
    def distribution(self) -> str:
        """Name and version of the installed distribution, or ``""``; read from its files."""
        return _origin(self.point)

    @property
    def name(self) -> str:
        """The bare name."""
        return self.component.name

    @property
    def kind(self) -> Kind:
        """The kind of component."""
        return self.component.kind

    @property
    def full_name(self) -> str:
        """``plugin:name``, which is unique."""
        return f"{self.plugin}:{self.component.name}"

    def load(self) -> Any:
        """The class behind the component.

        Raises:
            MissingDependencyError: an optional package is not installed.
            BrokenPluginError: the path does not lead to anything.
        """
        for package in self.component.needs:
            if importlib.util.find_spec(package) is None:
                extra = self.component.extra
                distribution = self.distribution.split(" ")[0] or GROUP
                remedy = f"'{distribution}[{extra}]'" if extra else package
                raise MissingDependencyError(
                    f"{self.kind} {self.name!r} needs {package}; try: pip install {remedy}"
                )
        module, _, attribute = self.component.path.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise BrokenPluginError(
                f"{self.kind} {self.full_name!r} is announced as {self.component.path!r}, which "
                f"cannot be imported ({error}); reinstall {self.distribution or self.plugin}"
            ) from error


class Registry:
    """Every component that the installed plugins offer.

    Args:
        points: the entry points to use; by default those installed in the group ``odekit``,
            less the ones named in the environment variable ``ODEKIT_DISABLE_PLUGINS``.
    """

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self._points = None if points is None else tuple(points)
        self._broken: dict[str, BaseException] = {}
        self._found: dict[tuple[Kind, str], Entry] = {}

    @property
    def broken(self) -> dict[str, BaseException]:
        """Entry points that could not be loaded, with their exceptions."""
        _ = self._manager
        return self._broken

    @property
    def hook(self) -> Any:
        """The hooks of all loaded plugins, for the command line's frame."""
        return self._manager.hook

    @functools.cached_property
    def _manager(self) -> pluggy.PluginManager:
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        points = entry_points(group=GROUP) if self._points is None else self._points
        disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")}
        for point in sorted(points, key=lambda point: point.name):
            if point.name not in disabled:
                self._register(manager, point)
        return manager

    def _register(self, manager: pluggy.PluginManager, point: EntryPoint) -> None:
        taken = self._values.setdefault(point.name, point.value)
        if taken == point.value and (
            point.name in self._broken or manager.get_plugin(point.name) is not None
        ):
            return  # the same distribution seen twice on the path
        if taken != point.value:
            self._refuse(
                point,
                f"{point.name} ({_origin(point) or point.value})",
                NameConflictError(
                    f"another plugin, {taken}, has the entry point {point.name!r} already; one of "
                    "the two must be renamed by its author or uninstalled"
                ),
            )
            return
        try:
            module = point.load()
            manager.register(module, point.name)
            for hook in manager.get_hookcallers(module) or ():
                if hook.name == "odekit_components":
                    for component in module.odekit_components():
                        self._entries.append(Entry(component, point.name, point))
        except Exception as error:
            if manager.get_plugin(point.name) is not None:
                manager.unregister(name=point.name)
            self._entries[:] = [e for e in self._entries if e.plugin != point.name]
            self._refuse(point, point.name, error)

    def _refuse(self, point: EntryPoint, name: str, error: Exception) -> None:
        self._broken[name] = error
        warnings.warn(
            f"plugin {point.name!r} ({point.value}) was left out: {type(error).__name__}: {error}",
            PluginWarning,
            stacklevel=5,
        )

    @functools.cached_property
    def _values(self) -> dict[str, str]:
        return {}

    @functools.cached_property
    def _entries(self) -> list[Entry]:
        return []

    def components(self, kind: Kind | str | None = None) -> list[Entry]:
        """All entries, or those of one kind, sorted by kind and name."""
        _ = self._manager
        wanted = None if kind is None else _kind(kind)
        found = [e for e in self._entries if wanted is None or e.kind is wanted]
        return sorted(found, key=lambda e: (list(Kind).index(e.kind), e.name, e.plugin))

    def find(self, kind: Kind | str, name: str) -> Entry:
        """The entry of this name, bare (``"tsit5"``) or full (``"rk:tsit5"``).

        Raises:
            UnknownNameError: nothing has this name.
            NameConflictError: two plugins share the bare name.
        """
        kind = _kind(kind)
        known = self._found.get((kind, name))
        if known is not None:
            return known
        entries = self.components(kind)
        found = [e for e in entries if name in (e.name, e.full_name)]
        if len(found) == 1:
            return self._found.setdefault((kind, name), found[0])
        if found:
            choices = ", ".join(repr(e.full_name) for e in found)
            raise NameConflictError(f"{kind} {name!r} is offered more than once: write {choices}")
        names = sorted({e.name for e in entries})
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        off = os.environ.get(DISABLE)
        more = f" ({DISABLE} leaves out {off})" if off else ""
        raise UnknownNameError(
            f"unknown {kind} {name!r}: {hint}installed: {', '.join(shorten(names)) or 'none'}{more}"
        )

    def create(self, kind: Kind | str, name: str, **options: Any) -> Any:
        """An instance of the component, built with ``options``.

        Raises:
            IncompatibleError: an option that the class does not take.
        """
        factory = self.find(kind, name).load()
        if not options and not _asks(factory):
            return factory()
        try:
            _signature(factory).bind(**options)
        except TypeError as error:
            accepted = ", ".join(_signature(factory).parameters) or "none"
            raise IncompatibleError(
                f"{_kind(kind)} {name!r}: {error}; its options are: {accepted}"
            ) from None
        return factory(**options)


def shorten(names: Iterable[str]) -> list[str]:
    """The names, each numbered family of four or more as one piece.

    Example:
        >>> shorten(["rk4", "case_1", "case_2", "case_3", "case_10"])
        ['rk4', 'case_1 to case_10']
    """
    families: dict[str, list[str]] = {}
    for name in names:
        stem = re.sub(r"(?<=_)\d+$", "", name)
        families.setdefault(stem if stem != name else name, []).append(name)
    found: list[str] = []
    for family in families.values():
        family.sort(key=lambda name: (len(name), name))
        found += family if len(family) < FAMILY else [f"{family[0]} to {family[-1]}"]
    return found


_signature = functools.cache(inspect.signature)


@functools.cache
def _asks(factory: Any) -> bool:
    """Whether the class cannot be built without arguments."""
    parameters = _signature(factory).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.default is p.empty and p.kind not in variadic for p in parameters)


def _kind(kind: Kind | str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        choices = ", ".join(Kind)
        raise ProblemError(f"unknown kind {kind!r}: write one of {choices}") from None


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else ""


@functools.cache
def default_registry() -> Registry:
    """The registry of the installed plugins, made once per process."""
    return Registry()


def components(kind: Kind | str | None = None) -> list[Entry]:
    """Every installed component, or those of one kind."""
    return default_registry().components(kind)


def create(kind: Kind | str, name: str, **options: Any) -> Any:
    """An instance of an installed component: ``create("solver", "tsit5")``.

    Args:
        kind: a `Kind` or its lower-case name.
        name: the component's name, bare or as ``plugin:name``.
        **options: arguments of the component's constructor.

    Raises:
        UnknownNameError, NameConflictError: the name leads nowhere, or to two plugins.
        MissingDependencyError: the component needs a package that is not installed.
        IncompatibleError: an option that the component does not take.
    """
    return default_registry().create(kind, name, **options)


def resolve(kind: Kind | str, choice: Any, base: type | Sequence[type], **options: Any) -> Any:
    """A name turned into an instance; an instance of ``base`` is handed back as it is.

    Raises:
        IncompatibleError: neither a name nor an instance, a class for example.
    """
    if isinstance(choice, str):
        return create(kind, choice, **options)
    if isinstance(choice, base if isinstance(base, type) else tuple(base)):
        return choice
    if isinstance(choice, type):
        seen = f"the class {choice.__name__}"
    else:
        seen = " ".join(reprlib.repr(choice).split())
    names = ", ".join(sorted({e.name for e in components(kind)}))
    raise IncompatibleError(
        f"{_kind(kind)} must be a name or an instance, got {seen}; names: {names}"
    )
