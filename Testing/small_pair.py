"""A small synthetic pair with everything that a registration can be given, and its job without a process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration import presets
from masr_registration.errors import BY_CODE
from masr_registration.volume import Geometry
from masr_registration.worker import client, messages
from masr_registration.worker.context import Context
from masr_registration.worker.job import register_files
from masr_registration.worker.jobfolder import JobFolder
from masr_registration.worker.session import failure

OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
SHIFT_MM = np.array([4.0, -3.0, 5.0])


def picture(size: tuple[int, int, int], spacing: tuple[float, float, float], shift: np.ndarray) -> np.ndarray:
    """A body with three organs, moved by `shift` mm; its centre is the grid's."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    z, y, x = np.meshgrid(*reversed(axes), indexing="ij")
    x, y, z = x - shift[0], y - shift[1], z - shift[2]
    image = 400.0 * ((x / 28) ** 2 + (y / 24) ** 2 + (z / 30) ** 2 < 1)
    for (a, b, c), radius, value in (((9, 4, 6), 8, 300), ((-10, -5, 2), 6, -200), ((2, 8, -12), 5, 500)):
        image += value * ((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < radius**2)
    return image


def save(
    array: np.ndarray, path: Path, spacing: tuple[float, ...] = (2.0, 2.0, 2.5), **geometry: Any
) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(geometry.get("origin", (-30.0, 20.0, 5.0)))
    image.SetDirection(geometry.get("direction", OBLIQUE))
    sitk.WriteImage(image, path)
    return path


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fixed and a moving image in other contrast, masks, labels, landmarks, transforms and a quick preset."""
    folder = tmp_path_factory.mktemp("pair")
    size, spacing = (32, 34, 30), (2.0, 2.0, 2.5)
    rng = np.random.default_rng(0)
    still, moved = picture(size, spacing, np.zeros(3)), picture(size, spacing, SHIFT_MM)
    noise = rng.normal(0, 5, still.shape)
    files = {
        "fixed": save((still + noise).astype(np.float32), folder / "fixed.nii.gz"),
        "moving": save((900 - moved + noise).astype(np.int16), folder / "moving.nii.gz"),
        "other": save((still[::-1] + noise).astype(np.float32), folder / "other.nii.gz"),
        "fixed_mask": save((still > 100).astype(np.uint8), folder / "fixed_mask.nii.gz"),
        "moving_mask": save((moved > 100).astype(np.uint8), folder / "moving_mask.nrrd"),
        "labels": save((moved // 250).astype(np.uint16), folder / "labels.nrrd"),
    }
    world = np.reshape(OBLIQUE, (3, 3)) @ SHIFT_MM
    for name, vector in (("truth", world), ("start", world / 2)):
        files[name] = folder / f"{name}.h5"
        sitk.WriteTransform(sitk.TranslationTransform(3, vector.tolist()), files[name])
    centre = Geometry.of(sitk.ReadImage(files["fixed"])).centre
    points = centre + np.array([[0, 0, 0], [9, 4, 6], [-10, -5, 2]])
    for name, rows in (("fixed_points", points), ("moving_points", points + world)):
        files[name] = folder / f"{name}.csv"
        lines = [f"P{i},{x},{y},{z}" for i, (x, y, z) in enumerate(rows)]
        files[name].write_text("\n".join(["label,x_lps,y_lps,z_lps", *lines]))
    general = presets.load("general")
    quick = replace(
        general,
        name="quick",
        working_spacing_mm=4.0,
        linear=replace(general.linear, model="none"),
        discrete=replace(general.discrete, reach_mm=16.0),
        continuous=replace(general.continuous, control_spacing_mm=12.0, iterations=(3, 2)),
    )
    files["preset"] = folder / "quick.json"
    files["preset"].write_text(quick.to_json())
    return files


def request(pair: dict[str, Path], output: Path, **changes: Any) -> messages.Request:
    fields = {"fixed": str(pair["fixed"]), "moving": str(pair["moving"]), "output": str(output)}
    preset = json.loads(pair["preset"].read_text())
    return messages.request_from({**fields, "preset": preset, "threads": 1, **changes})


def run_here(
    request: messages.Request,
    on_message: Callable[[messages.Message], None] = lambda message: None,
    cancel: object = None,
) -> client.Outcome:
    """`client.run` without the process, for what needs none."""
    folder = JobFolder.create()
    try:
        found = register_files(request, Context(on_message, folder, threading.Event()))
    except BaseException as error:
        final, _ = failure(error)
        assert isinstance(final, messages.Error), final
        raise BY_CODE[final.code](final.message) from error
    finally:
        folder.remove()
    files = {name: Path(path) for name, path in found.files.items()}
    values = (found.metrics, found.warnings, found.verdict, found.provenance, found.timings)
    return client.Outcome(files, *values)
