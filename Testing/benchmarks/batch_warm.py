"""The warm process against single commands: small cases by ``masr batch``, and one by one by ``masr register``.

Both at the same time, so that whatever else the machine does slows down both alike; the single commands, which end
later, have the machine to themselves at the end. ``python -m benchmarks.batch_warm --output DIR`` in the folder Testing
prints seconds on the clock and of the CPU, and writes batch_warm.json. With ``--engines`` some of the cases run with
one job, with two, and on two dask workers as well, one after the other. On a busy machine read the CPU's seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from masr_registration.case.provenance import versions

from .batch_resume import digests

SUBJECTS = ("01", "02", "03", "04", "05")
SHRINK = 3
SCALED = 8
"""How many of the cases run by every engine."""


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
    """Seconds on the clock and of the CPU, with all that the commands start."""
    start, used = time.perf_counter(), 0.0
    for command in commands:
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            used += usage.ru_utime + usage.ru_stime
            log.seek(0)
            if process.returncode:
                raise SystemExit(log.read())
    return {"wall_s": round(time.perf_counter() - start, 1), "cpu_s": round(used, 1)}


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
    for name, number in (("all", len(rows)), ("some", SCALED)):
        text = "\n".join(["id,fixed,moving,preset", *rows[:number]]) + "\n"
        (output / f"{name}.csv").write_text(text, encoding="utf-8")
    masr = [sys.executable, "-m", "masr_registration"]
    common = ["--threads", "1", "--device", "cpu", "--output"]

    def batch(name: str, manifest: str, *more: str) -> list[list[str]]:
        return [[*masr, "batch", str(output / f"{manifest}.csv"), *more, *common, str(output / name)]]

    place = output / "single" / "cases"
    single = [
        [*masr, "register", str(fixed), str(moving), "--preset", "brain-mr", *common, str(place / case)]
        for case, fixed, moving in cases
    ]
    timed(single[:1])  # compiles
    found: dict[str, Any] = {"load": os.getloadavg(), "cases": len(cases), "cases of engines": SCALED}
    with ThreadPoolExecutor() as pool:
        names = ("batch --jobs 1", "single commands")
        both = pool.map(timed, (batch("warm", "all", "--jobs", "1"), single))
        found.update(zip(names, both, strict=True))
    engines = {"one": ("--jobs", "1"), "two": ("--jobs", "2"), "dask": ("--jobs", "2", "--engine", "dask")}
    for name, more in engines.items() if options.engines else ():
        found[f"{SCALED} cases, batch {' '.join(more)}"] = timed(batch(name, "some", *more))
    warm, one_by_one = found["batch --jobs 1"], found["single commands"]
    found["times faster"] = {name: round(one_by_one[name] / warm[name], 2) for name in warm}
    expected = digests(output / "warm")
    others = [name for name in ("single", *engines) if (output / name).exists()]
    found["same bits"] = {}
    for name in others:
        each = digests(output / name)
        found["same bits"][name] = bool(each) and each == {case: expected[case] for case in each}
    found["load at the end"] = os.getloadavg()
    found["versions"] = versions()
    found["command"] = "python -m benchmarks.batch_warm " + " ".join(sys.argv[1:])
    (output / "batch_warm.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "versions"}, indent=1))
    if not all(found["same bits"].values()):
        raise SystemExit("The results are not alike.")


if __name__ == "__main__":
    main()
