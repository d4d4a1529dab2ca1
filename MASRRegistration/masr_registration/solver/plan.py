"""The plan of a registration: grid, threads and device, with the memory and time they are expected to take.

A plan is chosen before the deformable stages from a ladder of ever coarser working grids: the finest whose predicted
peak fits into the memory that is free. It travels as JSON, is recorded with the result, and can be replayed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError, ResourceError
from ..presets import Preset
from ..representation.descriptor import NEGLIGIBLE, Scan, region_bounds, region_box
from ..transforms import affine
from ..volume import Geometry
from .cost import (
    DEVICE_IMAGE_BYTES,
    DEVICE_WORKING_BYTES,
    NETWORK_BYTES,
    predicted_mb,
    predicted_seconds,
    suited_spacing,
)
from .instance import border_mm

FORMAT_VERSION = 1
LADDER = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2)
"""Working spacings, as multiples of the one that suits images and preset."""
ROOM_MM = 30.0
"""Largest `room` on one side."""
USABLE = 0.9
"""Share of the free memory that a plan may count on."""


@dataclass(frozen=True)
class Plan:
    """What decides the bits of a result besides images, preset and seed, and what it is expected to cost.

    Attributes:
        working_spacing_mm, working_size: the isotropic grid of the deformable stages, voxels along (i, j, k),
            without the `room` that is added when the linear stage has told it.
        coarsened: factor by which the spacing was enlarged so that the memory suffices; 1 when it was not.
        roomy: whether the grid gets that `room`; not where the memory did not suffice for it.
        feature_bits: how features are stored for the continuous stage (fixed point).
        device, threads: ``cpu`` or ``cuda:N``, and CPU threads.
        peak_mb: predicted peak memory of the process, in MB (10^6 bytes).
        device_peak_mb: the same on the device; 0 on the CPU.
        seconds: predicted seconds by stage, rough.
    """

    working_spacing_mm: float
    working_size: tuple[int, int, int]
    coarsened: float
    device: str
    threads: int
    peak_mb: float
    device_peak_mb: float = 0.0
    roomy: bool = True
    feature_bits: int = 16
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"masr_plan": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Raises `InputError` for anything that is not a plan of this version."""
        values = dict(data)
        if values.pop("masr_plan", None) != FORMAT_VERSION:
            raise InputError(f'This is not a plan: it needs "masr_plan": {FORMAT_VERSION}.')
        try:
            plan = cls(**{**values, "working_size": tuple(values["working_size"])})
            numbers = [plan.working_spacing_mm, plan.coarsened, plan.peak_mb, plan.device_peak_mb]
            numbers += [*plan.working_size, plan.threads, *plan.seconds.values()]
            sound = all(np.isfinite(float(n)) for n in numbers) and isinstance(plan.device, str)
            sound = sound and isinstance(plan.roomy, bool)
            sound = sound and plan.working_spacing_mm > 0 and len(plan.working_size) == 3
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError("The plan is incomplete or has an entry of the wrong kind.") from error
        if not sound or plan.feature_bits != 16:
            raise InputError("The plan has an entry that is out of range.")
        return plan


def room(fixed: Scan, moving: Scan, matrix: np.ndarray) -> np.ndarray:
    """How far ``(3, 2)`` in mm the moving body reaches beyond the fixed one, before and after it along its axes.

    A surface that moves outwards needs this room to get there. At most `ROOM_MM`; none where the field of view cuts the
    fixed body off, nor where a mask does that and the moving image has none.

    Args:
        matrix: linear transform fixed -> moving, 4x4, LPS mm.
    """
    ends = _ends_of_rows(moving)
    if not len(ends):
        return np.zeros((3, 2))
    own = region_bounds(fixed.region)
    seen = np.array([(-0.5, n - 0.5) for n in fixed.geometry.size])
    if fixed.weight is not None and (moving.weight is None or bool(moving.weight.all())):
        seen = region_bounds(fixed.weight >= min(NEGLIGIBLE, float(fixed.weight.max())))
    to_index = fixed.geometry.physical_to_index @ np.linalg.inv(matrix) @ moving.geometry.index_to_physical
    places = affine.apply(to_index, ends)
    other = np.stack((places.min(axis=0) - 0.5, places.max(axis=0) + 0.5), axis=1)
    beyond = (other - own) * [-1, 1] * np.asarray(fixed.geometry.spacing)[:, None]
    return np.where((own - seen) * [1, -1] > 1, beyond.clip(0, ROOM_MM), 0.0)


def _ends_of_rows(scan: Scan) -> np.ndarray:
    """First and last voxel (i, j, k) of the region in each of its rows ``(N, 3)``: no voxel lies farther out."""
    rows = scan.region.any(dim=2).nonzero()
    filled = scan.region[rows[:, 0], rows[:, 1]].byte()
    last = filled.shape[1] - 1 - filled.flip(1).argmax(dim=1)
    ends = [torch.cat((i[:, None], rows.flip(1)), dim=1) for i in (filled.argmax(dim=1), last)]
    return torch.cat(ends).double().cpu().numpy()


def working_grid(
    fixed: Scan, spacing_mm: float, preset: Preset, room_mm: np.ndarray | float = 0.0
) -> Geometry:
    """The grid of the deformable stages: the fixed body, the `room` of the other and the rim in which the velocity
    fades."""
    margin = border_mm(spacing_mm, preset.continuous.control_spacing_mm)
    return region_box(fixed, spacing_mm, margin, multiple=8, room_mm=room_mm)


def ladder(
    fixed: Scan, geometries: Sequence[Geometry], preset: Preset, device: torch.device, threads: int
) -> list[Plan]:
    """All plans for these images, finest first; `geometries` are those of both images as they were read."""
    suited = suited_spacing([g.spacing for g in geometries], preset)
    plans: list[Plan] = []
    for factor in LADDER:
        size = working_grid(fixed, suited * factor, preset).size
        if plans and np.prod(size) >= np.prod(plans[-1].working_size):
            continue  # a rim of whole control points can outweigh a coarser body
        made = Plan(suited * factor, size, factor, str(device), threads, 0.0, 0.0)
        plans.append(costed(made, geometries, preset, size))
    return plans


def costed(plan: Plan, geometries: Sequence[Geometry], preset: Preset, size: Sequence[int]) -> Plan:
    """A plan with what it is expected to cost on a working grid of this size."""
    image_voxels, voxels = sum(float(np.prod(g.size)) for g in geometries), float(np.prod(size))
    network, cuda = NETWORK_BYTES[preset.representation], plan.device != "cpu"
    on_device = DEVICE_IMAGE_BYTES * image_voxels + (DEVICE_WORKING_BYTES + network) * voxels
    return replace(
        plan,
        peak_mb=round(predicted_mb(image_voxels, 0.0 if cuda else voxels, network)),
        device_peak_mb=round(on_device / 1e6) if cuda else 0.0,
        seconds=predicted_seconds(voxels, preset, plan.threads),
    )


def choose(plans: Sequence[Plan], free_mb: float, free_device_mb: float = np.inf) -> Plan:
    """The finest plan that fits.

    Args:
        free_mb: what this process may use altogether: what it holds and what is still free.
        free_device_mb: free memory of the device.

    Raises:
        ResourceError: none fits.
    """
    for plan in plans:
        if plan.peak_mb <= free_mb and plan.device_peak_mb <= free_device_mb:
            return plan
    raise ResourceError(
        f"The memory is not enough: even the coarsest plan needs about {plans[-1].peak_mb:.0f} MB, "
        f"and {free_mb:.0f} MB can be used."
    )


def usable_host_mb() -> float:
    """Memory that this process holds and `USABLE` of what it can still get: free memory, control group, limits."""
    status = _numbers("/proc/self/status")
    if not status:
        return float("inf")
    free = [_numbers("/proc/meminfo").get("MemAvailable", np.inf) * 1024]
    free += _cgroup_free()
    limit = _address_space_limit()
    if limit is not None:
        free.append(limit - status["VmSize"] * 1024)
    return (status["VmRSS"] * 1024 + USABLE * max(min(free), 0.0)) / 1e6


def usable_device_mb(device: torch.device) -> float:
    """`USABLE` of the free memory of a CUDA device; no bound on others."""
    return USABLE * torch.cuda.mem_get_info(device)[0] / 1e6 if device.type == "cuda" else float("inf")


def _numbers(file: str) -> dict[str, int]:
    """Entries in kB of a file of the Linux kernel; empty elsewhere."""
    try:
        text = Path(file).read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def _cgroup_free(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[float]:
    """Bytes left under each limit of this process's control groups, versions 1 and 2."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    free = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = ("memory.max", "memory.current")
        base = root
        if "memory" in controllers.split(","):
            names, base = ("memory.limit_in_bytes", "memory.usage_in_bytes"), root / "memory"
        elif controllers:
            continue
        place = base / path.lstrip("/")
        for folder in (place, *place.parents):
            if not folder.is_relative_to(base):
                break
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
            except (OSError, ValueError):
                continue  # "max", or not there
            free.append(float(limit - used))
    return free


def _address_space_limit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit
