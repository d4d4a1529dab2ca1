"""Presets: what a registration does, as frozen dataclasses and as versioned JSON.

A preset is data only (no code, no paths, no URLs). Lengths are millimetres unless the name says otherwise.
Importable without torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from .errors import InputError

FORMAT_VERSION = 1

Modality = Literal["auto", "mr", "ct"]
LinearModel = Literal["none", "rigid", "affine"]
Representation = Literal["mind", "masr", "masr-adapted", "masr-faithful"]
Method = Literal["optimise", "amortized", "amortized+refine"]


def _within(low: float, high: float, *, rising: bool = False, **default: Any) -> Any:
    """A field whose number, or each of whose numbers, lies in a range; `rising`: each is larger than the one before."""
    return field(metadata={"range": (low, high), "rising": rising}, **default)


@dataclass(frozen=True)
class Normalisation:
    """How intensities become [0, 1]. MR: percentiles of the foreground; CT: a fixed HU window."""

    fixed: Modality = "auto"
    moving: Modality = "auto"
    mr_percentiles: tuple[float, float] = _within(0, 100, rising=True, default=(0.5, 99.5))
    ct_window_hu: tuple[float, float] = _within(-5000, 50_000, rising=True, default=(-200.0, 300.0))


@dataclass(frozen=True)
class Linear:
    """The rigid, then affine start. `orientation_trusted=False` allows (and warns of) rotations over 45 degrees."""

    model: LinearModel = "affine"
    orientation_trusted: bool = True


@dataclass(frozen=True)
class Discrete:
    """Coupled convex search. `reach_mm` is the largest displacement it can find along each axis."""

    enabled: bool = True
    reach_mm: float = _within(0, 300, default=40.0)


@dataclass(frozen=True)
class Continuous:
    """Instance optimisation of the symmetric velocity field.

    `control_spacing_mm` is rounded to whole working voxels; `iterations` are those on
    the sparse lattice of voxels and then on the dense one.
    `landmark_weight` is how hard landmarks pull here, relative to the smoothness, and in the linear stage, relative to
    the images; only where landmarks are used.
    """

    enabled: bool = True
    control_spacing_mm: float = _within(0.5, 100, default=4.0)
    regularisation: float = _within(0, 10_000, default=2.0)
    iterations: tuple[int, int] = _within(0, 10_000, default=(32, 6))
    landmark_weight: float = _within(0, 10_000, default=60.0)


@dataclass(frozen=True)
class Preset:
    """Everything a run needs besides its images.

    `representation` "mind" compares images by MIND-SSC alone, the others by a network's features as well:
    "masr-adapted" by those of the user's own model (see `representation.models`). `method` "optimise" searches and
    optimises for each pair anew, "amortized" asks the registration network alone, and "amortized+refine" optimises
    what that found, for a short time.
    """

    name: str
    description: str
    working_spacing_mm: float = _within(0.2, 50)
    normalisation: Normalisation = field(default_factory=Normalisation)
    linear: Linear = field(default_factory=Linear)
    discrete: Discrete = field(default_factory=Discrete)
    continuous: Continuous = field(default_factory=Continuous)
    representation: Representation = "mind"
    method: Method = "optimise"

    def to_json(self) -> str:
        return json.dumps({"masr_preset": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"

    def with_representation(self, name: str) -> Preset:
        """Raises `InputError` with the representations there are."""
        return replace(self, representation=_value(Representation, name, "representation"))

    def with_method(self, name: str) -> Preset:
        """Raises `InputError` with the methods there are."""
        return replace(self, method=_value(Method, name, "method"))

    @classmethod
    def from_json(cls, text: str) -> Preset:
        """Raises `InputError` on anything that is not a complete, valid preset of this version."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"The preset is not valid JSON: {error}.") from error
        if not isinstance(data, dict) or data.pop("masr_preset", None) != FORMAT_VERSION:
            raise InputError(f'The file is not a preset: it needs "masr_preset": {FORMAT_VERSION}.')
        preset: Preset = _build(cls, data, "preset")
        return preset


def names() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(p.name.removesuffix(".json") for p in _folder().iterdir() if p.name.endswith(".json"))


def load(name_or_file: str | Path) -> Preset:
    """A shipped preset by its name, or one from a JSON file. Raises `InputError` with the names there are."""
    shipped = names()
    if str(name_or_file) in shipped:
        return Preset.from_json((_folder() / f"{name_or_file}.json").read_text(encoding="utf-8"))
    path = Path(name_or_file)
    if path.suffix == ".json" and os.access(path, os.F_OK):
        try:
            return Preset.from_json(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f'The preset "{path.name}" cannot be read as text.') from error
    raise InputError(f'There is no preset "{name_or_file}". Presets: {", ".join(shipped)}, or a .json file.')


def _folder() -> Any:
    return files(__package__).joinpath("data", "presets")


def _build(cls: type, data: Any, where: str) -> Any:
    """Dataclass from JSON data: exact keys, exact types, no surprises."""
    if not isinstance(data, dict):
        raise InputError(f"The preset's {where} must be an object.")
    hints = get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise InputError(f"The preset's {where} has the unknown entry {unknown[0]!r}.")
    values = {}
    for item in fields(cls):
        if item.name in data:
            name = f"{where}.{item.name}"
            values[item.name] = _value(hints[item.name], data[item.name], name)
            _check_range(values[item.name], item.metadata, name)
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"The preset's {where} is incomplete: {error}.") from error


def _check_range(value: Any, metadata: Mapping[str, Any], where: str) -> None:
    if not metadata:
        return
    (low, high), numbers = metadata["range"], value if isinstance(value, tuple) else (value,)
    if not all(low <= number <= high for number in numbers):
        raise InputError(f"{where} must lie between {low:g} and {high:g}.")
    if metadata["rising"] and any(a >= b for a, b in pairwise(numbers)):
        raise InputError(f"{where} must rise.")


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) < 1e6:
            raise InputError(f"{where} is out of range.")
        return float(value)
    if hint in (str, bool, int) and type(value) is hint:
        return value
    arguments = get_args(hint)
    if all(isinstance(a, str) for a in arguments) and arguments:
        if value in arguments:
            return value
        raise InputError(f"{where} must be one of {', '.join(arguments)}.")
    if arguments and isinstance(value, list):
        inner = arguments[0]
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise InputError(f"{where} must have {len(arguments)} entries.")
        return tuple(_value(inner, v, where) for v in value)
    raise InputError(f"{where} has the wrong type.")
