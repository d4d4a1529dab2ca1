"""Keeps the widgets and the parameter node of the scene together, whatever happens to the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from slicer.util import VTKObservationMixin


class ParameterBinding(VTKObservationMixin):
    """Connected between `connect` and `disconnect`.

    Node selectors forget their nodes when a scene is closed or imported and put another node in the place of a deleted
    one; both would reach the parameter node. So they are disconnected meanwhile, and a deleted node leaves an empty
    parameter.

    The widgets are the attributes of each of `uis`. `onChange` gets the parameter node whenever it or one of its
    values has changed.

    Attributes:
        parameters: the parameter node, None while nothing is connected.
    """

    def __init__(
        self,
        uis: list[Any],
        getParameterNode: Callable[[], Any],
        isShown: Callable[[], bool],
        onChange: Callable[[Any], None],
    ) -> None:
        super().__init__()
        self.parameters: Any = None
        self._uis, self._getParameterNode, self._isShown, self._onChange = (
            uis,
            getParameterNode,
            isShown,
            onChange,
        )
        self._guiTags: list[int] = []
        self._removed: dict[str, list[str]] = {}
        scene = slicer.mrmlScene
        for event in (scene.StartCloseEvent, scene.StartImportEvent):
            self.addObserver(scene, event, self._onStartChange)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self._onEndChange)
        # before and after the selectors hear of it
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self._onNodeAboutToBeRemoved, priority=100.0)
        self.addObserver(scene, scene.NodeRemovedEvent, self._onNodeRemoved, priority=-100.0)

    def connect(self) -> None:
        """Connect the scene's parameter node, made if there is none."""
        self.disconnect()
        self.parameters = self._getParameterNode()
        self._connectGui()
        self.addObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onModified)
        self._onChange(self.parameters)

    def disconnect(self) -> None:
        """Leave the parameter node alone."""
        if self.parameters is None:
            return
        self._disconnectGui()
        self._removed.clear()
        self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onModified)
        self.parameters = None
        self._onChange(self.parameters)

    def release(self) -> None:
        """Disconnect for good."""
        self.disconnect()
        self.removeObservers()

    def _connectGui(self) -> None:
        self._guiTags = [self.parameters.connectGui(ui) for ui in self._uis]

    def _disconnectGui(self) -> None:
        while self._guiTags:
            self.parameters.disconnectGui(self._guiTags.pop())

    def _onModified(self, caller: Any, event: str) -> None:
        self._onChange(self.parameters)

    def _onStartChange(self, caller: Any, event: str) -> None:
        self.disconnect()

    def _onEndChange(self, caller: Any, event: str) -> None:
        if self._isShown():
            self.connect()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAboutToBeRemoved(self, caller: Any, event: str, node: Any) -> None:
        parameters = self.parameters
        if parameters is None:
            return
        names = [name for name in parameters.allParameters if getattr(parameters, name) is node]
        if names:
            self._removed[node.GetID()] = names
            self._disconnectGui()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeRemoved(self, caller: Any, event: str, node: Any) -> None:
        names = self._removed.pop(node.GetID(), [])
        if self.parameters is None:
            return
        for name in names:
            setattr(self.parameters, name, None)
        if names and not self._removed:
            self._connectGui()
