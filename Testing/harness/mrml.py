"""A real MRML scene with application logic and module logics (slicer-core), as the application sets them up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import slicer
import vtk

_LOGICS = {  # module name -> class of its logic
    "Annotations": "vtkSlicerAnnotationModuleLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "Colors": "vtkSlicerColorLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Data": "vtkSlicerDataModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Reformat": "vtkSlicerReformatLogic",
    "SceneViews": "vtkSlicerSceneViewsModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Units": "vtkSlicerUnitsLogic",
    "ViewControllers": "vtkSlicerViewControllersLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Volumes": "vtkSlicerVolumesLogic",
}


@dataclass(frozen=True)
class Mrml:
    scene: Any
    application_logic: Any
    logics: dict[str, Any]
    """Module name -> logic."""

    def add_slice_views(self) -> None:
        """Red, green and yellow slice nodes, as after a layout was chosen. The scene starts without any view."""
        for name, orientation in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal")):
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self.application_logic)
            logic.SetMRMLScene(self.scene)
            logic.AddSliceNode(name).SetOrientation(orientation)
            self.application_logic.GetSliceLogics().AddItem(logic)

    @contextmanager
    def layout(self, size: tuple[int, int] = (160, 120)) -> Iterator[Any]:
        """A layout node whose views exist, as with a main window: slice nodes by Slicer's own layout logic, and for
        each a slice logic with a composite node, as the layout manager makes them. Gone afterwards.

        `size` is that of each view in pixels. Yields the layout node.
        """
        logic = slicer.vtkMRMLLayoutLogic()
        logics = self.application_logic.GetSliceLogics()

        def on_node(caller: Any, event: str, node: Any) -> None:
            if node.IsA("vtkMRMLSliceNode"):
                node.SetDimensions(*size, 1)
                view = slicer.vtkMRMLSliceLogic()
                view.SetMRMLApplicationLogic(self.application_logic)
                view.SetMRMLScene(self.scene)
                view.SetSliceNode(node)
                logics.AddItem(view)

        on_node.CallDataType = vtk.VTK_OBJECT  # type: ignore[attr-defined]
        tag = self.scene.AddObserver(self.scene.NodeAddedEvent, on_node)
        try:
            logic.SetMRMLApplicationLogic(self.application_logic)
            logic.SetMRMLScene(self.scene)
            logic.GetLayoutNode().SetViewArrangement(logic.GetLayoutNode().SlicerLayoutFourUpView)
            yield logic.GetLayoutNode()
        finally:
            self.scene.RemoveObserver(tag)
            logic.SetMRMLScene(None)
            for index in range(logics.GetNumberOfItems()):
                logics.GetItemAsObject(index).SetMRMLScene(None)
            logics.RemoveAllItems()
            for kind in (
                "vtkMRMLLayoutNode",
                "vtkMRMLSliceNode",
                "vtkMRMLSliceCompositeNode",
                "vtkMRMLViewNode",
            ):
                for node in slicer.util.getNodesByClass(kind, self.scene):
                    self.scene.RemoveNode(node)


def boot(cache_folder: str) -> Mrml:
    vtk.vtkObject.GlobalWarningDisplayOff()  # colour and terminology files are not part of slicer-core
    try:
        return _boot(cache_folder)
    finally:
        vtk.vtkObject.GlobalWarningDisplayOn()


def _boot(cache_folder: str) -> Mrml:
    scene = slicer.vtkMRMLScene()
    application_logic = slicer.vtkSlicerApplicationLogic()
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    application_logic.SetMRMLScene(scene)
    application_logic.GetColorLogic().SetMRMLScene(scene)
    application_logic.GetColorLogic().AddDefaultColorNodes()
    application_logic.SetSliceLogics(vtk.vtkCollection())
    application_logic.SetViewLogics(vtk.vtkCollection())
    for factory in (
        "vtkMRMLThreeDViewDisplayableManagerFactory",
        "vtkMRMLSliceViewDisplayableManagerFactory",
    ):
        getattr(slicer, factory).GetInstance().SetMRMLApplicationLogic(application_logic)
    logics = {}
    for name, class_name in _LOGICS.items():
        logic = getattr(slicer, class_name)()
        logic.SetMRMLApplicationLogic(application_logic)
        logic.SetMRMLScene(scene)
        application_logic.SetModuleLogic(name, logic)
        logics[name] = logic
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    _add_io_managers(scene, cache_folder)
    return Mrml(scene, application_logic, logics)


def _add_io_managers(scene: Any, cache_folder: str) -> None:
    """Without these the scene cannot read an .mrb file."""
    cache = slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(cache_folder)
    cache.SetMRMLScene(scene)
    scene.SetCacheManager(cache)
    data_io = slicer.vtkDataIOManager()
    data_io.SetCacheManager(cache)
    scene.SetDataIOManager(data_io)
