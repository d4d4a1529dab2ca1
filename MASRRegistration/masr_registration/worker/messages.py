"""Protocol version 1 between a parent and the background process: one JSON object a line, in both directions.

Parent to worker: the request (first line), then possibly a cancel line. Worker to parent: `Hello`, `Progress`,
`Warn`, and exactly one of `Result`, `Cancelled`, `Error`. Arrays travel as files. Plain Python: no numpy, no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from ..errors import InputError

PROTOCOL = 1
MAX_LINE_BYTES = 8 * 2**20
_LONGEST_INTEGER = 2**63
_MOST_THREADS = 4096


class ProtocolError(ValueError):
    """A line that is no message of this protocol."""


@dataclass(frozen=True)
class Request:
    """What one job is asked to do. Paths are absolute; `preset` is a whole preset as in its JSON file.

    `plan` is that of an earlier run, to be repeated; `plan_only` asks for the plan instead of the registration.
    `use_landmarks` pulls the deformation to the landmarks instead of only measuring their error.
    `features` asks for the features of both images as a file, `features_only` for nothing else (no deformation then).
    `truth` is an ITK transform (fixed -> moving, LPS mm) known to be true, against which the result is measured.
    With `frames` it is a sequence: they are all its items, or one file that holds them all; `fixed` and `moving` are
    two of them or that file, `reference` and `target` as for `register_sequence`, `points` a file of landmarks on the
    reference whose motion is measured.
    """

    fixed: str
    moving: str
    output: str
    preset: dict[str, Any]
    device: str = "auto"
    fixed_mask: str | None = None
    moving_mask: str | None = None
    initial_transform: str | None = None
    labels: str | None = None
    landmarks: tuple[str, str] | None = None
    truth: str | None = None
    threads: int | None = None
    seed: int = 0
    report: bool = True
    plan: dict[str, Any] | None = None
    plan_only: bool = False
    use_landmarks: bool = False
    features: bool = False
    features_only: bool = False
    frames: list[str] = field(default_factory=list)
    reference: int = 0
    target: str = "reference"
    points: str | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """Every path that is read, by the name that a person knows it under."""
        pairs = {
            "fixed image": self.fixed,
            "moving image": self.moving,
            "fixed mask": self.fixed_mask,
            "moving mask": self.moving_mask,
            "initial transform": self.initial_transform,
            "labels": self.labels,
            "fixed landmarks": self.landmarks and self.landmarks[0],
            "moving landmarks": self.landmarks and self.landmarks[1],
            "true transform": self.truth,
            "landmarks": self.points,
        }
        frames = {f"item {number}": path for number, path in enumerate(self.frames)}
        return {name: path for name, path in {**pairs, **frames}.items() if path is not None}


@dataclass(frozen=True)
class Hello:
    """The worker is ready to begin; `pid` is the process that has to be killed (PythonSlicer is a launcher)."""

    pid: int
    device: str
    version: str
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class Progress:
    """`fraction` of the whole job, 0 to 1 and never falling; `eta_s` seconds that remain, None when unknown."""

    stage: str
    fraction: float
    eta_s: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Warn:
    """A sentence that the user has to see."""

    message: str


@dataclass(frozen=True)
class Result:
    """All files are in place. `files` maps names (transform, inverse, ...) to absolute paths."""

    files: dict[str, str]
    metrics: dict[str, Any]
    warnings: list[str]
    verdict: dict[str, Any]
    provenance: dict[str, Any]
    timings: dict[str, Any]


@dataclass(frozen=True)
class Cancelled:
    """Nothing was written."""


@dataclass(frozen=True)
class Error:
    """`code` as in `errors.BY_CODE`, `message` one sentence for a person, `details` for a log."""

    code: str
    message: str
    details: str = ""


Message = Hello | Progress | Warn | Result | Cancelled | Error
FINAL = (Result, Cancelled, Error)
_TYPES: dict[str, type[Message]] = {
    "hello": Hello,
    "progress": Progress,
    "warning": Warn,
    "result": Result,
    "cancelled": Cancelled,
    "error": Error,
}
_NAMES = {cls: name for name, cls in _TYPES.items()}
CANCEL: Mapping[str, Any] = {"type": "cancel"}


def encode_request(request: Request) -> bytes:
    """The first line of the worker's standard input."""
    return encode_object({"protocol": PROTOCOL, "command": "register", **asdict(request)})


def encode(message: Message) -> bytes:
    """One line, with its line feed."""
    return encode_object({"type": _NAMES[type(message)], **asdict(message)})


def encode_object(value: Mapping[str, Any]) -> bytes:
    """A JSON object as one ASCII line (so that no path can break it); NaN and infinity become null."""
    return json.dumps(jsonable(value), allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def jsonable(value: Any) -> Any:
    """`value` with NumPy scalars and arrays as Python's own and with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot travel as JSON.")


def decode(line: str) -> Message | None:
    """The message in a line from the worker, None if its type is unknown (newer worker). Raises `ProtocolError`."""
    data = decode_object(line)
    name = data.pop("type", None)
    if not isinstance(name, str):
        raise ProtocolError("A message without a type.")
    cls = _TYPES.get(name)
    if cls is None:
        return None
    hints = get_type_hints(cls)
    values = {}
    for item in fields(cls):
        if item.name in data:
            if not _matches(data[item.name], hints[item.name]):
                raise ProtocolError(f"The {name} message's {item.name!r} has the wrong type.")
            values[item.name] = data[item.name]
    try:
        message: Message = cls(**values)
    except TypeError as error:
        raise ProtocolError(f"The {name} message is incomplete.") from error
    if isinstance(message, Progress) and not 0 <= message.fraction <= 1:
        raise ProtocolError("A progress fraction outside 0 to 1.")
    return message


def decode_object(line: str) -> dict[str, Any]:
    """The JSON object in a line. Raises `ProtocolError`; NaN and infinity are refused."""
    try:
        data = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("Not a line of JSON.") from error
    if not isinstance(data, dict):
        raise ProtocolError("Not a JSON object.")
    return data


def decode_request(line: str) -> Request:
    """The request in the worker's first line. Raises `InputError` with one sentence that says what is wrong."""
    try:
        data = decode_object(line)
    except ProtocolError as error:
        raise InputError("The request is not a JSON object on one line.") from error
    protocol = data.pop("protocol", None)
    if protocol != PROTOCOL or isinstance(protocol, bool):
        raise InputError(f"The request is of protocol {protocol!r}, this worker speaks protocol {PROTOCOL}.")
    command = data.pop("command", None)
    if command != "register":
        raise InputError(f"The command {command!r} is unknown; this worker knows register.")
    return request_from(data)


def request_from(values: Mapping[str, Any]) -> Request:
    """A `Request` of plain values (as they come from JSON), every one checked. Raises `InputError`."""
    hints = get_type_hints(Request)
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"The request has the unknown entry {name!r}.")
        if not _matches(value, hints[name]):
            raise InputError(f"The request's {name!r} has the wrong type.")
    for name in ("fixed", "moving", "output", "preset"):
        if name not in values:
            raise InputError(f"The request lacks {name!r}.")
    pair = values.get("landmarks")
    request = Request(**{**values, "landmarks": None if pair is None else (pair[0], pair[1])})
    for name, path in {**request.inputs, "output": request.output}.items():
        if "\0" in path or not Path(path).is_absolute():
            raise InputError(f"The path of the {name} is not absolute.")
        if any("\ud800" <= character <= "\udfff" for character in path):
            raise InputError(f"The path of the {name} is not UTF-8, which the libraries that read it demand.")
    if request.threads is not None and not 1 <= request.threads <= _MOST_THREADS:
        raise InputError(f"The number of threads must be 1 to {_MOST_THREADS}, not {request.threads}.")
    if not 0 <= request.seed < _LONGEST_INTEGER:
        raise InputError(f"The seed must be 0 to {_LONGEST_INTEGER - 1}, not {request.seed}.")
    return request


class LineBuffer:
    """Complete lines out of arbitrary chunks of bytes.

    A character cut in two by a chunk's end is put together again, bytes that are no UTF-8 become U+FFFD, and of a
    line longer than `limit` bytes only the first `limit` are kept.
    """

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that `chunk` completes, without their ends."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._append(end)
            lines.append(self._take())
        self._append(rest)
        return lines

    def close(self) -> list[str]:
        """What stands after the last line feed, if anything."""
        return [self._take()] if self._pending else []

    def _append(self, piece: bytes) -> None:
        self._pending += piece[: self._limit - len(self._pending)]

    def _take(self) -> str:
        line = self._pending.decode("utf-8", errors="replace").removesuffix("\r")
        self._pending.clear()
        return line


def _matches(value: Any, hint: Any) -> bool:
    """Whether a value from JSON has the type of a field; an integer passes for a float, a bool for no number."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (int, str, bool):
        return type(value) is hint
    if origin is dict:
        return isinstance(value, dict) and all(_matches(item, arguments[1]) for item in value.values())
    if origin is list:
        return isinstance(value, list) and all(_matches(item, arguments[0]) for item in value)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(arguments):
            return False
        return all(_matches(item, kind) for item, kind in zip(value, arguments, strict=True))
    return any(_matches(value, option) for option in arguments)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
