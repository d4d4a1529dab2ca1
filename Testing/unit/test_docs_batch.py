"""Every line of Docs/batch.md is run, with processes that only pretend to register."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

from batch_tools import Studies, studies
from docs_code import blocks
from masr_registration.batch import manifest
from worker_tools import PACKAGE_FOLDER

__all__ = ["studies"]


def test_the_page_of_the_batch(studies: Studies) -> None:
    folder = studies.folder
    for patient in ("p1", "p2"):
        subject = folder / "bids" / f"sub-{patient}" / "anat"
        images = [folder / "images" / patient / f"{name}.nii.gz" for name in ("T1", "T2", "seg_T1", "seg_T2")]
        images += [subject / f"sub-{patient}_{name}.nii.gz" for name in ("T1w", "acq-tse_T2w", "acq-3d_T2w")]
        for image in images:
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_text("good")
    (folder / "page.csv").write_text(blocks("batch.md", "csv")[0].text)
    slurm = json.loads(blocks("batch.md", "json")[0].text)
    slurm |= {"shared_directory": str(folder), "interface": "lo"}  # of this machine
    (folder / "slurm.json").write_text(json.dumps(slurm))
    _commands(folder / "bin", folder)
    variables = {**os.environ, "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])}
    variables["PYTHONPATH"] = os.pathsep.join([str(PACKAGE_FOLDER), str(folder)])
    variables["DASK_DISTRIBUTED__WORKER__PRELOAD"] = "fake_preload"

    made = manifest.read(folder / "page.csv")
    assert made.faults == []
    assert [case.preset.continuous.regularisation for case in made.cases] == [2.0, 3.0]
    run = []
    for block in blocks("batch.md", "sh"):
        for line in block.text.splitlines():
            done = subprocess.run(
                ["bash", "-c", line], cwd=folder, env=variables, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            run.append(line)
    assert len(run) == 9
    for name in ("results", "on-dask", "on-slurm"):
        assert sorted(path.name for path in (folder / name / "cases").iterdir()) == ["p1", "p2"]
    assert [case.id for case in manifest.read(folder / "bids.csv").cases] == ["sub-p1", "sub-p2"]


def _commands(folder: Path, modules: Path) -> None:
    """`masr` with the pretending server, and an sbatch that runs its script at once."""
    folder.mkdir()
    code = "import fake_preload\nfrom masr_registration.cli import main\nif __name__ == '__main__':\n    main()\n"
    (modules / "fake_masr.py").write_text(code)
    scripts = {
        "masr": f'exec {shlex.quote(sys.executable)} {shlex.quote(str(modules / "fake_masr.py"))} "$@"',
        "sbatch": f'cp "${{@: -1}}" {folder}/job.$$.sh\nbash {folder}/job.$$.sh >/dev/null 2>&1 &\n'
        'echo "Submitted batch job $!"',
        "scancel": "kill $@ 2>/dev/null; true",
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)
