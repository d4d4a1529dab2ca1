"""The harness's views: made by Slicer's own layout logic, with what they show, and gone afterwards."""

import numpy as np
import slicer

XML = (
    '<layout type="horizontal"><item><view class="vtkMRMLSliceNode" singletontag="Extra">'
    '<property name="orientation" action="default">Coronal</property></view></item></layout>'
)


def names() -> list[str]:
    return sorted(node.GetLayoutName() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"))


def test_a_layout_has_views_that_show_volumes(slicer_app) -> None:
    logics = slicer.app.applicationLogic().GetSliceLogics()
    with slicer_app.mrml.layout((40, 30)) as layout:
        assert names() == ["Green", "Red", "Yellow"]
        assert logics.GetNumberOfItems() == 3
        layout.AddLayoutDescription(777, XML)
        layout.SetViewArrangement(777)
        assert names() == ["Extra", "Green", "Red", "Yellow"]
        logic = logics.GetItemAsObject(3)
        assert logic.GetSliceNode().GetOrientation() == "Coronal"
        volume = slicer.util.addVolumeFromArray(np.arange(27, dtype=np.int16).reshape(3, 3, 3))
        logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
        logic.FitSliceToBackground()
        logic.UpdateImageData()
        connection = logic.GetImageDataConnection()
        connection.GetProducer().Update()
        assert connection.GetProducer().GetOutput().GetDimensions()[:2] == (40, 30)
    assert names() == []
    assert logics.GetNumberOfItems() == 0
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode") is None
