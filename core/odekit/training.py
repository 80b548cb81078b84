"""Training: a field and observed data in, a fitted field and the record of it out.

Trainers are plugins. What a trainer may ask of a field, beyond being an ``nn.Module``, is written
here: a field that knows the units of its data is a `ScaledField`, one that can say what its hidden
state looks like is a `GuessingField`, and one with a ``recipe`` can be saved and built again.

Shapes: a series is ``t (n,)``, ``y (n, d)``; units are the caller's throughout.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, final, runtime_checkable

import torch
from torch import Tensor, nn

from odekit.errors import IncompatibleError, ProblemError
from odekit.registry import create, resolve
from odekit.series import TimeSeries

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = "odekit fit 1"


@runtime_checkable
class ScaledField(Protocol):
    """A field that keeps its weights of order one and carries the units of its data itself."""

    def rescale(
        self, center: Tensor, scale: Tensor, rate: Tensor, span: tuple[float, float]
    ) -> None:
        """Adopt the units of the user's values, each ``(d,)``.

        Args:
            center: their mean.
            scale: their standard deviation.
            rate: the standard deviation of their slopes.
            span: first and last time.
        """
        ...


@runtime_checkable
class GuessingField(Protocol):
    """A field with hidden states that follow from the user's values and their slopes."""

    def guess(self, x: Tensor, slope: Tensor) -> Tensor:
        """``(n, d)`` twice to integrated states ``(n, D)``."""
        ...


@final
@dataclass(frozen=True)
class Recipe:
    """How to build a field again: the name of its component and the options it was made with.

    Attributes:
        name: the component of kind ``field``.
        options: numbers, words, and recipes of inner fields.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """A new field, with its initial weights."""
        options = {
            key: value.build() if isinstance(value, Recipe) else value
            for key, value in self.options.items()
        }
        return create("field", self.name, **options)  # type: ignore[no-any-return]

    def plain(self) -> dict[str, Any]:
        """Nested dicts, for a file."""
        options = {
            key: value.plain() if isinstance(value, Recipe) else value
            for key, value in self.options.items()
        }
        return {"recipe": self.name, "options": options}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `plain`."""
        options = {
            key: cls.of_plain(value) if isinstance(value, dict) and "recipe" in value else value
            for key, value in plain["options"].items()
        }
        return cls(plain["recipe"], options)


@final
@dataclass(frozen=True)
class Fit:
    """A trained field with the record of its training.

    Attributes:
        field: the field that was handed to `fit`, trained in place.
        loss: mean squared residual of the data, each state in units of its standard deviation.
        history: DataFrame, one row per step of the trainer.
        series: the trajectories it was trained on, which `postprocess` judges equations by; None
            after `load`, and where they were of several systems.
    """

    field: nn.Module
    loss: float
    history: pd.DataFrame
    series: tuple[TimeSeries, ...] | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, recipe and history to one file; all of it or nothing.

        Raises:
            ProblemError: the file cannot be written there.
        """
        recipe = getattr(self.field, "recipe", None)
        write_tensors(
            path,
            {
                "format": _FORMAT,
                "recipe": recipe.plain() if isinstance(recipe, Recipe) else None,
                "weights": self.field.state_dict(),
                "loss": float(self.loss),
                "history": self.history.to_dict("list"),
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], field: nn.Module | None = None) -> Self:
        """Read what `save` wrote; no code in the file is ever run.

        Args:
            path: the file.
            field: receives the weights; needed only for a field without a recipe, one built from
                a function of your own, for example.

        Raises:
            ProblemError: no such file, not one of these files, or no field to put the weights in.
        """
        import pandas as pd

        data = read_tensors(path)
        if data.get("format") != _FORMAT:
            raise ProblemError(f"path: {str(path)!r} was not written by Fit.save")
        if field is None:
            if data["recipe"] is None:
                raise ProblemError(
                    f"path: {str(path)!r} holds the weights of a field that cannot be built from "
                    "its name: make the field and write Fit.load(path, field=...)"
                )
            field = Recipe.of_plain(data["recipe"]).build()
        try:
            field.load_state_dict(data["weights"])
        except RuntimeError as error:
            raise ProblemError(f"field does not fit to {str(path)!r}: {error}") from None
        return cls(field, data["loss"], pd.DataFrame(data["history"]))


class Trainer(ABC):
    """Fit the parameters of a field to observed data. Options are constructor arguments."""

    @abstractmethod
    def fit(self, field: nn.Module, series: Sequence[Any]) -> Fit:
        """Train ``field`` in place on one or several series.

        Raises:
            ProblemError: data or a field that cannot be trained, and why.
        """


def fit(
    field: nn.Module,
    series: TimeSeries | Sequence[Any],
    *,
    trainer: str | Trainer | None = None,
    **options: Any,
) -> Fit:
    """Train a field on observed data.

    Args:
        field: any ``nn.Module`` called ``field(t, y)``; trained in place.
        series: one `TimeSeries`, or several trajectories of one system; irregular times and
            missing values are fine. What a function encoder takes is a list of lists, one list
            per system.
        trainer: name or instance; by default the one that the field names in its attribute
            ``trainer``, else ``"shooting"``.
        **options: passed to the trainer's constructor when it is given by name.

    Returns:
        The trained field, its loss and its history.

    Raises:
        ProblemError: data or a field that cannot be trained, and why.
        IncompatibleError: not a field, or an option that the trainer does not take.

    Example:
        >>> import torch, odekit
        >>> t = torch.linspace(0.0, 2.0, 21)
        >>> series = odekit.TimeSeries(t, torch.exp(-t))
        >>> field = odekit.create("field", "linear", dim=1)
        >>> odekit.fit(field, series).field.weight.item()  # doctest: +ELLIPSIS
        -1.0...
    """
    if not isinstance(field, nn.Module):
        raise IncompatibleError(
            f"field must be an nn.Module with parameters to train, got {type(field).__name__}; "
            "odekit.components('field') lists ready-made ones"
        )
    if not any(parameter.requires_grad for parameter in field.parameters()):
        raise ProblemError(f"{type(field).__name__} has no parameters to train")
    choice = trainer or getattr(field, "trainer", "shooting")
    if not isinstance(choice, str) and options:
        raise IncompatibleError(
            f"the options {', '.join(options)} go to the constructor of {type(choice).__name__}"
        )
    chosen = resolve("trainer", choice, Trainer, **options)
    several = list(series) if isinstance(series, list | tuple) else [series]
    found: Fit = chosen.fit(field, several)
    trajectories = tuple(one for one in several if isinstance(one, TimeSeries))
    return replace(found, series=trajectories) if len(trajectories) == len(several) else found


def check_series(series: Sequence[Any]) -> list[TimeSeries]:
    """The series, all of them `TimeSeries` of the same states without inputs.

    Raises:
        ProblemError: what cannot be used, and what to give instead.
        IncompatibleError: something else than a `TimeSeries`.
    """
    several = list(series)
    if not several:
        raise ProblemError("series is empty: give a TimeSeries, or a list of them")
    for one in several:
        if not isinstance(one, TimeSeries):
            raise IncompatibleError(
                f"series must be a TimeSeries or a list of them, got {type(one).__name__}; write "
                "odekit.TimeSeries(t, y)"
            )
        if one.u is not None:
            raise ProblemError(
                f"series has inputs ({', '.join(one.input_names)}), which fields do not see: drop "
                "them, or make them states"
            )
    widths = {one.dim for one in several}
    if len(widths) > 1:
        raise ProblemError(f"all series must have the same states, got widths {sorted(widths)}")
    return several


def write_tensors(path: str | os.PathLike[str], data: dict[str, Any]) -> None:
    """Write plain data and tensors with ``torch.save``; all of it or nothing.

    Raises:
        ProblemError: the file cannot be written there.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        torch.save(data, temporary)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise ProblemError(f"path: cannot write {str(target)!r}: {error}") from None


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_tensors` wrote, on the CPU, with ``weights_only=True``.

    Raises:
        ProblemError: no such file, or something else in it.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ProblemError(f"path: there is no file {str(path)!r}") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProblemError(f"path: {str(path)!r} is no file of weights: {reason}") from None
    if not isinstance(data, dict):
        raise ProblemError(f"path: {str(path)!r} is no file of weights: it holds no dict")
    return data
