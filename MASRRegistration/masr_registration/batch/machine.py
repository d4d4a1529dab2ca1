"""What cases run on: found by the rehearsal, and shared out among the cases that run at once. No torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..case.monitor import CancelFlag
from ..errors import InputError
from .warm import WarmProcess


@dataclass(frozen=True)
class Rehearsal:
    """What a process compiles before the first case (see `rehearsal`): the presets as JSON data, on a device."""

    device: str
    presets: Sequence[Mapping[str, Any]]

    def play(self, process: WarmProcess, cancel: CancelFlag | None = None) -> Machine:
        """Raises `MasrError`: a device that is not there, a process that died."""
        command = {"command": "rehearse", "device": self.device, "presets": list(self.presets)}
        found = process.do(command, cancel=cancel).metrics
        return Machine(tuple(found["devices"]), found["usable_mb"])


@dataclass(frozen=True)
class Machine:
    """What a machine has.

    Attributes:
        devices: identifiers of the CUDA devices that the cases may use; none where the CPU does it.
        usable_mb: memory that is free, None if that is not known.
    """

    devices: tuple[str, ...] = ()
    usable_mb: float | None = None


@dataclass(frozen=True)
class Shares:
    """How many cases run at once, with how many CPU threads each."""

    jobs: int
    threads: int

    @classmethod
    def of(cls, machine: Machine, jobs: int | None, threads: int | None, cores: int | None = None) -> Shares:
        """What was asked for, or one case for each device, or one, with the cores shared out.

        Raises `InputError` for more cases than there are devices.
        """
        devices = len(machine.devices)
        jobs = jobs or max(devices, 1)
        if 0 < devices < jobs:
            raise InputError(f"{jobs} cases at once need {jobs} devices; this machine has {devices}.")
        return cls(jobs, threads or max(1, (cores or usable_cores()) // jobs))


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_device(number: int) -> dict[str, str]:
    """The variables of a process that is to see this device alone, counted among those that this process sees."""
    visible = [
        entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()
    ]
    return {"CUDA_VISIBLE_DEVICES": visible[number] if number < len(visible) else str(number)}
