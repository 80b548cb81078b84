"""Many data sets at once: in one process, in several, or on a Dask cluster, with equal results.

The engine is joblib: its processes (loky) on one computer, its Dask backend on a cluster, or
whatever backend is active where it is called. Every data set is worked on with one thread of
linear algebra and by one thread of its process, so that a result does not depend on where and
beside what it was found. Between computers with different processors the last digits may still
differ, and so may a search that its ``time_limit`` cut short, which its warnings say. For one
data set, or several trajectories of one system, use `odekit.discover`.

Source of the idea of one description and several engines: joblib, https://joblib.readthedocs.io;
M. Rocklin, "Dask: Parallel Computation with Blocked algorithms and Task Scheduling", Proc. 14th
Python in Science Conf. (2015) 126-132, doi:10.25080/Majora-7b98e3ed-013.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from odekit.errors import (
    DataWarning,
    DiscoveryError,
    IncompatibleError,
    MissingDependencyError,
    ProblemError,
)
from odekit.postprocess import discover
from odekit.series import TimeSeries

if TYPE_CHECKING:
    from odekit.equations import Equations

Key = TypeVar("Key")
Item = TypeVar("Item")
Value = TypeVar("Value")

PATIENCE = 20.0
"""Seconds to wait for a scheduler, and again for its first worker."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_alone = threading.Lock()


def discover_many(
    datasets: Mapping[Key, TimeSeries | Sequence[TimeSeries]],
    *,
    jobs: int | None = None,
    cluster: Any = None,
    progress: Callable[[str, float], object] | None = None,
    **options: Any,
) -> dict[Key, Equations | Exception]:
    """Find the equations of many systems; what fails, fails alone.

    Args:
        datasets: from a name to the data of one system: one `TimeSeries`, or several
            trajectories.
        jobs: processes of this computer, -1 for as many as it has cores. Without ``jobs`` and
            ``cluster`` the backend that is active in joblib is used, for example inside
            ``joblib.parallel_config("dask")`` a Dask client of the caller's; if none is,
            everything runs here, one after the other.
        cluster: a Dask scheduler's address such as ``"tcp://host:8786"``, a cluster object, or a
            client. A process of it works on one data set at a time, so workers do best with one
            thread each (``dask worker ADDRESS --nworkers -1 --nthreads 1``).
        progress: called with the name that was finished and the fraction of all names; if it
            answers true, nothing further is begun and the names that are left are not in the
            result.
        **options: those of `odekit.discover`; ``time_limit`` holds for each data set.

    Returns:
        From each name, in the order of ``datasets``, to its `Equations` or to the exception that
        `odekit.discover` raised.

    Raises:
        ProblemError: ``jobs`` or ``cluster`` cannot be used, and why.
        MissingDependencyError: ``cluster`` needs a package that is not installed.

    Example:
        >>> from math import exp
        >>> t = [0.2 * i for i in range(25)]
        >>> tea = TimeSeries(t, [5 * exp(-0.5 * s) for s in t], names=["heat"])
        >>> found = discover_many({"tea": tea, "short": TimeSeries([0, 1], [1, 2])}, degree=1)
        >>> print(found["tea"])
        heat' = -0.5 heat
        >>> type(found["short"]).__name__
        'DiscoveryError'
    """
    if not isinstance(datasets, Mapping):
        raise IncompatibleError(
            f"datasets must map names to series, got {type(datasets).__name__}: write "
            "{'a': series_a, 'b': series_b}"
        )
    check_engine(jobs, cluster)
    items = {name: (series, options) for name, series in datasets.items()}
    found: dict[Key, Equations | Exception] = {}
    with connected(cluster) as client:
        if crowding(client):
            warnings.warn(crowding(client), RuntimeWarning, stacklevel=2)
        with closing(run_each(_discover, items, jobs=jobs, cluster=client)) as results:
            for name, outcome in results:
                if isinstance(outcome, Exception):
                    found[name] = outcome
                else:
                    found[name], messages = outcome
                    for message in messages:
                        warnings.warn(f"{name}: {message}", DataWarning, stacklevel=2)
                if progress is not None and progress(str(name), len(found) / len(items)):
                    break
    return {name: found[name] for name in items if name in found}


def _discover(item: tuple[Any, dict[str, Any]]) -> tuple[Equations, list[str]]:
    """Equations, and what the warnings about the data said."""
    series, options = item
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        equations = discover(series, **options)
    return equations, [str(w.message) for w in caught if issubclass(w.category, DataWarning)]


def run_each(
    work: Callable[[Item], Value],
    items: Mapping[Key, Item],
    *,
    jobs: int | None = None,
    cluster: Any = None,
) -> Generator[tuple[Key, Value | Exception], None, None]:
    """Call ``work`` with every item, and give each result as soon as it is there.

    An exception of ``work`` is the result of its item. If a process dies, the items that it may
    have been at work on are tried one by one, so that only those that kill it fail. Leaving the
    iterator, or Ctrl-C, ends the processes of this computer and takes what has not been begun
    back from a cluster.

    Args:
        work: a function that workers can import.
        items: from a name to what is sent to a worker; begun in this order.
        jobs: processes, see `discover_many`.
        cluster: address or client, see `discover_many`.

    Raises:
        ProblemError: ``jobs`` or ``cluster`` cannot be used, and why.
        MissingDependencyError: ``cluster`` needs a package that is not installed.
    """
    check_engine(jobs, cluster)
    left = dict(items)
    with connected(cluster) as client:
        while left:
            try:
                with closing(_stream(work, left, jobs, client)) as results:
                    for name, outcome in results:
                        del left[name]
                        yield name, outcome
            except Exception as error:
                for name in list(left)[: _begun(jobs, client)]:
                    yield name, _apart(work, name, left.pop(name), jobs, client, error)


def _begun(jobs: int | None, client: Any) -> int:
    """How many items are sent to workers before the first result is there."""
    from joblib import effective_n_jobs

    with _engine(client):
        return 2 * int(effective_n_jobs(jobs))


def check_engine(jobs: int | None, cluster: Any) -> None:
    """Raise `ProblemError` for a choice of engine that cannot be."""
    if jobs is not None and cluster is not None:
        raise ProblemError("jobs and cluster: give one of them; a cluster has workers of its own")
    if jobs is not None and (not isinstance(jobs, int) or (jobs < 1 and jobs != -1)):
        raise ProblemError(
            f"jobs must be a number of processes, or -1 for one per core, got {jobs!r}"
        )


def _stream(
    work: Callable[[Item], Value], items: Mapping[Key, Item], jobs: int | None, client: Any
) -> Generator[tuple[Key, Value | Exception], None, None]:
    """The results in the order in which they arrive."""
    from joblib import Parallel, delayed

    with _engine(client):
        parallel = Parallel(
            n_jobs=jobs,
            batch_size=1,
            pre_dispatch="2*n_jobs",
            return_as="generator_unordered",
            max_nbytes=None,  # data shared through files would be read-only there and not here
        )
    tasks = [delayed(_attempt)(work, name, item) for name, item in items.items()]
    with _deaf():
        results = parallel(iter(tasks))
    try:
        yield from results
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of the very results that are not wanted
            results.close()


def _attempt(work: Callable[[Item], Value], name: Key, item: Item) -> tuple[Key, Value | Exception]:
    """One item, on the worker."""
    with _alone:
        try:
            return name, (_unseen if _is_dask_worker() else _pinned)(work, item)
        except Exception as error:
            return name, _portable(error)


def _pinned(work: Callable[[Item], Value], item: Item) -> Value:
    with pinned():
        return work(item)


def _is_dask_worker() -> bool:
    """Whether this thread is one that a Dask worker runs its tasks in."""
    worker = sys.modules.get("distributed.worker")
    return worker is not None and hasattr(worker.thread_state, "execution_state")


def _unseen(work: Callable[[Item], Value], item: Item) -> Value:
    """The call in a thread of its own, into which the profiler of a Dask worker does not look.

    It samples the stacks of the worker's own threads a hundred times a second and keeps each of
    the last thousand seconds: with stacks as deep as those of a search, most of a GiB.
    """
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(_pinned, work, item).result()


def _portable(error: Exception) -> Exception:
    """The exception, or one with its words if it cannot travel between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return DiscoveryError(f"{type(error).__name__}: {error}")
    return error


def _apart(
    work: Callable[[Item], Value],
    name: Key,
    item: Item,
    jobs: int | None,
    client: Any,
    error: Exception,
) -> Value | Exception:
    """One item in a process of its own, after ``error`` ended the processes of several."""
    several = None if jobs is None else -1 if jobs == -1 else max(jobs, 2)
    try:
        ((_, outcome),) = _stream(work, {name: item}, several, client)
    except Exception as again:
        reason = " ".join(f"{type(again).__name__}: {again}".split())
        lost = DiscoveryError(
            f"the process at work on it ended without an answer, for want of memory perhaps "
            f"({reason})"
        )
        lost.__cause__ = error
        return lost
    return outcome


@contextmanager
def pinned() -> Iterator[None]:
    """One thread of linear algebra, so that the order of sums is the same everywhere.

    Libraries that are first loaded inside are pinned too: they read the environment. When the
    block is left, these get as many threads as torch had, and the others what they had.
    """
    from threadpoolctl import ThreadpoolController

    threads, variables = torch.get_num_threads(), dict(os.environ)
    loaded = ThreadpoolController()
    known = {library.filepath for library in loaded.lib_controllers}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    torch.set_num_threads(1)
    try:
        with loaded.limit(limits=1):
            yield
    finally:
        for library in ThreadpoolController().lib_controllers:
            if library.filepath not in known:
                library.set_num_threads(threads)
        torch.set_num_threads(threads)
        for name in THREAD_VARIABLES:
            if name in variables:
                os.environ[name] = variables[name]
            else:
                os.environ.pop(name, None)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes begun in here never hear Ctrl-C, which a terminal sends to all of them.

    They inherit the mask; this process hears a Ctrl-C of meanwhile when the block is left.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _engine(client: Any) -> Any:
    """Makes joblib use the cluster; without one, what is active stays active."""
    from joblib import parallel_config

    return nullcontext() if client is None else parallel_config(backend="dask", client=client)


@contextmanager
def connected(cluster: Any) -> Iterator[Any]:
    """A Dask client, None for None; closed in the end unless it was handed in as a client.

    Raises:
        ProblemError: nobody answers, or there is no worker.
        MissingDependencyError: dask or distributed is not installed.
    """
    if cluster is None:
        yield None
        return
    try:
        import dask  # noqa: F401 - joblib needs it
        from distributed import Client
    except ImportError as error:
        raise MissingDependencyError(
            f"cluster needs {error.name}; try: pip install 'odekit[cluster]'"
        ) from None
    if isinstance(cluster, Client):
        yield cluster
        return
    try:
        client = Client(cluster, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ProblemError(
            f"cluster: no Dask scheduler answers at {cluster!r} ({type(error).__name__}): start "
            "one with 'dask scheduler', or correct the address, such as tcp://host:8786"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise ProblemError(
                f"cluster: the Dask scheduler at {cluster!r} has no workers: start some with "
                "'dask worker ADDRESS --nworkers -1 --nthreads 1'"
            ) from None
        yield client


def crowding(client: Any) -> str:
    """What is wrong with the workers' threads, in a sentence; empty if nothing is."""
    most = 1 if client is None else max(client.nthreads().values(), default=1)
    if most == 1:
        return ""
    return (
        f"workers of the cluster have up to {most} threads, but a process works on one data set "
        "at a time: start them with --nworkers -1 --nthreads 1"
    )
