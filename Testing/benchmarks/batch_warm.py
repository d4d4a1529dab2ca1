"""The warm process against single commands: small cases by ``masr batch``, then one by one by ``masr register``.

``python -m benchmarks.batch_warm --output DIR`` in the folder Testing; prints seconds on the clock and of the CPU, and
writes batch_warm.json. With ``--engines`` the batch also runs with two jobs and on two dask workers. On a busy machine
read the CPU's seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from masr_registration.case.provenance import versions

from .batch_resume import digests

SUBJECTS = ("01", "02", "03", "04", "05")
SHRINK = 3


def small_images(data: Path, folder: Path) -> list[tuple[str, Path, Path]]:
    """20 ordered pairs of neonates, every third voxel of the originals: id, fixed, moving."""
    folder.mkdir(parents=True)
    for subject in SUBJECTS:
        for name in ("T1w", "T2w"):
            image = sitk.ReadImage(str(data / "brain_t1t2_neonate" / subject / f"{name}.nii.gz"))
            sitk.WriteImage(sitk.Shrink(image, [SHRINK] * 3), str(folder / f"{subject}-{name}.nii.gz"))
    return [
        (f"{a}-{b}", folder / f"{a}-T1w.nii.gz", folder / f"{b}-T2w.nii.gz")
        for a in SUBJECTS
        for b in SUBJECTS
        if a != b
    ]


def timed(commands: Sequence[Sequence[str]]) -> dict[str, float]:
    """Seconds on the clock and of the CPU, all processes together."""
    start, before = time.perf_counter(), _cpu()
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
    return {"wall_s": round(time.perf_counter() - start, 1), "cpu_s": round(_cpu() - before, 1)}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MASR_DATA", "../../shared/data")))
    parser.add_argument("--engines", action="store_true")
    options = parser.parse_args()
    output = options.output.absolute()
    if output.exists():
        shutil.rmtree(output)
    cases = small_images(options.data.absolute(), output / "images")
    rows = [f"{case},{fixed},{moving},brain-mr" for case, fixed, moving in cases]
    manifest = output / "manifest.csv"
    manifest.write_text("\n".join(["id,fixed,moving,preset", *rows]) + "\n", encoding="utf-8")
    masr = [sys.executable, "-m", "masr_registration"]
    common = ["--threads", "1", "--device", "cpu", "--output"]

    def batch(name: str, *more: str) -> list[list[str]]:
        return [[*masr, "batch", str(manifest), *more, *common, str(output / name)]]

    single = [
        [
            *masr,
            "register",
            str(fixed),
            str(moving),
            "--preset",
            "brain-mr",
            *common,
            str(output / "single" / "cases" / case),
        ]
        for case, fixed, moving in cases
    ]
    timed(single[:1])  # compiles
    found: dict[str, Any] = {"load": os.getloadavg(), "cases": len(cases)}
    found["batch --jobs 1"] = timed(batch("warm", "--jobs", "1"))
    found["single commands"] = timed(single)
    if options.engines:
        found["batch --jobs 2"] = timed(batch("two", "--jobs", "2"))
        found["batch --jobs 2 --engine dask"] = timed(batch("dask", "--jobs", "2", "--engine", "dask"))
    warm, one_by_one = found["batch --jobs 1"], found["single commands"]
    found["times faster"] = {name: round(one_by_one[name] / warm[name], 2) for name in warm}
    expected = digests(output / "warm")
    others = [name for name in ("single", "two", "dask") if (output / name).exists()]
    found["same bits"] = {name: digests(output / name) == expected for name in others}
    found["load at the end"] = os.getloadavg()
    found["versions"] = versions()
    found["command"] = "python -m benchmarks.batch_warm " + " ".join(sys.argv[1:])
    (output / "batch_warm.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "versions"}, indent=1))
    if not all(found["same bits"].values()):
        raise SystemExit("The results are not alike.")


if __name__ == "__main__":
    main()
