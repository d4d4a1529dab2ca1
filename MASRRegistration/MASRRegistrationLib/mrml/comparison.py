"""The images of a result side by side: fixed with the moving one as it lay before, and with the warped one."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from . import colours, layouts
from .deformation import DeformationMap
from .helpers import helperVolume, hide, remove
from .inputs import InputVolume
from .results import FIXED_ROLE, MOVING_ROLE, storedResult

TILES = 8
"""Squares of the checkerboard along the longest side."""
IMAGES, CHECKERBOARD, DISPLACEMENT, JACOBIAN = "images", "checkerboard", "displacement", "jacobian"
OVERLAY_OPACITY = 0.6
GRID_SPACING_MM = 10.0


class Comparison:
    """What the views of the Check tab show of one result. Its helper nodes are hidden, not saved, and go with `close`.

    Attributes:
        transformNode, fixedNode, warpedNode: the result; the last two may be None where they were deleted.
        content: one of the constants above.
        map: the sampled deformation, once it was handed over.
    """

    def __init__(self, transformNode: Any, warpedNode: Any) -> None:
        self.transformNode, self.warpedNode = transformNode, warpedNode
        self.fixedNode = transformNode.GetNodeReference(FIXED_ROLE)
        self.content, self.map = IMAGES, None
        self._opacity = 0.5
        self._helpers: dict[str, Any] = {}
        self._layoutBefore: int | None = None

    def open(self, layout: int = layouts.COMPARE) -> None:
        """Show a layout of the module, linked, with everything in sight."""
        before = layouts.show(layout)
        if self._layoutBefore is None and before not in (layouts.COMPARE, layouts.ONE_UP):
            self._layoutBefore = before
        self.update()
        layouts.fit(layouts.BEFORE, layouts.AFTER)

    def close(self) -> None:
        """The layout as before, and no helper node left."""
        layouts.restore(self._layoutBefore)
        self._layoutBefore = None
        self.setGrid(False)
        for node in self._helpers.values():
            remove(node)
        self._helpers.clear()

    def setContent(self, content: str) -> None:
        self.content = content
        self.update()

    def setOpacity(self, opacity: float) -> None:
        """0 shows the fixed image alone, 1 the other."""
        self._opacity = opacity
        for row in (layouts.BEFORE, layouts.AFTER):
            for logic in layouts.sliceLogics(row):
                if self._foreground(row) in self._images():
                    logic.GetSliceCompositeNode().SetForegroundOpacity(opacity)

    def update(self) -> None:
        """Give the views their volumes."""
        for row in (layouts.BEFORE, layouts.AFTER):
            foreground = self._foreground(row)
            for logic in layouts.sliceLogics(row):
                composite = logic.GetSliceCompositeNode()
                composite.SetLinkedControl(True)
                composite.SetHotLinkedControl(True)
                composite.SetBackgroundVolumeID(_id(self.fixedNode))
                composite.SetForegroundVolumeID(_id(foreground))
                image = foreground in self._images()
                whole = foreground is not None and foreground is self._helpers.get(CHECKERBOARD)
                composite.SetForegroundOpacity(self._opacity if image else 1.0 if whole else OVERLAY_OPACITY)
        self._updateLegends()

    def setMap(self, sampled: DeformationMap) -> None:
        """Hand over the sampled deformation; the overlays can be shown from then on."""
        self.map = sampled
        for name, array, scale in (
            (DISPLACEMENT, sampled.magnitude, colours.displacementColours()),
            (JACOBIAN, sampled.jacobian, colours.jacobianColours()),
        ):
            remove(self._helpers.pop(name, None))
            title = _("Displacement in mm") if name == DISPLACEMENT else _("Volume ratio (Jacobian)")
            self._helpers[name] = helperVolume(title, array, sampled.ijkToRas, scale)
        self.update()

    def setGrid(self, visible: bool) -> None:
        """The deformation grid of the transform, by Slicer's own display of transforms."""
        if not slicer.mrmlScene.IsNodePresent(self.transformNode):
            return
        display = self.transformNode.GetDisplayNode()
        if display is None:
            if not visible:
                return
            self.transformNode.CreateDefaultDisplayNodes()
            display = self.transformNode.GetDisplayNode()
        display.SetVisualizationMode(display.VIS_MODE_GRID)
        display.SetGridSpacingMm(GRID_SPACING_MM)
        display.SetAndObserveRegionNode(self.fixedNode)
        display.SetVisibility(visible)
        display.SetVisibility2D(visible)

    def _images(self) -> tuple[Any, ...]:
        return tuple(node for node in (self._before(), self.warpedNode) if node is not None)

    def _foreground(self, row: str) -> Any:
        if row == layouts.BEFORE:
            return self._before()
        if self.content == CHECKERBOARD:
            return self._checkerboard()
        return self.warpedNode if self.content == IMAGES else self._helpers.get(self.content, self.warpedNode)

    def _before(self) -> Any:
        """The moving volume where it lay at the registration, whatever was done to it since: its voxels are shared."""
        if "before" not in self._helpers:
            moving = self.transformNode.GetNodeReference(MOVING_ROLE)
            stored = storedResult(self.transformNode)
            if moving is None or stored is None or moving.GetImageData() is None:
                return None
            node = slicer.vtkMRMLScalarVolumeNode()
            node.SetName(_("{name} before").format(name=moving.GetName()))
            hide(node)
            node = self._helpers["before"] = slicer.mrmlScene.AddNode(node)
            node.SetAndObserveImageData(moving.GetImageData())
            matrix = np.array(stored["scene"]["moving"]["parentToWorld"]) @ _ijkToRas(moving)
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
            node.CreateDefaultDisplayNodes()
            hide(node.GetDisplayNode())
            if moving.GetDisplayNode() is not None:
                node.GetDisplayNode().CopyContent(moving.GetDisplayNode())
        return self._helpers["before"]

    def _checkerboard(self) -> Any:
        """Squares of the fixed and of the warped image in turn, each at its own brightness."""
        if CHECKERBOARD not in self._helpers:
            if self.fixedNode is None or self.warpedNode is None:
                return None
            fixed, warped = (_shown(node) for node in (self.fixedNode, self.warpedNode))
            if fixed.shape != warped.shape:
                return None
            self._helpers[CHECKERBOARD] = helperVolume(
                _("Checkerboard"), checkerboard(fixed, warped), InputVolume.of(self.fixedNode).ijkToWorld
            )
        return self._helpers[CHECKERBOARD]

    def _updateLegends(self) -> None:
        for name in (DISPLACEMENT, JACOBIAN):
            node = self._helpers.get(name)
            if node is None:
                continue
            legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
            hide(legend)
            legend.SetTitleText(node.GetName())
            legend.SetVisibility(self.content == name)


def checkerboard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``(D, H, W)``: cubes of both in turn, `TILES` along the longest side."""
    tile = max(1, -(-max(first.shape) // TILES))
    k, j, i = (np.arange(n) // tile for n in first.shape)
    odd = (k[:, None, None] + j[:, None] + i) % 2 == 1
    return np.where(odd, second, first)


def _shown(node: Any) -> np.ndarray:
    """Voxels as uint8 brightness by the window and level of the volume's display."""
    array = slicer.util.arrayFromVolume(node).astype(np.float32)
    display = node.GetDisplayNode()
    low, high = array.min(), array.max()
    if display is not None and display.GetWindow() > 0:
        low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    scaled = (array - low) * (255.0 / max(float(high - low), 1e-6))
    brightness: np.ndarray = np.clip(scaled, 0, 255).astype(np.uint8)
    return brightness


def _ijkToRas(node: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _id(node: Any) -> str | None:
    return None if node is None else node.GetID()
