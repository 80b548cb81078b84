"""The checks of a field: what every solver and trainer takes for granted about it."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from odekit.field import Field, State
from odekit.solve import solve
from odekit.testing.cases import DOUBLE
from odekit.testing.conformance import (
    Conformance,
    ConformanceError,
    NotApplicable,
    check,
    require,
    require_close,
)
from odekit.testing.convergence import distance, largest, leaves, same, snapshot

SAMPLES = 5


class FieldConformance(Conformance):
    """Everything a field promises.

    Subclass it and say in ``make`` how to build the field, and in ``example`` what its values
    look like where that is neither ``(samples, dim)`` nor ``(samples, 2 dim)``. A field that has
    weights for each sample says by ``member(i)`` which field a sample has alone.

    Attributes:
        dim: number of states that ``make`` builds the field for.
    """

    dim: int = 2

    def example(self) -> State:
        """A batch of the user's values in float64, samples first.

        Raises:
            ConformanceError: the field takes none of the usual layouts.
        """
        field = self._double()
        wide, twice = (_wave(SAMPLES, n * self.dim) for n in (1, 2))
        refusal: Exception | None = None
        for value in (wide, twice, (wide, wide.flip(0))):
            try:
                field(_time(), _lift(field, value))
            except Exception as error:
                refusal = refusal or error
            else:
                return value
        raise ConformanceError(
            f"the field takes neither (samples, {self.dim}) nor (samples, {2 * self.dim}), as a "
            f"tensor or as a pair ({refusal}); override example()"
        )

    @check
    def test_slope(self) -> str:
        """The slope has the structure, the shapes and the dtype of the state."""
        for dtype in (torch.float32, torch.float64):
            field = self.make()
            if isinstance(field, nn.Module):
                field = field.to(dtype)
            state = _lift(field, _map(lambda x, dtype=dtype: x.to(dtype), self.example()))
            slope = field(torch.tensor(0.3, dtype=dtype), state)
            require(type(slope) is type(state), f"a {type(state).__name__} gives {type(slope)}")
            for y, k in zip(leaves(state), leaves(slope), strict=True):
                require(
                    k.shape == y.shape and k.dtype == y.dtype,
                    f"a state of {y.dtype} and shape {tuple(y.shape)} has a slope of {k.dtype} "
                    f"and shape {tuple(k.shape)}",
                )
        return "float32, float64"

    @check
    def test_lift_project(self) -> str:
        """``project`` undoes ``lift``, for one value and for rows of a solution."""
        field, x = self._double(), self.example()
        state = _lift(field, x)
        back = _project(field, state)
        gap = _gap(back, x)
        rows = _project(field, _map(lambda y: torch.stack([y, y]), state))
        for row, wanted in zip(leaves(rows), leaves(x), strict=True):
            require(
                row.shape == (2, *wanted.shape),
                f"project turns rows of a solution into shape {tuple(row.shape)}",
            )
        return require_close(gap, 1e-12, "project(lift(x)) and x")

    @check
    def test_samples_apart(self) -> str:
        """A batch is its samples one by one; none sees another."""
        field, x = self._double(), self.example()
        whole = field(_time(), _lift(field, x))
        own = [_alone(field, i) for i in range(SAMPLES)]
        alone = [f(_time(), _lift(f, _map(lambda y, i=i: y[i], x))) for i, f in enumerate(own)]
        gap = largest(
            *(_gap(_map(lambda y, i=i: y[i], whole), part) for i, part in enumerate(alone))
        )
        return require_close(gap, 1e-12, "slopes in a batch and alone")

    @check
    def test_time_per_sample(self) -> str:
        """``t (samples,)`` gives each sample the slope at its own time."""
        field, state = self._double(), _lift(self._double(), self.example())
        times = torch.linspace(-1.0, 2.0, SAMPLES, dtype=DOUBLE)
        whole = field(times, state)
        gap = 0.0
        for i, t in enumerate(times):
            part = _alone(field, i)(t, _map(lambda y, i=i: y[i : i + 1], state))
            gap = largest(gap, _gap(_map(lambda y, i=i: y[i : i + 1], whole), part))
        return require_close(gap, 1e-12, "slopes at times per sample and at each time alone")

    @check
    def test_solve(self) -> str:
        """It is solved, per sample as alone, and the result looks like the value handed in."""
        field, x = self._double(), self.example()
        batch = solve(field, x, [0.0, 0.2, 0.5], per_sample=True)
        for y, wanted in zip(leaves(batch.y), leaves(x), strict=True):
            require(y.shape == (3, *wanted.shape), f"the solution has shape {tuple(y.shape)}")
        first = _alone(field, 0)
        alone = solve(first, _map(lambda v: v[:1], x), [0.0, 0.2, 0.5], per_sample=True)
        gap = _gap(_map(lambda y: y[:, :1], batch.y), alone.y)
        return require_close(gap, 1e-10, "a sample solved beside others and alone")

    @check
    def test_parameter_gradients(self) -> str:
        """Gradients through a solve reach the parameters and are finite."""
        field = self._double()
        found = dict(field.named_parameters()) if isinstance(field, nn.Module) else {}
        if not found:
            raise NotApplicable("it has no parameters")
        y = solve(field, self.example(), [0.0, 0.5]).y
        loss = torch.stack([(leaf[-1] ** 2).sum() for leaf in leaves(y)]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        grads = {name: p.grad for name, p in found.items() if p.grad is not None}
        for name, grad in grads.items():
            require(bool(torch.isfinite(grad).all()), f"the gradient of {name} is not finite")
        reached = [name for name, grad in grads.items() if bool(grad.any())]
        require(bool(reached), "no parameter gets a gradient through a solve")
        return f"{len(reached)} of {len(found)} parameters"

    @check
    def test_no_grad(self) -> str:
        """Under ``no_grad`` it gives the same slope and records nothing."""
        field, state = self._double(), _lift(self._double(), self.example())
        with torch.no_grad():
            quiet = field(_time(), state)
        require(not any(x.requires_grad for x in leaves(quiet)), "no_grad records a graph")
        return require_close(_gap(quiet, field(_time(), state)), 0.0, "slopes under no_grad")

    @check
    def test_torch_func(self) -> str:
        """``torch.func.jacrev`` and ``vmap`` go through it and agree with autograd."""
        field, x = _alone(self._double(), 0), self.example()
        state = _lift(field, x)
        if not isinstance(state, Tensor):
            raise NotApplicable("its state is not one tensor")
        one = state[0].detach()
        slow = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
            lambda y: field(_time(), y), one
        )
        fast = torch.func.jacrev(lambda y: field(_time(), y))(one)
        mapped = torch.func.vmap(lambda y: field(_time(), y))(state.detach())
        gap = largest(distance(fast, slow), distance(mapped, field(_time(), state)))
        return require_close(gap, 1e-10, "torch.func and autograd")

    @check
    def test_traced(self) -> str:
        """``torch.compile`` takes it whole, without a graph break."""
        field, state = self._double(), _lift(self._double(), self.example())
        torch.compiler.reset()
        try:
            traced = torch.compile(
                lambda t, y: field(t, y), fullgraph=True, backend="eager", dynamic=False
            )(_time(), state)
        except Exception as error:
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            raise ConformanceError(f"torch.compile(fullgraph=True) refuses it: {first}") from error
        finally:
            torch.compiler.reset()
        return require_close(_gap(traced, field(_time(), state)), 1e-12, "traced and eager slopes")

    @check
    def test_pure(self) -> str:
        """The same question, the same answer; nothing is drawn, changed or written."""
        field, state = self._double(), _lift(self._double(), self.example())
        weights = snapshot(dict(field.state_dict())) if isinstance(field, nn.Module) else {}
        random, given = torch.get_rng_state(), snapshot(state)
        first = snapshot(field(_time(), state))
        field(_time() + 1, _map(lambda y: 2 * y, state))
        require(same(first, snapshot(field(_time(), state))), "the same point has another slope")
        require(same(given, snapshot(state)), "the field changes the state in place")
        require(torch.equal(random, torch.get_rng_state()), "the field draws random numbers")
        after = snapshot(dict(field.state_dict())) if isinstance(field, nn.Module) else {}
        require(same(weights, after), "the field changes its own weights when called")
        return ""

    @check
    def test_weights_file(self) -> str:
        """Weights saved and loaded again, with ``weights_only=True``, give the same slope."""
        field, state = self._double(), self.example()
        if not isinstance(field, nn.Module) or not field.state_dict():
            raise NotApplicable("it has no weights")
        file = io.BytesIO()
        torch.save(field.state_dict(), file)
        file.seek(0)
        other = self._double()
        with torch.no_grad():
            for p in other.parameters():
                p.add_(1.0)
        other.load_state_dict(torch.load(file, weights_only=True))
        ours, theirs = (f(_time(), _lift(f, state)) for f in (field, other))
        return require_close(_gap(ours, theirs), 0.0, "slopes before and after the file")

    def _double(self) -> Any:
        field = self.make()
        return field.double() if isinstance(field, nn.Module) else field


def _time() -> Tensor:
    return torch.tensor(0.3, dtype=DOUBLE)


def _wave(samples: int, dim: int) -> Tensor:
    return torch.arange(1, samples * dim + 1, dtype=DOUBLE).cos().reshape(samples, dim)


def _alone(field: Any, i: int) -> Any:
    """The field of one sample: the field itself, unless each sample has its own."""
    return field.member(i) if hasattr(field, "member") else field


def _lift(field: Any, x: State) -> State:
    return field.lift(x) if isinstance(field, Field) else x


def _project(field: Any, y: State) -> State:
    return field.project(y) if isinstance(field, Field) else y


def _map(function: Any, tree: State) -> State:
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map(function, value) for key, value in tree.items()}
    return type(tree)([_map(function, value) for value in tree])


def _gap(a: State, b: State) -> float:
    return largest(*(distance(x, y) for x, y in zip(leaves(a), leaves(b), strict=True)))
