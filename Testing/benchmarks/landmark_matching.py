"""What a suggested counterpart is worth: errors by its level, and the time of a click.

    python Testing/benchmarks/landmark_matching.py [--pairs WORD] [--points N]

The sample pair of the demo and real aligned pairs under the known warps of discriminability.py. Points are drawn from
the fixed body where the truth lies within the window; the window stands where the linear alignment expects the point.
Images: MASR_DATA, or shared/data beside the repository; the sample pair ships with the package.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from masr_registration import demo, presets
from masr_registration.errors import InputError
from masr_registration.matching.features import FeaturePair
from masr_registration.matching.suggest import REACH_MM, suggest
from masr_registration.solver.pipeline import encode_pair
from masr_registration.volume import Volume, read_volume

from benchmarks.discriminability import DATA, PAIRS, PointMap, warped

LEVELS = ("clear", "unsure", "none")
FOREGROUND = 0.15
"""Share of the brightest intensity above which a voxel is taken for tissue."""


def cases(wanted: str) -> Iterator[tuple[str, Volume, Volume, PointMap]]:
    """Title, fixed image, moving image and where points of the fixed one lie in it (LPS mm)."""
    if wanted in "sample":
        yield ("sample", *sample())
    if DATA.is_dir():
        for kind, pairs in PAIRS.items():
            for fixed, moving in pairs:
                title = f"{kind} {fixed.split('/')[-2]}"
                if wanted in title and kind != "T1-T1":
                    image, truth = warped(read_volume(DATA / f"{moving}.nii.gz"), 0)
                    yield title, read_volume(DATA / f"{fixed}.nii.gz"), image, truth


def sample() -> tuple[Volume, Volume, PointMap]:
    """The pair of the demo."""
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        files = demo.prepare(Path(folder))
        truth = sitk.ReadTransform(files["truth"])
        images = read_volume(files["fixed"]), read_volume(files["moving"])
    return (*images, lambda points: np.array([truth.TransformPoint(p) for p in points.tolist()]))


def draw(fixed: Volume, count: int) -> np.ndarray:
    """LPS points ``(N, 3)`` of tissue."""
    voxels = np.argwhere(fixed.array > FOREGROUND * np.percentile(fixed.array, 99.5))[:, ::-1]
    chosen = voxels[np.random.default_rng(0).choice(len(voxels), count, replace=False)]
    matrix = fixed.geometry.index_to_physical
    points: np.ndarray = chosen @ matrix[:3, :3].T + matrix[:3, 3]
    return points


def measure(pair: FeaturePair, points: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors in mm, ratios, levels and seconds of the suggestions: ``(4, N)``, and the expectation's errors."""
    rows, before = [], []
    for point, true in zip(points, truth, strict=True):
        expected = pair.linear[:3, :3] @ point + pair.linear[:3, 3]
        if np.abs(expected - true).max() > REACH_MM - 4:
            continue
        start = time.perf_counter()
        try:
            found = suggest(pair, point, expected)
        except InputError:
            continue
        seconds = time.perf_counter() - start
        rows.append((np.linalg.norm(found.point - true), found.ratio, LEVELS.index(found.level), seconds))
        before.append(np.linalg.norm(expected - true))
    return np.array(rows).T, np.array(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", default="", help="only pairs whose title holds this word")
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--representation", default="mind")
    arguments = parser.parse_args()
    preset = presets.load("brain-mr").with_representation(arguments.representation)
    everything = []
    for title, fixed, moving, truth in cases(arguments.pairs):
        pair, _warnings = encode_pair(fixed, moving, preset, device="cpu")
        points = draw(fixed, arguments.points)
        found, before = measure(pair, points, truth(points))
        everything.append(found)
        print(f"{title}: {found.shape[1]} points, expected within {np.median(before):.1f} mm (median)")
        report(found)
    print(f"all: cells {pair.fixed.known.shape}, {pair.fixed.values.shape[-1]} channels in the last pair")
    report(np.concatenate(everything, axis=1))


def report(found: np.ndarray) -> None:
    error, ratio, level, seconds = found
    for number, name in enumerate(LEVELS):
        part = error[level == number]
        if part.size:
            print(
                f"  {name:7} {part.size:5}  median {np.median(part):5.2f} mm  "
                f"within 3 mm {np.mean(part <= 3):4.0%}  within 5 mm {np.mean(part <= 5):4.0%}"
            )
    for low, high in ((1, 1.1), (1.1, 1.25), (1.25, 1.4), (1.4, 1.6), (1.6, 2), (2, 3), (3, np.inf)):
        part = error[(ratio >= low) & (ratio < high)]
        if part.size:
            print(f"  ratio {low:4.2f}-{high:4.2f} {part.size:5}  within 4 mm {np.mean(part <= 4):4.0%}")
    print(f"  a click: median {1e3 * np.median(seconds):.0f} ms, longest {1e3 * seconds.max():.0f} ms")


if __name__ == "__main__":
    main()
