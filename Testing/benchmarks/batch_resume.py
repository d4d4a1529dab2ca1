"""A study of real pairs that is killed twice and resumed, against the same study undisturbed: the same bits?

All neonates (T1w with their own T2w, and with the T2w of another) and the elderly (T1 with FLAIR), two cases of which
are broken on purpose. ``python -m benchmarks.batch_resume --output DIR`` in the folder Testing; prints a table and
writes batch_resume.json. ``--cases N`` takes the first N sound cases only and kills earlier.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from masr_registration.batch.manifest import csv_text
from masr_registration.case.provenance import versions

from .cases.neonates import FIRST_PAIRS, MORE_PAIRS

COLUMNS = ("id", "fixed", "moving", "labels", "fixed_labels", "preset")
NEONATES = ("01", "02", "03", "04", "05", "06", "07", "08")
ELDERLY = ("1", "2", "3", "4", "5", "6")
KILLED_AFTER = (3, 9)
"""How many cases are finished when the run is killed."""


def manifest(data: Path, crossed: int) -> list[dict[str, str]]:
    """The rows: 8 neonates, `crossed` pairs of two neonates, 6 elderly, and two broken ones."""
    neonate, elderly = data / "brain_t1t2_neonate", data / "brain_t1flair_elderly"
    pairs = [(n, n) for n in NEONATES] + [*FIRST_PAIRS, *MORE_PAIRS][:crossed]
    rows = [
        {
            "id": f"neonate-{a}-{b}",
            "fixed": str(neonate / a / "T1w.nii.gz"),
            "moving": str(neonate / b / "T2w.nii.gz"),
            "fixed_labels": str(neonate / a / "labels.nii.gz") if a != b else "",
            "labels": str(neonate / b / "labels.nii.gz") if a != b else "",
            "preset": "brain-mr",
        }
        for a, b in pairs
    ]
    rows += [
        {
            "id": f"elderly-{n}",
            "fixed": str(elderly / n / "T1.nii.gz"),
            "moving": str(elderly / n / "FLAIR.nii.gz"),
            "preset": "brain-mr",
        }
        for n in ELDERLY
    ]
    return rows


def broken(folder: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """A truncated image, and a constant one."""
    whole = Path(rows[0]["fixed"]).read_bytes()
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 3])
    empty = sitk.Image([40, 40, 40], sitk.sitkInt16) + 7
    sitk.WriteImage(empty, str(folder / "constant.nii.gz"))
    return [
        {**rows[0], "id": "broken-truncated", "fixed": str(folder / "truncated.nii.gz")},
        {**rows[1], "id": "broken-constant", "moving": str(folder / "constant.nii.gz")},
    ]


def digest(folder: Path) -> str:
    """sha256 of what a case found: transforms as numbers (their files hold the time), images as files."""
    found = hashlib.sha256()
    for name in ("transform.h5", "inverse.h5"):
        composite = sitk.CompositeTransform(sitk.ReadTransform(str(folder / name)))
        for n in range(composite.GetNumberOfTransforms()):
            part = composite.GetNthTransform(n).Downcast()
            found.update(np.asarray(part.GetFixedParameters()).tobytes())
            if isinstance(
                part, sitk.DisplacementFieldTransform
            ):  # its parameters as a tuple would take minutes
                found.update(sitk.GetArrayFromImage(part.GetDisplacementField()).tobytes())
            else:
                found.update(np.asarray(part.GetParameters()).tobytes())
    for name in ("warped.nii.gz", "displacement.nrrd", "warped_labels.nii.gz", "overlap.json"):
        if (folder / name).exists():
            found.update((folder / name).read_bytes())
    return found.hexdigest()


def digests(study: Path) -> dict[str, str]:
    return {folder.name: digest(folder) for folder in sorted((study / "cases").iterdir())}


class Batch:
    """``masr batch`` in a process of its own."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._log = log
        self._command = [sys.executable, "-m", "masr_registration", "batch", *arguments]

    def run(self, study: Path, kill_after: int | None = None) -> tuple[int, float]:
        """Exit code and seconds; killed by SIGKILL, with all that it started left alone, after so many cases."""
        start = time.monotonic()
        with self._log.open("ab") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=log)
            while process.poll() is None:
                done = len(list((study / "cases").glob("*"))) if (study / "cases").is_dir() else 0
                busy = any((study / "running").glob("*")) if (study / "running").is_dir() else False
                if kill_after is not None and done >= kill_after and busy:
                    time.sleep(3)  # into the middle of a case
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    break
                time.sleep(0.5)
        return process.returncode, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MASR_DATA", "../../shared/data")))
    parser.add_argument("--crossed", type=int, default=8, help="pairs of two neonates, 12 at most")
    parser.add_argument("--cases", type=int, help="sound cases, at least 3; all of them by default")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    output = options.output.absolute()
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    rows = manifest(options.data.absolute(), options.crossed)[: options.cases]
    killed_after = [min(after, len(rows) - 2 + n) for n, after in enumerate(KILLED_AFTER)]
    rows = [*rows, *broken(output, rows)]
    (output / "manifest.csv").write_text(csv_text(rows, COLUMNS), encoding="utf-8")

    def command(study: Path, *more: str) -> Batch:
        common = ["--jobs", str(options.jobs), "--threads", "1", "--device", "cpu", "--keep-going"]
        arguments = [str(output / "manifest.csv"), "--output", str(study), *common, *more]
        return Batch(arguments, output / f"{study.name}.log")

    disturbed, undisturbed = output / "disturbed", output / "undisturbed"
    runs = [("killed", *command(disturbed).run(disturbed, killed_after[0]))]
    runs.append(("resumed, killed", *command(disturbed, "--resume").run(disturbed, killed_after[1])))
    runs.append(("resumed to the end", *command(disturbed, "--resume").run(disturbed)))
    runs.append(("undisturbed", *command(undisturbed).run(undisturbed)))
    write(output, rows, runs, digests(disturbed), digests(undisturbed))


def write(
    output: Path,
    rows: list[dict[str, str]],
    runs: list[tuple[str, int, float]],
    first: dict[str, str],
    second: dict[str, str],
) -> None:
    different = sorted(case for case in {*first, *second} if first.get(case) != second.get(case))
    cohorts = [
        json.loads((output / name / "cohort.json").read_text()) for name in ("disturbed", "undisturbed")
    ]
    failures = {case["id"]: case["message"] for case in cohorts[0]["cases"] if case["state"] == "failed"}
    left = [str(path.relative_to(output)) for path in output.glob("*/running/*")]
    content: dict[str, Any] = {
        "command": "python -m benchmarks.batch_resume " + " ".join(sys.argv[1:]),
        "versions": versions(),
        "cases": len(rows),
        "runs": [{"run": name, "exit_code": code, "seconds": round(s, 1)} for name, code, s in runs],
        "finished": [len(first), len(second)],
        "different": different,
        "failures": failures,
        "left_in_running": left,
        "summary": cohorts[1]["summary"],
        "digests": second,
    }
    (output / "batch_resume.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(rows)} cases, {content['finished']} finished, different: {different or 'none'}, left: {left}"
    )
    for name, code, seconds in runs:
        print(f"  {name:20} exit {code:4}  {seconds:7.1f} s")
    for case, message in failures.items():
        print(f"  {case}: {message}")
    if different or left or len(failures) != 2 or len(first) != len(rows) - 2:
        raise SystemExit("The study is not what it has to be.")


if __name__ == "__main__":
    main()
