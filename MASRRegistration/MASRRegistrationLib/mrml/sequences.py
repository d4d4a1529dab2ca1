"""A sequence node -> the items of a request, and the files of its result -> sequence nodes.

Items go to the worker in their own coordinates, without the parents of the node that shows them: transforms and warped
volumes belong under the same parents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
from masr_registration.errors import InputError
from masr_registration.worker.client import Outcome
from slicer.i18n import tr as _

from .inputs import InputVolume
from .judgement import lowered
from .results import createOutput, readTransform, readVoxels, storeResult

TARGETS = ("reference", "neighbour")


@dataclass
class SequenceResult:
    """What a registered sequence left in the scene.

    Attributes:
        transformSequence: transforms from the reference to every item (FromParent), with the index of the input;
            without the items that failed.
        volumeSequence: the same items on the grid of the reference.
        browserNode: shows both, in step with the input where that had a browser.
        verdict: the worst of all items; `reasons` name the items that are not plausible.
        metrics: by number of the item, four digits.
        warnings: each with the number of its item.
    """

    transformSequence: Any
    volumeSequence: Any
    browserNode: Any
    verdict: dict[str, Any]
    metrics: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SequenceSetup:
    """A sequence of volumes; `reference` is the number of the item that stays, `target` "reference" or "neighbour"."""

    sequence: Any
    reference: int = 0
    target: str = "reference"

    def check(self) -> None:
        """Raises `InputError` with the reason why this cannot be registered."""
        if not isinstance(self.sequence, slicer.vtkMRMLSequenceNode):
            raise InputError(_("Choose a sequence of volumes."))
        name, count = self.sequence.GetName(), self.sequence.GetNumberOfDataNodes()
        if count < 2:
            raise InputError(_('"{name}" needs at least two items.').format(name=name))
        if not 0 <= self.reference < count:
            raise InputError(
                _("The reference has to be an item, 0 to {last}, not {number}.").format(
                    last=count - 1, number=self.reference
                )
            )
        if self.target not in TARGETS:
            raise InputError(
                _('A sequence is registered to "reference" or "neighbour", not to "{target}".').format(
                    target=self.target
                )
            )
        for item in self.items():
            if not isinstance(item, slicer.vtkMRMLScalarVolumeNode):
                raise InputError(
                    _('"{name}" has items that are no scalar volumes.').format(name=self.sequence.GetName())
                )

    def items(self) -> list[Any]:
        """The data nodes, in order."""
        return [self.sequence.GetNthDataNode(n) for n in range(self.sequence.GetNumberOfDataNodes())]

    def write(self, *volumes: InputVolume | Path) -> dict[str, Any]:
        """Write the items into the folder that comes last; returns fields of a request. Raises `ResourceError`."""
        *items, folder = volumes
        assert isinstance(folder, Path)
        paths = []
        for number, item in enumerate(items):
            assert isinstance(item, InputVolume)
            paths.append(str(folder / f"item-{number:04}.nrrd"))
            item.write(Path(paths[-1]))
        return {
            "fixed": paths[self.reference],
            "moving": paths[0 if self.reference else 1],
            "frames": paths,
            "reference": self.reference,
            "target": self.target,
        }


def deliverSequence(outcome: Outcome, items: tuple[InputVolume, ...], setup: SequenceSetup) -> SequenceResult:
    """Two new sequence nodes and, where the input has none, a browser. Raises `MasrError` for unreadable files."""
    source, scene = setup.sequence, slicer.mrmlScene
    gone = scene.IsNodePresent(source) == 0
    warnings = list(outcome.warnings)
    if gone:
        warnings.append(
            _("The sequence was deleted during the registration; the result belongs to it as it was.")
        )
    name = source.GetName() or _("Sequence")
    transforms = createOutput(None, "vtkMRMLSequenceNode", f"{name} transforms")
    volumes = createOutput(None, "vtkMRMLSequenceNode", f"{name} registered")
    for node in (transforms, volumes):
        node.SetIndexName(source.GetIndexName())
        node.SetIndexUnit(source.GetIndexUnit())
        node.SetIndexType(source.GetIndexType())
    still = items[setup.reference]
    for number in range(len(items)):
        if f"transform-{number:04}" not in outcome.files:
            continue  # it failed; the warnings say why
        value = source.GetNthIndexValue(number) or str(number)
        transform = readTransform(outcome.files[f"transform-{number:04}"])
        transform.SetName(f"{name} transform {number}")
        transforms.SetDataNodeAtValue(transform, value)
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.SetName(f"{name} registered {number}")
        slicer.util.updateVolumeFromArray(volume, readVoxels(outcome.files[f"warped-{number:04}"]))
        volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(still.ijkToWorld))
        volumes.SetDataNodeAtValue(volume, value)
    verdict = lowered(outcome.verdict, "doubtful", warnings[len(outcome.warnings) :])
    storeResult(transforms, outcome, verdict, warnings)
    browser = _show(None if gone else source, transforms, volumes)
    return SequenceResult(transforms, volumes, browser, verdict, outcome.metrics, warnings)


def _show(source: Any, transforms: Any, volumes: Any) -> Any:
    """Both in the browser of the input, or in a new one."""
    logic = slicer.modules.sequences.logic()
    browser = None if source is None else logic.GetFirstBrowserNodeForSequenceNode(source)
    if browser is None:
        browser = createOutput(None, "vtkMRMLSequenceBrowserNode", f"{volumes.GetName()} browser")
        browser.SetAndObserveMasterSequenceNodeID(volumes.GetID())
    for node in (volumes, transforms):
        if not browser.IsSynchronizedSequenceNode(node, True):
            browser.AddSynchronizedSequenceNode(node)
    logic.UpdateProxyNodesFromSequences(browser)
    return browser
