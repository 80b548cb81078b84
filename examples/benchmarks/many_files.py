"""Many small files through a Dask cluster on this computer: seconds and peak memory.

    python examples/benchmarks/many_files.py --files 200 --workers 2

Writes files of noisy, irregular data of three systems (logistic growth, predator and prey, a
damped oscillator), starts a scheduler and workers, runs ``odekit discover --cluster`` over them,
and watches the resident memory of every process. The scheduler lives in this process, which
imports nothing of odekit. Needs ``pip install 'odekit[cluster]'``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
from distributed import LocalCluster
from scipy.integrate import solve_ivp

SYSTEMS = {
    "logistic": (("x",), lambda a: lambda t, y: [a * y[0] * (1 - y[0] / 3)], (0.3,)),
    "lotka_volterra": (
        ("prey", "predator"),
        lambda a: lambda t, y: [a * y[0] - 0.5 * y[0] * y[1], 0.3 * y[0] * y[1] - y[1]],
        (5.0, 2.0),
    ),
    "damped": (("x", "v"), lambda a: lambda t, y: [y[1], -2 * a * y[0] - 0.3 * y[1]], (2.0, 0.0)),
}


def generate(folder, count, points, noise, seed):
    """Write ``count`` files; noise as a fraction of each state's standard deviation."""
    random = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        name = list(SYSTEMS)[i % len(SYSTEMS)]
        states, family, start = SYSTEMS[name]
        t = np.sort(random.uniform(0, 10, points))
        rate, start = random.uniform(0.8, 1.2), np.array(start) * random.uniform(0.8, 1.2)
        y = solve_ivp(family(rate), (0, 10), start, t_eval=t, rtol=1e-9, atol=1e-11).y.T
        y = y + noise * y.std(0) * random.standard_normal(y.shape)
        paths.append(folder / f"{name}_{i:03d}.csv")
        table = np.column_stack([t, y])
        header = ",".join(("t", *states))
        np.savetxt(paths[-1], table, delimiter=",", header=header, comments="", fmt="%.9g")
    return paths


def watch(peaks, roles, stop):
    """Keep the peak resident memory of each role, in MiB, until ``stop`` is set."""
    while not stop.wait(0.2):
        for role, processes in roles().items():
            for process in processes:
                try:
                    memory = process.memory_info().rss / 2**20
                except psutil.NoSuchProcess:
                    continue
                peaks[role] = max(peaks[role], memory)


def main():
    """Generate, run, watch, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--points", type=int, default=75)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for data and reports")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        paths = generate(folder / "data", given.files, given.points, given.noise, given.seed)
        with LocalCluster(
            n_workers=given.workers, threads_per_worker=1, dashboard_address=None
        ) as cluster:
            out = folder / "out"
            command = [sys.executable, "-m", "odekit.cli", "discover", *map(str, paths)]
            command += ["--cluster", cluster.scheduler_address, "--out", str(out), "--quiet"]
            began = time.perf_counter()
            client = psutil.Process(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid)
            workers = [psutil.Process(nanny.pid) for nanny in cluster.workers.values()]
            peaks, stop = defaultdict(float), threading.Event()

            def roles():
                return {"client": [client], "worker": workers, "scheduler": [psutil.Process()]}

            watcher = threading.Thread(target=watch, args=(peaks, roles, stop))
            watcher.start()
            client.wait()
            seconds = time.perf_counter() - began
            stop.set()
            watcher.join()
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        settled = sum(row["confident"] for row in summary["rows"])
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20
        print(
            f"{given.files} files: {summary['done']} done, {settled} settled, "
            f"{summary['failed']} failed; {seconds:.1f} s with {given.workers} workers, "
            f"{sum(row['seconds'] or 0 for row in summary['rows']):.1f} s of searching"
        )
        print(f"written: {written:.0f} MiB")
        for role, memory in peaks.items():
            print(f"peak memory of {role}: {memory:.0f} MiB")


if __name__ == "__main__":
    main()
