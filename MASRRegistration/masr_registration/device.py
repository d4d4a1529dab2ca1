"""Which device a run uses, and giving memory back."""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import suppress

import torch

from .errors import InputError, ResourceError


def resolve_device(name: str | torch.device) -> torch.device:
    """``auto | cpu | cuda | cuda:N | mps`` to a device; `InputError` or `ResourceError` if there is none."""
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise InputError(f'There is no device "{name}". Devices: auto, cpu, cuda, cuda:N, mps.')
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"The device {name} was asked for, but this machine or this torch does not have it."
        )
    if kind == "mps":
        raise ResourceError("The device mps cannot be used yet, because it has no double precision; use cpu.")
    return torch.device(name)


def release_memory() -> None:
    """Give what is free in the allocators back to the system: between stages, so that their peaks do not add up."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)
