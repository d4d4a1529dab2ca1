"""How a study of 10,000 cases would scale: a simulation fed with measured costs.

Measured here and now: what dask needs for one task, by tasks that do nothing (`--tasks`), and how fast this disk
writes. Taken from a study that was run (`--study DIR`): the seconds of its cases, and the size of their results.
Assumed, and said in the output: the file server's speed, and that a worker needs 15 s to start and to compile.

The model: a case waits for the scheduler (one server, one task after another), is computed by its worker, and its
results pass through the file server (one pipe that all share). Workers differ in nothing. ``python -m
benchmarks.batch_scaling --study DIR --output FILE.json``.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from masr_registration.batch.tasks import Outcome, Task

WORKERS = (1, 10, 50, 100, 200, 500, 1000, 2000)
SERVER_MB_PER_S = (100.0, 1000.0)
START_S = 15.0


def simulate(
    seconds: Sequence[float],
    megabytes: float,
    workers: int,
    overhead_s: float,
    mb_per_s: float,
    start_s: float = START_S,
) -> float:
    """Seconds until all cases are done: the longest first, each worker one at a time."""
    free = [start_s] * workers
    heapq.heapify(free)
    scheduler = pipe = end = 0.0
    for case in sorted(seconds, reverse=True):
        scheduler = max(scheduler, heapq.heappop(free)) + overhead_s
        computed = scheduler + case
        pipe = max(pipe, computed) + megabytes / mb_per_s if megabytes else computed
        finished = max(computed, pipe)
        end = max(end, finished)
        heapq.heappush(free, finished)
    return end


def nothing(task: Task) -> Outcome:
    return Outcome(task.id, "done")


def task_overhead(count: int) -> float:
    """Seconds of scheduler and client for one task, with tasks as large as real ones."""
    import distributed

    request = {
        "fixed": "x" * 100,
        "moving": "x" * 100,
        "preset": {"text": "x" * 900},
        "plan": {"text": "x" * 400},
    }
    tasks = [Task(f"case-{n}", "folder", request) for n in range(count)]
    options: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": None, "threads_per_worker": 1}
    with distributed.LocalCluster(n_workers=2, **options) as cluster, distributed.Client(cluster) as client:
        start = time.perf_counter()
        futures = [client.submit(nothing, task, pure=False, priority=-n) for n, task in enumerate(tasks)]
        client.gather(futures)
        return (time.perf_counter() - start) / count


def disk_mb_per_s(folder: Path, megabytes: int = 200) -> float:
    data = os.urandom(2**20)
    path = folder / ".speed"
    start = time.perf_counter()
    with path.open("wb") as stream:
        for _ in range(megabytes):
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    elapsed = time.perf_counter() - start
    path.unlink()
    return megabytes * 2**20 / 1e6 / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--mean-seconds", type=float, help="of a case on a quiet machine, where the study ran on a busy one"
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=10_000)
    options = parser.parse_args()
    folders = sorted((options.study / "cases").iterdir())
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    known = [float(result["timings"]["total"]) for result in results]
    sizes = [sum(f.stat().st_size for f in folder.iterdir()) / 1e6 for folder in folders]
    if options.mean_seconds:
        known = [value * options.mean_seconds / float(np.mean(known)) for value in known]
    seconds = np.random.default_rng(0).choice(known, options.cases).tolist()
    overhead = task_overhead(options.tasks)
    found: dict[str, Any] = {
        "command": "python -m benchmarks.batch_scaling " + " ".join(sys.argv[1:]),
        "cases": options.cases,
        "measured": {
            "cases of the study": len(known),
            "seconds of a case": {"mean": float(np.mean(known)), "min": min(known), "max": max(known)},
            "MB of a case": {"mean": float(np.mean(sizes)), "max": max(sizes)},
            "scheduler overhead of a task in ms": 1000 * overhead,
            "this disk in MB/s": disk_mb_per_s(options.study),
            "load": os.getloadavg(),
        },
        "assumed": {
            "mean seconds of a case": options.mean_seconds or "as measured",
            "start of a worker in s": START_S,
            "file server in MB/s": SERVER_MB_PER_S,
        },
        "simulated": [],
    }
    alone = sum(seconds)
    print(f"{'workers':>8} {'MB/s':>6} {'hours':>8} {'efficiency':>11}")
    for speed in SERVER_MB_PER_S:
        for workers in WORKERS:
            end = simulate(seconds, float(np.mean(sizes)), workers, overhead, speed)
            row = {
                "workers": workers,
                "mb_per_s": speed,
                "hours": end / 3600,
                "efficiency": alone / end / workers,
            }
            found["simulated"].append(row)
            print(f"{workers:8} {speed:6.0f} {row['hours']:8.2f} {row['efficiency']:11.3f}")
    print(json.dumps(found["measured"], indent=1))
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
