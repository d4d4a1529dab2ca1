"""Stand-ins offer nothing that the real widgets lack, and behave like them where a module can tell."""

import re

import ctk
import pytest
import qt
import slicer
from harness import api, widgets
from PySide6 import QtCore

UNRECORDED = {"qSlicerScriptedLoadableModule", "qSlicerScriptedLoadableModuleWidget"}


def own_names(cls: type) -> set[str]:
    """Public names written in the harness for this class and its bases."""
    classes = [base for base in cls.__mro__ if base.__module__.startswith("harness")]
    return {name for base in classes for name in vars(base)} - {"is_cpp_stand_in", "staticMetaObject"}


@pytest.mark.parametrize("name", sorted(widgets.STAND_INS.keys() - UNRECORDED))
def test_stand_in_offers_only_what_the_real_widget_has(name):
    cls = widgets.STAND_INS[name]
    module = ctk if name.startswith("ctk") else slicer
    assert getattr(module, name) is cls
    assert name in api.data()["ctk" if name.startswith("ctk") else "slicer"]
    public = {attribute for attribute in own_names(cls) if not attribute.startswith("_")}
    assert public <= api.members(name)
    for attribute in public:
        declared = next(vars(base)[attribute] for base in cls.__mro__ if attribute in vars(base))
        if isinstance(declared, QtCore.Property):
            assert attribute in api.properties(name)
    meta = cls().metaObject()
    for index in range(meta.propertyCount()):
        declared = meta.property(index)
        if declared.name() in own_names(cls) and declared.name() != "filters":  # flags are whole numbers here
            assert declared.typeName() == api.properties(name)[declared.name()]
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == QtCore.QMetaMethod.Signal:
            pattern = re.escape(method.methodSignature().data().decode()).replace("PyObject", r"vtk\w+\*")
            signals = api.signatures(name, "signals") | {"destroyed(QObject*)"}
            assert any(re.fullmatch(pattern, signal) for signal in signals), pattern


def test_application_offers_only_what_the_real_one_has(slicer_app):
    assert {name for name in own_names(type(slicer.app)) if not name.startswith("_")} <= api.members(
        "qSlicerApplication"
    )


def test_members_that_only_the_binding_has_are_hidden():
    selector = slicer.qMRMLNodeComboBox()
    with pytest.raises(AttributeError):
        selector.setNoneEnabled(True)  # a plain C++ setter, which PythonQt does not see
    selector.noneEnabled = True
    assert selector.noneEnabled
    assert not hasattr(qt, "QAbstractNativeEventFilter")
    assert not hasattr(ctk, "ctkNodeComboBox")


@pytest.fixture
def selector():
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.noneEnabled = True
    selector.setMRMLScene(slicer.mrmlScene)
    return selector


def add(name, class_name="vtkMRMLScalarVolumeNode"):
    return slicer.mrmlScene.AddNewNodeByClass(class_name, name)


def test_node_selector(selector):
    seen = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    selector.connect("currentNodeChanged(bool)", seen.append)
    first, second, labels = add("a"), add("b"), add("c", "vtkMRMLLabelMapVolumeNode")
    add("m", "vtkMRMLModelNode")
    assert (selector.nodeCount(), selector.currentNode(), seen) == (3, None, [])
    selector.setCurrentNode(second)
    assert (selector.currentNodeID, seen) == (second.GetID(), [second, True])
    selector.showChildNodeTypes = False
    assert [selector.nodeFromIndex(index) for index in range(selector.nodeCount())] == [first, second]
    selector.setCurrentNode(labels)
    assert selector.currentNode() is None
    selector.addAttribute("vtkMRMLScalarVolumeNode", "role", "fixed")
    first.SetAttribute("role", "fixed")
    assert selector.nodeCount() == 1


def test_removing_the_selected_node_selects_another(selector):
    first, second, third = add("a"), add("b"), add("c")
    selector.setCurrentNode(second)
    slicer.mrmlScene.RemoveNode(second)
    assert selector.currentNode() is third
    slicer.mrmlScene.RemoveNode(third)
    assert selector.currentNode() is first
    slicer.mrmlScene.RemoveNode(first)
    assert selector.currentNode() is None


def test_closing_and_importing_a_scene_empty_the_selection(selector, tmp_path):
    seen = []
    first = add("a")
    add("b")
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    assert slicer.mrmlScene.Commit()
    selector.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    selector.setCurrentNode(first)
    assert slicer.mrmlScene.Import()
    assert (selector.nodeCount(), seen) == (4, [first, None])
    selector.setCurrentNode(first)
    slicer.mrmlScene.Clear(False)
    assert (selector.nodeCount(), seen) == (0, [first, None, first, None])


def test_node_selector_without_scene_remembers_the_wish(selector):
    node = add("a")
    late = slicer.qMRMLNodeComboBox()
    late.nodeTypes = ["vtkMRMLVolumeNode"]
    late.setCurrentNode(node)
    assert (late.enabled, late.currentNode()) == (False, None)
    late.setMRMLScene(slicer.mrmlScene)
    assert (late.enabled, late.currentNode()) == (True, node)


def test_node_selector_adds_nodes(selector):
    selector.baseName = "Warped"
    added = selector.addNode()
    assert (added.GetName(), selector.currentNode()) == ("Warped", added)
    selector.removeCurrentNode()
    assert selector.nodeCount() == 0


def test_deleted_selector_leaves_the_scene_alone(selector, slicer_app):
    selector.delete()
    add("a")
    with pytest.raises(ValueError, match="destroyed"):
        _ = selector.whatever


def test_collapsible_button():
    button, seen = ctk.ctkCollapsibleButton(), []
    button.connect("contentsCollapsed(bool)", seen.append)
    button.collapsed = True
    assert (button.checked, button.collapsed, seen) == (False, True, [True])


def test_slider_clips_and_tells():
    slider, seen = ctk.ctkSliderWidget(), []
    slider.connect("valueChanged(double)", seen.append)
    slider.maximum = 5
    slider.value = "4"
    slider.value = 9
    slider.maximum = 3
    assert (slider.value, seen) == (3.0, [4.0, 5.0, 3.0])


def test_slice_views_on_demand(slicer_app):
    volume = add("a")
    slicer.util.setSliceViewerLayers(background=volume)  # no view: nothing happens
    slicer_app.mrml.add_slice_views()
    slicer.util.setSliceViewerLayers(background=volume)
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert {node.GetBackgroundVolumeID() for node in composites} == {volume.GetID()}
