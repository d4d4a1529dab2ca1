"""What a registration is asked for, as nodes of the scene, and its way to the files of a request."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
from masr_registration.errors import InputError
from slicer.i18n import tr as _

from .initial import writeInitialTransform
from .inputs import InputVolume, checkRequest
from .masks import ALL_SEGMENTS, checkMask, maskState, writeMask
from .pairs import ownPoints, pairs, writePairs


@dataclass(frozen=True)
class RegistrationSetup:
    """Nodes; None where nothing is chosen.

    Attributes:
        fixedVolume, movingVolume: scalar volumes.
        outputTransform, outputVolume: made anew where None.
        fixedMask, movingMask: segmentation, label map or volume (not zero, or a probability, inside).
        fixedSegment, movingSegment: the segment's ID; empty for all segments together.
        initialTransform: the moving volume begins as if it lay under this instead of under its own parents.
        landmarks: point lists of the fixed and of the moving volume, to which the registration is pulled.
    """

    fixedVolume: Any
    movingVolume: Any
    outputTransform: Any = None
    outputVolume: Any = None
    fixedMask: Any = None
    fixedSegment: str = ALL_SEGMENTS
    movingMask: Any = None
    movingSegment: str = ALL_SEGMENTS
    initialTransform: Any = None
    landmarks: tuple[Any, Any] | None = None
    _written: dict[Any, Hashable] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was handed over beyond the volumes: node -> a value that changes with what it says."""

    def check(self) -> None:
        """Raises `InputError` with the reason why this cannot be registered."""
        checkRequest(self.fixedVolume, self.movingVolume, self.outputTransform, self.outputVolume)
        for mask, segment in ((self.fixedMask, self.fixedSegment), (self.movingMask, self.movingSegment)):
            if mask is not None:
                checkMask(mask, segment)
                if mask is self.outputVolume:
                    raise InputError(_("The output volume would overwrite a mask; choose another."))
        if self.initialTransform is not None and not isinstance(
            self.initialTransform, slicer.vtkMRMLTransformNode
        ):
            raise InputError(_("The initial transform has to be a transform node."))
        if self.landmarks is not None and not pairs(*self.landmarks, self.movingVolume)[0]:
            raise InputError(
                _("There is no pair of landmarks to pull to; place one, or switch the pull off.")
            )

    def write(self, fixed: InputVolume, moving: InputVolume, folder: Path) -> dict[str, Any]:
        """Write everything into `folder`; returns the entries of a request.

        Raises `InputError` (an empty mask), `ResourceError`.
        """
        paths = {}
        for name, volume in (("fixed", fixed), ("moving", moving)):
            paths[name] = folder / f"{name}.nrrd"
            volume.write(paths[name])
        for name, mask, segment, volume in (
            ("fixed_mask", self.fixedMask, self.fixedSegment, fixed),
            ("moving_mask", self.movingMask, self.movingSegment, moving),
        ):
            if mask is not None:
                paths[name] = folder / f"{name}.nrrd"
                writeMask(mask, segment, volume, paths[name])
        if self.initialTransform is not None:
            paths["initial_transform"] = folder / "initial.h5"
            writeInitialTransform(self.initialTransform, fixed, moving, paths["initial_transform"])
        entries: dict[str, Any] = {name: str(path) for name, path in paths.items()}
        if self.landmarks is not None:
            entries |= {"landmarks": writePairs(*self.landmarks, moving, folder), "use_landmarks": True}
        self._written.update(self._states())
        return entries

    def changes(self) -> list[str]:
        """Sentences on what happened to masks, initial transform and landmarks since they were written."""
        found = []
        for node, state in self._written.items():
            if not slicer.mrmlScene.IsNodePresent(node):
                sentence = _(
                    '"{name}" was deleted during the registration; the result belongs to it as it was.'
                )
            elif dict(self._states(node)).get(node) != state:
                sentence = _(
                    '"{name}" was changed during the registration; the result belongs to it as it was.'
                )
            else:
                continue
            found.append(sentence.format(name=node.GetName()))
        return found

    def _states(self, only: Any = None) -> Iterator[tuple[Any, Hashable]]:
        for mask, segment in ((self.fixedMask, self.fixedSegment), (self.movingMask, self.movingSegment)):
            if mask is not None and only in (None, mask):
                yield mask, maskState(mask, segment)
        if self.initialTransform is not None and only in (None, self.initialTransform):
            yield self.initialTransform, self.initialTransform.GetTransformToWorldMTime()
        for node in self.landmarks or ():
            if only in (None, node):
                yield node, tuple(None if p is None else tuple(p.round(6)) for p in ownPoints(node))

    def described(self) -> dict[str, str]:
        """The names of the nodes beyond the volumes, for the provenance."""
        nodes = {
            "fixed_mask": self.fixedMask,
            "moving_mask": self.movingMask,
            "initial_transform": self.initialTransform,
        }
        return {name: node.GetName() for name, node in nodes.items() if node is not None}
