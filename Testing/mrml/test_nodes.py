"""Volume nodes to files and results to nodes, on real MRML."""

import json
import time

import numpy as np
import pytest
import SimpleITK as sitk
from harness.pytest_plugin import slicer_app  # noqa: F401
from result_case import FLIP, SIZE, Result, add_linear, add_volume, turn, voxel_centres, world

import slicer  # isort: skip
import vtk  # isort: skip
from masr_registration.errors import InputError, MasrError
from masr_registration.worker.client import Outcome
from MASRRegistrationLib.mrml.inputs import InputVolume, checkRequest
from MASRRegistrationLib.mrml.results import deliver, storedResult
from MASRRegistrationLib.mrml.setup import RegistrationSetup

IJK = np.array([(0, 0, 0), (27, 23, 19), (3, 20, 7), (14, 11, 9)])


# Nodes to files


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_a_volume_is_written_as_it_lies_in_the_world(tmp_path, dtype):
    array = (np.arange(np.prod(SIZE)) % 100).reshape(SIZE).astype(dtype)
    node = add_volume(array=array)
    outer = add_linear(turn(50, (0, 1, 1), (5, -70, 3)))
    inner = add_linear(turn(-33, (1, 0, 0)) @ np.diag([2.0, 2.0, 2.0, 1.0]), node)
    inner.SetAndObserveTransformNodeID(outer.GetID())
    InputVolume.of(node).write(tmp_path / "image.nrrd")
    image = sitk.ReadImage(tmp_path / "image.nrrd")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)
    assert sitk.GetArrayFromImage(image).dtype == dtype
    lps = [image.TransformContinuousIndexToPhysicalPoint(index) for index in IJK.astype(float).tolist()]
    np.testing.assert_allclose(lps * FLIP, world(node, voxel_centres(node, IJK)), atol=1e-9)
    assert b"encoding: raw" in (tmp_path / "image.nrrd").read_bytes()[:600]


def test_volumes_that_cannot_be_used_are_refused_with_a_sentence():
    deformed, sheared, flat = add_volume("deformed"), add_volume("sheared"), add_volume("flat")
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
    add_linear(np.eye(4), deformed).SetAndObserveTransformNodeID(warp.GetID())
    shear = np.eye(4)
    shear[0, 1] = 0.2
    add_linear(shear, sheared)
    add_linear(np.diag([1.0, 1.0, 0.0, 1.0]), flat)
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    colour = slicer.util.addVolumeFromArray(
        np.zeros((*SIZE, 3), np.uint8), name="colour", nodeClassName="vtkMRMLVectorVolumeNode"
    )
    for node, words in (
        (deformed, "deforms it"),
        (sheared, "right angles"),
        (flat, "flattens it"),
        (empty, "holds no image"),
        (colour, "several values"),
    ):
        with pytest.raises(InputError, match=f'"{node.GetName()}".*{words}'):
            InputVolume.of(node)
        with pytest.raises(InputError, match=words):
            checkRequest(add_volume(), node)


def test_nodes_of_another_kind_are_refused_with_a_sentence():
    """The console can give anything; a long run must not end with a node that cannot hold its result."""
    fixed, moving, transform = add_volume("fixed"), add_volume("moving"), add_linear(np.eye(4))
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    for nodes, words in (
        (("fixed", moving), "scalar volume nodes"),
        ((fixed, transform), "scalar volume nodes"),
        ((fixed, moving, labels), "output transform"),
        ((fixed, moving, None, labels), "no label map"),
        ((fixed, moving, None, transform), "output volume"),
    ):
        with pytest.raises(InputError, match=words):
            checkRequest(*nodes)
    checkRequest(fixed, moving, transform, add_volume("output"))


def test_outputs_that_would_hit_an_input_are_refused():
    fixed, moving = add_volume("fixed"), add_volume("moving")
    inner, outer = add_linear(np.eye(4), moving), add_linear(np.eye(4))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    checkRequest(fixed, moving)
    with pytest.raises(InputError, match="overwrite"):
        checkRequest(fixed, moving, None, fixed)
    with pytest.raises(InputError, match='"moving" is under the output transform'):
        checkRequest(fixed, moving, outer)


# Results to nodes


@pytest.mark.parametrize("linear", [True, False])
def test_the_moving_volume_matches_under_the_result(tmp_path, linear):
    case = Result(tmp_path, linear)
    points, targets = case.points()
    to_local = np.linalg.inv(case.moving.parentToWorld)
    local = (np.column_stack([targets, np.ones(len(targets))]) @ to_local.T)[:, :3]
    np.testing.assert_allclose(world(case.moving_node, local), targets, atol=1e-9)
    result = case.deliver()
    assert case.moving_node.GetParentTransformNode().GetName() == "M"
    assert result.transformNode.GetClassName() == f"vtkMRML{'LinearTransform' if linear else 'Transform'}Node"
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    slicer.util.updateMarkupsControlPointsFromArray(markups, local)
    for node in (case.moving_node, markups):
        node.SetAndObserveTransformNodeID(result.transformNode.GetID())
    np.testing.assert_allclose(world(case.moving_node, local), points, atol=0.05)
    np.testing.assert_allclose(
        slicer.util.arrayFromMarkupsControlPoints(markups, world=True), points, atol=0.05
    )


def as_model(points):
    """A model node whose vertices are `points` (N, 3) RAS."""
    vertices = vtk.vtkPoints()
    for point in points.tolist():
        vertices.InsertNextPoint(point)
    data = vtk.vtkPolyData()
    data.SetPoints(vertices)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Surface")
    node.SetAndObservePolyData(data)
    return node


@pytest.mark.parametrize("linear", [True, False])
def test_a_model_moves_with_the_result_and_can_be_hardened(tmp_path, linear):
    case = Result(tmp_path, linear)
    points, targets = case.points()
    local = (np.column_stack([targets, np.ones(len(targets))]) @ np.linalg.inv(case.moving.parentToWorld).T)[
        :, :3
    ]
    result = case.deliver()
    model = as_model(local)
    model.SetAndObserveTransformNodeID(result.transformNode.GetID())
    assert slicer.vtkSlicerTransformLogic.hardenTransform(model)
    assert model.GetParentTransformNode() is None
    hardened = slicer.util.arrayFromModelPoints(model)
    np.testing.assert_allclose(hardened, points, atol=0.05)


@pytest.mark.parametrize("linear", [True, False])
def test_a_segmentation_moves_with_the_result_and_can_be_hardened(tmp_path, linear):
    """A box drawn on the moving volume; its centroid goes where the transform takes it."""
    case = Result(tmp_path, linear)
    result = case.deliver()
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    array = np.zeros(SIZE, np.uint8)
    array[8:12, 9:14, 11:17] = 1
    slicer.util.updateVolumeFromArray(labels, array)
    matrix = vtk.vtkMatrix4x4()
    case.moving_node.GetIJKToRASMatrix(matrix)
    labels.SetIJKToRASMatrix(matrix)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    assert slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
    corners = np.array(np.meshgrid((11, 16), (9, 13), (8, 11))).reshape(3, -1).T
    general = result.transformNode.GetTransformToParent()
    expected = [general.TransformPoint(p) for p in voxel_centres(case.moving_node, corners).tolist()]
    node.SetAndObserveTransformNodeID(result.transformNode.GetID())
    assert slicer.vtkSlicerTransformLogic.hardenTransform(node)
    assert node.GetParentTransformNode() is None
    image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    to_world = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(to_world)
    extent = image.GetExtent()
    from vtk.util.numpy_support import vtk_to_numpy

    shape = extent[5] - extent[4] + 1, extent[3] - extent[2] + 1, extent[1] - extent[0] + 1
    voxels = np.argwhere(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape) > 0)
    index = voxels[:, ::-1] + np.array([extent[0], extent[2], extent[4]])
    placed = index @ slicer.util.arrayFromVTKMatrix(to_world)[:3, :3].T
    placed = placed + slicer.util.arrayFromVTKMatrix(to_world)[:3, 3]
    assert len(voxels) > 50
    np.testing.assert_allclose(placed.mean(axis=0), np.mean(expected, axis=0), atol=0.5)


@pytest.mark.parametrize("linear", [True, False])
def test_slicer_resamples_the_same_volume(tmp_path, linear):
    """Moving intensities, taken by Slicer's transform through the parents, equal the exported warped volume."""
    case = Result(tmp_path, linear)
    result = case.deliver()
    warped = slicer.util.arrayFromVolume(result.volumeNode)
    np.testing.assert_array_equal(warped, sitk.GetArrayFromImage(case.warped))
    assert result.volumeNode.GetParentTransformNode() is None
    np.testing.assert_allclose(
        voxel_centres(result.volumeNode, IJK),
        world(case.fixed_node, voxel_centres(case.fixed_node, IJK)),
        atol=1e-9,
    )
    moving = case.moving_node
    ras_to_ijk = vtk.vtkMatrix4x4()
    moving.GetRASToIJKMatrix(ras_to_ijk)
    reslice = vtk.vtkImageReslice()
    through = vtk.vtkGeneralTransform()
    through.Concatenate(ras_to_ijk)
    through.Concatenate(result.transformNode.GetTransformFromParent())
    through.Concatenate(slicer.util.vtkMatrixFromArray(case.fixed.ijkToWorld))
    cast = vtk.vtkImageCast()
    cast.SetOutputScalarTypeToFloat()
    cast.SetInputData(moving.GetImageData())
    reslice.SetInputConnection(cast.GetOutputPort())
    reslice.SetResliceTransform(through)
    reslice.SetInterpolationModeToLinear()
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(0, SIZE[2] - 1, 0, SIZE[1] - 1, 0, SIZE[0] - 1)
    reslice.Update()
    from vtk.util.numpy_support import vtk_to_numpy

    sliced = vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(SIZE)
    inside = (warped != 0) & (sliced != 0)
    assert inside.mean() > 0.3
    assert np.percentile(np.abs(sliced - warped)[inside], 99) < 1.0


@pytest.mark.parametrize("linear", [True, False])
def test_results_survive_files_and_scenes(tmp_path, linear):
    case = Result(tmp_path, linear)
    result = case.deliver()
    points, _targets = case.points()

    def moved(node):
        return np.array([node.GetTransformFromParent().TransformPoint(p) for p in points.tolist()])

    before, text = moved(result.transformNode), result.transformNode.GetAttribute("MASR.Result")
    slicer.util.saveNode(result.transformNode, str(tmp_path / "saved.h5"))
    np.testing.assert_allclose(
        moved(slicer.util.loadTransform(str(tmp_path / "saved.h5"))), before, atol=1e-4
    )
    name = result.transformNode.GetName()
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    node = slicer.util.getNode(name)
    np.testing.assert_allclose(moved(node), before, atol=1e-4)
    assert node.GetAttribute("MASR.Result") == text
    assert node.GetNodeReference("spatialRegistrationMoving").GetName() == "T2"
    assert node.GetNodeReference("spatialRegistrationFixed").GetName() == "T1"


def test_the_node_says_where_it_comes_from_without_paths(tmp_path):
    case = Result(tmp_path)
    result = case.deliver()
    content = json.loads(result.transformNode.GetAttribute("MASR.Result"))
    assert content["verdict"] == case.outcome.verdict
    assert content["warnings"] == case.outcome.warnings
    assert content["provenance"] == {"fixed": {"name": "fixed.nrrd"}}
    assert result.transformNode.GetAttribute("MASR.Verdict") == "doubtful"
    assert str(tmp_path) not in result.transformNode.GetAttribute("MASR.Result")


def test_given_outputs_are_filled(tmp_path):
    case = Result(tmp_path)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Mine")
    volume = add_volume("Output")
    add_linear(turn(90, (1, 0, 0)), transform, volume)
    result = case.deliver(transform, volume)
    assert (result.transformNode, result.volumeNode) == (transform, volume)
    assert result.warnings == case.outcome.warnings
    assert transform.GetParentTransformNode() is volume.GetParentTransformNode() is None


def test_unsuitable_and_deleted_outputs_are_replaced(tmp_path):
    case = Result(tmp_path)
    linear, volume = add_linear(turn(30, (1, 0, 0)), name="Mine"), add_volume("Output")
    before = slicer.util.arrayFromTransformMatrix(linear)
    slicer.mrmlScene.RemoveNode(volume)
    result = case.deliver(linear, volume)
    assert result.transformNode is not linear
    np.testing.assert_array_equal(slicer.util.arrayFromTransformMatrix(linear), before)
    assert '"Mine" cannot hold this kind of transform; the result is in "T2 to T1".' in result.warnings
    assert result.volumeNode is not volume
    assert slicer.mrmlScene.IsNodePresent(result.volumeNode)


def test_names_are_not_used_twice(tmp_path):
    case = Result(tmp_path)
    first, second = case.deliver(), case.deliver()
    assert first.transformNode is not second.transformNode
    assert first.transformNode.GetName() != second.transformNode.GetName()


def change_voxels(case):
    slicer.util.arrayFromVolume(case.fixed_node)[0] = 0
    slicer.util.arrayFromVolumeModified(case.fixed_node)


def move_fixed(case):
    slicer.util.updateTransformMatrixFromArray(case.fixed_node.GetParentTransformNode(), turn(1, (1, 0, 0)))


def regrid_moving(case):
    case.moving_node.SetSpacing(1.0, 1.0, 1.0)


def delete_moving(case):
    slicer.mrmlScene.RemoveNode(case.moving_node)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_voxels, '"T1" was changed'),
        (move_fixed, '"T1" was changed'),
        (regrid_moving, '"T2" was changed'),
        (delete_moving, '"T2" was deleted'),
    ],
)
def test_changes_during_the_run_are_said(tmp_path, change, sentence):
    case = Result(tmp_path)
    change(case)
    result = case.deliver()
    assert [w for w in result.warnings if sentence in w], result.warnings
    assert len(result.warnings) == 2
    stored = storedResult(result.transformNode)["verdict"]
    assert stored == result.verdict
    assert result.verdict["level"] == "doubtful"
    assert sentence in result.verdict["reasons"][0]
    assert result.transformNode.GetAttribute("MASR.Verdict") == "doubtful"


def test_a_deleted_input_is_not_referenced_even_when_its_id_is_used_again(tmp_path):
    case = Result(tmp_path)
    node_id = case.moving_node.GetID()
    delete_moving(case)
    other = add_volume("Other")
    slicer.mrmlScene.RemoveNode(other)
    other.SetScene(None)
    assert case.deliver().transformNode.GetNodeReferenceID("spatialRegistrationMoving") is None
    assert node_id


def test_the_moving_volume_may_be_put_elsewhere_during_the_run(tmp_path):
    case = Result(tmp_path)
    case.moving_node.SetAndObserveTransformNodeID(None)
    assert case.deliver().warnings == case.outcome.warnings


@pytest.mark.parametrize("name", ["transform", "warped"])
def test_a_damaged_file_leaves_the_scene_alone(tmp_path, name):
    case = Result(tmp_path)
    case.outcome.files[name].write_bytes(b"damaged")
    before = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(MasrError, match="could not be read"):
        case.deliver()
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_hand_over_at_full_size(tmp_path):
    """192 x 160 x 192: prints how long the hand-over takes (the aim is under a second each way)."""
    array = np.random.default_rng(0).integers(0, 900, (192, 160, 192)).astype(np.int16)
    node = add_volume(array=array)
    start = time.perf_counter()
    volume = InputVolume.of(node)
    volume.write(tmp_path / "fixed.nrrd")
    out = time.perf_counter() - start
    sitk.WriteImage(sitk.ReadImage(tmp_path / "fixed.nrrd"), tmp_path / "warped.nii.gz")
    fields = []
    for _ in range(4):
        field = sitk.GetImageFromArray(np.zeros((60, 50, 60, 3)), isVector=True)
        field.SetSpacing((4.0, 4.0, 4.0))
        fields.append(sitk.DisplacementFieldTransform(field))
    sitk.WriteTransform(
        sitk.CompositeTransform([sitk.AffineTransform(3), *fields]), tmp_path / "transform.h5"
    )
    files = {name.partition(".")[0]: tmp_path / name for name in ("transform.h5", "warped.nii.gz")}
    outcome = Outcome(files, {}, [], {"level": "plausible", "reasons": []}, {}, {})
    start = time.perf_counter()
    result = deliver(outcome, volume, volume, RegistrationSetup(node, node))
    print(f"hand-over: out {out:.3f} s, in {time.perf_counter() - start:.3f} s")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(result.volumeNode), array)
