"""The choice of a segment beside a mask, shown only where the mask is a segmentation."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from ..mrml.masks import ALL_SEGMENTS


class SegmentChoice:
    """Binds a combo box to two parameters: `maskName`, the mask's node, and `segmentName`, the segment's ID."""

    def __init__(self, comboBox: Any, maskName: str, segmentName: str) -> None:
        self._comboBox, self._maskName, self._segmentName = comboBox, maskName, segmentName
        self._parameters: Any = None
        self._updating = False
        comboBox.connect("currentIndexChanged(int)", self.onChosen)

    def show(self, parameters: Any) -> None:
        """The segments of the parameter node's mask; a segment of another mask is forgotten."""
        self._parameters = parameters
        mask = None if parameters is None else getattr(parameters, self._maskName)
        isSegmentation = mask is not None and bool(mask.IsA("vtkMRMLSegmentationNode"))
        self._comboBox.visible = isSegmentation
        if not isSegmentation:
            if parameters is not None and getattr(parameters, self._segmentName) != ALL_SEGMENTS:
                setattr(parameters, self._segmentName, ALL_SEGMENTS)
            return
        segmentation = mask.GetSegmentation()
        ids = [ALL_SEGMENTS, *segmentation.GetSegmentIDs()]
        chosen = getattr(parameters, self._segmentName)
        if chosen not in ids:
            setattr(parameters, self._segmentName, ALL_SEGMENTS)
            return  # the change leads back here
        names = [_("All segments"), *(segmentation.GetSegment(name).GetName() for name in ids[1:])]
        self._updating = True
        try:
            self._comboBox.clear()
            self._comboBox.addItems(names)
            self._comboBox.currentIndex = ids.index(chosen)
        finally:
            self._updating = False
        self._ids = ids

    def onChosen(self, index: int) -> None:
        if not self._updating and self._parameters is not None and index >= 0:
            setattr(self._parameters, self._segmentName, self._ids[index])
