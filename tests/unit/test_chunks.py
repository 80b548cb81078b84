"""Solves in chunks of masked attempts give what the ordinary loop gives, and wait for nothing.

Chunks run on CPU tensors here: directly, and by a stand-in for CUDA graphs that records the
operations of a chunk and does them again on the same tensors.
"""

from __future__ import annotations

import contextlib
import math
import random
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import odekit
from odekit._engine import captured, chunk_rows, chunks, graphed, tiers
from odekit._engine.captured import Captured, Direct, NoReads
from odekit._engine.chunks import CHUNK
from odekit._engine.scalars import Unsupported
from odekit.errors import CompileWarning, Status
from odekit.solve import integrate_eagerly

DOUBLE = torch.float64
STEPS = {
    "tsit5": {"solver": "tsit5", "rtol": 1e-5, "atol": 1e-7},
    "dopri5": {"solver": "dopri5", "rtol": 1e-5, "atol": 1e-7},
    "rk4": {"solver": "rk4", "step_size": 0.07},
}
COUNTS = ("attempts", "accepted", "rejected", "evaluations")


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    """Driven, for one or for many."""
    angle, speed = y[..., 0], y[..., 1]
    return torch.stack([speed, torch.cos(2 * t) - torch.sin(angle) - 0.1 * speed], -1)


def blow_up(t: Tensor, y: Tensor) -> Tensor:
    """Infinite at ``t = 1 / y(0)``."""
    return y * y


def _starts(dtype: torch.dtype = DOUBLE) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, 2, dtype=DOUBLE, generator=generator).to(dtype)


def _times(end: float = 4.0, count: int = 17) -> Tensor:
    return torch.linspace(0, end, count, dtype=DOUBLE)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered, and no step is compiled where chunks are refused."""
    monkeypatch.setattr(graphed, "_known", type(graphed._known)())
    monkeypatch.setattr(tiers.Tiers, "_made_graphs", lambda *_, **__: tiers._REFUSED)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Chunks run directly, without a read inside; what was launched, asked for and read."""
    log: list[str] = []
    launch, post, read = Direct.launch, Direct.post, Direct.read

    def launched(self: Direct) -> None:
        log.append("launch")
        with NoReads():
            launch(self)

    def posted(self: Direct) -> Any:
        log.append("post")
        return log.count("post"), post(self)

    def seen(self: Direct, asked: Any) -> list[int]:
        log.append(f"read {asked[0]}")
        return read(self, asked[1])

    monkeypatch.setattr(Direct, "launch", launched)
    monkeypatch.setattr(Direct, "post", posted)
    monkeypatch.setattr(Direct, "read", seen)
    monkeypatch.setitem(captured.EXECUTORS, "cpu", Direct)
    return log


def _compare(
    field: Any, y0: Any, t: Tensor, *, exact: bool = False, counts: bool = True, **options: Any
) -> Any:
    """A solve in chunks that is held against the ordinary one."""
    options = {"throw": False} | options
    with torch.no_grad():
        want = odekit.solve(field, y0, t, **options)
        found = odekit.solve(field, y0, t, compile=True, **options)
    assert found.stats.tier == "graph"
    assert torch.equal(found.status, want.status)
    for name in COUNTS if counts else ():
        assert torch.equal(getattr(found.stats, name), getattr(want.stats, name)), name
    assert found.y.dtype is want.y.dtype
    single = want.y.dtype is torch.float32
    rounding = 0.0 if exact else 2e-3 if single else 1e-9
    close = {"rtol": rounding, "atol": rounding, "equal_nan": True}
    torch.testing.assert_close(found.t, want.t, rtol=0, atol=0)
    torch.testing.assert_close(found.y, want.y, **close)
    torch.testing.assert_close(found.reached, want.reached, **close)
    return found


def _compare_lane(field: Any, y0: Tensor, t: Tensor, **options: Any) -> Any:
    """A shared solve in chunks that is held against the ordinary loop for one lane."""
    options = {"throw": False} | options

    def flat(t: Tensor, y: Tensor) -> Tensor:
        return field(t.reshape(()), y.reshape(y0.shape)).reshape(y.shape)

    with torch.no_grad():
        want = odekit.solve(flat, y0.reshape(1, -1), t, per_sample=True, **options)
        found = odekit.solve(field, y0, t, compile=True, **options)
    assert found.stats.tier == "graph"
    for name in COUNTS:
        assert torch.equal(getattr(found.stats, name), getattr(want.stats, name)), name
    assert torch.equal(found.status, want.status)
    assert torch.equal(found.reached, want.reached)
    torch.testing.assert_close(
        found.y.reshape(want.y.shape), want.y, rtol=0, atol=0, equal_nan=True
    )
    return found


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("backwards", [False, True], ids=["ahead", "back"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per sample"])
@pytest.mark.parametrize("steps", STEPS)
def test_the_same_as_the_ordinary_loop(steps, per_sample, backwards, dtype, direct) -> None:
    options: dict[str, Any] = dict(STEPS[steps]) | {"per_sample": per_sample}
    single = dtype is torch.float32
    if single and steps != "rk4":
        options |= {"rtol": 1e-3, "atol": 1e-4}
    t = _times().flip(0) if backwards else _times()

    # The loop for lanes does the same operations in the same order; that for a shared step size
    # rounds otherwise, which in single precision may decide about a step.
    counts = per_sample or not single
    _compare(pendulum, _starts(dtype), t, exact=per_sample, counts=counts, **options)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("steps", STEPS)
def test_a_shared_state_is_one_lane(steps, dtype, direct) -> None:
    _compare_lane(pendulum, _starts(dtype), _times(), **STEPS[steps])


@pytest.mark.parametrize(
    "options", [{"solver": "heun"}, {"solver": "reversible_heun"}, {"solver": "rk4"}]
)
@pytest.mark.parametrize("per_sample", [False, True])
def test_other_solvers(options, per_sample, direct) -> None:
    _compare(pendulum, _starts(), _times(1), per_sample=per_sample, rtol=1e-3, atol=1e-5, **options)


@pytest.mark.parametrize("controller", ["pi", "pid", "fixed"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_controllers(controller, per_sample, direct) -> None:
    _compare(pendulum, _starts(), _times(), controller=controller, per_sample=per_sample)


def test_times_of_each_sample(direct) -> None:
    t = torch.stack([_times(end, 9) for end in (0.5, 1, 2, 5, 12)])

    _compare(pendulum, _starts(), t, per_sample=True, exact=True)
    _compare(pendulum, _starts(), t, per_sample=True, exact=True, solver="rk4", step_size=0.1)


def test_states_of_any_shape(direct) -> None:
    y0 = torch.linspace(0.1, 1, 12, dtype=DOUBLE).reshape(2, 3, 2)

    _compare(pendulum, y0, _times())
    _compare(lambda t, y: -y * t, torch.tensor(2.0, dtype=DOUBLE), _times())
    _compare(lambda t, y: 1j * y, torch.tensor([1.0, 2j], dtype=torch.complex128), _times())


def test_tolerances_per_entry_may_change(direct) -> None:
    atol = torch.full((5, 2), 1e-6, dtype=DOUBLE)
    loose = _compare(pendulum, _starts(), _times(), rtol=1e-4, atol=atol * 100)
    tight = _compare(pendulum, _starts(), _times(), rtol=1e-4, atol=atol / 100)

    assert int(tight.stats.attempts) > int(loose.stats.attempts)
    assert len(graphed._known) == 1


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("what", [{}, {"solver": "rk4", "step_size": 0.03}], ids=["own", "fixed"])
def test_the_end_alone(what, per_sample, direct) -> None:
    _compare(pendulum, _starts(), _times(4, 2), per_sample=per_sample, **what)
    _compare(pendulum, _starts(), _times(4, 2), per_sample=per_sample, max_steps=7, **what)


def test_rows_in_small_batches(direct, monkeypatch) -> None:
    monkeypatch.setattr(chunk_rows, "BYTES", 2000)

    _compare(pendulum, _starts(), _times(4, 300), per_sample=True)
    _compare(pendulum, _starts(), _times(4, 300))


def test_large_states_are_taken_in_short_chunks(direct, monkeypatch) -> None:
    monkeypatch.setattr(chunks, "KEPT", 3 * 80 * chunks.PARTS)

    found = _compare(pendulum, _starts(), _times())

    assert direct.count("launch") > int(found.stats.attempts) / 3


# How a solve ends.


@pytest.mark.parametrize("per_sample", [False, True])
def test_too_many_steps(per_sample, direct) -> None:
    found = _compare(pendulum, _starts(), _times(), max_steps=21, per_sample=per_sample)

    assert int(found.status.max()) == Status.MAX_STEPS
    assert bool(found.y[-1].isnan().any())


@pytest.mark.parametrize("per_sample", [False, True])
def test_steps_too_small(per_sample, direct) -> None:
    y0 = torch.tensor([[0.5], [1.0], [0.1]], dtype=DOUBLE)

    found = _compare(blow_up, y0, _times(3.1, 10), per_sample=per_sample)

    assert Status.STEP_TOO_SMALL in found.status.tolist()


@pytest.mark.parametrize("per_sample", [False, True])
def test_fields_that_are_not_finite(per_sample, direct) -> None:
    y0 = torch.tensor([[0.0, 9.0], [0.0, 1.0]], dtype=DOUBLE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        limit = y[..., 1]  # of the second sample met on the way
        return torch.stack([torch.sqrt(limit - t), 0 * limit], -1)

    if per_sample:
        found = _compare(field, y0, _times(3, 10), per_sample=True)
    else:  # which attempts cross the edge by rounding, so it is held against the loop for lanes
        found = _compare_lane(field, y0, _times(3, 10))

    assert Status.NON_FINITE in found.status.tolist()


@pytest.mark.parametrize("per_sample", [False, True])
def test_fields_that_are_not_finite_at_the_start(per_sample, direct) -> None:
    y0 = torch.tensor([[0.5], [-1.0]], dtype=DOUBLE)
    options: dict[str, Any] = {"per_sample": per_sample, "throw": False}

    with torch.no_grad():
        want = odekit.solve(lambda t, y: y.sqrt(), y0, _times(3, 10), **options)
        found = odekit.solve(lambda t, y: y.sqrt(), y0, _times(3, 10), compile=True, **options)

    assert found.stats.tier == "graph"
    assert torch.equal(found.status, want.status)
    torch.testing.assert_close(found.y, want.y, equal_nan=True)


def test_fixed_steps_that_lead_to_infinity(direct) -> None:
    y0 = torch.tensor([[2.0], [-1.0]], dtype=DOUBLE)
    options: dict[str, Any] = {"solver": "rk4", "step_size": 0.1, "throw": False}

    found = _compare(blow_up, y0, _times(3, 10), per_sample=True, **options)
    assert found.status.tolist() == [Status.NON_FINITE, Status.SUCCESS]

    # With shared steps it is taken again by a loop that watches.
    want = odekit.solve(blow_up, y0, _times(3, 10), **options)
    other = odekit.solve(blow_up, y0, _times(3, 10), compile=True, **options)
    assert torch.equal(other.reached, want.reached)
    assert other.status.tolist() == [Status.NON_FINITE]


# Nothing waits.


def test_the_next_chunk_is_launched_before_the_flags_of_the_last_are_read(direct) -> None:
    found = _compare(pendulum, _starts(), _times())

    launches, reads = direct.count("launch"), 0
    for i, word in enumerate(direct):
        if word.startswith("read"):
            reads += 1
            assert word == f"read {reads}"
            assert direct[:i].count("launch") == reads + 1
    assert reads == launches - 1
    assert 0 <= launches * CHUNK - int(found.stats.attempts) < 2 * CHUNK


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("options", [{"step_size": 0.07}, {"controller": "fixed"}])
def test_steps_known_in_advance_are_not_asked_about(options, per_sample, direct) -> None:
    found = _compare(pendulum, _starts(), _times(), solver="rk4", per_sample=per_sample, **options)

    assert set(direct) == {"launch"}
    assert len(direct) == math.ceil(int(found.stats.attempts[0]) / CHUNK)


def test_steps_known_in_advance_may_be_too_many(direct) -> None:
    _compare(pendulum, _starts(), _times(), solver="rk4", step_size=0.01, max_steps=2 * CHUNK)

    assert set(direct) == {"launch"}
    assert len(direct) <= 4


@pytest.mark.parametrize(
    "read",
    [
        lambda y: bool((y > 0).all()),
        lambda y: y.sum().item(),
        lambda y: float(y.sum()),
        lambda y: (y > 0).nonzero(),
        lambda y: y[y > 0],
    ],
)
def test_reads_are_seen(read) -> None:
    with pytest.raises(Unsupported, match="reads a value"), NoReads():
        read(torch.ones(3))


# What is left to other tiers.


def _refused(match: str, **options: Any) -> None:
    field = options.pop("field", pendulum)
    with torch.no_grad():
        want = odekit.solve(field, _starts(), _times(), **options)
        with pytest.warns(CompileWarning, match=match) as seen:
            found = odekit.solve(field, _starts(), _times(), compile=True, **options)
        odekit.solve(field, _starts(), _times(), compile=True, **options)  # no other warning
    assert len(seen) == 1
    assert found.stats.tier == "eager"
    assert torch.equal(found.y, want.y)


def test_what_is_not_taken(direct) -> None:
    stops = odekit.create("controller", "integral", step_times=(0.5,))
    jumps = odekit.create("controller", "integral", jump_times=(0.5,))

    _refused("dense=True", dense=True)
    _refused("save='steps'", save="steps")
    _refused("times to stop at", controller=stops)
    _refused("times to stop at", controller=jumps)
    _refused("evaluations of its own", solver="dopri8")
    _refused("no form for lanes", controller=odekit.create("controller", "replay", times=[0.0, 4]))


def test_solves_with_gradients_are_not_taken(direct) -> None:
    found = odekit.solve(pendulum, _starts().requires_grad_(), _times(), compile=True)

    assert found.stats.tier == "eager"
    assert not direct


# CUDA graphs, by a stand-in.


class _Recorder(TorchDispatchMode):
    """Notes every operation with the tensors that it was given and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.done.append((func, args, kwargs, odekit.trees.leaves_of(result)))
        return result


class _Cuda:
    """As much of ``torch.cuda`` as a captured chunk asks for; a graph is a list of operations."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current: list[str] = ["default"]
        self.fails = False
        cuda = self

        class Stream:
            def __init__(self, device: Any = None, name: str = "side") -> None:
                self.name = name

            def wait_stream(self, other: Any) -> None:
                cuda.log.append(f"{self.name} waits for {other.name}")

            def wait_event(self, event: Any) -> None:
                cuda.log.append(f"{self.name} waits for event")

        class Event:
            def record(self, stream: Any = None) -> None:
                self.count = cuda.log.count("replay")
                cuda.log.append("record")

            def synchronize(self) -> None:
                cuda.log.append(f"read {self.count}")

        class CUDAGraph:
            done: list[Any]

            def replay(self) -> None:
                cuda.log.append("replay")
                for func, args, kwargs, outputs in self.done:
                    fresh = odekit.trees.leaves_of(func(*args, **kwargs))
                    for old, new in zip(outputs, fresh, strict=True):
                        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                            old.copy_(new)

        self.Stream, self.Event, self.CUDAGraph = Stream, Event, CUDAGraph

    def current_stream(self, device: Any = None) -> Any:
        return self.Stream(name=self.current[-1])

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Any:
        self.current.append(stream.name)
        depth = len(self.current)
        try:
            yield
        finally:
            del self.current[depth - 1 :]

    @contextlib.contextmanager
    def device(self, device: Any) -> Any:
        yield

    @contextlib.contextmanager
    def graph(self, graph: Any, *, stream: Any, capture_error_mode: str) -> Any:
        assert self.current[-1] == stream.name != "default"
        self.log.append("capture")
        with _Recorder() as recorder:
            yield
        if self.fails:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        graph.done = recorder.done


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> _Cuda:
    stand_in = _Cuda()
    for name in ("Stream", "Event", "CUDAGraph", "current_stream", "stream", "device", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(stand_in, name))
    monkeypatch.setattr(captured, "pinned", torch.empty_like)
    monkeypatch.setitem(captured.EXECUTORS, "cpu", Captured)
    return stand_in


@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per sample"])
@pytest.mark.parametrize("steps", STEPS)
def test_a_graph_gives_the_same(steps, per_sample, cuda) -> None:
    options: dict[str, Any] = dict(STEPS[steps]) | {"per_sample": per_sample}

    first = _compare(pendulum, _starts(), _times(), **options)
    rows = first.y.clone()
    again = _compare(pendulum, 2 * _starts(), 0.5 * _times(), **options)

    assert cuda.log.count("capture") == 1
    assert torch.equal(first.y, rows)  # not of the buffers of the solve after it
    assert not torch.equal(again.y, rows)
    assert cuda.current == ["default"]


@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per sample"])
def test_what_another_solve_goes_on_from(per_sample, cuda, monkeypatch) -> None:
    seen: list[tuple[odekit.Problem, odekit.Trajectory]] = []
    run = graphed.run_chunks

    def watched(chunk: Any, executor: Any, problem: odekit.Problem, begin: Any) -> Any:
        seen.append((problem, run(chunk, executor, problem, begin)))
        return seen[-1][1]

    monkeypatch.setattr(graphed, "run_chunks", watched)
    with torch.no_grad():
        for scale in (1, 2):  # the second solve writes into the same buffers
            y0 = scale * _starts()
            odekit.solve(pendulum, y0, _times(), per_sample=per_sample, compile=True)
        for problem, found in seen:
            want = integrate_eagerly(problem)
            torch.testing.assert_close(found.last, want.last, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found.memory, want.memory, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found.reached, want.reached, rtol=0, atol=0)
    assert len(seen) == 2


def test_flags_of_a_graph_are_read_while_the_next_one_runs(cuda) -> None:
    _compare(pendulum, _starts(), _times())

    start = cuda.log.index("capture") + 3  # the capture, streams that meet, and the comparison
    events = [x for x in cuda.log[start:] if x == "replay" or x.startswith("read")]
    assert events[:3] == ["replay", "replay", "read 2"]
    for i, word in enumerate(events):
        if word.startswith("read"):
            assert events[:i].count("replay") == int(word.split()[1])


def test_weights_may_change_in_place(cuda) -> None:
    field = odekit.create("field", "mlp", dim=2, width=8).double()

    first = _compare(field, _starts(), _times())
    with torch.no_grad():
        for weight in field.parameters():
            weight.mul_(1.5)
    again = _compare(field, _starts(), _times())

    assert cuda.log.count("capture") == 1
    assert not torch.equal(again.y, first.y)


def test_other_tensors_are_captured_anew(cuda) -> None:
    def field(t: Tensor, y: Tensor, args: Any) -> Tensor:
        return -args["rate"] * y

    for rate in (0.5, 1.5):
        found = _compare(field, _starts(), _times(), args={"rate": torch.tensor(rate).double()})
        want = _starts() * math.exp(-4 * rate)
        torch.testing.assert_close(found.y[-1], want, rtol=1e-3, atol=1e-5)
    assert cuda.log.count("capture") == 2


def test_weights_with_other_memory_are_captured_anew(cuda) -> None:
    field = torch.nn.Module()
    field.rate = torch.nn.Parameter(torch.tensor(0.5, dtype=DOUBLE))
    field.forward = lambda t, y: -field.rate * y

    _compare(field, _starts(), _times())
    field.rate.data = torch.tensor(1.5, dtype=DOUBLE)
    _compare(field, _starts(), _times())


def test_a_capture_that_fails(cuda) -> None:
    cuda.fails = True

    _refused("cannot be captured as a CUDA graph: RuntimeError: CUDA error")

    assert cuda.log.count("capture") == 1
    assert cuda.current == ["default"]


def test_a_field_that_reads_is_not_captured(cuda) -> None:
    _refused("reads a value", field=lambda t, y: -y if bool((y[..., 0] > 9).any()) else -2 * y)

    assert "capture" not in cuda.log


def test_a_graph_that_does_something_else_is_not_used(cuda) -> None:
    luck = random.Random(3)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y * luck.random()

    with torch.no_grad(), pytest.warns(CompileWarning, match="not used|changes something"):
        found = odekit.solve(field, _starts(), _times(), step_size=0.1, compile=True)
    assert found.stats.tier == "eager"


def test_a_field_that_counts_is_not_captured(cuda) -> None:
    class Counting(torch.nn.Module):
        calls = 0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return -y

    field = Counting()
    with torch.no_grad(), pytest.warns(CompileWarning, match="changes something"):
        odekit.solve(field, _starts(), _times(), compile=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = odekit.solve(field, _starts(), _times(), compile=True)
    assert found.stats.tier == "eager"
    assert "capture" not in cuda.log


def test_solves_on_other_streams_wait_for_each_other(cuda) -> None:
    _compare(pendulum, _starts(), _times())
    cuda.log.clear()
    _compare(pendulum, _starts(), _times())

    assert cuda.log[0] == "default waits for event"
    assert cuda.log[-1] == "record"


def test_an_object_for_many_solves(cuda) -> None:
    with torch.no_grad():
        fast = odekit.compile(pendulum, _starts(), _times())
        found, want = fast(2 * _starts(), _times()), odekit.solve(pendulum, 2 * _starts(), _times())

    assert fast.tier == "graph"
    torch.testing.assert_close(found.y, want.y, rtol=1e-9, atol=1e-9)
    assert cuda.log.count("capture") == 1
