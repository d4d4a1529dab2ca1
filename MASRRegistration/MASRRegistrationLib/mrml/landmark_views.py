"""The views of the Landmarks tab: the fixed volume above, the moving one below, each linked in itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import layouts
from .helpers import remove

HEAT_OPACITY = 0.5


class LandmarkViews:
    """Opened on demand; `close` puts the layout back and removes what helped."""

    def __init__(self) -> None:
        self._layoutBefore: int | None = None
        self._heat: Any = None

    def open(self, fixedNode: Any, movingNode: Any) -> bool:
        """Returns whether the views show other volumes than before, all of them in sight."""
        before, changed = layouts.show(layouts.LANDMARKS), False
        if self._layoutBefore is None and before != layouts.LANDMARKS:
            self._layoutBefore = before
        for row, volume in ((layouts.FIXED, fixedNode), (layouts.MOVING, movingNode)):
            for logic in layouts.sliceLogics(row):
                composite = logic.GetSliceCompositeNode()
                composite.SetLinkedControl(True)
                composite.SetHotLinkedControl(True)
                if composite.GetBackgroundVolumeID() != volume.GetID():
                    composite.SetBackgroundVolumeID(volume.GetID())
                    composite.SetForegroundVolumeID(None)
                    changed = True
        if changed:
            layouts.fit(layouts.FIXED, layouts.MOVING)
        return changed

    def close(self) -> None:
        layouts.restore(self._layoutBefore)
        self._layoutBefore = None
        self.hideHeat()

    def jumpTo(self, fixed: np.ndarray | None, moving: np.ndarray | None) -> None:
        """Each side to its own point (world RAS mm); a side without one stays."""
        for row, place in ((layouts.FIXED, fixed), (layouts.MOVING, moving)):
            if place is not None:
                layouts.jumpTo(place, row)

    def showHeat(self, volume: Any, inMoving: bool) -> None:
        """Lay a likeness map over one side; it belongs to the views from now on."""
        self.hideHeat()
        self._heat = volume
        for logic in layouts.sliceLogics(layouts.MOVING if inMoving else layouts.FIXED):
            logic.GetSliceCompositeNode().SetForegroundVolumeID(volume.GetID())
            logic.GetSliceCompositeNode().SetForegroundOpacity(HEAT_OPACITY)

    def hideHeat(self) -> None:
        remove(self._heat)
        self._heat = None
