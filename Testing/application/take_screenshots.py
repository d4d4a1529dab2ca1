"""Takes every picture of the module in a real 3D Slicer, with the sample pair, and ends Slicer.

Slicer --additional-module-paths MASRRegistration --python-script Testing/application/take_screenshots.py FOLDER

Without FOLDER they go to Resources/Screenshots. The harness's pictures must never take their place.
"""

import sys
import time
from pathlib import Path

import numpy as np
import qt
import slicer
import vtk
from masr_registration import demo
from MASRRegistrationLib.gui import sample

ROOT = Path(__file__).resolve().parents[2]
PICTURES = {
    "slicer-register.png": "the Register tab while it works",
    "slicer-check.png": "the Check tab with the six views",
    "slicer-displacement.png": "the displacement in millimetres over the fixed volume",
    "slicer-landmarks.png": "the Landmarks tab with a suggested counterpart and its heat map",
}
"""File name -> what it shows; the README has a place for each."""
SIZE = (1600, 1000)


def main(folder: Path) -> None:
    slicer.util.mainWindow().resize(*SIZE)
    slicer.util.selectModule("MASRRegistration")
    tabs = slicer.util.getModuleWidget("MASRRegistration").tabs
    fixed, moving = sample.load()
    tabs.binding.parameters.fixedVolume, tabs.binding.parameters.movingVolume = fixed, moving
    tabs.binding.parameters.preset = demo.PRESET
    tabs.register.ui.applyButton.click()
    wait(lambda: tabs.register.ui.progressBar.value > 40)
    take(folder, "slicer-register.png")
    wait(lambda: not tabs.register.running)
    wait(lambda: tabs.check.comparison is not None and tabs.check.comparison.map is not None)
    take(folder, "slicer-check.png")
    tabs.check.ui.contentComboBox.currentIndex = 2
    take(folder, "slicer-displacement.png")
    tabs.widget.setCurrentIndex(2)
    tabs.landmarks.ui.placeFixedButton.click()
    bounds = np.zeros(6)
    fixed.GetRASBounds(bounds)
    centre = vtk.vtkVector3d(*bounds.reshape(3, 2).mean(axis=1).tolist())
    tabs.binding.parameters.fixedLandmarks.AddControlPoint(centre)
    take(folder, "slicer-landmarks.png")


def take(folder: Path, name: str) -> None:
    end = time.monotonic() + 1.0  # until everything is drawn
    wait(lambda: time.monotonic() > end)
    path = folder / name
    if not slicer.util.mainWindow().grab().save(str(path)):
        raise RuntimeError(f"{path} could not be written")
    print(f"{path}: {PICTURES[name]}")


def wait(condition, timeout: float = 1800.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("The registration took too long.")
        slicer.app.processEvents()
        time.sleep(0.01)


def run() -> None:
    """Called by a timer, when the window is there."""
    code = 1
    try:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "Resources" / "Screenshots"
        main(folder)
        code = 0
    finally:
        slicer.util.exit(code)


if __name__ == "__main__":
    qt.QTimer.singleShot(0, run)
