"""One method on one problem in a process of its own: ``python -m benchmarks.solve PROBLEM METHOD OUTPUT THREADS``.

Writes `displacement.npy`, `inverse.h5` (where there is one) and `solve.json` into the output folder.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from masr_registration.volume import Geometry, Volume

from . import methods
from .problem import read_about, read_image

WARM_UP_SIZE = 48


def main(problem: Path, name: str, output: Path, threads: int) -> None:
    """Import, read, warm up on a small pair, then time the registration of the arrays in memory."""
    start = time.perf_counter()
    method = methods.create(name, threads)
    imported = time.perf_counter()
    fixed, moving = read_image(problem, "fixed"), read_image(problem, "moving")
    preset = read_about(problem)["preset"]
    if fixed is None or moving is None:
        raise FileNotFoundError(problem)
    read = time.perf_counter()
    if name != "masr-command":
        small = _small_pair()
        method.prepare(*small, preset)
        method.register(*small, preset)
    warm = time.perf_counter()
    method.prepare(fixed, moving, preset)
    forget_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = method.register(fixed, moving, preset)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_mb()
    record: dict[str, Any] = {
        "wall_s": wall,
        "cpu_s": cpu if outcome.cpu_s is None else outcome.cpu_s,
        "peak_mb": peak if outcome.peak_mb is None else outcome.peak_mb,
        "import_s": imported - start,
        "read_s": read - imported,
        "warm_up_s": warm - read,
        "timings": outcome.timings,
        "metrics": outcome.metrics,
        "method": method.describe(),
        "voxels": int(np.prod(fixed.geometry.size)),
    }
    np.save(output / "displacement.npy", outcome.displacement().astype(np.float32))
    if outcome.inverse is not None:
        sitk.WriteTransform(outcome.inverse(), str(output / "inverse.h5"))
    (output / "solve.json").write_text(json.dumps(record, indent=1, default=float), encoding="utf-8")


def _small_pair() -> tuple[Volume, Volume]:
    """Two smooth blobs of different contrast, to compile and load everything by."""
    n = WARM_UP_SIZE
    geometry = Geometry((n, n, n), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    noise = np.random.default_rng(0).random((n // 4, n // 4, n // 4)).astype(np.float32)
    coarse = sitk.Expand(sitk.GetImageFromArray(noise), [4, 4, 4], sitk.sitkLinear)
    texture = sitk.GetArrayFromImage(coarse)
    k, j, i = np.ogrid[:n, :n, :n]
    body = ((k - n / 2) ** 2 + (j - n / 2) ** 2 + (i - n / 2) ** 2) < (0.4 * n) ** 2
    array = np.where(body, 100 + 400 * texture, 0).astype(np.float32)
    return Volume(array, geometry), Volume(np.where(body, 700 - array, 0).astype(np.float32), geometry)


def forget_peak() -> None:
    """Start the peak anew, where the system (Linux) lets a process do so."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5", encoding="ascii")


def peak_mb() -> float | None:
    """The most memory that this process held since `forget_peak`, in 10^6 bytes; None where it is not told."""
    status = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(match.group(1)) * 1024 / 1e6 if match else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
