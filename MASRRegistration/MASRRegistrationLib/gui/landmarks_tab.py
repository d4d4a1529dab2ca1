"""The Landmarks tab: points in both volumes, and how far apart the transform leaves them."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from .tab import Tab


class LandmarksTab(Tab):
    file = "LandmarksTab.ui"

    def parametersChanged(self, parameters: Any) -> None:
        super().parametersChanged(parameters)
        chosen = parameters is not None and parameters.fixedVolume and parameters.movingVolume
        self.ui.resultLabel.text = "" if chosen else _("Choose a fixed and a moving volume first.")
