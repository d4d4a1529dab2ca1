"""What a result was made with: versions, hashes of the inputs, memory. Base names only, never a path."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from .. import __version__
from ..dicom_series import is_dicom
from ..hashing import file_sha256
from ..volume import Volume

_HEADER_ONLY = (".mhd", ".nhdr", ".hdr")


def versions() -> dict[str, str]:
    return {
        "masr_version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "simpleitk": sitk.Version.VersionString(),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_device(device: torch.device) -> str:
    """For example ``cpu`` or ``cuda:0 (NVIDIA H200)``."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def describe_file(path: str) -> dict[str, str]:
    """Base name and sha256 of a file's bytes."""
    return {"name": Path(path).name, "sha256": file_sha256(Path(path))}


def describe_volume(path: str | None, volume: Volume) -> dict[str, Any]:
    """Name, geometry and hash of an input image.

    `sha256` is of the file's bytes (`sha256_of` "file") or, where the image came from memory or is more than this one
    file (a DICOM series, a detached header), of its decoded voxels and geometry ("voxels").
    """
    geometry = volume.geometry
    described = {
        "name": volume.name,
        "size": list(geometry.size),
        "spacing": list(geometry.spacing),
        "origin": list(geometry.origin),
        "direction": list(geometry.direction),
    }
    if path is not None and _is_whole(Path(path)):
        return {**described, "sha256": describe_file(path)["sha256"], "sha256_of": "file"}
    return {**described, "sha256": _hash_voxels(volume), "sha256_of": "voxels"}


def describe_arrays(name: str, arrays: Iterable[np.ndarray]) -> dict[str, str]:
    """Name and sha256 of numbers that came from memory."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return {"name": name, "sha256": digest.hexdigest()}


def peak_memory_mb() -> float | None:
    """The most memory that this process has held, in MB (10^6 bytes); None where the system does not tell."""
    if sys.platform == "win32":
        return _peak_windows()
    if sys.platform == "linux":
        # not getrusage, whose maximum starts with that of the parent
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(match.group(1)) * 1024 / 1e6 if match else None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def peak_device_memory_mb(device: torch.device) -> float | None:
    """The most memory that torch has held on a CUDA device, in MB; None on other devices."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None


def _is_whole(path: Path) -> bool:
    """Whether one file holds the whole image."""
    return path.is_file() and path.suffix.lower() not in _HEADER_ONLY and not is_dicom(path)


def _hash_voxels(volume: Volume) -> str:
    digest = hashlib.sha256(repr(volume.geometry).encode())
    digest.update(str(volume.array.dtype).encode())
    digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()


def _peak_windows() -> float | None:
    if sys.platform != "win32":
        return None
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = (
            ("cb", wintypes.DWORD),
            ("page_faults", wintypes.DWORD),
            *(
                (name, ctypes.c_size_t)
                for name in ("peak", "now", "a", "b", "c", "d", "pagefile", "peak_pagefile")
            ),
        )

    counters = Counters(cb=ctypes.sizeof(Counters))
    process = ctypes.windll.kernel32.GetCurrentProcess
    process.restype = wintypes.HANDLE
    query = ctypes.windll.psapi.GetProcessMemoryInfo
    query.argtypes = [wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD]
    return counters.peak / 1e6 if query(process(), ctypes.byref(counters), counters.cb) else None
