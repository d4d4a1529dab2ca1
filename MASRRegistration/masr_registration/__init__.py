"""MASR Registration: modality-agnostic deformable registration of medical images.

Importing this package, `presets`, `worker.messages` and `worker.client` never imports torch: 3D Slicer loads them
into its own process. `register`, `Result` and what else `api` offers are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import presets
from .errors import CancelledError, InputError, MasrError, ResourceError
from .presets import Preset

if TYPE_CHECKING:
    from .api import (
        Geometry,
        Plan,
        Result,
        SequenceResult,
        TransformChain,
        Volume,
        make_plan,
        read_labels,
        read_sequence,
        read_volume,
        register,
        register_sequence,
        write_volume,
    )

__version__ = "0.1.0"
__all__ = [
    "CancelledError",
    "Geometry",
    "InputError",
    "MasrError",
    "Plan",
    "Preset",
    "ResourceError",
    "Result",
    "SequenceResult",
    "TransformChain",
    "Volume",
    "__version__",
    "make_plan",
    "presets",
    "read_labels",
    "read_sequence",
    "read_volume",
    "register",
    "register_sequence",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".api", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
