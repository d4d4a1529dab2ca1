"""How long the Check and Landmarks tabs hold up Slicer's window at 192 x 160 x 192 voxels, on the harness.

    python Testing/benchmarks/interaction.py

Everything but the images is real: MRML, six slice views' logics, the tabs, features of the full size. One line for
every hand-over, in milliseconds; the budget is 1000 for a hand-over, 100 for what happens meanwhile and for a click.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "MASRRegistration")]

from harness.slicerapp import boot  # noqa: E402

HARNESS = boot()
HARNESS.load_modules(ROOT / "MASRRegistration")

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import slicer  # noqa: E402
import vtk  # noqa: E402
from masr_registration.matching.features import FeatureImage, FeaturePair  # noqa: E402
from masr_registration.worker.client import Outcome  # noqa: E402
from MASRRegistrationLib.mrml import changes  # noqa: E402
from MASRRegistrationLib.mrml.applying import Application  # noqa: E402
from MASRRegistrationLib.mrml.inputs import InputVolume  # noqa: E402
from MASRRegistrationLib.mrml.results import deliver  # noqa: E402
from MASRRegistrationLib.mrml.setup import RegistrationSetup  # noqa: E402

SIZE = (192, 160, 192)
CHANNELS = 44
FIELDS, FIELD_SPACING = 3, 2.0


def timed(what: str, action: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = action()
    print(f"{what:45} {1e3 * (time.perf_counter() - start):7.0f} ms", flush=True)
    return result


def volume(name: str, seed: int) -> Any:
    k, j, i = np.indices(SIZE[::-1], dtype=np.float32)
    array = 500 + 200 * np.sin(k / (7 + seed)) * np.cos(j / 9) * np.sin(i / 11)
    return slicer.util.addVolumeFromArray(array.astype(np.int16), name=name)


def outcome(folder: Path) -> Outcome:
    """Files like the worker's: a linear part and three fields on grids of 2 mm, features on cells of 2 mm."""
    image = sitk.ReadImage(str(folder / "fixed.nrrd"))
    rng = np.random.default_rng(0)
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((2.0, -3.0, 1.0))
    parts: list[sitk.Transform] = [affine]
    for _ in range(FIELDS):
        coarse = sitk.GetImageFromArray(rng.normal(0, 1, (12, 10, 12, 3)), isVector=True)
        coarse.SetSpacing([18.0, 18.0, 18.0])
        coarse.SetOrigin(image.GetOrigin())
        coarse.SetDirection(image.GetDirection())
        size = [int(n / FIELD_SPACING) for n in SIZE]
        field = sitk.Resample(
            coarse, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), [FIELD_SPACING] * 3,
            image.GetDirection(), 0.0, sitk.sitkVectorFloat64,
        )  # fmt: skip
        parts.append(sitk.DisplacementFieldTransform(field))
    sitk.WriteTransform(sitk.CompositeTransform(parts), str(folder / "transform.h5"))
    sitk.WriteImage(image, str(folder / "warped.nii.gz"))
    cells = np.diag([2.0, 2.0, 2.0, 1.0])
    cells[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * 2
    cells[:3, 3] = image.GetOrigin()
    shape = tuple(n // 2 for n in SIZE[::-1])
    images = [
        FeatureImage(rng.integers(-127, 128, (*shape, CHANNELS), dtype=np.int8), np.ones(shape, bool), cells)
        for _ in range(2)
    ]
    FeaturePair(images[0], images[1], 0.01, np.eye(4)).write(folder / "features.npz")
    names = {"transform": "transform.h5", "warped": "warped.nii.gz", "features": "features.npz"}
    verdict = {"level": "plausible", "reasons": ["A reason."]}
    return Outcome({n: folder / f for n, f in names.items()}, {"folds": 0}, [], verdict, {}, {"total": 1.0})


def belongings(moving: Any) -> dict[str, Any]:
    """What may be moved along, on the grid of the moving volume."""
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    slicer.util.updateVolumeFromArray(labels, (slicer.util.arrayFromVolume(moving) > 550).astype(np.uint8))
    labels.CopyOrientation(moving)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segments")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, segmentation)
    return {"volume": moving, "label map": labels, "segmentation": segmentation}


def hardened(what: str, steps: Iterator[float]) -> None:
    """The longest step is what holds up the window."""
    times, before = [], time.perf_counter()
    for _fraction in steps:
        now = time.perf_counter()
        times.append(1e3 * (now - before))
        before = now
    print(f"{what:45} {sum(times):7.0f} ms in {len(times)} steps, longest {max(times):.0f} ms", flush=True)


def main() -> None:
    HARNESS.start()
    with HARNESS.mrml.layout((500, 400)), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        widget = slicer.util.getModuleWidget("MASRRegistration")
        slicer.modules.masrregistration.widgetRepresentation().enter()
        tabs, parameters = widget.tabs, widget.tabs.binding.parameters
        nodes = volume("T1", 0), volume("T2", 1)
        parameters.fixedVolume, parameters.movingVolume = nodes
        inputs = [InputVolume.of(node) for node in nodes]
        timed(
            "images to the worker",
            lambda: [v.write(folder / f"{n}.nrrd") for v, n in zip(inputs, ("fixed", "moving"), strict=True)],
        )
        made = outcome(folder)
        result = timed("result into the scene", lambda: deliver(made, *inputs, RegistrationSetup(*nodes)))
        parameters.outputTransform, parameters.outputVolume = result.transformNode, result.volumeNode
        timed("Check tab opens", lambda: tabs.check.resultArrived(result))
        timed("Landmarks tab reads the features", lambda: tabs.landmarks.resultArrived(result))
        steps = []
        tabs.check.sampler._timer.stop()
        while tabs.check.comparison.map is None:
            start = time.perf_counter()
            tabs.check.sampler._onTimeout()
            steps.append(1e3 * (time.perf_counter() - start))
        print(
            f"sampling the deformation: {len(steps)} steps, longest {max(steps[:-1]):.0f} ms, last {steps[-1]:.0f} ms, "
            f"{sum(steps) / 1e3:.1f} s together"
        )
        for index, content in enumerate(("images", "checkerboard", "displacement", "volume ratio")):
            timed(
                f"show {content}",
                lambda index=index: setattr(tabs.check.ui.contentComboBox, "currentIndex", index),
            )
        timed("fade", lambda: setattr(tabs.check.ui.fadeSlider, "value", 0.3))
        for kind, node in belongings(nodes[1]).items():
            hardened(f"hardened: {kind}", Application(result.transformNode).steps(node, True))
        timed("revert", lambda: changes.revert(result.transformNode))
        result = timed(
            "result into the scene again", lambda: deliver(made, *inputs, RegistrationSetup(*nodes))
        )
        parameters.outputTransform, parameters.outputVolume = result.transformNode, result.volumeNode
        tabs.landmarks.ui.placeFixedButton.click()
        points, bounds = parameters.fixedLandmarks, np.zeros(6)
        nodes[0].GetRASBounds(bounds)
        centre = bounds.reshape(3, 2).mean(axis=1)
        for number in range(3):
            place = vtk.vtkVector3d(*(centre + 7 * number).tolist())
            timed("a click: suggestion and heat map", lambda place=place: points.AddControlPoint(place))
            tabs.landmarks.onAccept()
        moving = parameters.movingLandmarks
        timed("a point is dragged", lambda: moving.SetNthControlPointPosition(0, 1.0, 2.0, 3.0))
        tabs.check.closeViews()
    HARNESS.stop()


if __name__ == "__main__":
    main()
