"""How a registration is run, apart from its images."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from .. import presets
from ..device import resolve_device
from ..errors import NOT_ENOUGH_MEMORY, InputError, ResourceError, is_out_of_memory
from ..presets import Preset
from ..solver.plan import Plan

PresetLike = str | Path | Preset | Mapping[str, Any]
PlanLike = Plan | Mapping[str, Any]
MOST_THREADS = 4096
LONGEST_INTEGER = 2**63


@dataclass(frozen=True)
class Settings:
    """Checked by `of`; `device` is resolved, `plan` that of an earlier run, to be repeated."""

    preset: Preset
    device: torch.device
    threads: int | None = None
    seed: int = 0
    plan: Plan | None = None

    @classmethod
    def of(
        cls,
        preset: PresetLike,
        device: str,
        threads: int | None,
        seed: int,
        plan: PlanLike | None = None,
        method: str | None = None,
    ) -> Settings:
        """Raises `InputError`, and `ResourceError` for a device that is not there."""
        seed, threads = (
            _whole(seed, "seed"),
            None if threads is None else _whole(threads, "number of threads"),
        )
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise InputError(f"The number of threads must be 1 to {MOST_THREADS}, not {threads}.")
        if not 0 <= seed < LONGEST_INTEGER:
            raise InputError(f"The seed must be 0 to {LONGEST_INTEGER - 1}, not {seed}.")
        if plan is not None and not isinstance(plan, Plan):
            plan = Plan.from_json(plan)
        chosen = as_preset(preset)
        if method is not None:
            chosen = chosen.with_method(method)
        return cls(chosen, resolve_device(device), threads, seed, plan)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The number of threads of torch, numba (which follows torch) and SimpleITK, put back afterwards.

        Running out of memory inside raises `ResourceError`.
        """
        before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        if self.threads is not None:
            _set_threads(self.threads, self.threads)
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(NOT_ENOUGH_MEMORY) from error
        finally:
            if self.threads is not None:
                _set_threads(*before)


def as_preset(preset: PresetLike) -> Preset:
    """A preset by name, file, content or itself. Raises `InputError`."""
    if isinstance(preset, Preset):
        return preset
    if isinstance(preset, Mapping):
        return Preset.from_json(json.dumps(dict(preset)))
    if not isinstance(preset, (str, Path)):
        raise InputError(
            f"A preset has to be a name, a file, its content or a Preset, not {type(preset).__name__}."
        )
    return presets.load(preset)


def _whole(value: Any, what: str) -> int:
    """Also of NumPy's kinds. Raises `InputError`."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"The {what} must be a whole number, not {value}.") from error


def _set_threads(torch_threads: int, itk_threads: int) -> None:
    torch.set_num_threads(torch_threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(itk_threads)
