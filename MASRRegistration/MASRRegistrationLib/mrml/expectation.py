"""What a registration of two volumes will cost, roughly, before it is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from masr_registration.presets import Preset
from masr_registration.solver.cost import NETWORK_BYTES, predicted_mb, predicted_seconds, suited_spacing


@dataclass(frozen=True)
class Expectation:
    """At most about this on the CPU: the whole fixed volume counts as body."""

    seconds: float
    megabytes: float

    @classmethod
    def of(cls, fixed: Any, moving: Any, preset: Preset, threads: int) -> Expectation | None:
        """None while one of the volumes holds no image."""
        volumes = [node for node in (fixed, moving) if node is not None and node.GetImageData() is not None]
        if len(volumes) < 2:
            return None
        sizes = [np.array(node.GetImageData().GetDimensions()) for node in volumes]
        spacing = suited_spacing([node.GetSpacing() for node in volumes], preset)
        working = float(np.prod(sizes[0] * np.array(volumes[0].GetSpacing())) / spacing**3)
        megabytes = predicted_mb(
            float(sum(np.prod(size) for size in sizes)), working, NETWORK_BYTES[preset.representation]
        )
        return cls(sum(predicted_seconds(working, preset, threads).values()), megabytes)
