"""Draws the thumbnail of the sample pair: ``python Testing/thumbnail.py`` (T1 and T2 in alternating squares)."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk

MODULE = Path(__file__).resolve().parents[1] / "MASRRegistration"
SQUARE = 20  # voxels


def main() -> None:
    folder = MODULE / "masr_registration" / "data" / "sample"
    slices = []
    for name in ("T1", "T2"):
        array = sitk.GetArrayFromImage(sitk.ReadImage(folder / f"{name}.nii.gz")).astype(float)
        middle = array[array.shape[0] // 2]
        slices.append(np.flipud(middle / np.percentile(middle, 99.5)).clip(0, 1))
    row, column = np.indices(slices[0].shape)
    first = (row // SQUARE + column // SQUARE) % 2 == 0
    figure = plt.figure(figsize=(2.6, 2.8), dpi=100, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.where(first, *slices), cmap="gray")
    axes.set_axis_off()
    figure.savefig(MODULE / "Resources" / "Icons" / "MASRSamplePair.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
