"""Studies of small real registrations: what resuming notices, and the same bits from every engine."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import SimpleITK as sitk
from batch_tools import Studies, real_study
from benchmarks.batch_resume import digests
from masr_registration.batch.cluster import DaskEngine
from masr_registration.batch.manifest import FaultsError
from small_pair import pair
from worker_tools import PACKAGE_FOLDER, wait_until

__all__ = ["pair"]  # the fixture


def write_series(image: sitk.Image, folder: Path) -> list[Path]:
    """An image as a DICOM series, one file without a suffix for each slice."""
    folder.mkdir()
    direction = image.GetDirection()
    paths = []
    for number in range(image.GetSize()[2]):
        slice_ = image[:, :, number : number + 1]
        position = image.TransformIndexToPhysicalPoint((0, 0, number))
        tags = {
            "0008|0060": "MR", "0008|0016": "1.2.840.10008.5.1.4.1.1.4", "0020|000d": "1.2.3", "0020|000e": "1.2.4",
            "0008|0018": f"1.2.4.{number + 1}", "0020|0011": "1", "0020|0013": str(number + 1), "0020|0052": "1.2.5",
            "0020|0032": "\\".join(f"{v:.6f}" for v in position),
            "0020|0037": "\\".join(f"{v:.8f}" for v in (*direction[0::3], *direction[1::3])),
            "0018|0050": str(image.GetSpacing()[2]),
        }  # fmt: skip
        for key, value in tags.items():
            slice_.SetMetaData(key, value)
        paths.append(folder / f"IM{number:04}")
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(paths[-1]))
        writer.Execute(slice_)
    return paths


@pytest.mark.slow
def test_resuming_notices_every_input_that_changed(pair: dict[str, Path], tmp_path: Path) -> None:
    slices = write_series(sitk.ReadImage(pair["moving"]), tmp_path / "series")
    for name in ("fixed_points", "labels"):
        (tmp_path / pair[name].name).write_bytes(pair[name].read_bytes())
    common = {"id": "", "fixed": str(pair["fixed"]), "moving": str(tmp_path / "series")}
    rows: list[dict[str, Any]] = [
        {**common, "id": "folder"},
        {**common, "id": "slice", "moving": str(slices[7])},
        {
            **common,
            "id": "rest",
            "moving": str(pair["moving"]),
            "labels": str(pair["labels"]),
            "fixed_labels": str(tmp_path / "labels.nrrd"),
            "fixed_landmarks": str(tmp_path / "fixed_points.csv"),
            "moving_landmarks": str(pair["moving_points"]),
        },
    ]
    study = real_study(tmp_path, rows, pair["preset"])
    assert study.run(jobs=1).done == 3
    before = {path: path.read_bytes() for path in (slices[3], *tmp_path.glob("fixed_points.csv"))}
    before[tmp_path / "labels.nrrd"] = (tmp_path / "labels.nrrd").read_bytes()

    write_series(sitk.ReadImage(pair["moving"]) + 1, tmp_path / "other")
    slices[3].write_bytes((tmp_path / "other" / slices[3].name).read_bytes())
    points = list(csv.reader((tmp_path / "fixed_points.csv").open()))
    points[1][1] = "0.5"
    (tmp_path / "fixed_points.csv").write_text("\n".join(",".join(row) for row in points))
    sitk.WriteImage(sitk.ReadImage(tmp_path / "labels.nrrd") + 1, tmp_path / "labels.nrrd")
    with pytest.raises(FaultsError) as caught:
        study.run(jobs=1, resume=True)
    told = sorted((fault.case, fault.sentence.partition(" changed")[0]) for fault in caught.value.faults)
    assert told == [
        ("folder", "Its moving image"),
        ("rest", "Its fixed landmarks"),
        ("rest", "Its labels of the fixed image"),
        ("slice", "Its moving image"),
    ]
    for path, content in before.items():
        path.write_bytes(content)
    assert study.run(jobs=1, resume=True).done == 3


class Killer:
    """Kills a dask worker while both have a case; `attempts` are the folders of all cases that were begun."""

    def __init__(self, study: Studies) -> None:
        self._study = study
        self.attempts: set[str] = set()
        self.killed: psutil.Process | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        running = self._study.study.running
        while not self._ended.wait(0.02):
            checked = (self._study.output / "study.json").exists()
            if not checked or not running.is_dir():
                continue
            begun = {path.name for path in running.iterdir()}
            self.attempts |= begun
            servers = [
                process
                for process in psutil.Process().children(recursive=True)
                if "masr_registration.batch.server" in process.cmdline()
            ]
            if self.killed is None and len(begun) == 2 and len(servers) == 2:
                self.killed = servers[0].parent()
                assert self.killed is not None
                self.killed.kill()


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_give_the_bits_of_the_local_engine(
    pair: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE_FOLDER))
    common = {"fixed": str(pair["fixed"]), "moving": str(pair["moving"]), "continuous.iterations": [40, 40]}
    rows: list[dict[str, Any]] = [{**common, "id": f"seed-{seed}", "seed": seed} for seed in range(3)]
    rows += [{**common, "id": "other", "fixed": str(pair["other"]), "labels": str(pair["labels"])}]
    here = real_study(tmp_path, rows, pair["preset"], "here")
    assert here.run(jobs=1).done == len(rows)
    dask = real_study(tmp_path, rows, pair["preset"], "dask")
    with Killer(dask) as killer:
        summary = dask.run(jobs=2, engine=DaskEngine())
    assert killer.killed is not None
    assert wait_until(lambda: not killer.killed.is_running())
    assert (summary.done, summary.failed) == (len(rows), 0)
    cases = [name.rpartition("-")[0] for name in killer.attempts]
    assert len(cases) == len(set(cases)) + 1  # one was begun twice
    assert digests(dask.output) == digests(here.output)
    assert len(set(digests(here.output).values())) == len(rows)
    assert list(dask.study.running.iterdir()) == []
