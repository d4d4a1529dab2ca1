"""What this Python can do for a registration: ``python -m masr_registration.diagnosis`` prints it as one JSON object.

Never fails: what is missing or broken is said in the result. Importable without torch.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib import import_module, metadata
from typing import Any

from . import __version__
from .representation import models

PACKAGES = ("torch", "numpy", "SimpleITK", "safetensors", "matplotlib", "numba")
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


def self_test() -> str:
    """Register two blobs a known shift apart; a sentence about it. Raises what went wrong."""
    import numpy as np
    import SimpleITK as sitk

    from . import presets
    from .api import register

    start = time.perf_counter()
    size = 32
    k, j, i = np.indices((size, size, size)) - (size - 1) / 2
    body = (k / 14) ** 2 + (j / 11) ** 2 + (i / 12) ** 2 < 1
    organ = ((k - 4) / 4) ** 2 + ((j + 3) / 3) ** 2 + ((i - 2) / 5) ** 2 < 1
    other = ((k + 5) / 3) ** 2 + ((j - 2) / 5) ** 2 + ((i + 4) / 3) ** 2 < 1
    images = []
    for shades, origin in (((100, 80, -40), (0.0, 0.0, 0.0)), ((60, 10, 90), SHIFT_MM)):
        array = sum(shade * where for shade, where in zip(shades, (body, organ, other), strict=True))
        image = sitk.GetImageFromArray(np.asarray(array, np.float32))
        image.SetSpacing((2.5, 2.5, 2.5))
        image.SetOrigin(origin)
        images.append(image)
    preset = json.loads(presets.load("general").to_json())
    preset["working_spacing_mm"] = 4.0
    preset["linear"]["model"] = "rigid"
    for stage in ("discrete", "continuous"):
        preset[stage]["enabled"] = False
    result = register(*images, preset=preset)
    centre = 2.5 * np.full(3, (size - 1) / 2)
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
