"""Reverting a registration: the scene is exactly as before it."""

import difflib
import re

import numpy as np
import pytest
from harness.pytest_plugin import slicer_app  # noqa: F401
from result_case import Result, add_linear, add_volume, turn

import slicer  # isort: skip
from masr_registration.errors import InputError
from MASRRegistrationLib.mrml.applying import Application
from MASRRegistrationLib.mrml.changes import ChangeRecord, revert
from MASRRegistrationLib.mrml.inverse import createInverse


def state():
    """Everything that the scene would save, node by node, and the voxels and transforms, which it saves as files."""
    scene = slicer.mrmlScene
    scene.SetSaveToXMLString(1)
    scene.Commit()
    text = re.sub(r'(version|MRMLSceneVersion|LastLoaded)="[^"]*"', "", scene.GetSceneXMLString())
    scene.SetSaveToXMLString(0)
    contents = {}
    for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode"):
        contents[node.GetID()] = slicer.util.arrayFromVolume(node).tolist()
    points = np.random.default_rng(0).uniform(-40, 40, (20, 3)).tolist()
    for node in slicer.util.getNodesByClass("vtkMRMLTransformNode"):
        inverse = node.GetTransformFromParent()
        contents[node.GetID()] = [inverse.TransformPoint(point) for point in points]
    return sorted(text.splitlines()), contents


def same(now, before):
    assert [*difflib.unified_diff(before[0], now[0], "before", "now", lineterm="", n=0)] == []
    assert now[1] == before[1]


def apply(result, *nodes, harden=False):
    for node in nodes:
        list(Application(result.transformNode).steps(node, harden))


def upright(name):
    """A volume whose voxels come back from a file in the same order."""
    return slicer.util.addVolumeFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5), name=name)


def points_node(*points):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    slicer.util.updateMarkupsControlPointsFromArray(node, np.array(points, dtype=float))
    return node


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("parents", [True, False])
def test_the_scene_is_as_before_with_new_outputs(tmp_path, linear, parents):
    case = Result(tmp_path, linear, parents)
    free, other = points_node((1, 2, 3)), points_node((4, 5, 6))
    add_linear(turn(7, (1, 0, 0)), other, name="Elsewhere")
    before = state()
    result = case.deliver()
    createInverse(result.transformNode)
    apply(result, case.moving_node, free, other)
    apply(result, other, harden=True)
    assert case.moving_node.GetParentTransformNode() is result.transformNode
    assert state() != before
    assert revert(result.transformNode) == (None, None)
    same(state(), before)


def test_what_the_user_put_under_the_result_returns_too(tmp_path):
    case = Result(tmp_path)
    result = case.deliver()
    new = points_node((1, 2, 3))
    for node in (case.moving_node, new):
        node.SetAndObserveTransformNodeID(result.transformNode.GetID())
    revert(result.transformNode)
    assert case.moving_node.GetParentTransformNode().GetName() == "M"
    assert new.GetParentTransformNode() is None


def test_what_the_user_deleted_meanwhile_is_no_obstacle(tmp_path):
    case = Result(tmp_path)
    points = points_node((1, 2, 3))
    result = case.deliver()
    apply(result, points)
    for node in (createInverse(result.transformNode), result.volumeNode, points.GetParentTransformNode()):
        slicer.mrmlScene.RemoveNode(node)
    assert None not in ChangeRecord.of(result.transformNode).createdNodes()
    revert(result.transformNode)
    assert not slicer.mrmlScene.IsNodePresent(result.transformNode)
    assert points.GetParentTransformNode() is None


def test_what_the_user_moved_elsewhere_stays_there(tmp_path):
    case = Result(tmp_path)
    result = case.deliver()
    elsewhere = add_linear(turn(9, (0, 0, 1)), case.moving_node)
    revert(result.transformNode)
    assert case.moving_node.GetParentTransformNode() is elsewhere


def test_replaced_outputs_get_their_content_back(tmp_path):
    case = Result(tmp_path)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Mine")
    transform.SetMatrixTransformFromParent(slicer.util.vtkMatrixFromArray(turn(33, (1, 1, 0), (5, 6, 7))))
    transform.SetAttribute("Note", "by hand")
    volume = add_volume("Output", array=np.arange(60).reshape(3, 4, 5).astype(np.int16))
    add_linear(turn(90, (1, 0, 0)), transform, volume, name="P")
    under = points_node((1, 2, 3))
    under.SetAndObserveTransformNodeID(transform.GetID())
    before = state()
    result = case.deliver(transform, volume)
    assert result.transformNode is transform
    assert transform.GetParentTransformNode() is None
    assert revert(transform) == (transform, volume)
    same(state(), before)
    assert under.GetParentTransformNode() is transform


def test_one_registration_after_the_other(tmp_path):
    case = Result(tmp_path)
    empty = state()
    first = case.deliver()
    outputs = first.transformNode, first.volumeNode
    after_first = state()
    case.transform.SetParameters(case.transform.GetParameters())
    case.outcome.verdict["level"] = "plausible"
    second = case.deliver(*outputs)
    assert (second.transformNode, second.volumeNode) == outputs
    assert state() != after_first
    assert revert(outputs[0]) == outputs
    same(state(), after_first)
    revert(outputs[0])
    same(state(), empty)


def test_a_third_registration_gives_up_the_copies_of_the_second(tmp_path):
    case = Result(tmp_path)
    count = slicer.mrmlScene.GetNumberOfNodes
    first = case.deliver()
    outputs = first.transformNode, first.volumeNode
    case.deliver(*outputs)
    after_second = count()
    case.deliver(*outputs)
    assert count() == after_second
    revert(outputs[0])
    assert ChangeRecord.of(outputs[0]) is None
    with pytest.raises(InputError, match="Nothing is known"):
        revert(outputs[0])


def test_deleting_the_result_leaves_nothing_of_the_record_in_the_end(tmp_path):
    case = Result(tmp_path)
    first = case.deliver()
    second = case.deliver(first.transformNode, None)
    slicer.mrmlScene.RemoveNode(second.transformNode)
    case.deliver()
    records = [
        n for n in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode") if "changes" in n.GetName()
    ]
    copies = [n for n in slicer.util.getNodesByClass("vtkMRMLTransformNode") if "before" in n.GetName()]
    assert (len(records), len(copies)) == (1, 0)


@pytest.mark.parametrize("replaced", [True, False])
def test_revert_after_saving_and_reopening(tmp_path, replaced):
    case = Result(tmp_path)
    outputs = (None, None)
    if replaced:
        outputs = add_linear(turn(3, (0, 1, 0)), name="Mine"), upright("Output")
        case = Result(tmp_path, linear=True)
    voxels = None if not replaced else slicer.util.arrayFromVolume(outputs[1]).copy()
    result = case.deliver(*outputs)
    name = result.transformNode.GetName()
    apply(result, case.moving_node)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    moved = add_volume("In the way")  # so that identifiers change
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert slicer.mrmlScene.IsNodePresent(moved)
    moving = slicer.util.getFirstNodeByClassByName("vtkMRMLScalarVolumeNode", case.moving.name)
    transform = slicer.util.getNode(name)
    parents = {node.GetParentTransformNode() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")}
    assert transform in parents
    revert(transform)
    if replaced:
        assert slicer.util.getNode("Mine") is transform
        np.testing.assert_allclose(
            slicer.util.arrayFromTransformMatrix(transform), turn(3, (0, 1, 0)), atol=1e-6
        )
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(slicer.util.getNode("Output")), voxels)
    else:
        assert not slicer.mrmlScene.IsNodePresent(transform)
        assert moving.GetParentTransformNode().GetName() == "M"
        assert not [
            n for n in slicer.util.getNodesByClass("vtkMRMLVolumeNode") if "registered" in n.GetName()
        ]
    assert not [
        n for n in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode") if "changes" in n.GetName()
    ]


def test_points_that_were_moved_after_the_run_return_to_their_own_transform(tmp_path):
    result = Result(tmp_path).deliver()
    later = points_node((1, 2, 3))
    own = add_linear(turn(9, (0, 0, 1)), later, name="Own")
    freed = points_node((4, 5, 6))
    other = add_linear(turn(5, (1, 0, 0)), freed, name="Other")
    apply(result, later, freed)
    freed.SetAndObserveTransformNodeID(None)
    apply(result, freed)
    revert(result.transformNode)
    assert later.GetParentTransformNode() is own
    assert freed.GetParentTransformNode() is None
    assert slicer.mrmlScene.IsNodePresent(other)
