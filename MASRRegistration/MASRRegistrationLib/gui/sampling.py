"""Samples the deformation of a result, a slab at each event, and stores what it finds where the transform folds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import qt
import slicer
import vtk
from masr_registration.errors import InputError
from slicer.i18n import tr as _

from ..mrml.deformation import DeformationMap
from ..mrml.judgement import recordFolds
from ..mrml.results import FIXED_ROLE


class Sampler:
    """`onStep` gets the share that is done, and 1 when the map is there and its folds are stored with the result.

    Attributes:
        transformNode: what `start` was given.
        map: of its transform; None until all of it is sampled.
    """

    def __init__(self, onStep: Callable[[float], None]) -> None:
        self.map: DeformationMap | None = None
        self.transformNode: Any = None
        self._onStep = onStep
        self._scene: Any = None
        self._tag: int | None = None
        self._state: tuple[Any, Any] | None = None
        self._fixedNode: Any = None
        self._growing: DeformationMap | None = None
        self._steps: Iterator[float] | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._onTimeout)

    @property
    def running(self) -> bool:
        return self._steps is not None

    def start(self, transformNode: Any) -> None:
        """Sample in the background, unless this is done or under way. Raises `InputError` where it cannot be."""
        fixedNode = transformNode.GetNodeReference(FIXED_ROLE)
        if fixedNode is None:
            raise InputError(_("The fixed volume was deleted: the deformation cannot be shown."))
        if self._isCurrent(transformNode, fixedNode):
            return
        self.stop()
        self._growing = DeformationMap(transformNode, fixedNode)
        self.transformNode, self._fixedNode, self._state = transformNode, fixedNode, _state(transformNode)
        self._scene = slicer.mrmlScene
        self._tag = self._scene.AddObserver(self._scene.StartCloseEvent, lambda caller, event: self.stop())
        self._steps = self._growing.steps()
        self._timer.start()

    def finish(self, transformNode: Any) -> Generator[float, None, None]:
        """The same at once, by whoever takes the steps: yields how much is done."""
        self.start(transformNode)
        while self._steps is not None:
            yield self._step()

    def stop(self) -> None:
        """Forget the map and what is under way."""
        self._timer.stop()
        self._steps = self._growing = self.map = None
        self.transformNode = self._fixedNode = self._state = None
        if self._tag is not None:
            self._scene.RemoveObserver(self._tag)
            self._tag = None

    def _isCurrent(self, transformNode: Any, fixedNode: Any) -> bool:
        return (
            transformNode is self.transformNode
            and fixedNode is self._fixedNode
            and _state(transformNode) == self._state
        )

    def _onTimeout(self) -> None:
        if self._steps is not None:
            self._step()

    def _step(self) -> float:
        assert self._steps is not None
        assert self._growing is not None
        fraction = next(self._steps)
        if fraction >= 1:
            self._timer.stop()
            self._steps, self.map = None, self._growing
            recordFolds(self.transformNode, self.map.folds)
        self._onStep(fraction)
        return fraction


def _state(transformNode: Any) -> tuple[Any, Any]:
    """Another one when the node's transform is another one."""
    if transformNode.IsLinear():
        matrix = vtk.vtkMatrix4x4()
        transformNode.GetMatrixTransformFromParent(matrix)
        return None, slicer.util.arrayFromVTKMatrix(matrix).tobytes()
    transform = transformNode.GetTransformFromParent()
    return transform, 0 if transform is None else transform.GetMTime()
