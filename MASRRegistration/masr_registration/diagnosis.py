"""What this Python can do for a registration: ``python -m masr_registration.diagnosis`` prints it as one JSON object.

Never fails: what is missing or broken is said in the result. Importable without torch.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import replace
from importlib import import_module, metadata
from typing import Any

from . import __version__, presets
from .presets import Preset
from .representation import models

PACKAGES = ("torch", "numpy", "SimpleITK", "safetensors", "matplotlib", "numba")
SIZE, SPACING_MM = 32, 2.5
SHIFT_MM = (4.0, -2.0, 2.0)
"""The moving volume of the self-test lies so much further along x, y, z."""
LARGEST_ERROR_MM = 1.0


def diagnose() -> dict[str, Any]:
    """Versions, devices, memory, weights, and a small registration, as JSON data."""
    return {
        "masr_version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "torch_and_numpy": _guarded(_torch_and_numpy),
        "devices": _guarded(_devices),
        "free_memory_mb": _guarded(_free_memory_mb),
        "weights": _guarded(_weights),
        "self_test": _guarded(self_test),
    }


def blobs() -> tuple[Any, Any]:
    """Two volumes (D, H, W) float32 of one body in different shades, `SIZE` voxels of `SPACING_MM` along each axis."""
    import numpy as np

    k, j, i = np.indices((SIZE, SIZE, SIZE)) - (SIZE - 1) / 2
    body = (k / 14) ** 2 + (j / 11) ** 2 + (i / 12) ** 2 < 1
    organ = ((k - 4) / 4) ** 2 + ((j + 3) / 3) ** 2 + ((i - 2) / 5) ** 2 < 1
    other = ((k + 5) / 3) ** 2 + ((j - 2) / 5) ** 2 + ((i + 4) / 3) ** 2 < 1
    first = 100 * body + 80 * organ - 40 * other
    second = 60 * body + 10 * organ + 90 * other
    return first.astype(np.float32), second.astype(np.float32)


def quick_preset() -> Preset:
    """Rigid, on a coarse grid: a second's work."""
    general = presets.load("general")
    return replace(
        general,
        name="self-test",
        working_spacing_mm=4.0,
        linear=replace(general.linear, model="rigid"),
        discrete=replace(general.discrete, enabled=False),
        continuous=replace(general.continuous, enabled=False),
    )


def self_test() -> str:
    """Register two blobs a known shift apart; a sentence about it. Raises what went wrong."""
    import numpy as np
    import SimpleITK as sitk

    from .api import register

    start = time.perf_counter()
    images = [sitk.GetImageFromArray(array) for array in blobs()]
    for image, origin in zip(images, ((0.0, 0.0, 0.0), SHIFT_MM), strict=True):
        image.SetSpacing([SPACING_MM] * 3)
        image.SetOrigin(origin)
    result = register(*images, preset=quick_preset())
    centre = SPACING_MM * np.full(3, (SIZE - 1) / 2)
    moved = np.array(result.transform.to_sitk().TransformPoint(centre.tolist()))
    error = float(np.linalg.norm(moved - centre - SHIFT_MM))
    if error > LARGEST_ERROR_MM:
        raise ArithmeticError(f"a known shift was found {error:.1f} mm off")
    return f"passed in {time.perf_counter() - start:.1f} s, a known shift found within {error:.2f} mm"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _guarded(question: Any) -> Any:
    try:
        return question()
    except Exception as error:
        return f"failed: {type(error).__name__}: {error}"


def _torch_and_numpy() -> str:
    """Arrays go both ways only if torch was built for this numpy's binary interface."""
    numpy, torch = import_module("numpy"), import_module("torch")
    back = torch.from_numpy(numpy.arange(3.0)).numpy()
    return "work together" if back.tolist() == [0.0, 1.0, 2.0] else "do not work together"


def _devices() -> list[str]:
    torch = import_module("torch")
    found = [f"cpu ({torch.get_num_threads()} threads)"]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name, capability = torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)
        found.append(
            f"cuda:{number} ({name}, compute capability {capability[0]}.{capability[1]}, "
            f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free)"
        )
    return found


def _free_memory_mb() -> float | str:
    from .solver.plan import usable_host_mb

    megabytes = usable_host_mb()
    return round(megabytes) if megabytes != float("inf") else "not known on this system"


def _weights() -> dict[str, str]:
    return {name: f"{model.state()} (sha256 {model.sha256})" for name, model in models.shipped().items()}


if __name__ == "__main__":
    print(json.dumps(diagnose()), file=sys.stdout)  # noqa: T201
