"""What every tab of the module, or a larger part of one, is: a .ui file, and hooks that `tabs.ModuleTabs` calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

from ..mrml.results import RegistrationResult, storedResult


class Tab:
    """A page of the module panel, or a part of one.

    Widgets of the .ui file with a `SlicerParameterName` are bound to that parameter, both ways. Subclasses name their
    file and override the hooks that they need.

    Attributes:
        file: the name of the .ui file in Resources/UI.
        widget, ui: the page, and its children by name.
        parameters: the connected parameter node; None while the module is not shown and while the scene changes.
    """

    file: str

    def __init__(self, resourcePath: Callable[[str], str]) -> None:
        self.widget = slicer.util.loadUI(resourcePath(f"UI/{self.file}"))
        self.widget.setMRMLScene(slicer.mrmlScene)
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.parameters: Any = None

    @property
    def transformNode(self) -> Any:
        """The node that holds the result that the parameters name; None without one."""
        node = None if self.parameters is None else self.parameters.outputTransform
        return node if storedResult(node) is not None else None

    def parametersChanged(self, parameters: Any) -> None:
        """Another parameter node (None: the module is left, or the scene closes or is imported), or other values."""
        self.parameters = parameters

    def resultArrived(self, result: RegistrationResult) -> None:
        """A registration of the Register tab ended well; also while the module is not shown."""

    def resultReverted(self) -> None:
        """The scene is as it was before the registration whose result was shown."""

    def losses(self) -> list[str]:
        """A sentence for everything that runs and would be lost if Slicer ended now."""
        return []

    def cleanup(self) -> None:
        """The module goes away."""
