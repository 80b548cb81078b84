"""Fields made of formulas.

Formulas are read by a whitelist and become torch calls once, when the field is made. A function
of torch calls written by hand is about as fast, and shorter where the equations are known in
advance.

Shapes: ``y`` is ``(..., d)``, ``t`` is 0-d or ``(lanes,)``, inputs are ``(m,)`` or ``(..., m)``;
    axes in front are samples.
Units: those of the formulas.
"""

from __future__ import annotations

import functools
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from odekit.errors import ProblemError
from odekit.field import Field
from odekit.formulas import check_symbols, parse
from odekit.monomials import Monomials
from odekit.program import Program


class SymbolicField(Field, ABC):
    """A field whose values come from expressions in states, time, inputs and parameters.

    Args:
        names: the states, in the order of the state's components.
        inputs: the inputs.
        time: name of time.
        parameters: further names, whose values a subclass gives to `evaluate`.
        expressions: what to compute.
    """

    def __init__(
        self,
        names: Sequence[str],
        inputs: Sequence[str],
        time: str,
        parameters: Sequence[str],
        expressions: Sequence[Any],
    ) -> None:
        super().__init__()
        self.names, self.inputs, self.time = tuple(names), tuple(inputs), time
        self._program = Program((*names, time, *inputs, *parameters), expressions)
        free = [{str(symbol) for symbol in expression.free_symbols} for expression in expressions]
        self._timed = any(time in symbols for symbols in free)
        self._driven = any(not symbols.isdisjoint(inputs) for symbols in free)
        # Only expressions with a state in them come out in the state's shape by themselves.
        self._full = tuple(not symbols.isdisjoint(names) for symbols in free)

    def evaluate(
        self, t: Tensor, y: Tensor, u: Any = None, parameters: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """The expressions at ``(t, y)``, each in the shape of one component of ``y``.

        Raises:
            ProblemError: ``y`` has another number of components, or inputs are missing.
        """
        self._check(y)
        columns = y.unbind(-1)
        like = columns[0]
        time = _align(t, like) if self._timed else t
        drives = self._drives(t, u, like) if self._driven else (None,) * len(self.inputs)
        values = self._program.run(
            (*columns, time, *drives, *[_align(value, like) for value in parameters])
        )
        if all(self._full):
            return values
        return [v if f else _spread(v, like) for v, f in zip(values, self._full, strict=True)]

    def _check(self, y: Tensor) -> None:
        if y.dim() == 0 or y.shape[-1] != len(self.names):
            raise ProblemError(
                f"y must have {len(self.names)} components ({', '.join(self.names)}) along its "
                f"last axis, got shape {tuple(y.shape)}"
            )

    def _drives(self, t: Tensor, u: Any, like: Tensor) -> tuple[Tensor, ...]:
        u = u(t) if callable(u) else u
        if not isinstance(u, Tensor) or u.dim() == 0 or u.shape[-1] != len(self.inputs):
            seen = f"shape {tuple(u.shape)}" if isinstance(u, Tensor) else f"{type(u).__name__}"
            raise ProblemError(
                f"the field has the inputs {', '.join(self.inputs)}: call it (t, y, u) with u a "
                f"tensor whose last axis has {len(self.inputs)} entries, or a function of t that "
                f"gives one; got {seen}"
            )
        return tuple(_align(drive, like) for drive in u.unbind(-1))


@final
class FormulaField(SymbolicField):
    """The field of formulas such as ``{"x": "y", "y": "-k*x"}``.

    Called ``(t, y)``, or ``(t, y, u)`` when it has inputs, with ``u`` a tensor ``(..., m)`` or a
    function of ``t`` that gives one. The answer has the shape and dtype of ``y``.

    Args:
        formulas: right-hand side of each state, in the order of the state's components.
        parameters: values of further names: numbers, or tensors ``(lanes,)`` for a value per
            sample. Numbers are kept in float64.
        inputs: names of the inputs.
        time: name of time.
        trainable: make the parameters learnable; otherwise they are buffers.

    Raises:
        ProblemError: a formula that cannot be read, or a name that stands for two things.

    Example:
        >>> spring = FormulaField({"x": "v", "v": "-k*x"}, {"k": 4.0})
        >>> spring(torch.tensor(0.0), torch.tensor([1.0, 0.5]))
        tensor([ 0.5000, -4.0000])
    """

    def __init__(
        self,
        formulas: Mapping[str, str],
        parameters: Mapping[str, Any] | None = None,
        inputs: Sequence[str] = (),
        time: str = "t",
        *,
        trainable: bool = False,
    ) -> None:
        if not formulas:
            raise ProblemError("formulas: there is no state: write one as {'x': '-x'}")
        given = dict(parameters or {})
        variables = (*formulas, time, *inputs, *given)
        check_symbols(variables)
        expressions = [parse(text, variables) for text in formulas.values()]
        super().__init__(tuple(formulas), inputs, time, tuple(given), expressions)
        self.formulas = dict(formulas)
        self._given = tuple(f"parameter_{name}" for name in given)
        self._per_sample = False
        for name, value in given.items():
            tensor = _parameter(name, value)
            self._per_sample |= tensor.dim() > 0
            if trainable:
                self.register_parameter(f"parameter_{name}", nn.Parameter(tensor))
            else:
                self.register_buffer(f"parameter_{name}", tensor)

    @property
    def constants(self) -> dict[str, Tensor]:
        """The parameters by their names."""
        return {name.removeprefix("parameter_"): getattr(self, name) for name in self._given}

    def forward(self, t: Tensor, y: Tensor, u: Any = None) -> Tensor:
        """The slope, like ``y``.

        Raises:
            ProblemError: ``y`` has another number of components, inputs are missing, or ``y``
                has no axis of samples although parameters have.
        """
        if self._per_sample and y.dim() < 2:
            raise ProblemError(
                "parameters differ from sample to sample, so y needs samples in front: shape "
                f"(lanes, {len(self.names)}), got {tuple(y.shape)}"
            )
        return torch.stack(
            self.evaluate(t, y, u, [getattr(self, name) for name in self._given]), dim=-1
        )


DENSE = 20_000
"""Most entries of a matrix that makes sums by a product, which is faster for few terms."""


WRITTEN_OUT = 500
"""Most terms whose sums are handed to a compiler one by one."""


@final
class TermField(SymbolicField):
    """Sums of terms with one learnable coefficient each: what `Equations.field` gives.

    Each distinct term is computed once, and all sums are one matrix product. The coefficients of
    many such fields may be given in one, ``(N, terms)``, with their states ``(N, ..., d)``.

    Attributes:
        coefficients: the values, ``(terms,)`` in float64, trainable.
        pairs: for each coefficient its equation and its term, as text.
    """

    stackable: ClassVar[bool] = True

    coefficients: nn.Parameter
    sums: Tensor

    def __init__(
        self,
        names: Sequence[str],
        inputs: Sequence[str],
        time: str,
        terms: Sequence[tuple[str, str, float]],
    ) -> None:
        variables = (*names, time, *inputs)
        parsed = [parse(term, variables) for _, term, _ in terms]
        distinct = list(dict.fromkeys(parsed))
        super().__init__(names, inputs, time, (), distinct)
        self.pairs = tuple((equation, term) for equation, term, _ in terms)
        self.coefficients = nn.Parameter(
            torch.tensor([value for _, _, value in terms], dtype=torch.float64)
        )
        width = len(self.names)
        self._places = [
            distinct.index(expression) * width + self.names.index(equation)
            for expression, (equation, _, _) in zip(parsed, terms, strict=True)
        ]
        self._entries = len(distinct) * width
        sums = torch.tensor(self._places, dtype=torch.long)
        self._dense = self._entries * len(terms) <= DENSE
        if self._dense:
            sums = functional.one_hot(sums, self._entries).to(torch.float64).mT.contiguous()
        self.register_buffer("sums", sums, persistent=False)
        self._monomials = Monomials.of(distinct, self.names)
        if self._monomials is not None and not self._monomials.pays(len(self._program.calls)):
            self._monomials = None

    def forward(self, t: Tensor, y: Tensor, u: Any = None) -> Tensor:
        """The slope, like ``y``; the coefficients are taken in the dtype of ``y``.

        Raises:
            ProblemError: ``y`` has another number of components, or inputs are missing.
        """
        if torch.compiler.is_compiling() and self._is_plain():
            return self._pointwise(t, y, u)
        return self._sums(self.matrix(y.dtype), t, y, u)

    def _is_plain(self) -> bool:
        return self.coefficients.dim() == 1 and 0 < len(self.pairs) <= WRITTEN_OUT

    def _pointwise(self, t: Tensor, y: Tensor, u: Any) -> Tensor:
        """Without a matrix product, so that a compiler can make one loop of a whole step."""
        values = self.evaluate(t, y, u)
        sums: list[Tensor | None] = [None] * len(self.names)
        for c, place in zip(self.coefficients.to(y.dtype).unbind(), self._places, strict=True):
            term, equation = divmod(place, len(self.names))
            part, total = c * values[term], sums[equation]
            sums[equation] = part if total is None else total + part
        return torch.stack(
            [torch.zeros_like(y[..., 0]) if total is None else total for total in sums], dim=-1
        )

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The coefficients from distinct terms to equations, ``(distinct, d)`` for one field."""
        c, sums, width = self.coefficients, self.sums, len(self.names)
        if self._dense and sums.dtype != c.dtype:
            sums = sums.to(c.dtype)
        if c.dim() == 1 and self._dense:
            matrix = (sums @ c).view(-1, width)
        else:
            if c.dim() > 1 and c.dim() == sums.dim() - self._dense:
                sums = sums[0]  # an ensemble stacks what is the same in all its members
            empty = c.new_zeros(*c.shape[:-1], self._entries)
            flat = c @ sums.mT if self._dense else empty.index_add(-1, sums, c)
            matrix = flat.view(*c.shape[:-1], -1, width)
        return matrix if matrix.dtype == dtype else matrix.to(dtype)

    def fixed(self, dtype: torch.dtype) -> Callable[..., Tensor]:
        """The same field with the coefficients that it has now, for many calls without gradients.

        Args:
            dtype: of the states.
        """
        with torch.no_grad():
            matrix = self.matrix(dtype)
        return functools.partial(self._sums, matrix)

    def _sums(self, matrix: Tensor, t: Tensor, y: Tensor, u: Any = None) -> Tensor:
        if not self.pairs:
            return torch.zeros_like(y)
        if self._monomials is not None and self._monomials.suits(y):
            self._check(y)
            values = self._monomials.values(y)
        else:
            values = torch.stack(self.evaluate(t, y, u), dim=-1)
        if matrix.dim() > 2:
            return (
                (values.flatten(1, -2) if values.dim() > 2 else values[:, None])
                .bmm(matrix)
                .reshape(y.shape)
            )
        return values @ matrix


def _parameter(name: str, value: Any) -> Tensor:
    """A value as a tensor: 0-d, or ``(lanes,)``."""
    tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    if not tensor.is_floating_point() or tensor.dim() > 1:
        raise ProblemError(
            f"parameter {name!r} must be a number or a floating tensor (lanes,), got "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    return tensor


def _align(value: Tensor, like: Tensor) -> Tensor:
    """0-d or ``(lanes,)`` in the dtype of ``like``, with axes of one behind the lanes."""
    if value.dtype != like.dtype:
        value = value.to(like.dtype)
    if 0 < value.dim() < like.dim():
        value = value.reshape(*value.shape, *(1,) * (like.dim() - value.dim()))
    return value


def _spread(value: Any, like: Tensor) -> Tensor:
    """A constant, or a value without a state in it, in the shape of ``like``."""
    if isinstance(value, Tensor):
        return value.expand(like.shape)
    return torch.full_like(like, value)
