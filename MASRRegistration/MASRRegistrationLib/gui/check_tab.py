"""The Check tab: whether to trust the result, and why."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from ..mrml.results import VERDICT_ATTRIBUTE
from .tab import Tab


class CheckTab(Tab):
    file = "CheckTab.ui"

    def parametersChanged(self, parameters: Any) -> None:
        super().parametersChanged(parameters)
        transform = None if parameters is None else parameters.outputTransform
        verdict = None if transform is None else transform.GetAttribute(VERDICT_ATTRIBUTE)
        self.ui.resultLabel.text = (
            _("There is no result to check yet; register two volumes first.")
            if verdict is None
            else _('"{name}": {verdict}.').format(name=transform.GetName(), verdict=verdict)
        )
