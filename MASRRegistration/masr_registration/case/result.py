"""`Result`: what a registration found, and what can be done with it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch

from ..errors import InputError, ResourceError
from ..evaluation.verdict import Verdict
from ..matching.features import FeaturePair
from ..solver.plan import Plan
from ..transforms.chain import TransformChain
from ..transforms.resample import resample
from ..volume import Volume
from ..worker.messages import jsonable
from ..worker.staging import Staging
from . import provenance, writing
from .files import ALL_FILES, refuse_overwriting
from .inputs import (
    ImageLike,
    Inputs,
    PointsLike,
    read_image,
    read_label_map,
    read_points,
    stored_integer_type,
)
from .monitor import Listener, Monitor

FORMAT_VERSION = 1
IDENTITY = TransformChain(())
STAGES = ("import", "read", "encode", "linear", "discrete", "continuous", "check", "write", "report")
Side = Literal["fixed", "moving"]


class Result:
    """The outcome of `register`.

    Attributes:
        transform: fixed -> moving, LPS mm; `transform.apply(points)`, `transform.to_sitk()`.
        inverse: moving -> fixed.
        metrics: numbers as in result.json: similarity, folds, inverse consistency, displacements; with landmarks
            ``tre_before_mm`` and ``tre_after_mm``.
        verdict: `level` ("plausible", "doubtful" or "failed") and `reasons`, sentences for a person.
        warnings: sentences for a person.
        plan: what was run; given to `register`, the run is repeated to the same bits.
        provenance: versions, device, threads, seed, preset, plan, weights, and name, geometry and hash of every input.
        timings: seconds by stage and in total.
        features: what was compared, where it was asked for, to find counterparts of points with.
        inputs: both images and what else was given, as they were read.
    """

    def __init__(
        self,
        *,
        transform: TransformChain,
        inverse: TransformChain,
        metrics: dict[str, Any],
        verdict: Verdict,
        warnings: list[str],
        plan: Plan,
        provenance: dict[str, Any],
        timings: dict[str, float],
        foreground: np.ndarray,
        inputs: Inputs,
        device: torch.device,
        features: FeaturePair | None = None,
    ) -> None:
        self.transform, self.inverse = transform, inverse
        self.metrics, self.verdict, self.warnings = metrics, verdict, warnings
        self.plan, self.provenance, self.timings = plan, provenance, timings
        self.features = features
        self.inputs, self._foreground, self._device = inputs, foreground, device

    def __repr__(self) -> str:
        names = self.inputs.moving.name, self.inputs.fixed.name
        return f"<Result: {names[0]} to {names[1]}, {self.verdict.level}>"

    @cached_property
    def warped(self) -> Volume:
        """The moving image on the fixed grid, linear interpolation, in the integer type that it came in if any."""
        inputs = self.inputs
        moved = resample(inputs.moving, self.transform, inputs.fixed.geometry)
        return writing.as_type(moved, inputs.moving_type)

    @cached_property
    def warped_labels(self) -> Volume | None:
        """The label map that `register` was given, on the fixed grid; None without one."""
        labels, kind = self.inputs.labels, self.inputs.labels_type
        if labels is None:
            return None
        moved = resample(labels, self.transform, self.inputs.fixed.geometry, order="nearest", default=0)
        return writing.as_type(moved, kind or np.dtype(np.int32))

    @overload
    def apply(self, image: ImageLike, *, to: Side = "fixed") -> Volume: ...

    @overload
    def apply(self, *, labels: ImageLike, to: Side = "fixed") -> Volume: ...

    @overload
    def apply(self, *, points: PointsLike, to: Side = "fixed") -> np.ndarray: ...

    def apply(
        self,
        image: ImageLike | None = None,
        *,
        labels: ImageLike | None = None,
        points: PointsLike | None = None,
        to: Side = "fixed",
    ) -> Volume | np.ndarray:
        """Bring something from one image's space to the other's: one of `image`, `labels` and `points`.

        Args:
            image: a path, SimpleITK image or Volume; linear interpolation, its minimum outside.
            labels: the same; nearest voxel, 0 outside.
            points: ``(N, 3)`` in LPS mm, or a landmark file.
            to: "fixed" brings what belongs to the moving image to the fixed one, "moving" the other way round.

        Returns:
            A volume on the grid of the image named by `to`, or points ``(N, 3)`` in LPS mm.

        Raises `InputError`.
        """
        given = [source for source in (image, labels, points) if source is not None]
        if len(given) != 1:
            raise InputError("Give one of image, labels and points.")
        if to not in ("fixed", "moving"):
            raise InputError(f'A result applies to "fixed" or to "moving", not to "{to}".')
        resampling, forward = self.transform, self.inverse
        geometry = self.inputs.fixed.geometry
        if to == "moving":
            resampling, forward, geometry = self.inverse, self.transform, self.inputs.moving.geometry
        if points is not None:
            return np.asarray(forward.apply(torch.from_numpy(read_points(points)[1])))
        if labels is not None:
            moved = resample(read_label_map(labels), resampling, geometry, order="nearest", default=0)
            return writing.as_type(moved, stored_integer_type(labels))
        assert image is not None
        moved = resample(read_image(image, "image"), resampling, geometry)
        return writing.as_type(moved, stored_integer_type(image))

    def to_json(self) -> dict[str, Any]:
        """The content of result.json; no paths, null for numbers that are not finite."""
        content: dict[str, Any] = jsonable(
            {
                "format": FORMAT_VERSION,
                "verdict": self.verdict.to_json(),
                "metrics": self.metrics,
                "warnings": self.warnings,
                "timings": {name: round(seconds, 4) for name, seconds in self.timings.items()},
                "peak_memory_mb": provenance.peak_memory_mb(),
                "peak_device_memory_mb": provenance.peak_device_memory_mb(self._device),
                "provenance": self.provenance,
            }
        )
        return content

    def report(self) -> str:
        """The report as one self-contained HTML page. Raises `ResourceError` without matplotlib."""
        dense = self.transform.dense(self.inputs.fixed.geometry).cpu().numpy()
        try:
            return writing.report_page(self, self.inputs, self._foreground, dense)
        except ImportError as error:
            raise ResourceError(writing.NO_REPORT) from error

    def save(self, folder: str | Path, *, report: bool = True) -> dict[str, Path]:
        """Write the result files into a folder, all or none; earlier results there are replaced as a whole.

        Returns the paths by name: transform, inverse, displacement, warped, warped_labels (where labels were given),
        result, and report (with matplotlib). Raises `InputError` when an input would be overwritten, `ResourceError`
        when the folder cannot be written.
        """
        place = Staging(Path(folder).absolute())
        refuse_overwriting(self.inputs.paths, place.output)
        try:
            place.open()
            place.require_space(writing.needed_bytes(self.inputs))
            names = self.write(place.new, Listener(), report=report)
            place.commit(tuple(ALL_FILES.values()))
        except BaseException:
            place.discard()
            raise
        return {name: place.output / ALL_FILES[name] for name in names}

    def write(self, folder: Path, monitor: Monitor, *, report: bool) -> list[str]:
        """Write the result files into an empty folder; for `save` and the background process, which place them."""
        return writing.write(self, self.inputs, self._foreground, folder, monitor, report=report)
